package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"reflect"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers/internal/crypt"
)

// FuzzManifest reads any text. What is read can be written, and is then the same.
func FuzzManifest(f *testing.F) {
	b := pack(f, 5000, []byte("x"), true)
	f.Add(b.text)
	f.Add([]byte(`<?xml version='1.0' encoding='ASCII'?><manifest><version>3</version><machine_configuration>
		<block_device_mappings><block_device_mapping><device>sda</device><virtual>ami</virtual></block_device_mapping></block_device_mappings>
		<product_codes><product_code>A</product_code><product_code>B</product_code></product_codes></machine_configuration>
		<image><name>a&amp;b</name><user>1</user><ancestry><ancestor_ami_id>ami-1</ancestor_ami_id></ancestry>
		<digest algorithm='SHA1'>0123456789012345678901234567890123456789</digest><size>512</size><bundled_size>32</bundled_size>
		<user_encrypted_key algorithm='AES-128-CBC'>ff</user_encrypted_key><parts count='2'>
		<part index='1'><filename>b</filename><digest>0123456789012345678901234567890123456789</digest></part>
		<part index='0'><filename>a</filename><digest>0123456789012345678901234567890123456789</digest></part></parts></image>
		<signature>00ff</signature></manifest>`))
	f.Add([]byte(`<!DOCTYPE m [<!ENTITY a "b">]><manifest>&a;</manifest>`))
	f.Fuzz(func(t *testing.T, text []byte) {
		disktest.Within(t)
		InstanceStore{}.Accepts(text)
		m, err := Parse(text)
		if err != nil {
			if k := disk.KindOf(err); k != disk.Malformed && k != disk.Unsupported {
				t.Errorf("%v of kind %v", err, k)
			}
			return
		}
		for _, p := range m.Parts {
			if plainName(p.Name) != nil {
				t.Errorf("part %q", p.Name)
			}
		}
		if m.Size < 1 || m.BundledSize < 16 || len(m.Parts) < 1 || len(m.Parts) > maxParts {
			t.Errorf("manifest %+v", m)
		}
		_ = m.Verify(&keys().user.PublicKey)
		again, err := m.Encode(nil)
		if err != nil {
			if disk.KindOf(err) != disk.Invalid {
				t.Errorf("%v of kind %v", err, disk.KindOf(err))
			}
			return
		}
		n, err := Parse(again)
		if err != nil {
			t.Fatal(err)
		}
		m.Version, m.Signature, m.signed, n.signed = Version, nil, nil, nil
		if !reflect.DeepEqual(blank(m), blank(n)) {
			t.Errorf("%+v was written as %+v", m, n)
		}
	})
}

// blank makes empty lists and none alike.
func blank(m *Manifest) string { return fmt.Sprintf("%+v", *m) }

// pieceSource gives a stream in pieces.
type pieceSource struct {
	p []byte
	n int64 // of a piece
}

func (s *pieceSource) next(n int64) ([]byte, error) {
	if len(s.p) == 0 {
		return nil, io.EOF
	}
	p := s.p[:min(n, s.n, int64(len(s.p)))]
	s.p = s.p[len(p):]
	return p, nil
}

// bounded is a spool of a size: no write may go behind it, or back.
type bounded struct {
	t    *testing.T
	size int64
	end  int64
}

func (b *bounded) WriteAt(p []byte, off int64) (int, error) {
	if off < b.end || off > b.size-int64(len(p)) {
		b.t.Errorf("write of %d bytes at %d of %d, behind %d", len(p), off, b.size, b.end)
	}
	b.end = off + int64(len(p))
	return len(p), nil
}

// FuzzTar takes any tar stream apart. Where Go's own reader finds one file of the
// size in it, we find the same, and else no write is out of place.
func FuzzTar(f *testing.F) {
	good := tarOf(f, file("disk", 1000))
	f.Add(good, int64(1000), int64(512))
	f.Add(append(tarOf(f, file("a", 1)), good...), int64(1), int64(100))
	old := bytes.Clone(good) // a sparse member of GNU with a further block of its map
	old[typeOff] = 'S'
	copy(old[257:], "ustar  \x00")
	copy(old[sparseOff:], fmt.Sprintf("%011o\x00%011o\x00", 512, 500))
	old[sparseMore] = 1
	copy(old[realSizeOff:], fmt.Sprintf("%011o\x00", 5000))
	sumHeader(old)
	further := make([]byte, tarBlock)
	copy(further, fmt.Sprintf("%011o\x00%011o\x00%011o\x00%011o\x00", 4000, 500, 5000, 0))
	f.Add(append(append(bytes.Clone(old[:512]), further...), old[512:]...), int64(5000), int64(1<<20))
	for _, records := range []string{
		"GNU.sparse.size=5000\nGNU.sparse.map=0,500,600,500\n",
		"GNU.sparse.size=5000\nGNU.sparse.numblocks=2\nGNU.sparse.offset=0\nGNU.sparse.numbytes=500\nGNU.sparse.offset=600\nGNU.sparse.numbytes=500\n",
		"GNU.sparse.major=1\nGNU.sparse.minor=0\nGNU.sparse.realsize=5000\n",
	} {
		var text []byte
		for _, r := range bytes.SplitAfter([]byte(records), []byte("\n")) {
			if len(r) > 0 {
				text = fmt.Appendf(text, "%d %s", len(r)+3, r)
			}
		}
		head := bytes.Clone(good[:512])
		head[typeOff] = 'x'
		copy(head[sizeOff:], fmt.Sprintf("%011o\x00", len(text)))
		sumHeader(head)
		stream := append(append(head, text...), make([]byte, padding(int64(len(text))))...)
		member := bytes.Clone(good)
		copy(member[512:], "2\n0\n488\n600\n0\n")
		f.Add(append(stream, member...), int64(5000), int64(700))
	}
	f.Fuzz(func(t *testing.T, stream []byte, size, piece int64) {
		disktest.Within(t)
		size, piece = max(1, size), max(1, piece)
		err := untar(&pieceSource{stream, piece}, size, &bounded{t: t, size: size})
		if err != nil && disk.KindOf(err) != disk.Malformed {
			t.Errorf("%v of kind %v", err, disk.KindOf(err))
		}
		if err != nil || size > 1<<20 {
			return
		}
		got := spool{p: make([]byte, size)}
		if err := untar(&pieceSource{stream, 1 << 20}, size, &got); err != nil {
			t.Fatal(err)
		}
		if want, ok := goTar(stream, size); ok && !bytes.Equal(got.p, want) {
			t.Error("archive/tar reads another file")
		}
	})
}

// FuzzIndex reads any index of a bundle of one GiB whose key the attacker has, and
// reads the disk by it.
func FuzzIndex(f *testing.F) {
	const size = 3*chunkSize + 5
	b := bundleOf(f, disktest.Runs(size, disk.Extent{Len: 100_000}), true)
	f.Add(b.index)
	f.Add(b.index[:50])
	f.Fuzz(func(t *testing.T, p []byte) {
		disktest.Within(t)
		if len(p) > sha256.Size { // as somebody does who has the key
			p = append(bytes.Clone(p[:len(p)-sha256.Size]), indexSum(p[:len(p)-sha256.Size], b.secret)...)
		}
		img, err := Open(t.Context(), b.m, b.secret, p, b.parts.fetch)
		if err != nil {
			if disk.KindOf(err) != disk.Malformed {
				t.Errorf("%v of kind %v", err, disk.KindOf(err))
			}
			return
		}
		defer img.Close()
		for e, err := range disk.Extents(img) {
			if err != nil || e.Len < 1 {
				t.Fatalf("%+v, %v", e, err)
			}
			q := make([]byte, e.Len)
			if _, err := img.ReadAt(q, e.Off); err != nil && err != io.EOF && disk.KindOf(err) != disk.Malformed {
				t.Errorf("%v of kind %v", err, disk.KindOf(err))
			}
		}
	})
}

// FuzzUnbundle takes any gzip stream apart, in parts of any length.
func FuzzUnbundle(f *testing.F) {
	b := bundleOf(f, disktest.Pattern(3000, nil), false)
	mode, err := crypt.AES128CBC{}.Decrypt(b.secret, nil)
	if err != nil {
		f.Fatal(err)
	}
	plain := b.parts.all(b.m)
	mode.CryptBlocks(plain, plain)
	f.Add(plain, uint16(1000))
	f.Add(binary.BigEndian.AppendUint32(plain[:100], 0), uint16(7))
	f.Fuzz(func(t *testing.T, plain []byte, part uint16) {
		disktest.Within(t)
		plain = plain[:len(plain)/16*16]
		if len(plain) == 0 {
			return
		}
		sealed := bytes.Clone(plain)
		mode, err := crypt.AES128CBC{}.Encrypt(b.secret)
		if err != nil {
			t.Fatal(err)
		}
		mode.CryptBlocks(sealed, sealed)
		c := made{m: &Manifest{Name: "web", Size: 3000, BundledSize: int64(len(sealed)), Algorithm: "AES-128-CBC", Digest: b.m.Digest}, parts: store{}}
		for i := 0; len(sealed) > 0; i++ {
			p := sealed[:min(len(sealed), max(int(part), len(sealed)/20+1))]
			sealed = sealed[len(p):]
			c.m.Parts = append(c.m.Parts, Part{Name: partName("web", i), SHA1: sum(p)})
			c.parts[partName("web", i)] = p
		}
		err = Unbundle(t.Context(), c.m, b.secret, c.parts.fetch, discard{}, nil)
		if k := disk.KindOf(err); err != nil && k != disk.Malformed && k != disk.Denied {
			t.Errorf("%v of kind %v", err, k)
		}
	})
}
