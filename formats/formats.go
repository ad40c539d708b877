// Package formats knows the container formats: one literal table, a row a
// format. A row turns container bytes into virtual disks (Open) and virtual
// disks into container bytes, lazily (Layout).
package formats

import (
	"strings"

	"chromogenic/disk"
	"chromogenic/formats/iso"
	"chromogenic/formats/layout"
	"chromogenic/formats/ova"
	"chromogenic/formats/qcow2"
	"chromogenic/formats/raw"
	"chromogenic/formats/vmdk"
)

// HeadSize is how many bytes of a file's beginning Probe wants to see; a file
// that is shorter gives all it has.
const HeadSize = 2048

// OpenOptions are what a container needs besides its own bytes.
type OpenOptions struct {
	Name    string        // of the file itself, among those that Resolve opens; empty when it has none
	Resolve disk.Resolver // opens the extents of a multi-extent VMDK and the disks of an OVF, by plain name
	Checked bool          // an earlier Open has found this version of the file sound: a format may leave out what is costly
	Backing disk.Image    // the backing image of a qcow2, only as the caller supplies it; nil refuses images that need one
}

// A Format is a row of the table.
type Format struct {
	Name    string
	Exts    []string // file name extensions without the dot; the first is the one that is written
	MaxSize int64    // of a virtual disk, in bytes; 0 is no limit
	Machine bool     // a file holds all disks of a machine; one disk otherwise
	Alone   bool     // its bytes are the disk: an image of it is listed as it is and in no other format, and passed on as it is

	// Probe tells from the beginning of a file whether it is of this format.
	// It looks at magic bytes only; raw has none and is nil.
	Probe func(head []byte) bool

	// Open reads a container. It fails with Malformed or Unsupported, or
	// succeeds wholly; it reads tables, not content. The image stays the
	// caller's, to be closed after the machine.
	Open func(img disk.Image, o OpenOptions) (*disk.Machine, error)

	// Layout makes a container of the machine's disks (for all but ova: of its
	// first disk). The disks stay the caller's, and the file reads them as long
	// as it is read. Nil for a format that is only read, or passed on as it is.
	Layout func(m *disk.Machine, o layout.Options) (*layout.File, error)
}

// Table returns the rows, raw last.
func Table() []Format {
	return []Format{
		{
			Name: "qcow2", Exts: []string{"qcow2"}, MaxSize: qcow2.MaxSize, Probe: qcow2.Probe,
			Open: func(img disk.Image, o OpenOptions) (*disk.Machine, error) {
				if o.Checked {
					return qcow2.OpenChecked(img, o.Backing)
				}
				return qcow2.Open(img, o.Backing)
			},
			Layout: qcow2.Layout,
		},
		{
			Name: "vmdk", Exts: []string{"vmdk"}, MaxSize: vmdk.MaxSize, Probe: vmdk.Probe,
			Open:   func(img disk.Image, o OpenOptions) (*disk.Machine, error) { return vmdk.Open(img, o.Resolve) },
			Layout: vmdk.Layout,
		},
		{
			Name: "ova", Exts: []string{"ova"}, MaxSize: vmdk.MaxSize, Machine: true, Probe: ova.Probe,
			Open:   func(img disk.Image, _ OpenOptions) (*disk.Machine, error) { return ova.Open(img) },
			Layout: ova.Layout,
		},
		{
			Name: "ovf", Exts: []string{"ovf"}, Machine: true, Probe: ova.ProbeOVF,
			Open: func(img disk.Image, o OpenOptions) (*disk.Machine, error) { return ova.OpenOVF(img, o.Name, o.Resolve) },
		},
		{
			// Without a Probe: a hybrid ISO is a disk that boots too, and only its name,
			// or its provider, tells which of both it is meant to be.
			Name: "iso", Exts: []string{"iso"}, Machine: true, Alone: true,
			Open: func(img disk.Image, _ OpenOptions) (*disk.Machine, error) { return iso.Open(img) },
		},
		{
			Name: "raw", Exts: []string{"raw", "img"},
			Open:   func(img disk.Image, _ OpenOptions) (*disk.Machine, error) { return raw.Open(img) },
			Layout: raw.Layout,
		},
	}
}

// ByName finds a row of the table.
func ByName(name string) (Format, bool) {
	for _, f := range Table() {
		if f.Name == name {
			return f, true
		}
	}
	return Format{}, false
}

// ByExt finds the row whose extension ends the file's name, in any case, and
// the name without it.
func ByExt(file string) (f Format, stem string, ok bool) {
	dot := strings.LastIndexByte(file, '.')
	if dot < 0 {
		return Format{}, file, false
	}
	ext := strings.ToLower(file[dot+1:])
	for _, f := range Table() {
		for _, e := range f.Exts {
			if e == ext {
				return f, file[:dot], true
			}
		}
	}
	return Format{}, file, false
}

// Detect finds the format of a file by its magic bytes; without any it is raw.
func Detect(img disk.Image) (Format, error) {
	head := make([]byte, min(HeadSize, img.Size()))
	if err := disk.ReadFull(img, head, 0); err != nil {
		return Format{}, err
	}
	table := Table()
	for _, f := range table {
		if f.Probe != nil && f.Probe(head) {
			return f, nil
		}
	}
	return table[len(table)-1], nil
}
