package guest

import (
	"fmt"
	"math"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fitrim is FITRIM of <linux/fs.h>, _IOWR('X', 121, struct fstrim_range), and
// fstrimRange its argument, in bytes.
const fitrim = 0xc0185879

type fstrimRange struct{ start, length, minimum uint64 }

// trim has the kernel discard all free space of the filesystem that is mounted at dir.
func trim(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("trim: %w", err)
	}
	defer f.Close()
	r := fstrimRange{length: math.MaxUint64}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fitrim, uintptr(unsafe.Pointer(&r))); errno != 0 {
		return fmt.Errorf("trim: %w", errno)
	}
	return nil
}
