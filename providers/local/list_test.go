package local

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/providers"
)

// formatsByExt is what main gives: the extensions of the table of formats.
func formatsByExt() map[string]string {
	return map[string]string{"raw": "raw", "img": "raw", "qcow2": "qcow2", "vmdk": "vmdk", "ova": "ova", "ovf": "ovf"}
}

// newProvider makes a provider of two new folders.
func newProvider(t *testing.T) (p *Provider, images, instances string) {
	t.Helper()
	images, instances = t.TempDir(), t.TempDir()
	return makeProvider(t, Options{Images: images, Instances: instances}), images, instances
}

func makeProvider(t *testing.T, o Options) *Provider {
	t.Helper()
	o.Name, o.Formats, o.Machines = "office", formatsByExt(), []string{"ova", "ovf"}
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func write(t *testing.T, folder, file, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(folder, file), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func list(t *testing.T, p *Provider, kind providers.Kind) []providers.Entry {
	t.Helper()
	entries, err := p.List(t.Context(), kind)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// find is the entry of a file.
func find(t *testing.T, p *Provider, kind providers.Kind, id string) providers.Entry {
	t.Helper()
	for _, e := range list(t, p, kind) {
		if e.ID == id {
			return e
		}
	}
	t.Fatalf("no %s %q", kind, id)
	return providers.Entry{}
}

func TestListEntry(t *testing.T) {
	p, images, instances := newProvider(t)
	before := time.Now().Add(-time.Second)
	write(t, images, "a%2Fb.QCOW2", "bytes")
	write(t, instances, "web.img", "")
	mtime := time.Unix(1700000000, 123456789)
	if err := os.Chtimes(filepath.Join(images, "a%2Fb.QCOW2"), time.Time{}, mtime); err != nil {
		t.Fatal(err)
	}
	e := list(t, p, providers.Images)[0]
	if e.Created.Before(before) || e.Created.After(time.Now().Add(time.Second)) {
		t.Errorf("created %v, not now", e.Created)
	}
	if !strings.HasPrefix(e.Version, "5-1700000000.123456789-") {
		t.Errorf("version is %q", e.Version)
	}
	want := providers.Entry{
		Kind: providers.Images, ID: "a%2Fb.QCOW2", Name: "a/b", Version: e.Version, Created: e.Created, Updated: mtime,
		Status: "active", Format: "qcow2", Size: 5, VirtualSize: -1,
	}
	if diff := cmp.Diff(want, e); diff != "" {
		t.Error(diff)
	}
	got := list(t, p, providers.Instances)
	if len(got) != 1 || got[0].Kind != providers.Instances || got[0].Name != "web" || got[0].Format != "raw" || got[0].Status != "running" {
		t.Errorf("instances are %+v", got)
	}
}

// TestListKinds lists every kind of file that a folder may hold.
func TestListKinds(t *testing.T) {
	p, images, _ := newProvider(t)
	outside := t.TempDir()
	write(t, outside, "secret.raw", "secret")
	write(t, images, "plain.raw", "plain")
	for _, name := range []string{".hidden.raw", "notes.txt", "noext", "old.raw~", ".raw", "x.raw.part"} {
		write(t, images, name, "ignored")
	}
	at := func(name string) string { return filepath.Join(images, name) }
	sock, err := net.Listen("unix", at("sock.raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	for _, err := range []error{
		os.Mkdir(at("folder.raw"), 0o755),
		os.Symlink("plain.raw", at("link.raw")),
		os.Symlink("folder.raw", at("tofolder.raw")),
		os.Symlink("gone.raw", at("dangling.raw")),
		os.Symlink("loop.raw", at("loop.raw")),
		os.Symlink(filepath.Join(outside, "secret.raw"), at("absolute.raw")),
		os.Symlink("../"+filepath.Base(outside)+"/secret.raw", at("parent.raw")),
		os.Symlink("fifo.raw", at("tofifo.raw")),
		unix.Mkfifo(at("fifo.raw"), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	got := map[string]string{}
	for _, e := range list(t, p, providers.Images) {
		got[e.ID] = e.Reason
	}
	want := map[string]string{
		"plain.raw": "", "link.raw": "",
		"dangling.raw": reasonDangling, "loop.raw": reasonDangling,
		"absolute.raw": reasonEscapes, "parent.raw": reasonEscapes,
		"fifo.raw": reasonNotRegular, "tofifo.raw": reasonNotRegular, "sock.raw": reasonNotRegular,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	kinds := map[string]disk.Kind{
		"dangling.raw": disk.NotFound, "loop.raw": disk.NotFound, "absolute.raw": disk.Policy, "parent.raw": disk.Policy,
		"fifo.raw": disk.Unsupported, "tofifo.raw": disk.Unsupported, "sock.raw": disk.Unsupported,
	}
	for file, kind := range kinds {
		src, err := p.Open(t.Context(), find(t, p, providers.Images, file), 0)
		if err == nil {
			src.Close()
		}
		if disk.KindOf(err) != kind {
			t.Errorf("open %s: %v of kind %v, want kind %v", file, err, disk.KindOf(err), kind)
		}
	}
	for _, id := range []string{"../" + filepath.Base(outside) + "/secret.raw", ".hidden.raw", "notes.txt", "/etc/passwd.raw", "", "folder.raw/x.raw"} {
		e := providers.Entry{Kind: providers.Images, ID: id}
		if _, err := p.Open(t.Context(), e, 0); disk.KindOf(err) != disk.NotFound {
			t.Errorf("open id %q: %v, want not found", id, err)
		}
	}
}

// TestListMany checks that a large folder is listed without opening its files.
func TestListMany(t *testing.T) {
	p, images, _ := newProvider(t)
	const files = 5000
	for i := range files {
		write(t, images, fmt.Sprintf("image-%04d.raw", i), "")
	}
	began := time.Now()
	entries := list(t, p, providers.Images)
	took := time.Since(began)
	if len(entries) != files {
		t.Errorf("%d entries, want %d", len(entries), files)
	}
	if !slices.IsSortedFunc(entries, func(a, b providers.Entry) int { return strings.Compare(a.ID, b.ID) }) {
		t.Error("the listing is not in order")
	}
	if took > 2*time.Second {
		t.Errorf("listing %d files took %v", files, took)
	}
}

func TestListSameName(t *testing.T) {
	p, images, _ := newProvider(t)
	write(t, images, "x.raw", "raw")
	older := find(t, p, providers.Images, "x.raw")
	time.Sleep(10 * time.Millisecond)
	write(t, images, "x.qcow2", "qcow2")
	if err := os.Chtimes(filepath.Join(images, "x.qcow2"), time.Time{}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	newer := find(t, p, providers.Images, "x.qcow2")
	if older.Name != newer.Name || !older.Created.Before(newer.Created) {
		t.Errorf("%q was created %v, the newcomer %q %v", older.Name, older.Created, newer.Name, newer.Created)
	}
	if diff := cmp.Diff(older, find(t, p, providers.Images, "x.raw")); diff != "" {
		t.Error(diff)
	}
}
