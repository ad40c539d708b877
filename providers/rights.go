package providers

import "context"

// An Answer to whether we may do a thing.
type Answer string

// The answers. Unknown is that only doing it would tell.
const (
	Yes     Answer = "yes"
	No      Answer = "no"
	Unknown Answer = "unknown"
)

// A Right is a thing that we may do at a provider, or may not.
type Right struct {
	What string // "upload images"
	May  Answer
	How  string // how that was found, for people
}

// An Auditor can tell what its credentials allow. Asking changes nothing.
type Auditor interface {
	// Rights fails only where nothing can be asked, as without a login.
	Rights(ctx context.Context) ([]Right, error)
}

// A Permitter can tell before any work that no image would be taken.
type Permitter interface {
	// MayUpload is Denied where the provider has said so, and nil otherwise: that it
	// cannot be known is no error.
	MayUpload(ctx context.Context) error
}
