package openstack

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"chromogenic/disk/disktest"
)

// TestFaultsMountSending copies a file into the mount.
func TestFaultsMountSending(t *testing.T) {
	a, b := login(t, "a"), login(t, "b")
	a.clear(t)
	b.clear(t)
	file := filepath.Join(t.TempDir(), "want.raw")
	p, err := disktest.Read(faultImage())
	if err == nil {
		err = os.WriteFile(file, p, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	put := func(f *Fault) *Fault {
		f.Method, f.Path = http.MethodPut, "/file"
		return f
	}
	const full413 = "<html><body><h1>413</h1>Denying attempt to upload image because it exceeds the quota: 1 MiB</body></html>"
	faults := []mountFault{
		{name: "connection reset", fault: put(&Fault{After: middle, Times: 1}), sample: true},
		{name: "connection reset for good", fault: put(&Fault{After: middle}), errno: syscall.EHOSTUNREACH},
		{name: "stalled", fault: put(&Fault{After: middle, Times: 1, Stall: true})},
		{name: "stalled for good", fault: put(&Fault{After: middle, Stall: true, For: 32 * time.Second}), errno: syscall.ETIMEDOUT, cause: "no byte"},
		{name: "token expired", fault: put(&Fault{After: middle, Times: 1, Status: http.StatusUnauthorized})},
		{name: "401 for good", fault: put(&Fault{Status: http.StatusUnauthorized}), errno: syscall.EACCES, cause: "401"},
		{name: "forbidden", fault: put(&Fault{Status: http.StatusForbidden}), errno: syscall.EACCES, cause: "403"},
		{name: "429", fault: put(&Fault{Times: 1, Status: http.StatusTooManyRequests, Header: throttled()})},
		{name: "429 for good", fault: put(&Fault{Status: http.StatusTooManyRequests, Header: throttled()}), errno: syscall.ETIMEDOUT, cause: "429"},
		{name: "500", fault: put(&Fault{After: middle, Times: 2, Status: http.StatusInternalServerError})},
		{name: "503 for good", fault: put(&Fault{After: middle, Status: http.StatusServiceUnavailable}), errno: syscall.EHOSTUNREACH, cause: "503"},
		{name: "413", fault: put(&Fault{After: middle, Status: http.StatusRequestEntityTooLarge, Body: full413}), errno: syscall.EDQUOT, cause: "quota", sample: true},
		{name: "byte corrupted", fault: put(&Fault{After: middle, Times: 1, Corrupt: true}), errno: syscall.EBADMSG, cause: "sha512", sample: true},
		{name: "listing forbidden", fault: &Fault{Method: http.MethodPost, Path: "/v2/images", Status: http.StatusForbidden}, errno: syscall.EACCES, cause: "403"},
		{name: "answer to the record cut off", fault: &Fault{Method: http.MethodPost, Path: "/v2/images", Times: 1}},
		{name: "answer to the record lost", fault: &Fault{Method: http.MethodPost, Path: "/v2/images", Times: 1, Lost: true}},
		{name: "glance restarted", fault: put(&Fault{After: middle, Times: 1}), do: func(t testing.TB, _ *mountCase) { restartGlance(t) }, alone: true},
		{
			name: "quota exceeded", fault: &Fault{Method: http.MethodPost, Path: "/v2/images", Do: func() {}}, errno: syscall.EDQUOT, cause: "quota", alone: true,
			before: func(t testing.TB, _ *mountCase) { restartGlance(t, "OPENSTACK_QUOTA=16MB") },
			undo:   func(t testing.TB, _ *mountCase) { restartGlance(t) },
		},
		{
			name: "password changed", fault: put(&Fault{After: middle, Times: 1, Status: http.StatusUnauthorized}), errno: syscall.EACCES, cause: "log in", alone: true, gc: true,
			before: func(t testing.TB, x *mountCase) {
				x.a = &api{token: login(t, "admin").token, project: x.a.project}
				t.Cleanup(func() { x.password(t, "secret") })
				x.password(t, "other")
			},
			undo: func(t testing.TB, x *mountCase) { x.file(t, "secret", "other") },
		},
	}
	for i, f := range faults {
		if !full() && !f.sample {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			if !f.alone {
				t.Parallel()
			}
			x := newMountCase(t, login(t, "a"), b)
			x.name = fmt.Sprint("sent", i)
			sh(t, "ls", x.path("a", "images"))
			if f.before != nil {
				f.before(t, x)
			}
			x.command = []string{"cp", file, x.path("a", "images", x.name+".raw")}
			x.play(t, f, func(t testing.TB) { x.holds(t, x.a, x.name, p) })
		})
	}
}

// holds compares what Glance has of an image with what it should be.
func (x *mountCase) holds(t testing.TB, a *api, name string, want []byte) {
	t.Helper()
	var ids []string
	for _, r := range a.images(t) {
		if r.text("name") == name && r.text("status") == "active" && r.text("chromogenic_state") == "" {
			ids = append(ids, r.text("id"))
		}
	}
	if len(ids) != 1 {
		t.Errorf("%d images %q", len(ids), name)
		return
	}
	file := filepath.Join(t.TempDir(), "saved")
	sh(t, "curl", "-sSf", "-o", file, "-H", "X-Auth-Token: "+a.token, cloud.glance+"/v2/images/"+ids[0]+"/file")
	got, err := os.ReadFile(file)
	if err != nil || string(got) != string(want) {
		t.Errorf("image %q has %d bytes, which are not those that were sent, or %v", name, len(got), err)
	}
}

// TestFaultsMountCapturing copies a live machine of project a into project b.
func TestFaultsMountCapturing(t *testing.T) {
	a, b := login(t, "a"), login(t, "b")
	a.clear(t)
	b.clear(t)
	web := a.boot(t, "web", a.put(t, "seed", "raw", strings.NewReader(string(guestDisk())), nil), 8)
	action := func(f *Fault) *Fault {
		f.Method, f.Path = http.MethodPost, "/action"
		return f
	}
	get := func(f *Fault) *Fault {
		f.Method, f.Path = http.MethodGet, "/file"
		return f
	}
	faults := []mountFault{
		{name: "forbidden", fault: action(&Fault{Status: http.StatusForbidden}), errno: syscall.EACCES, cause: "403", sample: true},
		{name: "quota of nova", fault: action(&Fault{Status: http.StatusForbidden, Body: `{"forbidden": {"message": "Quota exceeded, too many snapshots."}}`}), errno: syscall.EDQUOT, cause: "Quota"},
		{name: "another is being made", fault: action(&Fault{Status: http.StatusConflict}), errno: syscall.EBUSY, cause: "409"},
		{name: "429", fault: action(&Fault{Times: 1, Status: http.StatusTooManyRequests, Header: throttled()})},
		{name: "500", fault: action(&Fault{Times: 1, Status: http.StatusInternalServerError}), errno: syscall.EHOSTUNREACH, cause: "500"},
		{name: "answer lost", fault: action(&Fault{Times: 1, Lost: true}), errno: syscall.EHOSTUNREACH},
		{name: "token expired", fault: get(&Fault{Times: 1, Status: http.StatusUnauthorized})},
		{name: "connection reset", fault: get(&Fault{Times: 1})},
		{name: "stalled", fault: get(&Fault{Times: 1, Stall: true})},
		{name: "503", fault: get(&Fault{Times: 2, Status: http.StatusServiceUnavailable})},
		{name: "500 for good", fault: get(&Fault{Status: http.StatusInternalServerError}), errno: syscall.EHOSTUNREACH, cause: "500"},
		{name: "byte corrupted", fault: get(&Fault{After: 600, Times: 1, Corrupt: true}), errno: syscall.EBADMSG},
		{name: "snapshot deleted", fault: get(&Fault{Times: 1}), do: func(t testing.TB, x *mountCase) {
			for _, r := range x.a.images(t) {
				if r.text("chromogenic_state") == "snapshot" {
					x.a.remove(t, r.text("id"))
				}
			}
		}, errno: syscall.ESTALE, cause: "gone"},
	}
	for i, f := range faults { // one after the other: nova makes one image of a server at a time
		if !full() && !f.sample {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			x := newMountCase(t, a, b)
			x.name = fmt.Sprint("captured", i)
			sh(t, "ls", x.path("a", "instances"), x.path("b", "images"))
			dst := x.path("b", "images.verbatim", x.name+".raw")
			x.command = []string{"cp", x.path("a", "instances", "web.raw"), dst}
			x.play(t, f, func(t testing.TB) {
				copied := filepath.Join(t.TempDir(), "copied.raw")
				sh(t, "cp", dst, copied)
				wantMarker(t, copied, 8, true)
			})
			a.wait(t, web, "ACTIVE")
		})
	}
}
