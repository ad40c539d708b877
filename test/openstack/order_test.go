package openstack

import (
	"bytes"
	"net/http"
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

// TestReadAnewAfterDamage: what was damaged on its way, and kept for a late reader, is given
// to nobody who reads the image anew.
func TestReadAnewAfterDamage(t *testing.T) {
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
	const part = 1 << 20
	read := func(i int) (right bool, err error) {
		p := make([]byte, part)
		err = disk.ReadFull(src, p, int64(i)*part)
		return bytes.Equal(p, want[i*part:(i+1)*part]), err
	}
	// The answer that begins behind the fifth part is the last. Those before are shorter
	// than its damage is far.
	r.proxy.Inject(&Fault{Method: http.MethodGet, Path: "/file", After: 5<<20 + part/2, Times: 1, Corrupt: true})
	wrong := 0
	for _, i := range []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 10} {
		right, err := read(i)
		if err != nil {
			t.Fatal(err)
		}
		if !right {
			wrong = i
		}
	}
	if wrong != 10 {
		t.Fatalf("part %d is damaged, and it should be the late one, 10", wrong)
	}
	for i := 12; i < 48 && err == nil; i++ {
		_, err = read(i)
	}
	if disk.KindOf(err) != disk.Malformed {
		t.Errorf("the whole is damaged, and its reader is told %v", err)
	}
	for i := range 48 {
		if right, err := read(i); err != nil || !right {
			t.Errorf("part %d, read anew: it is right: %v, %v", i, right, err)
		}
	}
}
