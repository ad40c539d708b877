package guest

import (
	"cmp"
	"context"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// warmGap is how much, in bytes, is read ahead for nothing between two pieces that are not.
const warmGap = 64 << 10

// warm has the kernel read the folders of an ext2, ext3 or ext4 ahead of e2fsck, which
// asks for them by single blocks, and waits for each. It goes on until stop is called or
// all is done; what it does not understand is not read ahead.
func warm(path string, v volumeOf) (stop func()) {
	f, err := os.Open(path)
	if err != nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer f.Close()
		_ = readFoldersAhead(unwritten{ctx, f}, v.Used)
	}()
	return func() {
		cancel()
		<-done
	}
}

func readFoldersAhead(f unwritten, size int64) error {
	e, err := openExt(f, size)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var near []span // of folders that follow each other
	flush := func() {
		slices.SortFunc(near, func(a, b span) int { return cmp.Compare(a.Off, b.Off) })
		for len(near) > 0 {
			all, n := near[0], 1
			for ; n < len(near) && near[n].Off <= all.Off+all.Size+warmGap; n++ {
				all.Size = max(all.Size, near[n].Off+near[n].Size-all.Off)
			}
			_ = unix.Fadvise(int(f.file.Fd()), all.Off, all.Size, unix.FADV_WILLNEED)
			near = near[n:]
		}
	}
	err = e.eachInode(func(e *extFS, i extInode) error {
		if i.mode() != extFolder {
			return nil
		}
		runs, err := e.runsOf(i)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for _, r := range runs {
			near = append(near, span{r.block * e.block, r.n * e.block})
		}
		if len(near) >= 256 {
			flush()
		}
		return nil
	})
	flush()
	return err
}

// unwritten is a file that is looked at alone, until ctx ends: changes are forgotten.
type unwritten struct {
	ctx  context.Context
	file *os.File
}

func (u unwritten) ReadAt(p []byte, off int64) (int, error) {
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	return u.file.ReadAt(p, off)
}

func (unwritten) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (unwritten) Discard(int64, int64) error             { return nil }
