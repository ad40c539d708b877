package providertest

import (
	"context"
	"crypto/md5"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
)

// spec is that of an upload of img.
func (f Fixture) spec(name string, img disk.Image) providers.Spec {
	return providers.Spec{Job: "20261121T030000Z-0a1b2c", Name: name, Format: f.Format, Size: img.Size()}
}

// begin begins an upload that is aborted with the test, if it is not over then.
func (f Fixture) begin(t *testing.T, spec providers.Spec) providers.Upload {
	t.Helper()
	u, err := role[providers.Uploader](t, f).Begin(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := u.Abort(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return u
}

// send begins an upload, sends and verifies it.
func (f Fixture) send(t *testing.T, spec providers.Spec, img disk.Image) providers.Upload {
	t.Helper()
	u := f.begin(t, spec)
	last := int64(0)
	err := u.Send(t.Context(), img, func(done int64) {
		if done < last || done > img.Size() {
			t.Errorf("progress goes from %d to %d of %d", last, done, img.Size())
		}
		last = done
	})
	if err != nil {
		t.Fatal(err)
	}
	if last != img.Size() {
		t.Errorf("progress ends at %d of %d", last, img.Size())
	}
	digest, err := u.Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := sum(t, digest.Algorithm, img); digest.Sum != want {
		t.Errorf("the %s digest is %s, want %s", digest.Algorithm, digest.Sum, want)
	}
	return u
}

// upload makes an image.
func (f Fixture) upload(t *testing.T, name string, img disk.Image) providers.Entry {
	t.Helper()
	e, err := f.send(t, f.spec(name, img), img).Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// sum is the digest of img by an algorithm that a cloud may use.
func sum(t *testing.T, algorithm string, img disk.Image) string {
	t.Helper()
	b, err := disktest.Read(img)
	if err != nil {
		t.Fatal(err)
	}
	switch algorithm {
	case disk.DigestAlgorithm:
		s, err := disk.Sum(t.Context(), img, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s
	case "sha512":
		s := sha512.Sum512(b)
		return hex.EncodeToString(s[:])
	case "md5":
		s := md5.Sum(b)
		return hex.EncodeToString(s[:])
	}
	t.Fatalf("unknown digest %q", algorithm)
	return ""
}

func uploadImages(t *testing.T, f Fixture) {
	up := role[providers.Uploader](t, f)
	images := []struct {
		name string
		img  disk.Image
	}{
		{"empty", disktest.Pattern(0, nil)},
		{"one sector", disktest.Pattern(512, nil)},
		{"odd", disktest.Pattern(1000, nil)},
		{"dense", disktest.Pattern(5<<20, nil)},
		{"sparse", disktest.Pattern(9<<20+512, func(b int64) bool { return b%5 == 2 || b > 140 })},
		{"holes at both ends", disktest.Pattern(6<<20, func(b int64) bool { return b > 10 && b < 50 })},
		{"all hole", disktest.Pattern(16<<20, func(int64) bool { return false })},
		{"short runs", disktest.Runs(1<<20, disk.Extent{Off: 5, Len: 9}, disk.Extent{Off: 4095, Len: 2}, disk.Extent{Off: 1<<20 - 1, Len: 1})},
	}
	mtime := time.Unix(1700000000, 0)
	for i, tt := range images {
		if f.RefusesEmpty && tt.img.Size() == 0 {
			continue
		}
		spec := f.spec(tt.name, tt.img)
		spec.Mtime = mtime
		formats, err := up.Accepts(spec)
		if err != nil || !slices.Contains(formats, f.Format) {
			t.Fatalf("%s: accepts %q, %v; want %q", tt.name, formats, err, f.Format)
		}
		u := f.send(t, spec, tt.img)
		if n := len(f.named(t, tt.name)); n != 0 {
			t.Errorf("%s: visible before it is committed", tt.name)
		}
		e, err := u.Commit(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if diff := cmp.Diff(f.image(t, tt.name), e); diff != "" {
			t.Errorf("%s: the listing differs from what was committed: %s", tt.name, diff)
		}
		if _, ok := f.Provider.(providers.Timer); ok && !e.Updated.Equal(mtime) {
			t.Errorf("%s: updated %v, want %v", tt.name, e.Updated, mtime)
		}
		if err := u.Abort(t.Context()); err != nil {
			t.Errorf("%s: abort after commit: %v", tt.name, err)
		}
		f.holds(t, e, tt.img)
		if i == len(images)-1 {
			f.clean(t, len(f.list(t)))
		}
	}
}

// uploadNames makes images whose names are hard to keep.
func uploadNames(t *testing.T, f Fixture) {
	up := role[providers.Uploader](t, f)
	names := []string{
		"plain", "with space", "größe 大", "a/b", "/", "//", "../../etc/passwd", ".", "..", ".hidden", "trailing.",
		"50%off", "%", "%2F", "a%2Fb", "a%252Fb", "%2Ehidden", "100%25", "x.qcow2", "x.raw", "x.qcow2.raw", "x.RAW",
		"tilde~", "web@20261121T030000Z", "-rf", "new\nline", "back\\slash", "colon:star*", "'quote\"", "e\u0301", "\u00e9",
		strings.Repeat("long ", 40), strings.Repeat("大", 80),
	}
	for _, name := range names {
		f.upload(t, name, disktest.Pattern(512, nil))
	}
	for _, name := range names {
		f.holds(t, f.image(t, name), disktest.Pattern(512, nil))
	}
	f.clean(t, len(names))

	// Longer names are kept too, or refused at once.
	for _, name := range []string{strings.Repeat("n", 252), strings.Repeat("n", 300), strings.Repeat("/", 150)} {
		img := disktest.Pattern(512, nil)
		u, err := up.Begin(t.Context(), f.spec(name, img))
		if err != nil {
			wantKind(t, fmt.Sprintf("name of %d bytes", len(name)), err, disk.Invalid)
			continue
		}
		if err := u.Abort(t.Context()); err != nil {
			t.Error(err)
		}
		f.holds(t, f.upload(t, name, img), img)
		f.image(t, name)
	}
}

// uploadRefused checks what can be refused before anything is sent.
func uploadRefused(t *testing.T, f Fixture) {
	up := role[providers.Uploader](t, f)
	img := pattern()
	spec := f.spec("one", img)
	spec.Format = "no such format"
	if formats, err := up.Accepts(spec); err == nil && slices.Contains(formats, spec.Format) {
		t.Errorf("accepts %q", formats)
	}
	if u, err := up.Begin(t.Context(), spec); err == nil {
		t.Errorf("an upload in an unknown format began: %v", u.Abort(t.Context()))
	}
	spec = f.spec("one", img)
	spec.Size++
	u := f.begin(t, spec)
	if err := u.Send(t.Context(), img, func(int64) {}); err == nil {
		t.Error("an image of another size than announced was sent")
	}
	if err := u.Abort(t.Context()); err != nil {
		t.Error(err)
	}
	f.clean(t, 0)
}
