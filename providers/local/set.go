package local

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/providers"
)

// A machine of several disks is kept in one file, an ova, or as a set: the file of
// the image holds the boot disk, and in the folder <stem>.disks beside it each data
// disk has a file, <number>-<device>.<extension>. The numbers begin with 1, for 0 is
// the boot disk; a disk behind a number that is missing is no part of the machine
// yet. So a tree into which somebody has copied what a mount shows needs nothing
// else.
//
// The folder is that of all files of the stem. Where it has a disk in several
// formats, as such a tree does, each takes the one of its own format.
const setExt = ".disks"

// A member is the file of a data disk.
type member struct {
	number int
	device string
	file   string // in the folder, with that of the set
	format string
	state  state
	reason string // why it cannot be read
}

// setDir is the folder of the data disks of an image's file; ok is false for a file
// that holds all disks itself.
func (p *Provider) setDir(file string) (sub string, ok bool) {
	stem, _, format, ok := p.split(file)
	if !ok || slices.Contains(p.machines, format) || len(stem)+len(setExt) > maxFileName {
		return "", false
	}
	return stem + setExt, true
}

// splitDisk takes the name of a data disk's file apart; ok is false for any other
// file.
func (p *Provider) splitDisk(file string) (number int, device, format string, ok bool) {
	stem, _, format, ok := p.split(file)
	digits, device, _ := strings.Cut(stem, "-")
	number, err := strconv.Atoi(digits)
	if !ok || err != nil || number < 1 || number >= providers.MaxDisks || digits != strconv.Itoa(number) || slices.Contains(p.machines, format) {
		return 0, "", "", false
	}
	return number, decodeName(device), format, true
}

// diskFile is the name of the file of a data disk, with that of its folder.
func diskFile(name string, number int, device, ext string) (string, error) {
	sub, err := fileName(name, setExt)
	if err != nil {
		return "", err
	}
	file := strconv.Itoa(number)
	if device != "" {
		file += "-" + encodeName(device)
	}
	if file += "." + ext; len(file) > maxFileName {
		return "", disk.Hint(disk.Errorf(disk.Invalid, "name disk %d: its file's name would take %d bytes of %d", number, len(file), maxFileName),
			"choose a shorter name of the device")
	}
	return sub + "/" + file, nil
}

// openSet opens the folder of a set, which is a real one.
func (d *dir) openSet(sub string) (*os.File, error) {
	fd, err := unix.Openat(int(d.self.Fd()), sub, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: sub, Err: err}
	}
	return os.NewFile(uintptr(fd), sub), nil
}

// members lists the data disks in the folder of a set, by number and name. Without
// such a folder there is none; other files in it are not ours.
func (p *Provider) members(d *dir, sub string) ([]member, error) {
	_, mode, err := d.state(sub)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case mode == unix.S_IFLNK:
		return nil, errLinkedSet
	case mode != unix.S_IFDIR:
		return nil, nil
	}
	names, err := d.namesIn(sub)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []member
	for _, name := range names {
		number, device, format, ok := p.splitDisk(name)
		if !ok {
			continue
		}
		m := member{number: number, device: device, file: sub + "/" + name, format: format}
		if m.state, m.reason, err = d.look(m.file); errors.Is(err, errNoEntry) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b member) int {
		return cmp.Or(cmp.Compare(a.number, b.number), strings.Compare(a.file, b.file))
	})
	return all, nil
}

// A set is the data disks of an image, in order: members[0] has the number 1.
type set struct {
	members []member
	reason  string // why the machine cannot be read
}

// set finds the data disks of the image that a file is.
func (p *Provider) set(d *dir, file string) (set, error) {
	sub, ok := p.setDir(file)
	if !ok {
		return set{}, nil
	}
	all, err := p.members(d, sub)
	switch {
	case errors.Is(err, errLinkedSet):
		return set{reason: fmt.Sprintf("its disks cannot be read: %q is a symlink", sub)}, nil
	case errors.Is(err, fs.ErrPermission):
		return set{reason: fmt.Sprintf("its disks cannot be read: %q: %s", sub, reasonDenied)}, nil
	case err != nil:
		return set{}, err
	}
	_, _, format, _ := p.split(file)
	return choose(all, format), nil
}

// errLinkedSet says that a symlink is in the place of the folder of a set: it could
// lead anywhere.
var errLinkedSet = disk.Errorf(disk.Policy, "the folder of a machine's disks is a symlink")

// choose takes the data disks of an image of a format: one of each number, up to
// the first that is missing.
func choose(all []member, format string) set {
	var s set
	for number := 1; ; number++ {
		var found []member
		for _, m := range all {
			if m.number == number {
				found = append(found, m)
			}
		}
		if len(found) > 1 {
			own := slices.DeleteFunc(slices.Clone(found), func(m member) bool { return m.format != format })
			if len(own) != 1 {
				s.reason = cmp.Or(s.reason, fmt.Sprintf("disk %d is there more than once: %q and %q", number, found[0].file, found[1].file))
				return s
			}
			found = own
		}
		if len(found) == 0 {
			return s
		}
		if m := found[0]; m.reason != "" {
			s.reason = cmp.Or(s.reason, fmt.Sprintf("its disk %q: %s", m.file, m.reason))
		}
		s.members = append(s.members, found[0])
	}
}

// held are the files of all disks that an image of a format has, in whatever format:
// nobody waits for the others of the same number.
func held(all []member, format string) []member {
	n := len(choose(all, format).members)
	return slices.DeleteFunc(slices.Clone(all), func(m member) bool { return m.number > n })
}

// parts are the members as the version of an image has them, behind the parts that
// the file itself leads to.
func (s set) parts(own []part) []part {
	all := slices.Clone(own)
	for _, m := range s.members {
		all = append(all, part{m.file, m.state})
	}
	return all
}

// disks is what a listing says of the disks: of a boot disk in that state, with
// those parts, and of the members. It is nothing where there are none.
func (s set) disks(own state, parts []part) []providers.DiskInfo {
	if len(s.members) == 0 {
		return nil
	}
	all := []providers.DiskInfo{{Size: own.size, Updated: newest(own, parts)}}
	for _, m := range s.members {
		all = append(all, providers.DiskInfo{Device: m.device, Size: m.state.size, Updated: m.state.mtime()})
	}
	return all
}

// listDisks lists the data disks that wait for their image, or for a disk before
// them.
func (p *Provider) listDisks(d *dir) ([]providers.Entry, error) {
	names, err := d.names()
	if err != nil {
		return nil, err
	}
	var waiting []providers.Entry
	for _, sub := range names {
		stem, ok := strings.CutSuffix(sub, setExt)
		if !ok || stem == "" || !plainName(sub) {
			continue
		}
		all, err := p.members(d, sub)
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, errLinkedSet) {
			continue // of which the image tells
		}
		if err != nil {
			return nil, err
		}
		taken := p.taken(names, stem, all)
		for _, m := range all {
			if !taken[m.file] {
				waiting = append(waiting, m.entry(decodeName(stem)))
			}
		}
	}
	slices.SortFunc(waiting, func(a, b providers.Entry) int { return cmp.Compare(a.ID, b.ID) })
	return waiting, nil
}

// taken are the files of a set that are a part of one of the images of a stem.
func (p *Provider) taken(names []string, stem string, all []member) map[string]bool {
	taken := map[string]bool{}
	for _, file := range names {
		if sub, ok := p.setDir(file); !ok || sub != stem+setExt {
			continue
		}
		_, _, format, _ := p.split(file)
		for _, m := range held(all, format) {
			taken[m.file] = true
		}
	}
	return taken
}

// entry describes a data disk that waits for its image.
func (m member) entry(name string) providers.Entry {
	e := providers.Entry{
		Kind: providers.Disks, ID: m.file, Version: m.state.version(), Name: name,
		Created: m.state.born, Updated: m.state.mtime(), Status: "waiting", Reason: m.reason,
		Format: m.format, Size: m.state.size, VirtualSize: -1,
		Waiting: &providers.Waiting{Number: m.number, Device: m.device},
	}
	if m.reason != "" {
		e.Size = -1
	}
	return e
}

// disk is the data disk that a file is now, with the name of its image.
func (p *Provider) disk(d *dir, file string) (m member, name string, err error) {
	sub, base, nested := strings.Cut(file, "/")
	stem, ok := strings.CutSuffix(sub, setExt)
	if !nested || !ok || stem == "" || !plainName(sub) || !plainName(base) {
		return member{}, "", errNoEntry
	}
	all, err := p.members(d, sub)
	if err != nil {
		return member{}, "", err
	}
	for _, m := range all {
		if m.file == file {
			return m, decodeName(stem), nil
		}
	}
	return member{}, "", errNoEntry
}

// open opens a data disk, and closes the folder with it.
func (s set) open(d *dir, n int, live bool) (providers.Source, error) {
	if n < 0 || n > len(s.members) {
		d.root.Close()
		return providers.Source{}, disk.Errorf(disk.NotFound, "open disk %d: the image has %d", n, len(s.members)+1)
	}
	m := s.members[n-1]
	img, err := d.openPinned(m.file)
	if err == nil && !live && !d.folder.times.same(m.state.version(), img.state.version()) {
		img.Close()
		err = disk.Errorf(disk.Stale, "open %q: disk has changed since it was listed", m.file)
	}
	if err != nil {
		d.root.Close()
		return providers.Source{}, err
	}
	img.live = live
	return providers.Source{Image: &rooted{pinned: img, root: d.root}, Format: m.format, Name: m.file}, nil
}

// openWaiting opens a data disk that waits for its image.
func (p *Provider) openWaiting(e providers.Entry, n int) (providers.Source, error) {
	if n != 0 {
		return providers.Source{}, disk.Errorf(disk.NotFound, "open disk %d of %q: it is one disk", n, e.ID)
	}
	d, err := p.open(providers.Images)
	if err != nil {
		return providers.Source{}, err
	}
	defer d.self.Close()
	m, _, err := p.disk(d, e.ID)
	if err == nil && !d.folder.times.same(e.Version, m.state.version()) {
		err = disk.Errorf(disk.Stale, "open %q: disk has changed since it was listed", e.ID)
	}
	if err != nil {
		d.root.Close()
		return providers.Source{}, explain(err)
	}
	return set{members: []member{{file: m.file, format: m.format, state: m.state}}}.open(d, 1, false)
}
