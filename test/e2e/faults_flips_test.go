package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"chromogenic/test/faultfs"
)

// A flip is a disk that gives one bit of an image wrong and says nothing.
type flip struct {
	what  string // for people
	ext   string // of the image
	from  string // where: "middle", or a text in the file
	known bool   // a copy of the image was made before
	copy  bool   // it is copied, else read
	times int    // how many reads are wrong; 0 is all
	found bool   // it is found out, and is EBADMSG
	note  string
}

// flips are rows of docs/faults.md.
func flips() []flip {
	return []flip{
		{what: "a compressed grain of a vmdk", ext: "vmdk", from: "middle", found: true},
		{what: "the same, once only", ext: "vmdk", from: "middle", times: 1, found: true},
		{what: "a disk in an ova", ext: "ova", from: "middle", found: true},
		{what: "the same in a copy", ext: "ova", from: "middle", copy: true, found: true},
		{what: "the descriptor of an ova that has a manifest", ext: "ova", from: "<Name>machine", found: true},
		{what: "any byte of an image that was copied before, in a copy", ext: "raw", from: "middle", known: true, copy: true, found: true, note: "the digest of the disk is remembered"},
		{what: "a raw disk", ext: "raw", from: "middle", note: "**cannot be known**: nothing in the file says what it should be"},
		{what: "a raw disk, in its first copy", ext: "raw", from: "middle", copy: true, note: "the same; the copy is what was read"},
	}
}

// TestWrongBytes reads and copies images of which one bit is wrong. What can be
// found out is; of the rest nothing but that bit is wrong.
func TestWrongBytes(t *testing.T) {
	t.Parallel()
	s := newFaultStage(t, faultImages(t))
	for _, f := range flips() {
		t.Run(strings.ReplaceAll(f.what, " ", "-"), func(t *testing.T) {
			x := s.newCase(t, fault{}, faultRoute{ext: f.ext, format: "raw"})
			if f.known {
				x.master = random(t, filepath.Join(t.TempDir(), "x.raw"), 2*mib, 224) // a disk that no other image has
				x.put(t)
				run(t, "cp", x.view(), s.images("good", x.name+"-before.raw"))
				must(t, os.Remove(filepath.Join(s.good.images, x.name+"-before.raw")))
				s.refresh(t)
			}
			from := stat(t, x.master).Size / 2
			if f.from != "middle" {
				b, err := os.ReadFile(x.master)
				must(t, err)
				from = int64(strings.Index(string(b), f.from))
			}
			n := s.source.set(t, faultfs.Fault{Op: faultfs.Read, File: filepath.Base(x.file), Effect: faultfs.Flip, From: from, Times: f.times})
			out := filepath.Join(t.TempDir(), "x.raw")
			if f.copy {
				out = inside(x)
			}
			cmd := command("cp", x.view(), out)
			if f.known { // cp has the bytes from the kernel, who remembers the right ones
				cmd = x.with("cp", "a:images/"+x.name, "good:images/")
			}
			r := tryCmd(t, cmd)
			if s.source.struck(t, n) == 0 {
				t.Error("the fault has not struck")
			}
			s.source.mend(t)
			switch {
			case f.times > 0 && r.code == 0: // the kernel has read it again
				same(t, s.masters["raw"], out, "raw")
			case f.known && (r.code != exitVerify || !says(r.out, "it was")):
				t.Errorf("exit status %d\n%s", r.code, r.out)
			case f.found && !f.known && (r.code == 0 || !says(r.out, said(syscall.EBADMSG))):
				t.Errorf("exit status %d\n%s", r.code, r.out)
			case f.found && f.copy:
				if _, err := os.Stat(filepath.Join(s.good.images, x.name+"."+f.ext)); err == nil {
					t.Error("the copy is there")
				}
			case !f.found && r.code != 0:
				t.Errorf("exit status %d\n%s", r.code, r.out)
			case !f.found:
				checkFlipped(t, s.masters["raw"], out, from)
			}
		})
	}
}

// checkFlipped checks that two files differ in the byte at off alone.
func checkFlipped(t *testing.T, disk, copied string, off int64) {
	t.Helper()
	want, err := os.ReadFile(disk)
	must(t, err)
	got, err := readAll(copied)
	must(t, err)
	want[off] ^= 0x10
	if string(got) != string(want) {
		t.Errorf("more is wrong in %s than the byte at %d", copied, off)
	}
}

// TestReadOnlyFolder copies to a folder whose file system has been remounted
// read-only, as the kernel does upon errors.
func TestReadOnlyFolder(t *testing.T) {
	t.Parallel()
	needRoot(t)
	a, b := newSite(t, "a"), newSite(t, "b")
	tmpfs(t, b.images, "16M")
	src := random(t, filepath.Join(a.images, "x.raw"), mib, 221)
	s := mount(t, config{sites: []site{a, b}})
	t.Cleanup(func() { s.stop(t) })
	run(t, "mount", "-o", "remount,ro", b.images)
	for _, p := range pick("cp", "dd", "cat", "rsync", "tar") {
		checkFailed(t, s, b, p, src, p.name, failure{"Read-only file system", "CHR-0005"})
		checkFailed(t, s, b, p, s.images("a", "x.qcow2"), p.name+"-within", failure{"Read-only file system", "CHR-0005"})
	}
	run(t, "mount", "-o", "remount,rw", b.images)
	run(t, "cp", src, s.images("b", "x.raw"))
	same(t, src, filepath.Join(b.images, "x.raw"), "raw")
}
