package cleaner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"chromogenic/cleaner/guest"
)

// An Inspection is what can be known of a guest without changing it.
type Inspection struct {
	OS          OS          `json:"os"`
	Kernels     []string    `json:"kernels,omitempty"`     // versions, of those with modules or in /boot
	Users       []User      `json:"users,omitempty"`       // people, and whoever else can log in
	Provisioner string      `json:"provisioner,omitempty"` // as in Report
	Init        string      `json:"init,omitempty"`        // "systemd"
	SELinux     bool        `json:"selinux,omitempty"`
	Disk        guest.Facts `json:"disk"`
	Plan        Report      `json:"plan"` // what the operations would do
	Files       int64       `json:"files"`
	Bytes       int64       `json:"bytes"` // of content that a run would remove
}

// A User is an account of a guest.
type User struct {
	Name    string `json:"name"`
	UID     int    `json:"uid"`
	Home    string `json:"home,omitempty"`
	Shell   string `json:"shell,omitempty"`
	Removed bool   `json:"removed,omitempty"` // a run would remove it
}

// Inspect looks at the guest at root. It is a guest.Work: order is the JSON of Options,
// of which a plan is made in any case; reply is that of an Inspection. What an operation
// cannot look at is in its outcome in the plan, and no error.
func Inspect(ctx context.Context, root *os.Root, facts guest.Facts, order []byte) (reply []byte, err error) {
	opt, err := readOptions(order)
	if err != nil {
		return nil, fmt.Errorf("inspect image: %w", err)
	}
	opt.Plan = true
	g, err := open(ctx, root, facts, opt)
	if err != nil {
		return nil, fmt.Errorf("inspect image: %w", err)
	}
	defer g.close()
	in := Inspection{Provisioner: g.report.Provisioner, OS: g.report.OS, SELinux: g.selinux, Disk: facts}
	if g.systemd() {
		in.Init = "systemd"
	}
	if in.Kernels, err = g.kernels(); err != nil {
		return nil, fmt.Errorf("inspect image: %w", err)
	}
	for _, a := range g.accounts {
		if a.uid >= 1000 && a.name != "nobody" || g.removed[a.name] || canLogin(a.shell) {
			in.Users = append(in.Users, User{a.name, a.uid, a.home, a.shell, g.removed[a.name]})
		}
	}
	if err := g.run(); err != nil && ctx.Err() != nil {
		return nil, errors.Join(ctx.Err(), err)
	}
	in.Plan = g.report
	in.Files, in.Bytes = g.report.Totals()
	return json.Marshal(in)
}

// canLogin tells whether a shell is one: nologin(8), false(1) and those of services
// that sync or halt are none.
func canLogin(shell string) bool {
	name := path.Base(shell)
	return shell != "" && strings.HasSuffix(name, "sh") && name != "git-shell"
}

// kernels are versions, in order.
func (g *Guest) kernels() ([]string, error) {
	var found []string
	for _, place := range []struct{ pattern, prefix string }{
		{"/usr/lib/modules/*", ""}, {"/lib/modules/*", ""}, {"/boot/vmlinuz-*", "vmlinuz-"}, {"/boot/vmlinux-*", "vmlinux-"}, {"/boot/Image-*", "Image-"},
	} {
		paths, err := g.glob(place.pattern)
		if err != nil {
			return nil, err
		}
		for _, p := range paths {
			if v := strings.TrimPrefix(path.Base(p), place.prefix); v != "" && v[0] >= '0' && v[0] <= '9' {
				found = append(found, show(v))
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}
