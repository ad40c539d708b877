package fs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/pipeline"
)

// Options say what to mount where.
type Options struct {
	Pipeline     *pipeline.Pipeline // stays the caller's, to be closed after the mount
	Mountpoint   string             // an empty directory
	Source       string             // what the table of mounts shows; empty is "chromogenic"
	Formats      []string           // listed; nil is raw, qcow2, vmdk, ova, json. All others resolve by name
	ReadOnly     bool
	AllowOther   bool     // lets other users in, with the kernel checking modes
	AllowDelete  bool     // rm removes images
	AllowReplace bool     // a copy takes the place of another image of its name
	AllowMeta    bool     // setfattr sets properties of images
	UID, GID     *uint32  // owner of all files; nil is that of the mounting process
	Umask        *uint32  // permissions that no file has, of 0777; nil is 027, and 022 with AllowOther
	Options      []string // more mount options, as after -o
	Log          *slog.Logger
	Version      string // for .chromogenic/version

	debug *log.Logger // of every request, for tests
}

// A Server is a live mount.
type Server struct {
	tree       *tree
	fuse       *fuse.Server
	mountpoint string
	cancel     context.CancelFunc
	stop       func() bool
	once       sync.Once
	err        error
}

// fsType is what /proc/mounts says.
const fsType = "fuse.chromogenic"

// Mount mounts and returns when the mount is live. It lives until Unmount, until
// ctx ends, or until somebody unmounts it. What a crash has left at the
// mountpoint is detached; a live mount there is Busy.
func Mount(ctx context.Context, o Options) (*Server, error) {
	dir, err := MountPath(o.Mountpoint)
	if err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	if err := prepare(dir); err != nil {
		return nil, fmt.Errorf("mount %q: %w", dir, err)
	}
	// Copies that the end of the mount cuts off can be taken up again.
	served, suspend := context.WithCancelCause(context.WithoutCancel(ctx))
	cancel := func() { suspend(pipeline.ErrSuspended) }
	t := newTree(served, o)
	m := mountOptions(o)
	root := gofuse.NewNodeFS(&rootNode{fixedDir{dirNode{t: t}}}, &gofuse.Options{MountOptions: m, UID: t.owner.Uid, GID: t.owner.Gid})
	srv, err := fuse.NewServer(root, dir, &m)
	if err != nil {
		cancel()
		err = disk.Hint(fmt.Errorf("mount %q: %w", dir, err), "is fuse3 installed, and may you open /dev/fuse?")
		return nil, err
	}
	go srv.Serve()
	readFurther(dir)
	s := &Server{tree: t, fuse: srv, mountpoint: dir, cancel: cancel}
	t.jobs.Go(t.settleMeta)
	live := make(chan struct{})
	s.stop = context.AfterFunc(ctx, func() { <-live; _ = s.Unmount() })
	close(live)
	return s, nil
}

// mountOptions is the one table of how we speak to the kernel.
func mountOptions(o Options) fuse.MountOptions {
	m := fuse.MountOptions{
		FsName: cmp.Or(o.Source, "chromogenic"), Name: strings.TrimPrefix(fsType, "fuse."),
		AllowOther: o.AllowOther,
		// A plain ls asks for names alone.
		DisableReadDirPlus: true,
		// Splicing 1 MiB needs more than the default fs.pipe-max-size, and fails.
		DisableSplice: true,
		MaxWrite:      1 << 20,
		// Reads ahead of all files share it: of a disk that hangs they must not keep
		// others from theirs. A program has a few at a time.
		MaxBackground: 4096,
		// Without the first each write is followed by a getxattr; the second
		// lets files without a page cache be mapped; with the third an open
		// that truncates is one request.
		ExtraCapabilities: fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_DIRECT_IO_ALLOW_MMAP | fuse.CAP_ATOMIC_O_TRUNC,
		// With direct mounts the kernel takes flags and options apart.
		DirectMount:      os.Geteuid() == 0,
		DirectMountFlags: unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NOATIME,
		Debug:            o.debug != nil,
		Logger:           o.debug,
	}
	if m.Logger == nil {
		m.Logger = log.New(io.Discard, "", 0)
		if o.Log != nil {
			m.Logger = slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug)
		}
	}
	options := slices.Clone(o.Options)
	if o.AllowOther {
		options = append(options, "default_permissions")
	}
	if o.ReadOnly {
		options = append(options, "ro")
	}
	if !m.DirectMount {
		m.FsName = strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(m.FsName) // as fusermount3 reads it
		m.Options = append([]string{"nodev", "nosuid", "noexec", "noatime"}, options...)
		return m
	}
	for _, option := range options {
		if !mountFlag(option, &m.DirectMountFlags) && !slices.Contains(m.Options, option) {
			m.Options = append(m.Options, option)
		}
	}
	return m
}

// mountFlag turns an option that is a flag of mount(2) into it.
func mountFlag(option string, flags *uintptr) bool {
	switch option {
	case "ro":
		*flags |= unix.MS_RDONLY
	case "rw":
		*flags &^= unix.MS_RDONLY
	case "noatime", "nodev", "nosuid", "noexec": // they are set already
	case "atime", "relatime":
		*flags &^= unix.MS_NOATIME
	case "nodiratime":
		*flags |= unix.MS_NODIRATIME
	case "exec":
		*flags &^= unix.MS_NOEXEC
	case "dev":
		*flags &^= unix.MS_NODEV
	case "suid":
		*flags &^= unix.MS_NOSUID
	default:
		return false
	}
	return true
}

// prepare makes sure that dir can be mounted on.
func prepare(dir string) error {
	kind, err := MountedAt(dir)
	if err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err == nil && kind == fsType {
		// The kernel may have the attributes yet; of space it always asks.
		err = unix.Statfs(dir, new(unix.Statfs_t))
	}
	if errors.Is(err, syscall.ENOTCONN) && kind == fsType {
		if err := detach(dir); err != nil {
			return fmt.Errorf("detach the dead mount that is there: %w", err)
		}
		kind = ""
		info, err = os.Stat(dir)
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		return disk.Hint(disk.Errorf(disk.NotFound, "there is no such directory"), "make it with mkdir")
	case err != nil:
		return err
	case kind == fsType:
		err := disk.Errorf(disk.Busy, "chromogenic is mounted there already")
		return disk.Hint(err, "unmount it with chromogenic umount %s", dir)
	case !info.IsDir():
		return disk.Errorf(disk.Invalid, "it is not a directory")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if name := e.Name(); name != "lost+found" && !strings.HasPrefix(name, ".") {
			err := disk.Errorf(disk.Invalid, "the directory is not empty: it holds %q", name)
			return disk.Hint(err, "a mount would hide what is in it; mount on an empty directory")
		}
	}
	return nil
}

// detach takes a mount away even if somebody uses it.
func detach(dir string) error {
	err := unix.Unmount(dir, unix.MNT_DETACH)
	if err == nil {
		return nil
	}
	if out, ferr := exec.Command("fusermount3", "-u", "-z", "--", dir).CombinedOutput(); ferr != nil {
		return fmt.Errorf("%w; fusermount3: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// WaitMount makes it safe for this process to open files of its own mount, as tests
// do: Go's poller would wait for an answer of its own process else. It opens such a
// file itself, and a process that is killed in that moment never ends; a program
// that only serves does not call it.
func (s *Server) WaitMount() error { return s.fuse.WaitMount() }

// Wait returns when the mount is gone.
func (s *Server) Wait() {
	s.fuse.Wait()
	s.shut()
}

// endTime is how long an unmount waits for what is still being committed.
const endTime = 10 * time.Second

// shut ends what outlives requests.
func (s *Server) shut() {
	s.stop()
	s.cancel()
	done := make(chan struct{})
	go func() { s.tree.jobs.end(); close(done) }()
	select {
	case <-done:
	case <-time.After(endTime):
	}
	for _, f := range s.tree.allFolders() {
		f.mu.Lock()
		files := f.files
		f.files = map[string]*staged{}
		f.mu.Unlock()
		for _, g := range files {
			g.abandon()
		}
	}
}

// Unmount takes the mount away, lazily when it is in use. Copies under way are
// suspended, to be taken up by the next mount. A second call does nothing.
func (s *Server) Unmount() error {
	s.once.Do(func() {
		if kind, err := MountedAt(s.mountpoint); err == nil && kind != fsType {
			s.shut() // somebody else has unmounted it
			return
		}
		if err := s.fuse.Unmount(); err != nil {
			s.cancel() // whoever waits for a commit lets go
			if err := detach(s.mountpoint); err != nil {
				s.err = fmt.Errorf("unmount %q: %w", s.mountpoint, err)
			}
		}
		s.shut()
	})
	return s.err
}

// Mountpoint is where it is.
func (s *Server) Mountpoint() string { return s.mountpoint }
