package disk_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"

	"github.com/google/go-cmp/cmp"
)

// create makes a sparse file that holds the data of src.
func create(t *testing.T, src disk.Image) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk.raw")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(src.Size()); err != nil {
		t.Fatal(err)
	}
	if err := disk.Copy(t.Context(), f, src, disk.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	return name
}

func openFile(t *testing.T, name string) disk.Image {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	img, err := disk.OpenFile(f)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestOpenFile(t *testing.T) {
	for name, src := range map[string]disk.Image{
		"empty":    disktest.Pattern(0, nil),
		"one byte": disktest.Pattern(1, nil),
		"dense":    disktest.Pattern(3<<20+17, nil),
		"sparse":   oddRuns(64<<20 + 1),
		"all hole": disktest.Runs(1<<30 + 3),
	} {
		t.Run(name, func(t *testing.T) {
			disktest.Suite(t, openFile(t, create(t, src)), src)
		})
	}
}

func TestOpenFileFindsHoles(t *testing.T) {
	img := openFile(t, create(t, disktest.Runs(1<<30, disk.Extent{Off: 1 << 20, Len: 1 << 20}, disk.Extent{Off: 1<<30 - 1<<16, Len: 1 << 16})))
	defer img.Close()
	got := disktest.Walk(t, img)
	if len(got) == 1 && !got[0].Zero {
		if os.Getenv("CI") != "" {
			t.Fatal("the filesystem of the temporary folder knows no holes")
		}
		t.Skip("NOT TESTED: the filesystem of the temporary folder knows no holes")
	}
	want := []disk.Extent{
		{Off: 0, Len: 1 << 20, Zero: true},
		{Off: 1 << 20, Len: 1 << 20},
		{Off: 2 << 20, Len: 1<<30 - 1<<16 - 2<<20, Zero: true},
		{Off: 1<<30 - 1<<16, Len: 1 << 16},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("extents (-want +got):\n%s", diff)
	}
	if n, err := disk.Allocated(img); err != nil || n < 1<<20+1<<16 || n > 2<<20 {
		t.Errorf("allocated is %d, %v", n, err)
	}
}

// TestHolesDoNotDependOnReaders reserves space as libvirt does for a raw disk.
// Having been read, its pages are in the page cache; it is a hole all the same.
func TestHolesDoNotDependOnReaders(t *testing.T) {
	const size = 32 << 20
	name := filepath.Join(t.TempDir(), "disk.raw")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
		t.Skipf("the filesystem reserves no space: %v", err)
	}
	data := disktest.Runs(size, disk.Extent{Off: 4 << 20, Len: 1 << 20}, disk.Extent{Off: 20<<20 + 4096, Len: 64 << 10})
	if err := disk.Copy(t.Context(), f, data, disk.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	extents := func() []disk.Extent {
		img := openFile(t, name)
		defer img.Close()
		var all []disk.Extent
		for e, err := range disk.Extents(img) {
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, e)
		}
		disktest.Compare(t, img, data) // reads all of it
		return all
	}
	first := extents()
	if diff := cmp.Diff(first, extents()); diff != "" {
		t.Errorf("reading has changed the extents (-before +after):\n%s", diff)
	}
	img := openFile(t, name)
	defer img.Close()
	var held int64
	for _, e := range first {
		if !e.Zero {
			held += e.Len
		}
	}
	if held < 1<<20+64<<10 || held > 2<<20 {
		t.Errorf("%d bytes are data: %v", held, first)
	}
	// What is written later into reserved space is data.
	if _, err := f.WriteAt([]byte("data"), 30<<20); err != nil {
		t.Fatal(err)
	}
	e, err := openFile(t, name).Extent(30<<20, 4096)
	if err != nil || e.Zero {
		t.Errorf("extent of what was just written: %+v, %v", e, err)
	}
}

func TestOpenFileOfShrunkFile(t *testing.T) {
	name := create(t, disktest.Pattern(1<<20, nil))
	img := openFile(t, name)
	defer img.Close()
	if err := os.Truncate(name, 5000); err != nil {
		t.Fatal(err)
	}
	if n, err := img.ReadAt(make([]byte, 100), 4950); n != 50 || disk.KindOf(err) != disk.Stale {
		t.Errorf("read over the new end is %d, %v", n, err)
	}
	if e, err := img.Extent(9000, 10); disk.KindOf(err) != disk.Stale {
		t.Errorf("extent behind the new end is %+v, %v", e, err)
	}
	var last error
	for _, err := range disk.Extents(img) {
		last = err
	}
	if disk.KindOf(last) != disk.Stale {
		t.Errorf("walk over the new end gives %v", last)
	}
}

func TestOpenFileRefuses(t *testing.T) {
	for _, name := range []string{t.TempDir(), os.DevNull} {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := disk.OpenFile(f); disk.KindOf(err) != disk.Unsupported {
			t.Errorf("open %q gives %v", name, err)
		}
		if err := f.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%q is left open", name)
		}
	}
}

func TestCloseOfFile(t *testing.T) {
	img := openFile(t, create(t, disktest.Pattern(1000, nil)))
	img.Close()
	if _, err := img.Extent(0, 10); !errors.Is(err, disk.ErrClosed) {
		t.Errorf("extent after close gives %v", err)
	}
}
