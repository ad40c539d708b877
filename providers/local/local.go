// Package local is a folder as a cloud: each file with a known extension is an
// image, or, in the folder of instances, the disk of a machine in use. It serves
// backup targets, labs and the folder that a mount without any configuration
// shows.
//
// The id of an image is its file's name, its version the size, the modification
// time, the inode and the birth, its name the file's name without the extension (see
// fileName for the characters that a file name cannot carry). The version of an
// image that lies in several files covers the others too (see parts.go), and its
// time is that of the newest; so is that of a machine of several disks, which may be
// kept as a set of files (see set.go). Metadata lies beside an image as <stem>.json (see
// sidecar.go); the version covers what it says.
//
// Every operation opens the folder anew and leaves it closed, so a disk can be
// unmounted while the provider lives. What is behind the path is compared with
// what was there before, so the empty mountpoint that such a disk leaves behind
// is an unreachable provider, never an empty one.
package local

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"chromogenic/disk"
	"chromogenic/providers"
)

// storeSource is the store of a folder that keeps images in the format in which
// they are handed over.
const storeSource = "source"

// Options say which folders a provider serves. At least one of Images and
// Instances is needed.
type Options struct {
	Name      string // of the provider: [a-z0-9][a-z0-9_-]*
	Images    string // folder of images; empty for none. It need not exist yet
	Instances string // folder of the disks of machines in use; empty for none

	// Store is the format in which uploads are kept; "source", or empty, keeps
	// each as it is handed over.
	Store string

	// Formats gives the format of each extension (without the dot, in lower
	// case) that makes a file an image. A format is written with the extension
	// that is its own name, else with the first one in alphabetical order.
	Formats map[string]string

	// Machines are the formats whose files hold all disks of a machine. To a file
	// of another one data disks may belong that lie beside it: see set.go.
	Machines []string

	// Mountpoint is where the provider is going to be mounted, if it is. It may
	// not be inside a folder that is served, nor the other way round: the one
	// would hide or contain the other.
	Mountpoint string
}

// A Provider serves the folders. It is safe for concurrent use.
type Provider struct {
	name      string
	images    *folder // nil for none
	instances *folder
	store     string
	formats   map[string]string // by extension
	machines  []string          // formats

	limits map[string]int64                             // bytes of a descriptor, by format
	read   func(providers.Source) (whole bool, _ error) // finds the parts of an image; nil for none

	// change is held while a name is checked and taken, so that of two racing
	// uploads one wins.
	change sync.Mutex

	mu   sync.Mutex
	live map[string][]*temp // snapshots that are not released, by id
}

var (
	_ providers.Provider  = (*Provider)(nil)
	_ providers.SetKeeper = (*Provider)(nil)
	_ providers.Deleter   = (*Provider)(nil)

	_ providers.CompanionKeeper = (*Provider)(nil)

	_ providers.Surveyor    = (*Provider)(nil)
	_ providers.Renamer     = (*Provider)(nil)
	_ providers.Timer       = (*Provider)(nil)
	_ providers.MetaSetter  = (*Provider)(nil)
	_ providers.PropKeeper  = (*Provider)(nil)
	_ providers.Snapshotter = (*Provider)(nil)
	_ providers.Keeper      = (*Provider)(nil)
	_ providers.Prober      = (*Provider)(nil)
	_ providers.Pinner      = (*Provider)(nil)
	_ providers.Assembler   = (*Provider)(nil)
	_ providers.Roomer      = (*Provider)(nil)
)

// validName is the grammar of a provider's name.
var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`)

// New makes a provider. A folder that is not there is no error, for its disk may
// be plugged in later: until then its listing is Unreachable.
func New(o Options) (*Provider, error) {
	p := &Provider{name: o.Name, store: o.Store, formats: o.Formats, machines: o.Machines, live: map[string][]*temp{}}
	if p.store == "" {
		p.store = storeSource
	}
	switch {
	case !validName.MatchString(o.Name):
		return nil, disk.Errorf(disk.Invalid, "make provider %q: the name is not of small letters, digits, - and _", o.Name)
	case o.Images == "" && o.Instances == "":
		return nil, disk.Errorf(disk.Invalid, "make provider %q: it has no folder", o.Name)
	case p.store != storeSource && p.extension(p.store) == "":
		return nil, disk.Errorf(disk.Invalid, "make provider %q: store %q is no known format", o.Name, o.Store)
	}
	var err error
	if p.images, err = newFolder(providers.Images, o.Images); err != nil {
		return nil, err
	}
	if p.instances, err = newFolder(providers.Instances, o.Instances); err != nil {
		return nil, err
	}
	if o.Images != "" && o.Instances != "" && resolvePath(p.images.path) == resolvePath(p.instances.path) {
		return nil, disk.Errorf(disk.Invalid, "make provider %q: images and instances are the same folder %q", o.Name, o.Images)
	}
	if o.Mountpoint != "" {
		for _, f := range p.folders() {
			if err := f.refuseMountpoint(o.Mountpoint); err != nil {
				return nil, err
			}
		}
	}
	return p, nil
}

// Name is that of the options.
func (p *Provider) Name() string { return p.name }

// ProbeOnList is true: a file is opened at no cost.
func (p *Provider) ProbeOnList() bool { return true }

// Pin identifies the folder in which the last listing of a kind found files.
func (p *Provider) Pin(kind providers.Kind) string {
	if f := p.folder(kind); f != nil {
		return f.token()
	}
	return ""
}

// SetPin tells which folder an earlier process found files in.
func (p *Provider) SetPin(kind providers.Kind, pin string) {
	if f := p.folder(kind); f != nil {
		f.setToken(pin)
	}
}

// Reset accepts whatever is behind the paths of the folders from now on, but for
// an empty folder where files were before. It is for the owner to say so, by
// asking for a refresh.
func (p *Provider) Reset() {
	for _, f := range p.folders() {
		f.reset()
	}
}

// folders are those that the provider has.
func (p *Provider) folders() []*folder {
	return slices.DeleteFunc([]*folder{p.images, p.instances}, func(f *folder) bool { return f == nil })
}

// folder is the one of a kind, nil when the provider has none.
func (p *Provider) folder(kind providers.Kind) *folder {
	if kind == providers.Disks {
		kind = providers.Images
	}
	for _, f := range p.folders() {
		if f.kind == kind {
			return f
		}
	}
	return nil
}

// open opens the folder of a kind.
func (p *Provider) open(kind providers.Kind) (*dir, error) {
	f := p.folder(kind)
	if f == nil {
		return nil, disk.Errorf(disk.NotFound, "open folder of %s: provider %q has none", kind, p.name)
	}
	return f.open()
}

// split takes the name of a file apart into the stem, the extension with its
// dot, and the format; ok is false for a file that is no image.
func (p *Provider) split(file string) (stem, ext, format string, ok bool) {
	ext = filepath.Ext(file)
	stem = strings.TrimSuffix(file, ext)
	if stem == "" || file[0] == '.' || ext == "" {
		return "", "", "", false
	}
	format, ok = p.formats[strings.ToLower(ext[1:])]
	return stem, ext, format, ok
}

// extension is the one that a format is written with; empty for an unknown one.
func (p *Provider) extension(format string) string {
	best := ""
	for ext, f := range p.formats {
		if f == format && (best == "" || ext == format || best != format && ext < best) {
			best = ext
		}
	}
	return best
}
