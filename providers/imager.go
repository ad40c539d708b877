package providers

import "context"

// An Imager makes an image of an instance in the cloud: no bytes pass through us.
type Imager interface {
	// CreateImage has the cloud make an image of a live instance, as Snapshot does,
	// and waits until it is whole. Of image it takes Job, Name and Mtime; format and
	// metadata are what the cloud gives it. It refuses before any work what Begin of
	// an Uploader would. Nothing is visible under the name until Commit.
	CreateImage(ctx context.Context, instance Entry, spec SnapSpec, image Spec) (Imaging, Consistency, error)
}

// An Imaging is an image that the cloud has made and that has no name yet. Its methods
// are called in order, by one goroutine; Abort instead of the next, and after an error.
type Imaging interface {
	// Verify makes sure that the image is whole, and gives what the cloud says of its
	// bytes, which nobody here has seen: the zero Digest where it says nothing.
	Verify(ctx context.Context) (Digest, error)

	// Commit is that of Upload.
	Commit(ctx context.Context) (Entry, error)

	// Abort removes the image. After Commit it does nothing.
	Abort(ctx context.Context) error
}

// A Reuser knows the snapshots of instances that are there already, whoever has made
// them.
type Reuser interface {
	// SnapshotOf is one by its id, to be opened and read as an image; nothing of it is
	// released afterwards. It is never Live: it is a capture that was kept, with its
	// Capture, or an entry of Images, which needs none where nobody knows how consistent
	// it is. NotFound is one that is not there, Invalid one of another instance, or of
	// none; Busy one that is being made, Unsupported one that cannot be read.
	SnapshotOf(ctx context.Context, instance Entry, id string) (Entry, error)
}
