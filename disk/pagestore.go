package disk

import (
	"fmt"
	"math"
	"os"
)

// pageSize is the granularity of an overlay in bytes: the block of the
// filesystems that are cleaned on it.
const pageSize = 4 << 10

// A pageStore holds the written pages of an overlay in numbered slots. The
// first slots are in memory, as many as the budget allows; those behind are in
// an unlinked file, which the kernel removes however we end.
type pageStore struct {
	memory  []*[pageSize]byte // slot i, nil while it is free
	budget  int               // slots in memory
	folder  string            // of the scratch file; empty is os.TempDir
	scratch *os.File          // nil until it is needed
	next    uint32            // slots from here on were never used
	unused  []uint32          // slots that were freed
}

// stored is the number of slots in use.
func (s *pageStore) stored() int64 { return int64(s.next) - int64(len(s.unused)) }

// add puts a page into a free slot. The page is the store's from then on.
func (s *pageStore) add(page *[pageSize]byte) (slot uint32, err error) {
	slot, reused := s.next, len(s.unused) > 0
	if reused {
		slot = s.unused[len(s.unused)-1]
	} else if slot == math.MaxUint32-uint32(firstSlot) {
		return 0, Errorf(TooLarge, "store page: overlay holds %d pages", slot)
	}
	switch {
	case int(slot) >= s.budget:
		err = s.write(slot, 0, page[:])
	case int(slot) < len(s.memory):
		s.memory[slot] = page
	default: // slots come into use in order
		s.memory = append(s.memory, page)
	}
	if err != nil {
		return 0, err
	}
	if reused {
		s.unused = s.unused[:len(s.unused)-1]
	} else {
		s.next++
	}
	return slot, nil
}

// free gives a slot back.
func (s *pageStore) free(slot uint32) {
	if int(slot) < len(s.memory) {
		s.memory[slot] = nil
	}
	s.unused = append(s.unused, slot)
}

// write changes the bytes of a slot in use from in on.
func (s *pageStore) write(slot uint32, in int64, p []byte) error {
	if int(slot) < s.budget {
		copy(s.memory[slot][in:], p)
		return nil
	}
	if s.scratch == nil {
		f, err := unlinkedFile(s.folder)
		if err != nil {
			return err
		}
		s.scratch = f
	}
	if _, err := s.scratch.WriteAt(p, s.offset(slot)+in); err != nil {
		return fmt.Errorf("write scratch file of overlay: %w", err)
	}
	return nil
}

// read fills p with the bytes of a slot from in on. It may run beside other
// reads.
func (s *pageStore) read(slot uint32, in int64, p []byte) error {
	if int(slot) < s.budget {
		copy(p, s.memory[slot][in:])
		return nil
	}
	if _, err := s.scratch.ReadAt(p, s.offset(slot)+in); err != nil {
		return fmt.Errorf("read scratch file of overlay: %w", err)
	}
	return nil
}

// offset is where a slot lies in the scratch file, in bytes.
func (s *pageStore) offset(slot uint32) int64 { return (int64(slot) - int64(s.budget)) * pageSize }

// close drops all pages.
func (s *pageStore) close() error {
	s.memory, s.unused, s.next = nil, nil, 0
	if s.scratch == nil {
		return nil
	}
	return s.scratch.Close()
}

// unlinkedFile makes a file without a name.
func unlinkedFile(folder string) (*os.File, error) {
	f, err := os.CreateTemp(folder, ".chromogenic-overlay-*")
	if err != nil {
		return nil, fmt.Errorf("create scratch file of overlay: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("unlink scratch file of overlay: %w", err)
	}
	return f, nil
}
