package fs

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"chromogenic/pipeline/jobs"
)

// deletable mounts with rm allowed, and the images web and db of 1 MiB in b.
func deletable(t *testing.T) *testMount {
	t.Helper()
	return mountTwo(t, func(m *testMount, o *Options) {
		o.AllowDelete = true
		writeImage(t, filepath.Join(m.b, "web.raw"), pattern(1, 1<<20))
		writeImage(t, filepath.Join(m.b, "db.raw"), pattern(2, 1<<20))
	})
}

// TestUnlinkAllNames: with one name all go at once, although the kernel has just
// seen them, and there is a record of it.
func TestUnlinkAllNames(t *testing.T) {
	for _, by := range []string{"raw", "qcow2", "ova", "vhd", "img"} {
		if _, _, ok := Parse("x." + by); !ok {
			continue // no such format yet
		}
		m := deletable(t)
		in := func(ext string) string { return m.path("b/images/web." + ext) }
		exts := []string{"raw", "qcow2", "vmdk", "ova", "json"}
		for _, ext := range exts {
			if _, err := os.Stat(in(ext)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Remove(in(by)); err != nil {
			t.Fatal(err)
		}
		for _, ext := range exts {
			if _, err := os.Stat(in(ext)); !os.IsNotExist(err) {
				t.Errorf("rm web.%s: stat of web.%s: %v", by, ext, err)
			}
			wantErrno(t, "rm of another name", os.Remove(in(ext)), syscall.ENOENT)
		}
		if got := list(t, m.path("b/images")); len(got) != 5 || !strings.HasPrefix(got[0], "db.") {
			t.Errorf("rm web.%s: listed %q", by, got)
		}
		if got := list(t, m.b); !slices.Equal(got, []string{"db.raw"}) {
			t.Errorf("rm web.%s: the folder holds %q", by, got)
		}
		all := m.tree.p.Jobs().List()
		if len(all) != 1 || all[0].Source != "b:images/web" || all[0].State != jobs.Done || !strings.Contains(all[0].Notes[0], "fs.test (pid ") {
			t.Errorf("the records are %+v", all)
		}
	}
}

// TestUnlinkNewcomer: who goes on through the names that he has listed does not meet
// an image that has come since.
func TestUnlinkNewcomer(t *testing.T) {
	m := deletable(t)
	in := func(ext string) string { return m.path("b/images/web." + ext) }
	again := func(seed int64) {
		t.Helper()
		writeImage(t, filepath.Join(m.b, "web.raw"), pattern(seed, 1<<20))
		m.tree.p.Forget("b") // it need not wait for a second
	}
	remove := func(ext string) {
		t.Helper()
		if err := os.Remove(in(ext)); err != nil {
			t.Fatal(err)
		}
	}
	remove("raw")
	again(7)
	for _, ext := range []string{"qcow2", "vmdk", "ova"} {
		wantErrno(t, "rm of web."+ext, os.Remove(in(ext)), syscall.EBUSY)
	}
	if got := readFile(t, in("raw")); !bytes.Equal(got, pattern(7, 1<<20)) {
		t.Error("the new image is another")
	}
	if reason := errorAt(t, in("vmdk")); !strings.Contains(reason, "remove it once more") {
		t.Errorf("the reason is %q", reason)
	}
	remove("vmdk") // who insists means it
	again(8)
	remove("vmdk") // by the same name it is no going on
	again(9)
	run(t, 0, "rm", in("ova")) // another program has removed nothing
	again(10)
	m.tree.sprees.mu.Lock()
	for _, s := range m.tree.sprees.by {
		s.last = time.Now().Add(-2 * spreeTime)
	}
	m.tree.sprees.mu.Unlock()
	remove("qcow2")
}

// TestUnlinkInUse: an image that somebody reads stays, with its metadata, and goes
// as soon as it is closed.
func TestUnlinkInUse(t *testing.T) {
	m := deletable(t)
	in := func(ext string) string { return m.path("b/images/web." + ext) }
	write(t, in("json"), `{"schema": 1, "firmware": "uefi"}`)
	f, err := os.Open(in("vmdk"))
	if err != nil {
		t.Fatal(err)
	}
	for _, ext := range []string{"raw", "vmdk", "json"} {
		wantErrno(t, "rm web."+ext, os.Remove(in(ext)), syscall.EBUSY)
	}
	run(t, 1, "rm", "-rf", m.path("b/images"))
	if got := document(t, in("json")); got.Meta.Firmware != "uefi" {
		t.Errorf("the metadata is %+v", got)
	}
	if _, err := f.ReadAt(make([]byte, 4096), 0); err != nil {
		t.Error(err)
	}
	f.Close()
	if err := os.Remove(in("raw")); err != nil {
		t.Error(err)
	}
	if got := list(t, m.b); len(got) > 0 {
		t.Errorf("the folder holds %q", got)
	}
	for i := range 20 { // close(2) does not wait for us
		writeImage(t, filepath.Join(m.b, "web.raw"), pattern(int64(i), 1<<20))
		m.tree.p.Forget("b")
		run(t, 0, "sh", "-c", `cat "$1" > /dev/null && rm "$1"`, "sh", in("raw"))
	}
}

// TestUnlinkRsync: with rsync an image goes with the last of its names.
func TestUnlinkRsync(t *testing.T) {
	need(t, "rsync")
	for _, when := range []string{"--delete-before", "--delete-during", "--delete-after", "--delete-delay"} {
		m := deletable(t)
		src := t.TempDir()
		run(t, 0, "cp", "-p", filepath.Join(m.b, "web.raw"), src)
		write(t, m.path("b/images/web.json"), `{"schema": 1, "firmware": "uefi"}`)
		before := list(t, m.b)
		for range 2 {
			run(t, 0, "rsync", "-a", when, src+"/", m.path("b/images/"))
			if got := list(t, m.b); !slices.Equal(got, []string{"web.json", "web.raw"}) {
				t.Errorf("%s: of %q there is %q", when, before, got)
			}
		}
		if got := document(t, m.path("b/images/web.json")); got.Meta.Firmware != "uefi" {
			t.Errorf("%s: the metadata is %+v", when, got)
		}
		if done := len(m.tree.p.Jobs().List()); done != 1 {
			t.Errorf("%s: %d jobs, for one removal", when, done)
		}
		if text := m.log.String(); strings.Count(text, "stays until all its names are removed") < 2 {
			t.Errorf("%s: nothing tells of what has stayed:\n%s", when, text)
		}
	}
}

func TestUmask(t *testing.T) {
	for _, c := range []struct {
		umask      *uint32
		other      bool
		dir, image os.FileMode
	}{
		{nil, false, 0o750, 0o640},
		{nil, true, 0o755, 0o644},
		{new(uint32(0)), false, 0o777, 0o666},
		{new(uint32(0o077)), true, 0o700, 0o600},
	} {
		m := mountTwo(t, func(m *testMount, o *Options) {
			o.Umask, o.AllowOther, o.UID, o.GID = c.umask, c.other && os.Geteuid() == 0, new(uint32(4242)), new(uint32(0))
			writeImage(t, filepath.Join(m.b, "web.raw"), pattern(1, 1<<20))
		})
		if c.other && os.Geteuid() != 0 {
			continue
		}
		if err := os.WriteFile(m.path("b/images/.part"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]os.FileMode{
			"": c.dir, "b/images": c.dir, "b/images/web.raw": c.image, "b/images/web.json": c.image, "b/images/.part": c.image,
		} {
			info, err := os.Stat(m.path(path))
			if err != nil {
				t.Fatal(err)
			}
			if st := info.Sys().(*syscall.Stat_t); info.Mode().Perm() != want || st.Uid != 4242 || st.Gid != 0 {
				t.Errorf("umask %v, allow_other %v: %q has mode %o of %d:%d, want %o", c.umask, c.other, path, info.Mode().Perm(), st.Uid, st.Gid, want)
			}
		}
	}
}
