package bundle

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/binary"
	"hash/crc32"
	"io"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

// feed gives p to a stage in pieces.
func feed(t testing.TB, p []byte) *conveyor {
	in := newConveyor(cipherPiece, len(p)/cipherPiece+1)
	for len(p) > 0 {
		b, err := in.buffer(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b = b[:copy(b, p)]
		p = p[len(b):]
		in.full <- b
	}
	in.close()
	return in
}

// gunzipAll is what gunzip makes of p.
func gunzipAll(t testing.TB, p []byte) ([]byte, error) {
	in, out := feed(t, p), newConveyor(chunkSize, pieces+inflaters())
	result := make(chan error, 1)
	go func() {
		err := gunzip(t.Context(), in, out)
		if err != nil {
			out.close()
		}
		result <- err
	}()
	var got []byte
	for r := (&conveyed{ctx: t.Context(), c: out}); ; {
		q, err := r.next(1 << 20)
		if err == io.EOF {
			return got, <-result
		} else if err != nil {
			t.Fatal(err)
		}
		got = append(got, q...)
	}
}

// gzipOf is a gzip stream of deflate blocks.
func gzipOf(blocks, plain []byte) []byte {
	p := append(gzipHeader(), blocks...)
	p = binary.LittleEndian.AppendUint32(p, crc32.ChecksumIEEE(plain))
	return binary.LittleEndian.AppendUint32(p, uint32(len(plain)))
}

// flushing deflates p with flushes every n bytes; independent forgets what was before.
func flushing(t testing.TB, p []byte, n, level int, independent bool) []byte {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	for len(p) > 0 {
		q := p[:min(n, len(p))]
		p = p[len(q):]
		if independent {
			w.Reset(&b)
		}
		w.Write(q)
		w.Flush()
	}
	w.Close()
	return b.Bytes()
}

// words is n bytes that compress as text does, with references far back.
func words(n int) []byte {
	p := noise(n)
	for i := range p {
		p[i] = "etaoin shrdlu\n\x00\x00"[p[i]%16]
	}
	for i := 100_000; i+60_000 < n; i += 100_000 {
		copy(p[i:i+30_000], p[i-31_000:])
	}
	return p
}

// markers is n bytes full of what ends a chunk, and cannot be compressed.
func markers(n int) []byte {
	p := noise(n)
	for i := 0; i+4 < n; i += 150_000 {
		copy(p[i:], flushed())
	}
	return p
}

func gunzipStreams(t testing.TB) map[string][]byte {
	text, raw := words(chunkSize+200_333), markers(chunkSize+100_000)
	var one, named, two bytes.Buffer
	for _, b := range []*bytes.Buffer{&one, &named, &two, &two} {
		w := gzip.NewWriter(b)
		if b == &named {
			w.Name = "disk.tar"
		}
		w.Write(text)
		w.Close()
	}
	ours := gzipOf(flushing(t, text, chunkSize, 6, true), text)
	return map[string][]byte{
		"gzip":              one.Bytes(),
		"with a name":       named.Bytes(),
		"two members":       two.Bytes(),
		"chunks":            ours,
		"chunks, two":       append(bytes.Clone(ours), ours...),
		"chunks, then gzip": append(bytes.Clone(ours), one.Bytes()...),
		"small chunks":      gzipOf(flushing(t, text, 15_000, 6, true), text),
		"large chunks":      gzipOf(flushing(t, text, len(text), 6, true), text),
		"dependent":         gzipOf(flushing(t, text, 128<<10, 6, false), text),
		"stored":            gzipOf(flushing(t, raw, chunkSize, 0, true), raw),
		"stored, one":       gzipOf(flushing(t, raw, len(raw), 0, true), raw),
		"empty":             gzipOf(deflateEnd(), nil),
	}
}

// Every stream gives what Go's library makes of it, and no cut or changed one passes.
func TestGunzip(t *testing.T) {
	for name, p := range gunzipStreams(t) {
		zr, err := gzip.NewReader(bytes.NewReader(p))
		if err != nil {
			t.Fatal(err)
		}
		want, err := io.ReadAll(zr)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, err := gunzipAll(t, p); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v, want %d", name, len(got), err, len(want))
		}
		for _, n := range []int{len(p)/2 - 1, len(p) - 1} {
			if n < gzipHeaderLen {
				continue
			}
			if _, err := gunzipAll(t, p[:n]); disk.KindOf(err) != disk.Malformed {
				t.Errorf("%s, cut at %d of %d: %v of kind %v", name, n, len(p), err, disk.KindOf(err))
			}
		}
		changed := bytes.Clone(p)
		changed[len(p)-6] ^= 1
		if _, err := gunzipAll(t, changed); disk.KindOf(err) != disk.Malformed {
			t.Errorf("%s, with another sum: %v", name, err)
		}
	}
}

// Of what Bundle makes nothing but the end is left to be inflated in one go, also
// where the disk holds what looks like the end of a chunk. (Go's compressor ends with
// what looks like one, too.)
func TestGunzipInParallel(t *testing.T) {
	streams := gunzipStreams(t)
	for _, name := range []string{"chunks", "stored"} {
		g := gunzipper{ctx: t.Context(), out: newConveyor(chunkSize, 20)}
		g.read = streams[name][gzipHeaderLen:]
		g.src = bufio.NewReader(bytes.NewReader(nil))
		if err := g.parallel(); err != nil || len(g.queue) > 1 || len(g.read)-g.taken > 20 {
			t.Errorf("%s: %v; %d chunks and %d bytes are left", name, err, len(g.queue), len(g.read)-g.taken)
		}
	}
}

// FuzzGunzip compares with Go's library.
func FuzzGunzip(f *testing.F) {
	text := words(3000)
	f.Add(gzipOf(flushing(f, text, 700, 6, true), text))
	f.Add(gzipOf(flushing(f, text, 700, 6, false), text))
	f.Add(gzipOf(flushing(f, text, 1500, 0, true), text))
	f.Add(append(gzipOf(flushing(f, text, 9000, 6, true), text), gzipOf(deflateEnd(), nil)...))
	f.Fuzz(func(t *testing.T, p []byte) {
		disktest.Within(t)
		got, err := gunzipAll(t, p)
		if k := disk.KindOf(err); err != nil && k != disk.Malformed && k != disk.Denied {
			t.Errorf("%v of kind %v", err, k)
		}
		var want []byte
		zr, goErr := gzip.NewReader(bytes.NewReader(p))
		if goErr == nil {
			want, goErr = io.ReadAll(zr)
		}
		if (err == nil) != (goErr == nil) || err == nil && !bytes.Equal(got, want) {
			t.Errorf("%d bytes, %v; Go says %d bytes, %v", len(got), err, len(want), goErr)
		}
	})
}
