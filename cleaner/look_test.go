package cleaner

import (
	"errors"
	iofs "io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"testing"

	"chromogenic/cleaner/guest"
)

// What a run believes to know of its tree at the end, when everything has been changed, is
// so.
func TestKnownIsTrue(t *testing.T) {
	for name, files := range map[string][]file{"debian": debianLike(), "red hat": redHatLike(), "suse": suseLike()} {
		t.Run(name, func(t *testing.T) {
			tr := newTree(t, files...)
			root, err := os.OpenRoot(tr.dir)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			g, err := open(t.Context(), root, guest.Facts{}, Options{SSHKeys: []string{pub}})
			if err == nil {
				err = g.run()
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(g.known) < 100 || len(g.lists) < 10 {
				t.Fatalf("%d paths and %d folders are known", len(g.known), len(g.lists))
			}
			for p, l := range g.known {
				info, err := os.Lstat(tr.at(p))
				switch {
				case l.err != nil:
					if !errors.Is(err, iofs.ErrNotExist) {
						t.Errorf("%s is there, and taken not to be", p)
					}
				case err != nil:
					t.Errorf("%s: %v", p, err)
				case !sameFile(info, l.info), info.Mode() != l.info.Mode(), !info.IsDir() && info.Size() != l.info.Size(), statOf(info).Uid != statOf(l.info).Uid:
					t.Errorf("%s is %v of %d bytes, and taken for %v of %d", p, info.Mode(), info.Size(), l.info.Mode(), l.info.Size())
				}
			}
			for p, names := range g.lists {
				entries, err := os.ReadDir(filepath.Join(tr.dir, p))
				if err != nil {
					t.Errorf("%s: %v", p, err)
					continue
				}
				var are []string
				for _, e := range entries {
					are = append(are, e.Name())
				}
				slices.Sort(names)
				if !slices.Equal(names, are) {
					t.Errorf("%s holds %q, and is taken to hold %q", path.Clean(p), are, names)
				}
			}
		})
	}
}
