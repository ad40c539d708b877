package openstack

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
	"chromogenic/providers/openstack"
)

func storeRaw(o *openstack.Options) { o.Store = "raw" }

// TestLostAnswers: the services have done what they were told, and their answers are
// lost. What nobody knows of is removed, and what was done is not done twice.
func TestLostAnswers(t *testing.T) {
	r := newRig(t, "a", storeRaw)
	img := disktest.Pattern(1<<20, nil)

	r.proxy.Inject(&Fault{Method: http.MethodPost, Path: "/images", Lost: true})
	_, err := upload(t, r, "record", img)
	if disk.KindOf(err) != disk.Unreachable {
		t.Errorf("of the record: %v", err)
	}
	if d := r.debris(t); len(d) > 0 {
		t.Errorf("of the record: %q are left", d)
	}
	r.proxy.Clear()

	for skip := range 3 { // names it, takes the marks, adds what is missing: as far as that is asked
		r.proxy.Clear()
		lost := r.proxy.Inject(&Fault{Method: http.MethodPatch, Skip: skip, Times: 1, Lost: true})
		name := "patch" + string(rune('0'+skip))
		e, err := upload(t, r, name, img)
		if err != nil {
			t.Errorf("of change %d: %v", skip, err)
			continue
		}
		if lost.Met() == 0 && skip < 2 {
			t.Errorf("change %d was not asked for", skip)
		}
		r.holds(t, e, img)
	}
	if d := r.debris(t); len(d) > 0 {
		t.Errorf("%q are left", d)
	}
}

// TestReplaceWithoutEnd: the image that is replaced cannot be removed, or nobody can tell
// whether it was. The new one, which is whole, stays.
func TestReplaceWithoutEnd(t *testing.T) {
	r := newRig(t, "a", storeRaw)
	old, img := disktest.Pattern(1<<20, nil), disktest.Pattern(2<<20, nil)
	replace := func() (providers.Upload, error) {
		t.Helper()
		e, err := upload(t, r, "web", old)
		if err != nil {
			t.Fatal(err)
		}
		u, err := r.Begin(t.Context(), providers.Spec{Job: "20261121T030000Z-0a1b2d", Name: "web", Format: "raw", Size: img.Size(), Replaces: &e})
		if err != nil {
			t.Fatal(err)
		}
		if err := u.Send(t.Context(), img, func(int64) {}); err != nil {
			t.Fatal(err)
		}
		_, err = u.Commit(t.Context())
		return u, err
	}
	sizes := func() map[int64]int {
		found := map[int64]int{}
		for _, i := range r.images(t) {
			if i.text("name") == "web" && i.text("chromogenic_state") == "" {
				found[int64(i["size"].(float64))]++
			}
		}
		return found
	}

	r.proxy.Inject(&Fault{Method: http.MethodDelete, Times: 1, Lost: true})
	if _, err := replace(); err != nil {
		t.Errorf("the answer was lost: %v", err)
	}
	if got := sizes(); got[img.Size()] != 1 || got[old.Size()] != 0 {
		t.Errorf("the answer was lost: %v", got)
	}

	r.clear(t)
	r.proxy.Clear()
	r.proxy.Inject(&Fault{Method: http.MethodDelete, Status: http.StatusServiceUnavailable})
	u, err := replace()
	if err == nil || !strings.Contains(err.Error(), "the image is there") {
		t.Errorf("it cannot be removed: %v", err)
	}
	r.proxy.Clear()
	if err := u.Abort(t.Context()); err != nil {
		t.Error(err)
	}
	if got := sizes(); got[img.Size()] != 1 || got[old.Size()] != 1 {
		t.Errorf("it cannot be removed: %v", got)
	}
}

// TestOwnLeftovers: what could not be removed while the cloud was away is left over, for
// the process that has made it too.
func TestOwnLeftovers(t *testing.T) {
	r := newRig(t, "a", storeRaw)
	u, err := r.Begin(t.Context(), providers.Spec{Job: "20261121T030000Z-0a1b2e", Name: "web", Format: "raw", Size: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if ids, err := r.Leftovers(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("while it is made: %q, %v", ids, err)
	}
	r.proxy.Inject(&Fault{Method: http.MethodDelete, Status: http.StatusServiceUnavailable})
	if err := u.Abort(t.Context()); err == nil {
		t.Error("it was removed, though the cloud was away")
	}
	r.proxy.Clear()
	ids, err := r.Leftovers(t.Context())
	if err != nil || len(ids) != 1 {
		t.Fatalf("%q, %v", ids, err)
	}
	if err := r.Release(t.Context(), ids[0]); err != nil {
		t.Error(err)
	}
	if d := r.debris(t); len(d) > 0 {
		t.Errorf("%q are left", d)
	}
}

// TestOthersMarks: an image of another project that calls itself a kernel which waits, or
// a capture, is not taken for one of ours.
func TestOthersMarks(t *testing.T) {
	r, b := newRig(t, "a", storeRaw), login(t, "b")
	b.clear(t)
	kernel := b.put(t, "vmlinuz", "raw", bytes.NewReader(make([]byte, 1000)), map[string]any{
		"disk_format": "aki", "container_format": "aki", "visibility": "shared", "chromogenic_state": "waiting", "chromogenic_for": "web",
	})
	capture := b.put(t, "web", "raw", bytes.NewReader(make([]byte, 1000)), map[string]any{
		"visibility": "shared", "chromogenic_state": "capture", "chromogenic_capture_of": "x", "chromogenic_capture_name": "web",
		"chromogenic_capture_time": "2026-11-21T03:00:00Z",
	})
	for _, id := range []string{kernel, capture} {
		b.call(t, http.MethodPost, "/images/"+id+"/members", map[string]string{"member": r.project}, nil)
		r.call(t, http.MethodPut, "/images/"+id+"/members/"+r.project, map[string]string{"status": "accepted"}, nil)
	}
	for _, kind := range []providers.Kind{providers.Disks, providers.Instances} {
		if entries, err := r.List(t.Context(), kind); err != nil || len(entries) != 0 {
			t.Errorf("%s: %v, %v", kind, entries, err)
		}
	}
	if _, err := upload(t, r, "web", disktest.Pattern(1<<20, nil)); err != nil {
		t.Error(err)
	}
	if e := r.one(t, providers.Images, "web"); len(e.Companions) != 0 {
		t.Errorf("it has %v", e.Companions)
	}
	if got := b.image(t, kernel).text("chromogenic_state"); got != "waiting" {
		t.Errorf("the other's kernel is %q now", got)
	}
}

// TestNovasProperties: metadata that is set leaves alone what the cloud has written of the
// server that an image was made of: it may not boot without.
func TestNovasProperties(t *testing.T) {
	r := newRig(t, "a", storeRaw)
	mapping := `[{"boot_index": 0, "source_type": "snapshot", "snapshot_id": "0f0d5d2e-2d2b-4f0a-8a4f-7f3a5f1c2b3d"}]`
	id := r.put(t, "snap", "raw", bytes.NewReader(make([]byte, 1000)), map[string]any{
		"instance_uuid": "6b6c2b8e-7b4c-4b64-9d5b-0d3f6b7b9a11", "block_device_mapping": mapping, "bdm_v2": "True", "department": "x",
	})
	e := r.one(t, providers.Images, "snap")
	m := e.Metadata
	m.Meta.Description, m.Props = "of tuesday", nil
	if _, err := r.SetMeta(t.Context(), e, m); err != nil {
		t.Fatal(err)
	}
	now := r.image(t, id)
	for key, want := range map[string]string{
		"instance_uuid": "6b6c2b8e-7b4c-4b64-9d5b-0d3f6b7b9a11", "block_device_mapping": mapping, "bdm_v2": "True", "description": "of tuesday", "department": "",
	} {
		if got := now.text(key); got != want {
			t.Errorf("%s is %q", key, got)
		}
	}
}

// TestCredentialsVanish: clouds.yaml is not there for a moment. Who has a token goes on;
// for who has none the credentials are missing, and no image.
func TestCredentialsVanish(t *testing.T) {
	r := newRig(t, "a", storeRaw)
	img := disktest.Pattern(4<<20, nil)
	r.put(t, "web", "raw", body(img), nil)
	e := r.one(t, providers.Images, "web")
	if err := os.Remove(os.Getenv("OS_CLIENT_CONFIG_FILE")); err != nil {
		t.Fatal(err)
	}
	r.holds(t, e, img)
	fresh := quickRig(t, "a", storeRaw)
	if err := os.Remove(os.Getenv("OS_CLIENT_CONFIG_FILE")); err != nil {
		t.Fatal(err)
	}
	if _, err := fresh.List(t.Context(), providers.Images); disk.KindOf(err) != disk.Denied {
		t.Errorf("%v of kind %v", err, disk.KindOf(err))
	}
}

// TestUnknownPath: a proxy that has lost its backend knows no path. That is no listing
// without images.
func TestUnknownPath(t *testing.T) {
	r := newRig(t, "a", storeRaw)
	r.proxy.Inject(&Fault{Path: "/images", Status: http.StatusNotFound})
	if _, err := r.List(t.Context(), providers.Images); disk.KindOf(err) != disk.Unreachable {
		t.Errorf("%v of kind %v", err, disk.KindOf(err))
	}
}

// TestUploadFeedsOnItself: the cloud bears one call at a time, and an upload reads its
// source from the same cloud.
func TestUploadFeedsOnItself(t *testing.T) {
	r := newRig(t, "a", storeRaw)
	img := disktest.Pattern(8<<20, nil)
	r.put(t, "web", "raw", body(img), nil)
	e := r.one(t, providers.Images, "web")
	for range 5 { // 16, 8, 4, 2, 1
		r.proxy.Inject(&Fault{Method: http.MethodGet, Path: "/images", Times: 1, Status: http.StatusServiceUnavailable})
		if _, err := r.List(t.Context(), providers.Images); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1100 * time.Millisecond)
	}
	src, err := r.Open(t.Context(), e, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	done := make(chan error, 1)
	go func() { _, err := upload(t, r, "again", src); done <- err }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("they wait for each other")
	}
}

// TestDamagedOnTheWay: a byte of a qcow2 is another when it arrives. Its raw view is not
// read in the order of its bytes, and the copy to a plain file finds out all the same.
func TestDamagedOnTheWay(t *testing.T) {
	a, proxy := login(t, "a"), proxyOf(t, cloud.glance)
	a.clear(t)
	dir := t.TempDir()
	raw, qcow2, out := filepath.Join(dir, "web.raw"), filepath.Join(dir, "web.qcow2"), filepath.Join(dir, "out.raw")
	p, err := disktest.Read(faultImage())
	if err == nil {
		err = os.WriteFile(raw, p, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	sh(t, "qemu-img", "convert", "-O", "qcow2", raw, qcow2)
	f, err := os.Open(qcow2)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a.put(t, "web", "qcow2", f, nil)
	in := install(t, cloudsFile(t, "a", proxy.URL, ""), "  a: {type: openstack, cloud: a}\n")
	// In all answers, for the rest of one may be of use to nobody.
	damaged := proxy.Inject(&Fault{Method: http.MethodGet, Path: "/file", After: 1 << 20, Corrupt: true})
	said, err := in.try("cp", "a:images/web.raw", out)
	if err == nil || !strings.Contains(said, "sha512") || damaged.Met() == 0 {
		t.Errorf("met %d: %v: %s", damaged.Met(), err, said)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("there is a copy")
	}
	proxy.Clear()
	in.run(t, "cp", "a:images/web.raw", out)
	sh(t, "cmp", raw, out)
}
