package disk_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

const chunk = 4 << 20

// naive is the tree digest as its definition says it.
func naive(p []byte) string {
	for len(p)%512 != 0 {
		p = append(p, 0)
	}
	size := uint64(len(p))
	var all []byte
	for len(p) > 0 {
		n := min(chunk, len(p))
		s := sha256.Sum256(p[:n])
		all = append(all, s[:]...)
		p = p[n:]
	}
	s := sha256.Sum256(binary.BigEndian.AppendUint64(all, size))
	return hex.EncodeToString(s[:])
}

// digested are images of all the shapes that matter to the digest.
func digested() map[string]disk.Image {
	images := map[string]disk.Image{
		"all hole": disktest.Runs(5*chunk + 4096),
		"odd":      oddRuns(3*chunk + 700),
		"holes at chunks": disktest.Runs(8*chunk+513, disk.Extent{Off: chunk, Len: 1000}, disk.Extent{Off: 3*chunk - 5, Len: 10},
			disk.Extent{Off: 5*chunk - 1000, Len: 1000}, disk.Extent{Off: 6 * chunk, Len: chunk}),
		"alternating": disktest.Pattern(2*chunk+100, func(b int64) bool { return b%2 == 1 }),
	}
	for _, size := range []int64{0, 1, 512, 513, chunk, chunk + 1, 2*chunk - 511} {
		images[fmt.Sprint("all data ", size)] = disktest.Pattern(size, nil)
	}
	return images
}

func TestSum(t *testing.T) {
	for name, img := range digested() {
		t.Run(name, func(t *testing.T) {
			p, err := disktest.Read(img)
			if err != nil {
				t.Fatal(err)
			}
			want := naive(p)
			last := int64(0)
			got, err := disk.Sum(t.Context(), img, func(done int64) { last = done })
			if err != nil || got != want {
				t.Errorf("Sum is %s, %v; want %s", got, err, want)
			}
			if last != img.Size() {
				t.Errorf("progress ends at %d of %d", last, img.Size())
			}
			if got, err := disk.Sum(t.Context(), disk.Bytes(p), nil); got != want {
				t.Errorf("Sum of the same without holes is %s, %v; want %s", got, err, want)
			}
			flat := sha256.Sum256(p)
			if got, err := disk.FlatSum(t.Context(), img); err != nil || got != hex.EncodeToString(flat[:]) {
				t.Errorf("FlatSum is %s, %v; want %x", got, err, flat)
			}
			if img.Size()%512 != 0 {
				digesters(t, img, want)
			}
		})
	}
}

// digesters checks that no way of reading through a Digester changes its sum.
func digesters(t *testing.T, img disk.Image, want string) {
	ways := map[string]func(d disk.Image){
		"nothing":  func(disk.Image) {},
		"in order": func(d disk.Image) { scan(t, d, 100_001) },
		"a copy": func(d disk.Image) {
			if err := disk.Copy(t.Context(), discard{}, d, disk.CopyOptions{}); err != nil {
				t.Fatal(err)
			}
		},
		"the first half": func(d disk.Image) { scan(t, disk.Section(d, 0, d.Size()/2), 64*kib) },
		"at random": func(d disk.Image) {
			rnd := rand.New(rand.NewPCG(1, 1))
			p := make([]byte, 1<<20)
			for range 15 {
				n := rnd.IntN(len(p))
				if _, err := d.ReadAt(p[:n], rnd.Int64N(d.Size()+1)); err != nil && n == 0 {
					t.Fatal(err)
				}
			}
		},
		"twice and beside each other": func(d disk.Image) {
			var wg sync.WaitGroup
			for i := range 3 {
				wg.Go(func() { scan(t, d, 200_000+i*77_777) })
			}
			wg.Wait()
		},
	}
	for way, read := range ways {
		d := disk.NewDigester(disktest.Faulty(img, disktest.Faults{}))
		read(d)
		if got, err := d.Sum(t.Context()); err != nil || got != want {
			t.Errorf("read %s: sum is %s, %v; want %s", way, got, err, want)
		}
		if got, err := d.Sum(t.Context()); err != nil || got != want {
			t.Errorf("read %s: the second sum is %s, %v; want %s", way, got, err, want)
		}
	}
}

func TestDigesterReadsNothingTwice(t *testing.T) {
	for name, img := range digested() {
		counted := disktest.Faulty(img, disktest.Faults{})
		d := disk.NewDigester(counted)
		if err := disk.Copy(t.Context(), discard{}, d, disk.CopyOptions{}); err != nil {
			t.Fatal(err)
		}
		before := counted.Bytes()
		if _, err := d.Sum(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := counted.Bytes() - before; n != 0 {
			t.Errorf("%s: after a copy the sum reads %d bytes again", name, n)
		}
	}
}

func TestSumOfHugeHole(t *testing.T) {
	start := time.Now()
	got, err := disk.Sum(t.Context(), disktest.Runs(1<<40), nil)
	if err != nil || len(got) != 64 {
		t.Fatalf("Sum is %q, %v", got, err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("digest of a hole of 1 TiB takes %v", d)
	}
}

func TestSumErrors(t *testing.T) {
	broken := errors.New("broken")
	img := disktest.Faulty(disktest.Pattern(3*chunk, nil), disktest.Faults{Range: disk.Extent{Off: 2 * chunk, Len: 1}, Err: broken})
	if got, err := disk.Sum(t.Context(), img, nil); got != "" || !errors.Is(err, broken) {
		t.Errorf("Sum of a broken image is %q, %v", got, err)
	}
	if got, err := disk.FlatSum(t.Context(), img); got != "" || !errors.Is(err, broken) {
		t.Errorf("FlatSum of a broken image is %q, %v", got, err)
	}
	hangs := disktest.Faulty(disktest.Pattern(5*chunk, nil), disktest.Faults{Nth: 7, Hang: true})
	defer hangs.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if got, err := disk.Sum(ctx, hangs, nil); got != "" || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Sum of an image that hangs is %q, %v", got, err)
	}
	// A read that fails is not hashed.
	d := disk.NewDigester(disktest.Faulty(disktest.Pattern(chunk, nil), disktest.Faults{Nth: 2, Short: 1000}))
	p := make([]byte, chunk/2)
	for off := int64(0); off < chunk; off += chunk / 2 {
		d.ReadAt(p, off)
	}
	all, err := disktest.Read(disktest.Pattern(chunk, nil))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := d.Sum(t.Context()); err != nil || got != naive(all) {
		t.Errorf("sum after a short read is %s, %v", got, err)
	}
}

func TestDigesterKeepsTheContract(t *testing.T) {
	disktest.Suite(t, disk.NewDigester(oddRuns(2*chunk+9)), oddRuns(2*chunk+9))
}

func BenchmarkSum(b *testing.B) {
	img := disktest.Pattern(64<<20, nil)
	b.SetBytes(img.Size())
	for b.Loop() {
		if _, err := disk.Sum(b.Context(), img, nil); err != nil {
			b.Fatal(err)
		}
	}
}
