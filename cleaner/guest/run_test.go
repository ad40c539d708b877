package guest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chromogenic/disk"
)

// expectClean looks for what was planted in the raw bytes.
func expectClean(t *testing.T, d Disk, texts ...string) {
	t.Helper()
	for text, at := range holds(t, d, texts...) {
		t.Errorf("%.20q is at offset %d", text, at)
	}
}

// A kind is a filesystem that a guest may have.
type kind struct {
	name string
	fill func(fill files) func(testing.TB, string, span)
	ways []string
	size int64 // MiB
}

// kinds has each filesystem with each driver once or more: user-mode-linux and the host
// have the same ones.
func kinds() []kind {
	extKind := func(name, as string, ways []string, more ...string) kind {
		return kind{name, func(f files) func(testing.TB, string, span) { return ext(as, f, more...) }, ways, 96}
	}
	all, kernels := []string{accessUML, accessFuse2fs, accessLoop}, []string{accessUML, accessLoop}
	return []kind{
		extKind("ext2", "ext2", all[:2]),
		extKind("ext3", "ext3", all[1:]),
		extKind("ext4", "ext4", all),
		extKind("ext4-new", "ext4", all[:2], "-O", "metadata_csum_seed,orphan_file"),
		extKind("ext4-1k", "ext4", all[1:], "-b", "1024"),
		extKind("ext4-plain", "ext4", all[1:], "-O", "^metadata_csum,^64bit,^flex_bg"),
		extKind("ext4-meta_bg", "ext4", all[2:], "-O", "meta_bg,^resize_inode"), // left to e2fsck
		{"xfs", func(f files) func(testing.TB, string, span) { return xfs(f) }, kernels, 320},
		{"btrfs", func(f files) func(testing.TB, string, span) { return btrfs(f) }, kernels, 256},
	}
}

// wayWorks skips a way that is not to be had here.
func wayWorks(t *testing.T, name string) {
	t.Helper()
	list, err := Available(Options{Executable: worker(t)})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range list {
		if w.Name == name && w.Missing != "" {
			missing(t, "%s: %s (%s)", name, w.Missing, w.Remedy)
		}
	}
}

// Everything is gone from the bytes of the disk that the work removed, by every way and
// of every filesystem, and the disk holds little more than it did.
func TestClean(t *testing.T) {
	for _, k := range kinds() {
		for _, way := range k.ways {
			t.Run(k.name+"/"+way, func(t *testing.T) {
				sampled(t, "ext4-new/uml", "ext4/fuse2fs", "ext2/loop", "xfs/uml", "btrfs/uml")
				wayWorks(t, way)
				d := openDisk(t, makeDisk(t, "gpt", partSpec{k.size, "linux", k.fill(linux("# none\n"))}))
				began := time.Now()
				facts, said := do(t, d, Options{Access: way}, append(cleaning(), step{Do: "reserve", Path: "var/reserved", N: k.size << 19})...)
				t.Logf("%s, %d KiB stored, %v", time.Since(began), d.Stored()>>10, facts.Warnings)
				if got := said["read etc/hostname"]; got != "keep-this-name\n" {
					t.Errorf("hostname is %q", got)
				}
				if f := facts.Filesystems[0]; f.Mountpoint != "/" || f.Reason != "" {
					t.Errorf("root is %+v", f)
				}
				if d.Stored() > d.Size()/50 {
					t.Errorf("the overlay holds %d of %d bytes", d.Stored(), d.Size())
				}
				expectClean(t, d, traces()...)
				if _, again := do(t, d, Options{Access: way}, step{Do: "read", Path: "etc/hostname"}); again["read etc/hostname"] != "keep-this-name\n" {
					t.Errorf("a second run reads %q", again)
				}
				if len(holds(t, d, "keep-this-name")) == 0 {
					t.Error("what was to stay has gone")
				}
			})
		}
	}
}

// A kernel that does not start here is told of, and another way taken, unless it was asked
// for by name.
func TestUnstarted(t *testing.T) {
	wayWorks(t, accessFuse2fs)
	dir := t.TempDir() // which the sandbox does not have
	if err := os.WriteFile(filepath.Join(dir, "linux.uml"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	path := makeDisk(t, "gpt", partSpec{64, "linux", ext("ext4", linux("# none\n"))})
	d := openDisk(t, path)
	facts, said := do(t, d, Options{}, cleaning()...)
	if said["read etc/hostname"] != "keep-this-name\n" || len(facts.Warnings) != 1 || !strings.Contains(facts.Warnings[0], "it does not start") {
		t.Errorf("it says %q, warns %q", said, facts.Warnings)
	}
	expectClean(t, d, traces()...)
	_, err := Run(t.Context(), openDisk(t, path), Options{Access: accessUML, Executable: worker(t)}, []byte("[]"))
	if err == nil || disk.KindOf(err) != disk.Unsupported || !strings.Contains(err.Error(), "uml: work in user-mode-linux: it does not start") {
		t.Errorf("by name it is %v", err)
	}
}
