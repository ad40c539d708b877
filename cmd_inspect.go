package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"chromogenic/cleaner"
	"chromogenic/cleaner/guest"
	"chromogenic/disk"
	"chromogenic/fs"
	"chromogenic/pipeline"
	"chromogenic/providers"
)

func inspectCommand() *cli.Command {
	return &cli.Command{
		Name:      "inspect",
		Usage:     "say what an image is and holds",
		ArgsUsage: "FILE|PLACE",
		Flags: append(commonFlags(), jsonFlag(),
			&cli.StringFlag{Name: "f", Usage: "FILE is of `FORMAT`, whatever it is called"},
			&cli.StringFlag{Name: "backing", Usage: "FILE is a qcow2 overlay of this `FILE`"},
			&cli.BoolFlag{Name: "digest", Usage: "read all of it, and print digests"},
		),
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 1, 1); err != nil {
				return err
			}
			return inspect(c)
		},
	}
}

// A report is what inspect finds.
type report struct {
	Name     string       `json:"name"` // the path or the place
	Format   string       `json:"format"`
	FileSize int64        `json:"file_size"` // bytes of the container; -1 unknown
	Disks    []diskReport `json:"disks"`
	Meta     disk.Meta    `json:"meta"`

	Companions []companionReport   `json:"companions,omitempty"` // kernel and ramdisk
	Guest      *cleaner.Inspection `json:"guest,omitempty"`      // of the boot disk
	NoGuest    string              `json:"no_guest,omitempty"`   // why nothing is known of one
}

// A companionReport is a file that the machine boots with.
type companionReport struct {
	Role   providers.Role `json:"role"`
	ID     string         `json:"id"`
	Name   string         `json:"name,omitempty"`   // its own
	Size   int64          `json:"size"`             // bytes; -1 unknown
	Reason string         `json:"reason,omitempty"` // why it cannot be read
}

// A diskReport is one virtual disk.
type diskReport struct {
	Device         string          `json:"device,omitempty"`
	Bus            string          `json:"bus,omitempty"`
	VirtualSize    int64           `json:"virtual_size"` // bytes
	Allocated      int64           `json:"allocated"`    // bytes that are not holes
	Extents        int             `json:"extents"`      // runs, holes and data alike
	DataExtents    int             `json:"data_extents"`
	PartitionTable string          `json:"partition_table,omitempty"` // "gpt", "mbr"
	Partitions     []partitionInfo `json:"partitions"`
	GuestDigest    string          `json:"guest_digest,omitempty"` // the tree digest, of every container of this disk the same
	SHA256         string          `json:"sha256,omitempty"`       // of the disk as a raw file
}

func inspect(c *cli.Context) error {
	e, err := parseEnd(c.Args().First())
	if err != nil {
		return err
	}
	var r *report
	if e.Path != "" {
		r, err = inspectFile(c, e.Path)
	} else {
		r, err = inspectPlace(c, e.Place)
	}
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, r)
	}
	return r.print(c.App.Writer)
}

func inspectFile(c *cli.Context, path string) (*report, error) {
	var backing disk.Image
	if name := c.String("backing"); name != "" {
		base, err := openSource(name, "", nil)
		if err != nil {
			return nil, err
		}
		defer base.Close()
		backing = base.Disks[0]
	}
	src, err := openSource(path, c.String("f"), backing)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	r := &report{Name: path, Format: src.Format.Name, FileSize: src.File.Size(), Meta: src.Meta}
	for i, d := range src.Disks {
		one, err := inspectDisk(c.Context, d, c.Bool("digest"))
		if err != nil {
			return nil, fmt.Errorf("inspect disk %d of %q: %w", i, path, err)
		}
		r.Disks = append(r.Disks, one)
	}
	conf, err := cleaningConfig(c, end{Path: path})
	if err != nil {
		return nil, err
	}
	return r, r.lookInside(c, conf.Cleaning, src.Disks[0])
}

// lookInside looks at the guest of a boot disk. That there is none, or that it cannot be
// looked at, is no failure.
func (r *report) lookInside(c *cli.Context, how pipeline.Cleaning, img disk.Image) error {
	o := disk.NewOverlay(img, disk.OverlayOptions{})
	defer o.Close()
	facts, err := guest.Look(o)
	if err == nil && !slices.ContainsFunc(facts.Filesystems, func(f guest.Filesystem) bool { return f.Type != "" }) {
		return nil // nothing of a guest
	}
	if err == nil {
		var in cleaner.Inspection
		if in, err = how.Inspect(c.Context, img); err == nil {
			r.Guest = &in
		}
	}
	if context.Cause(c.Context) != nil {
		return context.Cause(c.Context)
	}
	if err != nil {
		r.NoGuest = err.Error()
		if hint := disk.AsError(err).Hint; hint != "" {
			r.NoGuest += " (" + hint + ")"
		}
	}
	return nil
}

func inspectPlace(c *cli.Context, place fs.Place) (*report, error) {
	if place.Stem == "" {
		return nil, usage("name one image", "inspect: %s:%s is a whole folder", place.Provider, place.Kind)
	}
	p, conf, err := openSession(c)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	n, err := find(c.Context, p, place)
	if err != nil {
		return nil, err
	}
	ref := pipeline.Ref{Site: place.Provider, Entry: n.Entry, Format: "raw"}
	m, err := p.Machine(c.Context, ref)
	if err != nil {
		return nil, err
	}
	r := &report{Name: placeName(place.Provider, place.Kind, n.Name), Format: n.Entry.Format, FileSize: n.Entry.Size, Meta: m.Meta}
	for _, c := range n.Entry.Companions {
		r.Companions = append(r.Companions, companionReport{c.Role, c.ID, c.Name, c.Size, c.Reason})
	}
	if place.Disk >= len(m.Disks) {
		return nil, disk.Errorf(disk.NotFound, "inspect disk %d of %s: it has %d", place.Disk, r.Name, len(m.Disks))
	}
	for i, d := range m.Disks {
		if place.InDisks && i != place.Disk {
			continue
		}
		ref.Disk = i
		v, err := p.View(c.Context, ref)
		if err != nil {
			return nil, err
		}
		one, err := inspectDisk(c.Context, disk.Disk{Image: v, Device: d.Device, Bus: d.Bus}, c.Bool("digest"))
		if err == nil && i == 0 {
			err = r.lookInside(c, conf.Cleaning, v)
		}
		v.Close()
		if err != nil {
			return nil, fmt.Errorf("inspect disk %d of %s: %w", i, r.Name, err)
		}
		r.Disks = append(r.Disks, one)
	}
	return r, nil
}

// inspectDisk looks at one disk. Without digests it reads metadata and the
// partition table only.
func inspectDisk(ctx context.Context, d disk.Disk, digest bool) (diskReport, error) {
	r := diskReport{Device: d.Device, Bus: d.Bus, VirtualSize: d.Size(), Partitions: []partitionInfo{}}
	for e, err := range disk.Extents(d) {
		if err != nil {
			return r, err
		}
		if err := context.Cause(ctx); err != nil {
			return r, err
		}
		r.Extents++
		if !e.Zero {
			r.DataExtents++
			r.Allocated += e.Len
		}
	}
	table, list, err := partitions(d)
	if err != nil {
		return r, err
	}
	r.PartitionTable, r.Partitions = table, append(r.Partitions, list...)
	if !digest {
		return r, nil
	}
	if r.GuestDigest, err = disk.Sum(ctx, d, nil); err != nil {
		return r, err
	}
	r.SHA256, err = disk.FlatSum(ctx, d)
	return r, err
}

// print writes the report for people.
func (r *report) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "name\t%s\n", r.Name)
	fmt.Fprintf(t, "format\t%s\n", r.Format)
	fmt.Fprintf(t, "file size\t%s (%d bytes)\n", size(r.FileSize), r.FileSize)
	for _, c := range r.Companions {
		text := fmt.Sprintf("%s, %s (%d bytes)", harmless(c.Name), size(c.Size), c.Size)
		if c.Reason != "" {
			text = c.Reason
		}
		fmt.Fprintf(t, "%s\t%s: %s\n", c.Role, harmless(c.ID), text)
	}
	for i, d := range r.Disks {
		if len(r.Disks) > 1 {
			fmt.Fprintf(t, "\ndisk %d\t%s %s\n", i, d.Device, d.Bus)
		}
		fmt.Fprintf(t, "virtual size\t%s (%d bytes)\n", size(d.VirtualSize), d.VirtualSize)
		fmt.Fprintf(t, "allocated\t%s (%d bytes)\n", size(d.Allocated), d.Allocated)
		fmt.Fprintf(t, "extents\t%d, of which %d hold data\n", d.Extents, d.DataExtents)
		if d.PartitionTable == "" {
			fmt.Fprintf(t, "partitions\tno partition table\n")
		} else {
			fmt.Fprintf(t, "partitions\t%d (%s)\n", len(d.Partitions), d.PartitionTable)
		}
		for _, p := range d.Partitions {
			fmt.Fprintf(t, "  %d\tat %s, %s, type %s", p.Number, size(p.Start), size(p.Size), p.Type)
			if p.Name != "" {
				fmt.Fprintf(t, ", %q", p.Name)
			}
			fmt.Fprintln(t)
		}
		if d.GuestDigest != "" {
			fmt.Fprintf(t, "guest digest\t%s\n", d.GuestDigest)
			fmt.Fprintf(t, "sha256\t%s\n", d.SHA256)
		}
	}
	r.printGuest(t)
	return t.Flush()
}

// printGuest prints what was seen inside.
func (r *report) printGuest(t io.Writer) {
	if r.NoGuest != "" {
		fmt.Fprintf(t, "guest\t%s\n", harmless(r.NoGuest))
	}
	g := r.Guest
	if g == nil {
		return
	}
	fmt.Fprintf(t, "guest\t%s\n", harmless(cmp.Or(g.OS.Name, g.OS.ID, "unknown")))
	for _, f := range g.Disk.Filesystems {
		fmt.Fprintf(t, "  %d\t%s %s %s %s\n", f.Number, cmp.Or(f.Type, "unknown"), harmless(f.Mountpoint), harmless(f.Label), f.Reason)
	}
	fmt.Fprintf(t, "kernels\t%s\n", harmless(strings.Join(g.Kernels, ", ")))
	for _, u := range g.Users {
		fmt.Fprintf(t, "user\t%s, %d, %s\n", harmless(u.Name), u.UID, harmless(u.Home))
	}
	fmt.Fprintf(t, "logins are made by\t%s\n", cmp.Or(g.Provisioner, "nothing that is known"))
	fmt.Fprintf(t, "findings\t%d files, %d bytes that cleaning takes out; chromogenic clean --plan lists them\n", g.Files, g.Bytes)
}
