package openstack

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
)

// createImage has Nova make an image, as any client would.
func (a *api) createImage(t testing.TB, server, name string) string {
	t.Helper()
	var answer struct {
		ID string `json:"image_id"`
	}
	a.call(t, http.MethodPost, a.nova+"/servers/"+server+"/action", map[string]any{"createImage": map[string]any{"name": name}}, &answer)
	for end := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		if a.image(t, answer.ID).text("status") == "active" {
			a.wait(t, server, "ACTIVE")
			return answer.ID
		}
		if time.Now().After(end) {
			t.Fatalf("image %s is %v", answer.ID, a.image(t, answer.ID))
		}
	}
}

// A jobRecord is as much of a job's record as the tests look at.
type jobRecord struct {
	State, Consistency string
	Bytes              int64
	CloudDigest        string `json:"cloud_digest"`
	VirtualSize        int64  `json:"virtual_size"`
	Stages             []struct{ Name, Outcome, Note string }
	Entry              struct{ ID, Name string }
}

func (in *installation) record(t testing.TB, args ...string) (r jobRecord) {
	t.Helper()
	out := in.run(t, append(args, "--json")...)
	if err := json.Unmarshal([]byte(out[strings.Index(out, "{"):]), &r); err != nil {
		t.Fatalf("%q: %v: %s", args, err, out)
	}
	return r
}

// TestImager: images of a server that Nova makes, and snapshots that are there already.
func TestImager(t *testing.T) {
	a := login(t, "a")
	a.clear(t)
	seed := a.put(t, "seed", "raw", bytes.NewReader(guestDisk()), map[string]any{
		"os_distro": "debian", "team": "blue", "tags": []string{"golden"}, "chromogenic_mtime": "2020-01-02T03:04:05Z",
	})
	web := a.boot(t, "web", seed, 8)
	glance, nova := proxyOf(t, cloud.glance), proxyOf(t, strings.TrimSuffix(a.nova, "/v2.1"))
	in := install(t, cloudsFile(t, "a", glance.URL, "    compute_endpoint_override: "+nova.URL+"/v2.1\n"), "  a: {type: openstack, cloud: a}\n")

	began := time.Now()
	rec := in.record(t, "capture", "a:instances/web", "--image", "golden")
	t.Logf("made in the cloud in %v, %d bytes from glance", time.Since(began).Round(time.Millisecond), glance.Sent.Load())
	for _, line := range glance.Log() {
		if strings.HasSuffix(strings.Fields(line)[1], "/file") {
			t.Errorf("bytes have passed: %s", line)
		}
	}
	r := a.image(t, rec.Entry.ID)
	switch {
	case rec.State != "done" || rec.Consistency != "crash" || rec.Bytes != 0 || rec.VirtualSize != 1<<30 || rec.Entry.Name != "golden":
		t.Errorf("the record is %+v", rec)
	case rec.CloudDigest != "sha512:"+r.text("os_hash_value") || len(rec.CloudDigest) != 7+128:
		t.Errorf("the digest is %s, Glance has %v", rec.CloudDigest, r)
	case len(rec.Stages) != 4 || rec.Stages[1].Name != "capture" || !strings.Contains(rec.Stages[1].Note, "saving") && !strings.Contains(rec.Stages[1].Note, "queued") ||
		!strings.Contains(rec.Stages[1].Note, "the cloud has made the image"):
		t.Errorf("the stages are %+v", rec.Stages)
	}
	for key, want := range map[string]string{
		"name": "golden", "status": "active", "visibility": "private", "os_distro": "debian", "team": "blue",
		"instance_uuid": "", "image_type": "", "base_image_ref": "", "chromogenic_state": "", "chromogenic_job": "", "chromogenic_mtime": "",
	} {
		if r.text(key) != want {
			t.Errorf("the image's %s is %q, not %q", key, r.text(key), want)
		}
	}
	if fmt.Sprint(r["tags"]) != "[golden]" || fmt.Sprint(r["min_disk"]) != "1" {
		t.Errorf("the image is %v", r)
	}
	raw := filepath.Join(t.TempDir(), "golden.raw")
	in.run(t, "cp", "a:images/golden.raw", raw)
	wantMarker(t, raw, 8, true)

	// A name that is taken is refused before Nova is asked.
	nova.Clear()
	if out, err := in.try("capture", "a:instances/web", "--image", "golden"); err == nil || !strings.Contains(out, "taken") {
		t.Errorf("a name that is taken: %v: %s", err, out)
	}
	for _, line := range nova.Log() {
		if strings.HasPrefix(line, "POST") {
			t.Errorf("nova was asked for %s", line)
		}
	}

	t.Run("snapshot", func(t *testing.T) {
		snap := a.createImage(t, web, "nightly")
		nova.Clear()
		images := len(a.images(t))
		dir := t.TempDir()
		raw, own := filepath.Join(dir, "web.raw"), filepath.Join(dir, "own.qcow2")
		in.run(t, "cp", "a:instances/web", raw, "--snapshot", snap)
		wantMarker(t, raw, 8, true)
		in.run(t, "cp", "a:instances/web", own, "--snapshot", snap)
		sh(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, own)
		in.run(t, "cp", "a:instances/web", "a:images/", "--snapshot", snap)
		rec := in.record(t, "capture", "a:instances/web", "--snapshot", snap, "--image", "copied")
		if rec.State != "done" || rec.Entry.Name != "copied" {
			t.Errorf("the record is %+v", rec)
		}
		for _, line := range nova.Log() {
			if strings.HasPrefix(line, "POST") {
				t.Errorf("nova was asked for %s", line)
			}
		}
		if s := a.image(t, snap); s.text("status") != "active" || s.text("name") != "nightly" {
			t.Errorf("the snapshot is %v", s)
		}
		if n := len(a.images(t)); n != images+2 {
			t.Errorf("%d images, there were %d", n, images)
		}
		foreign := a.put(t, "foreign", "raw", bytes.NewReader(guestDisk()), map[string]any{"instance_uuid": "8a1d0b3e-1111-4222-8333-123456789abc"})
		for id, want := range map[string]string{
			foreign:                                "is a snapshot of server 8a1d0b3e-1111-4222-8333-123456789abc, not of " + web,
			seed:                                   "is no snapshot",
			"00000000-0000-4000-8000-000000000000": "No image found",
		} {
			if out, err := in.try("cp", "a:instances/web", filepath.Join(dir, "no.raw"), "--snapshot", id); err == nil || !strings.Contains(out, want) {
				t.Errorf("%s: %v: %s, want %q", id, err, out, want)
			}
		}
	})

	// A server of which an image is being made already.
	t.Run("busy", func(t *testing.T) {
		r := quickRig(t, "a", nil)
		e := r.one(t, providers.Instances, "web")
		first := make(chan error, 1)
		begun := make(chan struct{}, 100)
		go func() {
			ctx := providers.Watch(context.Background(), func(string) { begun <- struct{}{} })
			s, err := r.Snapshot(ctx, e, providers.SnapSpec{Job: "20261121T030000Z-000001"})
			if err == nil {
				s.Disks[0].Close()
				err = r.Release(context.Background(), s.ID)
			}
			first <- err
		}()
		<-begun
		_, err := r.Snapshot(t.Context(), e, providers.SnapSpec{Job: "20261121T030000Z-000002"})
		if disk.KindOf(err) != disk.Busy || !strings.Contains(disk.AsError(err).Hint, "wait until it is done") {
			t.Errorf("a second snapshot: %v", err)
		}
		t.Log(err)
		if err := <-first; err != nil {
			t.Errorf("the first snapshot: %v", err)
		}
		if left := a.debris(t); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	})

	t.Run("killed", func(t *testing.T) { killed(t, a) })

	// Nova crashes while it makes an image, which then stays as it is.
	t.Run("given up", func(t *testing.T) {
		r := quickRig(t, "a", nil)
		e := r.one(t, providers.Instances, "web")
		once := false
		ctx := providers.Watch(t.Context(), func(string) {
			if !once {
				once = true
				crash(t, "nova")
			}
		})
		began := time.Now()
		_, _, err := r.CreateImage(ctx, e, providers.SnapSpec{Job: "20261121T030000Z-000003"}, providers.Spec{Job: "20261121T030000Z-000003", Name: "x"})
		t.Logf("%v: %v", time.Since(began).Round(time.Millisecond), err)
		if err == nil {
			t.Error("it was made")
		}
		if left := a.debris(t); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	})

	a.wait(t, web, "ACTIVE")
	a.call(t, http.MethodPost, a.nova+"/servers/"+web+"/action", map[string]any{"os-stop": nil}, nil)
	a.wait(t, web, "SHUTOFF")
	if rec := in.record(t, "capture", "a:instances/web", "--image", "cold"); rec.Consistency != "stopped" || rec.State != "done" {
		t.Errorf("of a stopped server: %+v", rec)
	}
	if left := a.debris(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// killed: a mount is killed while Nova saves what it has asked for. What is left is found
// by its tag, by gc and by the next mount.
func killed(t *testing.T, a *api) {
	for _, how := range []string{"gc", "mount"} {
		t.Run(how, func(t *testing.T) {
			in := install(t, cloud.clouds, "  a: {type: openstack, cloud: a}\n")
			dir := t.TempDir()
			mount := exec.Command(in.path, "mount", dir)
			mount.Env = in.env
			if err := mount.Start(); err != nil {
				t.Fatal(err)
			}
			defer exec.Command("umount", "-l", dir).Run()
			for end := time.Now().Add(30 * time.Second); exec.Command("mountpoint", "-q", dir).Run() != nil; time.Sleep(50 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("it does not mount")
				}
			}
			copying := exec.Command("cp", filepath.Join(dir, "a", "instances", "web.raw"), filepath.Join(dir, "a", "images.verbatim", "copy.raw"))
			if err := copying.Start(); err != nil {
				t.Fatal(err)
			}
			var left []string
			for end := time.Now().Add(30 * time.Second); len(left) == 0; time.Sleep(20 * time.Millisecond) {
				if left = a.debris(t); time.Now().After(end) {
					t.Fatal("nova makes no image")
				}
			}
			if err := mount.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			mount.Wait()
			copying.Wait()
			exec.Command("umount", "-l", dir).Run()
			if left = a.debris(t); len(left) != 1 || !strings.Contains(left[0], "snapshot") {
				t.Fatalf("the mount was killed, and left %q", left)
			}
			t.Logf("left by the mount: %q", left)
			if how == "gc" {
				if out := in.run(t, "gc"); !strings.Contains(out, "temporary") {
					t.Errorf("gc: %s", out)
				}
			} else {
				in.mount(t)
			}
			for end := time.Now().Add(30 * time.Second); len(left) > 0; time.Sleep(100 * time.Millisecond) {
				if left = a.debris(t); time.Now().After(end) {
					t.Fatalf("left behind: %q", left)
				}
			}
			var page struct{ Servers []struct{ ID string } }
			a.call(t, http.MethodGet, a.nova+"/servers", nil, &page)
			a.wait(t, page.Servers[0].ID, "ACTIVE")
		})
	}
}

// crash kills a service of the cloud, and starts it again.
func crash(t testing.TB, service string) {
	text, err := os.ReadFile(filepath.Join(cloud.dir, "run", service+".pid"))
	if err != nil {
		t.Error(err)
		return
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid < 2 {
		t.Errorf("%s is the process %q", service, text)
		return
	}
	if err := syscall.Kill(-pid, syscall.SIGKILL); err != nil { // its session, as openstack.sh ends it
		t.Error(err)
	}
	if out, err := cloud.script("restart", service); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestVolumeBacked: Nova's record of the server is a fixture, for a cloud with volumes
// takes a block storage service; all else is the real cloud, which has none.
func TestVolumeBacked(t *testing.T) {
	a := login(t, "a")
	nova := proxyOf(t, strings.TrimSuffix(a.nova, "/v2.1"))
	const server = `{"id": "6b6c2b8e-7b4c-4b64-9d5b-0d3f6b7b9a11", "name": "vol", "status": "ACTIVE", "image": "",
		"created": "2026-11-21T03:00:00Z", "updated": "2026-11-21T03:00:00Z", "metadata": {}, "OS-EXT-STS:task_state": null,
		"flavor": {"original_name": "m1.nano", "disk": 0}, "os-extended-volumes:volumes_attached": [{"id": "0f0d5d2e-2d2b-4f0a-8a4f-7f3a5f1c2b3d"}]}`
	nova.Inject(&Fault{Method: http.MethodGet, Path: "/servers/detail", Status: http.StatusOK, Body: `{"servers": [` + server + `]}`})
	nova.Inject(&Fault{Method: http.MethodGet, Path: "/servers/6b6c2b8e-7b4c-4b64-9d5b-0d3f6b7b9a11", Status: http.StatusOK, Body: `{"server": ` + server + `}`})
	in := install(t, cloudsFile(t, "a", cloud.glance, "    compute_endpoint_override: "+nova.URL+"/v2.1\n"), "  a: {type: openstack, cloud: a}\n")
	const want = "it has booted from a volume, and this cloud has no block storage service"
	for _, args := range [][]string{
		{"capture", "a:instances/vol"},
		{"capture", "a:instances/vol", "--image", "x"},
		{"cp", "a:instances/vol", filepath.Join(t.TempDir(), "x.raw")},
		{"cp", "a:instances/vol", "a:images/x"},
	} {
		if out, err := in.try(args...); err == nil || !strings.Contains(out, want) {
			t.Errorf("%q: %v: %s", args, err, out)
		}
	}
	for _, line := range nova.Log() {
		if strings.HasPrefix(line, "POST") {
			t.Errorf("nova was asked for %s", line)
		}
	}
}

// proxyOf is a proxy until the end of the test.
func proxyOf(t testing.TB, target string) *Proxy {
	t.Helper()
	p, err := NewProxy(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}
