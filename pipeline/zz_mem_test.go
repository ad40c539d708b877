package pipeline

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"testing"

	"chromogenic/disk/disktest"
)

func TestZZMem(t *testing.T) {
	b := newBench(t)
	b.state.db.NoSync = true
	b.put("a/web.raw", disktest.Pattern(64<<10, nil))
	v := b.view("a", "web", "raw")
	for i := range 2501 {
		name := fmt.Sprint("n", i)
		if _, err := b.copy(CopySpec{From: v, Site: "b", Name: name}); err != nil {
			t.Fatal(err)
		}
		os.Remove(filepath.Join(b.dir, "b", name+".raw"))
		b.Forget("b")
		if i%250 == 0 {
			var m runtime.MemStats
			runtime.GC()
			runtime.GC()
			runtime.ReadMemStats(&m)
			fmt.Println(i, m.HeapAlloc>>10, "KiB live", m.HeapObjects, "facts", len(b.state.all(bucketFacts)), "digests", len(b.state.all(bucketDigests)), "cores", len(b.cores), "known", b.known.EstimatedSize())
		}
	}
	f, _ := os.Create("/tmp/heap.prof")
	pprof.Lookup("heap").WriteTo(f, 0)
	f.Close()
}
