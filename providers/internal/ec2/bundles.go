package ec2

import (
	"context"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"chromogenic/disk"
)

// The states of a BundleTask that end it. EC2 calls the others pending,
// waiting-for-shutdown, bundling, storing and cancelling; Eucalyptus pending, storing and
// canceling, and ends a cancelled one with "cancelled".
const (
	BundleComplete  = "complete"
	BundleFailed    = "failed"
	BundleCancelled = "cancelled"
)

// A BundleTarget is where a bundle of an instance goes, and what allows the cloud to put
// it there. Policy is the document as PolicyFor makes it, Signature what SignPolicy makes
// of it with the secret of AccessKey.
type BundleTarget struct {
	Bucket, Prefix string
	AccessKey      string
	Policy         []byte
	Signature      string
}

// A BundleTask is a bundle on its way.
type BundleTask struct {
	ID, Instance   string
	State          string
	Progress       string // "42" or "42%"
	Bucket, Prefix string
	ErrorCode      string
	ErrorMessage   string
	Started        time.Time
	Updated        time.Time
}

// Done tells whether the task has ended, well or not.
func (t BundleTask) Done() bool {
	switch t.State {
	case BundleComplete, BundleFailed, BundleCancelled, "canceled":
		return true
	}
	return false
}

// BundleInstance has the cloud bundle the root disk of a running instance into a bucket.
// Eucalyptus stops the instance for it, and starts it again afterwards. One that is not
// running, or is being bundled, is Busy; a prefix that is in use Exists.
func (c *Client) BundleInstance(ctx context.Context, instance string, to BundleTarget) (BundleTask, error) {
	in := &ec2.BundleInstanceInput{InstanceId: set(instance), Storage: &types.Storage{S3: &types.S3Storage{
		Bucket: set(to.Bucket), Prefix: set(to.Prefix), AWSAccessKeyId: set(to.AccessKey),
		UploadPolicy: to.Policy, UploadPolicySignature: set(to.Signature),
	}}}
	var task BundleTask
	doubt := false
	err := c.retry.Do(ctx, func(ctx context.Context) error {
		out, err := c.api.BundleInstance(ctx, in)
		if err = cause(ctx, err); err == nil {
			if out.BundleTask == nil || aws.ToString(out.BundleTask.BundleId) == "" {
				return disk.Errorf(disk.Unsupported, "the service answers without a task: nothing is bundled")
			}
			task = bundleTask(*out.BundleTask)
			return nil
		}
		if doubt && c.bundling(ctx, instance, to, &task) {
			return nil
		}
		doubt = doubt || doubtful(err)
		return prefixInUse(err)
	})
	if err != nil {
		return BundleTask{}, fmt.Errorf("bundle instance %s: %w", instance, err)
	}
	return task, nil
}

// prefixInUse is Exists for a target that has objects already: Eucalyptus calls it an
// invalid parameter.
func prefixInUse(err error) error {
	e := disk.AsError(err)
	if err == nil || Code(err) != "InvalidParameterValue" || !isPrefixInUse(err) {
		return err
	}
	return &disk.Error{Kind: disk.Exists, RequestID: e.RequestID, Hint: "choose another prefix", Err: e.Err}
}

// bundling finds the task that an earlier try has begun without our hearing of it.
func (c *Client) bundling(ctx context.Context, instance string, to BundleTarget, task *BundleTask) bool {
	out, err := c.api.DescribeBundleTasks(ctx, &ec2.DescribeBundleTasksInput{})
	if err != nil {
		return false
	}
	for _, b := range out.BundleTasks {
		if t := bundleTask(b); t.Instance == instance && t.Bucket == to.Bucket && t.Prefix == to.Prefix {
			*task = t
			return true
		}
	}
	return false
}

// BundleTasks lists the tasks of ids, or all of them. Eucalyptus leaves out what it does
// not know rather than fail.
func (c *Client) BundleTasks(ctx context.Context, ids ...string) ([]BundleTask, error) {
	out, err := call(ctx, c, "describe bundle tasks", c.api.DescribeBundleTasks, &ec2.DescribeBundleTasksInput{BundleIds: ids})
	if err != nil {
		return nil, err
	}
	var list []BundleTask
	for _, b := range out.BundleTasks {
		list = append(list, bundleTask(b))
	}
	return list, nil
}

// CancelBundle ends a task before its time. One that has ended is Busy, or NotFound.
func (c *Client) CancelBundle(ctx context.Context, id string) error {
	_, err := call(ctx, c, "cancel bundle task "+id, c.api.CancelBundleTask, &ec2.CancelBundleTaskInput{BundleId: set(id)})
	return err
}

func bundleTask(b types.BundleTask) BundleTask {
	t := BundleTask{
		ID: aws.ToString(b.BundleId), Instance: aws.ToString(b.InstanceId), State: string(b.State),
		Progress: aws.ToString(b.Progress), Started: aws.ToTime(b.StartTime), Updated: aws.ToTime(b.UpdateTime),
	}
	if b.Storage != nil && b.Storage.S3 != nil {
		t.Bucket, t.Prefix = aws.ToString(b.Storage.S3.Bucket), aws.ToString(b.Storage.S3.Prefix)
	}
	if b.BundleTaskError != nil {
		t.ErrorCode, t.ErrorMessage = aws.ToString(b.BundleTaskError.Code), aws.ToString(b.BundleTaskError.Message)
	}
	return t
}
