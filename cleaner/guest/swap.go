package guest

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// wipeSwap discards all but the header of swap space. The header is the first page:
// its signature at the end, before it what mkswap(8) has told from 1024 on, and
// before that a boot sector, perhaps (kernel, include/linux/swap.h, union swap_header).
func wipeSwap(img Disk, v volumeOf) error {
	head := make([]byte, min(swapPages[len(swapPages)-1], v.Size))
	if err := readFull(img, head, v.Offset); err != nil {
		return err
	}
	page, suspended := swapPage(head)
	if suspended { // a machine that will not be resumed
		if _, err := img.WriteAt([]byte("SWAPSPACE2"), v.Offset+page-10); err != nil {
			return err
		}
	}
	return img.Discard(v.Offset+page, v.Size-page)
}

// swapPage finds the page size of swap space by its signature, 0 where it has none.
func swapPage(head []byte) (page int64, suspended bool) {
	for _, n := range swapPages {
		if n > int64(len(head)) {
			break
		}
		switch string(head[n-10 : n]) {
		case "S1SUSPEND\x00":
			return n, true
		case "SWAPSPACE2", "SWAP-SPACE":
			return n, false
		}
	}
	return 0, false
}

// wipeSwapFile writes zeros to all but the header of a swap file of the guest. The disk
// takes zeros as holes.
func wipeSwapFile(tree, name string) error {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer root.Close()
	f, err := root.OpenFile(strings.TrimPrefix(name, "/"), os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	head := make([]byte, min(swapPages[len(swapPages)-1], info.Size()))
	if !info.Mode().IsRegular() || readFull(f, head, 0) != nil {
		return fmt.Errorf("it is no file that can be read")
	}
	page, _ := swapPage(head)
	if page == 0 {
		return fmt.Errorf("it is no swap space")
	}
	zeros := make([]byte, 1<<20)
	for off := page; off < info.Size(); {
		n, err := f.WriteAt(zeros[:min(int64(len(zeros)), info.Size()-off)], off)
		if err != nil {
			return err
		}
		off += int64(n)
	}
	return f.Sync()
}
