package cleaner

import (
	"context"
	"os"

	"chromogenic/cleaner/guest"
)

// A Guest is the tree that operations work on, with what is known of it. Operations
// change it by its methods alone, which note what they do, and in a plan do nothing
// else. One run uses it, from one goroutine.
type Guest struct {
	ctx     context.Context
	root    *os.Root
	top     *os.File // the same, for single calls
	buf     []byte   // for names
	facts   guest.Facts
	opt     Options
	devices map[uint64]bool // st_dev of the guest's own filesystems
	mounts  map[uint64]bool // and their mounts, where the kernel tells

	report  Report
	outcome *Outcome // of the operation that runs

	accounts []account // as they were at the beginning
	removed  map[string]bool
	selinux  bool // the guest labels its files
	relabel  bool // a file was made that may have another label than the guest would give it

	lookups
	searched map[string]fileVersion // files in which no private key was found

	// What a plan has done so far, for the operations that come after.
	gone    map[string]bool   // paths, with all that is below them
	planned map[string][]byte // what a file would hold; a folder that would be there holds nothing
}

// open looks at what every operation needs to know. The caller closes the Guest.
func open(ctx context.Context, root *os.Root, facts guest.Facts, opt Options) (_ *Guest, err error) {
	g := &Guest{
		ctx: ctx, root: root, facts: facts, opt: opt,
		devices: map[uint64]bool{}, mounts: map[uint64]bool{}, removed: map[string]bool{},
		gone: map[string]bool{}, planned: map[string][]byte{},
		lookups: newLookups(), searched: map[string]fileVersion{},
		outcome: &Outcome{},
	}
	g.report.Plan = opt.Plan
	if g.top, err = root.Open("."); err != nil {
		return nil, pathError("/", err)
	}
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	info, err := root.Lstat(".")
	if err != nil {
		return nil, pathError("/", err)
	}
	g.adopt("/", info)
	for _, f := range facts.Filesystems {
		if f.Mountpoint == "" {
			continue
		}
		if n, ok, err := g.lookup(f.Mountpoint, true); err != nil {
			return nil, err
		} else if ok {
			g.adopt(n.path, n.info)
		}
	}
	if g.report.OS, err = g.release(); err != nil {
		return nil, err
	}
	if g.accounts, err = g.readAccounts(); err != nil {
		return nil, err
	}
	if err := g.chooseUsers(); err != nil {
		return nil, err
	}
	if g.selinux, err = g.usesSELinux(); err != nil {
		return nil, err
	}
	g.report.Provisioner = g.provisioner()
	return g, nil
}

// close ends what holds the tree: it is going to be unmounted.
func (g *Guest) close() { _ = g.top.Close() }

// asked tells whether an operation of this name is part of the run.
func (g *Guest) asked(name string) bool {
	for _, op := range Operations() {
		if op.Name == name {
			return g.opt.runs(op)
		}
	}
	return false
}
