package qcow2

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

// A fixture is an image that QEMU makes: a script that leaves x.qcow2, in a
// folder with the files of sample.
type fixture struct {
	name   string
	script string
	chain  []string // the backing files of x.qcow2, the nearest first
}

// writes is a script of guest writes for a disk of 3 MiB: data, zeros over data,
// zeros over nothing, discarded data, single sectors at odd places.
const writes = `
io -c "write -P 17 0 300k" -c "write -P 18 1M 512" -c "write -P 19 1234432 70k" x.qcow2
io -c "write -z 64k 64k" -c "write -z 2M 100k" -c "write -zu 192k 32k" -c "write -P 20 3145216 512" x.qcow2
io -c "discard 128k 64k" -c "write -P 21 130k 1k" -c "write -P 22 2100224 512" x.qcow2
`

func fixtures() []fixture {
	var all []fixture
	add := func(name, script string, chain ...string) {
		all = append(all, fixture{name, script, chain})
	}
	for _, cluster := range []string{"512", "1k", "4k", "64k", "256k", "2M"} {
		for _, compat := range []string{"0.10", "1.1"} {
			o := fmt.Sprintf("-o cluster_size=%s,compat=%s", cluster, compat)
			add("written "+o, "create "+o+" x.qcow2 3M"+writes)
			add("converted "+o, "qemu-img convert -O qcow2 "+o+" mixed.raw x.qcow2")
			add("zlib "+o, "qemu-img convert -c -O qcow2 "+o+" mixed.raw x.qcow2; io -c 'write -P 3 200k 5k' -c 'write -z 1M 64k' x.qcow2")
		}
		o := "-o compression_type=zstd,cluster_size=" + cluster
		add("zstd "+o, "qemu-img convert -c -O qcow2 "+o+" mixed.raw x.qcow2; io -c 'write -P 3 200k 5k' x.qcow2")
	}
	for _, cluster := range []string{"16k", "64k", "2M"} {
		o := "-o extended_l2=on,cluster_size=" + cluster
		add("written "+o, "create "+o+" x.qcow2 3M"+writes)
		add("one sector in the middle "+o, `create `+o+` x.qcow2 10M; io -c "write -P 1 5000192 512" x.qcow2`)
		add("converted "+o, "qemu-img convert -O qcow2 "+o+" random.raw x.qcow2")
		add("zlib "+o, "qemu-img convert -c -O qcow2 "+o+" mixed.raw x.qcow2; io -c 'write -P 3 200k 5k' x.qcow2")
		add("zstd "+o, "qemu-img convert -c -O qcow2 "+o+",compression_type=zstd mixed.raw x.qcow2")
		add("backing "+o, "create "+o+" -b mixed.raw -F raw x.qcow2"+writes, "mixed.raw")
	}
	for _, bits := range []int{1, 2, 4, 8, 16, 32, 64} {
		add(fmt.Sprintf("refcount_bits=%d", bits), fmt.Sprintf("create -o refcount_bits=%d x.qcow2 3M", bits)+writes)
	}
	for _, mode := range []string{"off", "metadata", "falloc", "full"} {
		for _, size := range []string{"512", "66048", "3M"} {
			for _, extended := range []string{"off", "on"} {
				o := fmt.Sprintf("-o preallocation=%s,extended_l2=%s", mode, extended)
				add(o+" "+size, "create "+o+" x.qcow2 "+size+`; io -c "write -P 1 0 512" x.qcow2`)
				add("convert "+o+" "+size, fmt.Sprintf(
					"head -c $(numfmt --from=iec %s) mixed.raw > part.raw; qemu-img convert -O qcow2 %s part.raw x.qcow2", size, o))
			}
		}
	}
	add("size 0", "create x.qcow2 0")
	add("one sector", `create x.qcow2 512; io -c "write -P 1 0 512" x.qcow2`)
	add("one sector over a cluster", `create x.qcow2 66048; io -c "write -P 1 65536 512" x.qcow2`)
	add("one sector over a cluster, compressed", "head -c 66048 random.raw > r.raw; qemu-img convert -c -O qcow2 r.raw x.qcow2")
	add("dense", "qemu-img convert -O qcow2 -S 0 random.raw x.qcow2")
	add("out of order", "qemu-img convert -W -O qcow2 mixed.raw x.qcow2")
	add("all zero", "truncate -s 5M z.raw; qemu-img convert -O qcow2 z.raw x.qcow2")
	add("all zero clusters", `create x.qcow2 5M; io -c "write -z 0 5M" x.qcow2`)
	add("sparse", `create x.qcow2 3221225984; io -c "write -P 1 0 512" -c "write -P 2 1610612736 512" -c "write -P 3 3221225472 512" x.qcow2`)
	add("lazy refcounts, dirty", `create -o lazy_refcounts=on x.qcow2 3M
		qemu-io -f qcow2 -c "write -P 1 100k 300k" -c flush -c "sigraise 9" x.qcow2 > /dev/null || true
		qemu-img info x.qcow2 > /dev/null`)
	add("corrupt bit", "create x.qcow2 3M"+writes+"poke x.qcow2 79 02")
	add("snapshots", `create x.qcow2 3M; io -c "write -P 1 0 1M" x.qcow2; qemu-img snapshot -c one x.qcow2
		io -c "write -P 2 100k 500k" -c "discard 700k 128k" x.qcow2; qemu-img snapshot -c two x.qcow2; io -c "write -P 3 0 64k" x.qcow2`)
	add("snapshot applied", `create x.qcow2 3M; io -c "write -P 1 0 1M" x.qcow2; qemu-img snapshot -c one x.qcow2
		io -c "write -P 2 100k 500k" x.qcow2; qemu-img snapshot -a one x.qcow2; qemu-img snapshot -d one x.qcow2`)
	add("snapshots, compressed", `qemu-img convert -c -O qcow2 mixed.raw x.qcow2; qemu-img snapshot -c one x.qcow2; io -c "write -P 3 0 64k" x.qcow2`)
	add("bitmaps", "create x.qcow2 3M; qemu-img bitmap --add x.qcow2 b0; qemu-img bitmap --add -g 64k x.qcow2 b1"+writes)
	add("grown", "create x.qcow2 3M"+writes+`qemu-img resize -q x.qcow2 700M; io -c "write -P 9 600M 64k" x.qcow2`)
	add("grown within a cluster", `create x.qcow2 66048; io -c "write -P 1 65536 512" x.qcow2; qemu-img resize -q x.qcow2 1M`)
	add("shrunk", `create x.qcow2 700M; io -c "write -P 1 0 1M" -c "write -P 2 600M 1M" x.qcow2; qemu-img resize -q --shrink x.qcow2 1000448`)
	add("grown, preallocated", "create x.qcow2 1M; qemu-img resize -q --preallocation=metadata x.qcow2 3M"+writes)
	add("amended to version 3", "create -o compat=0.10 x.qcow2 3M"+writes+"qemu-img amend -o compat=1.1 x.qcow2")
	add("amended to version 2", "create x.qcow2 3M"+writes+"qemu-img amend -o compat=0.10 x.qcow2")
	add("rebased onto nothing", "create -b mixed.raw -F raw x.qcow2"+writes+"qemu-img rebase -f qcow2 -b '' x.qcow2")
	add("compressed writes", `create x.qcow2 3M; io -c "write -c -P 7 64k 64k" -c "write -c -P 8 192k 64k" -c "write -P 9 200k 512" x.qcow2`)
	add("backing raw", "create -b mixed.raw -F raw x.qcow2"+writes, "mixed.raw")
	add("backing shorter", "create -b random.raw -F raw x.qcow2 3M"+writes, "random.raw")
	add("backing longer", "create -b mixed.raw -F raw x.qcow2 3M"+writes, "mixed.raw")
	add("backing version 2", "create -o compat=0.10 -b mixed.raw -F raw x.qcow2 3M"+writes, "mixed.raw")
	add("backing chain", `qemu-img convert -c -O qcow2 mixed.raw base.qcow2; create -o cluster_size=4k -b base.qcow2 -F qcow2 mid.qcow2 6M
		io -c "write -P 5 1M 1M" -c "write -z 100k 1M" mid.qcow2; create -o extended_l2=on -b mid.qcow2 -F qcow2 x.qcow2 7M`+writes,
		"mid.qcow2", "base.qcow2")
	return all
}

func TestReadQEMUImages(t *testing.T) {
	need(t, "qemu-img", "qemu-io")
	for _, f := range fixtures() {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			sample(t, dir)
			shell(t, dir, f.script)
			chain := []string{filepath.Join(dir, "x.qcow2")}
			for _, name := range f.chain {
				chain = append(chain, filepath.Join(dir, name))
			}
			img := openDisk(t, chain...)
			ours := filepath.Join(dir, "ours.raw")
			materialise(t, img, ours)
			shell(t, dir, "qemu-img compare -f qcow2 -F raw x.qcow2 ours.raw")
			shell(t, dir, fmt.Sprintf("qemu-img info x.qcow2 | grep -F 'virtual size' | grep -F '(%d bytes)'", img.Size()))
			if len(f.chain) == 0 {
				compareMap(t, disktest.Walk(t, img), shell(t, dir, "qemu-img map --output=json x.qcow2"))
			}
			disktest.Suite(t, img, openFile(t, ours))
		})
	}
}

// compareMap compares extents with what qemu-img map says: what is not allocated
// is a hole here too, and a hole here reads as zeros there. It looks into the
// holes of the file as well, so the two are not always the same.
func compareMap(t *testing.T, extents []disk.Extent, text string) {
	t.Helper()
	var theirs []struct {
		Start, Length int64
		Zero, Data    bool
	}
	if err := json.Unmarshal([]byte(text), &theirs); err != nil {
		t.Fatal(err)
	}
	for _, e := range extents {
		for _, q := range theirs {
			if q.Start+q.Length <= e.Off || q.Start >= e.End() {
				continue
			}
			if e.Zero && !q.Zero {
				t.Errorf("extent %+v is a hole, QEMU has data: %+v", e, q)
			}
			if !e.Zero && !q.Data {
				t.Errorf("extent %+v is data, QEMU has none: %+v", e, q)
			}
		}
	}
}

func TestBackingExtents(t *testing.T) {
	need(t, "qemu-img", "qemu-io")
	dir := t.TempDir()
	shell(t, dir, `create base.qcow2 1M; io -c "write -P 1 0 256k" base.qcow2
		create -b base.qcow2 -F qcow2 x.qcow2 2M; io -c "write -z 64k 64k" -c "write -P 2 512k 64k" x.qcow2`)
	img := openDisk(t, filepath.Join(dir, "x.qcow2"), filepath.Join(dir, "base.qcow2"))
	want := []disk.Extent{
		{Off: 0, Len: 64 << 10},
		{Off: 64 << 10, Len: 64 << 10, Zero: true},
		{Off: 128 << 10, Len: 128 << 10},
		{Off: 256 << 10, Len: 256 << 10, Zero: true},
		{Off: 512 << 10, Len: 64 << 10},
		{Off: 576 << 10, Len: 1472 << 10, Zero: true},
	}
	if got := disktest.Walk(t, img); !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestBackingNotAsked(t *testing.T) {
	_, err := Open(disk.Bytes(craft()), disk.Bytes(make([]byte, 512)))
	if disk.KindOf(err) != disk.Invalid {
		t.Errorf("got %v, want an Invalid error", err)
	}
}

func TestCutOffImages(t *testing.T) {
	need(t, "qemu-img", "qemu-io")
	scripts := map[string]string{
		"plain":            "qemu-img convert -O qcow2 random.raw x.qcow2",
		"zlib":             "qemu-img convert -c -O qcow2 random.raw x.qcow2",
		"zlib, compressed": "qemu-img convert -c -O qcow2 mixed.raw x.qcow2",
		"zstd":             "qemu-img convert -c -O qcow2 -o compression_type=zstd mixed.raw x.qcow2",
		"empty":            "create x.qcow2 3M",
		"zeros at the end": `create x.qcow2 3M; io -c "write -P 1 0 64k" -c "write -z 1M 1M" x.qcow2`,
		"subclusters":      "qemu-img convert -O qcow2 -o extended_l2=on random.raw x.qcow2",
	}
	for name, script := range scripts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			sample(t, dir)
			shell(t, dir, script)
			name := filepath.Join(dir, "x.qcow2")
			whole, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			want := openDisk(t, name)
			for _, cut := range []int{1, 7, 8, 300, 511, 512, 513, 4096, 65536, 70000, len(whole) / 2, len(whole) - 200, len(whole) - 3} {
				if cut >= len(whole) {
					continue
				}
				checkCut(t, whole[:len(whole)-cut], want)
			}
		})
	}
}

// checkCut wants a cut-off file refused, or, where only bytes are gone that the
// disk does not have, read as the whole one.
func checkCut(t *testing.T, file []byte, want disk.Image) {
	t.Helper()
	m, err := Open(disk.Bytes(file), nil)
	switch {
	case err == nil:
		disktest.Compare(t, m.Disks[0], want)
	case disk.KindOf(err) != disk.Malformed:
		t.Errorf("cut to %d: %v is not Malformed", len(file), err)
	case len(file) > len(magic) && !strings.Contains(err.Error(), "looks truncated"):
		t.Errorf("cut to %d: %q does not say that it looks truncated", len(file), err)
	}
}

// A table that cannot be read, or a file that has shrunk since, is an error and
// never zeros.
func TestFailingReads(t *testing.T) {
	file := craft()
	boom := disk.Errorf(disk.Timeout, "boom")
	for n := int64(1); n <= 3; n++ { // header, L1 table, L2 table
		_, err := Open(disktest.Faulty(disk.Bytes(file), disktest.Faults{Nth: n, Err: boom}), nil)
		if disk.KindOf(err) != disk.Timeout {
			t.Errorf("open with failing read %d: %v", n, err)
		}
	}
	for _, faults := range []disktest.Faults{{Nth: 4, Err: boom}, {Nth: 5, Err: boom}, {Nth: 5, Short: 1}} { // L2 table, data
		m, err := Open(disktest.Faulty(disk.Bytes(file), faults), nil)
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, m.Disks[0].Size())
		if n, err := m.Disks[0].ReadAt(p, 0); err == nil || n != 0 {
			t.Errorf("read with %+v: %d, %v", faults, n, err)
		}
		if err := disk.ReadFull(m.Disks[0], p, 0); err != nil {
			t.Errorf("read again with %+v: %v", faults, err)
		}
	}
}
