package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// installHelpers puts the binary where mount(8) looks for its helpers, which is
// /sbin alone. A link that leads nowhere is what a killed test left.
func installHelpers(t *testing.T) {
	t.Helper()
	needRoot(t)
	need(t, "mount", "umount", "mount.fuse3")
	for _, name := range []string{"mount.chromogenic", "mount.fuse.chromogenic"} {
		link := filepath.Join("/sbin", name)
		if _, err := os.Stat(link); os.IsNotExist(err) {
			os.Remove(link)
		}
		if err := os.Symlink(binary(), link); err != nil {
			missing(t, "%v: is chromogenic installed here?", err)
		}
		t.Cleanup(func() { os.Remove(link) })
	}
}

// A line is one of fstab(5).
type line struct{ source, dir, kind, options string }

// lineFor is a folder with an image, a mountpoint and a state directory.
func lineFor(t *testing.T, kind, options string) line {
	t.Helper()
	a := newSite(t, "a")
	random(t, filepath.Join(a.images, "x.raw"), mib, 401)
	return line{a.images, t.TempDir(), kind, options + ",state_dir=" + filepath.Join(t.TempDir(), "state")}
}

// configLine is the same with a configuration file.
func configLine(t *testing.T, kind, options string) line {
	t.Helper()
	a := newSite(t, "local")
	random(t, filepath.Join(a.images, "x.raw"), mib, 402)
	c := config{sites: []site{a}, state: filepath.Join(t.TempDir(), "state")}
	return line{c.write(t), t.TempDir(), kind, options + ",state_dir=" + c.state}
}

// state is the state directory.
func (l line) state() string {
	_, dir, _ := strings.Cut(l.options, "state_dir=")
	return dir
}

// check looks at the mount, ends it and waits for its server's end, which is when
// the state is free.
func (l line) check(t *testing.T) {
	t.Helper()
	if got := names(t, filepath.Join(l.dir, "local", "images")); len(got) != 5 {
		t.Errorf("%s lists %q, want five files", l.dir, got)
	}
	digest(t, filepath.Join(l.dir, "local", "images", "x.qcow2"))
	run(t, "umount", l.dir)
	l.ended(t)
}

func (l line) ended(t *testing.T) {
	t.Helper()
	if isMounted(t, "/proc/self/mountinfo", l.dir) {
		t.Errorf("%s is mounted", l.dir)
	}
	db, err := os.Open(filepath.Join(l.state(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for end := time.Now().Add(20 * time.Second); syscall.Flock(int(db.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the server of %s still runs 20 s after the unmount", l.dir)
		}
	}
}

func isMounted(t *testing.T, table, dir string) bool {
	t.Helper()
	mounts, err := os.ReadFile(table)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(mounts), " "+dir+" ")
}

// fstab writes the lines as a file for mount -T.
func fstab(t *testing.T, lines ...line) string {
	t.Helper()
	var b strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&b, "%s %s %s %s 0 0\n", l.source, l.dir, l.kind, l.options)
		t.Cleanup(func() { exec.Command("umount", "-l", l.dir).Run() }) // of a test that failed
	}
	file := filepath.Join(t.TempDir(), "fstab")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestMountCommand: mount(8) mounts a folder and a configuration by both types,
// alone and by fstab.
func TestMountCommand(t *testing.T) {
	installHelpers(t)
	const others = "defaults,nofail,_netdev,relatime,x-systemd.automount,comment=c"
	for _, l := range []line{
		lineFor(t, "chromogenic", others),
		lineFor(t, "fuse.chromogenic", others+",allow_other"),
		configLine(t, "chromogenic", "ro"),
		configLine(t, "fuse.chromogenic", "noauto"),
	} {
		file := fstab(t, l)
		run(t, "mount", "-t", l.kind, "-o", l.options, l.source, l.dir)
		l.check(t)
		run(t, "mount", "-T", file, l.dir)
		l.check(t)
	}
	none := configLine(t, "chromogenic", "rw")
	none.options = "config=" + none.source + "," + none.options
	none.source = "none"
	lines := []line{lineFor(t, "chromogenic", others), lineFor(t, "fuse.chromogenic", others), none}
	skipped := lineFor(t, "chromogenic", "noauto")
	run(t, "mount", "-a", "-T", fstab(t, append(lines, skipped)...))
	for _, l := range lines {
		l.check(t)
	}
	if isMounted(t, "/proc/self/mountinfo", skipped.dir) {
		t.Error("mount -a mounts a line with noauto")
	}
}

// TestMountHelperAlone: as systemd and a boot have it, with no environment; and
// through the helper of libfuse, which wants the program in the path.
func TestMountHelperAlone(t *testing.T) {
	installHelpers(t)
	l := lineFor(t, "chromogenic", "rw")
	fstab(t, l)
	cmd := exec.Command("/sbin/mount.chromogenic", l.source, l.dir, "-n", "-o", l.options)
	cmd.Env = []string{}
	if r := tryCmd(t, cmd); r.code != 0 {
		t.Fatalf("without an environment: exit status %d\n%s", r.code, r.out)
	}
	l.check(t)
	bin := t.TempDir()
	if err := os.Symlink(binary(), filepath.Join(bin, "chromogenic")); err != nil {
		t.Fatal(err)
	}
	cmd = command("mount.fuse3", l.source, l.dir, "-o", l.options, "-t", "fuse.chromogenic")
	cmd.Env = append(cmd.Env, "PATH="+bin+":"+os.Getenv("PATH"))
	if r := tryCmd(t, cmd); r.code != 0 {
		t.Fatalf("mount.fuse3: exit status %d\n%s", r.code, r.out)
	}
	l.check(t)
}

// TestMountCommandFails: the statuses are those of mount(8), and a word that
// nobody knows is named, or left out for who is sloppy.
func TestMountCommandFails(t *testing.T) {
	installHelpers(t)
	l := lineFor(t, "chromogenic", "rw")
	fstab(t, l)
	for _, c := range []struct {
		options, source string
		code            int
		want            string
	}{
		{"nonsense=1," + l.options, l.source, 32, `"nonsense=1"`},
		{"formats=floppy", l.source, 1, `"formats=floppy"`},
		{"rw", filepath.Join(l.dir, "nothing"), 32, "no such file"},
	} {
		r := try(t, "mount", "-t", "chromogenic", "-o", c.options, c.source, l.dir)
		if r.code != c.code || !strings.Contains(r.out, c.want) {
			t.Errorf("mount -o %s: exit status %d, want %d with %q\n%s", c.options, r.code, c.code, c.want, r.out)
		}
	}
	run(t, "mount", "-f", "-t", "chromogenic", "-o", l.options, l.source, l.dir)
	if isMounted(t, "/proc/self/mountinfo", l.dir) {
		t.Error("mount -f has mounted")
	}
	run(t, "mount", "-s", "-t", "chromogenic", "-o", "nonsense=1,"+l.options, l.source, l.dir)
	l.check(t)
}

// TestMountOverDead: a server that was killed leaves a mount that answers nothing;
// mount(8) mounts anew all the same.
func TestMountOverDead(t *testing.T) {
	installHelpers(t)
	l := configLine(t, "chromogenic", "rw")
	file := fstab(t, l)
	a := newSite(t, "local")
	s := mount(t, config{sites: []site{a}, dir: l.dir})
	// While it opens a file of its own, to see that the mount works, it cannot be
	// killed.
	for end := time.Now().Add(20 * time.Second); !strings.Contains(s.logged(), "msg=mounted") && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	syscall.Kill(s.pid, syscall.SIGKILL)
	<-s.exit
	s.live = false
	if _, err := readNames(l.dir); errno(err) != syscall.ENOTCONN {
		t.Fatalf("a killed server leaves %v, want ENOTCONN", err)
	}
	run(t, "mount", "-T", file, l.dir)
	l.check(t)
}

// TestMountNamespace: mount -N mounts where it is told to, and not here.
func TestMountNamespace(t *testing.T) {
	installHelpers(t)
	need(t, "unshare", "nsenter")
	l := lineFor(t, "chromogenic", "rw")
	cmd := command("unshare", "--mount", "--propagation", "private", "sh", "-c", "echo here; exec sleep 600")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	if _, err := out.Read(make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	proc := fmt.Sprintf("/proc/%d", cmd.Process.Pid)
	run(t, "mount", "-N", proc+"/ns/mnt", "-t", "chromogenic", "-o", l.options, l.source, l.dir)
	if isMounted(t, "/proc/self/mountinfo", l.dir) {
		t.Error("it is mounted in our namespace")
	}
	if !isMounted(t, proc+"/mountinfo", l.dir) {
		t.Error("it is not mounted in the other namespace")
	}
	run(t, "nsenter", "--mount="+proc+"/ns/mnt", "umount", l.dir)
	l.ended(t)
}

// TestNotify: the service manager is told that the mount is live, reloads and
// ends.
func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	hear := func(want string) {
		t.Helper()
		manager.SetReadDeadline(time.Now().Add(20 * time.Second))
		text := make([]byte, 4096)
		n, err := manager.Read(text)
		if got := string(text[:n]); err != nil || !strings.HasPrefix(got, want) {
			t.Fatalf("the manager hears %q, %v; want %q", got, err, want)
		}
	}
	t.Setenv("NOTIFY_SOCKET", path)
	s := mount(t, config{sites: []site{newSite(t, "a")}})
	hear("READY=1\nSTATUS=a at " + s.dir)
	syscall.Kill(s.pid, syscall.SIGHUP)
	hear("RELOADING=1\nMONOTONIC_USEC=")
	hear("READY=1\n")
	s.stop(t)
	hear("STOPPING=1")
}
