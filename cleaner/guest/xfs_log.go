package guest

import (
	"encoding/binary"
	"fmt"

	"chromogenic/disk"
)

const (
	xfsLogMagic   = 0xFEEDBABE // xlog_rec_header, in its first word
	xfsLogSector  = 512        // the unit of the log, whatever sectors the disk has
	xfsLogWindow  = 1 << 20    // bytes of it that are handled at once
	xfsLogRecord  = 32 << 10   // bytes of data for each sector of a record's header
	xfsUnmountOp  = 0x20       // XLOG_UNMOUNT_TRANS, in the flags of an operation
	xfsMaxLogSize = 2 << 30    // bytes: XFS_MAX_LOG_BYTES
)

// scrubLog clears what was logged. A log that was closed properly ends in a record that
// says so, and nobody reads what lies before it. But how far the log got is found by
// the first word of each of its sectors, the number of the round in which it was
// written, and the numbers of the next rounds must go on: so these words and the last
// record stay. A header has its magic there and the round in the next word; where a
// header was, the round is.
func (x *xfsFS) scrubLog() error {
	ag := int64(x.logStart >> x.agShift)
	block := int64(x.logStart & (1<<x.agShift - 1))
	size := x.logBlocks * x.block
	if ag >= x.agCount || x.logBlocks < 1 || size > xfsMaxLogSize || block >= x.groupSize(ag) || x.logBlocks > x.groupSize(ag)-block {
		return disk.Errorf(disk.Malformed, "clear log: it lies outside of the filesystem")
	}
	l := xfsLog{f: x.f, off: (ag*x.agBlocks + block) * x.block, sectors: size / xfsLogSector}
	if err := l.find(); err != nil {
		return fmt.Errorf("clear log: %w", err)
	}
	if err := l.clear(); err != nil {
		return fmt.Errorf("clear log: %w", err)
	}
	return nil
}

type xfsLog struct {
	f            volumeFile
	off, sectors int64
	keep, length int64 // the last record, in sectors; it may go on at the beginning
}

// each calls f with pieces of the log that are not empty; f tells whether it changed
// one.
func (l *xfsLog) each(f func(sector int64, p []byte) bool) error {
	buf := make([]byte, xfsLogWindow)
	for at := int64(0); at < l.sectors; at += xfsLogWindow / xfsLogSector {
		p := buf[:min(xfsLogWindow, (l.sectors-at)*xfsLogSector)]
		if err := readFull(l.f, p, l.off+at*xfsLogSector); err != nil {
			return err
		}
		if !f(at, p) {
			continue
		}
		if _, err := l.f.WriteAt(p, l.off+at*xfsLogSector); err != nil {
			return err
		}
	}
	return nil
}

// find finds the last record: that with the highest number, round and sector, at 16 of
// its header; its length in bytes is at 12, the number of its operations at 40.
func (l *xfsLog) find() error {
	be := binary.BigEndian
	var last uint64
	var header []byte
	err := l.each(func(sector int64, p []byte) bool {
		for i := 0; i < len(p); i += xfsLogSector {
			h := p[i : i+xfsLogSector]
			here := sector + int64(i/xfsLogSector)
			lsn := be.Uint64(h[16:])
			// What was logged may look alike, but not say where it is.
			if be.Uint32(h) == xfsLogMagic && int64(lsn&0xffffffff) == here && uint32(lsn>>32) == be.Uint32(h[4:]) && lsn > last {
				last, l.keep, header = lsn, here, append(header[:0], h...)
			}
		}
		return false
	})
	if err != nil {
		return err
	}
	if header == nil {
		return nil // of a filesystem that was never mounted
	}
	n := int64(be.Uint32(header[12:]))
	heads := max(1, (n+xfsLogRecord-1)/xfsLogRecord)
	l.length = heads + (n+xfsLogSector-1)/xfsLogSector
	if l.length > l.sectors || be.Uint32(header[40:]) != 1 {
		return disk.Errorf(disk.Unsupported, "it was not closed by its last record")
	}
	// The operation: transaction, length, client, flags. Its first word is in the
	// header, for the round is in its place.
	data := make([]byte, xfsLogSector)
	if err := readFull(l.f, data, l.off+(l.keep+heads)%l.sectors*xfsLogSector); err != nil {
		return err
	}
	if data[9]&xfsUnmountOp == 0 {
		return disk.Errorf(disk.Unsupported, "it was not closed by its last record")
	}
	return nil
}

func (l *xfsLog) clear() error {
	be := binary.BigEndian
	return l.each(func(sector int64, p []byte) bool {
		changed := false
		for i := 0; i < len(p); i += xfsLogSector {
			here := sector + int64(i/xfsLogSector)
			if (here-l.keep+l.sectors)%l.sectors < l.length {
				continue
			}
			s := p[i : i+xfsLogSector]
			if be.Uint32(s) == xfsLogMagic {
				copy(s, s[4:8])
				changed = true
			}
			changed = clean(s[4:]) || changed
		}
		return changed
	})
}
