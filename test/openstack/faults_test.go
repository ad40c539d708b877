package openstack

import (
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
	"chromogenic/providers/openstack"
)

// faultImage is large enough for something to happen in its middle.
func faultImage() disk.Image {
	return disktest.Pattern(24<<20, func(b int64) bool { return b%7 != 3 })
}

const middle = 9 << 20 // bytes

// readAll reads an image in order, as a copy does.
func readAll(img disk.Image) ([]byte, error) {
	return io.ReadAll(io.NewSectionReader(img, 0, img.Size()))
}

// sample tells whether a fault is played where not all are.
func sample(name string) bool {
	switch name {
	case "reset", "stalled", "401 once", "401", "503 for good", "truncated", "corrupted", "ranges ignored", "413 quota":
		return true
	}
	return false
}

// TestFaultsReading: what goes wrong in the middle of a transfer is mended, with the
// right bytes, or told for what it is.
func TestFaultsReading(t *testing.T) {
	r := newRig(t, "a", nil)
	want := faultImage()
	bytes, err := disktest.Read(want)
	if err != nil {
		t.Fatal(err)
	}
	id := r.put(t, "image", "raw", body(want), nil)
	e := r.one(t, providers.Images, "image")
	for _, tt := range []struct {
		name  string
		fault *Fault
		kind  disk.Kind // Other for one that is mended
	}{
		{"reset", &Fault{After: middle, Times: 1}, disk.Other},
		{"reset three times", &Fault{After: 1 << 20, Times: 3}, disk.Other},
		{"stalled", &Fault{After: middle, Times: 1, Stall: true}, disk.Other},
		{"stalled for good", &Fault{Stall: true}, disk.Timeout},
		{"401 once", &Fault{Skip: 2, Times: 1, Status: http.StatusUnauthorized}, disk.Other},
		{"401 for good", &Fault{Skip: 2, Status: http.StatusUnauthorized}, disk.Denied},
		{"429", &Fault{Skip: 1, Times: 1, Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"1"}}}, disk.Other},
		{"429 for good", &Fault{Skip: 1, Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"1"}}}, disk.Timeout},
		{"500 twice", &Fault{Skip: 1, Times: 2, Status: http.StatusInternalServerError, Body: "<html><head><title>500</title></head><body><h1>500 Internal Server Error</h1>The server has either erred.<br /></body></html>"}, disk.Other},
		{"503 for good", &Fault{Skip: 1, Status: http.StatusServiceUnavailable}, disk.Unreachable},
		{"truncated", &Fault{After: middle, Times: 1, Cut: true}, disk.Other},
		{"corrupted", &Fault{After: 1 << 20, Times: 1, Corrupt: true}, disk.Malformed},
		{"ranges ignored", &Fault{Whole: true}, disk.Unsupported},
	} {
		if !full() && !sample(tt.name) {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			tt.fault.Method, tt.fault.Path = http.MethodGet, "/file"
			r.proxy.Clear()
			r.proxy.Inject(tt.fault)
			src, err := r.Open(t.Context(), e, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer src.Close()
			began := time.Now()
			p := make([]byte, 1<<20)
			var got []byte
			for off := int64(0); off < src.Size() && err == nil; off += int64(len(p)) {
				if err = disk.ReadFull(src, p, off); err == nil {
					got = append(got, p...)
				}
			}
			t.Logf("%v, %d requests, met %d: %v", time.Since(began).Round(time.Millisecond), r.proxy.Requests.Load(), tt.fault.Met(), err)
			switch {
			case tt.fault.Met() == 0:
				t.Error("the fault has met nothing")
			case tt.kind == disk.Other && (err != nil || string(got) != string(bytes)):
				t.Errorf("%d bytes, which are right: %v, %v", len(got), string(got) == string(bytes), err)
			case tt.kind != disk.Other && disk.KindOf(err) != tt.kind:
				t.Errorf("%v of kind %v, want %v; the bytes are right: %v", err, disk.KindOf(err), tt.kind, string(got) == string(bytes))
			case tt.kind != disk.Malformed && !strings.HasPrefix(string(bytes), string(got)):
				t.Error("wrong bytes were given")
			}
			if time.Since(began) > 15*time.Second {
				t.Errorf("it took %v", time.Since(began))
			}
		})
	}
	r.proxy.Clear()
	t.Run("deactivated", func(t *testing.T) {
		src, err := r.Open(t.Context(), e, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		admin := login(t, "admin")
		admin.call(t, http.MethodPost, "/images/"+id+"/actions/deactivate", nil, nil)
		_, err = readAll(src)
		admin.call(t, http.MethodPost, "/images/"+id+"/actions/reactivate", nil, nil)
		if disk.KindOf(err) != disk.Denied || !strings.Contains(err.Error(), "deactivated") {
			t.Errorf("%v", err)
		}
	})
	t.Run("deleted", func(t *testing.T) {
		src, err := r.Open(t.Context(), e, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		r.proxy.Inject(&Fault{Method: http.MethodGet, Path: "/file", After: 1 << 20, Times: 1, Do: func() { r.remove(t, id) }})
		p := make([]byte, 1<<20)
		for off := int64(0); off < src.Size() && err == nil; off += int64(len(p)) {
			err = disk.ReadFull(src, p, off)
		}
		if disk.KindOf(err) != disk.Stale {
			t.Errorf("%v", err)
		}
	})
}

// TestFaultsSending is the same for uploads: in the end there is the image, or nothing.
func TestFaultsSending(t *testing.T) {
	r := newRig(t, "a", func(o *openstack.Options) { o.Store = "raw" })
	img := faultImage()
	for _, tt := range []struct {
		name  string
		fault *Fault
		kind  disk.Kind // Other for one that is mended
	}{
		{"reset", &Fault{After: middle, Times: 1}, disk.Other},
		{"reset for good", &Fault{After: middle}, disk.Unreachable},
		{"stalled", &Fault{After: middle, Times: 1, Stall: true}, disk.Other},
		{"401", &Fault{After: middle, Times: 1, Status: http.StatusUnauthorized}, disk.Other},
		{"429", &Fault{Times: 1, Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"1"}}}, disk.Other},
		{"500", &Fault{After: middle, Times: 1, Status: http.StatusInternalServerError}, disk.Other},
		{"503 for good", &Fault{After: middle, Status: http.StatusServiceUnavailable}, disk.Unreachable},
		{"413 quota", &Fault{After: middle, Status: http.StatusRequestEntityTooLarge, Body: "<html><body><h1>413</h1>Denying attempt to upload image because it exceeds the quota: 1 MiB</body></html>"}, disk.Quota},
		{"corrupted", &Fault{After: middle, Times: 1, Corrupt: true}, disk.Malformed},
		{"403", &Fault{Status: http.StatusForbidden}, disk.Denied},
	} {
		if !full() && !sample(tt.name) {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			tt.fault.Method, tt.fault.Path = http.MethodPut, "/file"
			r.proxy.Clear()
			r.proxy.Inject(tt.fault)
			began := time.Now()
			e, err := upload(t, r, tt.name, img)
			t.Logf("%v, met %d: %v", time.Since(began).Round(time.Millisecond), tt.fault.Met(), err)
			if tt.fault.Met() == 0 {
				t.Error("the fault has met nothing")
			}
			if tt.kind == disk.Other {
				if err != nil {
					t.Fatal(err)
				}
				r.proxy.Clear()
				r.holds(t, e, img)
			} else if disk.KindOf(err) != tt.kind {
				t.Errorf("%v of kind %v, want %v", err, disk.KindOf(err), tt.kind)
			}
			if left := r.debris(t); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
			if n := len(r.images(t)); (n == 1) != (err == nil) {
				t.Errorf("%d images", n)
			}
			if err == nil {
				r.remove(t, e.ID)
			}
		})
	}
}

// upload sends an image as a copy job does, and undoes what fails.
func upload(t *testing.T, r *rig, name string, img disk.Image) (e providers.Entry, err error) {
	t.Helper()
	u, err := r.Begin(t.Context(), providers.Spec{Job: "20261121T030000Z-0a1b2c", Name: name, Format: "raw", Size: img.Size()})
	if err != nil {
		return e, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, u.Abort(t.Context()))
		}
	}()
	if err := u.Send(t.Context(), img, func(int64) {}); err != nil {
		return e, err
	}
	d, err := u.Verify(t.Context())
	if err != nil {
		return e, err
	}
	if d.Sum != d.Sent {
		return e, disk.Errorf(disk.Malformed, "the cloud has %s, sent was %s", d.Sum, d.Sent)
	}
	return u.Commit(t.Context())
}

// TestRestart: glance is restarted while an image is read and another one is sent.
func TestRestart(t *testing.T) {
	r := newRig(t, "a", func(o *openstack.Options) { o.Store, o.Retry = "raw", 60*time.Second })
	img := faultImage()
	r.put(t, "image", "raw", body(img), nil)
	e := r.one(t, providers.Images, "image")
	restart := func() {
		if out, err := cloud.script("restart", "glance"); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
	r.proxy.Inject(&Fault{Method: http.MethodGet, Path: "/file", After: 1 << 20, Times: 1, Skip: 2, Do: restart})
	src, err := r.Open(t.Context(), e, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	disktest.Compare(t, disk.NewCache(disk.CacheOptions{}).Image("", src), img)
	f := r.proxy.Inject(&Fault{Method: http.MethodPut, Path: "/file", After: middle, Times: 1, Do: restart})
	sent, err := upload(t, r, "second", img)
	if err != nil || f.Met() == 0 {
		t.Fatalf("%v, met %d", err, f.Met())
	}
	r.holds(t, sent, img)
	if left := r.debris(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// revocationTime is as long as Keystone takes tokens for ones of before a change of the
// password: it counts seconds.
const revocationTime = 1100 * time.Millisecond

// TestCredentialsReplaced: the password is changed while an image is read; that of the
// file is taken up.
func TestCredentialsReplaced(t *testing.T) {
	r := newRig(t, "a", nil)
	img := faultImage()
	r.put(t, "image", "raw", body(img), nil)
	e := r.one(t, providers.Images, "image")
	src, err := r.Open(t.Context(), e, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	p := make([]byte, 1<<20)
	if err := disk.ReadFull(src, p, 0); err != nil {
		t.Fatal(err)
	}
	admin := login(t, "admin")
	keystone := env(t, "OPENSTACK_KEYSTONE")
	var users struct{ Users []struct{ ID string } }
	admin.call(t, http.MethodGet, keystone+"/users?name=a", nil, &users)
	// A token of the same second would be revoked too.
	password := func(text string) {
		defer time.Sleep(time.Second)
		admin.call(t, http.MethodPatch, keystone+"/users/"+users.Users[0].ID, map[string]any{"user": map[string]any{"password": text}}, nil)
		time.Sleep(revocationTime)
	}
	password("other") // which revokes the tokens
	defer password("secret")
	path := os.Getenv("OS_CLIENT_CONFIG_FILE")
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r.proxy.Inject(&Fault{Times: 1, Status: http.StatusUnauthorized}) // glance believes an old token for minutes
	if _, err := r.List(t.Context(), providers.Images); disk.KindOf(err) != disk.Denied {
		t.Errorf("with the old password: %v", err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(old), "password: secret", "password: other", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.List(t.Context(), providers.Images); err != nil {
		t.Errorf("with the new password: %v", err)
	}
	r.holdsSource(t, src, img)
}

func (r *rig) holdsSource(t testing.TB, src disk.Image, want disk.Image) {
	t.Helper()
	got, err := readAll(src)
	bytes, _ := disktest.Read(want)
	if err != nil || string(got) != string(bytes) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
