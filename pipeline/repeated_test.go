package pipeline

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"chromogenic/disk"
)

// TestRepeatedEnd: rsync --inplace that is killed may write its last buffer twice. What is
// longer than its file system for another reason is taken.
func TestRepeatedEnd(t *testing.T) {
	const size = 1<<20 + 5<<10
	ext := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(ext)
	clear(ext[:2048])
	sb := ext[1024:]
	binary.LittleEndian.PutUint32(sb[4:], size>>10) // blocks of 1 KiB
	binary.LittleEndian.PutUint16(sb[56:], 0xef53)
	grown := slices.Concat(ext, make([]byte, 300<<10)) // the file system does not fill the disk
	copy(grown[len(grown)-33*512:], ext[4096:])
	part := func(p []byte) []byte { return p[len(p)/rsyncBuffer*rsyncBuffer:] }
	for name, tt := range map[string]struct {
		img   []byte
		twice bool
	}{
		"whole":                  {ext, false},
		"the last part twice":    {slices.Concat(ext, part(ext)), true},
		"a buffer twice":         {slices.Concat(ext, ext[size-rsyncBuffer:]), true},
		"larger":                 {grown, false},
		"larger, the part twice": {slices.Concat(grown, part(grown)), true},
		"zeros behind":           {slices.Concat(ext, make([]byte, 256<<10)), false},
		"erased flash behind":    {slices.Concat(ext, bytes.Repeat([]byte{0xff}, 600<<10)), false},
		"a pattern behind":       {slices.Concat(ext, bytes.Repeat([]byte("01234567"), 128<<10)), false},
		"other bytes behind":     {slices.Concat(ext, ext[8<<10:13<<10]), false},
	} {
		err := checkWhole(disk.Bytes(tt.img))
		if tt.twice {
			wantKind(t, err, disk.Malformed)
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
