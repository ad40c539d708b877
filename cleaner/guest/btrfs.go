package guest

import (
	"encoding/binary"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// btrfsSearch is BTRFS_IOC_TREE_SEARCH of <linux/btrfs.h>: a key of 104 bytes and
	// room for what is found.
	btrfsSearch     = 0xd0009411
	btrfsSearchSize = 4096
	btrfsSearchKey  = 104
	btrfsItemHeader = 32

	btrfsExtentData = 108 // BTRFS_EXTENT_DATA_KEY
	btrfsExtentItem = 53  // bytes of an item that is not inline

	btrfsCopy = 1 << 20 // bytes that are rewritten at once
)

// A btrfsPart is a piece of a file.
type btrfsPart struct {
	off, n    int64
	unwritten bool // reads as zeros, whatever is on the disk
}

// unshareTails rewrites the files of a btrfs that show a part of an extent only, and
// takes from them what they have but never wrote. An extent is kept on the disk
// wholly as long as a part of it is in use: of a file that was cut to its first line,
// the rest is still there. dir is where its top is mounted. It returns how many files
// could not be rewritten, and why the first.
func unshareTails(dir string) (failed int, first error) {
	fail := func(err error) {
		if failed++; first == nil {
			first = err
		}
	}
	err := filepath.WalkDir(dir, func(path string, d iofs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			err = unshareFile(path)
		}
		if err != nil {
			fail(err)
		}
		return nil
	})
	if err != nil {
		fail(err)
	}
	return failed, first
}

func unshareFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	parts, err := partsOf(f, st.Ino)
	if err != nil || len(parts) == 0 {
		return err
	}
	w, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer w.Close()
	buf := make([]byte, btrfsCopy)
	for _, p := range parts {
		if err := rewrite(f, w, p, st.Size, buf); err != nil {
			return fmt.Errorf("rewrite a part: %w", err)
		}
	}
	// The content is what it was, and so are its times.
	return unix.UtimesNanoAt(int(w.Fd()), "", []unix.Timespec{st.Atim, st.Mtim}, unix.AT_EMPTY_PATH)
}

// rewrite writes a part of a file anew, up to the end of the file.
func rewrite(f, w *os.File, p btrfsPart, size int64, buf []byte) error {
	if p.unwritten {
		return unix.Fallocate(int(w.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, p.off, p.n)
	}
	for off, end := p.off, min(p.off+p.n, size); off < end; {
		n, err := f.ReadAt(buf[:min(int64(len(buf)), end-off)], off)
		if err != nil && err != io.EOF {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		if _, err := w.WriteAt(buf[:n], off); err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}

// partsOf finds the parts of a file that are to be written anew: file extents that
// show less than there is (struct btrfs_file_extent_item: size when unpacked at 8,
// type at 20, place at 21, length at 45).
func partsOf(f *os.File, inode uint64) ([]btrfsPart, error) {
	var parts []btrfsPart
	le := binary.LittleEndian
	for from := uint64(0); ; {
		var args [btrfsSearchSize]byte
		le.PutUint64(args[8:], inode)
		le.PutUint64(args[16:], inode)
		le.PutUint64(args[24:], from)
		le.PutUint64(args[32:], ^uint64(0))
		le.PutUint64(args[48:], ^uint64(0))
		le.PutUint32(args[56:], btrfsExtentData)
		le.PutUint32(args[60:], btrfsExtentData)
		le.PutUint32(args[64:], ^uint32(0))
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), btrfsSearch, uintptr(unsafe.Pointer(&args))); errno != 0 {
			return nil, fmt.Errorf("search tree: %w", errno)
		}
		found := le.Uint32(args[64:])
		if found == 0 {
			return parts, nil
		}
		at := btrfsSearchKey
		for range found {
			if at+btrfsItemHeader > len(args) {
				return parts, nil
			}
			off, n := le.Uint64(args[at+16:]), int(le.Uint32(args[at+28:]))
			at += btrfsItemHeader
			if n < 0 || n > len(args)-at {
				return parts, nil
			}
			if item := args[at : at+n]; n >= btrfsExtentItem && item[20] != 0 && le.Uint64(item[21:]) != 0 {
				length := le.Uint64(item[45:])
				if item[20] == 2 || length < le.Uint64(item[8:]) {
					parts = append(parts, btrfsPart{int64(off), int64(length), item[20] == 2})
				}
			}
			at += n
			from = off + 1
		}
		if from == 0 {
			return parts, nil
		}
	}
}
