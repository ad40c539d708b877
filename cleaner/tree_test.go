package cleaner

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"chromogenic/cleaner/guest"
)

// A file of a fixture, and what is to become of it.
type file struct {
	path string
	text string
	mode os.FileMode // 0 is 0644
	uid  int         // kept as root only
	fate fate
	want string // of the fates edited and made
}

type fate int

const (
	kept     fate = iota // the same inode, bytes, mode, owner, attributes
	gone                 // not there
	emptied              // the same inode, mode, owner, attributes; no byte
	edited               // other bytes, the same mode, owner, attributes
	made                 // not there before
	linked               // a symlink afterwards; want is where it leads
	madeLink             // the same, not there before
)

// secret marks what must be nowhere in the tree after a run.
const secret = "PLANTED-SECRET"

// A tree is a guest in a folder of the test.
type tree struct {
	t   testing.TB
	dir string
}

func newTree(t testing.TB, files ...file) tree {
	t.Helper()
	tr := tree{t: t, dir: t.TempDir()}
	for _, f := range files {
		if f.fate != made && f.fate != madeLink {
			tr.put(f)
		}
	}
	return tr
}

func (tr tree) at(p string) string { return filepath.Join(tr.dir, p) }

// put makes a file; a path that ends in a slash is a folder, a text of "-> x" a symlink.
func (tr tree) put(f file) {
	tr.t.Helper()
	p := tr.at(f.path)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		tr.t.Fatal(err)
	}
	mode := f.mode
	var err error
	if target, ok := strings.CutPrefix(f.text, "-> "); ok {
		err = os.Symlink(target, p)
		mode = 0
	} else if strings.HasSuffix(f.path, "/") {
		if err = os.MkdirAll(p, 0o755); mode == 0 {
			mode = 0o755
		}
	} else {
		if err = os.WriteFile(p, []byte(f.text), 0o644); mode == 0 {
			mode = 0o644
		}
	}
	if err == nil && os.Getuid() == 0 {
		err = os.Lchown(p, f.uid, f.uid)
	} else if mode != 0 {
		mode |= 0o400 // only root reads what nobody may
	}
	if err == nil && mode != 0 {
		err = os.Chmod(p, mode)
	}
	if err != nil {
		tr.t.Fatal(err)
	}
}

// A record is all that a manifest knows of one path.
type record struct {
	Mode     os.FileMode
	UID, GID uint32
	Ino      uint64
	Size     int64
	Sum      string // of the bytes, or where a symlink leads
	Attrs    string
}

// manifest is of every path of a tree.
func (tr tree) manifest() map[string]record {
	tr.t.Helper()
	all := map[string]record{}
	err := filepath.WalkDir(tr.dir, func(p string, d iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := stat(info)
		r := record{Mode: info.Mode(), UID: st.Uid, GID: st.Gid, Ino: st.Ino}
		switch {
		case info.Mode().IsRegular():
			text, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			r.Size, r.Sum = info.Size(), fmt.Sprintf("%x", sha256.Sum256(text))
			r.Attrs = attrs(tr.t, p)
		case info.Mode()&iofs.ModeSymlink != 0:
			if r.Sum, err = os.Readlink(p); err != nil {
				return err
			}
		}
		rel, err := filepath.Rel(tr.dir, p)
		all[path.Join("/", rel)] = r
		return err
	})
	if err != nil {
		tr.t.Fatal(err)
	}
	return all
}

func stat(info iofs.FileInfo) *syscall.Stat_t { return info.Sys().(*syscall.Stat_t) }

func attrs(t testing.TB, p string) string {
	t.Helper()
	list := make([]byte, 4096)
	n, err := unix.Llistxattr(p, list)
	if errors.Is(err, unix.ENOTSUP) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for name := range bytes.SplitSeq(list[:n], []byte{0}) {
		value := make([]byte, 4096)
		if n, err := unix.Lgetxattr(p, string(name), value); err == nil {
			all = append(all, fmt.Sprintf("%s=%x", name, value[:n]))
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// clean runs the cleaner on the tree.
func (tr tree) clean(opt Options) (Report, error) {
	tr.t.Helper()
	return tr.cleanWith(opt, guest.Facts{})
}

func (tr tree) cleanWith(opt Options, facts guest.Facts) (report Report, err error) {
	tr.t.Helper()
	order, err := json.Marshal(opt)
	if err != nil {
		tr.t.Fatal(err)
	}
	root, err := os.OpenRoot(tr.dir)
	if err != nil {
		tr.t.Fatal(err)
	}
	defer root.Close()
	reply, err := Work(context.Background(), root, facts, order)
	if reply != nil {
		if err := json.Unmarshal(reply, &report); err != nil {
			tr.t.Fatal(err)
		}
	}
	return report, err
}

// factsAt are those of a disk with filesystems mounted in the guest.
func factsAt(mountpoints ...string) (facts guest.Facts) {
	for i, m := range mountpoints {
		facts.Filesystems = append(facts.Filesystems, guest.Filesystem{Number: i + 1, Mountpoint: m})
	}
	return facts
}

func (tr tree) mustClean(opt Options) Report {
	tr.t.Helper()
	report, err := tr.clean(opt)
	if err != nil {
		tr.t.Fatal(err)
	}
	return report
}

func (tr tree) read(p string) string {
	tr.t.Helper()
	text, err := os.ReadFile(tr.at(p))
	if err != nil {
		tr.t.Fatal(err)
	}
	return string(text)
}

func (tr tree) exists(p string) bool {
	_, err := os.Lstat(tr.at(p))
	return err == nil
}

// judge compares a tree with what was before, by the fates of all files of a fixture.
// What the fixture does not name has to be as it was.
func (tr tree) judge(files []file, before map[string]record) {
	tr.t.Helper()
	after := tr.manifest()
	fates := map[string]file{}
	for _, f := range files {
		fates[path.Clean(f.path)] = f
	}
	for p, f := range fates {
		was, is := before[p], after[p]
		_, there := after[p]
		switch f.fate {
		case gone:
			if there {
				tr.t.Errorf("%s is there still", p)
			}
			continue
		case made, madeLink:
		case kept:
			if was != is {
				tr.t.Errorf("%s was changed: %+v, before %+v", p, is, was)
			}
			continue
		case emptied:
			if is.Size != 0 || was.Ino != is.Ino {
				tr.t.Errorf("%s was not emptied in place: %+v, before %+v", p, is, was)
			}
		}
		if !there {
			tr.t.Errorf("%s is not there", p)
			continue
		}
		if f.fate == linked || f.fate == madeLink {
			if is.Sum != f.want || is.Mode&iofs.ModeSymlink == 0 {
				tr.t.Errorf("%s leads to %q (%s), want %q", p, is.Sum, is.Mode, f.want)
			}
			continue
		}
		if f.fate == made {
			if got := tr.read(p); got != f.want && f.want != "*" {
				tr.t.Errorf("%s has\n%s\nwant\n%s", p, got, f.want)
			}
			continue
		}
		if was.Mode != is.Mode || was.UID != is.UID || was.GID != is.GID || was.Attrs != is.Attrs {
			tr.t.Errorf("%s has other attributes: %+v, before %+v", p, is, was)
		}
		if got := tr.read(p); f.fate == edited && got != f.want {
			tr.t.Errorf("%s has\n%q\nwant\n%q", p, got, f.want)
		}
	}
	// Folders above what was named to be gone or made are in question; all else is not.
	for p, was := range before {
		if _, named := fates[p]; named || goesWith(p, fates, gone) {
			continue
		}
		is, there := after[p]
		if !there {
			tr.t.Errorf("%s is gone, and nothing says it should be", p)
		} else if was != is {
			tr.t.Errorf("%s was changed: %+v, before %+v", p, is, was)
		}
	}
	for p := range after {
		if _, was := before[p]; !was && fates[p].path == "" && !leadsTo(p, fates) {
			tr.t.Errorf("%s was made, and nothing says it should be", p)
		}
	}
	for p := range after {
		if strings.Contains(p, "chromogenic-new") {
			tr.t.Errorf("%s was left over", p)
		}
	}
	if found := tr.search(secret); len(found) > 0 {
		tr.t.Errorf("secrets are left in %q", found)
	}
}

// goesWith tells whether a folder that is named to be gone holds a path.
func goesWith(p string, fates map[string]file, as fate) bool {
	for p != "/" {
		p = path.Dir(p)
		if f, ok := fates[p]; ok && f.fate == as {
			return true
		}
	}
	return false
}

// leadsTo tells whether a path is a folder above what was to be made.
func leadsTo(p string, fates map[string]file) bool {
	for q, f := range fates {
		if (f.fate == made || f.fate == madeLink) && strings.HasPrefix(q, p+"/") {
			return true
		}
	}
	return false
}

// search finds the files, and the names, that hold a text.
func (tr tree) search(text string) (found []string) {
	tr.t.Helper()
	err := filepath.WalkDir(tr.dir, func(p string, d iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if strings.Contains(d.Name(), text) {
			found = append(found, p)
		}
		if d.Type().IsRegular() {
			content, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			if bytes.Contains(content, []byte(text)) {
				found = append(found, p)
			}
		}
		return nil
	})
	if err != nil {
		tr.t.Fatal(err)
	}
	return found
}

func (r Report) outcome(name string) Outcome {
	for _, o := range r.Operations {
		if o.Name == name {
			return o
		}
	}
	return Outcome{}
}

// mknod makes a device that there is no driver for.
func mknod(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o600, int(unix.Mkdev(240, 9))) }
