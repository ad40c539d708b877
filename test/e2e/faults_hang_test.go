package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"chromogenic/test/faultfs"
)

// crowd is how many programs wait for a disk at the same time: more than the requests
// that the kernel has in the background if nobody says otherwise.
const crowd = 80

// promptly is how long a program that is killed may live on, and a request wait that
// has nothing to do with what hangs.
const promptly = 15 * time.Second

// hung starts a program, waits until a disk has stopped to answer it, and gives it.
func hung(t *testing.T, d *faulty, f faultfs.Fault, cmd *exec.Cmd) (end chan error) {
	t.Helper()
	n := d.set(t, f)
	start(t, cmd)
	d.await(t, n)
	end = make(chan error, 1)
	go func() { end <- cmd.Wait() }()
	return end
}

// endsSoon waits for the end of a program.
func endsSoon(t *testing.T, what string, end chan error, within time.Duration) {
	t.Helper()
	select {
	case <-end:
	case <-time.After(within):
		t.Errorf("%s lives on %v after its signal", what, within)
	}
}

// soon runs a program that must succeed though a disk hangs.
func soon(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := command(name, args...)
	out := new(strings.Builder)
	cmd.Stdout, cmd.Stderr = out, out
	start(t, cmd)
	end := make(chan error, 1)
	go func() { end <- cmd.Wait() }()
	select {
	case err := <-end:
		if err != nil {
			t.Errorf("%q: %v\n%s", cmd.Args, err, out)
		}
	case <-time.After(promptly):
		t.Errorf("%q does not end while a disk hangs", cmd.Args)
		cmd.Process.Kill()
	}
	return out.String()
}

// TestHungSource: a disk does not answer a read any more, for ever. Who waits for it
// can be killed, and all others go on.
func TestHungSource(t *testing.T) {
	t.Parallel()
	s := newFaultStage(t, faultImages(t))
	for _, n := range []string{"still.qcow2", "stuck.raw", "stuck2.qcow2"} {
		run(t, "cp", s.masters[filepath.Ext(n)[1:]], filepath.Join(s.source.below, "images", n))
	}
	another := func(of, n string) { // an image that the kernel keeps no page of
		t.Helper()
		must(t, os.Link(filepath.Join(s.source.below, "images", of), filepath.Join(s.source.below, "images", n+filepath.Ext(of))))
	}
	for i := range crowd {
		another("stuck.raw", fmt.Sprintf("stuck-%d", i))
	}
	type killing struct {
		signal                syscall.Signal
		of, image, view, dest string
	}
	var killings []killing
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT, syscall.SIGTERM} {
		for view, of := range map[string]string{"raw": "stuck.raw", "qcow2": "stuck.raw", "converted.raw": "stuck2.qcow2"} {
			for _, dest := range []string{"out", "within"} {
				k := killing{signal, of, fmt.Sprintf("stuck%d%s%s", signal, view, dest), view, dest}
				k.image = strings.ReplaceAll(k.image, ".", "")
				another(of, k.image)
				killings = append(killings, k)
			}
		}
	}
	run(t, "cp", s.masters["raw"], filepath.Join(s.good.images, "other.raw"))
	script(t, `touch -d '1 hour ago' "$1"/images/*`, s.source.below)
	s.refresh(t)
	run(t, "ls", "-l", s.images("a"))
	deaf := faultfs.Fault{Op: faultfs.Read, File: "stuck*", Effect: faultfs.Deaf, From: at}
	for _, k := range killings {
		t.Run(fmt.Sprintf("%v of cp of %s, %s", k.signal, k.image, k.dest), func(t *testing.T) {
			t.Cleanup(func() { s.source.mend(t) })
			view := k.image + filepath.Ext("x."+k.view)
			dst := t.TempDir() + "/x"
			if k.dest == "within" {
				dst = s.images("good", view)
			}
			cmd := command("cp", s.images("a", view), dst)
			end := hung(t, s.source, deaf, cmd)
			cmd.Process.Signal(k.signal)
			endsSoon(t, "cp", end, promptly)
		})
	}
	s.settled(t)
	if got := names(t, s.good.images); !slices.Equal(got, []string{"other.raw"}) {
		t.Errorf("killed copies have left %q", got)
	}

	t.Run("others go on", func(t *testing.T) {
		n := s.source.set(t, deaf)
		var ends []chan error
		var readers []*exec.Cmd
		for i := range crowd {
			cmd := command("dd", "if="+s.images("a", fmt.Sprintf("stuck-%d.raw", i)), "of=/dev/null", "bs=64k", "skip=20")
			start(t, cmd)
			end := make(chan error, 1)
			go func() { end <- cmd.Wait() }()
			readers, ends = append(readers, cmd), append(ends, end)
		}
		for end := time.Now().Add(30 * time.Second); s.source.struck(t, n) < crowd && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		}
		if n := s.source.struck(t, n); n < crowd {
			t.Errorf("%d of %d readers have got to the disk", n, crowd)
		}
		same(t, s.masters["raw"], s.images("a", "still.raw"), "raw")
		same(t, s.masters["raw"], s.images("good", "other.qcow2"), "qcow2")
		for _, dir := range []string{s.dir, s.images("a"), s.images("good")} {
			soon(t, "ls", "-l", dir)
		}
		soon(t, "cp", s.images("a", "still.raw"), s.images("good", "copy.raw"))
		soon(t, "cp", s.masters["raw"], s.images("a", "new.raw"))
		for i, cmd := range readers {
			cmd.Process.Kill()
			endsSoon(t, "dd", ends[i], promptly)
		}
		s.source.mend(t)
		same(t, s.masters["raw"], s.images("a", "stuck.raw"), "raw")
	})
}

// TestHungHeader: an image appears whose first block does not answer, so that
// nothing can be known of it.
func TestHungHeader(t *testing.T) {
	t.Parallel()
	s := newFaultStage(t, faultImages(t))
	s.source.set(t, faultfs.Fault{Op: faultfs.Read, File: "stuck.*", Effect: faultfs.Deaf})
	for _, n := range []string{"still.qcow2", "stuck.qcow2"} {
		run(t, "cp", s.masters["qcow2"], filepath.Join(s.source.below, "images", n))
	}
	s.refresh(t)
	began := time.Now()
	first := run(t, "ls", s.images("a"))
	t.Logf("the first ls takes %v", time.Since(began).Round(time.Millisecond))
	again := soon(t, "ls", s.images("a"))
	for _, listed := range []string{first, again} {
		for _, want := range []string{"still.raw", "stuck.raw", "stuck.qcow2"} {
			if !strings.Contains(listed, want+"\n") {
				t.Errorf("%s is not listed:\n%s", want, listed)
			}
		}
	}
	soon(t, "cp", s.images("a", "still.raw"), filepath.Join(t.TempDir(), "x"))
	waiting := command("stat", s.images("a", "stuck.raw"))
	start(t, waiting)
	time.Sleep(300 * time.Millisecond)
	soon(t, "cp", s.images("a", "still.raw"), filepath.Join(t.TempDir(), "x"))
	waiting.Process.Kill()
	end := make(chan error, 1)
	go func() { end <- waiting.Wait() }()
	endsSoon(t, "stat", end, promptly)
	soon(t, "cp", s.masters["raw"], s.images("a", "new.raw")) // the kernel's lock of the directory is free
	if full() {                                               // it takes half a minute
		if r := try(t, "stat", s.images("a", "stuck.vmdk")); !says(r.out, said(syscall.ETIMEDOUT)) {
			t.Errorf("stat of what does not answer: %s", r.out)
		}
	}
	s.source.mend(t)
	same(t, s.masters["raw"], s.images("a", "stuck.raw"), "raw")
}

// TestHungChange: a folder does not answer while an image of it is renamed, removed
// or gets another time.
func TestHungChange(t *testing.T) {
	t.Parallel()
	s := newFaultStage(t, faultImages(t), "--allow-delete", "--allow-meta")
	for name, tt := range map[string]struct {
		op   faultfs.Op
		line []string
	}{
		"mv":      {faultfs.Rename, []string{"mv", s.images("b", "mv.raw"), s.images("b", "moved.raw")}},
		"rm":      {faultfs.Unlink, []string{"rm", s.images("b", "rm.raw")}},
		"touch":   {faultfs.Setattr, []string{"touch", s.images("b", "touch.raw")}},
		"setattr": {faultfs.Create, []string{"setfattr", "-n", "user.chromogenic.prop.x", "-v", "y", s.images("b", "setattr.raw")}},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, "cp", s.masters["raw"], filepath.Join(s.b.images, name+".raw"))
			s.refresh(t)
			cmd := command(tt.line[0], tt.line[1:]...)
			end := hung(t, s.target, faultfs.Fault{Op: tt.op, Effect: faultfs.Deaf}, cmd)
			soon(t, "ls", "-l", s.images("good"))
			cmd.Process.Kill()
			endsSoon(t, name, end, promptly)
			s.target.mend(t) // the kernel lets nobody list a folder in which a name is being changed
			soon(t, "ls", s.images("b"))
		})
	}
}

// TestHungDestination: the disk that is copied to does not answer any more.
func TestHungDestination(t *testing.T) {
	t.Parallel()
	s := newFaultStage(t, faultImages(t))
	run(t, "cp", s.masters["qcow2"], filepath.Join(s.good.images, "web.qcow2"))
	for _, op := range []faultfs.Op{faultfs.Create, faultfs.Write, faultfs.Fsync, faultfs.Close, faultfs.Rename} {
		for _, src := range []string{s.masters["raw"], s.images("good", "web.raw")} {
			t.Run(fmt.Sprintf("%s, %s", op, src), func(t *testing.T) {
				cmd := command("cp", src, s.images("b", string(op)+".raw"))
				end := hung(t, s.target, faultfs.Fault{Op: op, File: ".chromogenic-*", Effect: faultfs.Deaf}, cmd)
				soon(t, "ls", "-l", s.images("good"))
				soon(t, "cp", s.images("good", "web.raw"), filepath.Join(t.TempDir(), "x"))
				cmd.Process.Kill()
				endsSoon(t, "cp", end, promptly)
				s.target.mend(t)
				s.settled(t)
				for _, n := range names(t, s.b.images) {
					path := filepath.Join(s.b.images, n)
					switch {
					case n == ".keep":
					case op == faultfs.Rename: // a name that is being given cannot be taken back
						same(t, s.masters["raw"], path, filepath.Ext(n)[1:])
						must(t, os.Remove(path))
					default:
						t.Errorf("a killed copy has left %s", n)
					}
				}
			})
		}
	}
	run(t, "cp", s.masters["raw"], s.images("b", "web.raw"))
}

// TestHungFolder: a whole folder does not answer any more.
func TestHungFolder(t *testing.T) {
	t.Parallel()
	for _, op := range []faultfs.Op{faultfs.Readdir, faultfs.Lookup, faultfs.Getattr} {
		t.Run(string(op), func(t *testing.T) {
			s := newFaultStage(t, faultImages(t))
			run(t, "cp", s.masters["qcow2"], filepath.Join(s.source.below, "images", "web.qcow2"))
			run(t, "cp", s.masters["qcow2"], filepath.Join(s.good.images, "web.qcow2"))
			run(t, "ls", s.images("a"))
			ls := command("ls", s.images("a"))
			end := hung(t, s.source, faultfs.Fault{Op: op, Effect: faultfs.Deaf}, ls)
			soon(t, "cp", s.images("good", "web.raw"), filepath.Join(t.TempDir(), "x"))
			soon(t, "ls", "-l", s.images("good"))
			ls.Process.Kill()
			endsSoon(t, "ls", end, promptly)
			s.source.mend(t)
			soon(t, "ls", "-l", s.images("a"))
		})
	}
}

// TestHungEnd: a mount that is told to end does so, whatever it waits for.
func TestHungEnd(t *testing.T) {
	t.Parallel()
	masters := faultImages(t)
	for name, f := range map[string]faultfs.Fault{
		"read":  {Op: faultfs.Read, File: "web.qcow2", Effect: faultfs.Hang, From: at},
		"write": {Op: faultfs.Write, File: ".chromogenic-*", Effect: faultfs.Hang},
		"list":  {Op: faultfs.Readdir, Effect: faultfs.Hang},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFaultStage(t, masters)
			run(t, "cp", s.masters["qcow2"], filepath.Join(s.source.below, "images", "web.qcow2"))
			s.refresh(t)
			run(t, "ls", s.images("a"))
			cmd, disk := command("cp", s.images("a", "web.raw"), s.images("b", "web.raw")), s.source
			if name == "write" {
				disk = s.target
			}
			if name == "list" {
				cmd = command("ls", s.images("a"))
			}
			end := hung(t, disk, f, cmd)
			syscall.Kill(s.pid, syscall.SIGTERM)
			began := time.Now()
			endsSoon(t, "the program", end, 15*time.Second)
			select {
			case err := <-s.exit:
				t.Logf("the mount ended after %v: %v", time.Since(began).Round(time.Millisecond), err)
			case <-time.After(45 * time.Second):
				t.Errorf("the mount lives 45 s after TERM\n%s", s.logged())
				disk.mend(t)
				<-s.exit
			}
			s.live = false
			disk.mend(t)
			if mounted, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(mounted), " "+s.dir+" ") {
				t.Error("it is still mounted")
			}
		})
	}
}

// TestHungCommand: a command of ours whose disk does not answer is ended by Ctrl-C,
// and leaves nothing.
func TestHungCommand(t *testing.T) {
	t.Parallel()
	masters := faultImages(t)
	// Of a disk and a folder beside it.
	commands := map[string]func(disk, out string) []string{
		"convert": func(disk, out string) []string { return []string{"convert", disk + "/a/x.qcow2", out + "/x.raw"} },
		"cp out":  func(_, out string) []string { return []string{"cp", "a:images/x.qcow2", out + "/y.qcow2"} },
		"cp in":   func(disk, _ string) []string { return []string{"cp", disk + "/a/x.qcow2", "b:images/z"} },
		"cp":      func(_, _ string) []string { return []string{"cp", "a:images/x.qcow2", "b:images/w"} },
		"inspect": func(disk, _ string) []string { return []string{"inspect", "--digest", disk + "/a/x.qcow2"} },
	}
	for _, tt := range []struct {
		command string
		op      faultfs.Op
	}{
		{"convert", faultfs.Read},
		{"cp out", faultfs.Read},
		{"cp in", faultfs.Read},
		{"cp", faultfs.Read},
		{"inspect", faultfs.Read},
		{"cp in", faultfs.Write},
		{"cp", faultfs.Write},
	} {
		t.Run(fmt.Sprintf("%s, %s", tt.command, tt.op), func(t *testing.T) {
			t.Parallel()
			d, out := newFaulty(t, false), t.TempDir()
			for _, n := range []string{"a", "b"} {
				must(t, os.Mkdir(filepath.Join(d.below, n), 0o755))
			}
			run(t, "cp", masters["qcow2"], filepath.Join(d.below, "a"))
			conf := config{sites: []site{{name: "a", images: d.dir + "/a"}, {name: "b", images: d.dir + "/b"}}, state: filepath.Join(t.TempDir(), "state")}.write(t)
			cmd := command(binary(), commands[tt.command](d.dir, out)...)
			cmd.Env = append(cmd.Env, "CHROMOGENIC_CONFIG="+conf)
			end := hung(t, d, faultfs.Fault{Op: tt.op, Effect: faultfs.Hang, From: at}, cmd)
			cmd.Process.Signal(syscall.SIGINT)
			began := time.Now()
			select {
			case <-end:
				t.Logf("%v after %v", cmd.ProcessState, time.Since(began).Round(time.Millisecond))
				if code := cmd.ProcessState.ExitCode(); code != 130 {
					t.Errorf("exit status %d", code)
				}
				d.mend(t)
			case <-time.After(30 * time.Second):
				t.Error("it lives on 30 s after Ctrl-C")
				d.mend(t)
				<-end
			}
			run(t, binary(), "gc", "--config", conf, "--older", "0")
			for _, dir := range []string{out, filepath.Join(d.dir, "b")} {
				if left := names(t, dir); len(left) > 0 {
					t.Errorf("left %q", left)
				}
			}
		})
	}
}
