package disk

import (
	"context"
	"fmt"
)

// A Verifier is an Image that came with digests of the bytes it is made of, as
// the disk of an OVA with a manifest does. Opening it does not check them, for
// that costs a read of everything.
//
// Verify reads all those bytes and compares. It fails with Malformed where a
// digest differs, or with the error of a read. Whoever publishes the bytes of a
// Verifier calls it first; a success may be remembered and cost nothing again.
type Verifier interface {
	Verify(ctx context.Context) error
}

// Verify checks img against the digests it came with. An image without any
// passes.
func Verify(ctx context.Context, img Image) error {
	switch img := img.(type) {
	case Disk:
		return Verify(ctx, img.Image)
	case Verifier:
		return img.Verify(ctx)
	}
	return nil
}

type throughKey struct{}

// Through gives a context by which a Verifier that reads bytes anew, past the images
// around it, reads them through wrap: so they are counted and bounded as others are.
func Through(ctx context.Context, wrap func(Image) Image) context.Context {
	outer := Anew(ctx)
	return context.WithValue(ctx, throughKey{}, func(img Image) Image { return outer(wrap(img)) })
}

// Anew tells a Verifier how an image that it reads anew is to be read.
func Anew(ctx context.Context) func(Image) Image {
	if wrap, ok := ctx.Value(throughKey{}).(func(Image) Image); ok {
		return wrap
	}
	return func(img Image) Image { return img }
}

// Verify checks every disk of the machine.
func (m *Machine) Verify(ctx context.Context) error {
	for i, d := range m.Disks {
		if err := Verify(ctx, d.Image); err != nil {
			return fmt.Errorf("verify disk %d: %w", i+1, err)
		}
	}
	return nil
}
