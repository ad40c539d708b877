package cleaner

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chromogenic/cleaner/guest"
	"chromogenic/disk"
)

var (
	_ guest.Work = Work
	_ guest.Work = Inspect
)

// docs/cleaning.md is what Markdown prints. To write it anew: UPDATE_DOCS=1 go test.
func TestDocs(t *testing.T) {
	var want bytes.Buffer
	if err := Markdown(&want); err != nil {
		t.Fatal(err)
	}
	const file = "../docs/cleaning.md"
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := os.WriteFile(file, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(have), want.String()); d != "" {
		t.Errorf("docs/cleaning.md is not what the table says; run: UPDATE_DOCS=1 go test ./cleaner -run Docs\n%s", d)
	}
	// The recipe that it shows is one.
	_, text, _ := strings.Cut(want.String(), "```yaml\n")
	text, _, _ = strings.Cut(text, "```")
	text = strings.Replace(text, "ssh-ed25519 AAAA... admin", pub, 1)
	r, err := ParseRecipe([]byte(text))
	if err != nil || len(r.Steps) != 18 {
		t.Errorf("the recipe of the page has %d steps: %v", len(r.Steps), err)
	}
}

func TestTable(t *testing.T) {
	name := regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)
	var seen []string
	for _, op := range Operations() {
		if !name.MatchString(op.Name) || slices.Contains(seen, op.Name) || op.Heading == "" || strings.HasSuffix(op.Heading, ".") || !strings.HasSuffix(op.Detail, ".") || op.Run == nil {
			t.Errorf("the row %q is not well formed", op.Name)
		}
		seen = append(seen, op.Name)
	}
	if i, j := slices.Index(seen, "machine-id"), slices.Index(seen, "verify"); i < slices.Index(seen, "users") || j != len(seen)-1 {
		t.Error("the order is not what the operations count on")
	}
}

// Each default operation matters: without it the fixture is not clean, or has nothing
// for it.
func TestEachOperationMatters(t *testing.T) {
	idle := []string{"recipe", "ssh-login", "selinux-relabel", "verify", "swap", "snapshots", "log-extra", "locks"}
	for _, fixture := range []func() []file{debianLike, redHatLike} {
		tr := newTree(t, fixture()...)
		report := tr.mustClean(Options{})
		for _, op := range Operations() {
			if o := report.outcome(op.Name); op.Default && o.Outcome != Done {
				if !slices.Contains(idle, op.Name) && !(op.Name == "network-secrets") {
					t.Errorf("%s has found nothing to do: %s", op.Name, o.Outcome)
				}
			} else if !op.Default && o.Outcome != Skipped {
				t.Errorf("%s ran unasked: %s", op.Name, o.Outcome)
			}
		}
	}
}

func TestOnlyAndSkip(t *testing.T) {
	tr := newTree(t, debianLike()...)
	before := tr.manifest()
	report := tr.mustClean(Options{Only: []string{"machine-id"}})
	for _, o := range report.Operations {
		if want := map[bool]string{true: Done, false: Skipped}[o.Name == "machine-id"]; o.Outcome != want {
			t.Errorf("%s: %s", o.Name, o.Outcome)
		}
	}
	changed := 0
	for p, is := range tr.manifest() {
		if before[p] != is {
			changed++
		}
	}
	if changed != 2 {
		t.Errorf("%d paths were changed", changed)
	}
	if len(report.Users) != 0 {
		t.Errorf("users are said to be removed: %q", report.Users)
	}

	tr = newTree(t, debianLike()...)
	report = tr.mustClean(Options{Skip: []string{"logs", "users"}, With: []string{"apt-lists", "remove-rotated"}})
	if report.outcome("logs").Outcome != Skipped || tr.read("/var/log/syslog") != secret {
		t.Error("logs were not left out")
	}
	if !strings.Contains(tr.read("/etc/passwd"), "alice") || !tr.exists("/home/alice/thesis.txt") || tr.exists("/home/alice/.bash_history") || tr.exists("/home/left-over") {
		t.Error("accounts that stay have not kept what is theirs, or more")
	}
	if tr.exists("/var/lib/apt/lists/x") || tr.exists("/var/log/syslog.1.gz") {
		t.Error("optional operations did not run")
	}
}

// traces are what a home holds that nobody else should have, kept or not.
var traces = []string{
	".bash_history", ".zsh_history", ".python_history", ".mysql_history", ".psql_history", ".sqlite_history", ".rediscli_history", ".node_repl_history", ".irb_history", ".php_history", ".lesshst", ".viminfo", ".wget-hsts", ".Xauthority", ".ICEauthority", ".local/share/fish/fish_history", ".local/share/recently-used.xbel", ".cache/x",
	".aws/credentials", ".azure/x", ".config/gcloud/x", ".config/openstack/clouds.yaml", ".config/gh/hosts.yml", ".config/rclone/rclone.conf", ".config/gsutil/x", ".kube/config", ".docker/config.json", ".netrc", ".git-credentials", ".pgpass", ".my.cnf", ".gnupg/secring.gpg", ".irods/x", ".globus/userkey.pem", ".boto", ".s3cfg", ".novarc", "demo-openrc.sh", "x.pem", ".env", "id_rsa", "core.12", ".vault-token", ".ssh/known_hosts", ".ssh/config",
}

func TestKeepUser(t *testing.T) {
	tr := newTree(t, debianLike()...)
	for _, name := range traces {
		tr.put(file{path: "/home/alice/" + name, text: "x"})
		tr.put(file{path: "/var/lib/svc/" + name, text: "x"})
	}
	report := tr.mustClean(Options{KeepUsers: []string{"alice", "nobody-there"}, SSHKeys: []string{pub, "root:" + pub}})
	if !slices.Equal(report.Users, []string{"bob", "carol"}) {
		t.Errorf("removed %q", report.Users)
	}
	for _, name := range traces {
		service := strings.HasPrefix(name, ".") && tr.exists("/var/lib/svc/"+name)
		if tr.exists("/home/alice/"+name) || service {
			t.Errorf("%s is there still", name)
		}
	}
	for p, there := range map[string]bool{
		"/home/alice/thesis.txt": true, "/home/alice/.ssh/authorized_keys": true, "/home/alice/.ssh/id_ed25519": false,
		"/home/alice/.bash_history": false, "/home/left-over": false, "/etc/sudoers.d/alice": true, "/var/spool/cron/crontabs/alice": true,
	} {
		if tr.exists(p) != there {
			t.Errorf("%s: there is %v", p, tr.exists(p))
		}
	}
	if !strings.Contains(tr.read("/etc/shadow"), "alice:$y$"+secret) || !strings.Contains(tr.read("/etc/group"), "sudo:x:27:alice,svc\n") {
		t.Error("a kept user has lost a password or a group")
	}
	for _, home := range []string{"/home/alice", "/root"} {
		if got := tr.read(home + "/.ssh/authorized_keys"); strings.TrimSpace(got) != pub {
			t.Errorf("keys of %s: %q", home, got)
		}
		if info, err := os.Stat(tr.at(home + "/.ssh/authorized_keys")); err != nil || home == "/root" && info.Mode().Perm() != 0o600 {
			t.Errorf("keys of %s: %v %v", home, info.Mode(), err)
		}
	}
	if !strings.Contains(strings.Join(report.Warnings, "\n"), "nobody-there") {
		t.Errorf("nobody is told of a user who is not there: %q", report.Warnings)
	}
}

// A home that is not only the account's stays, and somebody is told.
func TestHomesThatStay(t *testing.T) {
	homes := map[string]string{"system": "/etc", "root": "/", "top": "/srv", "var": "/var/lib", "above": "/data/all", "usr": "/usr/share/x"}
	if os.Getuid() == 0 {
		homes["foreign"] = "/opt/app" // root's own
	}
	passwd, uid := "root:x:0:0::/root:/bin/sh\nsvc:x:990:990::/data/all/svc:/bin/sh\n", 1000
	files := []file{{path: "/usr/bin/cloud-init"}, {path: "/data/all/svc/x", text: "x"}, {path: "/srv/x", text: "x"}, {path: "/opt/app/x", text: "x"}, {path: "/var/lib/x", text: "x"}, {path: "/usr/share/x/x", text: "x"}, {path: "/etc/x", text: "x"}}
	for name, home := range homes {
		passwd += fmt.Sprintf("%s:x:%d:%d::%s:/bin/sh\n", name, uid, uid, home)
		uid++
	}
	tr := newTree(t, append(files, file{path: "/etc/passwd", text: passwd})...)
	if os.Getuid() == 0 {
		for name, home := range homes {
			if name == "above" || name == "top" {
				if err := os.Chown(tr.at(home), uidOf(t, passwd, name), 0); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	report := tr.mustClean(Options{})
	for _, f := range files[1:] {
		if !tr.exists(f.path) {
			t.Errorf("%s was removed with somebody's home", f.path)
		}
	}
	if len(report.Users) != len(homes) || len(report.Warnings) < len(homes) {
		t.Errorf("removed %q, and told %q", report.Users, report.Warnings)
	}
}

func uidOf(t *testing.T, passwd, name string) int {
	t.Helper()
	all, err := parsePasswd([]byte(passwd))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if a.name == name {
			return a.uid
		}
	}
	t.Fatalf("no user %s", name)
	return 0
}

func TestLockout(t *testing.T) {
	files := slices.DeleteFunc(debianLike(), func(f file) bool { return strings.HasPrefix(f.path, "/usr/bin/cloud-init") })
	tr := newTree(t, files...)
	before := tr.manifest()
	_, err := tr.clean(Options{})
	if disk.KindOf(err) != disk.Policy || !strings.HasPrefix(err.Error(), "clean image: nobody could log in afterwards") {
		t.Fatalf("locked out: %v", err)
	}
	for _, way := range []string{"--keep-user", "--ssh-key", "NoCloud"} {
		if !strings.Contains(disk.AsError(err).Hint, way) {
			t.Errorf("the hint does not name %s: %s", way, disk.AsError(err).Hint)
		}
	}
	if d := cmp.Diff(before, tr.manifest()); d != "" {
		t.Errorf("a refused run has changed the guest:\n%s", d)
	}
	if plan := tr.mustClean(Options{Plan: true}); len(plan.Warnings) == 0 || !strings.Contains(plan.Warnings[0], "nobody could log in") {
		t.Errorf("the plan does not say so: %q", plan.Warnings)
	}
	for name, opt := range map[string]Options{
		"kept user":  {KeepUsers: []string{"alice"}},
		"key":        {SSHKeys: []string{pub}},
		"password":   {RootPassword: "$6$salt$hash"},
		"no removal": {Skip: []string{"users", "root-password", "ssh-keys", "homes"}},
	} {
		opt.Plan = true
		if plan := tr.mustClean(opt); strings.Contains(strings.Join(plan.Warnings, "\n"), "nobody could log in") {
			t.Errorf("%s is refused: %q", name, plan.Warnings)
		}
	}
	if _, err := tr.clean(Options{KeepUsers: []string{"nobody-there"}}); disk.KindOf(err) != disk.Policy {
		t.Errorf("a user who is not there is a login: %v", err)
	}
	// That root is locked already is no login.
	locked := newTree(t, file{path: "/etc/passwd", text: minimalPasswd}, file{path: "/etc/shadow", text: "root:!:1::::::\nalice:$6$x:1::::::\n"}, file{path: "/home/alice/", uid: 1000})
	if _, err := locked.clean(Options{}); disk.KindOf(err) != disk.Policy || !locked.exists("/home/alice") {
		t.Errorf("the only user is removed: %v", err)
	}
	// Users who stay without keys and passwords are none either; with them they are.
	for _, c := range []struct {
		skip    []string
		refused bool
	}{{[]string{"users"}, true}, {[]string{"users", "ssh-keys"}, false}, {[]string{"users", "root-password"}, false}} {
		stay := newTree(t, file{path: "/etc/passwd", text: minimalPasswd}, file{path: "/etc/shadow", text: "root:!:1::::::\nalice:$6$x:1::::::\n"}, file{path: "/home/alice/.ssh/authorized_keys", text: pub})
		if _, err := stay.clean(Options{Skip: c.skip}); (disk.KindOf(err) == disk.Policy) != c.refused || err != nil && !c.refused {
			t.Errorf("without %q: %v", c.skip, err)
		}
	}
	// Where nobody could get in before, nothing is taken.
	closed := newTree(t, file{path: "/etc/passwd", text: "root:x:0:0::/root:/bin/sh\n"}, file{path: "/etc/shadow", text: "root:*:1::::::\n"})
	closed.mustClean(Options{})
	// What is disabled brings nothing.
	tr.put(file{path: "/usr/bin/cloud-init"})
	tr.put(file{path: "/etc/cloud/cloud-init.disabled"})
	if _, err := tr.clean(Options{}); disk.KindOf(err) != disk.Policy {
		t.Errorf("a disabled cloud-init is a login: %v", err)
	}
}

func TestHostKeysWithoutCloudInit(t *testing.T) {
	base := []file{{path: "/etc/passwd"}, {path: "/usr/sbin/sshd"}, {path: "/etc/ssh/ssh_host_rsa_key", text: key}}
	tr := newTree(t, append(base, file{path: "/usr/lib/systemd/systemd"})...)
	tr.mustClean(Options{})
	unit := tr.read("/etc/systemd/system/multi-user.target.wants/../chromogenic-ssh-hostkeys.service")
	for _, line := range []string{"ExecStart=/usr/bin/ssh-keygen -A", "ConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key", "Before=ssh.service"} {
		if !strings.Contains(unit, line) {
			t.Errorf("the unit has no line %s", line)
		}
	}
	if _, err := newTree(t, base...).clean(Options{}); disk.KindOf(err) != disk.Unsupported {
		t.Errorf("a guest that would have no host keys: %v", err)
	}
	tr = newTree(t, append(base, file{path: "/etc/init.d/sshd", text: "/usr/bin/ssh-keygen -A\n"})...)
	tr.mustClean(Options{})
}

func TestNoLinux(t *testing.T) {
	tr := newTree(t, file{path: "/Windows/System32/config/SAM", text: "x"}, file{path: "/tmp/x", text: "x"})
	if _, err := tr.clean(Options{}); disk.KindOf(err) != disk.Unsupported || !tr.exists("/tmp/x") {
		t.Errorf("what is no Linux: %v", err)
	}
}

func TestSwapFile(t *testing.T) {
	page := make([]byte, 3*swapPage)
	copy(page[swapPage-10:], hiberMark)
	copy(page[swapPage+100:], secret)
	tr := newTree(t, append(minimal(), file{path: "/etc/fstab", text: "/var/big swap swap defaults 0 0\n"}, file{path: "/var/big", text: string(page), mode: 0o600}, file{path: "/swapfile", text: "no swap " + strings.Repeat("x", swapPage)})...)
	was := tr.manifest()["/var/big"]
	if plan := tr.mustClean(Options{Plan: true}); plan.outcome("swap").Bytes != 2*swapPage || len(tr.search(secret)) != 1 {
		t.Errorf("planned %+v", plan.outcome("swap"))
	}
	tr.mustClean(Options{})
	is := tr.manifest()["/var/big"]
	want := make([]byte, 3*swapPage)
	copy(want[swapPage-10:], swapMark)
	if tr.read("/var/big") != string(want) || was.Ino != is.Ino || was.Mode != is.Mode {
		t.Errorf("the file is %+v", is)
	}
	if !strings.HasPrefix(tr.read("/swapfile"), "no swap") {
		t.Error("what is no swap was changed")
	}
}

func TestInspect(t *testing.T) {
	tr := newTree(t, append(debianLike(), file{path: "/usr/lib/modules/6.1.0-37-amd64/modules.dep"}, file{path: "/boot/vmlinuz-6.1.0-40-amd64"})...)
	before := tr.manifest()
	root, err := os.OpenRoot(tr.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	facts := guest.Facts{Table: "gpt", Filesystems: []guest.Filesystem{{Number: 1, Mountpoint: "/", Type: "ext4"}}}
	reply, err := Inspect(context.Background(), root, facts, nil)
	if err != nil {
		t.Fatal(err)
	}
	var in Inspection
	if err := json.Unmarshal(reply, &in); err != nil {
		t.Fatal(err)
	}
	want := OS{ID: "debian", Version: "12", Name: "Debian GNU/Linux 12 (bookworm)"}
	if in.OS != want || in.Provisioner != "cloud-init" || in.Init != "systemd" || in.SELinux || in.Disk.Table != "gpt" {
		t.Errorf("found %+v", in)
	}
	if !slices.Equal(in.Kernels, []string{"6.1.0-37-amd64", "6.1.0-40-amd64"}) {
		t.Errorf("kernels %q", in.Kernels)
	}
	var users []string
	for _, u := range in.Users {
		users = append(users, u.Name)
	}
	if !slices.Equal(users, []string{"root", "svc", "alice", "bob", "carol"}) || in.Users[0].Removed || !in.Users[2].Removed {
		t.Errorf("users %+v", in.Users)
	}
	if !in.Plan.Plan || in.Files < 50 || in.Bytes < 1000 {
		t.Errorf("planned %d files of %d bytes", in.Files, in.Bytes)
	}
	if d := cmp.Diff(before, tr.manifest()); d != "" {
		t.Errorf("the guest was changed:\n%s", d)
	}
}

func TestOptions(t *testing.T) {
	for name, opt := range map[string]Options{
		"operation": {Skip: []string{"nothing"}}, "only and with": {Only: []string{"logs"}, With: []string{"crontabs"}},
		"user": {KeepUsers: []string{"a:b"}}, "key": {SSHKeys: []string{"AAAA"}}, "key of two lines": {SSHKeys: []string{pub + "\nssh-rsa x"}},
		"hostname": {Hostname: "a b"}, "password": {RootPassword: "atmosphere"}, "password with a colon": {RootPassword: "$6$a$b:c"},
		"recipe": {Recipe: Recipe{Steps: []Step{{}}}},
	} {
		if err := opt.Validate(); disk.KindOf(err) != disk.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	good := Options{Skip: []string{"logs", "users"}, SSHKeys: []string{pub, "alice:" + pub, `from="10.0.0.0/8" ` + pub}, Hostname: "a.example.org", RootPassword: "$6$rounds=5000$salt$hash"}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	if _, err := readOptions([]byte(`{"skipp":["logs"]}`)); disk.KindOf(err) != disk.Invalid {
		t.Errorf("an unknown option: %v", err)
	}
	same := Options{Skip: []string{"users", "logs", "users"}, SSHKeys: good.SSHKeys, Hostname: good.Hostname, RootPassword: good.RootPassword, Plan: true}
	if same.Fingerprint() != good.Fingerprint() || len(good.Fingerprint()) != 64 {
		t.Error("the same options have another fingerprint")
	}
	other := good
	other.Hostname = ""
	if other.Fingerprint() == good.Fingerprint() || (Options{}).Fingerprint() == good.Fingerprint() {
		t.Error("other options have the same fingerprint")
	}
	if same.Skip[0] != "users" {
		t.Error("Fingerprint has changed the options")
	}
}
