package openstack

import (
	"fmt"
	"net/http"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
	"chromogenic/providers/openstack"
)

// beginSet sends an image with its kernel and its ramdisk, and commits none of them. The
// image comes last.
func (r *rig) beginSet(t *testing.T, name string) (all []providers.Upload, err error) {
	t.Helper()
	send := func(spec providers.Spec, img disk.Image) error {
		spec.Job, spec.Name, spec.Format, spec.Size = "20261121T030000Z-0a1b2c", name, "raw", img.Size()
		u, err := r.Begin(t.Context(), spec)
		if err != nil {
			return err
		}
		all = append(all, u)
		return u.Send(t.Context(), img, func(int64) {})
	}
	companions := map[providers.Role]providers.Upload{}
	for i, role := range providers.Roles() {
		if err := send(providers.Spec{Role: role, Together: true}, disktest.Pattern(300_001+int64(i), nil)); err != nil {
			return all, err
		}
		companions[role] = all[i]
	}
	return all, send(providers.Spec{Companions: companions}, disktest.Pattern(2<<20, nil))
}

// TestAMIFaults: whichever change of a record fails, or is the last before a crash, there
// are all three or none, and gc finds what is left.
func TestAMIFaults(t *testing.T) {
	r := newRig(t, "a", func(o *openstack.Options) { o.Store = "raw" })
	again, err := openstack.New(openstack.Options{Name: "again", Cloud: "a"})
	if err != nil {
		t.Fatal(err)
	}
	for _, crash := range []bool{false, true} {
		failed := 0
		for step := 0; ; step++ {
			name := fmt.Sprintf("web-%v-%d", crash, step)
			r.proxy.Clear()
			all, err := r.beginSet(t, name)
			if err != nil {
				t.Fatal(err)
			}
			fault := r.proxy.Inject(&Fault{Method: http.MethodPatch, Skip: step, Status: http.StatusConflict})
			_, err = all[2].Commit(t.Context())
			r.proxy.Clear()
			if err == nil {
				t.Logf("crash %v: %d changes, each of which has failed", crash, step)
				if fault.Met() != 0 || failed < 4 {
					t.Errorf("the fault has met %d requests, %d steps have failed", fault.Met(), failed)
				}
				e := r.one(t, providers.Images, name)
				if err := r.Delete(t.Context(), e); err != nil {
					t.Error(err)
				}
				if left := r.images(t); len(left) != 0 {
					t.Errorf("with the image stay %v", left)
				}
				break
			}
			failed++
			if !crash {
				for i := range all { // in the order of the pipeline: the image first
					if err := all[(i+2)%3].Abort(t.Context()); err != nil {
						t.Error(err)
					}
				}
				if left := r.images(t); len(left) != 0 {
					t.Errorf("step %d: an upload that was aborted leaves %v", step, left)
				}
				continue
			}
			left, err := again.Leftovers(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, id := range left {
				if err := again.Release(t.Context(), id); err != nil {
					t.Error(err)
				}
			}
			listed, err := again.List(t.Context(), providers.Images)
			if err != nil {
				t.Fatal(err)
			}
			whole := false
			for _, e := range listed {
				if e.Name == name && e.Reason == "" {
					whole = true
					if len(e.Companions) != 2 || e.Companions[0].Reason != "" || e.Companions[1].Reason != "" {
						t.Errorf("step %d: the image has the companions %+v", step, e.Companions)
					}
				}
			}
			if debris := r.debris(t); len(debris) != 0 {
				t.Errorf("step %d: gc leaves %q", step, debris)
			}
			if n := len(r.images(t)); whole && n != 3 || !whole && n != 0 {
				t.Errorf("step %d: the image is there: %v, and %d records are", step, whole, n)
			}
			r.clear(t)
		}
	}
}
