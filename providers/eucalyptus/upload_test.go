package eucalyptus

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
	"chromogenic/providers/internal/bundle"
	"chromogenic/providers/internal/ec2test"
	"chromogenic/providers/internal/process"
)

// TestUploaded looks at what an upload leaves in the cloud: for whom it can be read, and what
// it is registered as.
func TestUploaded(t *testing.T) {
	cloud := ec2test.Start(t, ec2test.Options{})
	bob := cloud.Account("bob").Number
	r := newRig(t, cloud, "alice", func(o *Options) { o.Users = []string{bob} })
	img := noise(11 << 20)
	spec := specOf("größe 1", img)
	spec.Meta = disk.Meta{Arch: "i686", Firmware: "bios", Description: "a server", Tags: []string{"env=prod"}, Kernel: "eki-00000000"}
	e, err := r.upload(t, spec, img)
	if err != nil {
		t.Fatal(err)
	}
	i, err := r.record(t.Context(), e.ID)
	if err != nil {
		t.Fatal(err)
	}
	if i.Virtualization != "hvm" || i.Architecture != "i386" || i.Public || i.Description != "a server" || i.Tags["env"] != "prod" || i.Owner != r.account.Number {
		t.Errorf("it is registered as %+v", i)
	}
	if e.Name != "größe 1" || e.Size != img.Size() || e.Meta.Arch != "i686" || e.Props[providers.SourcePrefix+"kernel_id"] != "eki-00000000" {
		t.Errorf("it is listed as %+v", e)
	}
	members, err := r.Members(t.Context(), e)
	if err != nil || len(members) != 1 || members[0].ID != bob || members[0].Status != providers.MemberAccepted {
		t.Errorf("its members are %+v, %v", members, err)
	}
	at, text := r.content(t, e)
	keys := cloud.S3.Keys(at.bucket)
	if len(keys) != 4 { // two parts, index, manifest
		t.Errorf("its objects are %q", keys)
	}
	for _, key := range keys {
		if acl := cloud.S3.ACL(at.bucket, key); acl != "aws-exec-read" {
			t.Errorf("object %s has the ACL %q", key, acl)
		}
	}
	m, err := bundle.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Verify(&r.account.Key.PublicKey); err != nil {
		t.Error(err)
	}
	if m.User != r.account.Number || m.Type != bundle.Machine || m.Architecture != "i386" || m.Size != img.Size() {
		t.Errorf("the manifest is %+v", m)
	}
	r.holds(t, e, img)
	// Without a file of it, the cloud is asked for its certificate.
	rc, err := os.ReadFile(r.o.Eucarc)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, r.o.Eucarc, strings.Replace(string(rc), "export EUCALYPTUS_CERT", "export NO_CERT", 1))
	r.remove(t, r.put(t, "asked", disktest.Pattern(1<<20, nil)))
	writeFile(t, r.o.Eucarc, string(rc))

	if left, err := os.ReadDir(r.o.Dir); err != nil || len(left) != 0 {
		t.Errorf("journals left: %v, %v", left, err)
	}
	if len(r.debris(t)) > 0 {
		t.Errorf("left are %q", r.debris(t))
	}

	// Deleted, its bundle stays; purged, all goes.
	if what, err := r.Survey(t.Context(), e); err != nil || len(what.Files) != 1 || len(what.Kept) != 1 || what.Kept[0].File != at.String() {
		t.Errorf("what would go is %+v, %v", what, err)
	}
	if err := r.Delete(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if now := cloud.S3.Keys(at.bucket); !slices.Equal(now, keys) {
		t.Errorf("after its deletion there are %q", now)
	}
	e = r.put(t, "größe 1", img)
	what, err := r.SurveyPurge(t.Context(), e)
	if err != nil || len(what.Files) != 1 || !strings.Contains(what.Files[0], "4 objects") {
		t.Errorf("what would go is %+v, %v", what, err)
	}
	if err := r.Purge(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if now := cloud.S3.Keys(at.bucket); !slices.Equal(now, keys) {
		t.Errorf("after it was purged there are %q", now)
	}
}

// TestReplaced puts a new image in the place of one: the old one goes when the new one is
// there, and not when that fails.
func TestReplaced(t *testing.T) {
	cloud := ec2test.Start(t, ec2test.Options{})
	r := newRig(t, cloud, "alice")
	img := disktest.Pattern(2<<20, nil)
	old := r.put(t, "web", img)
	newer := disktest.Pattern(3<<20, nil)
	spec := specOf("web", newer)
	spec.Replaces = &old
	cloud.Trouble(ec2test.Trouble{On: "RegisterImage", Do: ec2test.Status, Status: 400, Code: "InvalidManifest", Message: "no"})
	if _, err := r.upload(t, spec, newer); err == nil {
		t.Fatal("what the cloud refuses is there")
	}
	r.holds(t, old, img)
	e, err := r.upload(t, spec, newer)
	if err != nil {
		t.Fatal(err)
	}
	r.holds(t, e, newer)
	list, err := r.List(t.Context(), providers.Images)
	if err != nil || len(list) != 1 || list[0].ID != e.ID || list[0].Name != "web" || len(r.debrisButBundles(t)) > 0 {
		t.Errorf("listed are %+v, %v, left are %q", list, err, r.debrisButBundles(t))
	}
}

// debrisButBundles is debris without the objects of complete bundles.
func (r *rig) debrisButBundles(t *testing.T) []string {
	t.Helper()
	return slices.DeleteFunc(r.debris(t), func(s string) bool { return strings.HasPrefix(s, "object ") })
}

// TestStubs has a cloud that answers with success and does something else.
func TestStubs(t *testing.T) {
	cloud := ec2test.Start(t, ec2test.Options{})
	r := newRig(t, cloud, "alice")
	img := disktest.Pattern(1<<20, nil)
	for name, tr := range map[string]ec2test.Trouble{
		"a page":    {On: "RegisterImage", Do: ec2test.Page},
		"a refusal": {On: "RegisterImage", Do: ec2test.Status, Status: 400, Code: "AuthFailure", Message: "Manifest is not accessible"},
		"no tags":   {On: "CreateTags", Do: ec2test.Status, Status: 400, Code: "TagLimitExceeded", Message: "enough"},
		"not done":  {On: "ModifyImageAttribute", Do: ec2test.Status, Status: 400, Code: "InvalidParameterValue", Message: "no"},
	} {
		cloud.Trouble(tr)
		if _, err := r.upload(t, specOf("web", img), img); err == nil {
			t.Errorf("%s: the upload has succeeded", name)
		}
		if ids := cloud.ImageIDs(); len(ids) != 0 {
			t.Errorf("%s: registered are %q", name, ids)
		}
		if left := r.debris(t); len(left) > 0 {
			t.Errorf("%s: left are %q", name, left)
		}
	}
}

// TestLostAnswers loses the answers of what makes or removes something.
func TestLostAnswers(t *testing.T) {
	cloud := ec2test.Start(t, ec2test.Options{})
	r := newRig(t, cloud, "alice", func(o *Options) { o.Retry = 5 * time.Second })
	img := disktest.Pattern(1<<20, nil)
	for _, action := range []string{"RegisterImage", "CreateTags", "ModifyImageAttribute", "DescribeImages"} {
		cloud.Trouble(ec2test.Trouble{On: action, Do: ec2test.Lost})
		e, err := r.upload(t, specOf("web", img), img)
		if err != nil {
			t.Errorf("%s: %v", action, err)
			continue
		}
		if ids := cloud.ImageIDs(); len(ids) != 1 {
			t.Errorf("%s: registered are %q", action, ids)
		}
		cloud.Trouble(ec2test.Trouble{On: "DeregisterImage", Do: ec2test.Lost})
		r.remove(t, e)
	}
	if left := r.debris(t); len(left) > 0 {
		t.Errorf("left are %q", left)
	}
}

// TestKilled kills a process in the middle of an upload, by SIGKILL, and takes that up: what
// is there is not sent again. Killed again before the end, it is removed.
func TestKilled(t *testing.T) {
	cloud := ec2test.Start(t, ec2test.Options{})
	r := newRig(t, cloud, "alice")
	img := noise(32 << 20)
	bucket := "chromogenic-" + r.account.Number
	start := func(after int) (token string) {
		t.Helper()
		child := exec.Command(os.Args[0], "-test.run=^$")
		child.Env = append(os.Environ(), "EUCA_TEST_CHILD="+r.o.Eucarc, "EUCA_TEST_DIR="+r.o.Dir, fmt.Sprint("EUCA_TEST_PARTS=", after))
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		token = ""
		for lines := bufio.NewScanner(out); token == "" && lines.Scan(); {
			token, _ = strings.CutPrefix(lines.Text(), "token ")
			if token == lines.Text() {
				token = ""
			}
		}
		go io.Copy(io.Discard, out)
		if token == "" {
			child.Process.Kill()
			t.Fatal("the child says no token")
		}
		for began := time.Now(); len(parts(cloud.S3.Keys(bucket))) < after; time.Sleep(10 * time.Millisecond) {
			if time.Since(began) > 20*time.Second {
				child.Process.Kill()
				t.Fatalf("there are %q after 20 s", cloud.S3.Keys(bucket))
			}
		}
		if _, err := r.Resume(t.Context(), providers.Spec{}, []byte(token)); disk.KindOf(err) != disk.Busy {
			t.Errorf("an upload whose process lives is resumed: %v", err)
		}
		if left, err := r.Leftovers(t.Context()); err != nil || len(left) != 0 {
			t.Errorf("an upload whose process lives is left over: %q, %v", left, err)
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = child.Wait()
		return token
	}

	token := start(2)
	if left, err := r.Leftovers(t.Context()); err != nil || len(left) != 1 || left[0] != specOf("", img).Job+"/"+token {
		t.Errorf("left over are %q, %v", left, err)
	}
	if len(cloud.ImageIDs()) != 0 {
		t.Errorf("registered are %q", cloud.ImageIDs())
	}
	info, err := os.Stat(filepath.Join(r.o.Dir, token+journalEnd))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("the journal is %v, %v", info, err)
	}
	had := len(parts(cloud.S3.Keys(bucket)))
	cloud.S3.ResetTraffic()
	u, err := r.Resume(t.Context(), specOf("web", img), []byte(token))
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Send(t.Context(), img, func(int64) {}); err != nil {
		t.Fatal(err)
	}
	if puts := cloud.S3.Traffic().Requests["PUT"]; had != 2 || puts != 4-had+1 { // and the index
		t.Errorf("%d objects were put, with %d of 4 parts there", puts, had)
	}
	if _, err := u.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	e, err := u.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.holds(t, e, img)
	if left := r.debris(t); len(left) > 0 {
		t.Errorf("left are %q", left)
	}
	if _, err := r.Resume(t.Context(), specOf("web", img), []byte(token)); disk.KindOf(err) != disk.NotFound {
		t.Errorf("an upload that is over is resumed: %v", err)
	}
	r.remove(t, e)

	// What is left over can be released, and another job's spec ends it.
	token = start(1)
	if err := r.Release(t.Context(), specOf("", img).Job+"/"+token); err != nil {
		t.Fatal(err)
	}
	if left := r.debris(t); len(left) > 0 {
		t.Errorf("left after the release are %q", left)
	}
	token = start(1)
	other := specOf("web", img)
	other.Size++
	if _, err := r.Resume(t.Context(), other, []byte(token)); disk.KindOf(err) != disk.Invalid {
		t.Errorf("an upload of another image is resumed: %v", err)
	}
	if left := r.debris(t); len(left) > 0 {
		t.Errorf("left after that are %q", left)
	}
}

func parts(keys []string) []string {
	return slices.DeleteFunc(keys, func(k string) bool { return !strings.Contains(k, ".part.") })
}

// TestMain is also the process that TestKilled kills.
func TestMain(m *testing.M) {
	if rc := os.Getenv("EUCA_TEST_CHILD"); rc != "" {
		fmt.Fprintln(os.Stderr, "the process to be killed ends:", sendSome(rc))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// sendSome sends some parts of an image, whose source then hangs.
func sendSome(rc string) error {
	parts, err := strconv.ParseInt(os.Getenv("EUCA_TEST_PARTS"), 10, 64)
	if err != nil {
		return err
	}
	p, err := New(Options{Name: "euca", Eucarc: rc, Dir: os.Getenv("EUCA_TEST_DIR"), Index: true, Stall: time.Minute})
	if err != nil {
		return err
	}
	// It hangs in the middle of the part behind those.
	img := disktest.Faulty(noise(32<<20), disktest.Faults{Range: disk.Extent{Off: parts*bundle.PartSize + 5<<20, Len: 1}, Hang: true})
	u, err := p.Begin(context.Background(), specOf("web", img))
	if err != nil {
		return err
	}
	fmt.Println("token", string(u.Token()))
	return u.Send(context.Background(), img, func(int64) {})
}

// TestCutOff ends a commit at every step, as a crash does, and looks at what the next process
// makes of it.
func TestCutOff(t *testing.T) {
	cloud := ec2test.Start(t, ec2test.Options{})
	img := disktest.Pattern(1<<20, nil)
	for _, action := range []string{"RegisterImage", "CreateTags", "ModifyImageAttribute"} {
		r := newRig(t, cloud, "alice")
		u, err := r.Begin(t.Context(), specOf("web", img))
		if err != nil {
			t.Fatal(err)
		}
		err = u.Send(t.Context(), img, func(int64) {})
		if err == nil {
			_, err = u.Verify(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		cloud.Trouble(ec2test.Trouble{On: action, Do: ec2test.Status, Status: 400, Code: "InvalidParameterValue", Message: "no"})
		if _, err := u.Commit(t.Context()); err == nil {
			t.Fatalf("%s: it is committed", action)
		}
		if err := u.Suspend(); err != nil { // the process is gone
			t.Fatal(err)
		}
		if list, err := r.List(t.Context(), providers.Images); err != nil || len(list) != 0 {
			t.Errorf("%s: half registered is %+v, %v", action, list, err)
		}
		next := *r
		if next.Provider, err = New(r.o); err != nil {
			t.Fatal(err)
		}
		again, err := next.Resume(t.Context(), specOf("web", img), u.Token())
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Send(t.Context(), img, func(int64) {}); err != nil {
			t.Fatal(err)
		}
		if _, err := again.Verify(t.Context()); err != nil {
			t.Fatal(err)
		}
		e, err := again.Commit(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", action, err)
		}
		next.holds(t, e, img)
		if i, err := next.record(t.Context(), e.ID); err != nil || i.Name != "web" {
			t.Errorf("%s: the cloud calls it %q, %v", action, i.Name, err)
		}
		if ids := cloud.ImageIDs(); len(ids) != 1 {
			t.Errorf("%s: registered are %q", action, ids)
		}
		next.remove(t, e)
		if left := next.debris(t); len(left) > 0 {
			t.Errorf("%s: left are %q", action, left)
		}
	}
}

// TestLostJournal finds an image that a process on this machine has registered and left, and
// whose journal is gone.
func TestLostJournal(t *testing.T) {
	cloud := ec2test.Start(t, ec2test.Options{})
	r := newRig(t, cloud, "alice")
	e := r.put(t, "web", disktest.Pattern(1<<20, nil))
	gone := fmt.Sprintf("%s:%d", process.Machine(), 1<<22+1)
	if err := r.current.ec2.SetDescription(t.Context(), e.ID, marked(stateCommit, "JOB", gone)); err != nil {
		t.Fatal(err)
	}
	if list, err := r.List(t.Context(), providers.Images); err != nil || len(list) != 0 {
		t.Errorf("it is listed: %+v, %v", list, err)
	}
	left, err := r.Leftovers(t.Context())
	if err != nil || len(left) != 1 || left[0] != "JOB/"+e.ID {
		t.Fatalf("left over are %q, %v", left, err)
	}
	if err := r.Release(t.Context(), left[0]); err != nil {
		t.Fatal(err)
	}
	if ids, keys := cloud.ImageIDs(), r.debris(t); len(ids)+len(keys) != 0 {
		t.Errorf("left are %q and %q", ids, keys)
	}
	whole := r.put(t, "web", disktest.Pattern(1<<20, nil))
	if err := r.Release(t.Context(), "JOB/"+whole.ID); disk.KindOf(err) != disk.NotFound {
		t.Errorf("an image that is whole is released: %v", err)
	}
}

// TestJournals gives journals that are none.
func TestJournals(t *testing.T) {
	r := &rig{dir: alone(t)}
	p, err := New(Options{Name: "euca", Dir: r.dir})
	if err != nil {
		t.Fatal(err)
	}
	good := journal{Schema: 1, Bucket: "b", Folder: "web-0011223344556677/", Bundle: "web"}
	for name, change := range map[string]func(j *journal){
		"schema":    func(j *journal) { j.Schema = 2 },
		"bucket":    func(j *journal) { j.Bucket = "" },
		"folder":    func(j *journal) { j.Folder = "web/" },
		"no folder": func(j *journal) { j.Folder = "" },
	} {
		j := good
		change(&j)
		text, err := json.Marshal(j)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(r.dir, "0011223344556677.journal"), string(text))
		if _, err := p.journal("0011223344556677"); disk.KindOf(err) != disk.Malformed {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, token := range []string{"", "..", "../x", "0011", "zz11223344556677", "ff11223344556677"} {
		if _, err := p.journal(token); disk.KindOf(err) != disk.NotFound {
			t.Errorf("token %q: %v", token, err)
		}
	}
}
