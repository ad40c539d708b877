package local

import (
	"os"
	"path/filepath"
	"testing"

	"chromogenic/disk"
	"chromogenic/providers"
)

// replaceWithKernel replaces an image by another that has a kernel of its own. Before is
// called when all is sent.
func replaceWithKernel(t *testing.T, p *Provider, old providers.Entry, image, kernel string, before func(u *upload)) error {
	t.Helper()
	side := disk.Bytes([]byte(kernel))
	u, err := p.Begin(t.Context(), providers.Spec{Name: "web", Format: "raw", Role: providers.Kernel, Together: true, Size: side.Size()})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Abort(t.Context())
	if err := u.Send(t.Context(), side, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	main := disk.Bytes([]byte(image))
	v, err := p.Begin(t.Context(), providers.Spec{
		Name: "web", Format: "raw", Size: main.Size(), Replaces: &old, Whole: true, Companions: map[providers.Role]providers.Upload{providers.Kernel: u},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Abort(t.Context())
	if err := v.Send(t.Context(), main, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	before(v.(*upload))
	_, err = v.Commit(t.Context())
	return err
}

// TestReplaceWithCompanions: an image that cannot be replaced keeps its kernel, and one
// that is leaves nothing of it.
func TestReplaceWithCompanions(t *testing.T) {
	p, images, _ := newProvider(t)
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(images, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := func(files map[string]string) {
		t.Helper()
		all, err := os.ReadDir(images)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range all {
			text, err := os.ReadFile(filepath.Join(images, f.Name()))
			if want, ok := files[f.Name()]; !ok || err != nil || string(text) != want {
				t.Errorf("%s holds %q, %v", f.Name(), text, err)
			}
		}
		if len(all) != len(files) {
			t.Errorf("there are %d files, want %d", len(all), len(files))
		}
	}
	image := func() providers.Entry {
		t.Helper()
		all, err := p.List(t.Context(), providers.Images)
		if err != nil || len(all) != 1 {
			t.Fatalf("%+v, %v", all, err)
		}
		return all[0]
	}
	write("web.raw", "the old image")
	write("web.kernel", "the old kernel")
	old := image()
	err := replaceWithKernel(t, p, old, "the new image", "the new kernel", func(u *upload) {
		if err := os.Remove(filepath.Join(images, u.temp.name)); err != nil {
			t.Fatal(err)
		}
	})
	if disk.KindOf(err) != disk.Stale {
		t.Fatalf("without the bytes of the new one: %v", err)
	}
	want(map[string]string{"web.raw": "the old image", "web.kernel": "the old kernel"})
	if now := image(); now.Version != old.Version {
		t.Errorf("its version was %q, and is %q", old.Version, now.Version)
	}
	if err := replaceWithKernel(t, p, image(), "the new image", "the new kernel", func(*upload) {}); err != nil {
		t.Fatal(err)
	}
	want(map[string]string{"web.raw": "the new image", "web.kernel": "the new kernel"})
}

// TestExchangeBySteps is exchange on a filesystem that cannot do it at once.
func TestExchangeBySteps(t *testing.T) {
	p, images, _ := newProvider(t)
	for _, name := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(images, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d, err := p.open(providers.Images)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if err := d.exchangeBySteps("nothing", "b"); err == nil {
		t.Error("nothing was exchanged")
	}
	if err := d.exchangeBySteps("a", "b"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"a": "b", "b": "a"} {
		if got, err := os.ReadFile(filepath.Join(images, name)); err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v", name, got, err)
		}
	}
	if all, err := os.ReadDir(images); err != nil || len(all) != 2 {
		t.Errorf("left are %v, %v", all, err)
	}
}
