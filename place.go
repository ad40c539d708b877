package main

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"

	"chromogenic/disk"
	"chromogenic/formats"
	"chromogenic/fs"
	"chromogenic/pipeline"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
)

// An end is what the command line names as source or destination.
type end struct {
	fs.Place        // if it is one
	Path     string // or else a path of this host
}

func parseEnd(s string) (end, error) {
	if s == "" {
		return end{}, usage("", "name is empty")
	}
	place, ok, err := fs.ParsePlace(s)
	if err != nil {
		return end{}, err
	}
	if !ok {
		return end{Path: s}, nil
	}
	return end{Place: place}, nil
}

// parseFile is parseEnd for who would make a file of what is no place: a slip of
// the pen must not.
func parseFile(s string) (end, error) {
	e, err := parseEnd(s)
	if err == nil && likePlace.MatchString(e.Path) {
		if _, err := os.Lstat(s); err != nil {
			return end{}, usage("a place is PROVIDER:images/NAME or PROVIDER:instances/NAME[@TIME]; a plain file is ./"+s, "%q is no place", s)
		}
	}
	return e, err
}

// likePlace is what somebody writes who means a provider.
var likePlace = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*:`)

// directories are the kinds of entries, in the order of the mount.
func directories() []providers.Kind { return []providers.Kind{providers.Images, providers.Instances} }

// list is the listing of a directory of a site. An unknown site is NotFound.
func list(ctx context.Context, p *pipeline.Pipeline, site string, kind providers.Kind) (pipeline.Listing, error) {
	if _, ok := p.Provider(site); !ok {
		err := disk.Errorf(disk.NotFound, "list %s:%s: there is no provider of that name", site, kind)
		return pipeline.Listing{}, disk.Hint(err, "the configuration has %s", strings.Join(p.SiteNames(), ", "))
	}
	return p.List(ctx, site, kind)
}

// find is the entry of a place. One that cannot be read is an error with its
// reason.
func find(ctx context.Context, p *pipeline.Pipeline, place fs.Place) (fs.Named, error) {
	l, err := list(ctx, p, place.Provider, place.Kind)
	if err != nil {
		return fs.Named{}, err
	}
	n, ok := fs.Find(l.Entries, place.Stem)
	if !ok {
		err := disk.Errorf(disk.NotFound, "find %s: no such image", placeName(place.Provider, place.Kind, place.Stem))
		return n, disk.Hint(err, "chromogenic ls %s:%s shows what is there", place.Provider, place.Kind)
	}
	return n, nil
}

// placeName is the text of a place.
func placeName(site string, kind providers.Kind, stem string) string {
	return site + ":" + string(kind) + "/" + stem
}

// view opens an entry in a format; empty is its own. Over reads on when the read
// budget is used up.
func view(ctx context.Context, p *pipeline.Pipeline, place fs.Place, n fs.Named, over bool) (*pipeline.View, error) {
	ref := pipeline.Ref{Site: place.Provider, Entry: n.Entry, Format: formatOf(place, n), Disk: place.Disk, Over: over}
	if place.Role != "" {
		c, ok := n.Entry.Companion(place.Role)
		if !ok || c.Reason != "" {
			return nil, disk.Errorf(disk.NotFound, "read %s.%s: the image has no %s that can be read", placeName(place.Provider, place.Kind, n.Name), place.Role, place.Role)
		}
		ref.Entry, ref.Format = c.Entry(n.Entry.Name), "raw"
	}
	if n.Entry.Live() && p.SnapshotPolicy(place.Provider) == "never" {
		err := disk.Errorf(disk.Policy, "read %s: the policy of %s is to capture no instance", placeName(place.Provider, place.Kind, n.Name), place.Provider)
		return nil, disk.Hint(err, "set snapshot: auto for %s in the configuration", place.Provider)
	}
	return p.View(ctx, ref)
}

// formatOf is the format in which an entry is shown and copied: that which was asked
// for, or its own, or for several disks that are kept apart the one that holds them
// all. What can only be read is shown as its disk, and so is one disk of a machine.
func formatOf(place fs.Place, n fs.Named) string {
	switch {
	case place.Format != "":
		n.Entry.Format = place.Format
	case place.InDisks:
		return "raw"
	case len(n.Entry.Disks) > 1:
		return "ova"
	}
	return ownFormat(n)
}

// ownFormat is that of an entry, if it can be written.
func ownFormat(n fs.Named) string {
	if f, ok := formats.ByName(n.Entry.Format); ok && (f.Layout != nil || f.Alone) {
		return n.Entry.Format
	}
	return "raw"
}

// printNotes tells what the user should know of a copy though nothing failed.
func printNotes(rec *jobs.Record) {
	for _, note := range rec.Notes {
		fmt.Fprintln(os.Stderr, "chromogenic: note:", note)
	}
}
