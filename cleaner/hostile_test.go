package cleaner

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"chromogenic/cleaner/guest"
	"chromogenic/disk"
)

const minimalPasswd = "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n"

// open allows a run on a tree that has no login left: its provisioner is an empty file.
func minimal() []file {
	return []file{
		{path: "/etc/passwd", text: minimalPasswd},
		{path: "/usr/bin/cloud-init", text: ""},
		{path: "/usr/lib/systemd/systemd", text: ""},
	}
}

// A host beside the guest, to which the guest's links lead.
func hostBeside(t *testing.T) (dir string, untouched func()) {
	t.Helper()
	host := newTree(t,
		file{path: "/etc/shadow", text: "host"}, file{path: "/log/syslog", text: "host"},
		file{path: "/home/bob/.ssh/id_rsa", text: "host"}, file{path: "/run/x.pid", text: "host"},
	)
	before := host.manifest()
	return host.dir, func() {
		t.Helper()
		after := host.manifest()
		if len(after) != len(before) {
			t.Errorf("the host has %d paths, and had %d", len(after), len(before))
		}
		for p, was := range before {
			if after[p] != was {
				t.Errorf("the host's %s was changed", p)
			}
		}
	}
}

func TestLinksOutOfTheRoot(t *testing.T) {
	host, untouched := hostBeside(t)
	tr := newTree(t, minimal()...)
	up := strings.Repeat("../", 30)
	for name, target := range map[string]string{
		"/var/log":                     host + "/log",
		"/etc/shadow":                  host + "/etc/shadow",
		"/etc/hosts":                   up + strings.TrimPrefix(host, "/") + "/etc/shadow",
		"/home/alice":                  host + "/home/bob",
		"/home/dangling":               "/nowhere/" + host,
		"/run":                         host + "/run",
		"/tmp":                         up + host[1:],
		"/root":                        host,
		"/var/lib/cloud":               host,
		"/etc/machine-id":              host + "/etc/shadow",
		"/etc/sudoers.d":               host,
		"/var/lib/dbus/machine-id":     host + "/etc/shadow",
		"/etc/ssh/ssh_host_rsa_key":    host + "/etc/shadow",
		"/swapfile":                    host + "/etc/shadow",
		"/etc/environment":             host + "/etc/shadow",
		"/var/lib/docker/containers/a": host,
		"/var/spool/cron":              up + host[1:],
	} {
		tr.put(file{path: name, text: "-> " + target})
	}
	report, err := tr.clean(Options{})
	if err != nil {
		t.Error(err)
	}
	untouched()
	if len(report.Users) != 1 || tr.exists("/home/alice") || tr.exists("/etc/ssh/ssh_host_rsa_key") {
		t.Errorf("links that are to be removed were not: %+v", report.Users)
	}
}

// Links within the guest are followed as its own kernel would.
func TestLinksInTheGuest(t *testing.T) {
	tr := newTree(t, append(minimal(),
		file{path: "/var/log", text: "-> /srv/../srv/log"},
		file{path: "/srv/log/syslog", text: secret},
		file{path: "/home", text: "-> ../../../../srv/home"},
		file{path: "/srv/home/alice/x", text: secret, uid: 1000},
		file{path: "/etc/hostname", text: "-> /srv/hostname"},
		file{path: "/srv/hostname", text: "x\n", mode: 0o640},
	)...)
	if os.Getuid() == 0 {
		if err := os.Lchown(tr.at("/srv/home/alice"), 1000, 1000); err != nil {
			t.Fatal(err)
		}
	}
	tr.mustClean(Options{})
	if got := tr.read("/srv/log/syslog"); got != "" {
		t.Errorf("the log has %q", got)
	}
	if tr.exists("/srv/home/alice") {
		t.Error("the home is there still")
	}
	if got := tr.read("/srv/hostname"); got != "localhost\n" || tr.exists("/etc/hostname") != true {
		t.Errorf("the name is %q", got)
	}
	if target, err := os.Readlink(tr.at("/etc/hostname")); err != nil || target != "/srv/hostname" {
		t.Errorf("/etc/hostname leads to %q: %v", target, err)
	}
}

func TestHardLinks(t *testing.T) {
	tr := newTree(t, append(minimal(), file{path: "/etc/shadow", text: "root:$6$" + secret + ":1::::::\n"}, file{path: "/var/log/a", text: secret}, file{path: "/home/alice/k", text: "x", uid: 1000})...)
	for from, to := range map[string]string{"/etc/shadow": "/etc/other", "/var/log/a": "/opt-a", "/home/alice/k": "/kept"} {
		if err := os.Link(tr.at(from), tr.at(to)); err != nil {
			t.Fatal(err)
		}
	}
	report := tr.mustClean(Options{})
	if got := tr.search(secret); len(got) > 0 {
		t.Errorf("secrets are left in %q", got)
	}
	if tr.read("/kept") != "x" {
		t.Error("another name of a removed file has lost its content")
	}
	if !strings.Contains(strings.Join(report.Warnings, "\n"), "/home/alice/k has other names") {
		t.Errorf("nobody is told of another name: %q", report.Warnings)
	}
}

func TestSpecialFiles(t *testing.T) {
	for _, p := range []string{"/etc/passwd", "/etc/shadow", "/etc/hosts", "/etc/fstab", "/etc/environment"} {
		t.Run(p, func(t *testing.T) {
			tr := newTree(t, file{path: "/usr/bin/cloud-init"}, file{path: "/usr/lib/os-release", text: "ID=x\n"})
			tr.put(file{path: "/etc/"})
			if err := unix.Mkfifo(tr.at(p), 0o644); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() {
				_, err := tr.clean(Options{})
				done <- err
			}()
			select {
			case err := <-done:
				if err == nil || !strings.Contains(err.Error(), p+": is no regular file") || disk.KindOf(err) != disk.Malformed {
					t.Errorf("a pipe is no such file, and the error is: %v", err)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("the pipe was opened")
			}
		})
	}
	// Among logs and in homes there may be anything.
	tr := newTree(t, append(minimal(), file{path: "/var/log/"}, file{path: "/home/alice/"})...)
	for _, p := range []string{"/var/log/pipe", "/home/alice/pipe", "/tmp"} {
		if err := unix.Mkfifo(tr.at(p), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tr.mustClean(Options{})
	if !tr.exists("/var/log/pipe") || tr.exists("/home/alice") {
		t.Error("pipes were not treated by their places")
	}
}

func TestLargeFiles(t *testing.T) {
	tr := newTree(t, append(minimal(), file{path: "/etc/hosts", text: ""}, file{path: "/var/log/lastlog", text: ""}, file{path: "/home/alice/x", text: "", uid: 1000})...)
	for _, p := range []string{"/etc/hosts", "/var/log/lastlog", "/home/alice/x"} {
		if err := os.Truncate(tr.at(p), 10<<30); err != nil {
			t.Skipf("no sparse files: %v", err)
		}
	}
	report, err := tr.clean(Options{})
	if err == nil || !strings.Contains(err.Error(), "clean image: operation hostname: /etc/hosts: has 10737418240 bytes") {
		t.Errorf("10 GiB of hosts: %v", err)
	}
	if o := report.outcome("hostname"); o.Outcome != Failed || !strings.HasPrefix(o.Error, "/etc/hosts: ") {
		t.Errorf("the report has %+v", o)
	}
	if report.outcome("logs").Outcome != Done || report.outcome("users").Outcome != Done {
		t.Error("the other operations did not run")
	}
	if err := os.Truncate(tr.at("/etc/passwd"), 10<<30); err != nil {
		t.Fatal(err)
	}
	if _, err := tr.clean(Options{}); disk.KindOf(err) != disk.TooLarge || !strings.Contains(err.Error(), "/etc/passwd: has ") {
		t.Errorf("10 GiB of passwd: %v", err)
	}
}

func TestStrangeNames(t *testing.T) {
	long := strings.Repeat("n", 255)
	tr := newTree(t, append(minimal(),
		file{path: "/home/a\nb/x", text: secret}, file{path: "/home/" + long + "/" + long, text: secret}, file{path: "/home/\xff\xfe/\x1b[2J", text: secret},
		file{path: "/home/[a-z]*/.ssh/id", text: secret}, file{path: "/home/b\\?/.aws/x", text: secret},
		file{path: "/var/log/new\nline", text: secret}, file{path: "/var/log/" + long, text: secret}, file{path: "/var/log/\xff", text: secret},
		file{path: "/tmp/-rf", text: secret}, file{path: "/tmp/.chromogenic-new-0/x", text: secret},
	)...)
	tr.put(file{path: "/etc/passwd", text: minimalPasswd + "w:x:1001:1001::/home/[a-z]*:/bin/sh\nv:x:1002:1002::/home/*:/bin/sh\nu:x:1003:1003::/:/bin/sh\n../x:x:1004:1004::/home/../etc:/bin/sh\ny:x:1005:1005::" + strings.Repeat("/a", 5000) + ":/bin/sh\n"})
	report := tr.mustClean(Options{})
	if got := tr.search(secret); len(got) > 0 {
		t.Errorf("secrets are left in %q", got)
	}
	text, err := json.Marshal(report)
	if err != nil || strings.ContainsAny(string(text), "\x1b") || strings.Contains(string(text), `�`) {
		t.Errorf("names that are no text are in the report: %v", err)
	}
	if !tr.exists("/etc/passwd") || !tr.exists("/usr/bin/cloud-init") {
		t.Error("a home that is the system's was removed")
	}
	if len(report.Users) != 6 {
		t.Errorf("removed %q", report.Users)
	}
}

// A tree of folders that is deeper than descriptors and paths go.
func TestDeepFolders(t *testing.T) {
	tr := newTree(t, append(minimal(), file{path: "/home/alice/", uid: 1000}, file{path: "/opt/"})...)
	deepen := func(p string, depth int) {
		dir, err := os.OpenRoot(tr.at(p))
		if err != nil {
			t.Fatal(err)
		}
		for i := range depth {
			if err := dir.Mkdir("d", 0o755); err != nil {
				t.Fatal(err)
			}
			if i%100 == 0 {
				if err := dir.WriteFile("f", []byte(secret), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			next, err := dir.OpenRoot("d")
			dir.Close()
			if err != nil {
				t.Fatal(err)
			}
			dir = next
		}
		dir.Close()
	}
	depth := 5000
	if testing.Short() {
		depth = 3 * maxDepth // each folder is a write to the disk
	}
	deepen("/home/alice", depth)
	tr.mustClean(Options{})
	if tr.exists("/home/alice") {
		t.Error("the deep home is there still")
	}
	for p := range tr.manifest() {
		if strings.Contains(p, ".chromogenic") {
			t.Errorf("%s was left over", p)
		}
	}
	// Where the files themselves are to be emptied it cannot be passed over.
	deepen("/opt", 600)
	_, err := tr.clean(Options{Only: []string{"private-keys"}})
	if err == nil || disk.KindOf(err) != disk.TooLarge || len(err.Error()) > 4000 {
		t.Errorf("600 folders in each other: %.300v", err)
	}
	if err := os.RemoveAll(tr.at("/opt")); err != nil {
		t.Fatal(err)
	}
}

func TestLoops(t *testing.T) {
	tr := newTree(t, append(minimal(),
		file{path: "/etc/shadow", text: "-> shadow"}, file{path: "/etc/hosts", text: "-> /etc/hosts2"}, file{path: "/etc/hosts2", text: "-> /etc/hosts"},
		file{path: "/home/alice/self", text: "-> ."}, file{path: "/home/alice/up", text: "-> ../.."}, file{path: "/var/log", text: "-> log"}, file{path: "/home/loop", text: "-> loop"},
		file{path: "/var/lib/cloud/a", text: "-> b"}, file{path: "/var/lib/cloud/b", text: "-> a"},
	)...)
	tr.mustClean(Options{})
	if tr.exists("/home/loop") || tr.exists("/var/lib/cloud/a") {
		t.Error("links in a circle were not removed")
	}
}

func TestManyFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 100,000 files")
	}
	tr := newTree(t, append(minimal(), file{path: "/home/alice/many/"}, file{path: "/var/log/many/"})...)
	const logs = 10_000
	for i := range 100_000 {
		if err := os.WriteFile(tr.at(fmt.Sprintf("/home/alice/many/%d", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if i >= logs {
			continue
		}
		if err := os.WriteFile(tr.at(fmt.Sprintf("/var/log/many/%d", i)), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	report := tr.mustClean(Options{})
	o := report.outcome("logs")
	if o.Files != logs || o.Bytes != logs || len(o.Paths) != maxPaths || o.More != logs-maxPaths {
		t.Errorf("emptied %d files of %d bytes, %d and %d paths", o.Files, o.Bytes, len(o.Paths), o.More)
	}
	if u := report.outcome("users"); u.Files < 100_000 || tr.exists("/home/alice") {
		t.Errorf("removed %d files", u.Files)
	}
}

// A filesystem of the host below the root, by a mount that was forgotten, is nobody's
// to clean.
func TestForeignMount(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounts a tmpfs, for which it takes root")
	}
	tr := newTree(t, append(minimal(), file{path: "/dev/"}, file{path: "/tmp/in/"})...)
	for _, p := range []string{"/dev", "/tmp/in"} {
		if err := unix.Mount("none", tr.at(p), "tmpfs", 0, "size=1m"); err != nil {
			t.Skipf("mount: %v", err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(tr.at(p), unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
		tr.put(file{path: p + "/host", text: "host"})
	}
	report := tr.mustClean(Options{})
	if !strings.Contains(strings.Join(report.Warnings, "\n"), "/tmp/in is left as it is: a filesystem that is not the guest's") {
		t.Errorf("nobody is told of a mount of the host in /tmp: %q", report.Warnings)
	}
	_, err := tr.clean(Options{Only: []string{"recipe"}, Recipe: Recipe{Steps: []Step{{Delete: "/tmp/in"}}}})
	if disk.KindOf(err) != disk.Busy {
		t.Errorf("a mount of the host is to be removed: %v", err)
	}
	if tr.read("/dev/host") != "host" || tr.read("/tmp/in/host") != "host" {
		t.Error("the host's file was changed")
	}
	// The same is the guest's, if the facts say so: its folder stays, for it is mounted.
	if _, err := tr.cleanWith(Options{}, factsAt("/", "/tmp/in")); err != nil {
		t.Error(err)
	}
	if tr.exists("/tmp/in/host") || !tr.exists("/tmp/in") {
		t.Error("the guest's own filesystem in /tmp was not emptied")
	}
}

// Locks of chattr(1) are taken away for what is to be done, and put back.
func TestLockedFiles(t *testing.T) {
	tr := newTree(t, append(minimal(), file{path: "/var/log/audit.log", text: secret}, file{path: "/etc/hostname", text: "x\n"}, file{path: "/home/alice/f", text: "x", uid: 1000})...)
	flags := func(p string, set int) int {
		f, err := os.Open(tr.at(p))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		old, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
		if err == nil && set >= 0 {
			err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, set)
		}
		if err != nil {
			t.Skipf("no flags of files here: %v", err)
		}
		return old
	}
	const appendOnly, immutable = 0x20, 0x10
	for p, set := range map[string]int{"/var/log/audit.log": appendOnly, "/etc/hostname": immutable, "/home/alice": immutable} {
		flags(p, flags(p, -1)|set)
	}
	t.Cleanup(func() {
		for _, p := range []string{"/var/log/audit.log", "/etc/hostname"} {
			flags(p, flags(p, -1)&^(appendOnly|immutable))
		}
	})
	tr.mustClean(Options{})
	if tr.read("/var/log/audit.log") != "" || tr.read("/etc/hostname") != "localhost\n" || tr.exists("/home/alice") {
		t.Error("what is locked was not cleaned")
	}
	if flags("/var/log/audit.log", -1)&appendOnly == 0 {
		t.Error("the log has lost its lock")
	}
}

func TestCancelled(t *testing.T) {
	tr := newTree(t, append(minimal(), file{path: "/var/log/syslog", text: "x"})...)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	root, err := os.OpenRoot(tr.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := Work(ctx, root, guest.Facts{}, nil); disk.KindOf(err) != disk.Cancelled {
		t.Errorf("a run that was cancelled: %v", err)
	}
	if tr.read("/var/log/syslog") != "x" {
		t.Error("it went on")
	}
}

// What cannot be done is an error that says where, and no half-written file is left.
func TestFailureNamesThePath(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may do anything")
	}
	tr := newTree(t, append(minimal(), file{path: "/home/alice/sub/f", text: "x"}, file{path: "/home/alice/sub/", mode: 0o555})...)
	t.Cleanup(func() { _ = os.Chmod(tr.at("/home/alice/sub"), 0o755) })
	report, err := tr.clean(Options{})
	if err == nil || !strings.HasPrefix(err.Error(), "clean image: operation users: /home/alice/sub/f: ") {
		t.Errorf("a folder that cannot be written to: %v", err)
	}
	if report.outcome("users").Outcome != Failed {
		t.Error("the report says nothing of it")
	}
}
