package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/urfave/cli/v2"
)

// mountingOf settles a command line; args follow "chromogenic mount".
func mountingOf(t *testing.T, args ...string) (*mounting, error) {
	t.Helper()
	var m *mounting
	app := newApp()
	i := slices.IndexFunc(app.Commands, func(c *cli.Command) bool { return c.Name == "mount" })
	app.Commands[i].Action = func(c *cli.Context) (err error) {
		m, err = newMounting(c)
		return err
	}
	err := app.Run(reorder(app, append([]string{"chromogenic", "mount"}, args...)))
	return m, err
}

// Each option is a key, a variable, a flag and a word of -o, and the later wins.
func TestMountOptionNames(t *testing.T) {
	dir := t.TempDir()
	values := map[string][4]string{ // in the order of precedence
		"read-only":     {"true", "false", "true", "false"},
		"allow-other":   {"true", "false", "true", "false"},
		"allow-delete":  {"false", "true", "false", "true"},
		"allow-replace": {"true", "false", "true", "false"},
		"allow-meta":    {"true", "false", "true", "false"},
		"debug":         {"false", "true", "false", "true"},
		"formats":       {"[ova]", "raw,ova", "vmdk", "qcow2:json"},
		"uid":           {"11", "12", "13", "14"},
		"gid":           {"21", "22", "23", "24"},
		"state-dir":     {dir + "/1", dir + "/2", dir + "/3", dir + "/4"},
		"spool-limit":   {"1M", "2M", "3M", "4M"},
		"cache-size":    {"5M", "6M", "7M", "8M"},
		"log-file":      {dir + "/log1", dir + "/log2", dir + "/log3", dir + "/log4"},
	}
	for i, o := range new(config).options() {
		val, ok := values[o.name]
		if !ok {
			t.Errorf("option %s: no values to test it with", o.name)
			continue
		}
		t.Run(o.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config.yaml")
			text := o.key() + ": " + val[0] + "\nproviders: {a: {type: local, images: /srv}}\n"
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			args := []string{"/mnt", "--config", file}
			for step, val := range val {
				want := &config{}
				switch step {
				case 0:
					val = strings.Trim(val, "[]")
				case 1:
					t.Setenv("CHROMOGENIC_"+strings.ToUpper(o.key()), val)
				case 2:
					args = append(args, "--"+o.name+"="+val)
				case 3:
					args = append(args, "-o", "nodev,"+o.key()+"="+val)
				}
				if err := want.options()[i].set(val); err != nil {
					t.Fatal(err)
				}
				m, err := mountingOf(t, args...)
				if err != nil {
					t.Fatalf("step %d: %v", step, err)
				}
				got := m.config.options()[i].value
				if diff := cmp.Diff(want.options()[i].value, got); diff != "" {
					t.Errorf("step %d (-want +got):\n%s", step, diff)
				}
			}
		})
	}
}

func TestApply(t *testing.T) {
	for _, c := range []struct {
		words string
		want  config
		rest  []string
	}{
		{words: "", want: config{}},
		{words: "defaults,rw,_netdev,nofail,auto,noauto,user,users,user=op,dev,suid,exec,relatime,lazytime"},
		{words: "x-systemd.automount,x-systemd.requires=/srv,x-gvfs-show,X-mount.mkdir,comment=mine,fsname=a,subtype=b,source=c"},
		{words: "ro,allow_other", want: config{ReadOnly: true, AllowOther: true}},
		{words: "read_only=false,allow_delete=true,debug", want: config{AllowDelete: true, Debug: true}},
		{words: "ro,rw", want: config{ReadOnly: true}}, // mount(8) puts rw before what the user says
		{words: "formats=raw:ova,state_dir=/s,log_file=/l", want: config{Formats: []string{"raw", "ova"}, StateDir: "/s", LogFile: "/l"}},
		{words: "uid=1000,gid=100,spool_limit=1G", want: config{UID: 1000, GID: 100, SpoolLimit: 1 << 30}},
		{words: "config=/etc/x.yaml", want: config{}},
		{words: "default_permissions,max_read=65536,nonsense=1,umask=022", rest: []string{"default_permissions", "max_read=65536", "nonsense=1", "umask=022"}},
	} {
		var got config
		rest, err := got.apply(strings.Split(c.words, ","))
		if err != nil {
			t.Errorf("%q: %v", c.words, err)
			continue
		}
		if diff := cmp.Diff(c.want, got, cmpopts.IgnoreUnexported(config{})) + cmp.Diff(c.rest, rest); diff != "" {
			t.Errorf("%q (-want +got):\n%s", c.words, diff)
		}
	}
}

// A word of ours with a value that makes no sense is named.
func TestApplyRefused(t *testing.T) {
	for _, word := range []string{"ro=maybe", "formats", "formats=floppy", "formats=raw:raw", "state_dir", "state_dir=", "spool_limit=much", "uid=me", "gid=-1", "uid=4294967296"} {
		_, err := new(config).apply([]string{"rw", word})
		if err == nil || !strings.Contains(err.Error(), `"`+word+`"`) {
			t.Errorf("%s: %v", word, err)
		}
	}
}

// What may stand where fstab(5) has a device.
func TestMountSource(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("HOME", "")
	t.Setenv("XDG_CONFIG_HOME", "")
	t.Setenv("CHROMOGENIC_CONFIG", "")
	file := filepath.Join(dir, "config.yaml")
	other := filepath.Join(dir, "other")
	for _, path := range []string{file, other} {
		if err := os.WriteFile(path, []byte("mountpoint: /unused\nproviders: {a: {type: local, images: /srv}}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile("disk.img", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args, path string // path of the configuration; - is that of a folder
		refused    string
	}{
		{args: dir + " /mnt", path: "-"},
		{args: file + " /mnt", path: file},
		{args: other + " /mnt", path: other},
		{args: "none /mnt -o config=" + file, path: file},
		{args: "chromogenic /mnt --config " + file, path: file},
		{args: "config /mnt -o ro,config=" + other, path: other},
		{args: "/mnt -o config=" + other, path: other},
		{args: dir + " /mnt -o config=" + file, refused: "exclude each other"},
		{args: "disk.img /mnt", refused: "not a folder"},
		{args: "nothing /mnt", refused: "nothing"},
	} {
		m, err := mountingOf(t, strings.Fields(c.args)...)
		switch {
		case c.refused != "":
			if err == nil || !strings.Contains(err.Error(), c.refused) {
				t.Errorf("mount %s: %v, want %q", c.args, err, c.refused)
			}
		case err != nil:
			t.Errorf("mount %s: %v", c.args, err)
		case m.Path != strings.TrimPrefix(c.path, "-") || m.mountpoint != "/mnt":
			t.Errorf("mount %s: configuration %q at %q", c.args, m.Path, m.mountpoint)
		}
	}
}
