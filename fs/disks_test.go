package fs

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chromogenic/disk"
	"chromogenic/formats/layout"
	"chromogenic/formats/ova"
	"chromogenic/pipeline"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
)

// bootDisk and dataDisk are the disks of a machine.
func bootDisk() []byte { return pattern(1, 2<<20) }

func dataDisk(n int) []byte { return pattern(int64(100+n), 1<<20+n*512) }

// writeSet makes a machine of so many disks in a folder.
func writeSet(t *testing.T, folder, name string, disks int) {
	t.Helper()
	writeImage(t, filepath.Join(folder, name+".raw"), bootDisk())
	for n := 1; n < disks; n++ {
		sub := filepath.Join(folder, name+".disks")
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		writeImage(t, filepath.Join(sub, strconv.Itoa(n)+"-vd"+string(rune('a'+n))+".raw"), dataDisk(n))
	}
}

// withSet mounts with the machine web of three disks in a.
func withSet(t *testing.T, change func(o *Options)) *testMount {
	t.Helper()
	return mountTwo(t, func(m *testMount, o *Options) {
		writeSet(t, m.a, "web", 3)
		if change != nil {
			change(o)
		}
	})
}

// wantSet fails unless b's machine of the name has so many disks, in its files and in
// its ova.
func (m *testMount) wantSet(t *testing.T, name string, disks int) {
	t.Helper()
	f := func(file string) string { return m.path("b/images/" + file) }
	if got := readFile(t, f(name+".raw")); !bytes.Equal(got, bootDisk()) {
		t.Errorf("the boot disk of %s is another", name)
	}
	all, err := ova.Open(disk.Bytes(readFile(t, f(name+".ova"))))
	if err != nil {
		t.Fatal(err)
	}
	if len(all.Disks) != disks {
		t.Fatalf("the ova of %s holds %d disks, want %d", name, len(all.Disks), disks)
	}
	for n := 1; n < disks; n++ {
		if got := readFile(t, f(name+".disks/"+strconv.Itoa(n)+"-.raw")); !bytes.Equal(got, dataDisk(n)) {
			t.Errorf("disk %d of %s is another", n, name)
		}
		got := make([]byte, len(dataDisk(n)))
		if err := disk.ReadFull(all.Disks[n], got, 0); err != nil || !bytes.Equal(got, dataDisk(n)) {
			t.Errorf("disk %d in the ova of %s is another, %v", n, name, err)
		}
	}
}

// TestDisksDirectory reads a machine of several disks.
func TestDisksDirectory(t *testing.T) {
	m := withSet(t, nil)
	when := time.Unix(1600000000, 0)
	if err := os.Chtimes(filepath.Join(m.a, "web.disks/1-vdb.raw"), when, when); err != nil {
		t.Fatal(err)
	}
	writeImage(t, filepath.Join(m.a, "one.raw"), bootDisk())
	time.Sleep(attrTime + attrTime/10) // the kernel counts in ticks
	var want []string
	for _, name := range []string{"one", "web"} {
		for _, ext := range []string{"json", "ova", "qcow2", "raw", "vmdk"} {
			want = append(want, name+"."+ext)
		}
	}
	want = append(want[:5], append([]string{"web.disks"}, want[5:]...)...)
	if diff := cmp.Diff(want, list(t, m.path("a/images"))); diff != "" {
		t.Errorf("listed (-want +got):\n%s", diff)
	}
	want = []string{"1-vdb.qcow2", "1-vdb.raw", "1-vdb.vmdk", "2-vdc.qcow2", "2-vdc.raw", "2-vdc.vmdk"}
	if diff := cmp.Diff(want, list(t, m.path("a/images/web.disks"))); diff != "" {
		t.Errorf("web.disks (-want +got):\n%s", diff)
	}
	for file, want := range map[string][]byte{
		"web.raw": bootDisk(), "web.disks/0-disk.raw": bootDisk(), "web.disks/0.raw": bootDisk(), "web%2Eraw.disks/1-vdb.raw": nil,
		"web.disks/1-vdb.raw": dataDisk(1), "web.disks/1-other.img": dataDisk(1), "web.disks/2.raw": dataDisk(2),
	} {
		if want != nil && !bytes.Equal(readFile(t, m.path("a/images/"+file)), want) {
			t.Errorf("%s is another disk", file)
		}
	}
	for _, file := range []string{"web.disks/3-x.raw", "web.disks/1-vdb.ova", "web.disks/1-vdb.json", "web.disks/x.raw", "web.disks/01-vdb.raw", "one.disks", "two.disks", ".disks"} {
		_, err := os.Stat(m.path("a/images/" + file))
		wantErrno(t, "stat "+file, err, syscall.ENOENT)
	}
	// A disk is another file than the image, though it has the same bytes, and has
	// a time of its own.
	stat := func(file string) (st syscall.Stat_t) {
		t.Helper()
		if err := syscall.Stat(m.path("a/images/"+file), &st); err != nil {
			t.Fatal(err)
		}
		return st
	}
	image, boot, data := stat("web.raw"), stat("web.disks/0-disk.raw"), stat("web.disks/1-vdb.qcow2")
	if image.Ino == boot.Ino || image.Mtim != boot.Mtim || data.Mtim.Sec != when.Unix() || stat("web.ova").Mtim == data.Mtim {
		t.Errorf("the image is %+v, its boot disk %+v, its data disk %+v", image, boot, data)
	}
	if got := run(t, 0, "ls", "-i", m.path("a/images/web.disks")); !strings.Contains(got, strconv.FormatUint(data.Ino, 10)+" 1-vdb.qcow2\n") {
		t.Errorf("readdir gives another inode than %d:\n%s", data.Ino, got)
	}
	if d := document(t, m.path("a/images/web.json")); len(d.Disks) != 3 || d.Disks[2].Device != "vdc" || d.Disks[2].Size != int64(len(dataDisk(2))) {
		t.Errorf("metadata is %+v", d)
	}
	if n := m.ops.count("CREATE"); n != 0 {
		t.Errorf("%d creates", n)
	}
}

// TestWriteDisks writes machines as programs do: whole and one by one, in any order.
// A second run of each changes nothing.
func TestWriteDisks(t *testing.T) {
	for name, lines := range map[string]string{
		"cp -r":         `mkdir vm.disks; cp IN/web.disks/0-vda.raw IN/web.disks/1-vdb.raw IN/web.disks/2-vdc.raw vm.disks/; cp -r vm.disks OUT/`,
		"cp -a":         `cp -a IN/web.raw OUT/vm.raw; cp -aT IN/web.disks OUT/vm.disks`,
		"disks first":   `cp -rT IN/web.disks OUT/vm.disks; cp IN/web.qcow2 OUT/vm.qcow2`,
		"backwards":     `mkdir -p OUT/vm.disks; cp IN/web.disks/2-vdc.vmdk OUT/vm.disks/; cp IN/web.disks/1-vdb.qcow2 OUT/vm.disks/; cp IN/web.vmdk OUT/vm.vmdk`,
		"boot between":  `mkdir -p OUT/vm.disks; cp IN/web.disks/2-vdc.raw OUT/vm.disks/; cp IN/web.raw OUT/vm.raw; cp IN/web.disks/1-vdb.raw OUT/vm.disks/`,
		"ova":           `cp IN/web.ova OUT/vm.ova`,
		"ova last":      `cp IN/web.raw OUT/vm.raw; cp IN/web.ova OUT/vm.ova`,
		"ova after one": `mkdir -p OUT/vm.disks; cp IN/web.disks/1-vdb.raw OUT/vm.disks/; cp IN/web.ova OUT/vm.ova`,
		"rsync":         `rsync -a IN/web.raw OUT/vm.raw; rsync -a IN/web.disks/ OUT/vm.disks/`,
		"rsync delayed": `rsync -a --delay-updates IN/web.disks/ OUT/vm.disks/; rsync -a IN/web.raw OUT/vm.raw`,
		"rsync temp":    `mkdir -p OUT/vm.disks OUT/.tmp; rsync -a --temp-dir=OUT/.tmp IN/web.disks/ OUT/vm.disks/; rmdir OUT/.tmp; rsync -a --inplace IN/web.raw OUT/vm.raw`,
		"tar":           `mkdir -p vm.disks; cp -a IN/web.raw vm.raw; cp -a IN/web.disks/*.qcow2 vm.disks/; tar -c vm.raw vm.disks | tar -x -C OUT --skip-old-files`,
		"dd":            `mkdir -p OUT/vm.disks; for f in 1-vdb 2-vdc; do dd if=IN/web.disks/$f.raw of=OUT/vm.disks/$f.raw bs=64k; done; dd if=IN/web.raw of=OUT/vm.raw`,
		"sh":            `mkdir -p OUT/vm.disks; for n in 2 1 0; do cat IN/web.disks/$n.raw > OUT/vm.disks/$n.raw; done`,
		"qemu-img":      `mkdir -p OUT/vm.disks; [ -e OUT/vm.raw ] || for n in 1 2 0; do qemu-img convert -O qcow2 IN/web.disks/$n-x.raw OUT/vm.disks/$n-x.qcow2; done`,
	} {
		t.Run(name, func(t *testing.T) {
			if program := strings.Fields(name)[0]; program == "rsync" || program == "qemu-img" {
				need(t, program)
			}
			m := withSet(t, nil)
			line := strings.NewReplacer("IN", m.path("a/images"), "OUT", m.path("b/images")).Replace(lines)
			for range 2 {
				cmd := exec.Command("sh", "-ec", strings.Replace(line, "mkdir vm.disks;", "mkdir -p vm.disks;", 1))
				cmd.Dir = filepath.Join(filepath.Dir(m.dir), "a-instances") // any folder
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%v: %s\n%s", err, out, readFile(t, m.path(".chromogenic/errors")))
				}
				m.wantSet(t, "vm", 3)
			}
			for _, file := range append(list(t, m.b), list(t, m.path("b/images"))...) {
				if strings.HasPrefix(file, ".") {
					t.Errorf("left is %q", file)
				}
			}
		})
	}
}

// TestRefuseDisks: what is no disk, and another disk than the one that is there.
func TestRefuseDisks(t *testing.T) {
	m := withSet(t, nil)
	dir := m.path("b/images/web.disks")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	wantErrno(t, "mkdir again", os.Mkdir(dir, 0o755), syscall.EEXIST)
	if got := list(t, m.path("b/images")); !cmp.Equal(got, []string{"web.disks"}) {
		t.Errorf("listed is %q", got)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"vdb.raw", "1-vdb.ova", "1-vdb.txt", "256-x.raw", "01-x.raw", "1-vdb.json", "1-vdb.ovf"} {
		wantErrno(t, "create "+name, os.WriteFile(in(name), []byte("x"), 0o600), syscall.EINVAL)
	}
	wantErrno(t, "mkdir in it", os.Mkdir(in("sub"), 0o755), syscall.EPERM)
	wantErrno(t, "symlink", os.Symlink("x", in("1-x.raw")), syscall.EPERM)
	if err := os.WriteFile(in("1-vdb.raw"), dataDisk(1), 0o600); err != nil {
		t.Fatal(err)
	}
	wantErrno(t, "another disk", os.WriteFile(in("1-other.raw"), dataDisk(2), 0o600), syscall.EEXIST)
	if got := readFile(t, in("1-vdb.raw")); !bytes.Equal(got, dataDisk(1)) {
		t.Error("the disk that waits is another now")
	}
	wantErrno(t, "a container as raw", os.WriteFile(in("2-x.raw"), readFile(t, m.path("a/images/web.qcow2")), 0o600), syscall.EBADMSG)
	wantErrno(t, "rm of a disk", os.Remove(in("1-vdb.raw")), syscall.EPERM)
	wantErrno(t, "rmdir", syscall.Rmdir(dir), syscall.EPERM)
	wantErrno(t, "mv of a disk", os.Rename(in("1-vdb.raw"), in("2-vdb.raw")), syscall.EPERM)
	wantErrno(t, "mv of the directory", os.Rename(dir, m.path("b/images/x.disks")), syscall.EPERM)
	wantErrno(t, "mkdir in instances", os.Mkdir(m.path("b/instances/web.disks"), 0o755), syscall.EPERM)
	wantErrno(t, "write a disk of an instance", os.WriteFile(m.path("b/instances/web.raw"), nil, 0o600), syscall.EPERM)
	// An ova takes no disk more.
	run(t, 0, "cp", m.path("a/images/web.ova"), m.path("b/images/whole.ova"))
	file, err := ova.Layout(&disk.Machine{Disks: []disk.Disk{{Image: disk.Bytes(bootDisk())}}}, layout.Options{})
	if err != nil {
		t.Fatal(err)
	}
	whole := make([]byte, file.Size())
	if err := disk.ReadFull(file, whole, 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(m.path("b/images/single.ova"), whole, 0o600), os.Mkdir(m.path("b/images/single.disks"), 0o755)); err != nil {
		t.Fatal(err)
	}
	wantErrno(t, "a disk for an ova", os.WriteFile(m.path("b/images/single.disks/1-x.raw"), dataDisk(1), 0o600), syscall.EEXIST)
	if got := errorAt(t, m.path("b/images/single.disks")); !strings.Contains(got, "holds all disks") {
		t.Errorf("the reason is %q", got)
	}
	if err := syscall.Rmdir(m.path("b/images/single.disks")); err != nil {
		t.Error(err)
	}
}

// TestDiskWaits looks at a data disk without a boot disk: it can be read and is no
// image, over a restart, and after a while the mount tells of it.
func TestDiskWaits(t *testing.T) {
	m := mountTwo(t, nil)
	dir := m.path("b/images/web.disks")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "2-vdc.raw"), dataDisk(2), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Unmount(m.dir, 0); err != nil {
		t.Fatal(err)
	}
	m.Wait()
	if err := m.tree.p.Close(); err != nil {
		t.Fatal(err)
	}
	m.mount(t, Options{Mountpoint: m.dir, Version: "test", debug: nil}, nil)
	if got := list(t, m.path("b/images")); len(got) != 0 {
		t.Errorf("listed is %q", got)
	}
	if got := list(t, dir); !cmp.Equal(got, []string{"2-vdc.qcow2", "2-vdc.raw", "2-vdc.vmdk"}) {
		t.Errorf("what waits is listed as %q", got)
	}
	if got := readFile(t, filepath.Join(dir, "2-vdc.raw")); !bytes.Equal(got, dataDisk(2)) {
		t.Error("what waits is another disk")
	}
	when := time.Unix(1600000000, 0)
	if err := os.Chtimes(filepath.Join(dir, "2-vdc.qcow2"), when, when); err != nil {
		t.Error(err)
	}
	time.Sleep(attrTime + attrTime/10) // the kernel counts in ticks
	if info, err := os.Stat(filepath.Join(dir, "2-vdc.raw")); err != nil || !info.ModTime().Equal(when) {
		t.Errorf("the time of what waits is %v, %v", info, err)
	}
	if got := string(readFile(t, m.path(".chromogenic/errors"))); got != "" {
		t.Errorf("told at once: %s", got)
	}
	waiting, err := m.tree.p.List(t.Context(), "b", providers.Disks)
	if err != nil || len(waiting.Entries) != 1 {
		t.Fatalf("%+v, %v", waiting, err)
	}
	m.tree.overdue(pipeline.Overdue{Site: "b", Entry: waiting.Entries[0], Since: time.Now().Add(-time.Hour)})
	if got := errorAt(t, dir); !strings.Contains(got, "CHR-0001") || !strings.Contains(got, "no boot disk") || !strings.Contains(got, "2-vdc.raw") {
		t.Errorf("after an hour it is told: %s", got)
	}
	if got := errorAt(t, filepath.Join(dir, "2-vdc.raw")); !strings.Contains(got, "the disk is kept") {
		t.Errorf("at the disk it is told: %s", got)
	}
}

// TestRemoveDisks removes disks where that is allowed.
func TestRemoveDisks(t *testing.T) {
	m := withSet(t, func(o *Options) { o.AllowDelete = true })
	in := func(name string) string { return m.path("a/images/web.disks/" + name) }
	wantErrno(t, "rm of the boot disk", os.Remove(in("0-vda.raw")), syscall.ENOTSUP)
	wantErrno(t, "rm of no disk", os.Remove(in("7-x.raw")), syscall.ENOENT)
	wantErrno(t, "rmdir", syscall.Rmdir(m.path("a/images/web.disks")), syscall.ENOTEMPTY)
	run(t, 0, "rm", "-rf", m.path("a/images/web.disks"))
	if got := list(t, m.a); !cmp.Equal(got, []string{"web.raw"}) {
		t.Errorf("the folder holds %q", got)
	}
	writeSet(t, m.a, "db", 3)
	time.Sleep(attrTime + attrTime/10) // the kernel counts in ticks
	run(t, 0, "mv", m.path("a/images/db.raw"), m.path("a/images/sql.raw"))
	if got := list(t, filepath.Join(m.a, "sql.disks")); len(got) != 2 {
		t.Errorf("after the rename the folder holds %q", got)
	}
	if _, err := os.Stat(m.path("a/images/sql.disks")); err != nil {
		t.Error(err)
	}
	run(t, 0, "rm", m.path("a/images/sql.vmdk"))
	_, err := os.Stat(m.path("a/images/sql.disks"))
	wantErrno(t, "stat of the disks of an image that is removed", err, syscall.ENOENT)
	if got := list(t, m.a); !cmp.Equal(got, []string{"web.raw"}) {
		t.Errorf("the folder holds %q", got)
	}
}

// TestUnlinkDisk: with one name of a disk all go, with a record; what is in use, or has
// come since, stays.
func TestUnlinkDisk(t *testing.T) {
	m := withSet(t, func(o *Options) { o.AllowDelete = true })
	in := func(name string) string { return m.path("a/images/web.disks/" + name) }
	f, err := os.Open(in("1-vdb.qcow2"))
	if err != nil {
		t.Fatal(err)
	}
	wantErrno(t, "rm of a disk that is read", os.Remove(in("1-vdb.raw")), syscall.EBUSY)
	wantErrno(t, "rm of its machine", os.Remove(m.path("a/images/web.raw")), syscall.EBUSY)
	f.Close()
	if err := os.Remove(in("1-vdb.raw")); err != nil {
		t.Fatal(err)
	}
	wantErrno(t, "rm of another name", os.Remove(in("1-vdb.qcow2")), syscall.ENOENT)
	if got := list(t, filepath.Join(m.a, "web.disks")); !cmp.Equal(got, []string{"2-vdc.raw"}) {
		t.Errorf("the folder holds %q", got)
	}
	all := m.tree.p.Jobs().List()
	if len(all) != 1 || all[0].Source != "a:images/web.disks/1-vdb" || all[0].State != jobs.Done || !strings.Contains(all[0].Notes[0], "fs.test (pid ") {
		t.Errorf("the records are %+v", all)
	}
	writeImage(t, filepath.Join(m.a, "web.disks/1-vdb.raw"), dataDisk(3))
	m.tree.p.Forget("a")
	wantErrno(t, "rm of a newcomer", os.Remove(in("1-vdb.vmdk")), syscall.EBUSY)
	if err := os.Remove(in("1-vdb.vmdk")); err != nil {
		t.Error(err)
	}
}

// TestUnlinkDiskRsync: with rsync a disk goes with the last of its names.
func TestUnlinkDiskRsync(t *testing.T) {
	need(t, "rsync")
	m := withSet(t, func(o *Options) { o.AllowDelete = true })
	src := t.TempDir()
	writeSet(t, src, "web", 2)
	for _, name := range []string{"web.raw", "web.disks/1-vdb.raw"} {
		run(t, 0, "cp", "-p", filepath.Join(m.a, name), filepath.Join(src, name))
	}
	for range 2 {
		run(t, 0, "rsync", "-a", "--delete", src+"/", m.path("a/images/"))
		if got := list(t, filepath.Join(m.a, "web.disks")); !cmp.Equal(got, []string{"1-vdb.raw"}) {
			t.Errorf("the folder holds %q", got)
		}
	}
	if err := os.RemoveAll(filepath.Join(src, "web.disks")); err != nil {
		t.Fatal(err)
	}
	run(t, 0, "rsync", "-a", "--delete", src+"/", m.path("a/images/"))
	if got := list(t, m.a); !cmp.Equal(got, []string{"web.raw"}) {
		t.Errorf("the folder holds %q", got)
	}
}

// TestFirstDifferenceOfDisk: over a data disk the first write that differs fails, and
// what was written does not take the disk along when it is removed.
func TestFirstDifferenceOfDisk(t *testing.T) {
	for _, allow := range []bool{false, true} {
		m := withSet(t, func(o *Options) { o.AllowDelete = allow })
		path := m.path("a/images/web.disks/1-vdb.raw")
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
		if err != nil {
			t.Fatal(err)
		}
		data := dataDisk(1)
		if _, err := f.Write(data[:1<<16]); err != nil {
			t.Fatal(err)
		}
		want := map[bool]syscall.Errno{false: syscall.EPERM, true: syscall.EBUSY}[allow]
		wantErrno(t, "rm of what is being written", os.Remove(path), want)
		f.Close()
		if f, err = os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0); err != nil {
			t.Fatal(err)
		}
		data[1<<15] ^= 1
		_, err = f.Write(data[:1<<16])
		wantErrno(t, "write of another disk", err, syscall.EEXIST)
		if got := errorAt(t, path); !strings.Contains(got, "disk 1 of \"web\" is another one: it differs at offset 32768") {
			t.Errorf("the reason is %q", got)
		}
		f.Close()
		if got := readFile(t, path); !bytes.Equal(got, dataDisk(1)) {
			t.Error("the disk has changed")
		}
	}
}

// TestReplaceDisk writes another disk over one, where that is allowed.
func TestReplaceDisk(t *testing.T) {
	m := withSet(t, func(o *Options) { o.AllowReplace = true })
	run(t, 0, "cp", m.path("a/images/web.disks/2-vdc.raw"), m.path("a/images/web.disks/1-vdb.raw"))
	if got := readFile(t, m.path("a/images/web.disks/1-vdb.raw")); !bytes.Equal(got, dataDisk(2)) {
		t.Error("disk 1 is not the new one")
	}
	if got := readFile(t, m.path("a/images/web.raw")); !bytes.Equal(got, bootDisk()) {
		t.Error("the boot disk is another")
	}
	run(t, 0, "cp", m.path("a/images/web.disks/2-vdc.qcow2"), m.path("a/images/web.qcow2"))
	if got := readFile(t, m.path("a/images/web.raw")); !bytes.Equal(got, dataDisk(2)) {
		t.Error("the boot disk is not the new one")
	}
	if got := list(t, m.path("a/images/web.disks")); len(got) != 6 {
		t.Errorf("the data disks are %q", got)
	}
}

// TestBootDiskAlone copies one file of a machine: the record and the log of the job
// say that the others are not there.
func TestBootDiskAlone(t *testing.T) {
	m := withSet(t, nil)
	run(t, 0, "cp", m.path("a/images/web.raw"), m.path("b/images/"))
	all := m.tree.p.Jobs().List()
	rec := all[len(all)-1]
	if len(rec.Notes) != 1 || !strings.Contains(rec.Notes[0], "boot disk") {
		t.Errorf("notes %q", rec.Notes)
	}
	if log := string(readFile(t, m.path(".chromogenic/jobs/"+rec.ID+"/log"))); !strings.Contains(log, "\tnote\t") || !strings.Contains(log, "3 disks") {
		t.Errorf("log %s", log)
	}
	run(t, 0, "cp", "-r", m.path("a/images/web.disks"), m.path("b/images/"))
	m.wantSet(t, "web", 3)
}

// TestDiskAgain copies a data disk over itself: it takes no scratch space, whichever
// name the program writes it under first.
func TestDiskAgain(t *testing.T) {
	need(t, "rsync")
	m := withSet(t, nil)
	src := t.TempDir()
	writeSet(t, src, "web", 3)
	for _, line := range [][]string{
		{"cp", filepath.Join(src, "web.disks/1-vdb.raw"), m.path("a/images/web.disks/1-vdb.raw")},
		{"rsync", "-I", filepath.Join(src, "web.disks/1-vdb.raw"), m.path("a/images/web.disks/")},
		{"rsync", "-I", "--partial-dir=.part", "--delay-updates", filepath.Join(src, "web.disks/2-vdc.raw"), m.path("a/images/web.disks/")},
		{"rsync", "-rI", src + "/", m.path("a/images/")},
	} {
		run(t, 0, line[0], line[1:]...)
	}
	all := m.tree.p.Jobs().List()
	if len(all) != 6 {
		t.Errorf("%d jobs", len(all))
	}
	for _, rec := range all {
		if rec.Scratch != 0 || !rec.Unchanged || strings.HasPrefix(rec.Source, "a:") {
			t.Errorf("the record is %+v", rec)
		}
	}
}
