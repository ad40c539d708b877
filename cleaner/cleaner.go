// Package cleaner takes out of a guest's tree what belongs to the machine it was, and
// to the people who used it, so that it can be an image for others: accounts, keys,
// histories, secrets, logs, identities. It is a table of small operations, and works
// on an os.Root alone: it runs no program, asks no network and needs neither /proc nor
// a name service, so that it can be all that runs in a small kernel of its own.
//
// What it changes is what the table in docs/cleaning.md says, and nothing else. A
// missing file is no error. No path, whatever the guest's symlinks say, leads out of
// the root.
package cleaner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"chromogenic/cleaner/guest"
	"chromogenic/disk"
)

// Work cleans the guest at root. It is a guest.Work: order is the JSON of Options, and
// reply that of a Report, which is there also when an operation has failed. The error
// is then the first one's, as "clean image: operation NAME: PATH: cause"; the others
// have run nevertheless, so that the report names everything that is wrong.
//
// A guest that nobody could log in to afterwards is not touched: the error is of the
// kind Policy, and its hint names the ways on. Nor is what is no Linux system:
// Unsupported.
func Work(ctx context.Context, root *os.Root, facts guest.Facts, order []byte) (reply []byte, err error) {
	opt, err := readOptions(order)
	if err != nil {
		return nil, fmt.Errorf("clean image: %w", err)
	}
	g, err := open(ctx, root, facts, opt)
	if err != nil {
		return nil, fmt.Errorf("clean image: %w", err)
	}
	defer g.close()
	if !g.exists("/etc/passwd") && g.report.OS == (OS{}) {
		return nil, fmt.Errorf("clean image: %w", disk.Hint(disk.Errorf(disk.Unsupported, "this is no root of a Linux system: neither /etc/passwd nor os-release is there"),
			"copy the image without cleaning it, or look with chromogenic inspect at what is in it"))
	}
	err = g.run()
	reply, jerr := json.Marshal(g.report)
	return reply, errors.Join(err, jerr)
}

// run is all operations that are asked for, in the order of the table.
func (g *Guest) run() error {
	if err := g.lockout(); err != nil {
		if !g.opt.Plan {
			return fmt.Errorf("clean image: %w", err)
		}
		g.warn("the image would not be cleaned: %v", err)
	}
	var first error
	for _, op := range Operations() {
		if err := g.ctx.Err(); err != nil {
			return fmt.Errorf("clean image: %w", err)
		}
		g.outcome = &Outcome{Name: op.Name, Outcome: Skipped}
		if g.opt.runs(op) {
			err := op.Run(g)
			g.outcome.conclude(err)
			if err != nil && first == nil {
				first = fmt.Errorf("clean image: operation %s: %w", op.Name, err)
			}
		}
		g.report.Operations = append(g.report.Operations, *g.outcome)
	}
	if first != nil {
		first = disk.Hint(first, "look at the path in the guest, or leave the operation out with --skip")
	}
	return first
}
