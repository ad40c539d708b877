package cleaner

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestBeneath opens the same by one call and by one for each name.
func TestBeneath(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"etc/ssh", "home"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"link": "etc", "home/out": "/etc", "home/up": "../..", "etc/ssh/self": "self"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/ssh/key"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	top, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	g := &Guest{top: top}
	for _, tt := range []struct {
		path  string
		flags int
		want  error
	}{
		{"/", unix.O_DIRECTORY, nil},
		{"/etc/ssh", unix.O_DIRECTORY, nil},
		{"/etc/ssh/key", 0, nil},
		{"/etc/ssh/key", unix.O_DIRECTORY, unix.ENOTDIR},
		{"/etc/ssh/key/x", 0, unix.ENOTDIR},
		{"/etc/none", 0, unix.ENOENT},
		{"/none/key", 0, unix.ENOENT},
		{"/link", 0, unix.ELOOP},
		{"/link/ssh/key", 0, errLink},
		{"/home/out/passwd", 0, errLink},
		{"/home/up/etc", 0, errLink},
		{"/etc/ssh/self", 0, unix.ELOOP},
		{"/" + strings.Repeat("x", 256), 0, unix.ENAMETOOLONG},
	} {
		for way, open := range map[string]func() (int, error){
			"at once": func() (int, error) { return g.openBeneath(tt.path, tt.flags) },
			"in steps": func() (int, error) {
				return openInSteps(int(top.Fd()), inRoot(tt.path), tt.flags|unix.O_NOFOLLOW|unix.O_CLOEXEC)
			},
		} {
			fd, err := open()
			if err == nil {
				unix.Close(fd)
			}
			if tt.want == errLink && (errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR)) {
				continue // either says so
			}
			if !errors.Is(err, tt.want) {
				t.Errorf("%s %s: %v, want %v", tt.path, way, err, tt.want)
			}
		}
	}
}

// errLink stands for what is told of a symlink in the middle of a path.
var errLink = errors.New("a symlink on the way")

// TestBeneathDeep opens what has a longer path than the kernel takes at once.
func TestBeneathDeep(t *testing.T) {
	top, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	name := strings.Repeat("d", 200)
	at, p := int(top.Fd()), ""
	for range 30 { // 6,030 bytes
		if err := unix.Mkdirat(at, name, 0o755); err != nil {
			t.Fatal(err)
		}
		below, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(below)
		at, p = below, p+"/"+name
	}
	g := &Guest{top: top}
	fd, err := g.openFolder(p)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var a, b unix.Stat_t
	if err := errors.Join(unix.Fstat(at, &a), unix.Fstat(fd, &b)); err != nil || a.Ino != b.Ino {
		t.Errorf("inode %d, want %d: %v", b.Ino, a.Ino, err)
	}
	if _, err := g.openFolder(p + "/none"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("what is not there: %v", err)
	}
}
