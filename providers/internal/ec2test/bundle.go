package ec2test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"chromogenic/disk"
	"chromogenic/providers/internal/bundle"
	"chromogenic/providers/internal/crypt"
)

// A task is a bundle of an instance on its way.
type task struct {
	id, state        string
	instance         *Instance
	bucket, prefix   string
	progress         int
	code, message    string
	started, updated time.Time
	cancelled        bool
	cancel           context.CancelFunc

	key               *Account
	policy, signature string
}

// done tells whether a task has ended.
func (t *task) done() bool {
	return slices.Contains([]string{"complete", "failed", "cancelled"}, t.state)
}

var bundleName = regexp.MustCompile(`^[a-zA-Z\d.\-_]{3,255}$`)

// bundleInstance is VmControl.bundleInstance. Some of its codes begin with a space.
func (c *Cloud) bundleInstance(q *query) (any, *refusal) {
	s3 := func(name string) string { return q.form.Get("Storage.S3." + name) }
	invalid := func(format string, args ...any) *refusal {
		return refuse(http.StatusBadRequest, "InvalidParameterValue", format, args...)
	}
	t := &task{bucket: s3("Bucket"), prefix: s3("Prefix"), policy: s3("UploadPolicy"), signature: s3("UploadPolicySignature"), state: "pending", started: c.o.Now()}
	t.updated = t.started
	if !instanceID.MatchString(q.form.Get("InstanceId")) {
		return nil, refuse(http.StatusBadRequest, "InvalidInstanceID.Malformed", "Invalid id: %q", q.form.Get("InstanceId"))
	}
	for name, value := range map[string]string{"Bucket": t.bucket, "Prefix": t.prefix} {
		if !bundleName.MatchString(value) {
			return nil, refuse(http.StatusBadRequest, " InvalidParameterValue", "Value (%s) for parameter %s is invalid.", value, name)
		}
	}
	if len(t.policy) > 4096 {
		return nil, refuse(http.StatusBadRequest, " InvalidParameterValue", "Value for parameter UploadPolicy is invalid (too long)")
	}
	switch owner := c.S3.owner(t.bucket); {
	case owner == q.who:
		if slices.ContainsFunc(c.S3.Keys(t.bucket), func(k string) bool { return strings.HasPrefix(k, t.prefix) }) {
			return nil, invalid("Bucket prefix in use %s/%s", t.bucket, t.prefix)
		}
	case owner != nil:
		return nil, failure("The requested bucket name is not available.")
	case !bucketName.MatchString(t.bucket):
		return nil, failure("The specified bucket is not valid.")
	}
	document, err := base64.StdEncoding.DecodeString(t.policy)
	if err != nil || !json.Valid(document) {
		return nil, invalid("Value for UploadPolicy is invalid.")
	}
	if t.key = c.byKey(s3("AWSAccessKeyId")); t.key == nil {
		return nil, invalid("Value (%s) for AWSAccessKeyId is invalid.", s3("AWSAccessKeyId"))
	}
	if t.signature != mac1(t.key.Secret, t.policy) {
		return nil, invalid("Value for UploadPolicySignature is invalid.")
	}
	v, e := c.instance(q, q.form.Get("InstanceId"))
	if e != nil {
		return nil, e
	}
	if v.task != nil && !v.task.done() {
		return nil, refuse(http.StatusBadRequest, "BundlingInProgress", "Instance is already being bundled: %s", v.task.id)
	}
	if v.State != "running" {
		return nil, refuse(http.StatusBadRequest, "InvalidState", "Failed to bundle requested vm because it is not currently 'running': %s", v.ID)
	}
	if text := string(document); !strings.Contains(text, t.bucket) || !strings.Contains(text, "ec2-bundle-read") {
		return nil, failure("Custom policy is not acceptable for bundle instance")
	}
	if c.S3.owner(t.bucket) == nil {
		if err := c.S3.direct(http.MethodPut, t.bucket, "", nil, nil); err != nil {
			return nil, failure("%v", err)
		}
		c.S3.mu.Lock()
		c.S3.buckets[t.bucket] = q.who
		c.S3.mu.Unlock()
	}
	t.id, t.instance = "bun-"+v.ID[2:], v
	c.tasks = append(slices.DeleteFunc(c.tasks, func(o *task) bool { return o.id == t.id }), t)
	v.task = t
	var ctx context.Context
	ctx, t.cancel = context.WithCancel(c.ctx)
	c.work.Go(func() { c.bundle(ctx, t, v.Disk) })
	return taskAnswer{t.item()}, nil
}

type taskItem struct {
	Instance string `xml:"instanceId"`
	ID       string `xml:"bundleId"`
	State    string `xml:"state"`
	Started  string `xml:"startTime"`
	Updated  string `xml:"updateTime"`
	Progress string `xml:"progress"`
	Bucket   string `xml:"storage>S3>bucket"`
	Prefix   string `xml:"storage>S3>prefix"`
	Error    *struct {
		Code    string `xml:"code"`
		Message string `xml:"message"`
	} `xml:"error"`
}

type taskAnswer struct {
	Task taskItem `xml:"bundleInstanceTask"`
}

func (t *task) item() taskItem {
	i := taskItem{
		Instance: t.instance.ID, ID: t.id, State: t.state, Progress: fmt.Sprint(t.progress), Bucket: t.bucket, Prefix: t.prefix,
		Started: t.started.UTC().Format(stamp), Updated: t.updated.UTC().Format(stamp),
	}
	if t.code != "" {
		i.Error = &struct {
			Code    string `xml:"code"`
			Message string `xml:"message"`
		}{t.code, t.message}
	}
	return i
}

func (c *Cloud) describeBundleTasks(q *query) (any, *refusal) {
	ids := append(q.list("BundleId"), q.form["BundleId"]...)
	var out struct {
		Tasks []taskItem `xml:"bundleInstanceTasksSet>item"`
	}
	for _, t := range c.tasks {
		if t.instance.owner == q.who && (len(ids) == 0 || slices.Contains(ids, t.id)) {
			out.Tasks = append(out.Tasks, t.item())
		}
	}
	return out, nil
}

func (c *Cloud) cancelBundleTask(q *query) (any, *refusal) {
	for _, t := range c.tasks {
		if t.id != q.form.Get("BundleId") || t.instance.owner != q.who {
			continue
		}
		if t.done() || t.cancelled {
			return nil, failure("Can't cancel bundle task when the bundle task is %s", t.state)
		}
		t.cancelled, t.state = true, "canceling"
		if c.o.AWSStates {
			t.state = "cancelling"
		}
		t.cancel()
		return taskAnswer{t.item()}, nil
	}
	return nil, failure("Failed to find bundle task: %s", q.form.Get("BundleId"))
}

// FailBundles has all bundles that are under way, and those that follow, fail with a code
// and a message; an empty code ends that.
func (c *Cloud) FailBundles(code, message string) {
	c.S3.mu.Lock()
	defer c.S3.mu.Unlock()
	c.S3.failing = [2]string{code, message}
}

// bundle is the work of a node.
func (c *Cloud) bundle(ctx context.Context, t *task, img disk.Image) {
	states := []string{"storing"}
	if c.o.AWSStates {
		states = []string{"waiting-for-shutdown", "bundling", "storing"}
	}
	var err error
	for _, state := range states {
		if err = c.enter(ctx, t, state, 0); err != nil {
			break
		}
	}
	if err == nil {
		err = c.store(ctx, t, img)
	}
	c.S3.mu.Lock()
	failing := c.S3.failing
	c.S3.mu.Unlock()
	end, reason := "complete", [2]string{}
	switch {
	case ctx.Err() != nil:
		end = "cancelled"
	case failing[0] != "":
		end, reason = "failed", failing
	case err != nil:
		end, reason = "failed", [2]string{"BundleFailed", err.Error()}
	}
	if end != "complete" { // Bundles.java: deleteBucketContent
		for _, key := range c.S3.Keys(t.bucket) {
			if strings.HasPrefix(key, t.prefix) {
				err = c.S3.Delete(t.bucket, key)
			}
		}
		if len(c.S3.Keys(t.bucket)) == 0 && err == nil {
			_ = c.S3.Delete(t.bucket, "") // it may be gone
		}
	}
	if c.o.Pace != nil {
		c.o.Pace(t.id, end)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	t.state, t.updated = end, c.o.Now()
	t.code, t.message = reason[0], reason[1]
	if end == "complete" {
		t.progress = 100
	}
	t.instance.State = "running" // bundleRestartInstance, however it ended
	t.instance.Restarts++
}

// enter brings a task into its next state. The instance is down from the first on.
func (c *Cloud) enter(ctx context.Context, t *task, state string, progress int) error {
	if c.o.Pace != nil {
		c.o.Pace(t.id, state)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	t.state, t.progress, t.updated = state, progress, c.o.Now()
	t.instance.State = "stopped"
	return nil
}

// store bundles a disk and puts it where the task says, with its policy.
func (c *Cloud) store(ctx context.Context, t *task, img disk.Image) error {
	if img == nil {
		img = disk.Bytes(make([]byte, 1<<20))
	}
	secret := crypt.AES128CBC{}.NewSecret()
	m, _, err := bundle.Bundle(ctx, img, bundle.Spec{Name: t.prefix, Secret: secret}, func(ctx context.Context, w bundle.Written, body []byte) error {
		c.mu.Lock()
		t.progress = int(w.Done * 99 / max(1, img.Size()))
		c.mu.Unlock()
		return c.post(ctx, t, w.Name, body)
	})
	if err != nil {
		return err
	}
	user := &t.instance.owner.Key.PublicKey
	if c.o.CloudSeals {
		user = &c.Key.PublicKey
	}
	if err := m.Seal(secret, &c.Key.PublicKey, user); err != nil {
		return err
	}
	m.User, m.Architecture, m.Type = t.instance.owner.Number, "x86_64", bundle.Machine
	m.KernelID, m.RamdiskID = t.instance.Kernel, t.instance.Ramdisk
	m.Bundler = bundle.Bundler{Name: "euca2ools", Version: "3.4", Release: "0"}
	text, err := m.Encode(c.Key)
	if err != nil {
		return err
	}
	return c.post(ctx, t, t.prefix+bundle.ManifestSuffix, text)
}

// post uploads one object by a form, as euca-bundle-and-upload-image does.
func (c *Cloud) post(ctx context.Context, t *task, key string, body []byte) error {
	var b bytes.Buffer
	form := multipart.NewWriter(&b)
	for _, f := range [][2]string{
		{"key", key}, {"acl", "ec2-bundle-read"}, {"AWSAccessKeyId", t.key.AccessKey}, {"policy", t.policy}, {"signature", t.signature},
	} {
		if err := form.WriteField(f[0], f[1]); err != nil {
			return err
		}
	}
	w, err := form.CreateFormFile("file", key)
	if err != nil {
		return err
	}
	if _, err := w.Write(body); err != nil {
		return err
	}
	if err := form.Close(); err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.ObjectStorageURL()+"/"+t.bucket, &b)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", form.FormDataContentType())
	resp, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		text, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("upload %s: %d %s", key, resp.StatusCode, text)
	}
	return nil
}
