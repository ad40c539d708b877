package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"chromogenic/test/faultfs"
)

// stateFaults are those of the disk that has the state directory. A copy from
// outside meets them; who reads does not.
func stateFaults() []fault {
	spool := func(f faultfs.Fault) faultfs.Fault {
		f.File = "spool-*"
		if f.Op == faultfs.Read {
			f.File = "2*" // it has the name of its job then
		}
		return f
	}
	all := []fault{
		{name: "spool cannot be read back", what: "what a program has written cannot be read back from the spool", disk: spool(sector(at, syscall.EIO)), errno: syscall.EIO, cause: "input/output error"},
		{name: "spool ends early", what: "the spool ends too early when it is read back", disk: spool(faultfs.Fault{Op: faultfs.Read, Effect: faultfs.End, From: at}), errno: syscall.EBADMSG, cause: "other bytes than were written"},
		{name: "wrong bytes in the spool", what: "one bit is stored wrong in the spool", disk: spool(effect(faultfs.Write, faultfs.Flip)), errno: syscall.EBADMSG, cause: "other bytes than were written"},
		{name: "lost write to the spool", what: "a write to the spool says that it is done, and nothing is stored", disk: spool(effect(faultfs.Write, faultfs.Lose)), errno: syscall.EBADMSG, cause: "other bytes than were written"},
		{name: "wrong bytes read back from the spool", what: "one bit is read wrong", disk: spool(effect(faultfs.Read, faultfs.Flip)), errno: syscall.EBADMSG, cause: "other bytes than were written"},
	}
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EIO} {
		all = append(all,
			fault{name: "create " + errnoName(errno), what: "making the spool fails with " + errnoName(errno), disk: spool(failing(faultfs.Create, errno)), errno: errno, cause: errno.Error()},
			fault{name: "write " + errnoName(errno), what: "a write to the spool fails with " + errnoName(errno), disk: spool(failing(faultfs.Write, errno)), errno: errno, cause: errno.Error()},
			fault{name: "database write " + errnoName(errno), what: "a write to state.db fails with " + errnoName(errno), disk: faultfs.Fault{Op: faultfs.Write, Effect: faultfs.Fail, Errno: errno, File: "state.db"}, errno: errno, cause: errno.Error(), note: "no job begins that could not be recorded"},
			fault{name: "database fsync " + errnoName(errno), what: "fsync of state.db fails with " + errnoName(errno), disk: faultfs.Fault{Op: faultfs.Fsync, Effect: faultfs.Fail, Errno: errno, File: "state.db"}, errno: errno, cause: errno.Error(), note: "no job begins that could not be recorded"},
		)
	}
	return all
}

// TestStateFaults lets the disk fail that the mount itself writes to.
func TestStateFaults(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img", "rsync")
	state := newFaulty(t, false)
	masters := faultImages(t)
	good := newSite(t, "good")
	s := mount(t, config{sites: []site{good}, state: filepath.Join(state.dir, "state")})
	t.Cleanup(func() { state.Clear() })
	run(t, "cp", masters["qcow2"], filepath.Join(good.images, "web.qcow2"))
	outside := filepath.Join(t.TempDir(), "new.raw")
	for i, f := range stateFaults() {
		c := pick("cp", "dd", "cat", "rsync")[i%4]
		t.Run(f.name+"/"+c.name, func(t *testing.T) {
			random(t, outside, 3*mib, uint64(220+i)) // what is known already takes no spool
			before := s.reasons(t)
			n := state.set(t, f.disk)
			r := c.copy(t, outside, s.images("good", fmt.Sprintf("new%d.raw", i)))
			if state.struck(t, n) == 0 {
				t.Error("the fault has not struck")
			}
			o := promised(t, f.errno)
			if r.code == 0 || !says(r.out, said(f.errno)) {
				t.Errorf("exit status %d, want %q\n%s", r.code, said(f.errno), r.out)
			}
			reasons := s.reasonsSince(t, before)
			for _, want := range []string{o.Code, f.cause} {
				if !says(reasons, want) {
					t.Errorf(".chromogenic/errors does not say %q:\n%s", want, reasons)
				}
			}
			if op := f.disk.Op; (op == faultfs.Read || op == faultfs.Write) && f.disk.File != "state.db" && !strings.Contains(reasons, "at offset ") {
				t.Errorf("no offset:\n%s", reasons)
			}
			same(t, masters["raw"], s.images("good", "web.raw"), "raw") // readers do not notice
			state.mend(t)
			s.settled(t)
			for _, n := range names(t, good.images) {
				if n != "web.qcow2" {
					t.Errorf("left %s", n)
					os.Remove(filepath.Join(good.images, n))
				}
			}
			if n := diskUsage(filepath.Join(state.below, "state", "spool")); n != 0 {
				t.Errorf("the spool takes %d bytes", n)
			}
			if out := run(t, binary(), "gc", "--dry-run", "--config", s.config.write(t)); out != "" {
				t.Errorf("gc finds\n%s", out)
			}
			if r := c.copy(t, outside, s.images("good", "again.raw")); r.code != 0 {
				t.Fatalf("without the fault: exit status %d\n%s", r.code, r.out)
			}
			same(t, outside, filepath.Join(good.images, "again.raw"), "raw")
			must(t, os.Remove(filepath.Join(good.images, "again.raw")))
			s.refresh(t)
		})
	}
}

// TestStateAtStart: a mount whose state cannot be read or written says so and does
// not begin. When the disk is well again, so is the state.
func TestStateAtStart(t *testing.T) {
	t.Parallel()
	state := newFaulty(t, false)
	good := newSite(t, "good")
	random(t, filepath.Join(good.images, "web.raw"), mib, 213)
	s := mount(t, config{sites: []site{good}, state: filepath.Join(state.dir, "state")})
	run(t, "ls", "-l", s.images("good"))
	run(t, "cp", random(t, filepath.Join(t.TempDir(), "x.raw"), mib, 214), s.images("good"))
	before := names(t, s.path(".chromogenic", "jobs"))
	s.stop(t)
	conf := s.config.write(t)
	for _, tt := range []struct {
		name  string
		fault faultfs.Fault
		code  int
		says  string
	}{
		{"open", failing(faultfs.Open, syscall.EIO), 1, "input/output error"},
		{"head", faultfs.Fault{Op: faultfs.Read, Effect: faultfs.Fail, Errno: syscall.EIO}, exitVerify, "damaged"},
		{"pages", faultfs.Fault{Op: faultfs.Read, Effect: faultfs.Fail, Errno: syscall.EIO, From: 2 * 4096}, 1, "cannot read it"},
		{"read-only", faultfs.Fault{Op: faultfs.Write, Effect: faultfs.Fail, Errno: syscall.EROFS}, exitPolicy, "read-only file system"},
		{"full", faultfs.Fault{Op: faultfs.Write, Effect: faultfs.Fail, Errno: syscall.ENOSPC}, 1, "no space left on device"},
		{"fsync", failing(faultfs.Fsync, syscall.EIO), 1, "input/output error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.fault.File = "state.db"
			n := state.set(t, tt.fault)
			defer state.mend(t)
			dir := t.TempDir()
			r := try(t, binary(), "mount", "--config", conf, dir)
			if state.struck(t, n) == 0 {
				t.Error("the fault has not struck")
			}
			if r.code != tt.code || !says(r.out, tt.says) || !strings.Contains(r.out, "state.db") || strings.Contains(r.out, "goroutine ") {
				t.Errorf("exit status %d, want %d and %q:\n%s", r.code, tt.code, tt.says, r.out)
			}
			if mounted, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(mounted), " "+dir+" ") {
				t.Error("it is mounted")
			}
		})
	}
	s = mount(t, s.config)
	if after := names(t, s.path(".chromogenic", "jobs")); len(after) != len(before) || len(after) == 0 {
		t.Errorf("the jobs were %q and are %q", before, after)
	}
}

// TestStateFull: the disk of the state directory is really full. Images can be read;
// copies are refused, and succeed when there is room.
func TestStateFull(t *testing.T) {
	t.Parallel()
	needRoot(t)
	good := newSite(t, "good")
	disk := filepath.Join(t.TempDir(), "disk")
	must(t, os.Mkdir(disk, 0o755))
	tmpfs(t, disk, "6M")
	web := random(t, filepath.Join(good.images, "web.raw"), 2*mib, 215)
	s := mount(t, config{sites: []site{good}, state: filepath.Join(disk, "state")})
	t.Cleanup(func() { s.stop(t) })
	try(t, "dd", "if=/dev/zero", "of="+filepath.Join(disk, "filler"), "bs=4k")
	for i, c := range pick("cp", "dd", "rsync", "cat") {
		src := random(t, filepath.Join(t.TempDir(), "x.raw"), mib, uint64(216+i))
		checkFailed(t, s, good, c, src, c.name, failure{"No space left on device", "CHR-0009"})
		checkFailed(t, s, good, c, s.images("good", "web.qcow2"), c.name+"-within", failure{"No space left on device", "CHR-0009"})
	}
	same(t, web, s.images("good", "web.qcow2"), "qcow2")
	must(t, os.Remove(filepath.Join(disk, "filler")))
	src := random(t, filepath.Join(t.TempDir(), "x.raw"), mib, 220)
	run(t, "cp", src, s.images("good", "room.raw"))
	same(t, src, filepath.Join(good.images, "room.raw"), "raw")
}
