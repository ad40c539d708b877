package providers

import (
	"context"
	"time"
)

// A Role is what a machine does with a file that is beside its disks.
type Role string

// The roles. Their texts end the names of files.
const (
	Kernel  Role = "kernel"  // that is booted in the place of a boot loader: AKI, EKI
	Ramdisk Role = "ramdisk" // that the kernel begins with: ARI, ERI
)

// Roles are all of them.
func Roles() []Role { return []Role{Kernel, Ramdisk} }

// A Companion is a file that the machine of an image boots with, and that is no disk.
type Companion struct {
	Role    Role
	ID      string    // at the provider; other images may have the same
	Version string    // changes whenever the bytes may have changed
	Name    string    // its own, where it has one
	Size    int64     // bytes
	Updated time.Time //
	Reason  string    // why it cannot be read; empty for one that can
}

// Entry is the companion as one that Open takes, for the image of a name.
func (c Companion) Entry(image string) Entry {
	return Entry{
		Kind: Companions, ID: c.ID, Version: c.Version, Name: image, Role: c.Role, Format: "raw", Status: "active",
		Size: c.Size, VirtualSize: c.Size, Created: c.Updated, Updated: c.Updated, Reason: c.Reason,
	}
}

// Companion is the one of a role.
func (e Entry) Companion(role Role) (c Companion, ok bool) {
	for _, c := range e.Companions {
		if c.Role == role {
			return c, true
		}
	}
	return c, false
}

// A CompanionKeeper is an Uploader that keeps companions beside images: it takes a
// Spec with a Role. What such an upload sends is for the image of the name. Where it is
// Together with that, it is one of the Companions of the image's Spec, appears with the
// image's Commit and never by one of its own; Abort removes it before. Otherwise its
// Commit makes it a part of the image that is there (Exists where that has another), or
// lets it wait for one: durable, and listed under the kind Disks.
type CompanionKeeper interface {
	Uploader

	// DeleteCompanion removes one that waits.
	DeleteCompanion(ctx context.Context, e Entry) error
}
