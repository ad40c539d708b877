// Package providers says what a cloud is: a Provider lists entries and opens
// their bytes. What else a cloud can do is a small interface of its own that
// callers assert for. Each cloud is a package below this one; none knows formats,
// names of files or the mount.
//
// Errors carry a disk.Kind, given where the cloud's own error is understood.
package providers

import (
	"context"
	"io"
	"time"

	"chromogenic/disk"
)

// A Kind is what a listing is of.
type Kind string

// The kinds; their texts are the names of the directories.
const (
	Images    Kind = "images"
	Instances Kind = "instances"
	Disks     Kind = "disks" // what waits for its machine: data disks (SetKeeper), and companions; no directory is called so

	// Companions is the kind of single entries: kernels and ramdisks, of images and
	// waiting ones. There is no listing of it.
	Companions Kind = "companions"
)

// An Entry is an image or an instance as one listing shows it.
type Entry struct {
	Kind             Kind
	ID               string // unique in the provider and kind, never reused for other content with the same Version
	Version          string // changes whenever the bytes may have changed
	Name             string // as the owner sees it: any text, maybe shared with others, maybe empty
	Created, Updated time.Time
	Status           string // in the provider's word: "active", "saving"
	Reason           string // why it cannot be read; empty for one that can
	Format           string // of the bytes that Open gives; empty when only their beginning can tell
	Size             int64  // bytes of the container; -1 unknown
	VirtualSize      int64  // bytes of the virtual disk; -1 unknown
	Dense            bool   // one raw disk of Size bytes, all of them data as Open gives it: nothing more can be learned of it
	Metadata
	MetaReason string     // why its metadata cannot be read; the image can, all the same
	Disks      []DiskInfo // of a machine whose disks are kept apart, the boot disk first; empty where Open(0) gives all there is
	LeftOut    string     // what of the machine no capture has, for people; empty for nothing
	Capture    *Capture   // of an entry among the instances that is a capture which was kept
	Waiting    *Waiting   // of an entry among the disks

	Companions []Companion // of an image that boots with files beside its disks
	Role       Role        // of an entry that is a companion itself
}

// Live tells whether the entry is a machine in use, whose bytes change: they can
// be had as a Snapshot or a capture only.
func (e Entry) Live() bool { return e.Kind == Instances && e.Capture == nil }

// CaptureLayout is how the time of a capture is written where it is a part of a
// name.
const CaptureLayout = "20060102T150405Z"

// A Capture is what a listing knows of a capture. Its bytes never change, so it
// is read as an image is.
type Capture struct {
	Of          string    // id of the instance, which may be gone
	Taken       time.Time // UTC, in whole seconds; no two of one instance and name have the same
	Consistency Consistency
	Ours        bool // made by a Keeper, so that retention may remove it
}

// DiskInfo is what a listing knows of one disk.
type DiskInfo struct {
	Device  string    // empty when it has no name
	Size    int64     // bytes of its container; -1 unknown
	Updated time.Time // of this disk; zero is that of the entry
}

// Waiting is what a listing knows of a data disk, or of a companion, that is no part of
// an image yet.
// The entry's Name is that of the image which it is for.
type Waiting struct {
	Number int // that it will have in the image: 1 or more, for 0 is the boot disk; 0 for a companion
	Device string
}

// A Source is the bytes of an entry, in a container format.
type Source struct {
	disk.Image
	Format string // "raw", "qcow2"…; empty when only the bytes can tell
	Name   string // of the file, where the provider has files; Resolve knows it by this name

	// InOrder tells that reads have to follow each other from the first byte to the
	// last: others cost as much as all that lies before them.
	InOrder bool

	// Streams tells that reads which go on where another has ended come out of a stream:
	// to read ahead of them, or to keep what they have read, makes nothing faster.
	Streams bool

	// Resolve opens a file beside this one, where the provider has such a thing
	// (an extent of a VMDK, a disk beside an OVF); nil otherwise.
	Resolve disk.Resolver
}

// A Filler is the Image of a Source that is InOrder and gives its bytes as a whole only,
// as one that is compressed and encrypted does: ReadAt fails with Unsupported. Its size is
// known all the same.
type Filler interface {
	// Fill writes all of the image to a spool, verified, and fails otherwise: then
	// nothing of the spool is worth anything. Progress, which may be nil, is called with
	// the bytes that were fetched, from one goroutine.
	Fill(ctx context.Context, to Spool, progress func(done int64)) error
}

// A Spool is what a Filler writes to.
type Spool interface {
	// Begin tells the size of the image and how many bytes are fetched for it, before
	// anything is: an error, as for want of room, ends all. From then on the spool reads
	// as zeros up to size.
	Begin(size, fetched int64) error
	// WriteAt writes data, from one goroutine, in ascending order. What is zero is mostly
	// left out.
	io.WriterAt
}

// A Provider is a cloud. Its methods may be called at any time from several
// goroutines.
type Provider interface {
	// Name is the directory's: [a-z0-9][a-z0-9_-]*.
	Name() string

	// List is one complete listing, or an error: never a part. It makes no call
	// for each entry. Kinds that the provider does not have list as empty.
	List(ctx context.Context, kind Kind) ([]Entry, error)

	// Open opens the bytes of one disk of an entry, 0 for the boot disk or a
	// container of all, the others by their places in Disks, pinned
	// to the entry's Version: an entry that has changed since is Stale, one
	// that is gone NotFound, and reads after a later change fail with Stale. The
	// context is that of the opening; the source outlives it. An instance is
	// opened as it is now, for what it is: its bytes come from a Snapshot.
	Open(ctx context.Context, e Entry, disk int) (Source, error)
}

// A Spec says what an upload will be.
type Spec struct {
	Job    string // tags what is half made, so that it can be found again
	Name   string // of the image to be
	Format string // of the bytes: for Accepts what the source has, for Begin one that Accepts gave
	Store  string // overrides the provider's own choice of format: "", "source" or a format
	Size   int64  // bytes to be sent; -1 unknown, for Accepts
	Metadata
	Mtime time.Time // kept with the image; zero is now

	// Disk is the number of the disk that is sent: 0 for an image, or the boot
	// disk of one; more for a data disk, which only a SetKeeper takes.
	Disk   int
	Device string // of a data disk: what the machine calls it; empty for no name

	// Replaces is the image whose name the new one takes: it goes when, and only
	// when, Commit has put the new one in its place. Nil replaces nothing. For a
	// data disk it is the entry that has a disk of this number; that disk goes.
	Replaces *Entry

	// Role is that of a companion that is sent, for the image of Name; empty for a disk.
	// Label is its own name, empty where it has none. Together says that the image is
	// sent too, and names it.
	Role     Role
	Label    string
	Together bool

	// Companions are the uploads of those that are sent together with the image, and
	// appear with it. For Accepts, they may be nil.
	Companions map[Role]Upload

	// Whole tells that data disks which are kept apart from the image that is
	// replaced go with it. Otherwise they stay, as those of the new one. The new
	// data disks say so too, and are committed after their boot disk.
	Whole bool
}

// An Uploader is a provider that takes images.
type Uploader interface {
	// Accepts gives the formats in which the image may be sent, best first: what
	// spec.Store, else the provider's configuration asks for. It fails where
	// that cannot be.
	Accepts(spec Spec) ([]string, error)

	// Begin claims what is needed and refuses what can be known to fail: the
	// name is taken (Exists), there is no room (NoSpace, Quota). Nothing is
	// visible under the name until Commit.
	Begin(ctx context.Context, spec Spec) (Upload, error)

	// Resume finds an upload that another process has begun, by its Token, to
	// send what is missing or to abort it. NotFound is one that is gone, Invalid
	// one that is of another spec, Busy one whose process lives. Of a zero spec
	// nothing but Abort is asked for.
	Resume(ctx context.Context, spec Spec, token []byte) (Upload, error)
}

// An Upload is one image on its way. Its methods are called in order, by one
// goroutine; Abort may be called at any point instead of the next, and after an
// error must be.
type Upload interface {
	// Send transfers img, without its holes where the cloud can do without, and
	// without what an earlier process has sent of it.
	// Progress is called with the bytes of img that are done, holes included.
	Send(ctx context.Context, img disk.Image, progress func(done int64)) error

	// Verify makes the bytes durable and gives the digest of what the
	// destination holds, read back or as the cloud reports it.
	Verify(ctx context.Context) (Digest, error)

	// Commit makes the image visible under its name, all at once, and fails
	// with Exists when the name has been taken meanwhile.
	Commit(ctx context.Context) (Entry, error)

	// Abort removes whatever Begin and Send made. After Commit it does nothing.
	Abort(ctx context.Context) error

	// Token is what Resume finds the upload by; it does not change.
	Token() []byte

	// Suspend lets go of the upload and leaves what was sent, for Resume.
	Suspend() error
}

// A SetKeeper is an Uploader that keeps the disks of a machine apart: a set. The
// boot disk is the image; a data disk is sent with its number in Spec.Disk. It is a
// part of the image of its name as soon as that is there and has a disk of every
// smaller number, whichever of them comes last. Until then it waits: durable, listed
// under the kind Disks, and a part of nothing.
type SetKeeper interface {
	Uploader

	// DeleteDisk removes a data disk of an image for good, or one that waits (of
	// number 0 in its own entry). Those of greater numbers wait from then on.
	DeleteDisk(ctx context.Context, e Entry, disk int) error

	// SetDiskMtime is SetMtime of a Timer for one disk of an image.
	SetDiskMtime(ctx context.Context, e Entry, disk int, mtime time.Time) (Entry, error)
}

// MaxDisks is how many disks a machine may have: what four SCSI controllers of 64
// take, as vSphere has it.
const MaxDisks = 256

// A Digest is of the exact bytes of a container, by the named algorithm:
// disk.DigestAlgorithm is disk.Sum's, the others are the clouds' own ("sha512", "md5").
type Digest struct {
	Algorithm, Sum string
	// Sent is the digest by the same algorithm of what Send was given, by which Sum is
	// judged; empty for disk.DigestAlgorithm, which callers have of their own.
	Sent string
}

// A Deleter removes an image for good.
type Deleter interface {
	// Delete removes an image, with the files that are its own alone and the
	// metadata that was kept for it. One that is protected, or that another image
	// of the provider is made of, is Busy; one that has changed since it was
	// listed Stale; an instance, a capture too, Unsupported.
	Delete(ctx context.Context, e Entry) error
}

// A Purger is a provider whose Delete leaves what an image is made of, as the objects of
// a bundle, and that can remove it with the image.
type Purger interface {
	// Purge removes an image as Delete does, and then what it was made of.
	Purge(ctx context.Context, e Entry) error
	// SurveyPurge is Survey for Purge.
	SurveyPurge(ctx context.Context, e Entry) (Removal, error)
}

// A Removal is what goes with an image, or a capture, when it is deleted.
type Removal struct {
	Files    []string `json:"files,omitempty"`    // that hold it, the one that makes it an image first; empty where the provider knows none
	Size     int64    `json:"size"`               // bytes that they hold, with holes; -1 unknown
	Metadata string   `json:"metadata,omitempty"` // the file of the metadata that was kept for it
	Kept     []Kept   `json:"kept,omitempty"`     // files that it needs and that stay
}

// Kept is a file that stays when the image that needs it goes.
type Kept struct {
	File   string `json:"file"`
	Reason string `json:"reason"`
}

// A Surveyor can tell before what Delete, or DeleteCapture, would remove. It fails
// as these would, where that can be known.
type Surveyor interface {
	Survey(ctx context.Context, e Entry) (Removal, error)
}

// A Renamer gives an image another name, and fails with Exists when that is
// taken.
type Renamer interface {
	Rename(ctx context.Context, e Entry, name string) (Entry, error)
}

// A MetaSetter keeps metadata with an image.
type MetaSetter interface {
	// SetMeta sets all metadata of an image; it says what the listing does from
	// then on, and the Version changes if it says anything else than before. The
	// zero Metadata removes what was set. MetaTime is kept where the provider can;
	// zero is now.
	SetMeta(ctx context.Context, e Entry, m Metadata) (Entry, error)
}

// A PropKeeper is a provider that knows properties by their keys. Those that it does
// not know are given to it under SourcePrefix; one without this role knows none.
type PropKeeper interface {
	// KeepsProp tells whether a property means to this provider what its key says.
	KeepsProp(key string) bool
}

// SourcePrefix begins the key of a property that an image has brought from a
// provider whose properties the present one does not know.
const SourcePrefix = "chromogenic_src_"

// A Timer keeps the modification time that a copying program sets on an image.
type Timer interface {
	SetMtime(ctx context.Context, e Entry, mtime time.Time) (Entry, error)
}

// A Roomer can tell how many more bytes it takes; ok is false when it does not
// know now.
type Roomer interface {
	Room(ctx context.Context) (free int64, ok bool)
}

// Consistency tells what state the disks of a snapshot are in.
type Consistency string

// The consistencies.
const (
	Crash   Consistency = "crash"   // as after a power failure
	Frozen  Consistency = "frozen"  // filesystems were frozen by an agent
	Stopped Consistency = "stopped" // the machine was off
)

// A SnapSpec says how to take a snapshot, or a capture.
type SnapSpec struct {
	Job            string
	Name           string // of a capture, in the place of the instance's; empty keeps that
	RequireStopped bool
	RequireFrozen  bool // an agent freezes the filesystems, or it fails
	MayRestart     bool // where capturing restarts the machine; it is refused otherwise
}

// A Snapshot is all disks of an instance at one moment.
type Snapshot struct {
	ID          string
	Taken       time.Time
	Disks       []Source
	Consistency Consistency
	Metadata    Metadata // what the instance has from its own image; zero where nothing is known
}

// A Snapshotter captures instances.
type Snapshotter interface {
	// Snapshot captures all disks of the instance as one set. The caller
	// closes the sources and then calls Release.
	Snapshot(ctx context.Context, instance Entry, spec SnapSpec) (Snapshot, error)

	// Release removes the snapshot from the provider.
	Release(ctx context.Context, id string) error

	// Leftovers lists the ids of snapshots that a crash has left behind.
	Leftovers(ctx context.Context) ([]string, error)
}

// A Keeper keeps captures of instances, which are listed among these until they
// are deleted.
type Keeper interface {
	// Keep captures all disks of a live instance as one set. It is listed,
	// complete and durable, when Keep returns, and not at all after an error.
	Keep(ctx context.Context, instance Entry, spec SnapSpec) (Entry, error)
	// DeleteCapture removes a capture for good, and nothing else: a live instance
	// is Unsupported, a capture that has changed since it was listed Stale.
	DeleteCapture(ctx context.Context, e Entry) error
}

// An Authenticator is a provider that takes credentials.
type Authenticator interface {
	// Credentials says, for people, who the provider takes us for and which file or
	// variables say so: never a secret.
	Credentials(ctx context.Context) (who, source string, err error)
}

// A Pinner is a provider that can tell the place of its images from another one:
// the folder of a disk from the empty mountpoint that an unmounted disk leaves
// behind. Taking the one for the other would make a backup delete everything.
type Pinner interface {
	// Pin identifies the place where the last listing of a kind found images;
	// empty for none. It means something to this provider only.
	Pin(kind Kind) string

	// SetPin tells, before the first listing, what Pin gave in an earlier
	// process. An empty place that is another one is then Unreachable.
	SetPin(kind Kind, pin string)

	// Reset accepts another place, unless it is empty. It is for the owner to
	// say so, by asking for a refresh.
	Reset()
}

// A Locator is a provider that can tell, without asking anybody, whose images it has: an
// address and an account. Another one is another cloud, whose listing must not be shown
// for this one's.
type Locator interface {
	// Location is a text that means something to this provider only, and holds no
	// secret; empty where it cannot be told.
	Location() string
}

// An Assembler is a provider whose images may lie in several files, of which an
// entry names one: a descriptor, which leads to the others. These count as bytes
// of the image: for Version, Updated and Open.
type Assembler interface {
	// SetReader tells, before the first listing, how to find out which files
	// these are. A descriptor has at most as many bytes as limits has for its
	// format; of other formats there is none. Read opens the image of a source,
	// asks its Resolve for every file that it needs, and closes what that gave.
	// Whole tells that it could be opened, and so asked for all of them. It fails
	// only where another try may find more: that an image cannot be read for what
	// it is, is no error.
	SetReader(limits map[string]int64, read func(Source) (whole bool, err error))
}

// A Prober is a provider whose entries are so cheap to open that a listing
// should leave out those that turn out unreadable: a folder, not a cloud.
type Prober interface {
	ProbeOnList() bool
}
