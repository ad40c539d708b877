package openstack

import (
	"crypto/sha512"
	"encoding/hex"
	"math/rand/v2"
	"testing"

	"chromogenic/disk"
)

// TestRunningSum: what comes in nearly the right order is hashed as a whole; a byte that
// is another is found, and a gap only leaves the sum unknown.
func TestRunningSum(t *testing.T) {
	const block = 256 << 10
	p := make([]byte, 10<<20+77)
	rand.NewChaCha8([32]byte{}).Read(p)
	sum := sha512.Sum512(p)
	size := int64(len(p))
	record := &record{Size: &size, HashAlgo: "sha512", HashValue: hex.EncodeToString(sum[:])}
	feed := func(s *runningSum, p []byte, leave int, order func(blocks []int)) error {
		var blocks []int
		for i := 0; i*block < len(p); i++ {
			if i != leave {
				blocks = append(blocks, i)
			}
		}
		order(blocks)
		var err error
		for _, i := range blocks {
			s.begin(int64(i) * block)
			s.add(int64(i)*block, p[i*block:min(len(p), (i+1)*block)])
			if e := s.check(); e != nil {
				err = e
			}
		}
		return err
	}
	ordered := func([]int) {}
	nearly := func(blocks []int) {
		r := rand.New(rand.NewPCG(1, 2))
		for from := 0; from+8 <= len(blocks); from += 4 {
			part := blocks[from : from+8]
			r.Shuffle(len(part), func(i, j int) { part[i], part[j] = part[j], part[i] })
		}
	}
	wrong := append([]byte(nil), p...)
	wrong[5<<20] ^= 1
	for name, tt := range map[string]struct {
		p     []byte
		leave int
		order func([]int)
		known bool
		kind  disk.Kind
	}{
		"in order":             {p, -1, ordered, true, disk.Other},
		"nearly":               {p, -1, nearly, true, disk.Other},
		"a block is left out":  {p, 7, ordered, false, disk.Other},
		"a byte is wrong":      {wrong, -1, ordered, false, disk.Malformed},
		"wrong, nearly":        {wrong, -1, nearly, false, disk.Malformed},
		"the last is left out": {p, len(p) / block, nearly, false, disk.Other},
	} {
		t.Run(name, func(t *testing.T) {
			s := newRunningSum(record)
			err := feed(s, tt.p, tt.leave, tt.order)
			if s.known() != tt.known || (err != nil) != (tt.kind != disk.Other) || err != nil && disk.KindOf(err) != tt.kind {
				t.Errorf("known: %v, %v", s.known(), err)
			}
			if s.held > earlyMost {
				t.Errorf("it holds %d bytes", s.held)
			}
			if err := feed(s, p, -1, ordered); err != nil || !s.known() {
				t.Errorf("anew: known: %v, %v", s.known(), err)
			}
		})
	}
}
