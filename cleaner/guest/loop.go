package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// loopDevices are those of the host that the volumes are attached to. Each is kept
// open, for it goes when nobody has it open or mounted.
type loopDevices map[string]*os.File

// loopTries bounds how often another may take the free loop device before us.
const loopTries = 32

// device attaches the file of a volume, which is as long as its partition.
func (l loopDevices) device(v volumeOf) (string, error) {
	if f := l[v.File]; f != nil {
		return f.Name(), nil
	}
	f, err := attachLoop(filepath.Join(diskDir, v.File))
	if err != nil {
		return "", fmt.Errorf("attach loop device: %w", err)
	}
	l[v.File] = f
	return f.Name(), nil
}

func (l loopDevices) close() {
	for _, f := range l {
		f.Close()
	}
}

func attachLoop(path string) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	back, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer back.Close()
	config := unix.LoopConfig{Fd: uint32(back.Fd())}
	config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	for range loopTries {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, err
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		if err = unix.IoctlLoopConfigure(int(loop.Fd()), &config); err == nil {
			return loop, nil
		}
		loop.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("others took %d of them first", loopTries)
}
