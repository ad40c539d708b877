package eucalyptus

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
	"chromogenic/providers/internal/ec2test"
)

// launch runs an instance and gives its entry.
func (r *rig) launch(t *testing.T, i ec2test.Instance) providers.Entry {
	t.Helper()
	id := r.cloud.Launch(r.account, i)
	list, err := r.List(t.Context(), providers.Instances)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if e.ID == id {
			return e
		}
	}
	t.Fatalf("instance %s is not among %+v", id, list)
	return providers.Entry{}
}

const captureJob = "20261121T030000Z-0a1b2c"

// TestMayRestart captures only who may restart the instance.
func TestMayRestart(t *testing.T) {
	cloud := ec2test.Start(t, ec2test.Options{AWSStates: true})
	r := newRig(t, cloud, "alice")
	img := disktest.Pattern(3<<20, nil)
	e := r.launch(t, ec2test.Instance{Disk: img, Tags: map[string]string{"Name": "web"}})
	if e.Name != "web" || e.Reason != "" || !e.Live() {
		t.Errorf("it is listed as %+v", e)
	}
	ask := map[string]func(spec providers.SnapSpec) error{
		"snapshot": func(spec providers.SnapSpec) error {
			s, err := r.Snapshot(t.Context(), e, spec)
			if err == nil {
				var got disk.Image
				if got, err = fetched(t.Context(), s.Disks[0].Image); err == nil {
					disktest.Compare(t, got, img)
				}
				s.Disks[0].Close()
				if err := r.Release(t.Context(), s.ID); err != nil {
					t.Error(err)
				}
			}
			return err
		},
		"keep": func(spec providers.SnapSpec) error {
			kept, err := r.Keep(t.Context(), e, spec)
			if err == nil {
				r.holds(t, kept, img)
				err = r.DeleteCapture(t.Context(), kept)
			}
			return err
		},
		"image": func(spec providers.SnapSpec) error {
			i, _, err := r.CreateImage(t.Context(), e, spec, providers.Spec{Job: captureJob, Name: "made", Size: -1})
			if err != nil {
				return err
			}
			if _, err := i.Verify(t.Context()); err != nil {
				return err
			}
			if list, err := r.List(t.Context(), providers.Images); err != nil || len(list) != 0 {
				t.Errorf("before it is committed %+v is listed, %v", list, err)
			}
			made, err := i.Commit(t.Context())
			if err != nil {
				return err
			}
			if made.Name != "made" {
				t.Errorf("it is %+v", made)
			}
			r.holds(t, made, img)
			return r.Purge(t.Context(), made)
		},
	}
	restarts := 0
	for name, do := range ask {
		err := do(providers.SnapSpec{Job: captureJob})
		if disk.KindOf(err) != disk.Policy || !strings.Contains(disk.AsError(err).Hint, "capture --yes-restart") {
			t.Errorf("%s: %v (%s)", name, err, disk.AsError(err).Hint)
		}
		if cloud.Requests("BundleInstance") != restarts {
			t.Errorf("%s: the cloud was asked to bundle", name)
		}
		err = do(providers.SnapSpec{Job: captureJob, MayRestart: true})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if restarts++; cloud.Instance(e.ID).Restarts != restarts {
			t.Errorf("%s: it was restarted %d times, want %d", name, cloud.Instance(e.ID).Restarts, restarts)
		}
		if left := r.debris(t); len(left) > 0 {
			t.Errorf("%s: left are %q", name, left)
		}
		for _, spec := range []providers.SnapSpec{{RequireStopped: true, MayRestart: true}, {RequireFrozen: true, MayRestart: true}} {
			if err := do(spec); disk.KindOf(err) != disk.Unsupported {
				t.Errorf("%s with %+v: %v", name, spec, err)
			}
		}
	}
}

// TestWaits tells the states of the cloud's task.
func TestWaits(t *testing.T) {
	cloud := ec2test.Start(t, ec2test.Options{AWSStates: true, Pace: func(_, _ string) { time.Sleep(100 * time.Millisecond) }})
	r := newRig(t, cloud, "alice", func(o *Options) { o.MayRestart = true })
	e := r.launch(t, ec2test.Instance{Disk: disktest.Pattern(1<<20, nil)})
	var seen strings.Builder
	ctx := providers.Watch(t.Context(), func(state string) { seen.WriteString(state + "\n") })
	s, err := r.Snapshot(ctx, e, providers.SnapSpec{Job: captureJob})
	if err != nil {
		t.Fatal(err)
	}
	for _, state := range []string{"pending", "bundling"} {
		if !strings.Contains(seen.String(), state) {
			t.Errorf("seen was %q", seen.String())
		}
	}
	s.Disks[0].Close()
	if err := r.Release(t.Context(), s.ID); err != nil {
		t.Error(err)
	}
}

// TestBundleFails has the cloud fail to bundle, and nobody wait for it: nothing is left.
func TestBundleFails(t *testing.T) {
	hold, held := make(chan struct{}), atomic.Bool{}
	cloud := ec2test.Start(t, ec2test.Options{Pace: func(_, state string) {
		if held.Load() && state == "storing" {
			<-hold
		}
	}})
	r := newRig(t, cloud, "alice", func(o *Options) { o.MayRestart = true })
	e := r.launch(t, ec2test.Instance{Disk: disktest.Pattern(1<<20, nil)})
	do := func(ctx context.Context) error {
		_, err := r.Snapshot(ctx, e, providers.SnapSpec{Job: captureJob})
		return err
	}
	cloud.FailBundles("ServerInternal", "the node has no room")
	if err := do(t.Context()); err == nil || !strings.Contains(err.Error(), "the node has no room") {
		t.Errorf("it says %v", err)
	}
	cloud.FailBundles("", "")
	if left := r.debris(t); len(left) > 0 {
		t.Errorf("left are %q", left)
	}
	held.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(200*time.Millisecond, cancel)
	time.AfterFunc(500*time.Millisecond, func() { close(hold) })
	if err := do(ctx); disk.KindOf(err) != disk.Cancelled {
		t.Errorf("cancelled: %v", err)
	}
	held.Store(false)
	if cloud.Requests("CancelBundleTask") == 0 {
		t.Error("the task was not cancelled")
	}
	if left := r.debris(t); len(left) > 0 {
		t.Errorf("left are %q", left)
	}
	r.cloud.SetInstance(e.ID, func(i *ec2test.Instance) { i.State = "stopped" })
	if err := do(t.Context()); disk.KindOf(err) != disk.Unsupported {
		t.Errorf("a stopped instance: %v", err)
	}
}

// TestSealedForTheCloud has a cloud that bundles for itself alone: nobody can read that, and an
// image can be made of it all the same.
func TestSealedForTheCloud(t *testing.T) {
	cloud := ec2test.Start(t, ec2test.Options{CloudSeals: true})
	r := newRig(t, cloud, "alice", func(o *Options) { o.MayRestart = true })
	e := r.launch(t, ec2test.Instance{Disk: disktest.Pattern(1<<20, nil)})
	_, err := r.Snapshot(t.Context(), e, providers.SnapSpec{Job: captureJob})
	if disk.KindOf(err) != disk.Denied || !strings.Contains(disk.AsError(err).Hint, "--image") {
		t.Errorf("it says %v (%s)", err, disk.AsError(err).Hint)
	}
	if _, err := r.Keep(t.Context(), e, providers.SnapSpec{Job: captureJob}); disk.KindOf(err) != disk.Denied {
		t.Errorf("a capture: %v", err)
	}
	if left := r.debris(t); len(left) > 0 || len(cloud.ImageIDs()) > 0 {
		t.Errorf("left are %q and %q", left, cloud.ImageIDs())
	}
	i, _, err := r.CreateImage(t.Context(), e, providers.SnapSpec{Job: captureJob}, providers.Spec{Job: captureJob, Name: "made", Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	made, err := i.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.read(t.Context(), made); disk.KindOf(err) != disk.Denied {
		t.Errorf("what the cloud has sealed for itself is read: %v", err)
	}
}

// TestVolumes lists what boots from a volume: nobody reads that, and the cloud makes images of
// it.
func TestVolumes(t *testing.T) {
	cloud := ec2test.Start(t, ec2test.Options{})
	r := newRig(t, cloud, "alice")
	e := r.launch(t, ec2test.Instance{EBS: "vol-00000001"})
	if e.Reason == "" {
		t.Errorf("it is listed as %+v", e)
	}
	if _, err := r.Snapshot(t.Context(), e, providers.SnapSpec{MayRestart: true}); disk.KindOf(err) != disk.Unsupported {
		t.Errorf("a snapshot: %v", err)
	}
	if _, err := r.Open(t.Context(), e, 0); disk.KindOf(err) != disk.Unsupported {
		t.Errorf("opened: %v", err)
	}
	finish := func(state string) (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			for pause(ctx, 20*time.Millisecond) == nil {
				for _, id := range cloud.ImageIDs() {
					cloud.SetImageState(id, state)
				}
			}
		}()
		return func() { cancel(); <-done }
	}
	stop := finish("failed")
	_, _, err := r.CreateImage(t.Context(), e, providers.SnapSpec{Job: captureJob}, providers.Spec{Job: captureJob, Name: "failed", Size: -1})
	if err == nil || !strings.Contains(err.Error(), "is failed") {
		t.Errorf("an image that fails: %v", err)
	}
	if ids := cloud.ImageIDs(); len(ids) != 0 {
		t.Errorf("left are %q", ids)
	}
	stop()
	defer finish("available")()
	i, _, err := r.CreateImage(t.Context(), e, providers.SnapSpec{Job: captureJob}, providers.Spec{Job: captureJob, Name: "größe", Size: -1, Mtime: time.Unix(1600000000, 0)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	made, err := i.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if made.Name != "größe" || made.Reason == "" || !made.Updated.Equal(time.Unix(1600000000, 0)) {
		t.Errorf("it is %+v", made)
	}
	if _, err := r.Open(t.Context(), made, 0); disk.KindOf(err) != disk.Unsupported || !strings.Contains(err.Error(), "attach a volume") {
		t.Errorf("opened: %v", err)
	}
	if _, _, err := r.CreateImage(t.Context(), e, providers.SnapSpec{}, providers.Spec{Name: "größe"}); disk.KindOf(err) != disk.Exists {
		t.Errorf("a second one of the name: %v", err)
	}
}

// TestLeftCaptures finds the bundle that a capture has left whose process is gone.
func TestLeftCaptures(t *testing.T) {
	cloud := ec2test.Start(t, ec2test.Options{})
	r := newRig(t, cloud, "alice", func(o *Options) { o.MayRestart = true })
	e := r.launch(t, ec2test.Instance{Disk: disktest.Pattern(1<<20, nil)})
	s, err := r.Snapshot(t.Context(), e, providers.SnapSpec{Job: captureJob})
	if err != nil {
		t.Fatal(err)
	}
	s.Disks[0].Close()
	next, err := New(r.o)
	if err != nil {
		t.Fatal(err)
	}
	if left, err := next.Leftovers(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("a snapshot in use is left over: %q, %v", left, err)
	}
	for _, j := range r.held { // the process ends
		j.close()
	}
	left, err := next.Leftovers(t.Context())
	if err != nil || len(left) != 1 || left[0] != s.ID {
		t.Fatalf("left over are %q, %v", left, err)
	}
	if err := next.Release(t.Context(), left[0]); err != nil {
		t.Fatal(err)
	}
	if left := r.debris(t); len(left) > 0 {
		t.Errorf("left are %q", left)
	}
}

// TestNode reads the disk of an instance from its node: from a real sshd, with the programs of
// this machine.
func TestNode(t *testing.T) {
	cloud := ec2test.Start(t, ec2test.Options{})
	r := newRig(t, cloud, "alice")
	node := newNode(t, r.dir)
	img := disktest.Pattern(9<<20+512, func(b int64) bool { return b%7 == 2 })
	e := r.launch(t, ec2test.Instance{Disk: img, Tags: map[string]string{"euca:node": node.host}})
	path := filepath.Join(node.dir, "it's a disk", r.account.Number, e.ID, "root.img")
	p, err := disktest.Read(img)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, string(p))
	access := NodeAccess{
		SSH: fmt.Sprintf("%s@%%h:%s", node.user, node.port), KeyFile: node.key, KnownHosts: node.known,
		Path: filepath.Join(node.dir, "it's a disk", "{owner}", "{instance}", "root.img"),
	}
	try := func(change func(*NodeAccess)) (providers.Snapshot, error) {
		a := access
		change(&a)
		o := r.o
		o.Nodes, o.Stall = &a, time.Second
		p, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		s, err := p.Snapshot(t.Context(), e, providers.SnapSpec{Job: captureJob})
		if err == nil {
			s.Disks[0].Image, err = fetched(t.Context(), s.Disks[0].Image)
			if err := p.Release(t.Context(), s.ID); err != nil {
				t.Error(err)
			}
		}
		return s, err
	}
	s, err := try(func(*NodeAccess) {})
	if err != nil {
		t.Fatal(err)
	}
	if s.Consistency != Torn {
		t.Errorf("it is %s", s.Consistency)
	}
	disktest.Compare(t, s.Disks[0].Image, img)
	if cloud.Requests("BundleInstance") != 0 || cloud.Instance(e.ID).Restarts != 0 {
		t.Error("the instance was restarted")
	}

	// Paused, it stands still meanwhile.
	trace := filepath.Join(node.dir, "virsh.log")
	writeFile(t, filepath.Join(node.dir, "bin", "virsh"), "#!/bin/sh\necho \"$@\" >> "+trace+"\n")
	if err := os.Chmod(filepath.Join(node.dir, "bin", "virsh"), 0o755); err != nil {
		t.Fatal(err)
	}
	if s, err = try(func(a *NodeAccess) { a.Pause = true }); err != nil || s.Consistency != providers.Crash {
		t.Fatalf("paused: %v, %v", s.Consistency, err)
	}
	log, err := os.ReadFile(trace)
	if want := fmt.Sprintf("-q suspend %s\n-q resume %[1]s\n", e.ID); err != nil || string(log) != want {
		t.Errorf("virsh was called with %q, %v", log, err)
	}

	for name, tt := range map[string]struct {
		change func(*NodeAccess)
		kind   disk.Kind
	}{
		"no disk":      {func(a *NodeAccess) { a.Path = "/nonexistent/{instance}" }, disk.NotFound},
		"unknown host": {func(a *NodeAccess) { a.KnownHosts = writeFile(t, filepath.Join(node.dir, "empty"), "") }, disk.Denied},
		"another key":  {func(a *NodeAccess) { a.KnownHosts = node.wrong }, disk.Denied},
		"no key":       {func(a *NodeAccess) { a.KeyFile = filepath.Join(node.dir, "none") }, disk.Denied},
		"stranger":     {func(a *NodeAccess) { a.KeyFile = node.stranger }, disk.Denied},
		"no node":      {func(a *NodeAccess) { a.SSH = node.user + "@127.0.0.1:1" }, disk.Unreachable},
		"cut off": {func(a *NodeAccess) {
			writeFile(t, filepath.Join(node.dir, "bin", "gzip"), "#!/bin/sh\n/usr/bin/env PATH=/usr/bin:/bin gzip \"$@\" | head -c 3000\n")
			if err := os.Chmod(filepath.Join(node.dir, "bin", "gzip"), 0o755); err != nil {
				t.Fatal(err)
			}
		}, disk.Malformed},
	} {
		_, err := try(tt.change)
		if disk.KindOf(err) != tt.kind {
			t.Errorf("%s: %v of kind %s, want %s", name, err, disk.KindOf(err), tt.kind)
		}
		os.Remove(filepath.Join(node.dir, "bin", "gzip"))
	}
	writeFile(t, filepath.Join(node.dir, "bin", "dd"), "#!/bin/sh\nexec sleep 60\n")
	if err := os.Chmod(filepath.Join(node.dir, "bin", "dd"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := try(func(a *NodeAccess) { a.Pause = true }); disk.KindOf(err) != disk.Timeout {
		t.Errorf("a node that hangs: %v of kind %s", err, disk.KindOf(err))
	}
	log, err = os.ReadFile(trace)
	if want := fmt.Sprintf("-q resume %s\n", e.ID); err != nil || !strings.HasSuffix(string(log), want) {
		t.Errorf("after a fetch that failed virsh was called with %q, %v", log, err)
	}
}

// A sshNode is an sshd on loopback.
type sshNode struct {
	dir, user, host, port                string
	key, stranger, known, wrong, hostKey string
}

func newNode(t *testing.T, dir string) *sshNode {
	t.Helper()
	for _, program := range []string{"/usr/sbin/sshd", "ssh-keygen", "gzip", "dd", "stat"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("%v; CI must have it", err)
			}
			t.Skipf("!!!!! NOT TESTED: %v", err)
		}
	}
	n := &sshNode{dir: filepath.Join(dir, "node"), host: "127.0.0.1", user: "root"}
	if os.Getuid() != 0 {
		n.user = os.Getenv("USER")
	} else if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(n.dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(n.dir, name) }
	for _, name := range []string{"host", "user", "stranger"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", in(name)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", in("host2")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	n.key, n.stranger, n.hostKey = in("user"), in("stranger"), in("host")
	pub := func(name string) string {
		text, err := os.ReadFile(in(name) + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	n.port = freePort(t)
	n.known = writeFile(t, in("known"), fmt.Sprintf("[127.0.0.1]:%s %s", n.port, pub("host")))
	n.wrong = writeFile(t, in("wrong"), fmt.Sprintf("[127.0.0.1]:%s %s", n.port, pub("stranger")))
	writeFile(t, in("authorized"), pub("user"))
	config := writeFile(t, in("sshd"), fmt.Sprintf(`Port %s
ListenAddress 127.0.0.1
HostKey %s
HostKey %s
PidFile none
AuthorizedKeysFile %s
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
SetEnv PATH=%s:/usr/sbin:/usr/bin:/sbin:/bin
`, n.port, in("host2"), in("host"), in("authorized"), in("bin")))
	sshd := exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", config)
	if err := sshd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = sshd.Process.Signal(syscall.SIGTERM)
		_ = sshd.Wait()
	})
	waitFor(t, "127.0.0.1:"+n.port)
	return n
}
