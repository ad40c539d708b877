package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
)

// tools are the programs of the host that are used, by absolute path; empty where
// one is not installed.
type tools struct {
	UML        string `json:"uml"`
	Fuse2fs    string `json:"fuse2fs"`
	E2fsck     string `json:"e2fsck"`
	XFSRepair  string `json:"xfs_repair"`
	Btrfs      string `json:"btrfs"`
	FsckVfat   string `json:"fsck_vfat"`
	NewUIDMap  string `json:"newuidmap"`
	NewGIDMap  string `json:"newgidmap"`
	UMLModules string `json:"uml_modules"` // the folder of its modules
}

// findTools looks along PATH, and where it names them, in the folders of the
// administrator's programs, which the PATH of other users lacks.
func findTools() tools {
	t := tools{
		UML: findTool("linux.uml"), Fuse2fs: findTool("fuse2fs"), E2fsck: findTool("e2fsck"),
		XFSRepair: findTool("xfs_repair"), Btrfs: findTool("btrfs"), FsckVfat: findTool("fsck.vfat"),
		NewUIDMap: findTool("newuidmap"), NewGIDMap: findTool("newgidmap"),
	}
	if found, _ := filepath.Glob("/usr/lib/uml/modules/*/kernel/fs/fat/vfat.ko"); len(found) == 1 && t.UML != "" {
		t.UMLModules = strings.TrimSuffix(found[0], "/fs/fat/vfat.ko")
	}
	return t
}

func findTool(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		if path, err = filepath.Abs(path); err == nil {
			return path
		}
	}
	if os.Getenv("PATH") == "" {
		return "" // whoever empties it wants none to be found
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 && info.Mode().IsRegular() {
			return path
		}
	}
	return ""
}

// sandboxID is the user and group, as the host sees them, under which a sandbox of
// root runs: the first above what distributions and systemd give out (systemd, "Users,
// Groups, UIDs and GIDs on systemd Systems").
const sandboxID = 1 << 31

// outputLimit is how much of what a program says is kept, in bytes: its end.
const outputLimit = 8 << 10

// A tail keeps the end of what is written to it.
type tail struct{ kept []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p[max(0, len(p)-outputLimit):]...)
	t.kept = t.kept[max(0, len(t.kept)-outputLimit):]
	return len(p), nil
}

func (t *tail) String() string {
	return strings.TrimSpace(strings.ToValidUTF8(string(t.kept), "?"))
}

// command prepares a program that has no rights, whoever we are.
func (j job) command(ctx context.Context, path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp", "TMPDIR=/tmp", "LC_ALL=C"}
	cmd.Dir = "/tmp"
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if j.Resident {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: sandboxID, Gid: sandboxID, NoSetGroups: false}
	}
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// start starts cmd without capabilities, and without a way to get any. They belong to
// a thread, which is given up, and a program that is to die with it lives as long as
// it: so this returns what waits for the program. Prepare, which may be nil, is called
// in that thread before.
func start(cmd *exec.Cmd, prepare func()) (wait func() error, err error) {
	started, ended := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with the goroutine
		err := dropRights()
		if prepare != nil {
			prepare()
		}
		if err == nil {
			err = cmd.Start()
		}
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(cmd.Path), err)
	}
	return func() error { return <-ended }, nil
}

// dropRights empties the bounding set of this thread, so that the next program has no
// capability, as user 0 of its namespace too.
func dropRights() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("drop rights: %w", err)
	}
	for c := uintptr(0); c <= 63; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("drop rights: %w", err)
		}
	}
	return nil
}

// A said is what a program has told: its exit status and the end of its output.
type said struct {
	status int
	text   string
}

// tell runs a program to its end. Only where it does not exit by itself is that an
// error.
func (j job) tell(ctx context.Context, path string, args ...string) (said, error) {
	cmd := j.command(ctx, path, args...)
	out := &tail{}
	cmd.Stdout, cmd.Stderr, cmd.Stdin = out, out, nil
	wait, err := start(cmd, nil)
	if err != nil {
		return said{}, err
	}
	err = wait()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return said{}, fmt.Errorf("run %s: %w", filepath.Base(path), context.Cause(ctx))
	case errors.As(err, &exit) && exit.Exited():
		return said{exit.ExitCode(), out.String()}, nil
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return said{}, disk.Errorf(disk.Malformed, "run %s: %w: %s", filepath.Base(path), err, out)
	}
	return said{0, out.String()}, nil
}

var _ io.Writer = (*tail)(nil)
