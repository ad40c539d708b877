package ec2_test

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
	"chromogenic/providers/internal/bundle"
	"chromogenic/providers/internal/ec2"
	"chromogenic/providers/internal/ec2test"
)

// wait polls a task until it has ended.
func wait(t *testing.T, c *ec2.Client, id string) ec2.BundleTask {
	t.Helper()
	for range 600 {
		list, err := c.BundleTasks(t.Context(), id)
		if err != nil || len(list) != 1 {
			t.Fatalf("%v, %v", list, err)
		}
		if list[0].Done() {
			return list[0]
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("the bundle does not end")
	return ec2.BundleTask{}
}

// spool holds a disk.
type spool struct{ p []byte }

func (s *spool) Begin(size, _ int64) error { s.p = make([]byte, size); return nil }

func (s *spool) WriteAt(p []byte, off int64) (int, error) { return copy(s.p[off:], p), nil }

// An instance is bundled by the cloud, goes through its states, runs again, and what was
// written is its disk; it can be registered.
func TestBundleInstance(t *testing.T) {
	for _, aws := range []bool{false, true} {
		states := make(chan string, 10)
		next := make(chan bool)
		c := ec2test.Start(t, ec2test.Options{AWSStates: aws, Pace: func(task, state string) {
			states <- state
			<-next
		}})
		alice := client(t, c, "alice", nil)
		img := disktest.Pattern(25<<20, func(b int64) bool { return b%3 != 0 })
		v := c.Launch(c.Account("alice"), ec2test.Instance{Disk: img, Image: "emi-11111111", Tags: map[string]string{"Name": "web"}})
		task, err := alice.BundleInstance(t.Context(), v, target(c, "alice", "captures", "web-1"))
		if err != nil || task.State != "pending" || task.Instance != v || task.Prefix != "web-1" || time.Since(task.Started).Abs() > time.Minute {
			t.Fatalf("%+v, %v", task, err)
		}
		if _, err := alice.BundleInstance(t.Context(), v, target(c, "alice", "captures", "web-2")); disk.KindOf(err) != disk.Busy {
			t.Errorf("a second one: %v", err)
		}
		want := []string{"storing", "complete"}
		if aws {
			want = []string{"waiting-for-shutdown", "bundling", "storing", "complete"}
		}
		for _, state := range want {
			if got := <-states; got != state {
				t.Errorf("it enters %q, not %q", got, state)
			}
			next <- true
		}
		if task = wait(t, alice, task.ID); task.State != ec2.BundleComplete || task.ErrorCode != "" {
			t.Fatalf("%+v", task)
		}
		list, err := alice.Instances(t.Context(), v)
		if err != nil || len(list) != 1 || list[0].State != "running" || list[0].Image != "emi-11111111" || list[0].Tags["Name"] != "web" || c.Instance(v).Restarts != 1 {
			t.Errorf("%+v, %v", list, err)
		}
		text := must(c.S3.Get("captures", "web-1.manifest.xml"))
		m := must(bundle.Parse(text))
		if err := m.CheckUser(c.Account("alice").Number); err != nil {
			t.Error(err)
		}
		var s spool
		err = bundle.Unbundle(t.Context(), m, must(m.Secret(c.Account("alice").Key)), func(_ context.Context, part string, off, n int64) (io.ReadCloser, error) {
			p, err := c.S3.Get("captures", part)
			return io.NopCloser(bytes.NewReader(p[off:])), err
		}, &s, nil)
		if err != nil {
			t.Fatal(err)
		}
		disktest.Compare(t, disk.Bytes(s.p), img)
		if c.S3.ACL("captures", "web-1.manifest.xml") != "ec2-bundle-read" {
			t.Error("it is not for the cloud to read")
		}
		if _, err := alice.Register(t.Context(), ec2.Registration{Name: "captured", Location: "captures/web-1.manifest.xml", Virtualization: "hvm", Architecture: "x86_64"}); err != nil {
			t.Error(err)
		}
		if _, err := alice.BundleInstance(t.Context(), v, target(c, "alice", "captures", "web-1")); disk.KindOf(err) != disk.Exists {
			t.Errorf("the same prefix: %v", err)
		}
	}
}

// A node without the user's certificate makes what nobody but the cloud can read.
func TestSealedForTheCloud(t *testing.T) {
	c := ec2test.Start(t, ec2test.Options{CloudSeals: true})
	alice := client(t, c, "alice", nil)
	v := c.Launch(c.Account("alice"), ec2test.Instance{})
	task := must(alice.BundleInstance(t.Context(), v, target(c, "alice", "captures", "web-1")))
	wait(t, alice, task.ID)
	m := must(bundle.Parse(must(c.S3.Get("captures", "web-1.manifest.xml"))))
	if _, err := m.Secret(c.Account("alice").Key); disk.KindOf(err) != disk.Denied {
		t.Errorf("alice: %v", err)
	}
	if _, err := m.Secret(c.Key); err != nil {
		t.Errorf("the cloud: %v", err)
	}
}

// A bundle that fails, or is cancelled, leaves nothing and an instance that runs.
func TestBundleEndsBadly(t *testing.T) {
	for _, tt := range []struct {
		name, state, code string
		make              func(c *ec2test.Cloud) ec2.BundleTarget
		meanwhile         func(t *testing.T, c *ec2test.Cloud, alice *ec2.Client, id string)
	}{
		{name: "failure", state: ec2.BundleFailed, code: "Server.Fault", meanwhile: func(_ *testing.T, c *ec2test.Cloud, _ *ec2.Client, _ string) {
			c.FailBundles("Server.Fault", "no space on the node")
		}},
		{name: "policy", state: ec2.BundleFailed, code: "BundleFailed", make: func(c *ec2test.Cloud) ec2.BundleTarget {
			to := target(c, "alice", "captures", "web-1")
			to.Policy = ec2.PolicyFor("captures", "other", time.Now().Add(time.Hour))
			_, to.Signature = ec2.SignPolicy(c.Account("alice").Secret, to.Policy)
			return to
		}},
		{name: "expired policy", state: ec2.BundleFailed, code: "BundleFailed", make: func(c *ec2test.Cloud) ec2.BundleTarget {
			to := target(c, "alice", "captures", "web-1")
			to.Policy = ec2.PolicyFor("captures", "web-1", time.Now().Add(-time.Second))
			_, to.Signature = ec2.SignPolicy(c.Account("alice").Secret, to.Policy)
			return to
		}},
		{name: "cancelled", state: ec2.BundleCancelled, meanwhile: func(t *testing.T, _ *ec2test.Cloud, alice *ec2.Client, id string) {
			ok(t, alice.CancelBundle(t.Context(), id))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			go1 := make(chan bool)
			c := ec2test.Start(t, ec2test.Options{Pace: func(_, state string) {
				if state == "storing" {
					<-go1
				}
			}})
			alice := client(t, c, "alice", nil)
			v := c.Launch(c.Account("alice"), ec2test.Instance{})
			to := target(c, "alice", "captures", "web-1")
			if tt.make != nil {
				to = tt.make(c)
			}
			task, err := alice.BundleInstance(t.Context(), v, to)
			if err != nil {
				t.Fatal(err)
			}
			if tt.meanwhile != nil {
				tt.meanwhile(t, c, alice, task.ID)
			}
			close(go1)
			if task = wait(t, alice, task.ID); task.State != tt.state || task.ErrorCode != tt.code {
				t.Errorf("%+v", task)
			}
			if keys := c.S3.Keys("captures"); len(keys) != 0 {
				t.Errorf("it leaves %v", keys)
			}
			if i := c.Instance(v); i.State != "running" || i.Restarts != 1 {
				t.Errorf("%+v", i)
			}
			if err := alice.CancelBundle(t.Context(), task.ID); disk.KindOf(err) != disk.Busy {
				t.Errorf("cancelled behind its end: %v", err)
			}
			if err := alice.CancelBundle(t.Context(), "bun-00000000"); disk.KindOf(err) != disk.NotFound {
				t.Errorf("cancelled though there is none: %v", err)
			}
		})
	}
}

func TestBundleRefused(t *testing.T) {
	c := ec2test.Start(t, ec2test.Options{})
	alice := client(t, c, "alice", nil)
	v := c.Launch(c.Account("alice"), ec2test.Instance{})
	ok(t, c.S3.Put(c.Account("bob"), "bobs", "x", "", nil))
	for _, tt := range []struct {
		name   string
		change func(to *ec2.BundleTarget)
		id     string
		kind   disk.Kind
		code   string
	}{
		{"bucket", func(to *ec2.BundleTarget) { to.Bucket = "a/b" }, v, disk.Invalid, "InvalidParameterValue"},
		{"bob's bucket", func(to *ec2.BundleTarget) { to.Bucket = "bobs" }, v, disk.Exists, "InternalFailure"},
		{"prefix", func(to *ec2.BundleTarget) { to.Prefix = "a/b" }, v, disk.Invalid, "InvalidParameterValue"},
		{"signature", func(to *ec2.BundleTarget) { _, to.Signature = ec2.SignPolicy("wrong", to.Policy) }, v, disk.Invalid, "InvalidParameterValue"},
		{"key", func(to *ec2.BundleTarget) { to.AccessKey = "AKINONE" }, v, disk.Invalid, "InvalidParameterValue"},
		{"policy", func(to *ec2.BundleTarget) { to.Policy = []byte("{") }, v, disk.Invalid, "InvalidParameterValue"},
		{"long policy", func(to *ec2.BundleTarget) { to.Policy = bytes.Repeat([]byte(" "), 4000) }, v, disk.Invalid, "InvalidParameterValue"},
		{"policy for others", func(to *ec2.BundleTarget) {
			to.Policy = []byte(`{"expiration":"2099-01-01T00:00:00Z","conditions":[{"acl":"private"},{"bucket":"captures"}]}`)
			_, to.Signature = ec2.SignPolicy(c.Account("alice").Secret, to.Policy)
		}, v, disk.Invalid, "InternalFailure"},
		{"no instance", nil, "i-00000000", disk.NotFound, "InvalidInstanceID.NotFound"},
		{"no id", nil, "web", disk.Invalid, "InvalidInstanceID.Malformed"},
	} {
		once := client(t, c, "alice", func(o *ec2.Options) { o.Retry = providers.NewRetry(time.Nanosecond, 1) })
		to := target(c, "alice", "captures", "web-1")
		if tt.change != nil {
			tt.change(&to)
		}
		task, err := once.BundleInstance(t.Context(), tt.id, to)
		if disk.KindOf(err) != tt.kind || ec2.Code(err) != tt.code {
			t.Errorf("%s: %+v, %v %q: %v", tt.name, task, disk.KindOf(err), ec2.Code(err), err)
		}
		if err != nil && strings.Contains(err.Error(), c.Account("alice").Secret) {
			t.Errorf("%s tells the secret", tt.name)
		}
	}
	c.SetInstance(v, func(i *ec2test.Instance) { i.State = "pending" })
	if _, err := alice.BundleInstance(t.Context(), v, target(c, "alice", "captures", "web-1")); disk.KindOf(err) != disk.Busy {
		t.Errorf("one that does not run: %v", err)
	}
}

func TestCreateImage(t *testing.T) {
	c := ec2test.Start(t, ec2test.Options{})
	alice := client(t, c, "alice", nil)
	small := c.Launch(c.Account("alice"), ec2test.Instance{})
	if id, err := alice.CreateImage(t.Context(), small, "web", "", true); disk.KindOf(err) != disk.Unsupported || c.Requests("CreateImage") != 1 {
		t.Errorf("of instance-store: %q, %v", id, err)
	}
	v := c.Launch(c.Account("alice"), ec2test.Instance{EBS: "vol-12345678"})
	c.Trouble(ec2test.Trouble{On: "CreateImage", Do: ec2test.Lost})
	id, err := alice.CreateImage(t.Context(), v, "web", "of today", true)
	if err != nil || c.Requests("CreateImage") != 3 {
		t.Fatalf("%q, %v after %d tries", id, err, c.Requests("CreateImage"))
	}
	list, err := alice.Images(t.Context(), ec2.ImageFilter{IDs: []string{id}})
	if err != nil || list[0].State != "pending" || list[0].RootDeviceType != ec2.EBS || len(c.ImageIDs()) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	if !c.SetImageState(id, "available") {
		t.Error("there is no such image")
	}
	got, err := alice.Instances(t.Context(), v)
	if err != nil || len(got) != 1 || got[0].RootDeviceType != ec2.EBS || len(got[0].BlockDevices) != 1 || got[0].BlockDevices[0].Volume != "vol-12345678" || !got[0].BlockDevices[0].Delete {
		t.Errorf("%+v, %v", got, err)
	}
}
