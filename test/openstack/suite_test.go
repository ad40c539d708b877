package openstack

import (
	"testing"

	"chromogenic/disk"
	"chromogenic/providers"
	"chromogenic/providers/openstack"
	"chromogenic/providers/providertest"
)

func TestSuite(t *testing.T) {
	providertest.Suite(t, func(t *testing.T) providertest.Fixture { return fixture(t, false) })
}

// TestSuiteImport sends images by way of the staging area.
func TestSuiteImport(t *testing.T) {
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
