package fs

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
)

// xattrPrefix begins the names of all attributes of ours.
const xattrPrefix = "user.chromogenic."

// errorAttr holds the newest failure at the file, or in the directory.
const errorAttr = xattrPrefix + "error"

// getxattr answers from attrs, as getxattr(2) does.
func getxattr(attrs map[string]string, name string, dest []byte) (uint32, syscall.Errno) {
	v, ok := attrs[name]
	if !ok {
		return 0, syscall.ENODATA
	}
	return fill(v, dest)
}

// listxattr gives the names of attrs, as listxattr(2) does.
func listxattr(attrs map[string]string, dest []byte) (uint32, syscall.Errno) {
	names := make([]string, 0, len(attrs))
	for name := range attrs {
		names = append(names, name+"\x00")
	}
	slices.Sort(names)
	return fill(strings.Join(names, ""), dest)
}

// fill copies s, or gives ERANGE and its length.
func fill(s string, dest []byte) (uint32, syscall.Errno) {
	if len(s) > len(dest) {
		return uint32(len(s)), syscall.ERANGE
	}
	return uint32(copy(dest, s)), 0
}

// fixedXattrs are attributes that programs cannot change.
type fixedXattrs struct{}

// Setxattr is not supported. It has to say so: with any other error cp -a takes
// the access control list, which it sets, for lost.
func (fixedXattrs) Setxattr(context.Context, string, []byte, uint32) syscall.Errno {
	return syscall.ENOTSUP
}

// Removexattr is not supported.
func (fixedXattrs) Removexattr(context.Context, string) syscall.Errno { return syscall.ENOTSUP }

// attrs are those of a directory.
func (d *dirNode) attrs() map[string]string {
	m := map[string]string{}
	if reason, ok := d.t.about(d.path, true); ok {
		m[errorAttr] = reason
	}
	return m
}

// Getxattr gives the error attribute.
func (d *dirNode) Getxattr(_ context.Context, name string, dest []byte) (uint32, syscall.Errno) {
	return getxattr(d.attrs(), name, dest)
}

// Listxattr lists it.
func (d *dirNode) Listxattr(_ context.Context, dest []byte) (uint32, syscall.Errno) {
	return listxattr(d.attrs(), dest)
}

// attrs are what is known of the image without asking anybody.
func (f *imageFile) attrs() map[string]string {
	e, t := f.ref.Entry, f.kind.t
	m := map[string]string{
		"id": e.ID, "provider": f.ref.Site, "name": e.Name, "status": e.Status, "format": e.Format,
		"arch": e.Meta.Arch, "firmware": e.Meta.Firmware,
		"allocated":    strconv.FormatInt(f.stat.Load().Allocated, 10),
		"guest_digest": t.p.KnownDigest(f.ref),
	}
	if f.ref.Disk > 0 {
		m["format"] = "" // of the boot disk
	} else if e.VirtualSize >= 0 {
		m["virtual_size"] = strconv.FormatInt(e.VirtualSize, 10)
	}
	if e.Capture != nil {
		m["consistency"] = string(e.Capture.Consistency)
	}
	if !e.Created.IsZero() {
		m["created"] = e.Created.UTC().Format(time.RFC3339)
	}
	props := e.Props
	if set := f.props.Load(); set != nil {
		props = *set
	}
	for key, v := range props {
		m["prop."+key] = v
	}
	m["error"], _ = t.about(f.path, false)
	out := map[string]string{}
	for key, v := range m {
		if v != "" && len(xattrPrefix+key) <= maxName {
			out[xattrPrefix+key] = v
		}
	}
	return out
}

// propAttr begins the names of the attributes that are properties.
const propAttr = xattrPrefix + "prop."

// Setxattr sets a property of the image, where the mount allows it. Other attributes
// are not supported.
func (f *imageFile) Setxattr(ctx context.Context, name string, value []byte, _ uint32) syscall.Errno {
	return f.setProp(ctx, "setxattr", name, string(value))
}

// Removexattr removes a property.
func (f *imageFile) Removexattr(ctx context.Context, name string) syscall.Errno {
	if _, ok := f.attrs()[name]; !ok && strings.HasPrefix(name, propAttr) {
		return syscall.ENODATA
	}
	return f.setProp(ctx, "removexattr", name, "")
}

func (f *imageFile) setProp(ctx context.Context, op, attr, value string) syscall.Errno {
	key, ok := strings.CutPrefix(attr, propAttr)
	if !ok || key == "" || f.ref.Entry.Kind != providers.Images {
		return syscall.ENOTSUP // as fixedXattrs has it
	}
	if err := f.kind.t.carryOut(ctx, func() error { return f.trySetProp(ctx, key, value) }); err != nil {
		return f.fail(op, err)
	}
	return 0
}

func (f *imageFile) trySetProp(ctx context.Context, key, value string) error {
	if err := f.kind.writable(); err != nil {
		return err
	}
	if !f.kind.t.o.AllowMeta {
		err := disk.Errorf(disk.Policy, "set property %q: the mount changes none", key)
		return disk.Hint(err, "mount with --allow-meta, or say chromogenic meta set")
	}
	ctx, cancel := patient(ctx)
	defer cancel()
	p, site := f.kind.t.p, f.ref.Site
	x, err := f.kind.index(ctx)
	if err != nil {
		return err
	}
	e := f.ref.Entry
	if n, ok := x.ID(e.ID); ok {
		e = n.Entry // several are set one after the other
	}
	m, err := p.Metadata(ctx, site, e)
	if err != nil {
		return err
	}
	if err := m.Set("prop."+key, value); err != nil {
		return err
	}
	m.MetaTime = time.Now()
	now, err := p.SetMeta(context.WithoutCancel(ctx), site, e, m)
	if err == nil {
		f.props.Store(&now.Props)
	}
	return err
}

// Getxattr gives what is known of the image.
func (f *imageFile) Getxattr(_ context.Context, name string, dest []byte) (uint32, syscall.Errno) {
	if !strings.HasPrefix(name, xattrPrefix) {
		return 0, syscall.ENODATA
	}
	return getxattr(f.attrs(), name, dest)
}

// Listxattr lists it.
func (f *imageFile) Listxattr(_ context.Context, dest []byte) (uint32, syscall.Errno) {
	return listxattr(f.attrs(), dest)
}

// attrs is why the file is no image, once that is known.
func (g *staged) attrs() map[string]string {
	g.mu.Lock()
	path := g.path
	g.mu.Unlock()
	m := map[string]string{}
	if reason, ok := g.folder.t.about(path, false); ok {
		m[errorAttr] = reason
	}
	return m
}

// Getxattr gives the error attribute.
func (g *staged) Getxattr(_ context.Context, name string, dest []byte) (uint32, syscall.Errno) {
	return getxattr(g.attrs(), name, dest)
}

// Listxattr lists it.
func (g *staged) Listxattr(_ context.Context, dest []byte) (uint32, syscall.Errno) {
	return listxattr(g.attrs(), dest)
}
