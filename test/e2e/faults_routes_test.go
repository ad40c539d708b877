package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A faultRoute is a way of an image's bytes through a disk that fails.
type faultRoute struct {
	name     string
	ext      string // of the image's file
	format   string // in which it is read
	into     bool   // the failing disk is that of the copy, else that of the image
	instance bool   // the image is the disk of a machine
	within   bool   // the copy is made by the mount, in a job
	ours     bool   // a command of chromogenic: its exit status tells the kind
	again    bool   // the program tries a second time
	plain    bool   // the copy is a plain file, and not an image of a provider
	direct   bool   // so is the image
	line     func(x *faultCase) *exec.Cmd
	// made is where the copy is, and in which format.
	made func(t testing.TB, x *faultCase) (path, format string)
}

// outside is a copy in a folder that is no provider's.
func outside(x *faultCase) string { return filepath.Join(x.out, x.name+"."+x.route.format) }

func madeOutside(_ testing.TB, x *faultCase) (string, string) { return outside(x), x.route.format }

func madeInside(t testing.TB, x *faultCase) (string, string) { return stored(t, x.to(), x.name) }

// inside is the path of the copy in the mount.
func inside(x *faultCase) string { return x.images(x.to().name, x.name+"."+x.route.format) }

// own makes a line of a command of ours.
func own(args ...string) *exec.Cmd { return command(binary(), args...) }

// with runs a command with the configuration of the mount.
func (x *faultCase) with(args ...string) *exec.Cmd {
	cmd := own(args...)
	cmd.Env = append(cmd.Env, "CHROMOGENIC_CONFIG="+x.conf)
	return cmd
}

// pairs are the containers and the formats that they are read in.
func pairs() [][2]string {
	all := [][2]string{{"qcow2", "raw"}, {"raw", "qcow2"}, {"vmdk", "raw"}, {"ova", "raw"}, {"raw", "raw"}, {"raw", "vmdk"}, {"qcow2", "qcow2"}, {"vmdk", "ova"}}
	if full() {
		return all
	}
	return all[:5]
}

// copyArg makes the test binary a program that copies a file.
const copyArg = "copy-by-syscalls"

// syscalls is that program: it tells the number that the system call gives.
func syscalls() program {
	self, err := os.Executable()
	if err != nil {
		panic(err) // Linux always knows
	}
	return program{name: "syscalls", line: argv(self, copyArg)}
}

// copyBySyscalls copies with nothing between it and the kernel.
func copyBySyscalls(from, to string) int {
	failed := func(call string, err error) int {
		fmt.Printf("%s: %d\n", call, err)
		return 1
	}
	in, err := unix.Open(from, unix.O_RDONLY, 0)
	if err != nil {
		return failed("open", err)
	}
	out, err := unix.Open(to, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o644)
	if err != nil {
		return failed("creat", err)
	}
	for buf := make([]byte, 128*kib); ; {
		n, err := unix.Read(in, buf)
		if err != nil {
			return failed("read", err)
		}
		if n == 0 {
			break
		}
		if _, err := unix.Write(out, buf[:n]); err != nil {
			return failed("write", err)
		}
	}
	if err := unix.Close(out); err != nil {
		return failed("close", err)
	}
	return 0
}

// copiers are the programs that meet the faults.
func copiers() []program { return append(pick("cat", "dd", "cp", "rsync"), syscalls()) }

// full tells whether everything is to be tested with everything.
func full() bool { return os.Getenv("CHROMOGENIC_FULL") != "" }

// sourceRoutes read from the failing disk.
func sourceRoutes() (all []faultRoute) {
	for _, p := range pairs() {
		for _, c := range copiers() {
			line := c.line
			r := faultRoute{name: c.name + " out, " + p[0] + " as " + p[1], ext: p[0], format: p[1], made: madeOutside}
			r.line = func(x *faultCase) *exec.Cmd { return line(x.view(), outside(x)) }
			all = append(all, r)
			r = faultRoute{name: c.name + " within, " + p[0] + " as " + p[1], ext: p[0], format: p[1], within: true, made: madeInside}
			r.line = func(x *faultCase) *exec.Cmd { return line(x.view(), inside(x)) }
			all = append(all, r)
		}
		place := func(x *faultCase) string { return "a:images/" + x.name + "." + x.route.format }
		all = append(all,
			faultRoute{name: "chromogenic cp, " + p[0] + " as " + p[1], ext: p[0], format: p[1], within: true, ours: true, made: madeInside, line: func(x *faultCase) *exec.Cmd {
				return x.with("cp", place(x), "good:images/")
			}},
			faultRoute{name: "chromogenic cp out, " + p[0] + " as " + p[1], ext: p[0], format: p[1], ours: true, made: madeOutside, line: func(x *faultCase) *exec.Cmd {
				return x.with("cp", place(x), outside(x))
			}},
			faultRoute{name: "chromogenic convert, " + p[0] + " to " + p[1], ext: p[0], format: p[1], ours: true, direct: true, made: madeOutside, line: func(x *faultCase) *exec.Cmd {
				return own("convert", x.file, outside(x))
			}},
		)
	}
	return append(all, captureRoute(false))
}

// captureRoute captures a machine whose disk, and with it its capture, is on the
// failing disk.
func captureRoute(into bool) faultRoute {
	return faultRoute{
		name: "chromogenic capture", ext: "raw", format: "raw", instance: true, into: into, within: true, ours: true,
		line: func(x *faultCase) *exec.Cmd { return x.with("capture", x.site()+":instances/"+x.name) },
		made: func(t testing.TB, x *faultCase) (string, string) {
			for _, n := range names(t, filepath.Dir(x.file)) {
				if strings.HasPrefix(n, x.name+"@") {
					return filepath.Join(filepath.Dir(x.file), n), "raw"
				}
			}
			t.Fatal("there is no capture")
			return "", ""
		},
	}
}

// destinationRoutes write to the failing disk.
func destinationRoutes() (all []faultRoute) {
	for _, p := range [][2]string{{"raw", "raw"}, {"qcow2", "qcow2"}, {"vmdk", "vmdk"}, {"ova", "ova"}} {
		for _, c := range copiers() {
			line := c.line
			r := faultRoute{name: c.name + " in, " + p[0], ext: p[0], format: p[1], into: true, within: true, made: madeInside, again: c.name == "rsync"}
			r.line = func(x *faultCase) *exec.Cmd { return line(x.master, inside(x)) }
			all = append(all, r)
			r.name = c.name + " within, " + p[0]
			r.line = func(x *faultCase) *exec.Cmd { return line(x.view(), inside(x)) }
			all = append(all, r)
		}
		all = append(all,
			faultRoute{name: "chromogenic cp, " + p[0], ext: p[0], format: p[1], into: true, within: true, ours: true, made: madeInside, line: func(x *faultCase) *exec.Cmd {
				return x.with("cp", "good:images/"+x.name+"."+x.route.format, "b:images/")
			}},
			faultRoute{name: "chromogenic cp of a file, " + p[0], ext: p[0], format: p[1], into: true, ours: true, made: madeInside, line: func(x *faultCase) *exec.Cmd {
				return x.with("cp", x.master, "b:images/"+x.name)
			}},
		)
	}
	for _, format := range []string{"qcow2", "vmdk", "raw"} {
		all = append(all, faultRoute{
			name: "chromogenic convert to " + format, ext: "raw", format: format, into: true, ours: true, plain: true,
			line: func(x *faultCase) *exec.Cmd {
				return own("convert", x.master, filepath.Join(x.b.images, x.name+"."+format))
			},
			made: func(_ testing.TB, x *faultCase) (string, string) {
				return filepath.Join(x.b.images, x.name+"."+format), format
			},
		})
	}
	all = append(all, faultRoute{
		name: "chromogenic cp out", ext: "raw", format: "qcow2", into: true, ours: true, plain: true,
		line: func(x *faultCase) *exec.Cmd {
			return x.with("cp", "good:images/"+x.name, filepath.Join(x.b.images, x.name+".qcow2"))
		},
		made: func(_ testing.TB, x *faultCase) (string, string) {
			return filepath.Join(x.b.images, x.name+".qcow2"), "qcow2"
		},
	})
	return append(all, captureRoute(true))
}
