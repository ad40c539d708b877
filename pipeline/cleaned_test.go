package pipeline

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"chromogenic/cleaner"
	"chromogenic/cleaner/guest"
	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/pipeline/jobs"
)

// program builds chromogenic once, static, for it is what runs in the sandbox.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "chromogenic-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "chromogenic")
	cmd := exec.Command("go", "build", "-o", path, "chromogenic")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", disk.Errorf(disk.Other, "build: %w: %s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	if guest.Child(cleaner.Serve) {
		return
	}
	code := m.Run()
	if !testing.Short() {
		if path, err := program(); err == nil {
			os.RemoveAll(filepath.Dir(path))
		}
	}
	os.Exit(code)
}

// cleans has guests cleaned, and makes clouds of the folders.
func cleans(t testing.TB) func(*Options) {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a kernel in a sandbox")
	}
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return func(o *Options) {
		o.Cleaning.Guest.Executable = path
		for i := range o.Sites {
			o.Sites[i].Cloud = true
		}
	}
}

// guestDisk is a disk with a guest that has a secret.
func guestDisk(t testing.TB, more map[string]string) disk.Image {
	t.Helper()
	f, err := os.Open(disktest.Guest(t, more))
	if err != nil {
		t.Fatal(err)
	}
	img, err := disk.OpenFile(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close() })
	return img
}

// holdsSecret tells whether a secret is anywhere in an image.
func holdsSecret(t testing.TB, img disk.Image) bool {
	t.Helper()
	p := make([]byte, img.Size())
	if err := disk.ReadFull(img, p, 0); err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(p, []byte(disktest.Secret))
}

// TestCleanPolicies copies a guest by every policy, and looks whether its secret goes along.
func TestCleanPolicies(t *testing.T) {
	b := newBench(t, cleans(t))
	guest := guestDisk(t, nil)
	if !holdsSecret(t, guest) {
		t.Fatal("the guest has no secret")
	}
	b.put("a/web.raw", guest)
	for _, x := range []struct {
		name  string
		spec  CopySpec
		clean bool
	}{
		{"auto", CopySpec{From: b.view("a", "web", "raw")}, true},
		{"off", CopySpec{From: b.view("a", "web", "raw"), Clean: "off"}, false},
		{"best-effort", CopySpec{From: b.view("a", "web", "qcow2"), Clean: "best-effort"}, true},
		{"outside", CopySpec{Image: guest, Format: "raw"}, false},
		{"outside-require", CopySpec{Image: guest, Format: "raw", Clean: "require"}, true},
	} {
		x.spec.Site, x.spec.Name = "b", x.name
		rec, err := b.copy(x.spec)
		if err != nil {
			t.Errorf("%s: %v", x.name, err)
			continue
		}
		if rec.Cleaned != x.clean {
			t.Errorf("%s: the record says cleaned: %v; stages %+v", x.name, rec.Cleaned, rec.Stages)
		}
		if got := holdsSecret(t, b.view("b", x.name, "raw")); got == x.clean {
			t.Errorf("%s: the secret is there: %v", x.name, got)
		}
		var report cleaner.Report
		if x.clean && (json.Unmarshal(rec.Cleaning, &report) != nil || len(report.Operations) == 0) {
			t.Errorf("%s: the record has the report %s", x.name, rec.Cleaning)
		}
	}
	disktest.Compare(t, b.view("a", "web", "raw"), guest) // never written
}

// TestCleanLeavesFoldersAlone restores and backs up byte for byte.
func TestCleanLeavesFoldersAlone(t *testing.T) {
	if testing.Short() {
		t.Skip("as the others")
	}
	guest := guestDisk(t, nil)
	for name, clouds := range map[string][2]bool{"a restore": {false, true}, "a backup": {true, false}} {
		b := newBench(t, cleans(t), func(o *Options) { o.Sites[0].Cloud, o.Sites[1].Cloud = clouds[0], clouds[1] })
		b.put("a/web.raw", guest)
		rec, err := b.copy(CopySpec{From: b.view("a", "web", "raw"), Site: "b", Name: "web"})
		if err != nil || rec.Cleaned {
			t.Fatalf("%s: %+v, %v", name, rec, err)
		}
		disktest.Compare(t, b.view("b", "web", "raw"), guest)
	}
}

// TestCleanRefused leaves nothing of an image that cannot be cleaned, and says what to do.
func TestCleanRefused(t *testing.T) {
	b := newBench(t, cleans(t))
	b.put("a/noise.raw", disktest.Pattern(8<<20, func(int64) bool { return true }))
	b.put("a/locked.raw", guestDisk(t, map[string]string{"etc/cloud/cloud.cfg": "", "usr/bin/cloud-init": ""}))
	rec, err := b.copy(CopySpec{From: b.view("a", "noise", "raw"), Site: "b", Name: "noise"})
	wantKind(t, err, disk.Unsupported)
	if hint := disk.AsError(err).Hint; !strings.Contains(hint, "--clean off") {
		t.Errorf("the hint is %q", hint)
	}
	if rec.State != jobs.Failed || rec.Stage != stageClean {
		t.Errorf("record %+v", rec)
	}
	if got := b.files("b"); len(got) > 0 || b.unfinished("b") > 0 {
		t.Errorf("the destination holds %v", got)
	}
	rec, err = b.copy(CopySpec{From: b.view("a", "noise", "raw"), Site: "b", Name: "noise", Clean: "best-effort"})
	if err != nil || rec.Cleaned || len(rec.Notes) == 0 || !strings.Contains(strings.Join(rec.Notes, " "), "NOT cleaned") {
		t.Errorf("best-effort: %+v, %v", rec, err)
	}
	disktest.Compare(t, b.view("b", "noise", "raw"), b.view("a", "noise", "raw"))
	_, err = b.copy(CopySpec{From: b.view("a", "locked", "raw"), Site: "b", Name: "locked"})
	wantKind(t, err, disk.Policy)
	if hint := disk.AsError(err).Hint; !strings.Contains(hint, "--keep-user") {
		t.Errorf("the hint is %q", hint)
	}
}

// TestCleanedView reads a cleaned image twice, by two processes, in formats of several
// containers: the same bytes, for it is cleaned once.
func TestCleanedView(t *testing.T) {
	clean := cleans(t)
	b := newBench(t, clean)
	b.put("a/web.raw", guestDisk(t, nil))
	read := func(format string) []byte {
		t.Helper()
		st, err := b.Stat(context.Background(), b.Cleaned(Ref{Site: "a", Entry: b.entry("a", "web"), Format: format}))
		if err != nil {
			t.Fatal(err)
		}
		v, err := b.View(context.Background(), b.Cleaned(Ref{Site: "a", Entry: b.entry("a", "web"), Format: format}))
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		if v.Size() != st.Size {
			t.Errorf("%s has %d bytes, and %d were told", format, v.Size(), st.Size)
		}
		p := make([]byte, v.Size())
		if err := disk.ReadFull(v, p, 0); err != nil {
			t.Fatal(err)
		}
		return p
	}
	first := map[string][]byte{}
	for _, format := range viewFormats {
		first[format] = read(format)
	}
	if bytes.Contains(first["raw"], []byte(disktest.Secret)) {
		t.Error("the secret is still there")
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b.open(clean)
	for _, format := range viewFormats {
		if !bytes.Equal(read(format), first[format]) {
			t.Errorf("%s is another file in the next process", format)
		}
	}
	// A copy is made of the same bytes, and a second one is no work.
	for i := range 2 {
		rec, err := b.copy(CopySpec{From: b.view("a", "web", "raw"), Site: "b", Name: "web"})
		if err != nil || !rec.Cleaned || rec.Unchanged != (i == 1) {
			t.Fatalf("copy %d: %+v, %v", i, rec, err)
		}
	}
	v := b.view("b", "web", "raw")
	disktest.Compare(t, v, disk.Bytes(first["raw"]))
}

// TestCleanedDamage damages what is kept of a cleaned image: who reads is told, and it is
// cleaned anew.
func TestCleanedDamage(t *testing.T) {
	clean := cleans(t)
	b := newBench(t, clean)
	b.put("a/web.raw", guestDisk(t, nil))
	ref := b.Cleaned(Ref{Site: "a", Entry: b.entry("a", "web"), Format: formatRaw})
	if _, err := b.Stat(context.Background(), ref); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(b.dir, "state", "cleaned", "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("patches %v, %v", files, err)
	}
	p, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	p[len(p)/2] ^= 1
	if err := os.WriteFile(files[0], p, 0o600); err != nil {
		t.Fatal(err)
	}
	v, err := b.View(context.Background(), ref)
	if err != nil {
		t.Fatal(err)
	}
	wantKind(t, v.Ready(context.Background()), disk.Stale)
	v.Close()
	v, err = b.View(context.Background(), ref)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if holdsSecret(t, v) {
		t.Error("the secret is there")
	}
}

// TestRecognisedOfCloud writes the bytes that an image of a cloud and one of a folder
// share while both are open: it is taken for a copy of the cloud's, which is cleaned.
func TestRecognisedOfCloud(t *testing.T) {
	b := newBench(t, func(o *Options) { o.Sites[1].Cloud = true })
	b.put("a/web.raw", holes())
	b.put("b/web.raw", holes())
	for range 20 {
		folder, cloud := b.view("a", "web", "raw"), b.view("b", "web", "raw")
		first := b.recent()
		if len(first) != 2 || first[0] != cloud.core || first[1] != folder.core {
			t.Fatalf("the order is %v", first)
		}
		for _, c := range first {
			b.drop(c)
		}
	}
}
