package openstack

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
)

// TestReadersOvertake: the kernel asks for parts of a file in order, and its requests
// overtake each other. All the same they are served by one answer of Glance, whose sum is
// known in the end.
func TestReadersOvertake(t *testing.T) {
	r := newRig(t, "a", nil)
	img := disktest.Pattern(48<<20, nil)
	want, err := disktest.Read(img)
	if err != nil {
		t.Fatal(err)
	}
	r.put(t, "image", "raw", body(img), nil)
	src, err := r.Open(t.Context(), r.one(t, providers.Images, "image"), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	r.proxy.Clear()
	const part = 1 << 20
	read := func(i int) error {
		p := make([]byte, part)
		if err := disk.ReadFull(src, p, int64(i)*part); err != nil {
			return err
		}
		if !bytes.Equal(p, want[i*part:(i+1)*part]) {
			t.Errorf("part %d is another", i)
		}
		return nil
	}
	for i := range 8 { // in order
		if err := read(i); err != nil {
			t.Fatal(err)
		}
	}
	var g errgroup.Group
	for i := 8; i < 48; i += 4 { // the second of four comes late, and the fourth before the third
		for _, k := range []int{i, i + 2, i + 1, i + 3} {
			g.Go(func() error { return read(k) })
			time.Sleep(10 * time.Millisecond)
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	asked := strings.Join(r.proxy.Log(), "\n")
	if n := strings.Count(asked, "/file"); n > 4 {
		t.Errorf("%d parts were asked for: %s", n, asked)
	}
	r.proxy.Clear()
	if err := disk.Verify(t.Context(), src); err != nil {
		t.Error(err)
	}
	if n := r.proxy.Requests.Load(); n > 0 {
		t.Errorf("the sum of what was read is not known: %q", r.proxy.Log())
	}
}
