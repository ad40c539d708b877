package pipeline

import (
	"bytes"
	"context"
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
)

// A summed provider has a digest of each image, as a cloud does.
type summed struct {
	remote
	dir  string
	sums map[string][32]byte // by the id
	asks int                 // to verify
}

func (p *summed) Open(ctx context.Context, e providers.Entry, n int) (providers.Source, error) {
	src, err := p.remote.Open(ctx, e, n)
	if err == nil {
		src.Image = &summedImage{src.Image, p, e.ID}
	}
	return src, err
}

type summedImage struct {
	disk.Image
	p  *summed
	id string
}

// Verify reads all of the image anew.
func (i *summedImage) Verify(ctx context.Context) error {
	i.p.asks++
	b := make([]byte, i.Size())
	if err := disk.ReadFull(disk.Anew(ctx)(i.Image), b, 0); err != nil {
		return err
	}
	if sum, ok := i.p.sums[i.id]; ok && sum != sha256.Sum256(b) {
		return disk.Errorf(disk.Malformed, "the digest is another")
	}
	return nil
}

func newSummed(t *testing.T, change ...func(*Options)) (*bench, *summed) {
	p := &summed{sums: map[string][32]byte{}}
	b := newBench(t, append([]func(*Options){far, func(o *Options) {
		p.remote = o.Sites[0].Provider.(remote)
		o.Sites[0].Provider = p
	}}, change...)...)
	p.dir = filepath.Join(b.dir, "a")
	return b, p
}

// damage remembers the digest of an image and then changes a byte of what it holds.
func (p *summed) damage(t *testing.T, id string, find []byte) {
	t.Helper()
	path := filepath.Join(p.dir, id)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p.sums[id] = sha256.Sum256(b)
	at := bytes.LastIndex(b, find)
	if at < 0 {
		t.Fatal("there is no such content")
	}
	b[at] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestViewVerify: a byte that has changed in the store is found by whoever has read the
// image in another format, as it is in a copy.
func TestViewVerify(t *testing.T) {
	b, p := newSummed(t)
	guest := disktest.Pattern(4<<20, nil)
	content := make([]byte, 4096)
	if err := disk.ReadFull(guest, content, 2<<20); err != nil {
		t.Fatal(err)
	}
	for name, format := range map[string]string{"good.qcow2": "raw", "bad.qcow2": "raw", "bad-raw.raw": "qcow2", "good-raw.raw": "qcow2"} {
		if filepath.Ext(name) == ".raw" {
			b.put("a/"+name, guest)
		} else {
			b.put("a/"+name, asQcow2(t, guest))
		}
		bad := strings.HasPrefix(name, "bad")
		if bad {
			p.damage(t, name, content)
		}
		p.asks = 0
		v := b.view("a", name[:len(name)-len(filepath.Ext(name))], format)
		if err := disk.ReadFull(v, make([]byte, v.Size()), 0); err != nil {
			t.Fatal(err)
		}
		if err := v.Verify(t.Context()); (disk.KindOf(err) == disk.Malformed) != bad || (err != nil) != bad {
			t.Errorf("%s: %v", name, err)
		}
		if p.asks != 1 {
			t.Errorf("%s is verified %d times", name, p.asks)
		}
		_, err := b.copy(CopySpec{From: v, Site: "b", Name: name})
		if (disk.KindOf(err) == disk.Malformed) != bad || (err != nil) != bad {
			t.Errorf("copy of %s: %v", name, err)
		}
		if p.asks != 2 { // of the container alone, when it has been read
			t.Errorf("%s is verified %d times with a copy", name, p.asks)
		}
	}
	if got := b.files("b"); len(got) != 2 {
		t.Errorf("arrived are %q", got)
	}
}

// TestVerifyWithinLimits: what is read to verify is counted and bounded too.
func TestVerifyWithinLimits(t *testing.T) {
	b, _ := newSummed(t)
	b.put("a/web.qcow2", asQcow2(t, disktest.Pattern(4<<20, nil)))
	v := b.view("a", "web", "raw")
	before := b.traffic("a").Fetched
	if err := v.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := b.traffic("a").Fetched - before; got < 4<<20 {
		t.Errorf("%d bytes are counted", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	paced := Pace(ctx, v, 1)
	wantKind(t, disk.Verify(ctx, paced), disk.Cancelled)
	b.setLimits(Limits{Budget: daily(1 << 20)}, nil)
	wantKind(t, v.Verify(t.Context()), disk.Quota)
}
