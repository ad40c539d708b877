package e2e

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRandomReads reads every view at random places, by several readers at
// once, and holds the bytes against the file that cp made of the view.
func TestRandomReads(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img")
	reads := 20_000
	if sampled() {
		reads = 2_000
	}
	a := newSite(t, "a")
	disks := []plainDisk{{"gpt-ext4", gptExt4(t, 31)}}
	all := serve(t, a, disks, containers())
	s := mount(t, config{sites: []site{a}})
	for _, v := range all {
		for _, format := range formats() {
			view := s.images("a", v.name+"."+format)
			out := filepath.Join(t.TempDir(), "whole")
			run(t, "cp", "--sparse=never", view, out)
			want, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			os.Remove(out)
			readAround(t, view, want, reads)
		}
	}
}

// readAround makes the reads by four readers, each with a handle of its own.
func readAround(t *testing.T, path string, want []byte, reads int) {
	t.Helper()
	const readers = 4
	var wg sync.WaitGroup
	for seed := range uint64(readers) {
		wg.Go(func() {
			f, err := os.Open(path)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			r := rand.New(rand.NewPCG(seed, uint64(len(want))))
			buf := make([]byte, 256*kib)
			for i := range reads / readers {
				if i%100 == 0 {
					unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
				}
				off := r.IntN(len(want) + 1)
				n := 1 + r.IntN(1<<r.IntN(17)) // most of them short
				if i%50 == 0 {
					n = 1 + r.IntN(len(buf))
				}
				got, err := f.ReadAt(buf[:n], int64(off))
				rest := want[off:min(off+n, len(want))]
				if !bytes.Equal(buf[:got], rest) || (err != nil && err != io.EOF) {
					t.Errorf("read %s at %d length %d: %d bytes, %v; they differ from the copied file", path, off, n, got, err)
					return
				}
			}
		})
	}
	wg.Wait()
}
