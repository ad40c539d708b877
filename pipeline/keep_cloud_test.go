package pipeline

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
	"chromogenic/providers/local"
)

// A sky is a provider that makes images of its instances by itself.
type sky struct {
	*local.Provider
	asked    int
	aborted  int
	unsound  error // of what it makes
	silent   bool  // it has no digests
	captured providers.SnapSpec
}

func (s *sky) CreateImage(ctx context.Context, _ providers.Entry, snap providers.SnapSpec, spec providers.Spec) (providers.Imaging, providers.Consistency, error) {
	s.asked++
	s.captured = snap
	for _, state := range []string{"queued", "queued", "saving"} {
		providers.Waits(ctx, state)
	}
	img := holes()
	spec.Format, spec.Size = formatRaw, img.Size()
	u, err := s.Begin(ctx, spec)
	if err == nil {
		err = u.Send(ctx, img, func(int64) {})
	}
	return &skyImage{u, s}, providers.Stopped, err
}

type skyImage struct {
	providers.Upload
	sky *sky
}

func (i *skyImage) Verify(ctx context.Context) (providers.Digest, error) {
	if i.sky.unsound != nil || i.sky.silent {
		return providers.Digest{}, i.sky.unsound
	}
	_, err := i.Upload.Verify(ctx)
	return providers.Digest{Algorithm: "sha512", Sum: "abc"}, err
}

func (i *skyImage) Abort(ctx context.Context) error {
	i.sky.aborted++
	return i.Upload.Abort(ctx)
}

// skyBench is a bench whose site a makes images by itself.
func skyBench(t *testing.T, change ...func(*Options)) (*bench, *sky) {
	s := &sky{}
	b := newBench(t, append(change, func(o *Options) {
		s.Provider = o.Sites[0].Provider.(*local.Provider)
		o.Sites[0].Provider = s
	})...)
	b.put("live/vm.raw", disktest.Pattern(4096, nil)) // the cloud's image is another, so that it shows who has made it
	return b, s
}

func TestImageInCloud(t *testing.T) {
	b, s := skyBench(t)
	var notes []string
	rec := b.capture(CaptureOptions{Image: "new", Freeze: true, Progress: func(p Progress) {
		if p.Stage == stageCapture {
			notes = append(notes, p.Note)
		}
	}})
	switch {
	case rec.State != jobs.Done || stageNames(rec) != "check capture verify register" || rec.Consistency != "stopped" || rec.Bytes != 0:
		t.Errorf("record %+v", rec)
	case rec.CloudDigest != "sha512:abc" || rec.GuestDigest != "" || rec.BytesDigest != "":
		t.Errorf("digests of %+v", rec)
	case rec.Stages[1].Note != "queued, saving, the cloud has made the image: no bytes have passed through here":
		t.Errorf("note %q", rec.Stages[1].Note)
	case rec.Source != "a:instances/vm" || rec.Destination != "a:images/new" || rec.Entry == nil || rec.Entry.Name != "new":
		t.Errorf("record %+v", rec)
	case !slices.Equal(notes, []string{"", "queued", "queued", "saving"}):
		t.Errorf("told was %q", notes)
	case s.captured.Job != rec.ID || !s.captured.RequireFrozen:
		t.Errorf("asked was %+v", s.captured)
	}
	disktest.Compare(t, b.view("a", "new", "raw"), holes())

	// A name that is taken is refused before the cloud is asked.
	_, err := b.Capture(context.Background(), "a", b.live(), CaptureOptions{Image: "new"})
	wantKind(t, err, disk.Exists)
	if s.asked != 1 {
		t.Errorf("asked %d times", s.asked)
	}
	s.silent = true
	if rec = b.capture(CaptureOptions{Image: "silent"}); rec.CloudDigest != "" || rec.Stages[2].Note != "the cloud has no digest of it" {
		t.Errorf("record %+v", rec)
	}
	// A capture that stays is copied, for it is one disk in two places.
	if rec = b.capture(CaptureOptions{Image: "kept", Keep: 1}); s.asked != 2 || rec.GuestDigest == "" {
		t.Errorf("asked %d times, record %+v", s.asked, rec)
	}
}

func TestImageInCloudFails(t *testing.T) {
	b, s := skyBench(t)
	s.unsound = disk.Errorf(disk.Malformed, "it has no bytes")
	rec, err := b.Capture(context.Background(), "a", b.live(), CaptureOptions{Image: "new"})
	if !errors.Is(err, s.unsound) || rec.State != jobs.Failed || s.aborted != 1 || !strings.Contains(err.Error(), "capture a:instances/vm as a:images/new") {
		t.Errorf("%v, aborted %d times, record %+v", err, s.aborted, rec)
	}
	if left := b.files("a"); len(left) != 0 {
		t.Errorf("left are %v", left)
	}
}

// TestImageInCloudUncleaned: where guests are to be cleaned their bytes have to pass.
func TestImageInCloudUncleaned(t *testing.T) {
	for _, policy := range []string{"require", "best-effort"} {
		b, s := skyBench(t, func(o *Options) { o.Sites[0].Clean = policy })
		_, _ = b.Capture(context.Background(), "a", b.live(), CaptureOptions{Image: "new"})
		if s.asked != 0 {
			t.Errorf("%s: the cloud was asked", policy)
		}
	}
}

func TestSnapshotOfNobody(t *testing.T) {
	b := newBench(t)
	b.put("live/vm.raw", holes())
	_, err := b.SnapshotOf(context.Background(), "a", b.live(), "x")
	wantKind(t, err, disk.Unsupported)
	b.put("a/image.raw", holes())
	_, err = b.SnapshotOf(context.Background(), "a", b.find("a", providers.Images, "image"), "x")
	wantKind(t, err, disk.Unsupported)
}

// A reuser gives one entry for a snapshot.
type reuser struct {
	remote
	snapshot providers.Entry
}

func (r *reuser) SnapshotOf(context.Context, providers.Entry, string) (providers.Entry, error) {
	return r.snapshot, nil
}

// TestSnapshotOfInstance: a snapshot is an image, or a capture that was kept, and copied as
// such; the job of one that nobody knows more of says nothing of its consistency.
func TestSnapshotOfInstance(t *testing.T) {
	r := &reuser{}
	b := newBench(t, far, func(o *Options) {
		r.remote = o.Sites[0].Provider.(remote)
		o.Sites[0].Provider = r
	})
	b.put("live/vm.raw", holes())
	b.put("a/snap.raw", holes())
	r.snapshot = b.entry("a", "snap")
	e, err := b.SnapshotOf(t.Context(), "a", b.live(), "x")
	if err != nil {
		t.Fatal(err)
	}
	v, err := b.View(t.Context(), Ref{Site: "a", Entry: e, Format: "raw"})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	rec, err := b.copy(CopySpec{From: v, Site: "b", Name: "web"})
	if err != nil || rec.Consistency != "" {
		t.Errorf("consistency %q, %v", rec.Consistency, err)
	}
	r.snapshot = b.live()
	_, err = b.SnapshotOf(t.Context(), "a", b.live(), "x")
	wantKind(t, err, disk.Invalid)
}
