package cleaner

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chromogenic/disk"
)

func TestRecipe(t *testing.T) {
	const text = `
steps:
  - delete: /opt/site/*
  - truncate: /srv/a.log
  - truncate-recursive: /srv/logs
  - touch: /etc/touched
  - write: {path: /etc/motd, content: "hello\n", mode: "0600"}
  - append-line: {path: /etc/hosts, line: "10.0.0.7 license"}
  - replace: {path: /etc/app.conf, match: "^(server)=.*$", with: "$1="}
  - delete-block: {path: /etc/app.conf, begin: "# BEGIN", end: "# END"}
  - mkdir: {path: /srv/data/deep, mode: "0750"}
  - chmod: {path: /srv/data/deep, mode: "2770"}
  - link: {path: /usr/local/bin/python, to: /usr/bin/python3}
  - move: {from: /etc/from, to: /etc/to}
  - password: {user: root, hash: "$6$salt$hash"}
  - ssh-inject: {key: "` + pub + `"}
  - hostname: image
  - timezone: Europe/Berlin
  - firstboot: {name: enroll, script: "#!/bin/sh\nenroll\n"}
`
	recipe, err := ParseRecipe([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	files := []file{
		{path: "/opt/site/a/b", text: "x"},
		{path: "/opt/site/c", text: "x"},
		{path: "/srv/a.log", text: "x"},
		{path: "/srv/logs/deep/b.log", text: "x"},
		{path: "/etc/hosts", text: "127.0.0.1 localhost"},
		{path: "/etc/app.conf", text: "server=a\n# BEGIN\nx\n# END\ny\n", mode: 0o640},
		{path: "/etc/from", text: "from"},
		{path: "/usr/local/bin/"},
		{path: "/usr/share/zoneinfo/Europe/Berlin", text: "tz"},
		{path: "/etc/timezone", text: "Etc/UTC\n"},
		{path: "/etc/shadow", text: "root:x:1:::::\n", mode: 0o600},
		{path: "/root/"},
		{path: "/etc/localtime", text: "-> /usr/share/zoneinfo/Etc/UTC"},
	}
	tr := newTree(t, append(minimal(), files...)...)
	before := len(tr.manifest())
	plan := tr.mustClean(Options{Only: []string{"recipe"}, Recipe: recipe, Plan: true})
	if got := len(tr.manifest()); got != before {
		t.Errorf("a plan has left %d paths of %d", got, before)
	}
	report := tr.mustClean(Options{Only: []string{"recipe"}, Recipe: recipe})
	comparePlan(t, plan, report)
	for p, want := range map[string]string{
		"/srv/a.log": "", "/srv/logs/deep/b.log": "", "/etc/touched": "", "/etc/motd": "hello\n",
		"/etc/hosts": "127.0.0.1 localhost\n10.0.0.7 license\n", "/etc/app.conf": "server=\ny\n", "/etc/to": "from",
		"/etc/shadow": "root:$6$salt$hash:1:::::\n", "/root/.ssh/authorized_keys": pub + "\n", "/etc/hostname": "image\n",
		"/etc/timezone": "Europe/Berlin\n", "/var/lib/chromogenic/firstboot/enroll": "#!/bin/sh\nenroll\n",
	} {
		if got := tr.read(p); got != want {
			t.Errorf("%s has %q, want %q", p, got, want)
		}
	}
	if left, err := filepath.Glob(tr.at("/opt/site/*")); err != nil || len(left) != 0 || !tr.exists("/opt/site") || tr.exists("/etc/from") {
		t.Errorf("left are %q %v", left, err)
	}
	for p, mode := range map[string]os.FileMode{"/etc/motd": 0o600, "/etc/app.conf": 0o640, "/srv/data/deep": os.ModeDir | os.ModeSetgid | 0o770, "/root/.ssh": os.ModeDir | 0o700} {
		if info, err := os.Stat(tr.at(p)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v %v, want %v", p, info.Mode(), err, mode)
		}
	}
	for p, want := range map[string]string{"/usr/local/bin/python": "/usr/bin/python3", "/etc/localtime": "../usr/share/zoneinfo/Europe/Berlin"} {
		if got, err := os.Readlink(tr.at(p)); err != nil || got != want {
			t.Errorf("%s leads to %q %v", p, got, err)
		}
	}
	again := tr.mustClean(Options{Only: []string{"recipe"}, Recipe: Recipe{Steps: append(recipe.Steps[:9:9], recipe.Steps[12:]...)}})
	for _, p := range again.outcome("recipe").Paths {
		t.Errorf("%s was %s a second time", p.Path, p.Action)
	}
}

func TestRecipeFailure(t *testing.T) {
	tr := newTree(t, minimal()...)
	report, err := tr.clean(Options{Only: []string{"recipe"}, Recipe: Recipe{Steps: []Step{{Touch: "/etc/x"}, {Move: &MoveStep{From: "/nothing", To: "/etc/y"}}, {Touch: "/etc/z"}}}})
	if err == nil || err.Error() != "clean image: operation recipe: step 2: move: /nothing: file does not exist" {
		t.Errorf("a move of nothing: %v", err)
	}
	if report.outcome("recipe").Outcome != Failed || !tr.exists("/etc/x") || tr.exists("/etc/z") {
		t.Errorf("the recipe went on: %+v", report.outcome("recipe"))
	}
	// A recipe's own links stay in the guest too.
	host, untouched := hostBeside(t)
	tr.put(file{path: "/out", text: "-> " + host})
	for _, s := range []Step{
		{Write: &WriteStep{Path: "/out/etc/shadow", Content: "x"}},
		{Delete: "/out/*"},
		{TruncateRecursive: "/out"},
		{Mkdir: &FolderStep{Path: "/out/new"}},
		{Link: &LinkStep{Path: "/out/l", To: "x"}},
		{Chmod: &ModeStep{Path: "/out/etc", Mode: "0777"}},
		{Move: &MoveStep{From: "/etc/x", To: "/../../../../../../../.." + host + "/x"}},
	} {
		_, _ = tr.clean(Options{Only: []string{"recipe"}, Recipe: Recipe{Steps: []Step{s}}})
	}
	untouched()
}

func TestRecipeRefused(t *testing.T) {
	for _, text := range []string{
		"steps: 1", "other: []", "steps:\n- run: /bin/sh", "steps:\n- {}", "steps:\n- {delete: /a, touch: /b}", "steps:\n- delete: relative", "steps:\n- delete: /", "steps:\n- delete: /x/..",
		"steps:\n- delete: '/a[b'", "steps:\n- write: {path: /a, mode: '0999'}", "steps:\n- write: {path: /a, modus: '0644'}", "steps:\n- chmod: {path: /a}",
		"steps:\n- replace: {path: /a, match: '('}", "steps:\n- firstboot: {name: 'a b', script: '#!/bin/sh'}", "steps:\n- firstboot: {name: a, script: 'echo'}",
		"steps:\n- password: {user: root, hash: plain}", "steps:\n- append-line: {path: /a, line: \"a\\nb\"}", "steps:\n- timezone: ../../etc", "steps:\n- ssh-inject: {key: x}",
		"steps: &a [*a]", "a: &a [x]\nsteps: *a", "steps: []\n---\nsteps: []", "\t", strings.Repeat("x", maxRecipe+1),
	} {
		r, err := ParseRecipe([]byte(text))
		if k := disk.KindOf(err); err == nil || k != disk.Invalid && k != disk.TooLarge || len(r.Steps) > 1000 {
			t.Errorf("%.60q: %v", text, err)
		}
	}
	if r, err := ParseRecipe(nil); err != nil || len(r.Steps) != 0 {
		t.Errorf("an empty recipe: %v", err)
	}
}
