package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
	"chromogenic/providers/providertest"
)

func TestSuite(t *testing.T) {
	providertest.Suite(t, func(t *testing.T) providertest.Fixture {
		p, images, instances := newProvider(t)
		at := func(e providers.Entry) string {
			if e.Kind == providers.Instances {
				return filepath.Join(instances, e.ID)
			}
			return filepath.Join(images, e.ID)
		}
		return providertest.Fixture{
			Provider: p,
			Format:   "raw",
			Put: func(t *testing.T, name string, img disk.Image) {
				path := filepath.Join(images, encodeName(name)+".raw")
				if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
					path = filepath.Join(images, encodeName(name)+".img")
				}
				writeImage(t, path, img)
			},
			Change: func(t *testing.T, e providers.Entry) {
				time.Sleep(20 * time.Millisecond) // the grain of the kernel's clock
				overwrite(t, at(e), "changed")
			},
			Remove: func(t *testing.T, e providers.Entry) {
				if err := os.Remove(at(e)); err != nil {
					t.Fatal(err)
				}
			},
			Break: func(t *testing.T) func() {
				aside := filepath.Join(t.TempDir(), "aside")
				if err := errors.Join(os.Rename(images, aside), os.Mkdir(images, 0o755)); err != nil {
					t.Fatal(err)
				}
				return func() {
					if err := errors.Join(os.Remove(images), os.Rename(aside, images)); err != nil {
						t.Fatal(err)
					}
				}
			},
			Instance: func(t *testing.T, name string, img disk.Image) {
				writeImage(t, filepath.Join(instances, encodeName(name)+".raw"), img)
			},
			Machine: func(t *testing.T, name string, disks ...disk.Image) {
				stem := filepath.Join(instances, encodeName(name))
				writeImage(t, stem+".raw", disks[0])
				if err := os.Mkdir(stem+setExt, 0o755); err != nil {
					t.Fatal(err)
				}
				for i, d := range disks[1:] {
					writeImage(t, filepath.Join(stem+setExt, fmt.Sprintf("%d-vd%c.raw", i+1, 'b'+i)), d)
				}
			},
			Debris: func(t *testing.T) []string {
				return append(hidden(t, images), hidden(t, instances)...)
			},
		}
	})
}

// writeImage writes a sparse file.
func writeImage(t *testing.T, path string, img disk.Image) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := errors.Join(f.Truncate(img.Size()), disk.Copy(t.Context(), f, img, disk.CopyOptions{})); err != nil {
		t.Fatal(err)
	}
}

// overwrite changes the beginning of a file.
func overwrite(t *testing.T, path, s string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(s), 0); err != nil {
		t.Fatal(err)
	}
}

// hidden are the dotfiles of a folder.
func hidden(t *testing.T, folder string) []string {
	t.Helper()
	files, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		if strings.HasPrefix(f.Name(), ".") {
			names = append(names, f.Name())
		}
	}
	return names
}
