package guest

// wipeSwap discards all but the header of swap space. The header is the first page:
// its signature at the end, before it what mkswap(8) has told from 1024 on, and
// before that a boot sector, perhaps (kernel, include/linux/swap.h, union swap_header).
func wipeSwap(img Disk, v volumeOf) error {
	page := make([]byte, swapPages[len(swapPages)-1])
	page = page[:min(int64(len(page)), v.Size)]
	if err := readFull(img, page, v.Offset); err != nil {
		return err
	}
	size := int64(len(page))
	for _, n := range swapPages {
		if n > int64(len(page)) {
			break
		}
		switch string(page[n-10 : n]) {
		case "S1SUSPEND\x00": // of a machine that will not be resumed
			if _, err := img.WriteAt([]byte("SWAPSPACE2"), v.Offset+n-10); err != nil {
				return err
			}
			size = n
		case "SWAPSPACE2", "SWAP-SPACE":
			size = n
		default:
			continue
		}
		break
	}
	return img.Discard(v.Offset+size, v.Size-size)
}
