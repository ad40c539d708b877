package main

import (
	"os"
	"path/filepath"
	"testing"
)

// The checks of what a test cannot have otherwise: another kernel, another
// /etc/fuse.conf.
func TestDoctorSystem(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "fuse.conf")
	if err := os.WriteFile(conf, []byte("# allow_other for users\n#user_allow_other\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	allowed := filepath.Join(t.TempDir(), "fuse.conf")
	if err := os.WriteFile(allowed, []byte("mount_max = 1000\nuser_allow_other\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		got  finding
		want string
	}{
		{gradeKernel("6.18.44-generic"), gradeOK},
		{gradeKernel("6.6.0"), gradeOK},
		{gradeKernel("6.5.13-1-amd64"), gradeWarn},
		{gradeKernel("5.10"), gradeWarn},
		{gradeKernel("4.19.0"), gradeWarn},
		{gradeKernel("unknown"), gradeWarn},
		{checkFUSE(filepath.Join(t.TempDir(), "fuse")), gradeFail},
		{checkFUSE("/dev/null"), gradeOK},
		{checkAllowOther(conf, false), gradeOK},
		{checkAllowOther(conf, true), gradeFail},
		{checkAllowOther(allowed, true), gradeOK},
		{checkAllowOther(conf+".nothing", true), gradeFail},
		{checkSpool(t.TempDir(), 1<<62), gradeWarn},
	} {
		if c.got.Grade != c.want {
			t.Errorf("%+v: want %s", c.got, c.want)
		}
	}
}
