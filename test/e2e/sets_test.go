package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A set is the disks of a machine, as raw files of the test: the boot disk first.
type set []string

// newSet makes the disks of a machine, each of another kind.
func newSet(t testing.TB, seed uint64) set {
	t.Helper()
	dir := t.TempDir()
	return set{
		gptExt4(t, seed),
		mbrXFS(t, seed+1),
		random(t, filepath.Join(dir, "dense"), 2*mib+512, seed+2),
	}
}

// put keeps the machine in a folder as a set: a raw boot disk, and data disks of
// other containers.
func (x set) put(t testing.TB, folder, name string) {
	t.Helper()
	run(t, "cp", "--sparse=always", x[0], filepath.Join(folder, name+".raw"))
	sub := filepath.Join(folder, name+".disks")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	for i, make := range []func(testing.TB, string, string){containers()[2].make, containers()[5].make} {
		ext := []string{"qcow2", "vmdk"}[i]
		make(t, x[i+1], filepath.Join(sub, fmt.Sprintf("%d-vd%c.%s", i+1, 'b'+i, ext)))
	}
}

// ageFiles makes everything in a folder an hour old, each file by a step older than the
// one before.
func ageFiles(t testing.TB, folder string, step time.Duration) {
	t.Helper()
	when := time.Now().Add(-time.Hour).Truncate(time.Second)
	err := filepath.WalkDir(folder, func(path string, _ os.DirEntry, err error) error {
		if err == nil {
			when = when.Add(-step)
			err = os.Chtimes(path, when, when)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// same fails the test unless a directory of images shows the machine: each disk in
// every format, and all of them in the ova.
func (x set) same(t testing.TB, images, name string) {
	t.Helper()
	for n, disk := range x {
		for _, format := range []string{"raw", "qcow2", "vmdk"} {
			file := filepath.Join(images, name+"."+format)
			if n > 0 {
				file = filepath.Join(images, name+".disks", fmt.Sprintf("%d.%s", n, format))
			}
			same(t, disk, file, format)
		}
	}
	x.sameOVA(t, filepath.Join(images, name+".ova"))
}

// sameOVA compares all disks of an appliance.
func (x set) sameOVA(t testing.TB, image string) {
	t.Helper()
	var disks []member
	for _, m := range tarMembers(t, image) {
		if filepath.Ext(m.name) == ".vmdk" {
			disks = append(disks, m)
		}
	}
	if len(disks) != len(x) {
		t.Errorf("%s holds %d disks, want %d", image, len(disks), len(x))
		return
	}
	for i, m := range disks {
		compare(t, "-f", "raw", x[i], fmt.Sprintf(`json:{"driver":"vmdk","file":{"driver":"raw","offset":%d,"size":%d,"file":{"driver":"file","filename":%q}}}`, m.off, m.size, image))
	}
}

// TestSetBackup backs machines of several disks up and restores them by the programs
// that people use: the same machine comes back.
func TestSetBackup(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img", "rsync", "tar")
	x, y := newSet(t, 201), newSet(t, 211)
	programs := map[string]string{
		"rsync": `rsync -a "$1/" "$2/"`,
		"cp":    `cp -a "$1/." "$2/"`,
		"tar":   `tar -c -C "$1" . | tar -x -C "$2" --no-overwrite-dir --exclude=./web.json`,
	}
	for formats, more := range map[string][]string{
		"":                         {"rsync", "cp"},
		"formats: [qcow2, json]\n": {"rsync", "cp", "tar"},
		"formats: [raw, ova]\n":    {"rsync", "cp"},
		"formats: [vmdk]\n":        {"rsync", "cp", "tar"},
	} {
		for _, program := range more {
			t.Run(program+" "+strings.TrimSpace(formats), func(t *testing.T) {
				t.Parallel()
				a, b, c := newSite(t, "a"), newSite(t, "b"), newSite(t, "c")
				c.more = ", store: qcow2"
				x.put(t, a.images, "web")
				makeOVA(t, filepath.Join(a.images, "app.ova"), y...)
				// From an ova a machine comes back as one file, of one time.
				step := time.Second
				if strings.Contains(formats, "ova") || formats == "" {
					step = 0
				}
				ageFiles(t, a.images, step)
				backup := t.TempDir()
				d := site{name: "d", images: backup}
				copyAll := func(from, to string) { script(t, programs[program], from, to) }
				s := mount(t, config{sites: []site{a}, top: formats})
				copyAll(s.images("a"), backup)
				s.stop(t)
				s = mount(t, config{sites: []site{b, c, d}, top: formats})
				for _, to := range []string{"b", "c"} {
					for range 2 {
						copyAll(backup, s.images(to))
						x.same(t, s.images(to), "web")
						y.same(t, s.images(to), "app")
						if program == "tar" {
							break // it does not ask what is there
						}
					}
				}
				for _, in := range []site{b, c} {
					noTemporaries(t, in)
				}
				if program == "rsync" {
					// By size and time alone rsync finds that all is there.
					want := 0
					if formats == "" {
						want = 2 // two files were compressed, and in the ova, which came first, they are not
					}
					if n := rsyncCount(t, "-a", backup+"/", s.images("b")+"/"); n != want {
						t.Errorf("a further restore transferred %d files, want %d", n, want)
					}
					if n := rsyncCount(t, "-a", s.images("b")+"/", backup+"/"); n != want {
						t.Errorf("a backup of what was restored transferred %d files, want %d", n, want)
					}
				}
				// The backup is a folder of machines too.
				for _, name := range names(t, s.images("d")) {
					if strings.HasPrefix(name, "web") && filepath.Ext(name) == ".ova" {
						x.sameOVA(t, s.images("d", name))
					}
				}
			})
		}
	}
}

// TestSetImport has virt-v2v read a machine that lies in several files.
func TestSetImport(t *testing.T) {
	t.Parallel()
	need(t, "virt-v2v", "qemu-img")
	a := newSite(t, "a")
	newSet(t, 221).put(t, a.images, "web")
	s := mount(t, config{sites: []site{a}})
	out := run(t, "virt-v2v", "--print-source", "-i", "ova", s.images("a", "web.ova"))
	if n := strings.Count(out, "[scsi]"); n != 3 {
		t.Errorf("virt-v2v sees %d disks, want 3:\n%s", n, out)
	}
}

// TestSetInterrupted kills the writer of a data disk half-way: the machine is there
// without it, as it was, and what comes next completes it.
func TestSetInterrupted(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img", "rsync")
	x := newSet(t, 231)[:2]
	b := newSite(t, "b")
	s := mount(t, config{sites: []site{b}})
	writers := map[string][]string{
		"cp":  {"cp"},
		"dd":  {"sh", "-c", `exec dd if="$1" of="$2" bs=64K iflag=fullblock`, "sh"},
		"cat": {"sh", "-c", `exec cat "$1" > "$2"`, "sh"},
	}
	for writer, line := range writers {
		for _, bootFirst := range []bool{true, false} {
			for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
				name := fmt.Sprintf("%s-%v-%d", writer, bootFirst, sig)
				dir := s.images("b", name+".disks")
				boot := func() { run(t, "cp", x[0], s.images("b", name+".raw")) }
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				if bootFirst {
					boot()
				}
				interruptHalfway(t, x[1], filepath.Join(dir, "1-vdb.raw"), line, sig)
				if got := names(t, filepath.Join(b.images)); bootFirst != (len(got) > 0 && containsName(got, name+".raw")) || containsName(got, name+".disks") {
					t.Errorf("%s: the folder holds %q", name, got)
				}
				if got := names(t, dir); len(got) != 0 {
					t.Errorf("%s: the mount shows %q", name, got)
				}
				if !bootFirst {
					boot()
				}
				x[:1].same(t, s.images("b"), name)
				run(t, "cp", x[1], filepath.Join(dir, "1-vdb.raw"))
				x.same(t, s.images("b"), name)
			}
		}
	}
	for _, options := range []string{"-P", "-a", "-a --inplace"} {
		name := "rsync" + strings.ReplaceAll(options, " ", "")
		dir := s.images("b", name+".disks")
		run(t, "cp", x[0], s.images("b", name+".raw"))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := command("rsync", append(strings.Fields(options), "--bwlimit=8M", x[1], filepath.Join(dir, "1-vdb.raw"))...)
		start(t, cmd)
		time.Sleep(700 * time.Millisecond)
		cmd.Process.Kill()
		if err := cmd.Wait(); err == nil {
			t.Error("rsync was faster than the signal")
		}
		time.Sleep(300 * time.Millisecond) // its child renames the partial file
		if got := names(t, b.images); containsName(got, name+".disks") {
			t.Errorf("%s: the folder holds %q", name, got)
		}
		x[:1].same(t, s.images("b"), name)
	}
	noTemporaries(t, b)
}

func containsName(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

// TestSetKilled kills chromogenic in the middle of a machine of several disks: the
// machine is there as a whole or not at all, and the job can be taken up.
func TestSetKilled(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img")
	a, b := newSite(t, "a"), newSite(t, "b")
	dir := t.TempDir()
	x := set{random(t, filepath.Join(dir, "boot"), 24*mib, 241), random(t, filepath.Join(dir, "data"), 24*mib, 242), random(t, filepath.Join(dir, "more"), 24*mib, 243)}
	if err := os.Mkdir(filepath.Join(a.images, "web.disks"), 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "cp", x[0], filepath.Join(a.images, "web.raw"))
	run(t, "cp", x[1], filepath.Join(a.images, "web.disks/1-vdb.raw"))
	run(t, "cp", x[2], filepath.Join(a.images, "web.disks/2-vdc.raw"))
	ageFiles(t, a.images, time.Second)
	file := config{sites: []site{a, b}, state: filepath.Join(t.TempDir(), "state")}.write(t)
	line := []string{"cp", "--config", file, "a:images/web", "b:images/"}
	began := time.Now()
	run(t, binary(), line...)
	whole := time.Since(began)
	x.holds(t, b)
	outcomes := map[string]int{}
	for i := range 12 {
		for _, n := range names(t, b.images) {
			if err := os.RemoveAll(filepath.Join(b.images, n)); err != nil {
				t.Fatal(err)
			}
		}
		cmd := command(binary(), line...)
		start(t, cmd)
		time.Sleep(whole * time.Duration(i+1) / 12)
		cmd.Process.Kill()
		cmd.Wait()
		left := names(t, b.images)
		boot, data := containsName(left, "web.raw"), containsName(left, "web.disks")
		switch {
		case boot && !data:
			t.Errorf("killed at %d/12: the boot disk is there without the others: %q", i+1, left)
		case boot:
			x.holds(t, b)
			outcomes["there"]++
		default:
			outcomes["absent"]++
		}
		var all []struct{ ID, State string }
		if err := json.Unmarshal([]byte(run(t, binary(), "jobs", "list", "--config", file, "--json")), &all); err != nil {
			t.Fatal(err)
		}
		if last := all[len(all)-1]; last.State == "interrupted" {
			outcomes["resumed"]++
			run(t, binary(), "jobs", "resume", "--config", file, last.ID)
		} else if !boot {
			run(t, binary(), line...)
		}
		x.holds(t, b)
	}
	run(t, binary(), "gc", "--config", file)
	noTemporaries(t, b)
	t.Logf("%v within %v", outcomes, whole)
	if outcomes["resumed"] == 0 {
		t.Error("no kill came in the middle of a job")
	}
}

// holds compares the files of a folder with the disks of the machine web.
func (x set) holds(t testing.TB, in site) {
	t.Helper()
	for n, disk := range x {
		file := filepath.Join(in.images, []string{"web.raw", "web.disks/1-vdb.raw", "web.disks/2-vdc.raw"}[n])
		if digest(t, disk) != digest(t, file) {
			t.Errorf("%s is another disk", file)
		}
	}
}

// TestSetInUse captures a machine whose disks lie apart: all of them at one moment,
// or not at all.
func TestSetInUse(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img", "rsync")
	x := newSet(t, 251)
	a, b := newSite(t, "a"), newSite(t, "b")
	x.put(t, a.instances, "vm")
	ageFiles(t, a.instances, time.Second)
	s := mount(t, config{sites: []site{a, b}})
	config := s.config.write(t)
	place := strings.TrimSpace(run(t, binary(), "capture", "--config", config, "a:instances/vm"))
	name := strings.TrimPrefix(place, "a:instances/")
	instances := s.path("a", "instances")
	x.same(t, instances, name)
	run(t, binary(), "capture", "--config", config, "a:instances/vm", "--image", "made")
	x.same(t, s.images("a"), "made")
	backup := t.TempDir()
	run(t, "rsync", "-a", "--include=*@*", "--include=*@*/*", "--exclude=*", instances+"/", backup+"/")
	for _, file := range []string{name + ".raw", name + ".ova", name + ".disks/1-vdb.qcow2", name + ".disks/2-vdc.raw"} {
		if digest(t, filepath.Join(backup, file)) != digest(t, filepath.Join(instances, file)) {
			t.Errorf("%s differs from its copy", file)
		}
	}
	run(t, "cp", filepath.Join(instances, name+".ova"), s.images("b", "vm.ova"))
	x.same(t, s.images("b"), "vm")
	run(t, binary(), "cp", "--config", config, place, "b:images/again")
	x.same(t, s.images("b"), "again")

	// With a machine that keeps writing to one of them there is no one moment.
	m := writing(t, filepath.Join(a.instances, "vm.disks/3-vdd.raw"), 0)
	defer m.stop()
	r := try(t, binary(), "capture", "--config", config, "a:instances/vm")
	if r.code != 1 || !strings.Contains(r.out, "one of its 4 disks was written to") || !strings.Contains(r.out, "hint: stop the machine") {
		t.Errorf("capture of a busy machine: %d\n%s", r.code, r.out)
	}
	m.stop()
	if n := len(names(t, a.instances)); n != 4 {
		t.Errorf("the folder holds %q", names(t, a.instances))
	}
	noTemporaries(t, a)
	noTemporaries(t, b)
}
