package layout_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/formats/layout"

	"github.com/google/go-cmp/cmp"
)

const block = layout.BlockSize

// shapes are ways to set blocks.
func shapes(rnd *rand.Rand) map[string]func(b int64) bool {
	bits := make([]bool, 1<<12)
	for i := range bits {
		bits[i] = rnd.IntN(3) == 0
	}
	return map[string]func(b int64) bool{
		"none":        func(int64) bool { return false },
		"all":         func(int64) bool { return true },
		"first":       func(b int64) bool { return b == 0 },
		"alternating": func(b int64) bool { return b%2 == 1 },
		"random":      func(b int64) bool { return bits[b%int64(len(bits))] },
		"long runs":   func(b int64) bool { return b/700%2 == 0 },
	}
}

func mapOf(t testing.TB, img disk.Image) *layout.Map {
	t.Helper()
	m, err := layout.MapOf(img)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMapAgainstNaive(t *testing.T) {
	for name, set := range shapes(rand.New(rand.NewPCG(1, 1))) {
		for _, size := range []int64{0, 1, block, block + 1, 63 * block, 64*block - 1, 64 * block, 511*block + 5, 512 * block, 3000*block + 77} {
			t.Run(fmt.Sprint(name, "/", size), func(t *testing.T) {
				m := mapOf(t, disktest.Pattern(size, set))
				naive := make([]bool, (size+block-1)/block)
				for b := range naive {
					naive[b] = set(int64(b))
				}
				checkMap(t, m, naive, size)
				p, err := m.MarshalBinary()
				if err != nil {
					t.Fatal(err)
				}
				again, err := layout.UnmarshalMap(p)
				if err != nil {
					t.Fatal(err)
				}
				checkMap(t, again, naive, size)
			})
		}
	}
}

// checkMap compares every answer of m with those of a slice.
func checkMap(t *testing.T, m *layout.Map, naive []bool, size int64) {
	t.Helper()
	n := int64(len(naive))
	if m.Size() != size || m.Blocks() != n {
		t.Fatalf("map of %d bytes in %d blocks, want %d in %d", m.Size(), m.Blocks(), size, n)
	}
	var rank, data int64
	next := [2]int64{n, n} // of false and of true, counted from behind
	for b := n - 1; b >= 0; b-- {
		if naive[b] {
			next[1] = b
			data += min(block, size-b*block)
		} else {
			next[0] = b
		}
		if f, s := m.Next(b, false), m.Next(b, true); f != next[0] || s != next[1] {
			t.Fatalf("Next(%d) is %d and %d, want %v", b, f, s, next)
		}
	}
	for b, set := range naive {
		b := int64(b)
		if m.Get(b) != set || m.Rank(b) != rank {
			t.Fatalf("block %d is %v with rank %d, want %v, %d", b, m.Get(b), m.Rank(b), set, rank)
		}
		if set {
			if got := m.Select(rank); got != b {
				t.Fatalf("Select(%d) is %d, want %d", rank, got, b)
			}
			rank++
		}
	}
	if m.Rank(n) != rank || m.Allocated() != rank || m.Bytes() != data || m.Next(n, true) != n || m.Next(n, false) != n {
		t.Fatalf("rank %d, %d allocated, %d bytes; want %d, %d", m.Rank(n), m.Allocated(), m.Bytes(), rank, data)
	}
}

func TestMapCoversPartialBlocks(t *testing.T) {
	img := disktest.Runs(10*block+5, disk.Extent{Off: 2*block - 1, Len: 2}, disk.Extent{Off: 5*block + 7, Len: 1}, disk.Extent{Off: 10 * block, Len: 5})
	var got []int64
	m := mapOf(t, img)
	for k := range m.Allocated() {
		got = append(got, m.Select(k))
	}
	if diff := cmp.Diff([]int64{1, 2, 5, 10}, got); diff != "" {
		t.Errorf("set blocks (-want +got):\n%s", diff)
	}
	if m.Bytes() != 3*block+5 {
		t.Errorf("bytes is %d", m.Bytes())
	}
}

func TestFrozenTakesItsExtentsFromTheMap(t *testing.T) {
	img := disktest.Runs(100*block+9, disk.Extent{Off: 5, Len: 3 * block}, disk.Extent{Off: 50 * block, Len: 2 * block}, disk.Extent{Off: 100 * block, Len: 9})
	m := mapOf(t, img)
	f := layout.Frozen(img, m)
	if mapOf(t, disk.Disk{Image: f}) != m {
		t.Error("the map of a frozen image is not the one it was frozen with")
	}
	if n, err := disk.Allocated(f); err != nil || n != m.Bytes() {
		t.Errorf("allocated is %d, %v", n, err)
	}
	disktest.Suite(t, f, disktest.Runs(100*block+9, disk.Extent{Off: 5, Len: 3 * block}, disk.Extent{Off: 50 * block, Len: 2 * block}, disk.Extent{Off: 100 * block, Len: 9}))
}

// A doubtful image came with a digest that it does not have.
type doubtful struct{ disk.Image }

var errDigest = errors.New("digest differs")

func (doubtful) Verify(context.Context) error { return errDigest }

func TestFrozenVerifies(t *testing.T) {
	img := layout.Frozen(doubtful{disktest.Pattern(block, nil)}, layout.FullMap(block))
	if err := disk.Verify(t.Context(), img); !errors.Is(err, errDigest) {
		t.Errorf("verify of a frozen image gives %v", err)
	}
}

func TestFullMap(t *testing.T) {
	for _, size := range []int64{0, 1, 1000*block + 1} {
		m := layout.FullMap(size)
		if m.Allocated() != m.Blocks() || m.Bytes() != size {
			t.Errorf("full map of %d bytes has %d of %d blocks and %d bytes", size, m.Allocated(), m.Blocks(), m.Bytes())
		}
	}
}

func TestMapErrors(t *testing.T) {
	if _, err := layout.MapOf(disktest.Runs(layout.MaxSize + 1)); disk.KindOf(err) != disk.TooLarge {
		t.Errorf("map of a disk that is too large gives %v", err)
	}
	head := func(size uint64, more ...byte) []byte {
		return append(binary.LittleEndian.AppendUint64([]byte{1}, size), more...)
	}
	for name, p := range map[string][]byte{
		"nothing":        nil,
		"short":          {1, 2, 3},
		"other version":  append([]byte{2}, make([]byte, 8)...),
		"negative size":  head(1 << 63),
		"absurd size":    head(1 << 62),
		"gap too long":   head(10*block, 11, 0),
		"run too long":   head(10*block, 5, 6),
		"half a pair":    head(10*block, 5),
		"endless varint": head(10*block, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
	} {
		if m, err := layout.UnmarshalMap(p); m != nil || disk.KindOf(err) != disk.Malformed {
			t.Errorf("%s: decoding gives %v, %v", name, m, err)
		}
	}
}

func FuzzUnmarshalMap(f *testing.F) {
	for _, set := range shapes(rand.New(rand.NewPCG(2, 2))) {
		p, err := mapOf(f, disktest.Pattern(700*block+3, set)).MarshalBinary()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p)
		f.Add(p[:len(p)-1])
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		disktest.Within(t)
		if len(p) >= 9 && binary.LittleEndian.Uint64(p[1:]) > 1<<40 && binary.LittleEndian.Uint64(p[1:]) <= layout.MaxSize {
			t.Skip("valid, and slow: the bitmap takes up to 128 MiB")
		}
		m, err := layout.UnmarshalMap(p)
		if err != nil {
			return
		}
		again, err := m.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		same, err := layout.UnmarshalMap(again)
		if err != nil {
			t.Fatalf("what was encoded cannot be decoded: %v", err)
		}
		twice, err := same.MarshalBinary()
		if err != nil || !bytes.Equal(again, twice) {
			t.Fatalf("encoding changes: %x, %x", again, twice)
		}
		for k := int64(0); k < m.Allocated(); k += 1 + m.Allocated()/100 {
			if b := m.Select(k); !m.Get(b) || m.Rank(b) != k || same.Select(k) != b {
				t.Fatalf("Select(%d) is %d of rank %d", k, b, m.Rank(b))
			}
		}
	})
}

func BenchmarkMap(b *testing.B) {
	m := mapOf(b, disktest.Pattern(2<<40, func(b int64) bool { return b%2 == 1 }))
	rnd := rand.New(rand.NewPCG(1, 1))
	b.Run("Rank", func(b *testing.B) {
		for b.Loop() {
			m.Rank(rnd.Int64N(m.Blocks()))
		}
	})
	b.Run("Select", func(b *testing.B) {
		for b.Loop() {
			m.Select(rnd.Int64N(m.Allocated()))
		}
	})
}
