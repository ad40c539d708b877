package local

import (
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
)

// publish makes an image, and gives the first error.
func publish(t *testing.T, p *Provider, spec providers.Spec, img disk.Image) (providers.Entry, error) {
	t.Helper()
	spec.Size = img.Size()
	u, err := p.Begin(t.Context(), spec)
	if err != nil {
		return providers.Entry{}, err
	}
	defer func() {
		if err := u.Abort(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	if err := u.Send(t.Context(), img, nil); err != nil {
		return providers.Entry{}, err
	}
	if _, err := u.Verify(t.Context()); err != nil {
		return providers.Entry{}, err
	}
	return u.Commit(t.Context())
}

func TestUploadFile(t *testing.T) {
	p, images, _ := newProvider(t)
	mtime := time.Unix(1700000000, 5000)
	img := disktest.Pattern(32<<20, func(b int64) bool { return b == 7 })
	e, err := publish(t, p, providers.Spec{Name: "a/b", Format: "vmdk", Mtime: mtime}, img)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(images, "a%2Fb.vmdk"))
	if err != nil {
		t.Fatal(err)
	}
	if e.ID != "a%2Fb.vmdk" || e.Name != "a/b" || e.Format != "vmdk" || e.Size != 32<<20 || !e.Updated.Equal(mtime) || !info.ModTime().Equal(mtime) {
		t.Errorf("entry %+v, file of %v", e, info.ModTime())
	}
	if perm := info.Mode().Perm(); perm&0o600 != 0o600 || perm&^0o644 != 0 {
		t.Errorf("mode is %v", perm)
	}
	if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used < 64<<10 || used > 128<<10 {
		t.Errorf("%d bytes are allocated for one block of data", used)
	}
}

// TestUploadZeros checks that zeros that are sent as data take no room.
func TestUploadZeros(t *testing.T) {
	p, images, _ := newProvider(t)
	if _, err := publish(t, p, providers.Spec{Name: "x", Format: "raw"}, disk.Bytes(make([]byte, 8<<20))); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(images, "x.raw"))
	if err != nil {
		t.Fatal(err)
	}
	if used := info.Sys().(*syscall.Stat_t).Blocks * 512; info.Size() != 8<<20 || used > 64<<10 {
		t.Errorf("%d bytes are allocated for %d of zeros", used, info.Size())
	}
}

func TestUploadStore(t *testing.T) {
	p := makeProvider(t, Options{Images: t.TempDir(), Store: "qcow2"})
	if formats, err := p.Accepts(providers.Spec{Format: "ova"}); err != nil || len(formats) != 1 || formats[0] != "qcow2" {
		t.Errorf("accepts %q, %v", formats, err)
	}
	if _, err := publish(t, p, providers.Spec{Name: "x", Format: "raw"}, disk.Bytes(nil)); disk.KindOf(err) != disk.Invalid {
		t.Errorf("upload in another format than the store's: %v", err)
	}
	e, err := publish(t, p, providers.Spec{Name: "x", Format: "qcow2"}, disk.Bytes([]byte("qcow2")))
	if err != nil || e.ID != "x.qcow2" {
		t.Errorf("upload: %q, %v", e.ID, err)
	}
	none := makeProvider(t, Options{Instances: t.TempDir()})
	if _, err := none.Accepts(providers.Spec{Format: "raw"}); disk.KindOf(err) != disk.Unsupported {
		t.Errorf("accept without a folder: %v", err)
	}
}

// TestUploadTaken takes the name in every other way than by the same file.
func TestUploadTaken(t *testing.T) {
	for _, file := range []string{"x.raw", "x.img", "x.qcow2", "x.RAW", "a%2Fb.img"} {
		p, images, _ := newProvider(t)
		spec := providers.Spec{Name: "x", Format: "raw", Size: 1}
		if file == "a%2Fb.img" {
			spec.Name = "a/b"
		}
		early, err := p.Begin(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		write(t, images, file, "taken")
		if _, err := p.Begin(t.Context(), spec); disk.KindOf(err) != disk.Exists {
			t.Errorf("begin beside %s: %v, want exists", file, err)
		}
		if err := early.Send(t.Context(), disk.Bytes([]byte("x")), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := early.Commit(t.Context()); disk.KindOf(err) != disk.Exists {
			t.Errorf("commit beside %s: %v, want exists", file, err)
		}
		if err := early.Abort(t.Context()); err != nil {
			t.Error(err)
		}
		if left := hidden(t, images); len(left) > 0 || len(list(t, p, providers.Images)) != 1 {
			t.Errorf("beside %s: left %q", file, left)
		}
	}
}

// TestUploadTwoProcesses lets two providers of one folder take one name in two
// formats at once.
func TestUploadTwoProcesses(t *testing.T) {
	folder := t.TempDir()
	formats := []string{"raw", "qcow2"}
	for range 30 {
		var uploads []providers.Upload
		for _, format := range formats {
			p := makeProvider(t, Options{Images: folder})
			u, err := p.Begin(t.Context(), providers.Spec{Name: "x", Format: format})
			if err != nil {
				t.Fatal(err)
			}
			uploads = append(uploads, u)
		}
		var wg sync.WaitGroup
		errs := make([]error, len(uploads))
		for i, u := range uploads {
			wg.Go(func() {
				if _, errs[i] = u.Commit(t.Context()); errs[i] != nil {
					errs[i] = disk.Errorf(disk.KindOf(errs[i]), "%w, abort: %v", errs[i], u.Abort(t.Context()))
				}
			})
		}
		wg.Wait()
		won := 0
		for i, err := range errs {
			if err == nil {
				won++
				if err := os.Remove(filepath.Join(folder, "x."+formats[i])); err != nil {
					t.Error(err)
				}
			} else if disk.KindOf(err) != disk.Exists {
				t.Errorf("commit that lost: %v", err)
			}
		}
		if files, err := os.ReadDir(folder); won > 1 || err != nil || len(files) > 0 {
			t.Fatalf("%d commits won, left are %v, %v", won, files, err)
		}
	}
}

// tmpfs mounts a filesystem of 1 MiB for the test.
func tmpfs(t *testing.T) string {
	t.Helper()
	path := t.TempDir()
	if err := unix.Mount("none", path, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("SKIPPED: cannot mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, 0); err != nil { // fails when something is still open
			t.Errorf("unmount: %v", err)
			_ = unix.Unmount(path, unix.MNT_DETACH)
		}
	})
	return path
}

// understated is an image that takes more room than it says.
type understated struct{ disk.Image }

func (understated) Allocated() int64 { return 0 }

func TestUploadNoSpace(t *testing.T) {
	folder := tmpfs(t)
	p := makeProvider(t, Options{Images: folder})
	counted := disktest.Faulty(disktest.Pattern(3<<20, nil), disktest.Faults{})
	_, err := publish(t, p, providers.Spec{Name: "x", Format: "raw"}, counted)
	if disk.KindOf(err) != disk.NoSpace || disk.AsError(err).Hint == "" || counted.Reads() > 0 {
		t.Errorf("upload of 3 MiB to 1 MiB: %v after %d reads, want no space with a hint before the first", err, counted.Reads())
	}
	_, err = publish(t, p, providers.Spec{Name: "x", Format: "raw"}, understated{disktest.Pattern(3<<20, nil)})
	if disk.KindOf(err) != disk.NoSpace {
		t.Errorf("upload that runs out of space: %v", err)
	}
	if files, err := os.ReadDir(folder); err != nil || len(files) > 0 {
		t.Errorf("left are %v, %v", files, err)
	}
	sparse := disktest.Pattern(1<<30, func(b int64) bool { return b == 3 })
	if _, err := publish(t, p, providers.Spec{Name: "x", Format: "raw"}, sparse); err != nil {
		t.Errorf("upload of 1 GiB of holes: %v", err)
	}
}

func TestUploadReadOnly(t *testing.T) {
	folder := tmpfs(t)
	p := makeProvider(t, Options{Images: folder})
	write(t, folder, "x.raw", "x")
	if err := unix.Mount("none", folder, "tmpfs", unix.MS_REMOUNT|unix.MS_RDONLY, "size=1m"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Begin(t.Context(), providers.Spec{Name: "y", Format: "raw"}); disk.KindOf(err) != disk.ReadOnly {
		t.Errorf("begin: %v, want read-only", err)
	}
	if err := p.Delete(t.Context(), find(t, p, providers.Images, "x.raw")); disk.KindOf(err) != disk.ReadOnly {
		t.Errorf("delete: %v, want read-only", err)
	}
}

// TestLink renames where the filesystem can only link.
func TestLink(t *testing.T) {
	p, images, _ := newProvider(t)
	write(t, images, "from", "from")
	write(t, images, "taken", "taken")
	d, err := p.open(providers.Images)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if err := d.link("from", "taken"); disk.KindOf(err) != disk.Exists {
		t.Errorf("link to a name that is taken: %v", err)
	}
	if err := d.link("from", "to"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(images, "to")); string(b) != "from" {
		t.Errorf("reads %q, %v", b, err)
	}
	if _, err := os.Lstat(filepath.Join(images, "from")); !os.IsNotExist(err) {
		t.Errorf("the old name: %v", err)
	}
}
