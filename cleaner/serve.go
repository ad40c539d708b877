package cleaner

import (
	"context"
	"encoding/json"
	"os"

	"chromogenic/cleaner/guest"
	"chromogenic/disk"
)

// An Order is what Serve is asked for.
type Order struct {
	Inspect bool    `json:"inspect,omitempty"` // look only: the reply is an Inspection
	Options Options `json:"options"`
}

// Encode makes the order that Serve reads.
func (o Order) Encode() ([]byte, error) { return json.Marshal(o) }

// Serve is the guest.Work of a program that cleans and inspects: Inspect or Work, as the
// Order says.
func Serve(ctx context.Context, root *os.Root, facts guest.Facts, order []byte) (reply []byte, err error) {
	var o struct {
		Inspect bool            `json:"inspect"`
		Options json.RawMessage `json:"options"`
	}
	if err := json.Unmarshal(order, &o); err != nil {
		return nil, disk.Errorf(disk.Invalid, "read order: %w", err)
	}
	if o.Inspect {
		return Inspect(ctx, root, facts, o.Options)
	}
	return Work(ctx, root, facts, o.Options)
}
