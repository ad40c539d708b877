package guest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// debugfs runs commands of debugfs(8), with rights to write.
func debugfs(t testing.TB, path string, commands ...string) string {
	t.Helper()
	script := t.TempDir() + "/script"
	if err := os.WriteFile(script, []byte(strings.Join(commands, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return runProgram(t, "debugfs", "-w", "-f", script, path)
}

// A punchFile is a disk in a file.
type punchFile struct{ *os.File }

func (f punchFile) Discard(off, n int64) error {
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

// openRaw gives a file the holes that a scrubber makes.
func openRaw(t testing.TB, path string) punchFile {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return punchFile{f}
}

// What is planted where an ext filesystem has no file is gone: in the journal, in free
// inodes and blocks, behind the end of a file, in an extent that was never written to,
// and between the names of a folder, which keeps those that it has.
func TestScrubExt(t *testing.T) {
	for _, o := range [][]string{
		{"ext4"},
		{"ext4", "-b", "1024"},
		{"ext4", "-O", "^metadata_csum"},
		{"ext4", "-O", "metadata_csum_seed,orphan_file"},
		{"ext4", "-O", "^flex_bg,^64bit", "-g", "4096"},
		{"ext3"},
		{"ext2", "-I", "128"},
	} {
		t.Run(strings.Join(o, " "), func(t *testing.T) {
			need(t, "mke2fs", "debugfs", "e2fsck")
			tree := files{"dir/gone": "x", "short": "the end"}
			for i := range 400 {
				tree[fmt.Sprintf("many/a-file-with-a-long-name-%d", i)] = ""
			}
			path := makeDisk(t, "", partSpec{64, "", ext(o[0], tree, o[1:]...)})
			runProgram(t, "sh", "-c", `PATH=$PATH:/usr/sbin:/sbin; e2fsck -fyD "$0" >/dev/null; [ $? -le 1 ]`, path)
			hadJournal := o[0] != "ext2"
			commands := []string{"rm dir/gone", "rm many/a-file-with-a-long-name-7"}
			if o[0] == "ext4" {
				commands = append(commands, "write /dev/null big", "fallocate big 0 3")
			}
			debugfs(t, path, commands...)
			plant := func(block, off int64, text string) {
				e, err := openExt(openRaw(t, path), 64<<20)
				if err != nil {
					t.Fatal(err)
				}
				overwrite(t, path, block*e.block+off, text)
			}
			want := []string{"SECRET-free"}
			plant(first(t, debugfs(t, path, "ffb 1")), 0, "SECRET-free") // "Free blocks found: 123"
			plant(first(t, debugfs(t, path, "bmap short 0")), 100, "SECRET-end")
			want = append(want, "SECRET-end")
			if hadJournal {
				plant(first(t, debugfs(t, path, "bmap <8> 5")), 0, "SECRET-journal")
				want = append(want, "SECRET-journal")
			}
			if o[0] == "ext4" {
				plant(first(t, debugfs(t, path, "bmap big 1")), 0, "SECRET-unwritten")
				want = append(want, "SECRET-unwritten")
			}
			plantInode(t, path)
			want = append(want, "SECRET-inode", "a-file-with-a-long-name-7\x00", "gone")
			for _, text := range want {
				if !bytes.Contains(read(t, path), []byte(text)) && strings.HasPrefix(text, "SECRET") {
					t.Fatalf("%s was not planted", text)
				}
			}
			if err := scrubExt(openRaw(t, path), 64<<20); err != nil {
				t.Fatal(err)
			}
			all := read(t, path)
			for _, text := range want {
				if at := bytes.Index(all, []byte(text)); at >= 0 {
					t.Errorf("%q is at offset %d", text, at)
				}
			}
			runProgram(t, "e2fsck", "-fn", path)
			names := debugfs(t, path, "ls -p many", "cat short")
			for i := range 400 {
				if name := fmt.Sprintf("/a-file-with-a-long-name-%d/", i); strings.Contains(names, name) != (i != 7) {
					t.Errorf("%s is there or not as it should not be", name)
				}
			}
			if !strings.Contains(names, "the end") {
				t.Error("a file has lost its content")
			}
		})
	}
}

// first is the last number in what debugfs says.
func first(t testing.TB, text string) int64 {
	t.Helper()
	for _, word := range slices.Backward(strings.Fields(text)) {
		if n, err := strconv.ParseInt(word, 10, 64); err == nil && n > 0 {
			return n
		}
	}
	t.Fatalf("no block in %q", text)
	return 0
}

// plantInode writes into an inode that nobody uses.
func plantInode(t testing.TB, path string) {
	t.Helper()
	e, err := openExt(openRaw(t, path), 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	used, err := e.readBlock(e.groups[0].inodeBitmap)
	if err != nil {
		t.Fatal(err)
	}
	for i := int64(20); i < e.inodes; i++ {
		if !bit(used, i) {
			overwrite(t, path, e.groups[0].table*e.block+i*e.inodeSize+0x28, "SECRET-inode")
			return
		}
	}
	t.Fatal("there is no free inode")
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A log that went round is cleared, and its filesystem mounted and checked again.
func TestScrubXFSLog(t *testing.T) {
	wayWorks(t, accessLoop)
	path := makeDisk(t, "", partSpec{320, "", xfs(linux("# none\n"), "--unsupported", "-l", "size=6m")})
	d := openDisk(t, path)
	var steps []step
	for i := range 3 {
		steps = append(steps, step{Do: "churn", Path: fmt.Sprintf("root/SECRET-name-%d-", i), N: 1500})
	}
	facts, _ := do(t, d, Options{Access: accessLoop}, append(steps, cleaning()...)...)
	_, said := do(t, d, Options{Access: accessLoop}, step{Do: "read", Path: "etc/hostname"})
	if said["read etc/hostname"] != "keep-this-name\n" || len(facts.Warnings) > 0 {
		t.Errorf("%q, %q", said, facts.Warnings)
	}
	expectClean(t, d, traces()...)
	sb := make([]byte, 512)
	if err := readFull(d, sb, 0); err != nil {
		t.Fatal(err)
	}
	x, err := openXFS(overlayFile{d}, d.Size())
	if err != nil {
		t.Fatal(err)
	}
	log := make([]byte, x.logBlocks*x.block)
	at := int64(x.logStart>>x.agShift)*x.agBlocks + int64(x.logStart&(1<<x.agShift-1))
	if err := readFull(d, log, at*x.block); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(log, []byte("SECRET")) {
		t.Error("the log holds names of files that were removed")
	}
	// The first sector is of a later round than the first.
	if round := binary.BigEndian.Uint32(log); round < 2 {
		t.Errorf("the log did not go round: %#x", round)
	}
}

// An overlayFile is a disk as the scrubbers see it.
type overlayFile struct{ Disk }
