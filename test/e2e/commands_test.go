package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Exit statuses that are a part of the interface.
const (
	exitUsage    = 2
	exitNotFound = 4
	exitVerify   = 6
	exitPolicy   = 3
)

// chromogenic runs the binary with a configuration.
func chromogenic(t testing.TB, config string, args ...string) result {
	t.Helper()
	cmd := command(binary(), args...)
	cmd.Env = append(cmd.Env, "CHROMOGENIC_CONFIG="+config, "HOME="+t.TempDir())
	return tryCmd(t, cmd)
}

// ok runs the binary, which must succeed.
func ok(t testing.TB, config string, args ...string) string {
	t.Helper()
	r := chromogenic(t, config, args...)
	if r.code != 0 {
		t.Fatalf("chromogenic %q: exit status %d\n%s", args, r.code, r.out)
	}
	return r.out
}

// TestCommandCp copies between providers with no mount, and beside one.
func TestCommandCp(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img")
	a, b := newSite(t, "a"), newSite(t, "b")
	disk := gptExt4(t, 101)
	serve(t, a, []plainDisk{{"web", disk}}, containers())
	c := config{sites: []site{a, b}, state: filepath.Join(t.TempDir(), "state")}
	conf := c.write(t)
	copies := func(mode string) {
		for _, k := range containers() {
			src := "a:images/web-" + k.name
			for _, dst := range []string{"b:images/", "b:images/" + mode + "-" + k.name} {
				if mode == "beside" && strings.HasSuffix(dst, "/") {
					continue
				}
				ok(t, conf, "cp", "--dry-run", src+"."+k.ext, dst)
				ok(t, conf, "cp", src+"."+k.ext, dst)
				ok(t, conf, "cp", src, dst) // it is there already
				name := strings.TrimPrefix(dst, "b:images/")
				if name == "" {
					name = "web-" + k.name
				}
				file, format := stored(t, b, name)
				same(t, disk, file, format)
			}
		}
	}
	copies("alone")
	s := mount(t, c)
	copies("beside")
	s.refresh(t)
	same(t, disk, s.images("b", "beside-raw.qcow2"), "qcow2")
	noTemporaries(t, b)

	out := filepath.Join(t.TempDir(), "out.qcow2")
	ok(t, conf, "cp", "a:images/web-raw.qcow2", out)
	same(t, disk, out, "qcow2")
	ok(t, conf, "cp", out, "b:images/from-file")
	file, format := stored(t, b, "from-file")
	same(t, disk, file, format)

	for want, args := range map[int][]string{
		exitNotFound: {"cp", "a:images/nothing.raw", "b:images/"},
		exitUsage:    {"cp", "a:images/web-raw.raw"},
	} {
		if r := chromogenic(t, conf, args...); r.code != want {
			t.Errorf("chromogenic %q: exit status %d, want %d\n%s", args, r.code, want, r.out)
		}
	}
	other := random(t, filepath.Join(t.TempDir(), "from-file.raw"), mib, 102)
	if r := chromogenic(t, conf, "cp", other, "b:images/from-file"); r.code == 0 || !strings.Contains(r.out, "chromogenic: ") {
		t.Errorf("cp onto another image: exit status %d\n%s", r.code, r.out)
	}
	same(t, disk, file, format)
}

// TestCommandConvert converts there and back.
func TestCommandConvert(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img")
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk.raw")
	run(t, "cp", "--sparse=always", gptExt4(t, 103), disk)
	want := digest(t, disk)
	for _, c := range containers() {
		src := source(t, c, disk)
		for _, format := range formats() {
			there, back := filepath.Join(dir, "there."+format), filepath.Join(dir, "back.raw")
			ok(t, "", "convert", "--force", src, there)
			same(t, disk, there, format)
			ok(t, "", "convert", "--force", there, back)
			if digest(t, back) != want {
				t.Errorf("%s to %s and back to raw differs", c.name, format)
			}
			again := filepath.Join(dir, "again."+format)
			ok(t, "", "convert", "--force", src, again)
			if digest(t, again) != digest(t, there) {
				t.Errorf("%s to %s twice differs", c.name, format)
			}
		}
	}
	bad := filepath.Join(dir, "bad.qcow2")
	damage(t, bad)
	for want, args := range map[int][]string{
		exitVerify:   {"convert", bad, filepath.Join(dir, "never.raw")},
		exitNotFound: {"convert", filepath.Join(dir, "nothing.raw"), filepath.Join(dir, "never.qcow2")},
		exitUsage:    {"convert", disk},
		1:            {"convert", disk, filepath.Join(dir, "there.qcow2")}, // exists
	} {
		if r := chromogenic(t, "", args...); r.code != want {
			t.Errorf("chromogenic %q: exit status %d, want %d\n%s", args, r.code, want, r.out)
		}
	}
	for _, n := range names(t, dir) {
		if strings.HasPrefix(n, "never") || strings.HasPrefix(n, ".") {
			t.Errorf("a failed conversion has left %s", n)
		}
	}
}

// TestCommandLook looks at images and at the program itself.
func TestCommandLook(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img")
	a := newSite(t, "a")
	disk := gptExt4(t, 104)
	serve(t, a, []plainDisk{{"web", disk}}, containers())
	conf := config{sites: []site{a}, state: filepath.Join(t.TempDir(), "state")}.write(t)
	var guest string
	for _, c := range containers() {
		for _, what := range []string{"a:images/web-" + c.name, filepath.Join(a.images, "web-"+c.name+"."+c.ext)} {
			var r struct {
				Format string
				Disks  []struct {
					VirtualSize int64             `json:"virtual_size"`
					Table       string            `json:"partition_table"`
					Partitions  []json.RawMessage `json:"partitions"`
					Guest       string            `json:"guest_digest"`
				}
			}
			out := ok(t, conf, "inspect", what, "--json", "--digest") // flags after the argument too
			if err := json.Unmarshal([]byte(out), &r); err != nil || len(r.Disks) != 1 {
				t.Fatalf("inspect %s: %v\n%s", what, err, out)
			}
			d := r.Disks[0]
			if r.Format != c.ext || d.VirtualSize != 24*mib || d.Table != "gpt" || len(d.Partitions) != 1 {
				t.Errorf("inspect %s:\n%s", what, out)
			}
			if guest == "" {
				guest = d.Guest
			}
			if d.Guest == "" || d.Guest != guest {
				t.Errorf("%s has the guest digest %q, another container of it %q", what, d.Guest, guest)
			}
		}
	}
	if out := ok(t, conf, "ls", "a:images"); strings.Count(out, "web-") < len(containers()) {
		t.Errorf("ls shows\n%s", out)
	}
	if out := ok(t, conf, "version"); !strings.Contains(out, "chromogenic") {
		t.Errorf("version says %q", out)
	}
	if out := ok(t, conf, "completion", "bash"); !strings.Contains(out, "chromogenic") {
		t.Errorf("completion bash prints %q", out)
	}
	if out := ok(t, conf, "man"); !strings.Contains(out, ".TH") {
		t.Errorf("man prints %q", last(out, 3))
	}
	for _, args := range [][]string{{"nonsense"}, {"ls", "--nonsense"}, {"umount"}} {
		if r := chromogenic(t, conf, args...); r.code != exitUsage {
			t.Errorf("chromogenic %q: exit status %d, want %d\n%s", args, r.code, exitUsage, r.out)
		}
	}
}

// TestConfigCheck: a key that is not known is refused with its line.
func TestConfigCheck(t *testing.T) {
	t.Parallel()
	a := newSite(t, "a")
	good := config{sites: []site{a}, state: filepath.Join(t.TempDir(), "state")}
	ok(t, "", "config", "check", good.write(t))
	bad := good
	bad.top = "formats: [raw]\nnonsense: 1\n"
	file := bad.write(t)
	for _, args := range [][]string{{"config", "check", file}, {"mount", "--config", file, t.TempDir()}} {
		r := chromogenic(t, "", args...)
		if r.code == 0 || !strings.Contains(r.out, "nonsense") || !strings.Contains(r.out, ":2") {
			t.Errorf("chromogenic %q: exit status %d\n%s", args, r.code, r.out)
		}
	}
}

// TestDaemon mounts a folder with no configuration; the command returns when
// the mount is live, and umount when it is gone.
func TestDaemon(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img")
	folder, dir, state := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "state")
	disk := gptExt4(t, 105)
	qemuConvert("-O", "qcow2")(t, disk, filepath.Join(folder, "web.qcow2"))
	daemon := func(dir string) result {
		cmd := command(binary(), "mount", folder, dir, "--daemon", "--state-dir", state)
		cmd.Env = append(cmd.Env, "HOME=", "CHROMOGENIC_CONFIG=")
		return tryCmd(t, cmd)
	}
	r := daemon(dir)
	t.Cleanup(func() { try(t, "umount", "-l", dir) })
	if r.code != 0 {
		t.Fatalf("mount --daemon: exit status %d\n%s", r.code, r.out)
	}
	same(t, disk, filepath.Join(dir, "local", "images", "web.raw"), "raw")
	if r := daemon(t.TempDir()); r.code == 0 {
		t.Errorf("a second mount with the same state succeeds: %s", r.out)
	} else if !strings.Contains(r.out, "chromogenic: ") {
		t.Errorf("a second mount with the same state says %q", r.out)
	}
	ok(t, "", "umount", dir)
	for range 100 {
		if all, err := os.ReadDir(dir); err == nil && len(all) == 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if all := names(t, dir); len(all) != 0 {
		t.Errorf("after umount %s holds %q", dir, all)
	}
	// The state is free again.
	if r := daemon(dir); r.code != 0 {
		t.Errorf("mount again: exit status %d\n%s", r.code, r.out)
	}
	ok(t, "", "umount", dir)
	if r := daemon(filepath.Join(folder, "inside")); r.code == 0 {
		t.Error("a mountpoint inside of its own folder is accepted")
	}
}
