package openstack

import (
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
	"chromogenic/providers/openstack"
	"chromogenic/providers/providertest"
)

func TestSuite(t *testing.T) {
	providertest.Suite(t, func(t *testing.T) providertest.Fixture { return fixture(t, false) })
}

// TestSuiteImport sends images by way of the staging area.
func TestSuiteImport(t *testing.T) {
	if !full() {
		t.Skip("for make test-full: what is sent is the same, TestSuite has the rest, and TestImported the way")
	}
	providertest.Suite(t, func(t *testing.T) providertest.Fixture {
		f := fixture(t, true)
		f.Put = nil // what does not upload was tested
		return f
	})
}

func fixture(t *testing.T, byImport bool) providertest.Fixture {
	r := newRig(t, "a", func(o *openstack.Options) { o.Store, o.Import = "raw", byImport })
	return providertest.Fixture{
		Provider: r.Provider,
		Format:   "raw",
		Slow:     true,
		Put: func(t *testing.T, name string, img disk.Image) {
			r.put(t, name, "raw", body(img), nil)
		},
		Remove: func(t *testing.T, e providers.Entry) { r.remove(t, e.ID) },
		Break: func(t *testing.T) func() {
			r.proxy.Close()
			return func() {
				if err := r.proxy.Open(); err != nil {
					t.Fatal(err)
				}
			}
		},
		Debris:       func(t *testing.T) []string { return r.debris(t) },
		RefusesEmpty: byImport,
	}
}

// TestImported sends one image by way of the staging area.
func TestImported(t *testing.T) {
	r := newRig(t, "a", func(o *openstack.Options) { o.Store, o.Import = "raw", true })
	img := disktest.Pattern(5<<20, nil)
	e, err := upload(t, r, "web", img)
	if err != nil {
		t.Fatal(err)
	}
	r.holds(t, e, img)
	if d := r.debris(t); len(d) > 0 {
		t.Errorf("%q are left", d)
	}
}
