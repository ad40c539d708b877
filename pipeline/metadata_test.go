package pipeline

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
)

var someMeta = providers.Metadata{
	Meta:  disk.Meta{Firmware: "uefi", MinDisk: 10, OSDistro: "debian"},
	Props: map[string]string{"hw_x": "1", "img_signature": "s", "os_hash_value": "h", "chromogenic_src_y": "2"},
}

// setMeta sets the metadata of an image.
func (b *bench) setMeta(site, name string, m providers.Metadata) providers.Entry {
	b.t.Helper()
	e, err := b.SetMeta(context.Background(), site, b.entry(site, name), m)
	if err != nil {
		b.t.Fatal(err)
	}
	return e
}

func TestSetMeta(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", holes())
	old := b.entry("a", "web")
	sum, err := b.GuestDigest(t.Context(), Ref{Site: "a", Entry: old, Format: "raw"})
	if err != nil {
		t.Fatal(err)
	}
	ova, raw := b.sum("a", "web", "ova"), b.sum("a", "web", "raw")
	e := b.setMeta("a", "web", someMeta)
	if now := b.entry("a", "web"); now.Version != e.Version || !now.Same(someMeta) {
		t.Errorf("listed as %+v, want %+v", now, e)
	}
	if got := b.KnownDigest(Ref{Site: "a", Entry: e}); got != sum {
		t.Errorf("digest %q, before %q", got, sum)
	}
	if b.sum("a", "web", "ova") == ova || b.sum("a", "web", "raw") != raw {
		t.Error("an ova says what is known of the machine, and the disk is the same")
	}
	m, err := b.Machine(t.Context(), Ref{Site: "a", Entry: e, Format: "ova"})
	if err != nil || m.Meta.Firmware != "uefi" {
		t.Errorf("the machine is %+v, %v", m, err)
	}
	// The same again, at the same time or whenever, is no work.
	for _, at := range []time.Time{{}, e.MetaTime} {
		same := someMeta
		same.MetaTime = at
		if got := b.setMeta("a", "web", same); got.Version != e.Version || !got.MetaTime.Equal(e.MetaTime) {
			t.Errorf("set again: %+v, was %+v", got, e)
		}
	}
	text, mtime, err := b.Document(t.Context(), "a", e)
	doc, derr := providers.DecodeDocument(text)
	if err != nil || derr != nil || doc.Name != "web" || !doc.Same(someMeta) || !mtime.Equal(e.MetaTime) || doc.Disks != nil {
		t.Errorf("document %s of %v, %v, %v", text, mtime, err, derr)
	}
	_, err = b.SetMeta(t.Context(), "nowhere", e, someMeta)
	wantKind(t, err, disk.NotFound)
}

// TestMetadataOfContainer: what an ova says is its metadata, until other is set.
func TestMetadataOfContainer(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", holes())
	b.setMeta("a", "web", someMeta)
	b.put("b/box.ova", b.view("a", "web", "ova"))
	m, err := b.Metadata(t.Context(), "b", b.entry("b", "box"))
	if err != nil || m.Meta.Firmware != "uefi" || m.Meta.OSDistro != "debian" || m.Meta.CPUs == 0 {
		t.Errorf("metadata of an ova: %+v, %v", m, err)
	}
	text, mtime, err := b.Document(t.Context(), "b", b.entry("b", "box"))
	if err != nil || !mtime.Equal(b.entry("b", "box").Updated) {
		t.Errorf("document %s of %v: %v", text, mtime, err)
	}
	e := b.setMeta("b", "box", providers.Metadata{Meta: disk.Meta{Arch: "x86_64"}})
	if m, err := b.Metadata(t.Context(), "b", e); err != nil || m.Meta.Arch != "x86_64" || m.Meta.Firmware != "" {
		t.Errorf("what was set is all: %+v, %v", m, err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "b", "box.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.Forget("b")
	_, _, err = b.Document(t.Context(), "b", b.entry("b", "box"))
	wantKind(t, err, disk.Malformed)
}

func TestCopyMetadata(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", holes())
	b.setMeta("a", "web", someMeta)
	rec, err := b.Copy(t.Context(), CopySpec{From: b.view("a", "web", "raw"), Site: "b", Name: "web", Store: "qcow2"})
	if err != nil {
		t.Fatal(err)
	}
	want := someMeta
	want.Props = map[string]string{"hw_x": "1", "chromogenic_src_y": "2"} // signatures and digests stay behind
	if e := b.entry("b", "web"); !e.Same(want) || rec.Entry.Version != e.Version {
		t.Errorf("arrived as %+v, want %+v", e, want)
	}
	// An image of which nothing is known brings nothing, and an ova says it itself.
	b.put("a/bare.raw", holes())
	b.put("a/box.ova", b.view("a", "web", "ova"))
	for _, name := range []string{"bare", "box"} {
		v := b.view("a", name, b.entry("a", name).Format)
		if _, err := b.Copy(t.Context(), CopySpec{From: v, Site: "b", Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.files("b"); !slices.Equal(got, []string{"bare.raw", "box.ova", "web.json", "web.qcow2"}) {
		t.Errorf("the folder holds %q", got)
	}
	// As another format the container says nothing any longer.
	if _, err := b.Copy(t.Context(), CopySpec{From: b.view("a", "box", "ova"), Site: "b", Name: "unpacked", Store: "raw"}); err != nil {
		t.Fatal(err)
	}
	if e := b.entry("b", "unpacked"); e.Meta.Firmware != "uefi" {
		t.Errorf("unpacked, the ova is %+v", e.Metadata)
	}
}

// keeps knows some properties.
type keeps map[string]bool

func (k keeps) KeepsProp(key string) bool { return k[key] }

func TestCarried(t *testing.T) {
	for key, want := range map[string]string{
		"hw_x": "hw_x", "other": "chromogenic_src_other", "chromogenic_src_z": "chromogenic_src_z",
		"img_signature": "", "img_signature_key_type": "", "os_hash_algo": "", "stores": "", "chromogenic_job": "",
		"chromogenic_src_os_hash_value": "",
	} {
		if got, ok := carried(keeps{"hw_x": true}, key); got != want || ok != (want != "") {
			t.Errorf("%s is carried as %q, %v, want %q", key, got, ok, want)
		}
	}
	if got, _ := carried(nil, "hw_x"); got != "chromogenic_src_hw_x" {
		t.Errorf("to who knows none: %q", got)
	}
}

// TestHeldMeta: metadata waits for its image, over a restart, and goes with it.
func TestHeldMeta(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", holes())
	b.setMeta("a", "web", providers.Metadata{Meta: disk.Meta{MinRAM: 5}})
	held := someMeta
	held.MetaTime = time.Unix(1600000000, 5)
	for _, name := range []string{"web", "late", "outside"} {
		if err := b.HoldMeta("b", name, held); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b.open()
	if got := slices.Sorted(maps.Keys(b.held)); len(got) != 3 {
		t.Fatalf("after a restart there are %q", got)
	}
	rec, err := b.Copy(t.Context(), CopySpec{From: b.view("a", "web", "qcow2"), Site: "b", Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	e := b.entry("b", "web")
	if !e.Same(held) || !e.MetaTime.Equal(held.MetaTime) || rec.Entry.Version != e.Version {
		t.Errorf("with what waited the image is %+v", e)
	}
	// One that came by another way gets it too, later.
	b.put("b/outside.raw", holes())
	if expired := b.SettleMeta(t.Context()); expired != nil {
		t.Errorf("given up: %+v", expired)
	}
	if e := b.entry("b", "outside"); !e.Same(held) {
		t.Errorf("the image from outside is %+v", e)
	}
	// What has waited too long is given up, once, for good.
	key := heldKey("b", "late")
	late := b.held[key]
	late.Since = late.Since.Add(-heldTime - time.Minute)
	b.held[key] = late
	if expired := b.SettleMeta(t.Context()); len(expired) != 1 || expired[0].Name != "late" {
		t.Errorf("given up: %+v", expired)
	}
	if expired := b.SettleMeta(t.Context()); len(expired) != 0 || len(b.held) != 0 || len(b.state.all(bucketHeld)) != 0 {
		t.Errorf("still there: %+v, %+v", expired, b.held)
	}
}
