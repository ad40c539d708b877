package guest

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
)

// vfatModules are what a kernel needs for vfat, in the order in which they are loaded.
var vfatModules = []string{"fs/nls/nls_cp437.ko", "fs/nls/nls_iso8859-1.ko", "fs/nls/nls_ascii.ko", "fs/fat/fat.ko", "fs/fat/vfat.ko"}

// runUML boots a kernel of its own with this program as its only process, repairs while
// that starts, and has it do the job.
func (j *job) runUML(ctx context.Context, self *os.File) (result, error) {
	const initrd = "/tmp/init.cpio"
	if err := j.writeInitrd(initrd, self); err != nil {
		return result{}, err
	}
	args := []string{
		"mem=" + strconv.FormatInt(j.Memory>>20, 10) + "M", "initrd=" + initrd,
		"con=null", "con0=null,fd:1", "ssl=null", "ssl0=fd:3,fd:4",
		"quiet", "loglevel=1", "panic=-1", "oops=panic", "noreboot", "uml_dir=/tmp", "umid=guest",
	}
	if !slices.ContainsFunc(j.Volumes, func(v volumeOf) bool { return v.Type == "btrfs" }) {
		// It finds out how fast it is at RAID 6, which takes most of a second.
		args = append(args, "initcall_blacklist=raid6_select_algo")
	}
	n := 0
	for i := range j.Volumes {
		v := &j.Volumes[i]
		if v.Reason != "" || !slices.Contains(mountable, v.Type) {
			continue
		}
		if n == ubdDevices {
			v.Reason = fmt.Sprintf("user-mode-linux has %d disks at most", ubdDevices)
			continue
		}
		if j.looksLikeCow(*v) {
			v.Reason = likeCow
			continue
		}
		args = append(args, ubdOption(n, filepath.Join(diskDir, v.File)))
		v.Device = ubdDevice(n)
		n++
	}
	toThem, theirIn, err := pipe()
	if err != nil {
		return result{}, err
	}
	fromThem, theirOut, err := pipe()
	if err != nil {
		return result{}, err
	}
	cmd := j.command(ctx, j.Tools.UML, append(args, "--", initArg)...)
	console := &tail{}
	cmd.Stdout, cmd.Stderr = console, console
	cmd.ExtraFiles = []*os.File{toThem, theirOut}
	wait, err := start(cmd, onOneProcessor)
	toThem.Close()
	theirOut.Close()
	if err != nil {
		return result{}, unstarted{fmt.Errorf("work in user-mode-linux: it does not start: %w", err)}
	}
	// The kernel forgets what it has seen of a disk before it mounts it.
	unrepaired := j.repair(ctx)
	for i := range j.Volumes {
		if v := &j.Volumes[i]; v.Reason == "" && v.Device != "" && j.looksLikeCow(*v) {
			v.Reason = likeCow // by what its journal has written there
		}
	}
	var r result
	if unrepaired == nil {
		r, err = j.converse(fromThem, theirIn)
	}
	if unrepaired != nil || err != nil {
		_ = cmd.Process.Kill()
	}
	ended := wait()
	theirIn.Close()
	fromThem.Close()
	if unrepaired != nil {
		return result{}, unrepaired
	}
	if err != nil {
		failed := disk.Errorf(disk.Other, "work in user-mode-linux: %w (%v): %s", err, ended, lastLines(console.String(), 12))
		if errors.As(err, &unstarted{}) {
			failed = unstarted{failed}
		}
		return result{}, failed
	}
	return r, nil
}

// likeCow is why a volume is not mounted: see looksLikeCow.
const likeCow = "it begins like a copy-on-write file of user-mode-linux"

// onOneProcessor has this thread, and what it starts, stay on one of the processors that it
// may use, if that can be had. The kernel of user-mode-linux and its process wait for each
// other at every call, so they never run at once, and between two processors a call takes
// four times as long.
func onOneProcessor() {
	var may, one unix.CPUSet
	if unix.SchedGetaffinity(0, &may) != nil || may.Count() == 0 {
		return
	}
	c, skip := 0, rand.IntN(may.Count()) // several guests at a time are on several
	for ; !may.IsSet(c) || skip > 0; c++ {
		if may.IsSet(c) {
			skip--
		}
	}
	one.Set(c)
	_ = unix.SchedSetaffinity(0, &one)
}

// looksLikeCow tells whether a partition begins with the magic number of what
// user-mode-linux keeps its changes in (kernel, arch/um/drivers/cow_user.c). It is
// told not to open the file of the host that is named there, but takes the size of
// the disk from it.
func (j job) looksLikeCow(v volumeOf) bool {
	f, err := os.Open(filepath.Join(diskDir, v.File))
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, 4)
	return readFull(f, head, 0) == nil && (string(head) == "OOOM" || string(head) == "MOOO")
}

// startTime is how long a kernel may take to start: a second or two, on a host that is
// not far too busy.
const startTime = 2 * time.Minute

// converse is the host's side of the line.
func (j *job) converse(from *os.File, out io.Writer) (r result, err error) {
	in := bufio.NewReader(from)
	var ready string
	err = from.SetReadDeadline(time.Now().Add(startTime))
	if err == nil {
		err = readFrame(in, &ready)
	}
	if err != nil {
		return r, unstarted{fmt.Errorf("it does not start: %w", err)}
	}
	if err := from.SetReadDeadline(time.Time{}); err != nil {
		return r, fmt.Errorf("wait for user-mode-linux: %w", err)
	}
	if err := writeFrame(out, *j); err != nil {
		return r, err
	}
	err = readFrame(in, &r)
	return r, err
}

func pipe() (r, w *os.File, err error) {
	r, w, err = os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("start user-mode-linux: %w", err)
	}
	return r, w, nil
}

// writeInitrd writes the first root: this program, and the modules for an ESP.
func (j job) writeInitrd(path string, self *os.File) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("write initial root: %w", err)
	}
	defer f.Close()
	info, err := self.Stat()
	if err != nil {
		return fmt.Errorf("write initial root: %w", err)
	}
	out := bufio.NewWriterSize(f, 1<<20)
	c := &cpioWriter{w: out}
	c.file("dev", 0o755, 0, nil)
	c.file("init", 0o755, info.Size(), io.NewSectionReader(self, 0, info.Size()))
	c.file("modules", 0o755, 0, nil)
	if j.Tools.UMLModules != "" && slices.ContainsFunc(j.Volumes, func(v volumeOf) bool { return v.Type == "vfat" }) {
		for i, name := range vfatModules {
			text, err := os.ReadFile(filepath.Join(j.Tools.UMLModules, name))
			if err != nil {
				continue // it may be built in; if not, the mount says so
			}
			c.file(fmt.Sprintf("modules/%d-%s", i, filepath.Base(name)), 0o644, int64(len(text)), bytes.NewReader(text))
		}
	}
	if err := c.close(); err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write initial root: %w", err)
	}
	return f.Close()
}

// lastLines are the last n lines of a text.
func lastLines(s string, n int) string {
	lines := strings.Split(s, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// isStatic tells whether a program runs where there is no library: it has no
// interpreter.
func isStatic(r io.ReaderAt) (bool, error) {
	f, err := elf.NewFile(r)
	if err != nil {
		return false, fmt.Errorf("read program: %w", err)
	}
	return !slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }), nil
}
