package disk_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"

	"github.com/google/go-cmp/cmp"
)

// A target remembers what is written to it.
type target struct {
	mu     sync.Mutex
	p      []byte
	writes []disk.Extent // merged
	fail   int64         // writes from this offset on fail; 0 is never
}

var errFull = errors.New("target is full")

func (w *target) WriteAt(p []byte, off int64) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail > 0 && off+int64(len(p)) > w.fail {
		return 0, errFull
	}
	if n := len(w.writes); n > 0 && w.writes[n-1].End() == off {
		w.writes[n-1].Len += int64(len(p))
	} else {
		w.writes = append(w.writes, disk.Extent{Off: off, Len: int64(len(p))})
	}
	return copy(w.p[off:], p), nil
}

func TestCopy(t *testing.T) {
	for name, src := range map[string]disk.Image{
		"empty":       disktest.Pattern(0, nil),
		"one byte":    disktest.Pattern(1, nil),
		"all data":    disktest.Pattern(9<<20+5, nil),
		"all hole":    disktest.Runs(50 << 20),
		"odd":         oddRuns(20<<20 + 11),
		"alternating": disktest.Pattern(12<<20, func(b int64) bool { return b%2 == 1 }),
	} {
		t.Run(name, func(t *testing.T) {
			w := &target{p: make([]byte, src.Size())}
			last := int64(0)
			err := disk.Copy(t.Context(), w, src, disk.CopyOptions{Progress: func(done int64) {
				if done <= last {
					t.Errorf("progress goes from %d to %d", last, done)
				}
				last = done
			}})
			if err != nil || last != src.Size() {
				t.Fatalf("copy ends at %d of %d: %v", last, src.Size(), err)
			}
			disktest.Compare(t, disk.Bytes(w.p), src)
			var want []disk.Extent
			for _, e := range disktest.Walk(t, src) {
				if !e.Zero {
					want = append(want, e)
				}
			}
			if diff := cmp.Diff(want, w.writes); diff != "" {
				t.Errorf("writes (-data +written):\n%s", diff)
			}
		})
	}
}

func TestCopySkipsZeros(t *testing.T) {
	const block = 64 * kib
	src := make([]byte, 40*block+100)
	for _, at := range []int{3, 3*block + 1, 17*block - 1, 17 * block, 33*block + 5} {
		src[at] = 1
	}
	w := &target{p: make([]byte, len(src))}
	if err := disk.Copy(t.Context(), w, disk.Bytes(src), disk.CopyOptions{SkipZeros: true}); err != nil {
		t.Fatal(err)
	}
	want := []disk.Extent{{Len: block}, {Off: 3 * block, Len: block}, {Off: 16 * block, Len: 2 * block}, {Off: 33 * block, Len: block}}
	if diff := cmp.Diff(want, w.writes); diff != "" {
		t.Errorf("writes (-want +got):\n%s", diff)
	}
	if !bytes.Equal(w.p, src) {
		t.Error("content differs")
	}
	// Data that begins and ends between blocks.
	odd := oddRuns(3 << 20)
	w = &target{p: make([]byte, odd.Size())}
	if err := disk.Copy(t.Context(), w, odd, disk.CopyOptions{SkipZeros: true}); err != nil {
		t.Fatal(err)
	}
	disktest.Compare(t, disk.Bytes(w.p), odd)
}

func TestCopyErrors(t *testing.T) {
	broken := errors.New("broken")
	const size = 20 << 20
	for name, tc := range map[string]struct {
		faults disktest.Faults
		full   int64
		want   error
		text   string
	}{
		"read":  {faults: disktest.Faults{Range: disk.Extent{Off: 7 << 20, Len: 1}, Err: broken}, want: broken, text: "offset 7340032"},
		"short": {faults: disktest.Faults{Nth: 3, Short: 1}, text: "offset 2097152"},
		"write": {full: 5<<20 + 1, want: errFull, text: "offset 5242880"},
	} {
		t.Run(name, func(t *testing.T) {
			src := disktest.Faulty(disktest.Pattern(size, nil), tc.faults)
			w := &target{p: make([]byte, size), fail: tc.full}
			err := disk.Copy(t.Context(), w, src, disk.CopyOptions{})
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("error is %v, want %v with %q", err, tc.want, tc.text)
			}
		})
	}
}

func TestCopyIsCancelled(t *testing.T) {
	src := disktest.Faulty(disktest.Pattern(20<<20, nil), disktest.Faults{Nth: 4, Hang: true})
	defer src.Close()
	ctx, cancel := context.WithCancel(t.Context())
	w := &target{p: make([]byte, src.Size())}
	err := disk.Copy(ctx, w, src, disk.CopyOptions{Progress: func(done int64) {
		if done == 3<<20 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	if err := disk.Copy(ctx, w, src, disk.CopyOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("copy that is cancelled before it begins gives %v", err)
	}
}

func TestCopyToFileIsSparse(t *testing.T) {
	src := disktest.Runs(1<<30, disk.Extent{Off: 100 << 20, Len: 1 << 20}, disk.Extent{Off: 1<<30 - 4096, Len: 4096})
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(src.Size()); err != nil {
		t.Fatal(err)
	}
	if err := disk.Copy(t.Context(), f, src, disk.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	img, err := disk.OpenFile(f)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := disk.Allocated(img); err != nil || n < 1<<20+4096 || n > 2<<20 {
		t.Errorf("the copy allocates %d bytes (%v)", n, err)
	}
	disktest.Suite(t, img, src)
}

func BenchmarkCopy(b *testing.B) {
	src := disktest.Pattern(64<<20, nil)
	for _, skip := range []bool{false, true} {
		w := discard{}
		b.Run(map[bool]string{false: "all", true: "skip zeros"}[skip], func(b *testing.B) {
			b.SetBytes(src.Size())
			for b.Loop() {
				if err := disk.Copy(b.Context(), w, src, disk.CopyOptions{SkipZeros: skip}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

type discard struct{}

func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
