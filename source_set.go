package main

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"chromogenic/disk"
	"chromogenic/formats"
	"chromogenic/fs"
)

// setFolder is where the data disks of a plain file lie, if it has some: as a mount
// shows them, and a folder keeps them.
func setFolder(path string) string {
	if _, stem, ok := formats.ByExt(filepath.Base(path)); ok {
		return filepath.Join(filepath.Dir(path), stem+".disks")
	}
	return path + ".disks"
}

// dataDisks are the files of the data disks of a plain file, by their numbers: the
// first has the number 1. Of a disk that is there in several formats it is the one
// in the format that is preferred.
func dataDisks(path, preferred string) ([]string, error) {
	folder := setFolder(path)
	entries, err := os.ReadDir(folder)
	if errors.Is(err, iofs.ErrNotExist) || err != nil && !isFolder(folder) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	found := map[int][]string{}
	for _, e := range entries {
		if n, _, _, ok := fs.ParseDisk(e.Name()); ok && n > 0 {
			found[n] = append(found[n], filepath.Join(folder, e.Name()))
		}
	}
	var files []string
	for n := 1; len(found[n]) > 0; n++ {
		all := found[n]
		if len(all) > 1 {
			all = slices.DeleteFunc(all, func(file string) bool {
				_, _, f, _ := fs.ParseDisk(filepath.Base(file))
				return f.Name != preferred
			})
		}
		if len(all) != 1 {
			err := disk.Errorf(disk.Invalid, "find disk %d: %s has it more than once", n, folder)
			return nil, disk.Hint(err, "keep one file for each disk")
		}
		files = append(files, all[0])
		delete(found, n)
	}
	for n := range found {
		return nil, disk.Errorf(disk.NotFound, "find disk %d: %s has disk %d", len(files)+1, folder, n)
	}
	return files, nil
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// addDisks opens data disks and adds them to the machine.
func (s *source) addDisks(files []string) error {
	for _, file := range files {
		one, err := openSource(file, "", nil)
		if err != nil {
			return err
		}
		s.more = append(s.more, one)
		if len(one.Disks) != 1 {
			return disk.Errorf(disk.Malformed, "open %q: it holds %d disks", file, len(one.Disks))
		}
		d := one.Disks[0]
		_, d.Device, _, _ = fs.ParseDisk(filepath.Base(file))
		s.Disks = append(s.Disks, d)
	}
	return nil
}

// besideNote says that a plain file has data disks which a copy of it leaves behind;
// empty for none.
func besideNote(path, format, destination string) string {
	files, err := dataDisks(path, format)
	if err != nil || len(files) == 0 {
		return ""
	}
	name := strings.TrimSuffix(filepath.Base(setFolder(path)), ".disks")
	return fmt.Sprintf("only the boot disk is copied: %s holds %d data disks; copy each to %s%s.disks/N", setFolder(path), len(files), destination, name)
}
