package guest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chromogenic/disk"
)

// linkedTree is a guest whose names lead out, as far as links can.
func linkedTree(t testing.TB, host string) string {
	t.Helper()
	fstab := "UUID=" + uuidData + " /mnt/out ext4 defaults 0 0\n" +
		"UUID=" + uuidData + " /../../../../" + host + " ext4 defaults 0 0\n" +
		"/dev/sda1 /etc/../.. ext4\n/dev/sda99999999999999999999 / ext4\n" + strings.Repeat("x ", 70000) + "\n"
	dir := folderOf(t, linux(fstab))
	for name, to := range map[string]string{
		"mnt/out": host, "etc/passwd": "/proc/self/root" + host + "/passwd", "etc/up": "../../../../../../../../" + host + "/passwd",
		"etc/round": "round", "etc/proc": "/proc/1/root/etc/hostname",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, path); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// No name in a guest leads to a file of the host, by whatever way, and what fstab
// mounts stays within.
func TestLinksLeadNowhere(t *testing.T) {
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "passwd"), []byte("of the host"), 0o666); err != nil {
		t.Fatal(err)
	}
	dir := linkedTree(t, host)
	root := func(t testing.TB, path string, at span) {
		runProgram(t, "mke2fs", "-q", "-F", "-t", "ext4", "-d", dir, "-E", fmt.Sprintf("offset=%d", at.Off), path, fmt.Sprintf("%dk", at.Size>>10))
	}
	path := makeDisk(t, "gpt", partSpec{32, "linux", root}, partSpec{16, "linux", ext("ext4", files{"x": ""}, "-U", uuidData)})
	for _, way := range []string{accessUML, accessFuse2fs, accessLoop} {
		t.Run(way, func(t *testing.T) {
			wayWorks(t, way)
			var steps []step
			names := []string{"etc/passwd", "etc/up", "etc/round", "etc/proc", "mnt/out/passwd"}
			for _, name := range names {
				steps = append(steps, step{Do: "try", Path: name})
			}
			steps = append(steps, step{Do: "host", Path: host}, step{Do: "host", Path: "/etc/passwd"}, step{Do: "id"})
			facts, said := do(t, openDisk(t, path), Options{Access: way}, steps...)
			for _, name := range names {
				if got := said["try "+name]; got == "<nil>" {
					t.Errorf("%s was read and written", name)
				}
			}
			for _, name := range []string{host, "/etc/passwd"} {
				if got := said["host "+name]; !strings.Contains(got, "no such file") {
					t.Errorf("%s of the host: %q", name, got)
				}
			}
			if !strings.HasSuffix(said["id "], "pid=1") {
				t.Errorf("the work is %q", said["id "])
			}
			t.Log(facts.Warnings, facts.Filesystems[1].Mountpoint)
		})
	}
	if text, err := os.ReadFile(filepath.Join(host, "passwd")); err != nil || string(text) != "of the host" {
		t.Errorf("the host's file holds %q, %v", text, err)
	}
}

// A disk that looks like a copy-on-write file of user-mode-linux is refused: the file of
// the host that it names is nobody's business.
func TestCopyOnWriteHeader(t *testing.T) {
	wayWorks(t, accessUML)
	path := makeDisk(t, "", partSpec{32, "", ext("ext4", linux("# none\n"))})
	overwrite(t, path, 0, "OOOM\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x02\x00\x00\x00\x00\x00/etc/passwd\x00")
	_, err := Run(t.Context(), openDisk(t, path), Options{Executable: worker(t), Access: accessUML}, []byte(`[]`))
	if err == nil || !strings.Contains(err.Error(), "it begins like a copy-on-write file") {
		t.Errorf("got %v", err)
	}
}

// leftovers are processes and mounts that a run may have left.
func leftovers(t testing.TB) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "fuse.chromogenic") && strings.HasPrefix(line, "disk ") {
			left = append(left, line)
		}
	}
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		text, err := os.ReadFile(name)
		if err == nil && strings.HasPrefix(string(text), cageName) && parentOf(filepath.Dir(name)) == os.Getpid() {
			left = append(left, string(text))
		}
	}
	return strings.Join(left, "\n")
}

func parentOf(proc string) (pid int) {
	text, _ := os.ReadFile(filepath.Join(proc, "stat"))
	if _, rest, ok := strings.Cut(string(text), ") "); ok {
		var state string
		fmt.Sscan(rest, &state, &pid)
	}
	return pid
}

// A run that hangs ends with its time or its context, and leaves nothing.
func TestHang(t *testing.T) {
	for _, way := range []string{accessUML, accessFuse2fs, accessLoop} {
		t.Run(way, func(t *testing.T) {
			wayWorks(t, way)
			path := makeDisk(t, "", partSpec{16, "", ext("ext4", linux("# none\n"))})
			hang := []byte(`[{"Do":"hang"}]`)
			began := time.Now()
			_, err := Run(t.Context(), openDisk(t, path), Options{Executable: worker(t), Access: way, Timeout: 4 * time.Second}, hang)
			if disk.KindOf(err) != disk.Timeout || !strings.Contains(err.Error(), "longer than 4s") {
				t.Errorf("the timeout gives %v", err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			_, err = Run(ctx, openDisk(t, path), Options{Executable: worker(t), Access: way}, hang)
			if !errors.Is(err, context.Canceled) {
				t.Errorf("the end of the context gives %v", err)
			}
			if d := time.Since(began); d > 20*time.Second {
				t.Errorf("the ends took %s", d)
			}
			if left := leftovers(t); left != "" {
				t.Errorf("left behind: %s", left)
			}
		})
	}
}

// A disk that fails is told as such, whatever a filesystem makes of it.
func TestDiskFails(t *testing.T) {
	wayWorks(t, accessUML)
	d := openDisk(t, makeDisk(t, "", partSpec{16, "", ext("ext4", linux("# none\n"))}))
	_, err := Run(t.Context(), brokenDisk{d}, Options{Executable: worker(t)}, []byte(`[]`))
	if err == nil || !strings.Contains(err.Error(), "the cable is out") || disk.KindOf(err) != disk.Unreachable {
		t.Errorf("got %v (%v)", err, disk.KindOf(err))
	}
}

// A brokenDisk cannot be read behind its first 128 KiB.
type brokenDisk struct{ Disk }

func (b brokenDisk) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > 128<<10 {
		return 0, disk.Errorf(disk.Unreachable, "read disk: the cable is out")
	}
	return b.Disk.ReadAt(p, off)
}

// A disk that does not answer does not hold the caller.
func TestDiskHangs(t *testing.T) {
	wayWorks(t, accessUML)
	d := openDisk(t, makeDisk(t, "", partSpec{16, "", ext("ext4", linux("# none\n"))}))
	answer := make(chan struct{})
	for name, deaf := range map[string]span{"at once": {0, 16 << 20}, "in the sandbox": {1 << 20, 14 << 20}} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			_, err := Run(t.Context(), deafDisk{d, deaf, answer}, Options{Executable: worker(t), Timeout: 2 * time.Second}, []byte(`[]`))
			if disk.KindOf(err) != disk.Timeout || time.Since(began) > 15*time.Second {
				t.Errorf("after %s: %v", time.Since(began), err)
			}
		})
	}
	close(answer)
}

// A deafDisk answers reads of a part of it late.
type deafDisk struct {
	Disk
	deaf   span
	answer chan struct{}
}

func (d deafDisk) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > d.deaf.Off && off < d.deaf.end() {
		<-d.answer
	}
	return d.Disk.ReadAt(p, off)
}

// Root has a sandbox where there are no user namespaces too: the machine in it runs as a
// user that nobody is.
func TestNoUserNamespaces(t *testing.T) {
	wayWorks(t, accessUML)
	if os.Geteuid() != 0 {
		missing(t, "other users than root need user namespaces")
	}
	d := openDisk(t, makeDisk(t, "", partSpec{32, "", ext("ext4", linux("# none\n"))}))
	self, err := Options{Executable: worker(t)}.program()
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	_, volumes, err := survey(d)
	if err != nil {
		t.Fatal(err)
	}
	j := job{Access: accessUML, Resident: true, Volumes: volumes, Memory: 256 << 20, Tools: findTools(), Order: []byte(`[{"Do":"read","Path":"etc/hostname"}]`)}
	r, err := j.sandboxed(t.Context(), d, self)
	if err == nil {
		err = r.Failure.err()
	}
	if err != nil || !strings.Contains(string(r.Reply), "keep-this-name") {
		t.Errorf("%q, %v", r.Reply, err)
	}
}

// Damaged filesystems end in an error or a clean disk: no hang, no crash of ours, and
// the base as it was. The damage is in the structures at the beginning, where it hurts
// most.
func TestDamaged(t *testing.T) {
	rounds := 2
	if os.Getenv("CHROMOGENIC_FULL") != "" {
		rounds = 100
	}
	for _, k := range kinds() {
		switch k.name {
		case "ext2", "ext4-new", "xfs", "btrfs":
		default:
			continue
		}
		for _, way := range k.ways {
			if way == accessLoop {
				continue // nobody gives the host's kernel such disks
			}
			t.Run(k.name+"/"+way, func(t *testing.T) {
				sampled(t, "ext4-new/uml", "xfs/uml", "ext2/fuse2fs")
				wayWorks(t, way)
				path := makeDisk(t, "", partSpec{k.size, "", k.fill(linux("# none\n"))})
				rnd := rand.New(rand.NewPCG(1, 2))
				var ends []string
				for range rounds {
					d := openDisk(t, path)
					for range 1 + rnd.IntN(20) {
						p := make([]byte, 1+rnd.IntN(64))
						for i := range p {
							p[i] = byte(rnd.Uint32())
						}
						if _, err := d.WriteAt(p, damageAt(rnd, k.name)); err != nil {
							t.Fatal(err)
						}
					}
					r, err := Run(t.Context(), d, Options{Executable: worker(t), Access: way, Timeout: 40 * time.Second}, []byte(`[{"Do":"remove","Path":"root"}]`))
					if disk.KindOf(err) == disk.Timeout {
						t.Errorf("it hung: %v, %+v", err, r.Facts)
					}
					if err != nil {
						ends = append(ends, fmt.Sprintf("%.200s", err))
					}
				}
				t.Logf("%d of %d failed:\n%s", len(ends), rounds, strings.Join(ends, "\n"))
				if left := leftovers(t); left != "" {
					t.Errorf("left behind: %s", left)
				}
			})
		}
	}
}

func damageAt(rnd *rand.Rand, kind string) int64 {
	switch kind {
	case "btrfs": // the superblock is at 64 KiB, the trees behind 1 MiB
		return 64<<10 + 128 + rnd.Int64N(6<<20)
	case "xfs":
		return 512 + rnd.Int64N(256<<10)
	}
	return 2048 + rnd.Int64N(1<<20)
}

// Without programs the error names the packages.
func TestNothingInstalled(t *testing.T) {
	program := worker(t)
	path := makeDisk(t, "", partSpec{16, "", ext("ext4", linux("# none\n"))})
	d := openDisk(t, path)
	t.Setenv("PATH", "")
	_, err := Run(t.Context(), d, Options{Executable: program}, []byte(`[]`))
	if disk.KindOf(err) != disk.Unsupported {
		t.Fatalf("got %v", err)
	}
	for _, name := range []string{"user-mode-linux", "fuse2fs"} {
		if hint := disk.AsError(err).Hint; !strings.Contains(hint, name) {
			t.Errorf("the hint is %q", hint)
		}
	}
	if _, err := Run(t.Context(), d, Options{Executable: program, Access: "nbd"}, []byte(`[]`)); disk.KindOf(err) != disk.Invalid {
		t.Errorf("an access that is not there gives %v", err)
	}
}

// A journal that was not replayed, as a machine leaves it that is snapshotted while it
// runs, is.
func TestDirtyJournal(t *testing.T) {
	if os.Geteuid() != 0 {
		missing(t, "mounts need root")
	}
	for _, kind := range []string{"ext4", "xfs"} {
		for _, way := range []string{accessUML, accessFuse2fs, accessLoop} {
			if kind == "xfs" && way == accessFuse2fs {
				continue
			}
			t.Run(kind+"/"+way, func(t *testing.T) {
				wayWorks(t, way)
				fill := ext("ext4", linux("# none\n"))
				size := int64(48)
				if kind == "xfs" {
					fill, size = xfs(linux("# none\n")), 320
				}
				path := makeDisk(t, "", partSpec{size, "", fill})
				snapshot := filepath.Join(t.TempDir(), "snapshot.raw")
				// In a mount namespace of its own, which ends with the shell.
				script := `mount --make-rprivate / && mount -o loop "$1" "$2" && echo new > "$2/root/new" && sync -f "$2" && rm "$2/root/short" && echo more > "$2/root/more" && sync "$2/root/more" && cp --sparse=always "$1" "$3" && umount "$2"`
				out, err := exec.Command("unshare", "-m", "sh", "-c", script, "sh", path, t.TempDir(), snapshot).CombinedOutput()
				if err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				d := openDisk(t, snapshot)
				_, said := do(t, d, Options{Access: way}, append(cleaning()[2:], step{Do: "read", Path: "root/more"}, step{Do: "remove", Path: "root/deleted"})...)
				if said["read root/more"] != "more\n" {
					t.Errorf("the work says %q", said)
				}
				expectClean(t, d, traces()...)
			})
		}
	}
}
