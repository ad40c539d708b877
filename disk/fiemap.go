package disk

import (
	"syscall"
	"unsafe"
)

// Space that fallocate(2) has reserved and nobody has written to reads as zeros.
// SEEK_DATA calls it a hole, but only as long as nobody has read it: what the page
// cache holds is data to it. So the holes of a file would depend on who has looked
// at it. The map of the filesystem itself, FIEMAP, does not.
//
// See Documentation/filesystems/fiemap.rst and include/uapi/linux/fiemap.h of the
// kernel's source.
const (
	fsIocFiemap     = 0xc020660b // _IOWR('f', 11, struct fiemap)
	fiemapSync      = 0x1        // FIEMAP_FLAG_SYNC: write what is dirty first
	extentLast      = 0x1        // FIEMAP_EXTENT_LAST
	extentUnwritten = 0x800      // FIEMAP_EXTENT_UNWRITTEN
)

// fiemapBatch is how many extents are asked for at once.
const fiemapBatch = 256

// A fiemapExtent is struct fiemap_extent.
type fiemapExtent struct {
	logical, physical, length uint64
	_                         [2]uint64
	flags                     uint32
	_                         [3]uint32
}

// A fiemap is struct fiemap.
type fiemap struct {
	start, length                uint64
	flags, mapped, count, _align uint32
	extents                      [fiemapBatch]fiemapExtent
}

// firstUnwritten gives the first run of reserved and unwritten space in
// [off, off+n), clipped to it; found is false when there is none, or where the
// filesystem cannot tell. Sync writes what is dirty first.
func (f *file) firstUnwritten(off, n int64, sync bool) (run Extent, found bool) {
	conn, err := f.f.SyscallConn()
	if err != nil {
		return Extent{}, false
	}
	end := off + n
	m := new(fiemap)
	for off < end {
		*m = fiemap{start: uint64(off), length: uint64(end - off), count: fiemapBatch}
		if sync {
			m.flags = fiemapSync
		}
		var errno syscall.Errno
		err := conn.Control(func(fd uintptr) {
			_, _, errno = syscall.Syscall(syscall.SYS_IOCTL, fd, fsIocFiemap, uintptr(unsafe.Pointer(m)))
		})
		if err != nil || errno != 0 || m.mapped == 0 {
			return run, found
		}
		before := off
		for _, e := range m.extents[:min(m.mapped, fiemapBatch)] {
			from, to := max(int64(e.logical), off), min(int64(e.logical+e.length), end)
			switch {
			case to <= from:
			case e.flags&extentUnwritten == 0 && found:
				return run, true
			case e.flags&extentUnwritten == 0:
			case !found:
				run, found = Extent{Off: from, Len: to - from, Zero: true}, true
			case from > run.End():
				return run, true
			default:
				run.Len = to - run.Off
			}
			off = max(off, to)
			if e.flags&extentLast != 0 {
				return run, found
			}
		}
		if off == before {
			return run, found // a map that leads nowhere
		}
	}
	return run, found
}

// reserved tells whether any of the file is reserved and unwritten. What is dirty
// is written then, so that no data is taken for unwritten space.
func (f *file) reserved() bool {
	f.lookOnce.Do(func() {
		if !f.regular {
			return
		}
		if _, found := f.firstUnwritten(0, f.size, false); found {
			_, f.unwritten = f.firstUnwritten(0, f.size, true)
		}
	})
	return f.unwritten
}
