package fs

import (
	"context"
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"chromogenic/disk"
	"chromogenic/providers"
)

// A view is a directory of a provider: a kind of entries and what becomes of
// them on their way. No token inside a file's name changes its meaning, so no
// image's name can hide a view.
type view struct {
	name   string
	kind   providers.Kind
	clean  string // overrides the provider's policy for what is copied in
	cleans bool   // what is read is the cleaned image
	listed bool
	reason string // why it cannot be used yet
}

func (v view) images() bool { return v.kind == providers.Images }

// views is the table of a provider's directories.
func views() []view {
	return []view{
		{name: "images", kind: providers.Images, listed: true},
		{name: "instances", kind: providers.Instances, listed: true},
		{name: "images.verbatim", kind: providers.Images, clean: "off"},
		{name: "images.cleaned", kind: providers.Images, clean: "require", cleans: true},
		{name: "images.compressed", kind: providers.Images, reason: "there are no compressed views yet"},
		{name: "images.bootable", kind: providers.Images, reason: "there are no views of partition images as whole disks yet"},
	}
}

// providerNode holds the views of a provider.
type providerNode struct{ fixedDir }

var (
	_ gofuse.NodeLookuper       = (*providerNode)(nil)
	_ gofuse.NodeOpendirHandler = (*providerNode)(nil)
)

// Lookup finds a view, listed or not.
func (n *providerNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	for _, v := range views() {
		switch {
		case v.name != name:
		case v.reason != "":
			return nil, n.fail("lookup", name, disk.Errorf(disk.Unsupported, "open view %s: %s", name, v.reason))
		default:
			k := &kindNode{bytesDir: bytesDir{n.sub(name)}, site: n.path, view: v, folder: n.t.folder(n.path, v)}
			return n.attach(ctx, k, k.path, out), 0
		}
	}
	return nil, syscall.ENOENT
}

// OpendirHandle lists images and instances; it asks no cloud.
func (n *providerNode) OpendirHandle(context.Context, uint32) (gofuse.FileHandle, uint32, syscall.Errno) {
	var names []string
	for _, v := range views() {
		if v.listed {
			names = append(names, v.name)
		}
	}
	return n.listDir(n.subdirs(names...)), 0, 0
}
