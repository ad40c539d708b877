package ec2_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"chromogenic/disk"
	"chromogenic/providers/internal/ec2"
	"chromogenic/providers/internal/ec2test"
)

// What fails once, and may be asked for again, is.
func TestAgain(t *testing.T) {
	for _, trouble := range []ec2test.Trouble{
		{Do: ec2test.Reset},
		{Do: ec2test.Lost},
		{Do: ec2test.Truncate, At: 100},
		{Do: ec2test.Status, Status: 503, Code: "ServiceUnavailable"},
		{Do: ec2test.Status, Status: 500, Code: "InternalFailure", Message: "database"},
		{Do: ec2test.Status, Status: 503, Code: "RequestLimitExceeded", RetryAfter: "1"},
	} {
		t.Run(string(trouble.Do)+trouble.Code, func(t *testing.T) {
			t.Parallel()
			c := ec2test.Start(t, ec2test.Options{})
			alice := client(t, c, "alice", nil)
			c.Launch(c.Account("alice"), ec2test.Instance{EBS: "vol-1"})
			v := c.Launch(c.Account("alice"), ec2test.Instance{})
			trouble.On = "DescribeInstances"
			c.Trouble(trouble)
			if list, err := alice.Instances(t.Context()); err != nil || len(list) != 2 {
				t.Errorf("%v, %v", list, err)
			}
			trouble.On = "RegisterImage"
			c.Trouble(trouble)
			id, err := alice.Register(t.Context(), ec2.Registration{Name: "web", Location: bundled(t, c, "alice", nil), Virtualization: "hvm"})
			if ids := c.ImageIDs(); err != nil || len(ids) != 1 || ids[0] != id || c.Requests("RegisterImage") != 2 {
				t.Errorf("%q, %v; there are %v after %d tries", id, err, ids, c.Requests("RegisterImage"))
			}
			trouble.On = "BundleInstance"
			c.Trouble(trouble)
			task, err := alice.BundleInstance(t.Context(), v, target(c, "alice", "backup", "web"))
			if err != nil || task.ID != "bun-"+v[2:] || task.Bucket != "backup" || c.Requests("BundleInstance") != 2 {
				t.Errorf("%+v, %v after %d tries", task, err, c.Requests("BundleInstance"))
			}
			trouble.On = "DeregisterImage"
			c.Trouble(trouble)
			if err := alice.Deregister(t.Context(), id); err != nil || len(c.ImageIDs()) != 0 {
				t.Errorf("%v, %v", err, c.ImageIDs())
			}
		})
	}
}

// A name that another image has, of another bundle, is not ours after a broken try.
func TestAgainTaken(t *testing.T) {
	c := ec2test.Start(t, ec2test.Options{})
	alice := client(t, c, "alice", nil)
	at := bundled(t, c, "alice", nil)
	if _, err := alice.Register(t.Context(), ec2.Registration{Name: "web", Location: at, Virtualization: "hvm"}); err != nil {
		t.Fatal(err)
	}
	c.Trouble(ec2test.Trouble{On: "RegisterImage", Do: ec2test.Reset})
	if id, err := alice.Register(t.Context(), ec2.Registration{Name: "web", Location: "images/other.manifest.xml", Virtualization: "hvm"}); disk.KindOf(err) != disk.Exists {
		t.Errorf("%q, %v", id, err)
	}
}

// A stub's empty success is an error.
func TestStub(t *testing.T) {
	c := ec2test.Start(t, ec2test.Options{})
	alice := client(t, c, "alice", func(o *ec2.Options) {
		o.HTTP = &http.Client{Transport: stub{}}
	})
	id, err := alice.Register(t.Context(), ec2.Registration{Name: "web", Location: "a/b", Virtualization: "hvm"})
	if id != "" || disk.KindOf(err) != disk.Unsupported || !strings.Contains(err.Error(), "without an id") {
		t.Errorf("%q, %v", id, err)
	}
	if task, err := alice.BundleInstance(t.Context(), "i-12345678", target(c, "alice", "abc", "def")); disk.KindOf(err) != disk.Unsupported {
		t.Errorf("%v, %v", task, err)
	}
}

// A stub answers to every action that it is done.
type stub struct{}

func (stub) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.ParseForm(); err != nil {
		return nil, err
	}
	name := r.PostForm.Get("Action") + "Response"
	return &http.Response{
		StatusCode: 200, Header: http.Header{}, Request: r,
		Body: io.NopCloser(strings.NewReader("<" + name + "><requestId>1</requestId></" + name + ">")),
	}, nil
}
