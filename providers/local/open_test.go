package local

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/providers"
)

func open(t *testing.T, p *Provider, e providers.Entry) providers.Source {
	t.Helper()
	src, err := p.Open(t.Context(), e, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	return src
}

func content(t *testing.T, img disk.Image) string {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(img, 0, img.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestOpenLink(t *testing.T) {
	p, images, _ := newProvider(t)
	write(t, images, "x.raw", "content")
	if err := os.Symlink("x.raw", filepath.Join(images, "link.qcow2")); err != nil {
		t.Fatal(err)
	}
	src := open(t, p, find(t, p, providers.Images, "link.qcow2"))
	if got := content(t, src); got != "content" || src.Format != "qcow2" {
		t.Errorf("link reads as %q in format %q", got, src.Format)
	}
}

func TestOpenDisk(t *testing.T) {
	p, images, _ := newProvider(t)
	write(t, images, "x.raw", "content")
	if _, err := p.Open(t.Context(), find(t, p, providers.Images, "x.raw"), 1); disk.KindOf(err) != disk.NotFound {
		t.Errorf("open second disk: %v, want not found", err)
	}
}

// TestStale changes a file in every way while it is open.
func TestStale(t *testing.T) {
	changes := map[string]func(path string) error{
		"overwrite": func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt([]byte("C"), 0)
			return err
		},
		"grow":     func(path string) error { return os.Truncate(path, 100) },
		"shrink":   func(path string) error { return os.Truncate(path, 2) },
		"touch":    func(path string) error { return os.Chtimes(path, time.Time{}, time.Unix(1, 0)) },
		"unlink":   os.Remove,
		"replace":  func(path string) error { return os.Rename(filepath.Join(filepath.Dir(path), "y.raw"), path) },
		"punch":    func(path string) error { return punch(path) },
		"rewrite":  func(path string) error { return os.WriteFile(path, []byte("CONTENT"), 0o644) },
		"truncate": func(path string) error { return os.Truncate(path, 0) },
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			p, images, _ := newProvider(t)
			write(t, images, "x.raw", "content")
			write(t, images, "y.raw", "CONTENT")
			e := find(t, p, providers.Images, "x.raw")
			src := open(t, p, e)
			if got := content(t, src); got != "content" {
				t.Fatalf("reads %q", got)
			}
			time.Sleep(20 * time.Millisecond) // the grain of the kernel's clock
			if err := change(filepath.Join(images, "x.raw")); err != nil {
				t.Fatal(err)
			}
			if n, err := src.ReadAt(make([]byte, 7), 0); n != 0 || disk.KindOf(err) != disk.Stale {
				t.Errorf("read: %d bytes and %v, want stale", n, err)
			}
			if _, err := src.Extent(0, 7); disk.KindOf(err) != disk.Stale {
				t.Errorf("find extent: %v, want stale", err)
			}
			want := disk.Stale
			if name == "unlink" {
				want = disk.NotFound
			}
			if _, err := p.Open(t.Context(), e, 0); disk.KindOf(err) != want {
				t.Errorf("open the old entry: %v of kind %v, want kind %v", err, disk.KindOf(err), want)
			}
		})
	}
}

func punch(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 7)
}

func TestResolve(t *testing.T) {
	p, images, _ := newProvider(t)
	outside := t.TempDir()
	write(t, outside, "secret", "secret")
	write(t, images, "x.vmdk", "descriptor")
	write(t, images, "x-s001.data", "extent")
	if err := os.Mkdir(filepath.Join(images, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, images, "folder/extent", "extent")
	write(t, images, ".hidden", "hidden")
	for name, target := range map[string]string{"out": filepath.Join(outside, "secret"), "up": "../" + filepath.Base(outside) + "/secret"} {
		if err := os.Symlink(target, filepath.Join(images, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(images, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	src := open(t, p, find(t, p, providers.Images, "x.vmdk"))
	beside, err := src.Resolve("x-s001.data")
	if err != nil {
		t.Fatal(err)
	}
	defer beside.Close()
	if got := content(t, beside); got != "extent" {
		t.Errorf("extent reads %q", got)
	}
	kinds := map[string]disk.Kind{
		"gone": disk.NotFound, "out": disk.Policy, "up": disk.Policy, "fifo": disk.Unsupported, "folder": disk.Unsupported,
		"": disk.Malformed, ".": disk.Malformed, "..": disk.Malformed, ".hidden": disk.Malformed, "folder/extent": disk.Malformed,
		"../" + filepath.Base(outside) + "/secret": disk.Malformed, filepath.Join(outside, "secret"): disk.Malformed, "a\x00b": disk.Malformed,
	}
	for name, kind := range kinds {
		if _, err := src.Resolve(name); disk.KindOf(err) != kind {
			t.Errorf("resolve %q: %v of kind %v, want kind %v", name, err, disk.KindOf(err), kind)
		}
	}

	time.Sleep(20 * time.Millisecond)
	write(t, images, "x-s001.data", "EXTENT")
	if _, err := beside.ReadAt(make([]byte, 6), 0); disk.KindOf(err) != disk.Stale {
		t.Errorf("read a changed extent: %v, want stale", err)
	}
	src.Close()
	if _, err := src.Resolve("x-s001.data"); !errors.Is(err, disk.ErrClosed) {
		t.Errorf("resolve after close: %v, want closed", err)
	}
}

// TestTooManyFiles checks that a lack of descriptors is said to be one, and is
// not a missing image.
func TestTooManyFiles(t *testing.T) {
	p, images, _ := newProvider(t)
	write(t, images, "x.raw", "content")
	e := find(t, p, providers.Images, "x.raw")
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	low := limit
	low.Cur = 3
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	_, err := p.Open(t.Context(), e, 0)
	_, listErr := p.List(t.Context(), providers.Images)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{err, listErr} {
		if !errors.Is(err, unix.EMFILE) || disk.KindOf(err) == disk.NotFound {
			t.Errorf("without descriptors: %v of kind %v", err, disk.KindOf(err))
		}
		if hint := disk.AsError(err).Hint; hint == "" || hint == "is its disk plugged in and mounted?" {
			t.Errorf("without descriptors: hint %q", hint)
		}
	}
}

// TestSetMtimeKeepsReaders sets the time of an image while it is read, as rsync
// --inplace and shutil do after the last byte: what is open stays readable.
func TestSetMtimeKeepsReaders(t *testing.T) {
	path := t.TempDir()
	write(t, path, "x.raw", "some bytes")
	p := makeProvider(t, Options{Images: path})
	list := func() providers.Entry {
		t.Helper()
		l, err := p.List(t.Context(), providers.Images)
		if err != nil || len(l) != 1 {
			t.Fatalf("%v, %v", l, err)
		}
		return l[0]
	}
	first := list()
	src, err := p.Open(t.Context(), first, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	e := first
	for _, sec := range []int64{1_000_000_000, 1_100_000_000, 1_000_000_000} {
		if e, err = p.SetMtime(t.Context(), e, time.Unix(sec, 0)); err != nil {
			t.Fatal(err)
		}
		if _, err := src.ReadAt(make([]byte, 4), 0); err != nil {
			t.Errorf("read after SetMtime: %v", err)
		}
		again, err := p.Open(t.Context(), first, 0)
		if err != nil {
			t.Fatalf("open of the version before SetMtime: %v", err)
		}
		again.Close()
	}
	write(t, path, "x.raw", "other byte")
	if _, err := src.ReadAt(make([]byte, 4), 0); disk.KindOf(err) != disk.Stale {
		t.Errorf("read after a change: %v, want stale", err)
	}
	if _, err := p.Open(t.Context(), first, 0); disk.KindOf(err) != disk.Stale {
		t.Errorf("open after a change: %v, want stale", err)
	}
}
