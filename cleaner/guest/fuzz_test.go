package guest

import (
	"bufio"
	"bytes"
	"os"
	"testing"

	"chromogenic/disk/disktest"
)

// memory is a disk in memory, which takes what is written.
type memory []byte

func (m memory) Size() int64 { return int64(len(m)) }

func (m memory) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(m).ReadAt(p, off) }

func (m memory) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }

func (m memory) Discard(off, n int64) error {
	clear(m[off : off+n])
	return nil
}

// seed makes an image with a program, where that is installed.
func seed(f *testing.F, make func(t testing.TB, path string)) []byte {
	f.Helper()
	path := f.TempDir() + "/seed"
	make(f, path)
	p, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	return p
}

// FuzzSurvey reads any bytes as a disk.
func FuzzSurvey(f *testing.F) {
	f.Add(make([]byte, 512))
	f.Add([]byte{})
	mbr := make([]byte, 256<<10)
	copy(mbr[446:], "\x80\x00\x02\x00\x83\x00\x00\x00\x01\x00\x00\x00\x04\x00\x00\x00\x00\x00\x02\x00\x05\x00\x00\x00\x08\x00\x00\x00\x80\x00\x00\x00")
	copy(mbr[510:], "\x55\xaa")
	copy(mbr[8*512+446:], "\x00\x00\x02\x00\x83\x00\x00\x00\x01\x00\x00\x00\x04\x00\x00\x00\x00\x00\x02\x00\x05\x00\x00\x00\x10\x00\x00\x00\x80\x00\x00\x00")
	copy(mbr[8*512+510:], "\x55\xaa")
	f.Add(mbr)
	copy(mbr[512:], "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
	f.Add(mbr)
	f.Fuzz(func(t *testing.T, p []byte) {
		disktest.Within(t)
		tbl, volumes, err := survey(memory(p))
		if err != nil {
			return
		}
		for _, s := range tbl.gaps(int64(len(p))) {
			if s.Off < 0 || s.Size <= 0 || s.end() > int64(len(p)) {
				t.Errorf("a gap at %d of %d bytes", s.Off, s.Size)
			}
		}
		for _, v := range volumes {
			if v.Used < 0 || v.Used > v.Size {
				t.Errorf("%d of %d bytes are used", v.Used, v.Size)
			}
		}
		if err := wipe(memory(p), tbl, volumes); err != nil {
			t.Error(err)
		}
	})
}

// FuzzFstab parses any text as an fstab.
func FuzzFstab(f *testing.F) {
	f.Add([]byte("UUID=x / ext4 defaults 0 1\n/dev/sda2 /a\\040b btrfs subvol=/@,compress 0 0\n/swap none swap sw"))
	f.Add([]byte("LABEL=\"x\" /../.. xfs\n\\777 /\\0 x\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		disktest.Within(t)
		lines := parseFstab(text)
		if len(lines) > maxFstabLines {
			t.Errorf("%d lines", len(lines))
		}
		v := volumeOf{}
		for _, l := range lines {
			if l.Type != "swap" && l.Path[0] != '/' {
				t.Errorf("the path %q", l.Path)
			}
			v.named(l.Source)
		}
	})
}

// FuzzFrame reads any bytes as a message.
func FuzzFrame(f *testing.F) {
	var b bytes.Buffer
	if err := writeFrame(&b, result{Reply: []byte("x")}); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(append([]byte("Kernel panic\n\x00chromo"), b.Bytes()...))
	f.Add([]byte("\x00chromogenic guest\n\x01\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, p []byte) {
		disktest.Within(t)
		var r result
		if readFrame(bufio.NewReader(bytes.NewReader(p)), &r) == nil {
			_ = r.Failure.err()
		}
	})
}

// FuzzExt scrubs any bytes as an ext filesystem.
func FuzzExt(f *testing.F) {
	if findTool("mke2fs") != "" {
		small := files{"a/file": "text", "a/gone": "more", "b": secret("b")}
		f.Add(seed(f, func(t testing.TB, path string) {
			ext("ext2", small, "-b", "1024", "-N", "32")(t, path, span{0, 512 << 10})
		}))
		f.Add(seed(f, func(t testing.TB, path string) {
			ext("ext4", small, "-b", "1024", "-N", "32")(t, path, span{0, 2 << 20})
		}))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		disktest.Within(t)
		_ = scrubExt(memory(p), int64(len(p)))
	})
}

// FuzzXFS scrubs any bytes as an xfs.
func FuzzXFS(f *testing.F) {
	head := make([]byte, 64<<10)
	copy(head, "XFSB\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\x00\x10")
	copy(head[48:], "\x00\x00\x00\x00\x00\x00\x00\x04")
	copy(head[84:], "\x00\x00\x00\x10\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x04\x00\x05\x02\x00")
	head[124] = 4
	copy(head[512:], "XAGF")
	copy(head[512+16:], "\x00\x00\x00\x01")
	copy(head[512+28:], "\x00\x00\x00\x01")
	copy(head[4096:], "AB3B\x00\x00\x00\x01")
	copy(head[4096+56:], "\x00\x00\x00\x0c\x00\x00\x00\x02")
	f.Add(head)
	f.Fuzz(func(t *testing.T, p []byte) {
		disktest.Within(t)
		_ = scrubXFS(memory(p), int64(len(p)))
	})
}
