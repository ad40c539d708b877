package local

import (
	"os"
	"path/filepath"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
)

// What somebody does to an unfinished upload, or to its folder, makes it fail, and
// nothing is published: not in a folder that nobody would look into either.
func TestUploadGone(t *testing.T) {
	move := func(t *testing.T, from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	temporary := func(t *testing.T, images string) string {
		t.Helper()
		found, _ := filepath.Glob(filepath.Join(images, tempPrefix+"*"))
		if len(found) != 1 {
			t.Fatalf("temporaries: %q", found)
		}
		return found[0]
	}
	for name, tt := range map[string]struct {
		spoil func(t *testing.T, images string)
		want  disk.Kind
	}{
		"removed":          {func(t *testing.T, images string) { os.Remove(temporary(t, images)) }, disk.Stale},
		"renamed":          {func(t *testing.T, images string) { move(t, temporary(t, images), images+"/.mine") }, disk.Stale},
		"folder renamed":   {func(t *testing.T, images string) { move(t, images, images+".away") }, disk.Unreachable},
		"folder replaced":  {func(t *testing.T, images string) { move(t, images, images+".away"); os.Mkdir(images, 0o755) }, disk.Unreachable},
		"nothing happened": {func(*testing.T, string) {}, disk.Other},
	} {
		for _, verified := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				p, images, _ := newProvider(t)
				img := disktest.Pattern(1<<20, nil)
				u, err := p.Begin(t.Context(), providers.Spec{Name: "x", Format: "raw", Size: img.Size()})
				if err != nil {
					t.Fatal(err)
				}
				if err := u.Send(t.Context(), img, nil); err != nil {
					t.Fatal(err)
				}
				if !verified {
					tt.spoil(t, images)
				}
				if _, err = u.Verify(t.Context()); err == nil {
					if verified {
						tt.spoil(t, images)
					}
					_, err = u.Commit(t.Context())
				}
				if ok := name == "nothing happened"; ok != (err == nil) || !ok && disk.KindOf(err) != tt.want {
					t.Errorf("verified %v: %v, want %v", verified, err, tt.want)
				}
				if err := u.Abort(t.Context()); err != nil {
					t.Error(err)
				}
				if err == nil {
					return
				}
				for _, dir := range []string{images, images + ".away"} {
					found, _ := filepath.Glob(filepath.Join(dir, "*.raw"))
					hidden, _ := filepath.Glob(filepath.Join(dir, tempPrefix+"*"))
					if len(found)+len(hidden) > 0 {
						t.Errorf("left %q %q", found, hidden)
					}
				}
			})
		}
	}
}
