package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// backupMount mounts three images, each in four formats.
func backupMount(t testing.TB) *server {
	t.Helper()
	need(t, "qemu-img")
	a := newSite(t, "a")
	serve(t, a, []plainDisk{{"web", gptExt4(t, 41)}}, containers()[:3])
	return mount(t, config{sites: []site{a}})
}

var transferred = regexp.MustCompile(`Number of regular files transferred: ([\d,]+)`)

// rsyncCount runs rsync and tells how many files it transferred.
func rsyncCount(t testing.TB, args ...string) int {
	t.Helper()
	out := run(t, "rsync", append([]string{"--stats"}, args...)...)
	m := transferred.FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("rsync gave no statistics:\n%s", out)
	}
	n, err := strconv.Atoi(strings.ReplaceAll(m[1], ",", ""))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestRsyncTwice: a second rsync transfers nothing, after a remount too.
func TestRsyncTwice(t *testing.T) {
	t.Parallel()
	need(t, "rsync")
	s := backupMount(t)
	to := t.TempDir()
	if n := rsyncCount(t, "-a", "-S", s.images("a")+"/", to+"/"); n < 3*4 {
		t.Errorf("the first rsync transferred %d files, want at least %d", n, 3*4)
	}
	for _, name := range names(t, to) {
		if digest(t, filepath.Join(to, name)) != digest(t, s.images("a", name)) {
			t.Errorf("%s differs from its copy", name)
		}
	}
	for _, where := range []string{s.dir, s.dir, filepath.Join(t.TempDir(), "elsewhere")} {
		if where != s.dir {
			s = s.again(t, where, s.state)
		}
		if n := rsyncCount(t, "-a", "--delete", s.images("a")+"/", to+"/"); n != 0 {
			t.Errorf("a further rsync transferred %d files", n)
		}
	}
	if n := rsyncCount(t, "-a", "-c", s.images("a")+"/", to+"/"); n != 0 {
		t.Errorf("rsync by checksum transferred %d files", n)
	}
	// The whole tree, with what it does not list.
	whole := t.TempDir()
	rsyncCount(t, "-a", "-S", s.dir+"/", whole+"/")
	if got := names(t, whole); !slices.Equal(got, []string{"a"}) {
		t.Errorf("rsync of the whole mount copied %q", got)
	}
}

// TestTarIncremental: a second incremental tar holds no file.
func TestTarIncremental(t *testing.T) {
	t.Parallel()
	s := backupMount(t)
	snar := filepath.Join(t.TempDir(), "snar")
	pack := func(s *server) (files int) {
		archive := filepath.Join(t.TempDir(), "tar")
		run(t, "tar", "-c", "-S", "--no-check-device", "-g", snar, "-f", archive, "-C", s.path("a"), "images")
		for _, name := range strings.Fields(run(t, "tar", "-t", "-f", archive)) {
			if !strings.HasSuffix(name, "/") {
				files++
			}
		}
		return files
	}
	if n := pack(s); n < 3*4 {
		t.Errorf("the first tar holds %d files", n)
	}
	s = s.again(t, s.dir, s.state)
	if n := pack(s); n != 0 {
		t.Errorf("the second tar holds %d files", n)
	}
}

// TestResticTwice: a second backup finds every file unmodified.
func TestResticTwice(t *testing.T) {
	t.Parallel()
	need(t, "restic")
	s := backupMount(t)
	repo := filepath.Join(t.TempDir(), "repo")
	restic := func(args ...string) string {
		cmd := command("restic", append([]string{"-r", repo, "--no-cache"}, args...)...)
		cmd.Env = append(cmd.Env, "RESTIC_PASSWORD=none", "HOME="+t.TempDir())
		r := tryCmd(t, cmd)
		if r.code != 0 {
			t.Fatalf("restic %q: %d\n%s", args, r.code, r.out)
		}
		return r.out
	}
	type summary struct {
		Type       string `json:"message_type"`
		New        int    `json:"files_new"`
		Changed    int    `json:"files_changed"`
		Unmodified int    `json:"files_unmodified"`
	}
	backup := func(s *server) (sum summary) {
		for line := range strings.Lines(restic("backup", "--json", s.images("a"))) {
			var m summary
			if json.Unmarshal([]byte(line), &m) == nil && m.Type == "summary" {
				sum = m
			}
		}
		return sum
	}
	restic("init")
	first := backup(s)
	if first.New < 3*4 {
		t.Errorf("first backup: %+v", first)
	}
	for range 2 {
		if got := backup(s); got.New+got.Changed != 0 || got.Unmodified != first.New {
			t.Errorf("further backup: %+v, want %d files unmodified", got, first.New)
		}
		s = s.again(t, s.dir, s.state)
	}
	restic("check", "--read-data")
}

// TestBorgTwice: a second backup lists every file as unchanged.
func TestBorgTwice(t *testing.T) {
	t.Parallel()
	need(t, "borg")
	s := backupMount(t)
	home, repo := t.TempDir(), filepath.Join(t.TempDir(), "repo")
	// Borg does not remember the file with the newest time it has seen: it may
	// still be written. A file that is newer than all images takes that place.
	newest := filepath.Join(t.TempDir(), "newest")
	writeFile(t, newest, []byte("new"))
	borg := func(args ...string) string {
		cmd := command("borg", args...)
		cmd.Env = append(cmd.Env, "BORG_BASE_DIR="+home, "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes", "BORG_RELOCATED_REPO_ACCESS_IS_OK=yes")
		r := tryCmd(t, cmd)
		if r.code != 0 {
			t.Fatalf("borg %q: %d\n%s", args, r.code, r.out)
		}
		return r.out
	}
	// backup counts the files by borg's letters: A added, M modified, U unchanged.
	backup := func(s *server, archive string) map[byte]int {
		count := map[byte]int{}
		for line := range strings.Lines(borg("create", "--list", repo+"::"+archive, s.images("a"), newest)) {
			if strings.Contains(line, "/images/") && len(line) > 2 {
				count[line[0]]++
			}
		}
		return count
	}
	borg("init", "-e", "none", repo)
	first := backup(s, "one")
	if first['A'] < 3*4 {
		t.Errorf("first backup: %v", first)
	}
	s = s.again(t, s.dir, s.state)
	if got := backup(s, "two"); got['A']+got['M']+got['C'] != 0 || got['U'] != first['A'] {
		t.Errorf("second backup: %v, want U:%d", got, first['A'])
	}
}

// TestHiddenControl: what resolves by name only is skipped by those who walk.
func TestHiddenControl(t *testing.T) {
	t.Parallel()
	s := backupMount(t)
	for _, name := range names(t, s.dir) {
		if strings.HasPrefix(name, ".") {
			t.Errorf("the root lists %q", name)
		}
	}
	for _, program := range [][]string{{"find", s.dir}, {"du", "-a", s.dir}, {"ls", "-aR", s.dir}} {
		out, err := exec.Command(program[0], program[1:]...).CombinedOutput()
		if err != nil {
			t.Errorf("%q: %v\n%s", program, err, out)
		}
		for _, hidden := range []string{".chromogenic", "by-id", "images.cleaned", "images.verbatim", "images.compressed", "images.bootable"} {
			if strings.Contains(string(out), hidden) {
				t.Errorf("%s shows %s", program[0], hidden)
			}
		}
	}
	for _, file := range []string{"status", "version", "errors"} {
		if _, err := os.ReadFile(s.path(".chromogenic", file)); err != nil {
			t.Error(err)
		}
	}
}
