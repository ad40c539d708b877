package fs

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

// TestFirstDifference: over an image of another disk the first write that differs
// fails, for a file that is open for writing alone.
func TestFirstDifference(t *testing.T) {
	m, disk := withWeb(t)
	web := m.path("b/images/web.raw")
	run(t, 0, "cp", m.path("a/images/web.raw"), web)
	other := pattern(99, len(disk))
	for name, c := range map[string]struct {
		flags int
		first []byte
		write error
	}{
		"write only":      {os.O_WRONLY | os.O_TRUNC, other[:8192], syscall.EEXIST},
		"not truncated":   {os.O_WRONLY, other[:8192], syscall.EEXIST},
		"read and write":  {os.O_RDWR | os.O_TRUNC, other[:8192], nil},
		"block of zeros":  {os.O_WRONLY, make([]byte, 8192), nil},
		"zeros and bytes": {os.O_WRONLY, append(make([]byte, 4096), 1), syscall.EEXIST},
		"only a part":     {os.O_WRONLY | os.O_TRUNC, disk[:8192], nil},
	} {
		f, err := os.OpenFile(web, c.flags, 0)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err = f.Write(c.first); c.write == nil && err != nil {
			t.Errorf("%s: %v", name, err)
		} else if c.write != nil {
			wantErrno(t, name, err, syscall.EEXIST)
			if got := errorAt(t, web); !strings.Contains(got, "differs from the image of that name at offset") || !strings.Contains(got, "hint: ") {
				t.Errorf("%s: reason %q", name, got)
			}
		}
		wantErrno(t, name+", close", f.Close(), syscall.EEXIST)
	}
	m.wantImage(t, "web", disk)
}

func TestMeant(t *testing.T) {
	for key, want := range map[string]string{
		".web.raw.a1B2c3": "web 0 raw", ".web.raw": "web 0 raw", ".~tmp~/web.qcow2": "web 0 qcow2", ".web.img.XyZ123": "web 0 raw",
		".a.b.c.raw.QwErTy": "a.b.c 0 raw", ".web": "", ".": "", "..raw": "", ".raw.abcdef": "", ".web.txt.abcdef": "",
		"web.disks/.1-vdb.raw.a1B2c3": "web 1 raw", "web.disks/.~tmp~/2-vdc.qcow2": "web 2 qcow2",
		"web.disks/.0.raw": "web 0 raw", "web.disks/.web.raw.a1B2c3": "", ".~tmp~/1-vdb.raw": "1-vdb 0 raw",
	} {
		got := ""
		if to := meant(key); to != nil {
			got = fmt.Sprint(to.name, " ", to.disk, " ", to.format.Name)
		}
		if got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
}
