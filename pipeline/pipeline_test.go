package pipeline

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
	"chromogenic/providers/local"
)

// A bench is a pipeline over folders a and b, with instances in a.
type bench struct {
	*Pipeline
	t   *testing.T
	dir string
}

func newBench(t *testing.T, change ...func(*Options)) *bench {
	b := &bench{t: t, dir: t.TempDir()}
	for _, d := range []string{"a", "b", "live"} {
		if err := os.Mkdir(filepath.Join(b.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b.open(change...)
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// open makes the pipeline, again after a Close.
func (b *bench) open(change ...func(*Options)) {
	b.t.Helper()
	o := Options{StateDir: filepath.Join(b.dir, "state")}
	for _, name := range []string{"a", "b"} {
		lo := local.Options{
			Name: name, Images: filepath.Join(b.dir, name),
			Formats: map[string]string{"raw": "raw", "img": "raw", "qcow2": "qcow2", "vmdk": "vmdk", "ova": "ova", "ovf": "ovf"}, Machines: []string{"ova", "ovf"},
		}
		if name == "a" {
			lo.Instances = filepath.Join(b.dir, "live")
		}
		p, err := local.New(lo)
		if err != nil {
			b.t.Fatal(err)
		}
		o.Sites = append(o.Sites, Site{Provider: p})
	}
	for _, f := range change {
		f(&o)
	}
	var err error
	if b.Pipeline, err = New(o); err != nil {
		b.t.Fatal(err)
	}
}

// put writes a file made of img into one of the folders.
func (b *bench) put(name string, img disk.Image) {
	b.t.Helper()
	f, err := os.Create(filepath.Join(b.dir, name))
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(img.Size()); err != nil {
		b.t.Fatal(err)
	}
	if err := disk.Copy(context.Background(), f, img, disk.CopyOptions{}); err != nil {
		b.t.Fatal(err)
	}
	b.age(name)
	b.Forget("a")
	b.Forget("b")
}

// age makes a file look as if it was written an hour ago.
func (b *bench) age(name string) {
	b.t.Helper()
	when := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(b.dir, name), when, when); err != nil {
		b.t.Fatal(err)
	}
}

// entry finds an image by its true name.
func (b *bench) entry(site, name string) providers.Entry {
	b.t.Helper()
	return b.find(site, providers.Images, name)
}

func (b *bench) find(site string, kind providers.Kind, name string) providers.Entry {
	b.t.Helper()
	l, err := b.List(context.Background(), site, kind)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, e := range l.Entries {
		if e.Name == name {
			return e
		}
	}
	b.t.Fatalf("no %s %q in %s: %v", kind, name, site, l.Entries)
	panic("unreachable")
}

func (b *bench) view(site, name, format string) *View {
	b.t.Helper()
	v, err := b.View(context.Background(), Ref{Site: site, Entry: b.entry(site, name), Format: format})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { v.Close() })
	return v
}

// sum is the digest of the bytes of a view.
func (b *bench) sum(site, name, format string) string {
	b.t.Helper()
	s, err := disk.FlatSum(context.Background(), b.view(site, name, format))
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// files are the names of a folder, dotfiles too.
func (b *bench) files(dir string) []string {
	b.t.Helper()
	list, err := os.ReadDir(filepath.Join(b.dir, dir))
	if err != nil {
		b.t.Fatal(err)
	}
	var out []string
	for _, f := range list {
		out = append(out, f.Name())
	}
	return out
}

// holes is a disk of 3 MiB and an odd sector with data at both ends and in the
// middle.
func holes() disk.Image {
	const size = 3<<20 + 512
	return disktest.Runs(size, disk.Extent{Off: 0, Len: 100 << 10}, disk.Extent{Off: 1 << 20, Len: 64 << 10}, disk.Extent{Off: size - 1024, Len: 1024})
}

func wantKind(t *testing.T, err error, want disk.Kind) {
	t.Helper()
	if err == nil || disk.KindOf(err) != want {
		t.Fatalf("error %v is %s, want %s", err, disk.KindOf(err).Code(), want.Code())
	}
}

var viewFormats = []string{"raw", "qcow2", "vmdk", "ova"}

func TestViewsAreTheSameForEver(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", holes())
	before := map[string]string{}
	for _, f := range viewFormats {
		st, err := b.Stat(context.Background(), Ref{Site: "a", Entry: b.entry("a", "web"), Format: f})
		if err != nil {
			t.Fatal(err)
		}
		v := b.view("a", "web", f)
		if v.Size() != st.Size || v.Allocated() != st.Allocated {
			t.Errorf("%s: view of %d/%d bytes, stat said %v", f, v.Size(), v.Allocated(), st)
		}
		if st.Allocated > st.Size {
			t.Errorf("%s: %d bytes allocated of %d", f, st.Allocated, st.Size)
		}
		before[f] = b.sum("a", "web", f)
	}
	disktest.Compare(t, b.view("a", "web", "raw"), holes())
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	// Holes that the file system forgets change nothing: the map is frozen.
	f, err := os.OpenFile(filepath.Join(b.dir, "a/web.raw"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 64<<10), 512<<10); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(f.Name(), st.ModTime(), st.ModTime()); err != nil {
		t.Fatal(err)
	}
	f.Close()
	b.open()
	for _, f := range viewFormats {
		if got := b.sum("a", "web", f); got != before[f] {
			t.Errorf("%s: other bytes after a restart", f)
		}
	}
}

func TestSameFormatPassesThrough(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", holes())
	for _, f := range []string{"qcow2", "vmdk", "ova"} {
		v := b.view("a", "web", f)
		b.put("b/"+f+"."+f, v)
		whole, err := os.ReadFile(filepath.Join(b.dir, "b", f+"."+f))
		if err != nil {
			t.Fatal(err)
		}
		disktest.Compare(t, b.view("b", f, f), disk.Bytes(whole))
		disktest.Compare(t, b.view("b", f, "raw"), b.view("a", "web", "raw"))
	}
}

func TestViewIsStaleWhenItsFileChanges(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", holes())
	old := b.entry("a", "web")
	v := b.view("a", "web", "qcow2")
	buf := make([]byte, 512)
	if _, err := v.ReadAt(buf, 1<<19); err != nil {
		t.Fatal(err)
	}
	b.put("a/web.raw", disktest.Pattern(2<<20, func(int64) bool { return true }))
	_, err := v.ReadAt(buf, 1<<19)
	wantKind(t, err, disk.Stale)
	late, err := b.View(context.Background(), Ref{Site: "a", Entry: old, Format: "raw"})
	if err == nil {
		defer late.Close()
		_, err = late.ReadAt(buf, 0)
	}
	wantKind(t, err, disk.Stale)
}

func TestUnreadableImagesHaveAReason(t *testing.T) {
	b := newBench(t)
	b.put("a/good.raw", holes())
	b.put("a/bad.qcow2", disk.Bytes(bytes.Repeat([]byte("no qcow2 "), 100)))
	b.put("a/cloud.img", b.view("a", "good", "qcow2"))
	for name, bad := range map[string]bool{"good": false, "bad": true, "cloud": true} {
		e := b.entry("a", name)
		if bad != (e.Reason != "") {
			t.Errorf("%s: reason %q", name, e.Reason)
		}
		_, err := b.Stat(context.Background(), Ref{Site: "a", Entry: e, Format: "raw"})
		if bad {
			wantKind(t, err, disk.Malformed)
		} else if err != nil {
			t.Error(err)
		}
	}
}

func TestFolderGoneIsNoEmptyListing(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", holes())
	b.entry("a", "web")
	if err := os.Rename(filepath.Join(b.dir, "a"), filepath.Join(b.dir, "away")); err != nil {
		t.Fatal(err)
	}
	_, err := b.ListNow(context.Background(), "a", providers.Images)
	wantKind(t, err, disk.Unreachable)
	if err := os.Mkdir(filepath.Join(b.dir, "a"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err = b.ListNow(context.Background(), "a", providers.Images)
	wantKind(t, err, disk.Unreachable)
}

// A doubtful provider has one image that cannot be read today.
type doubtful struct{ err error }

func (doubtful) Name() string { return "doubtful" }

func (doubtful) ProbeOnList() bool { return true }

func (doubtful) List(context.Context, providers.Kind) ([]providers.Entry, error) {
	return []providers.Entry{{Kind: providers.Images, ID: "x.raw", Version: "1", Name: "x", Format: "raw"}}, nil
}

func (p doubtful) Open(context.Context, providers.Entry, int) (providers.Source, error) {
	return providers.Source{}, p.err
}

// TestDoubtfulImagesStay holds what a listing leaves out: what is missing from
// it, rsync --delete deletes from the backup.
func TestDoubtfulImagesStay(t *testing.T) {
	for _, err := range []error{syscall.EIO, syscall.EMFILE, disk.Errorf(disk.Stale, "being written")} {
		b := newBench(t, func(o *Options) { o.Sites = append(o.Sites, Site{Provider: doubtful{err}}) })
		if e := b.entry("doubtful", "x"); e.Reason != "" {
			t.Errorf("%v: the image is left out: %s", err, e.Reason)
		}
	}
	b := newBench(t, func(o *Options) {
		o.Sites = append(o.Sites, Site{Provider: doubtful{disk.Errorf(disk.Malformed, "no image")}})
	})
	if e := b.entry("doubtful", "x"); e.Reason == "" {
		t.Error("a malformed image has no reason")
	}
}

func TestStateHasOneOwner(t *testing.T) {
	b := newBench(t)
	_, err := New(Options{StateDir: filepath.Join(b.dir, "state")})
	wantKind(t, err, disk.Busy)
	if disk.AsError(err).Hint == "" {
		t.Error("no hint")
	}
}

func TestInstanceIsAPointInTime(t *testing.T) {
	b := newBench(t)
	b.put("live/vm.raw", holes())
	e := b.find("a", providers.Instances, "vm")
	ref := Ref{Site: "a", Entry: e, Format: "raw"}
	v, err := b.View(context.Background(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if v.Allocated() != v.Size() {
		t.Errorf("a live disk shows holes: %d of %d bytes", v.Allocated(), v.Size())
	}
	if got := len(b.files("live")); got != 1 {
		t.Errorf("captured before it was read: %v", b.files("live"))
	}
	disktest.Compare(t, v, holes())
	f, err := os.OpenFile(filepath.Join(b.dir, "live/vm.raw"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("changed"), 0); err != nil {
		t.Fatal(err)
	}
	f.Close()
	disktest.Compare(t, v, holes())
	rec, err := b.Copy(context.Background(), CopySpec{From: v, Site: "b", Name: "vm-copy"})
	if err != nil {
		t.Fatal(err)
	}
	if rec.Bytes >= v.Size() {
		t.Errorf("the copy of a sparse capture sent %d bytes of %d", rec.Bytes, v.Size())
	}
	disktest.Compare(t, b.view("b", "vm-copy", "raw"), holes())
	v.Close()
	b.Pipeline.Close()
	if got := b.files("live"); !slices.Equal(got, []string{"vm.raw"}) {
		t.Errorf("left behind: %v", got)
	}
	b.open()
}
