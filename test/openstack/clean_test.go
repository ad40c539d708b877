package openstack

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"chromogenic/disk/disktest"
)

// wantSecret tells whether the guest's secret is anywhere in a raw file.
func wantSecret(t testing.TB, path string, want bool) {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := bytes.Contains(p, []byte(disktest.Secret)); got != want {
		t.Errorf("%s: the secret is in it: %v", path, got)
	}
}

// cleaningSites is an installation with two projects that clean by their own policy, a
// folder, and a guest of 64 MiB as image "guest" in a and in the folder.
func cleaningSites(t *testing.T, more map[string]string) (in *installation, a, b *api, guest string) {
	t.Helper()
	guest = disktest.Guest(t, more)
	folder := t.TempDir() // its guest is another one, for who copies two that are alike may be taken to copy the other
	sh(t, "cp", "--sparse=always", disktest.Guest(t, map[string]string{"etc/motd": "of the folder\n"}), filepath.Join(folder, "guest.raw"))
	in = install(t, cloud.clouds, "  a: {type: openstack, cloud: a, clean: auto}\n  b: {type: openstack, cloud: b, clean: auto}\n  folder: {type: local, images: "+folder+"}\n")
	a, b = login(t, "a"), login(t, "b")
	a.clear(t)
	b.clear(t)
	qcow2 := filepath.Join(t.TempDir(), "guest.qcow2")
	sh(t, "qemu-img", "convert", "-O", "qcow2", guest, qcow2)
	f, err := os.Open(qcow2)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a.put(t, "guest", "qcow2", f, nil)
	return in, a, b, guest
}

// TestClean takes a guest from one project to another, by every way: what goes from
// cloud to cloud is clean, and nothing else.
func TestClean(t *testing.T) {
	in, _, _, guest := cleaningSites(t, nil)
	m := in.mount(t)
	wantSecret(t, filepath.Join(m, "a", "images", "guest.raw"), true)

	sh(t, "cp", filepath.Join(m, "a", "images", "guest.qcow2"), filepath.Join(m, "b", "images", "clean.qcow2"))
	wantSecret(t, filepath.Join(m, "b", "images", "clean.raw"), false)
	sh(t, "cp", filepath.Join(m, "a", "images", "guest.qcow2"), filepath.Join(m, "b", "images.verbatim", "verbatim.qcow2"))
	wantSecret(t, filepath.Join(m, "b", "images", "verbatim.raw"), true)
	sh(t, "cp", filepath.Join(m, "folder", "images", "guest.raw"), filepath.Join(m, "b", "images", "restored.raw"))
	sameFile(t, filepath.Join(m, "b", "images", "restored.raw"), filepath.Join(m, "folder", "images", "guest.raw"))
	sh(t, "cp", filepath.Join(m, "folder", "images", "guest.raw"), filepath.Join(m, "b", "images.cleaned", "asked.raw"))
	wantSecret(t, filepath.Join(m, "b", "images", "asked.raw"), false)

	// The view: exact sizes, the same bytes at every read, and what a copy is made of.
	for _, format := range []string{"raw", "qcow2", "vmdk"} {
		path := filepath.Join(m, "a", "images.cleaned", "guest."+format)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		first, again := filepath.Join(t.TempDir(), "first"), filepath.Join(t.TempDir(), "again")
		sh(t, "cp", path, first)
		sh(t, "cp", path, again)
		sameFile(t, first, again)
		if got, err := os.Stat(first); err != nil || got.Size() != info.Size() {
			t.Errorf("%s: %d bytes were told, %v, %v", format, info.Size(), got, err)
		}
	}
	sameFile(t, filepath.Join(m, "a", "images.cleaned", "guest.raw"), filepath.Join(m, "b", "images", "clean.raw"))
	sh(t, "cp", filepath.Join(m, "a", "images", "guest.qcow2"), filepath.Join(m, "b", "images", "clean.qcow2")) // no work

	out := filepath.Join(t.TempDir(), "out.raw")
	in.run(t, "export", "--clean", "a:images/guest", out)
	wantSecret(t, out, false)
	raw := filepath.Join(t.TempDir(), "own.raw")
	sh(t, "cp", guest, raw)
	in.run(t, "clean", "--in-place", raw)
	wantSecret(t, raw, false)
	sh(t, "e2fsck", "-fn", raw)
	if plan := in.run(t, "clean", "--plan", guest); !strings.Contains(plan, "/root/.netrc") {
		t.Errorf("the plan is %s", plan)
	}
	if seen := in.run(t, "inspect", "a:images/guest"); !strings.Contains(seen, "Debian GNU/Linux 12") || !strings.Contains(seen, "alice") {
		t.Errorf("inspect sees %s", seen)
	}
	wantSecret(t, filepath.Join(m, "folder", "images", "guest.raw"), true)
	wantSecret(t, filepath.Join(m, "a", "images", "guest.raw"), true)
}

// TestCleanRefused leaves nothing of what cannot be cleaned, and of a guest that nobody
// could log in to.
func TestCleanRefused(t *testing.T) {
	in, a, b, _ := cleaningSites(t, map[string]string{"etc/cloud/cloud.cfg": "", "usr/bin/cloud-init": ""})
	a.put(t, "noise", "raw", body(faultImage()), nil)
	m := in.mount(t)
	for name, want := range map[string]struct {
		errno syscall.Errno
		hint  string
	}{"noise": {syscall.ENOTSUP, "--clean off"}, "guest": {syscall.EPERM, "--keep-user"}} {
		out, err := tryCommand("cp", filepath.Join(m, "a", "images", name+".raw"), filepath.Join(m, "b", "images", name+".raw"))
		if err == nil || !strings.Contains(out, want.errno.Error()) && !strings.Contains(strings.ToLower(out), strings.ToLower(want.errno.Error())) {
			t.Errorf("%s: %v: %s, want %v", name, err, out, want.errno)
		}
		said := in.run(t, "explain", filepath.Join(m, "b", "images", name+".raw"))
		if !strings.Contains(said, want.hint) {
			t.Errorf("%s: explain says %s", name, said)
		}
	}
	if got := b.images(t); len(got) > 0 {
		t.Errorf("project b has %v", got)
	}
	sh(t, "cp", filepath.Join(m, "a", "images", "noise.raw"), filepath.Join(m, "b", "images.verbatim", "noise.raw"))
	in.run(t, "cp", "--clean", "best-effort", "a:images/noise", "b:images/noted")
}

// TestCleanCapture captures a machine: by a copy in the mount, by one into images.verbatim,
// and into an image of its own project.
func TestCleanCapture(t *testing.T) {
	in, a, _, _ := cleaningSites(t, nil)
	images := a.images(t)
	a.server(t, "web", images[0].text("id"))
	m := in.mount(t)
	sh(t, "cp", filepath.Join(m, "a", "instances", "web.qcow2"), filepath.Join(m, "b", "images", "clean.qcow2"))
	wantSecret(t, filepath.Join(m, "b", "images", "clean.raw"), false)
	sh(t, "cp", filepath.Join(m, "a", "instances", "web.qcow2"), filepath.Join(m, "b", "images.verbatim", "verbatim.qcow2"))
	wantSecret(t, filepath.Join(m, "b", "images", "verbatim.raw"), true)
	in.run(t, "capture", "a:instances/web", "--image", "golden")
	wantSecret(t, filepath.Join(m, "a", "images", "golden.raw"), false)
	in.run(t, "capture", "a:instances/web", "--image", "as-it-is", "--clean", "off")
	wantSecret(t, filepath.Join(m, "a", "images", "as-it-is.raw"), true)
}
