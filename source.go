package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/formats"
)

// A source is an open file with the disks in it.
type source struct {
	*disk.Machine
	File   disk.Image // the container's own bytes
	Format formats.Format
	more   []*source // of data disks that lie beside it
}

// Close closes the disks and the files.
func (s *source) Close() error {
	err := errors.Join(s.Machine.Close(), s.File.Close())
	for _, one := range s.more {
		err = errors.Join(err, one.Close())
	}
	return err
}

// openSource opens a plain file, or a block device, as disks. Stated is the
// format that the user says it has; empty leaves it to sourceFormat. The files
// that it names as its parts are looked for beside it and nowhere else. Backing
// may be nil, and stays the caller's.
func openSource(path, stated string, backing disk.Image) (*source, error) {
	img, err := openImage(path)
	if err != nil {
		return nil, err
	}
	s := &source{File: img}
	if s.Format, err = sourceFormat(path, stated, img); err == nil {
		s.Machine, err = openMachine(path, s.Format, img, backing)
	}
	if err != nil {
		img.Close()
		return nil, fmt.Errorf("open %q: %w", path, err)
	}
	return s, nil
}

// openImage opens a plain file as bytes, which must not change meanwhile. A fifo is
// refused, not waited for.
func openImage(path string) (disk.Image, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return disk.OpenStill(f)
}

func openMachine(path string, f formats.Format, img, backing disk.Image) (*disk.Machine, error) {
	if backing != nil && f.Name != "qcow2" {
		return nil, disk.Errorf(disk.Invalid, "%s files have no backing file", f.Name)
	}
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer root.Close() // parts that are open stay so
	resolve := func(name string) (disk.Image, error) {
		if name == "." || name != filepath.Base(name) {
			return nil, disk.Errorf(disk.Malformed, "open part %q: not a plain name", name)
		}
		part, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return nil, err
		}
		return disk.OpenStill(part)
	}
	return f.Open(img, formats.OpenOptions{Name: filepath.Base(path), Resolve: resolve, Backing: backing})
}

// sourceFormat is the format of a file: what the user states, or the extension,
// or, without one that is known, the magic bytes.
//
// A file that is called raw but begins like a container is refused. Either the
// name is wrong, or the guest has written the container's header to its own
// disk, hoping that somebody will follow it.
func sourceFormat(path, stated string, img disk.Image) (formats.Format, error) {
	if stated != "" {
		return formatByName(stated)
	}
	named, _, ok := formats.ByExt(filepath.Base(path))
	if ok && (named.Probe != nil || named.Alone) {
		return named, nil
	}
	found, err := formats.Detect(img)
	if err != nil {
		return formats.Format{}, err
	}
	if ok && found.Name != named.Name {
		err := disk.Errorf(disk.Malformed, "called %s, but it begins like a %s file", named.Name, found.Name)
		return formats.Format{}, disk.Hint(err, "say -f %s if that is what it is, or -f %s to take it as it is called", found.Name, named.Name)
	}
	return found, nil
}

// formatByName finds a format that the user has named.
func formatByName(name string) (formats.Format, error) {
	f, ok := formats.ByName(name)
	if !ok {
		var names []string
		for _, f := range formats.Table() {
			names = append(names, f.Name)
		}
		return f, usage(fmt.Sprintf("the formats are %q", names), "unknown format %q", name)
	}
	return f, nil
}
