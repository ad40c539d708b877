package openstack

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"chromogenic/disk/disktest"
)

// readFaults strike in the middle of an image that is read.
func readFaults() []mountFault {
	get := func(f *Fault) *Fault {
		f.Method, f.Path = http.MethodGet, "/file"
		return f
	}
	admin := func(t testing.TB, x *mountCase, action string) {
		login(t, "admin").call(t, http.MethodPost, "/images/"+x.id+"/actions/"+action, nil, nil)
	}
	return []mountFault{
		{name: "connection reset", fault: get(&Fault{After: 1 << 20, Times: 1}), sample: true},
		{name: "connection reset for good", fault: get(&Fault{}), errno: syscall.EHOSTUNREACH},
		{name: "stalled", fault: get(&Fault{After: 1 << 20, Times: 1, Stall: true})},
		{name: "stalled for good", fault: get(&Fault{Stall: true, For: time.Minute}), errno: syscall.ETIMEDOUT, cause: "no byte came", within: 100 * time.Second}, // for the kernel asks again
		{name: "token expired", fault: get(&Fault{Times: 1, Status: http.StatusUnauthorized})},
		{name: "401 for good", fault: get(&Fault{Status: http.StatusUnauthorized}), errno: syscall.EACCES, cause: "401", sample: true},
		{name: "429", fault: get(&Fault{Times: 2, Status: http.StatusTooManyRequests, Header: throttled()})},
		{name: "429 for good", fault: get(&Fault{Status: http.StatusTooManyRequests, Header: throttled()}), errno: syscall.ETIMEDOUT, cause: "429"},
		{name: "500", fault: get(&Fault{Times: 2, Status: http.StatusInternalServerError})},
		{name: "503 for good", fault: get(&Fault{Status: http.StatusServiceUnavailable}), errno: syscall.EHOSTUNREACH, cause: "503"},
		{name: "answer truncated", fault: get(&Fault{After: 1 << 20, Times: 1, Cut: true})},
		{name: "byte corrupted", fault: get(&Fault{After: 1 << 20, Corrupt: true}), errno: syscall.EBADMSG, cause: "sha512", sample: true},
		{name: "ranges ignored", fault: get(&Fault{Whole: true}), errno: syscall.ENOTSUP, cause: "ranges"},
		{name: "image deleted", fault: get(&Fault{After: 1 << 20, Times: 1}), do: func(t testing.TB, x *mountCase) { x.a.remove(t, x.id) }, errno: syscall.ESTALE, cause: "gone", gone: true, late: true, sample: true},
		{
			name: "image deactivated", fault: get(&Fault{After: 1 << 20, Times: 1}), errno: syscall.EACCES, cause: "deactivated", late: true,
			do:   func(t testing.TB, x *mountCase) { admin(t, x, "deactivate") },
			undo: func(t testing.TB, x *mountCase) { admin(t, x, "reactivate"); x.in.run(t, "refresh") },
		},
		{name: "glance restarted", fault: get(&Fault{After: 1 << 20, Times: 1}), do: func(t testing.TB, _ *mountCase) { restartGlance(t) }, alone: true},
		{
			name: "password changed", fault: get(&Fault{Status: http.StatusUnauthorized}), errno: syscall.EACCES, cause: "log in", alone: true,
			before: func(t testing.TB, x *mountCase) {
				x.a = &api{token: login(t, "admin").token, project: x.a.project}
				x.password(t, "other")
				t.Cleanup(func() { x.password(t, "secret") })
			},
			undo: func(t testing.TB, x *mountCase) { x.file(t, "secret", "other") },
		},
	}
}

// TestFaultsMountReading reads an image through the mount.
func TestFaultsMountReading(t *testing.T) {
	a, b := login(t, "a"), login(t, "b")
	a.clear(t)
	b.clear(t)
	want := filepath.Join(t.TempDir(), "want.raw")
	p, err := disktest.Read(faultImage())
	if err == nil {
		err = os.WriteFile(want, p, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range readFaults() {
		if !full() && !f.sample {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			if !f.alone {
				t.Parallel()
			}
			x := newMountCase(t, login(t, "a"), b)
			x.name = fmt.Sprint("read", i)
			x.id = x.a.put(t, x.name, "raw", body(faultImage()), nil)
			x.in.run(t, "refresh")
			src, dst := x.path("a", "images", x.name+".raw"), filepath.Join(t.TempDir(), "got.raw")
			sh(t, "head", "-c", "4096", src) // so that it is open
			x.glance.Clear()
			x.command = []string{"cp", "--remove-destination", src, dst}
			if f.before != nil {
				f.before(t, x)
			}
			x.play(t, f, func(t testing.TB) { sameFile(t, dst, want) })
		})
	}
}
