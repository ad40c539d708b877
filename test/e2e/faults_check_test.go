package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"chromogenic/test/faultfs"
)

// An outcome is what the contract says of an errno.
type outcome struct {
	Code   string `json:"code"`
	Errno  string `json:"errno"`
	Exit   int    `json:"exit_status"`
	Cause  string `json:"cause"`
	Remedy string `json:"remedy"`
}

// contract is the table that chromogenic explain prints.
var contract = sync.OnceValues(func() (map[string]outcome, error) {
	out, err := exec.Command(binary(), "explain", "--json").Output()
	if err != nil {
		return nil, err
	}
	var all []outcome
	if err := json.Unmarshal(out, &all); err != nil {
		return nil, err
	}
	byErrno := map[string]outcome{}
	for _, o := range all {
		byErrno[o.Errno] = o
	}
	return byErrno, nil
})

// promised is what the contract says of an errno.
func promised(t testing.TB, errno syscall.Errno) outcome {
	t.Helper()
	all, err := contract()
	must(t, err)
	o, ok := all[errnoName(errno)]
	if !ok {
		t.Fatalf("chromogenic explain does not know %v", errno)
	}
	return o
}

func errnoName(e syscall.Errno) string { return unix.ErrnoName(e) }

// said is how programs spell an errno.
func said(e syscall.Errno) string {
	if e == syscall.ESTALE {
		return "Stale file handle" // Go has an older text
	}
	return e.Error()
}

// says looks for a text in whatever case.
func says(out, want string) bool {
	return strings.Contains(strings.ToLower(out), strings.ToLower(want))
}

// play lets the fault strike the route, and checks all that follows.
func (x *faultCase) play(t *testing.T) {
	before := x.folders(t)
	errorsBefore := x.reasons(t)
	f := x.disk.set(t, x.pattern())
	done := make(chan result, 1)
	go func() { done <- tryCmd(t, x.route.line(x)) }()
	plugged := true
	if x.meanwhile != nil {
		x.disk.await(t, f)
		x.meanwhile(t, x)
		if _, err := x.disk.Hits(f); err != nil {
			plugged = false
		} else {
			x.disk.mend(t)
		}
	}
	r := <-done
	if x.undo != nil {
		x.undo(t, x)
		x.refresh(t)
	}
	if plugged && x.disk.struck(t, f) == 0 {
		t.Errorf("the fault has not struck\n%s", r.out)
	}
	switch {
	case x.begunAnew():
		x.succeeded(t, r, x.file)
	case x.errno == 0 || r.code == 0 && x.route.again && x.fault.disk.Times > 0:
		x.succeeded(t, r, x.masters["raw"])
	default:
		x.failed(t, r, errorsBefore)
	}
	if plugged {
		x.disk.mend(t)
	}
	x.nothingHalf(t, before, plugged)
	x.lift(t)
	x.again(t)
}

// begunAnew tells whether the route ends well though the file changes meanwhile.
func (x *faultCase) begunAnew() bool { return x.anew && x.route.instance && !x.route.into }

// pattern is the fault, on the file of this case.
func (x *faultCase) pattern() faultfs.Fault {
	f := x.fault.disk
	if f.File == "" && f.Op != faultfs.SyncDir && f.Op != faultfs.Readdir {
		f.File = filepath.Base(x.file)
	}
	return f
}

// folders is what lies in all folders of providers.
func (x *faultCase) folders(t testing.TB) (all []string) {
	t.Helper()
	for _, s := range []site{x.a, x.b, x.good} {
		for _, dir := range []string{s.images, s.instances} {
			for _, n := range names(t, dir) {
				all = append(all, s.name+"/"+filepath.Base(dir)+"/"+n)
			}
		}
	}
	slices.Sort(all)
	return all
}

// succeeded checks a copy that says so, of a raw disk.
func (x *faultCase) succeeded(t *testing.T, r result, raw string) {
	t.Helper()
	if r.code != 0 {
		t.Errorf("exit status %d\n%s\n%s", r.code, r.out, last(x.reasons(t), 2))
		return
	}
	path, format := x.route.made(t, x)
	same(t, raw, path, format)
}

// failed checks what the program, the mount and explain say of a failure.
func (x *faultCase) failed(t *testing.T, r result, errorsBefore string) {
	t.Helper()
	o := promised(t, x.errno)
	switch {
	case r.code == 0:
		t.Errorf("exit status 0\n%s", r.out)
	case x.route.ours && r.code != o.Exit:
		t.Errorf("exit status %d, want %d\n%s", r.code, o.Exit, r.out)
	case strings.HasPrefix(x.route.name, "syscalls"):
		if !strings.HasSuffix(r.out, fmt.Sprintf(": %d\n", x.errno)) {
			t.Errorf("errno is not %d: %s", x.errno, r.out)
		}
	case !x.route.ours && !says(r.out, said(x.errno)):
		t.Errorf("the program does not say %q:\n%s", said(x.errno), r.out)
	}
	if x.route.ours {
		x.checkReason(t, "the command", r.out)
	} else {
		x.checkJournal(t, o, errorsBefore)
	}
	if id := x.job(t); id != "" {
		text, err := os.ReadFile(x.path(".chromogenic", "jobs", id, "error"))
		must(t, err)
		x.checkReason(t, "the job", string(text))
		if !strings.HasPrefix(string(text), o.Code+": ") {
			t.Errorf("the job says %q, want code %s", text, o.Code)
		}
	} else if x.route.into && x.route.within { // else it may be that there is no source to begin with
		t.Error("there is no record of the job")
	}
}

// checkJournal looks for the reason where a mount leaves it, and has it explained.
func (x *faultCase) checkJournal(t *testing.T, o outcome, before string) {
	t.Helper()
	journal := x.reasonsSince(t, before)
	var path, newest string
	for line := range strings.Lines(journal) {
		var f struct{ Op, Path, Code, Errno, Message string }
		must(t, json.Unmarshal([]byte(line), &f))
		if !strings.Contains(f.Path, x.name+".") || f.Op == "release" { // of what a program has opened and not written
			continue
		}
		newest = f.Code
		if x.meanwhile != nil && f.Op == "lookup" && f.Code != o.Code {
			continue // who looks at what is there now may find another fault with it
		}
		path = f.Path
		if f.Code != o.Code || f.Errno != o.Errno {
			t.Errorf(".chromogenic/errors says %s and %s, want %s and %s: %s", f.Code, f.Errno, o.Code, o.Errno, f.Message)
		}
		text := f.Message
		if x.errno == syscall.EHOSTUNREACH { // bytes may come from another image of the disk that has the same
			text = f.Path + ": " + text
		}
		x.checkReason(t, ".chromogenic/errors", text)
	}
	if path == "" {
		t.Errorf("nothing of it in .chromogenic/errors:\n%s", journal)
		return
	}
	if newest != o.Code {
		return // which explain and the attribute show
	}
	// The file itself is not there, or cannot be looked up; its directory tells.
	dir := x.path(filepath.Dir(path))
	if text := attr(t, dir, "error"); !strings.HasPrefix(text, o.Code+": ") {
		t.Errorf("the error attribute of %s is %q", dir, text)
	} else {
		x.checkReason(t, "the error attribute", text)
	}
	explained := run(t, binary(), "explain", x.path(path))
	if x.meanwhile != nil && !strings.Contains(explained, o.Code) && says(explained, "failure      lookup") {
		return // so does explain, which looks at the path
	}
	x.checkReason(t, "explain", explained)
	for _, want := range []string{o.Code, o.Errno, o.Cause, o.Remedy} {
		if !strings.Contains(explained, want) {
			t.Errorf("explain does not say %q:\n%s", want, explained)
		}
	}
}

// offsetOf finds the offset that a reason gives.
var offsetOf = regexp.MustCompile(`at offset (\d+)`)

// checkReason looks for file, offset and cause.
func (x *faultCase) checkReason(t *testing.T, where, text string) {
	t.Helper()
	f := x.pattern()
	file := filepath.Base(x.file)
	gone := x.errno == syscall.EHOSTUNREACH // the folder is, or the disk, and the file with it
	if x.route.into || gone {
		file = x.name // of the image; the unfinished file has one of its own
	}
	if !strings.Contains(text, file) {
		t.Errorf("%s does not name the file %q:\n%s", where, file, text)
	}
	if !says(text, x.cause) {
		t.Errorf("%s does not say %q:\n%s", where, x.cause, text)
	}
	if gone || f.Op != faultfs.Read && f.Op != faultfs.Write || f.Effect == faultfs.Flip || f.Effect == faultfs.Lose {
		return
	}
	found := offsetOf.FindAllStringSubmatch(text, -1)
	if len(found) == 0 {
		t.Errorf("%s names no offset:\n%s", where, text)
		return
	}
	got, err := strconv.ParseInt(found[len(found)-1][1], 10, 64)
	must(t, err)
	// Of a write, that of the block in which it failed.
	off := f.From - got
	if f.Effect == faultfs.Fail && (off < 0 || f.Op == faultfs.Read && off > 0 || off >= mib) {
		t.Errorf("%s says offset %d, want %d:\n%s", where, got, f.From, text)
	}
}

// job is the newest one that has to do with the image; empty without any.
func (x *faultCase) job(t *testing.T) (id string) {
	t.Helper()
	for _, n := range names(t, x.path(".chromogenic", "jobs")) {
		text, err := os.ReadFile(x.path(".chromogenic", "jobs", n, "status"))
		must(t, err)
		var r struct{ ID, State, Source, Destination string }
		must(t, json.Unmarshal(text, &r))
		if strings.Contains(r.Source+" "+r.Destination, "/"+x.name) {
			id = r.ID
			if r.State == "running" || r.State == "queued" || r.State == "interrupted" {
				t.Errorf("job %s is %s", r.ID, r.State)
			}
		}
	}
	return id
}

// nothingHalf checks that all folders are as they were, but for what a success has
// made and what the case itself has done.
func (x *faultCase) nothingHalf(t *testing.T, before []string, plugged bool) {
	t.Helper()
	if !plugged {
		x.disk.plug(t)
		x.refresh(t)
	}
	for _, n := range x.folders(t) {
		name := filepath.Base(n)
		switch {
		case slices.Contains(before, n), x.fault.name == "name taken" && strings.HasPrefix(name, x.name+"."), name == ".mine", strings.HasSuffix(name, ".away"):
		case (x.errno == 0 || x.begunAnew() || x.route.again && x.fault.disk.Times > 0) && (strings.HasPrefix(name, x.name+".") || strings.HasPrefix(name, x.name+"@")):
		case !plugged && strings.HasPrefix(name, ".chromogenic-"):
			run(t, "sh", "-c", `"$1" gc --config "$2"`, "sh", binary(), x.conf)
			if slices.Contains(x.folders(t), n) {
				t.Errorf("gc leaves %s", n)
			}
		default:
			t.Errorf("left behind: %s", n)
		}
	}
	if n := diskUsage(filepath.Join(x.state, "spool")); n != 0 {
		t.Errorf("the spool takes %d bytes", n)
	}
	if out := run(t, binary(), "gc", "--dry-run", "--config", x.conf); out != "" {
		t.Errorf("gc finds\n%s", out)
	}
}

// lift undoes what the case has done.
func (x *faultCase) lift(t *testing.T) {
	t.Helper()
	changed := x.meanwhile != nil && !x.route.into
	if changed {
		x.put(t)
	}
	for _, dir := range []string{x.a.images, x.b.images, x.good.images, x.a.instances, x.b.instances, x.out} {
		for _, n := range names(t, dir) {
			if path := filepath.Join(dir, n); path != x.file && (strings.HasPrefix(n, x.name+".") || strings.HasPrefix(n, x.name+"@") || n == ".mine") {
				must(t, os.Remove(path))
				changed = changed || dir != x.out
			}
		}
	}
	if x.refresh(t); changed && !x.route.ours {
		time.Sleep(1100 * time.Millisecond) // as long as the kernel may keep a name
	}
}

// again runs the same without the fault.
func (x *faultCase) again(t *testing.T) {
	t.Helper()
	r := tryCmd(t, x.route.line(x))
	if r.code != 0 {
		t.Errorf("without the fault: exit status %d\n%s\n%s", r.code, r.out, last(x.reasons(t), 2))
		return
	}
	path, format := x.route.made(t, x)
	same(t, x.masters["raw"], path, format)
	must(t, os.Remove(path))
}
