package providers

import (
	"context"
	"time"
)

// A Member is a project that an image is shared with.
type Member struct {
	ID      string    `json:"id"`
	Name    string    `json:"name,omitempty"`   // where the provider tells
	Status  string    `json:"status"`           // MemberPending, MemberAccepted or MemberRejected
	Updated time.Time `json:"updated,omitzero"` // when it became so
}

// What a member has said to an image that is shared with it. Only one that is accepted
// is in its listing; it can read the others too, by their ids.
const (
	MemberPending  = "pending"
	MemberAccepted = "accepted"
	MemberRejected = "rejected"
)

// An Offer is an image that another project shares with this one, and that is not in
// its listing.
type Offer struct {
	Entry
	Owner  string // the project that shares it
	Answer string // MemberPending or MemberRejected
}

// A Sharer shares images with other projects. What an image boots with is shared with
// it. Projects are named by their ids, or by their names where the provider can tell
// which they are; one that there is not is NotFound. Notes are for people: what else has
// changed, or has not.
type Sharer interface {
	// Share lets projects read an image. One that does already is no error.
	Share(ctx context.Context, e Entry, projects []string) (notes []string, err error)

	// Unshare ends that. One that is no member is no error.
	Unshare(ctx context.Context, e Entry, projects []string) (notes []string, err error)

	// Members are the projects that an image is shared with.
	Members(ctx context.Context, e Entry) ([]Member, error)

	// Answer accepts or rejects, for this project, an image that another one shares
	// with it: one of Offers, or of the listing.
	Answer(ctx context.Context, e Entry, accept bool) error

	// Offers lists what others share with this project and it has not accepted.
	Offers(ctx context.Context) ([]Offer, error)
}
