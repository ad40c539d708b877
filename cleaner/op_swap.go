package cleaner

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// A file of swap begins with a page that says what it is, linux/swap.h: the last ten
// bytes of the page are its signature. A hibernated kernel puts its own there.
const (
	swapPage  = 4096
	swapMark  = "SWAPSPACE2"
	hiberMark = "S1SUSPEND\x00"
)

// swap clears what was paged out, and a hibernated kernel, from files of swap. They
// stay as they are on the disk otherwise: swapon(8) takes no file with holes. Swap
// partitions are for whoever has the disk.
func swap(g *Guest) error {
	text, _, err := g.read("/etc/fstab")
	if err != nil {
		return err
	}
	files := []string{"/swapfile", "/swap.img", "/var/swap", "/var/swapfile", "/swap/swapfile", "/var/lib/swap/swapfile", "/.swapfile", "/mnt/swapfile", "/var/lib/hibernate/hibfile"}
	for _, m := range parseFstab(text) {
		if m.kind == "swap" && strings.HasPrefix(m.what, "/") && !strings.HasPrefix(m.what, "/dev/") {
			files = append(files, path.Clean(m.what))
		}
	}
	for _, p := range files {
		if err := clearSwap(g, p); err != nil {
			return pathError(p, err)
		}
	}
	return g.remove("/var/lib/systemd/hibernate*", "/var/lib/pm-utils/*", "/hiberfil.sys")
}

func clearSwap(g *Guest, p string) error {
	n, ok, err := g.lookup(p, true)
	if err != nil || !ok || !n.regular() || n.info.Size() < swapPage {
		return err
	}
	flag := os.O_RDWR
	if g.opt.Plan {
		flag = os.O_RDONLY
	}
	f, err := g.openFile(n, flag)
	if err != nil {
		return err
	}
	defer f.Close()
	page := make([]byte, swapPage)
	if _, err := f.ReadAt(page, 0); err != nil {
		return err
	}
	mark := page[swapPage-len(swapMark):]
	hibernated := bytes.Equal(mark, []byte(hiberMark))
	if !hibernated && !bytes.Equal(mark, []byte(swapMark)) {
		return nil // not swap, whatever its name
	}
	if hibernated && !g.opt.Plan {
		if _, err := f.WriteAt([]byte(swapMark), swapPage-int64(len(swapMark))); err != nil {
			return err
		}
	}
	cleared, err := g.zero(f, swapPage, n.info.Size())
	if err == nil && (cleared > 0 || hibernated) {
		g.did(n.path, "zeroed", 1, cleared)
	}
	return err
}

// zero writes zeros over what is not zero from an offset to an end. Holes and blocks
// that were never written are passed over.
func (g *Guest) zero(f *os.File, off, end int64) (cleared int64, err error) {
	buf, zeros := make([]byte, 256<<10), make([]byte, 256<<10)
	for off < end {
		if err := g.ctx.Err(); err != nil {
			return cleared, err
		}
		data, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return cleared, nil
		}
		if err == nil {
			off = max(off, data)
		}
		n, err := f.ReadAt(buf[:min(int64(len(buf)), max(end-off, 0))], off)
		if err != nil && !errors.Is(err, io.EOF) {
			return cleared, err
		}
		if n == 0 {
			return cleared, nil
		}
		if !bytes.Equal(buf[:n], zeros[:n]) {
			cleared += int64(n)
			if !g.opt.Plan {
				if _, err := f.WriteAt(zeros[:n], off); err != nil {
					return cleared, err
				}
			}
		}
		off += int64(n)
	}
	return cleared, nil
}
