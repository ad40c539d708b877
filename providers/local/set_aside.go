package local

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"chromogenic/disk"
)

// When a machine takes the place of another that is a set, the data disks of the old
// one must be out of the way before the new boot disk has the name, for disks of two
// machines are none. They wait in a temporary folder, locked as temporaries are:
//
//	.chromogenic-<job>-<random>.part/boot         which file the old boot disk is
//	.chromogenic-<job>-<random>.part/web.disks/   with their files
//
// A crash in that moment leaves the folder behind. Whoever clears it away puts the
// disks back, if the old boot disk still has its name.
const asideBoot = "boot"

// An aside is such a folder; nil is none.
type aside struct {
	dir  *dir // of the caller
	name string
	sub  string // folder of the set
	lock *os.File
}

// setAside moves the data disks of an image out of its way.
func (p *Provider) setAside(d *dir, file, job string) (*aside, error) {
	sub, ok := p.setDir(file)
	if !ok {
		return nil, nil
	}
	all, err := p.members(d, sub)
	_, _, format, _ := p.split(file)
	old := held(all, format)
	if err != nil || len(old) == 0 {
		return nil, err
	}
	boot, err := d.target(file)
	if err != nil {
		return nil, err
	}
	a := &aside{dir: d, name: tempName(job), sub: sub}
	if err := d.root.Mkdir(a.name, 0o755); err != nil {
		return nil, err
	}
	if a.lock, err = d.lockTemp(a.name); err == nil {
		err = d.root.WriteFile(a.name+"/"+asideBoot, []byte(boot.identity()), 0o644)
	}
	if err == nil {
		err = d.root.Mkdir(a.name+"/"+sub, 0o755)
	}
	if err != nil {
		return nil, errors.Join(err, a.remove())
	}
	for _, m := range old {
		if err := d.move(m.file, a.name+"/"+m.file); err != nil {
			return nil, errors.Join(err, a.undo())
		}
	}
	return a, nil
}

// undo puts the disks back.
func (a *aside) undo() error {
	if a == nil {
		return nil
	}
	if err := a.back(); err != nil {
		return errors.Join(err, a.lock.Close()) // they stay where they are
	}
	return a.remove()
}

func (a *aside) back() error {
	names, err := a.dir.namesIn(a.name + "/" + a.sub)
	if err != nil {
		return err
	}
	if err := a.dir.root.Mkdir(a.sub, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for _, name := range names {
		if err := a.dir.move(a.name+"/"+a.sub+"/"+name, a.sub+"/"+name); err != nil {
			return err
		}
	}
	return nil
}

// remove removes the disks.
func (a *aside) remove() error {
	if a == nil {
		return nil
	}
	err := a.dir.root.RemoveAll(a.name)
	if a.sub != "" {
		err = errors.Join(err, a.dir.dropEmpty(a.sub))
	}
	if a.lock != nil {
		a.lock.Close()
	}
	return err
}

// clearAside ends what a crash has left of a replacement.
func (p *Provider) clearAside(d *dir, name string, lock *os.File) error {
	a := &aside{dir: d, name: name, lock: lock}
	names, err := d.namesIn(name)
	if err != nil {
		return errors.Join(err, lock.Close())
	}
	for _, sub := range names {
		if strings.HasSuffix(sub, setExt) && plainName(sub) {
			a.sub = sub
		}
	}
	boot, err := d.root.ReadFile(name + "/" + asideBoot)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, lock.Close())
	}
	still, err := p.isBoot(d, a.sub, string(boot))
	if err != nil {
		return errors.Join(err, lock.Close())
	}
	if still {
		return a.undo()
	}
	return a.remove()
}

// isBoot tells whether an image is the file that a folder of data disks was of.
func (p *Provider) isBoot(d *dir, sub, identity string) (bool, error) {
	if sub == "" || identity == "" {
		return false, nil
	}
	names, err := d.names()
	if err != nil {
		return false, err
	}
	for _, file := range names {
		if same, ok := p.setDir(file); !ok || same != sub {
			continue
		}
		st, err := d.target(file)
		if err != nil {
			return false, disk.Errorf(disk.Busy, "find the boot disk of %q: %w", sub, err)
		}
		if st.identity() == identity {
			return true, nil
		}
	}
	return false, nil
}

// namesIn are the names in a real folder within the folder.
func (d *dir) namesIn(sub string) ([]string, error) {
	f, err := d.openSet(sub)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}
