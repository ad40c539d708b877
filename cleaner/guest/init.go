package guest

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// initArg is what the first process of user-mode-linux finds on its command line.
const initArg = "chromogenic-guest"

// isInit tells whether this process is the first one of user-mode-linux.
func isInit() bool {
	return os.Getpid() == 1 && os.Args[0] == "/init" && slices.Contains(os.Args[1:], initArg)
}

// boot is the life of the machine: it sets the line up, asks for the job, does it,
// tells the result, and powers off. Where it cannot even tell, the end of the line
// does.
func boot(work Work) {
	// A call of this kernel takes so long that Go's scheduler would hand its one processor
	// to another thread, each time, and back. It does not while it believes in a second one.
	// And pages that come and go cost more than pages that stay.
	runtime.GOMAXPROCS(2)
	debug.SetGCPercent(400)
	if err := bootJob(work); err != nil {
		fmt.Fprintf(os.Stderr, "guest: %v\n", err)
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	os.Exit(1)
}

func bootJob(work Work) error {
	for _, m := range []struct{ fs, dir string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"tmpfs", "/work"}} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fs, m.dir, m.fs, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	if console, err := os.OpenFile("/dev/console", os.O_WRONLY, 0); err == nil {
		_ = unix.Dup2(int(console.Fd()), 2) // a panic of ours is to be seen
	}
	line, err := openLine("/dev/ttyS0")
	if err != nil {
		return err
	}
	if err := writeFrame(line, "ready"); err != nil {
		return err
	}
	var j job
	if err := readFrame(bufio.NewReader(line), &j); err != nil {
		return err
	}
	r := runInit(j, work)
	if err := writeFrame(line, r); err != nil {
		return err
	}
	return unix.IoctlSetInt(int(line.Fd()), unix.TCSBRK, 1) // wait until it is sent
}

func runInit(j job, work Work) result {
	s := &session{job: j, base: "/work", mounter: kernelMounter{func(v volumeOf) (string, error) { return v.Device, nil }}}
	if slices.ContainsFunc(j.Volumes, func(v volumeOf) bool { return v.Type == "vfat" }) {
		if err := loadModules("/modules"); err != nil {
			s.warn("vfat cannot be mounted: %v", err)
		}
	}
	reply, err := s.run(context.Background(), work)
	return result{Volumes: s.Volumes, Warnings: s.warnings, Reply: reply, Failure: failureOf(err)}
}

// openLine opens a serial line for bytes as they are.
func openLine(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open line %s: %w", path, err)
	}
	// A blocking descriptor: the line has no use for the poller.
	f := os.NewFile(uintptr(fd), path)
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("open line %s: %w", path, err)
	}
	// As cfmakeraw(3).
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != nil {
		return nil, fmt.Errorf("open line %s: %w", path, err)
	}
	return f, nil
}

// loadModules loads the modules of a folder in the order of their names.
func loadModules(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("load modules: %w", err)
	}
	for _, e := range entries {
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return fmt.Errorf("load modules: %w", err)
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil {
			return fmt.Errorf("load module %s: %w", e.Name(), err)
		}
	}
	return nil
}

// ubdDevice is the n-th block device inside, from 0.
func ubdDevice(n int) string { return "/dev/ubd" + string(rune('a'+n)) }

// ubdOption has user-mode-linux show a file as its n-th block device: "d", for a disk
// that begins like a copy-on-write file of user-mode-linux would have it open the file
// of the host that it names; "c", for there is nobody to lock out.
func ubdOption(n int, path string) string { return "ubd" + strconv.Itoa(n) + "dc=" + path }

// ubdDevices is how many there can be (kernel, arch/um/drivers/ubd_kern.c, MAX_DEV).
const ubdDevices = 16
