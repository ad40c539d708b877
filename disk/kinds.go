package disk

import (
	"fmt"
	"slices"
)

// A Kind is a row of the errno table: what went wrong, as far as the one who
// asked needs to tell cases apart. fs/errno.go turns it into an errno, and
// nothing else does.
type Kind int

// The kinds, in the order of the errno table. The number behind CHR- in a code
// is the Kind's, so the order is part of the interface: add at the end.
const (
	Other       Kind = iota // anything without a row of its own
	NotFound                // no such image, the provider said so
	Unreachable             // the provider cannot be reached
	Denied                  // credentials are missing, expired or denied by the cloud
	Policy                  // the mount's own policy says no
	ReadOnly                // the mount is read-only
	Exists                  // the name is taken by other content
	Busy                    // in use, saving, locked, protected
	Quota                   // the cloud's quota, or the read budget
	NoSpace                 // local scratch or the backend is full
	TooLarge                // larger than the format or the cloud takes
	Unsupported             // cannot be done with this image or provider
	Malformed               // malformed, hostile, truncated, or a checksum differs
	Stale                   // changed or deleted while it was open
	Timeout                 // throttled or timed out after the retry budget
	Cancelled               // cancelled by its owner
	Interrupted             // the caller was interrupted
	Invalid                 // the request itself makes no sense

	kindCount // of the kinds
)

// KindInfo is what people and scripts are told of a kind. Cause and Remedy are in
// the words of someone who copies images: in lower case, without a full stop.
type KindInfo struct {
	Kind   Kind
	Name   string // for scripts: small letters and hyphens
	Code   string // Kind.Code()
	Cause  string // what happened
	Remedy string // what to do about it
}

// Kinds are all kinds, in the order of their codes.
func Kinds() []KindInfo {
	all := slices.Clone(kinds[:])
	for i := range all {
		all[i].Kind, all[i].Code = Kind(i), Kind(i).Code()
	}
	return all
}

// String is the name of the kind: small letters and hyphens.
func (k Kind) String() string {
	if k < 0 || k >= kindCount {
		return fmt.Sprintf("kind-%d", int(k))
	}
	return kinds[k].Name
}

// Code is the stable code of the kind, "CHR-0012".
func (k Kind) Code() string { return fmt.Sprintf("CHR-%04d", int(k)) }

// kinds is the one table of them. docs/errors.md is printed from it.
var kinds = [kindCount]KindInfo{
	Other: {
		Name:   "other",
		Cause:  "something failed that has no code of its own, often the disk or the kernel below",
		Remedy: "read the whole message, and the log around it; chromogenic doctor looks at what a mount needs; if it comes again, report both with the output of chromogenic version",
	},
	NotFound: {
		Name:   "not-found",
		Cause:  "there is no image, provider or file of that name; the provider could be asked, and said so",
		Remedy: "look at the names with chromogenic ls; of an image that was made a moment ago, chromogenic refresh, and try again",
	},
	Unreachable: {
		Name:   "unreachable",
		Cause:  "the provider cannot be reached: its folder or disk is not mounted, or its server does not answer; the images may well be there",
		Remedy: "mount the folder or repair the connection, and try again",
	},
	Denied: {
		Name:   "denied",
		Cause:  "the provider refuses you: credentials are missing, expired or without the right, or a file belongs to another user",
		Remedy: "renew the credentials, or have the right given to you; of a folder, look at owner and mode of the file that the message names",
	},
	Policy: {
		Name:   "policy",
		Cause:  "the mount's own rules forbid it: images are made under new names and read, not changed or removed, and a machine in use is captured only as its snapshot policy says",
		Remedy: "copy under a new name; where you do want it, remove with chromogenic rm, or change the rule: mount with --allow-delete, use chromogenic capture, or set snapshot of the provider",
	},
	ReadOnly: {
		Name:   "read-only",
		Cause:  "the mount, or the filesystem that it writes to, is read-only",
		Remedy: "mount it without --read-only (option ro)",
	},
	Exists: {
		Name:   "exists",
		Cause:  "the name is taken by other content; the same disk would have been a success",
		Remedy: "choose another name, remove the image that has it first, or mount with --allow-replace (chromogenic cp has it too)",
	},
	Busy: {
		Name:   "busy",
		Cause:  "it is in use: being written, saved or copied, locked or protected, or another chromogenic has the state directory",
		Remedy: "wait until the other one is done, or end it, and try again",
	},
	Quota: {
		Name:   "quota",
		Cause:  "your quota at the provider or on its disk is used up, or the budget for reading from it is (read_budget)",
		Remedy: "remove what you no longer need, or have the quota raised; a read budget is renewed at the time that the message names, raised in the configuration, or exceeded by one copy with chromogenic cp --over-budget",
	},
	NoSpace: {
		Name:   "no-space",
		Cause:  "there is no room: the destination is full, or the scratch space below the state directory is full or has reached spool_limit",
		Remedy: "make room, raise spool_limit, or choose a state_dir on a larger disk; chromogenic cp --dry-run says before how much a copy takes",
	},
	TooLarge: {
		Name:   "too-large",
		Cause:  "the image is larger than the format or the provider takes; a vmdk file takes 2 TiB",
		Remedy: "choose raw or qcow2, or another provider",
	},
	Unsupported: {
		Name:   "unsupported",
		Cause:  "it cannot be done with this image or provider: an encrypted disk, a backing file, a variant of a format that is not read, more disks than the format holds",
		Remedy: "choose another format or provider, or convert the image first with the program that made it",
	},
	Malformed: {
		Name:   "malformed",
		Cause:  "the image is not what it should be: damaged, cut off, hostile, not of the format that its name says, or its checksum differs",
		Remedy: "copy it anew from where it comes, whole, and compare checksums; give it the extension of its true format",
	},
	Stale: {
		Name:   "stale",
		Cause:  "the image was changed, replaced or removed while it was read; what was read until then is of the old one",
		Remedy: "start the copy anew, when nobody writes to the image any more",
	},
	Timeout: {
		Name:   "timeout",
		Cause:  "the provider did not answer in time, or turned us away for asking too often, however often we tried",
		Remedy: "try again later, or with fewer copies at a time",
	},
	Cancelled: {
		Name:   "cancelled",
		Cause:  "whoever wanted it has cancelled it, or no longer waits for it",
		Remedy: "nothing, if that was meant; otherwise start it anew",
	},
	Interrupted: {
		Name:   "interrupted",
		Cause:  "the program that copied was killed or stopped before its end, so nothing was published",
		Remedy: "run it again; chromogenic jobs list shows a copy that can be taken up",
	},
	Invalid: {
		Name:   "invalid",
		Cause:  "the request makes no sense: a name, size, format or setting that cannot be, or a file that was left empty",
		Remedy: "correct what the message names",
	},
}
