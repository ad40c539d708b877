package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// FS_IOC_FIEMAP of <linux/fiemap.h>: a head of 32 bytes (start, length, flags, number
// found, room), and 56 for each extent (offset in the file, place, length, ..., flags
// at 40).
const (
	fiemap       = 0xc020660b
	fiemapHead   = 32
	fiemapExtent = 56
	fiemapRoom   = 64

	fiemapLast      = 0x1
	fiemapUnwritten = 0x800
)

// punchUnwritten takes from the files below dir the space that they have reserved and
// never wrote to: it reads as zeros, whatever is there on the disk.
func punchUnwritten(dir string) error {
	return filepath.WalkDir(dir, func(path string, d iofs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if err := punchFileUnwritten(path); err != nil && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("punch: %w", err)
		}
		return nil
	})
}

func punchFileUnwritten(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var holes []span
	le := binary.LittleEndian
	for from, last := uint64(0), false; !last; {
		var args [fiemapHead + fiemapRoom*fiemapExtent]byte
		le.PutUint64(args[0:], from)
		le.PutUint64(args[8:], ^uint64(0)-from)
		le.PutUint32(args[24:], fiemapRoom)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fiemap, uintptr(unsafe.Pointer(&args))); errno != 0 {
			return errno
		}
		n := min(int(le.Uint32(args[20:])), fiemapRoom)
		last = n == 0
		for i := range n {
			e := args[fiemapHead+i*fiemapExtent:]
			off, length, flags := le.Uint64(e), le.Uint64(e[16:]), le.Uint32(e[40:])
			if flags&fiemapUnwritten != 0 {
				holes = append(holes, span{int64(off), int64(length)})
			}
			last = last || flags&fiemapLast != 0 || off+length <= from
			from = off + length
		}
	}
	if holes == nil {
		return nil
	}
	w, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer w.Close()
	for _, h := range holes {
		if err := unix.Fallocate(int(w.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, h.Off, h.Size); err != nil {
			return err
		}
	}
	return nil
}
