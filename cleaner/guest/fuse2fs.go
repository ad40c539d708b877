package guest

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
)

// A fuseMounter mounts ext2, ext3 and ext4 with fuse2fs, a process for each.
type fuseMounter struct {
	ctx     context.Context
	job     job
	running map[string]*fuseProcess
}

type fuseProcess struct {
	output *tail
	ended  chan error
}

// fuseMagic is what statfs(2) calls a FUSE.
const fuseMagic = 0x65735546

func (m *fuseMounter) mount(v volumeOf, dir, _ string, readOnly bool) error {
	switch v.Type {
	case "ext2", "ext3", "ext4":
	default:
		return disk.Hint(disk.Errorf(disk.Unsupported, "mount: fuse2fs has no %s", v.Type), "install the Debian package user-mode-linux")
	}
	// It is user 0 of the cage that asks; fakeroot has it be that of the guest too.
	options := "fakeroot,rw"
	if readOnly {
		options = "fakeroot,ro"
	}
	// It mounts, so it keeps the rights of the cage.
	cmd := m.job.command(m.ctx, m.job.Tools.Fuse2fs, "-f", "-o", options, filepath.Join(diskDir, v.File), dir)
	p := &fuseProcess{output: &tail{}, ended: make(chan error, 1)}
	cmd.Stdout, cmd.Stderr = p.output, p.output
	go func() {
		runtime.LockOSThread() // the program is to die with this thread
		defer runtime.UnlockOSThread()
		p.ended <- cmd.Run()
	}()
	for {
		select {
		case err := <-p.ended:
			return disk.Errorf(disk.Malformed, "mount: fuse2fs: %v: %s", err, p.output)
		case <-time.After(5 * time.Millisecond):
		}
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err == nil && st.Type == fuseMagic {
			break
		}
	}
	if m.running == nil {
		m.running = map[string]*fuseProcess{}
	}
	m.running[dir] = p
	return nil
}

// unmount waits for the process, which writes what it has kept when it ends.
func (m *fuseMounter) unmount(dir string) error {
	if err := unix.Unmount(dir, 0); err != nil {
		return err
	}
	p := m.running[dir]
	delete(m.running, dir)
	if err := <-p.ended; err != nil {
		return fmt.Errorf("fuse2fs: %w: %s", err, p.output)
	}
	return nil
}
