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

// Verify checks every disk of the machine.
func (m *Machine) Verify(ctx context.Context) error {
	for i, d := range m.Disks {
		if err := Verify(ctx, d.Image); err != nil {
			return fmt.Errorf("verify disk %d: %w", i+1, err)
		}
	}
	return nil
}
