package pipeline

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

// putExtents writes a disk of two flat files with a descriptor, an hour old.
func (b *bench) putExtents(size int64) {
	b.t.Helper()
	for _, name := range []string{"a/x-f001.bin", "a/x-f002.bin"} {
		b.put(name, disktest.Runs(size, disk.Extent{Len: size / 2}))
	}
	text := fmt.Sprintf("# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"twoGbMaxExtentFlat\"\n"+
		"RW %d FLAT \"x-f001.bin\" 0\nRW %[1]d FLAT \"x-f002.bin\" 0\n", size/disk.SectorSize)
	b.put("a/x.vmdk", disk.Bytes([]byte(text)))
}

// TestPartsFacts changes a part of an image: what was known of the image before
// is kept, and is not used for the new version.
func TestPartsFacts(t *testing.T) {
	const size = 1 << 20
	b := newBench(t)
	b.putExtents(size)
	before := b.entry("a", "x")
	key := imageKey("a", before)
	if b.state.get(bucketFacts, key) == nil {
		t.Error("the facts of an image of several files are not kept")
	}
	st, err := b.Stat(context.Background(), Ref{Site: "a", Entry: before, Format: "raw"})
	if err != nil || st.Size != 2*size || st.Allocated != size {
		t.Fatalf("stat is %+v, %v", st, err)
	}
	sum, err := b.GuestDigest(context.Background(), Ref{Site: "a", Entry: before, Format: "raw"})
	if err != nil {
		t.Fatal(err)
	}
	old := b.view("a", "x", "qcow2")

	b.put("a/x-f002.bin", disktest.Runs(size, disk.Extent{Off: size / 4, Len: 3 * size / 4}))
	if err := os.Chtimes(filepath.Join(b.dir, "a/x-f002.bin"), time.Time{}, before.Updated.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	after := b.entry("a", "x")
	if after.Version == before.Version || !after.Updated.Equal(before.Updated.Add(time.Minute)) {
		t.Errorf("version is %q of %v, it was %q of %v", after.Version, after.Updated, before.Version, before.Updated)
	}
	st, err = b.Stat(context.Background(), Ref{Site: "a", Entry: after, Format: "raw"})
	if err != nil || st.Allocated != size/2+3*size/4 {
		t.Errorf("stat after the change is %+v, %v", st, err)
	}
	if now, err := b.GuestDigest(context.Background(), Ref{Site: "a", Entry: after, Format: "raw"}); err != nil || now == sum {
		t.Errorf("digest %q, %v after %q", now, err, sum)
	}
	_, err = disk.FlatSum(context.Background(), old)
	wantKind(t, err, disk.Stale)

	// Another process goes on with what was kept, by the same version.
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b.open()
	if again := b.entry("a", "x"); again.Version != after.Version {
		t.Errorf("version is %q in another process, it was %q", again.Version, after.Version)
	}
	if b.KnownDigest(Ref{Site: "a", Entry: after}) == "" {
		t.Error("the digest is forgotten")
	}
}
