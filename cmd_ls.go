package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"chromogenic/fs"
	"chromogenic/pipeline"
	"chromogenic/providers"
)

func lsCommand() *cli.Command {
	return &cli.Command{
		Name:      "ls",
		Usage:     "list images",
		ArgsUsage: "[PROVIDER[:images|:instances[/NAME]]]",
		Description: "Without an argument all providers are listed. Images that cannot be read are shown\n" +
			"by -l and --json only, with the reason.",
		Flags: append(commonFlags(), jsonFlag(), &cli.BoolFlag{Name: "l", Usage: "with format, sizes and times"}),
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 0, 1); err != nil {
				return err
			}
			return listPlaces(c)
		},
	}
}

// A row is an image in a list.
type row struct {
	Place       string    `json:"place"`
	Name        string    `json:"name"` // the true one
	ID          string    `json:"id"`
	Version     string    `json:"version"`
	Format      string    `json:"format,omitempty"`
	Size        int64     `json:"size"`            // bytes of the container, of several that of the boot disk; -1 unknown
	VirtualSize int64     `json:"virtual_size"`    // bytes, of several disks those of the boot disk; -1 unknown
	Disks       []rowDisk `json:"disks,omitempty"` // of a machine with several, the boot disk first
	Created     time.Time `json:"created"`
	Updated     time.Time `json:"updated"`
	Status      string    `json:"status,omitempty"`
	Reason      string    `json:"reason,omitempty"` // why it cannot be read
	Stale       bool      `json:"stale,omitempty"`  // of a listing that could not be renewed
}

// A rowDisk is one disk of a machine.
type rowDisk struct {
	Device      string `json:"device,omitempty"`
	VirtualSize int64  `json:"virtual_size"` // bytes; -1 unknown
}

func listPlaces(c *cli.Context) error {
	places, err := listed(c.Args().First())
	if err != nil {
		return err
	}
	p, _, err := openSession(c)
	if err != nil {
		return err
	}
	defer p.Close()
	if places == nil {
		for _, site := range p.SiteNames() {
			places = append(places, placesOf(site)...)
		}
	}
	rows := []row{}
	for _, place := range places {
		some, err := rowsOf(c, p, place)
		if err != nil {
			return err
		}
		rows = append(rows, some...)
	}
	switch {
	case c.Bool("json"):
		return printJSON(c.App.Writer, rows)
	case c.Bool("l"):
		return printTable(c.App.Writer, rows)
	}
	for _, r := range rows {
		if r.Reason == "" {
			fmt.Fprintln(c.App.Writer, r.Place)
		}
	}
	return nil
}

// listed are the directories that an argument names; nil for all.
func listed(arg string) ([]fs.Place, error) {
	if arg == "" {
		return nil, nil
	}
	e, err := parseEnd(arg)
	if err != nil {
		return nil, err
	}
	if e.Provider != "" {
		return []fs.Place{e.Place}, nil
	}
	site := strings.TrimSuffix(arg, ":")
	if !providerName.MatchString(site) {
		return nil, usage("a place is PROVIDER, PROVIDER:images or PROVIDER:images/NAME", "ls: %q is no place", arg)
	}
	return placesOf(site), nil
}

// placesOf are the directories of a site.
func placesOf(site string) []fs.Place {
	var places []fs.Place
	for _, kind := range directories() {
		places = append(places, fs.Place{Provider: site, Kind: kind})
	}
	return places
}

// rowsOf lists one directory, or one image of it.
func rowsOf(c *cli.Context, p *pipeline.Pipeline, place fs.Place) ([]row, error) {
	l, err := list(c.Context, p, place.Provider, place.Kind)
	if err != nil {
		return nil, err
	}
	if l.Stale {
		fmt.Fprintf(os.Stderr, "chromogenic: %s cannot be reached: this is its listing of %s\n", place.Provider, l.At.Format(time.RFC3339))
	}
	named := fs.Shown(l.Entries)
	if place.Stem != "" {
		n, err := find(c.Context, p, place)
		if err != nil {
			return nil, err
		}
		named = []fs.Named{n}
	}
	slices.SortStableFunc(named, func(a, b fs.Named) int { return strings.Compare(a.Name, b.Name) })
	rows := make([]row, 0, len(named))
	detail := c.Bool("l") || c.Bool("json")
	for _, n := range named {
		rows = append(rows, row{
			Place: placeName(place.Provider, place.Kind, n.Name),
			Name:  n.Entry.Name, ID: n.Entry.ID, Version: n.Entry.Version,
			Format: n.Entry.Format, Size: n.Entry.Size, VirtualSize: n.Entry.VirtualSize,
			Created: n.Entry.Created.UTC(), Updated: n.Entry.Updated.UTC(),
			Status: n.Entry.Status, Reason: n.Entry.Reason, Stale: l.Stale,
		})
		if detail {
			rows[len(rows)-1].Disks = disksOf(c, p, place.Provider, n.Entry)
		}
	}
	if !detail || place.Kind != providers.Images || place.Stem != "" {
		return rows, nil
	}
	waiting, err := p.List(c.Context, place.Provider, providers.Disks)
	if err != nil {
		return nil, err
	}
	return append(rows, waitingRows(place, waiting.Entries)...), nil
}

// disksOf are the disks of a machine with several. What cannot be read has none, and
// a reason.
func disksOf(c *cli.Context, p *pipeline.Pipeline, site string, e providers.Entry) []rowDisk {
	if e.Reason != "" {
		return nil
	}
	var disks []rowDisk
	if m, err := p.Machine(c.Context, pipeline.Ref{Site: site, Entry: e, Format: "raw"}); err == nil {
		for _, d := range m.Disks {
			disks = append(disks, rowDisk{d.Device, d.Size()})
		}
	}
	if len(disks) < 2 {
		return nil
	}
	return disks
}

// waitingRows are the data disks that are no part of an image yet.
func waitingRows(place fs.Place, waiting []providers.Entry) []row {
	var rows []row
	for _, e := range waiting {
		if e.Role != "" {
			rows = append(rows, row{
				Place: placeName(place.Provider, place.Kind, fs.Encode(e.Name)+"."+string(e.Role)), Name: e.Name, ID: e.ID, Version: e.Version, Format: e.Format,
				Size: e.Size, VirtualSize: e.VirtualSize, Created: e.Created.UTC(), Updated: e.Updated.UTC(),
				Status: e.Status, Reason: cmp.Or(e.Reason, fmt.Sprintf("waits for the image %q", e.Name)),
			})
			continue
		}
		name := fs.Encode(e.Name) + ".disks/" + fs.DiskStem(e.Waiting.Number, e.Waiting.Device)
		reason := fmt.Sprintf("waits for the boot disk of %q, or for a disk before it", e.Name)
		rows = append(rows, row{
			Place: placeName(place.Provider, place.Kind, name), Name: e.Name, ID: e.ID, Version: e.Version, Format: e.Format,
			Size: e.Size, VirtualSize: e.VirtualSize, Created: e.Created.UTC(), Updated: e.Updated.UTC(),
			Status: e.Status, Reason: cmp.Or(e.Reason, reason),
		})
	}
	return rows
}

func printTable(w io.Writer, rows []row) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PLACE\tFORMAT\tVIRTUAL SIZE\tSIZE\tDISKS\tUPDATED\t")
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", r.Place, r.Format, size(r.VirtualSize), size(r.Size), max(1, len(r.Disks)), r.Updated.Format("2006-01-02 15:04"), r.Reason)
	}
	return t.Flush()
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
