package fs

import (
	"context"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	gofuse "github.com/hanwen/go-fuse/v2/fs"

	"chromogenic/disk"
	"chromogenic/formats"
	"chromogenic/pipeline"
	"chromogenic/providers"
)

// NAME.kernel and NAME.ramdisk are what the machine of an image boots with, byte for
// byte. To the rest of the package each is a format that holds no disk.

// companionFormat is that of a role.
func companionFormat(role providers.Role) formats.Format {
	return formats.Format{Name: string(role), Exts: []string{string(role)}}
}

// roleOf is the role of such a format; empty for any other.
func roleOf(f formats.Format) providers.Role {
	for _, role := range providers.Roles() {
		if f.Name == string(role) {
			return role
		}
	}
	return ""
}

// ParseCompanion takes the name of the file of a companion apart.
func ParseCompanion(file string) (stem string, role providers.Role, ok bool) {
	for _, role := range providers.Roles() {
		ext := "." + string(role)
		if n := len(file) - len(ext); n > 0 && strings.EqualFold(file[n:], ext) {
			return file[:n], role, true
		}
	}
	return "", "", false
}

// companions are the files beside an image that are listed with it.
func (k *kindNode) companions(n *Named) (files []listedFile) {
	for _, c := range n.Entry.Companions {
		if c.Reason == "" {
			ref := k.companionRef(n.Entry, c)
			files = append(files, listedFile{n, companionFormat(c.Role).Exts[0], k.inode(&ref, false)})
		}
	}
	return files
}

// companionRef is what the file of a companion shows.
func (k *kindNode) companionRef(e providers.Entry, c providers.Companion) pipeline.Ref {
	return pipeline.Ref{Site: k.site, Entry: c.Entry(trueName(e)), Format: "raw"}
}

// companion finds the companion of an image, which is nil for a name that none has, or
// one that waits for such an image.
func (k *kindNode) companion(ctx context.Context, stem string, n *Named, role providers.Role) (ref pipeline.Ref, ok bool, err error) {
	if n != nil {
		c, ok := n.Entry.Companion(role)
		if ok && c.Reason != "" {
			err = disk.Errorf(disk.NotFound, "read the %s of %q: %s: %s", role, n.Entry.Name, c.ID, c.Reason)
		}
		return k.companionRef(n.Entry, c), ok, err
	}
	if k.folder == nil || !k.keepsCompanions() {
		return ref, false, nil
	}
	l, err := k.t.p.List(ctx, k.site, providers.Disks)
	if err != nil {
		return ref, false, err
	}
	for _, e := range l.Entries {
		if e.Role == role && e.Name == Decode(stem) {
			return pipeline.Ref{Site: k.site, Entry: e, Format: "raw"}, true, nil
		}
	}
	return ref, false, nil
}

// keepsCompanions tells whether companions can be written.
func (k *kindNode) keepsCompanions() bool {
	p, _ := k.t.p.Provider(k.site)
	_, ok := p.(providers.CompanionKeeper)
	return ok
}

// lookupCompanion gives the node of a companion.
func (k *kindNode) lookupCompanion(ctx context.Context, file, stem string, n *Named, f formats.Format, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	ref, ok, err := k.companion(ctx, stem, n, roleOf(f))
	switch {
	case err != nil:
		return nil, k.fail("lookup", file, err)
	case !ok:
		return nil, syscall.ENOENT
	}
	return k.image(ctx, &k.dirNode, file, ref, out)
}

// outdatedCompanion is outdated for a companion.
func (f *imageFile) outdatedCompanion(ctx context.Context) bool {
	e := f.ref.Entry
	n, err := f.kind.named(ctx, e.Name)
	if err != nil {
		return false
	}
	ref, ok, err := f.kind.companion(ctx, Encode(e.Name), n, e.Role)
	return err == nil && (!ok || ref.Entry.ID != e.ID || ref.Entry.Version != e.Version)
}

// companionsWritable tells why no companion can be written.
func (k *kindNode) companionsWritable() error {
	if err := k.writable(); err != nil {
		return err
	}
	if !k.keepsCompanions() {
		err := disk.Errorf(disk.Policy, "provider %q keeps no kernels and ramdisks beside images", k.site)
		return disk.Hint(err, "copy the image alone: what boots from its own disk needs none")
	}
	return nil
}

// unlinkCompanion removes a companion that waits for its image. One of an image goes with
// that.
func (k *kindNode) unlinkCompanion(ctx context.Context, file, stem string, f formats.Format) error {
	n, err := k.find(ctx, stem)
	if err != nil {
		return err
	}
	ref, ok, err := k.companion(ctx, stem, n, roleOf(f))
	switch {
	case err != nil:
		return err
	case !ok:
		return disk.Errorf(disk.NotFound, "remove %q: there is no such file", file)
	case n == nil:
		return k.t.p.DeleteCompanion(context.WithoutCancel(ctx), k.site, ref.Entry)
	case !k.t.o.AllowDelete:
		return k.errNoDelete(file, n)
	}
	if by := callerProcess(ctx); by.syncs() { // the other side may know no such names
		k.t.log.Info("a "+f.Name+" stays with its image", "path", join(k.path, file), "for", by.String())
		return nil
	}
	err = disk.Errorf(disk.Policy, "remove %q: it is a part of the image", file)
	return disk.Hint(err, "remove the image, with which it goes unless others need it")
}
