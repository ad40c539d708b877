package fs

import (
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
	for file, want := range map[string]string{
		".web.raw.a1B2c3": "web raw", ".web.raw": "web raw", "web.qcow2": "web qcow2", ".web.img.XyZ123": "web raw",
		".a.b.c.raw.QwErTy": "a.b.c raw", ".web": "", ".": "", "..raw": "", ".raw.abcdef": "", ".web.txt.abcdef": "",
	} {
		stem, f, ok := meant(file)
		if got := strings.TrimSpace(stem + " " + f.Name); ok != (want != "") || ok && got != want {
			t.Errorf("%s: %q %v, want %q", file, got, ok, want)
		}
	}
}
