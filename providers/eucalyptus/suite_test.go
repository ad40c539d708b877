package eucalyptus

import (
	"context"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
	"chromogenic/providers/internal/ec2test"
	"chromogenic/providers/providertest"
)

// whole is a provider whose sources are fetched, as the pipeline does, and whose images go
// with their bundles.
type whole struct {
	*Provider
	images bool // sources of images too, and not only of snapshots
}

func (w whole) Open(ctx context.Context, e providers.Entry, n int) (providers.Source, error) {
	src, err := w.Provider.Open(ctx, e, n)
	if err == nil && src.InOrder && (w.images || e.Capture != nil) {
		if src.Image, err = fetched(ctx, src.Image); err != nil {
			src.Close()
		}
	}
	return src, err
}

func (w whole) Snapshot(ctx context.Context, e providers.Entry, spec providers.SnapSpec) (providers.Snapshot, error) {
	s, err := w.Provider.Snapshot(ctx, e, spec)
	if err == nil {
		s.Disks[0].Image, err = fetched(ctx, s.Disks[0].Image)
	}
	return s, err
}

func (w whole) Delete(ctx context.Context, e providers.Entry) error { return w.Purge(ctx, e) }

func (w whole) Survey(ctx context.Context, e providers.Entry) (providers.Removal, error) {
	return w.SurveyPurge(ctx, e)
}

// fixture is that of the suite, on an account of the administrators, who alone may register
// kernels and ramdisks.
func fixture(t *testing.T, cloud *ec2test.Cloud, index bool) providertest.Fixture {
	r := newRig(t, cloud, "eucalyptus", func(o *Options) { o.Index, o.MayRestart = index, true })
	r.empty(t)
	return providertest.Fixture{
		Provider:     whole{r.Provider, !index},
		Format:       "raw",
		Slow:         true,
		RefusesEmpty: true,
		Put:          func(t *testing.T, name string, img disk.Image) { r.putTwin(t, name, img) },
		Remove:       func(t *testing.T, e providers.Entry) { r.remove(t, e) },
		Break: func(t *testing.T) func() {
			r.wire.cut()
			return func() {
				if err := r.wire.open(); err != nil {
					t.Fatal(err)
				}
			}
		},
		Instance: func(t *testing.T, name string, img disk.Image) {
			cloud.Launch(r.account, ec2test.Instance{Disk: img, Tags: map[string]string{"Name": name}})
		},
		Debris: r.debris,
	}
}

// putTwin makes an image, whatever others have its name.
func (r *rig) putTwin(t *testing.T, name string, img disk.Image) {
	t.Helper()
	if found, err := r.named(t.Context(), name); err != nil || len(found) == 0 {
		r.put(t, name, img)
		return
	}
	e := r.put(t, name+" twin", img)
	if err := r.current.ec2.SetTags(t.Context(), []string{e.ID}, map[string]string{tagName: name}, nil); err != nil {
		t.Fatal(err)
	}
}

// empty leaves nothing of the tests before.
func (r *rig) empty(t *testing.T) {
	t.Helper()
	s, err := r.session(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range r.cloud.ImageIDs() {
		if err := s.ec2.Deregister(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	for _, bucket := range r.cloud.S3.Buckets() {
		for _, key := range r.cloud.S3.Keys(bucket) {
			if err := r.cloud.S3.Delete(bucket, key); err != nil {
				t.Fatal(err)
			}
		}
	}
	machines, err := s.ec2.Instances(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range machines {
		r.cloud.SetInstance(i.ID, func(i *ec2test.Instance) { i.State = "terminated" })
	}
}

func TestSuite(t *testing.T) {
	cloud := ec2test.Start(t, ec2test.Options{})
	providertest.Suite(t, func(t *testing.T) providertest.Fixture { return fixture(t, cloud, true) })
}

// TestSuiteWhole has no index: bundles are fetched as a whole. What does not read, TestSuite
// has.
func TestSuiteWhole(t *testing.T) {
	cloud := ec2test.Start(t, ec2test.Options{})
	providertest.Suite(t, func(t *testing.T) providertest.Fixture {
		f := fixture(t, cloud, false)
		f.Provider = struct{ providers.Provider }{f.Provider}
		f.Remove = nil // what was fetched is there
		return f
	})
}

// keepers are the roles that captures need.
type keepers struct {
	providers.Provider
	providers.Keeper
}

func TestSuiteKeep(t *testing.T) {
	cloud := ec2test.Start(t, ec2test.Options{})
	providertest.Suite(t, func(t *testing.T) providertest.Fixture {
		f := fixture(t, cloud, true)
		p := f.Provider.(whole)
		f.Provider, f.Put = keepers{p, p}, nil
		f.Change = func(t *testing.T, e providers.Entry) {
			cloud.SetInstance(e.ID, func(i *ec2test.Instance) { i.Disk = disktest.Pattern(3<<20, nil) })
		}
		return f
	})
}
