package fs

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// kernelAhead is how far, in bytes, the kernel reads ahead of who reads a file by way of
// its page cache: as much as one request may ask for. It is 128 KiB otherwise
// (VM_READAHEAD_PAGES in linux/mm.h), which is eight requests for that.
const kernelAhead = 1 << 20

// readSize is what stat(2) advises to read an image with, in bytes: what the kernel asks
// for at once. Programs of coreutils follow it. Of a view that does not go through the page
// cache each read is a request of its own, and nothing is read ahead of it.
const readSize = 1 << 20

// readFurther tells the kernel so, in sysfs: a file system has no other way to (the
// answer to FUSE_INIT can only make it less). That takes root and a /sys that can be
// written; without these reads are slower, and as good.
func readFurther(dir string) {
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return
	}
	bdi := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(st.Dev), unix.Minor(st.Dev))
	_ = os.WriteFile(bdi, []byte(strconv.Itoa(kernelAhead>>10)), 0)
}
