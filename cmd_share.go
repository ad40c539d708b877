package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"chromogenic/disk"
	"chromogenic/fs"
	"chromogenic/pipeline"
	"chromogenic/providers"
)

func shareCommand() *cli.Command {
	return &cli.Command{
		Name:      "share",
		Usage:     "let other projects read an image",
		ArgsUsage: "PROVIDER:images/NAME PROJECT...",
		Description: "PROJECT is the id of a project, or its name where this user may see that. A kernel and a\n" +
			"ramdisk are shared with their image. Where the image was private, it becomes shared, which is\n" +
			"said. Each project has to accept it: chromogenic members --accept.",
		Flags: commonFlags(),
		Action: func(c *cli.Context) error {
			return changeSharing(c, "share", "shared with", providers.Sharer.Share)
		},
	}
}

func unshareCommand() *cli.Command {
	return &cli.Command{
		Name:      "unshare",
		Usage:     "end that",
		ArgsUsage: "PROVIDER:images/NAME PROJECT...",
		Description: "A kernel and a ramdisk go with their image, unless another image that is shared with the\n" +
			"project boots with them. An image without members is private again.",
		Flags: commonFlags(),
		Action: func(c *cli.Context) error {
			return changeSharing(c, "unshare", "taken from", providers.Sharer.Unshare)
		},
	}
}

// changeSharing shares one image, or ends that.
func changeSharing(c *cli.Context, verb, done string, change func(providers.Sharer, context.Context, providers.Entry, []string) ([]string, error)) error {
	if c.NArg() < 2 {
		return usage("chromogenic "+verb+" PROVIDER:images/NAME PROJECT...", "%s: no project is given", verb)
	}
	p, _, err := openSession(c)
	if err != nil {
		return err
	}
	defer p.Close()
	place, s, err := sharerOf(p, verb, c.Args().First())
	if err != nil {
		return err
	}
	n, err := onlyImage(c, p, verb, place)
	if err != nil {
		return err
	}
	projects := c.Args().Tail()
	notes, err := change(s, c.Context, n.Entry, projects)
	for _, note := range notes { // also of what was done before it failed
		fmt.Fprintln(os.Stderr, "chromogenic: note:", note)
	}
	if err != nil {
		return err
	}
	for _, project := range projects {
		fmt.Fprintln(c.App.Writer, placeName(place.Provider, place.Kind, n.Name), done, project)
	}
	return nil
}

// sharerOf is the provider of an argument, which names images of it, in the role.
func sharerOf(p *pipeline.Pipeline, verb, arg string) (fs.Place, providers.Sharer, error) {
	e, err := parseEnd(arg)
	switch {
	case err != nil:
		return fs.Place{}, nil, err
	case e.Path != "" || e.Kind != providers.Images || e.InDisks || e.Role != "":
		return fs.Place{}, nil, usage("a place is PROVIDER:images/NAME", "%s: %q is no place of an image", verb, arg)
	}
	at, ok := p.Provider(e.Provider)
	if !ok {
		err := disk.Errorf(disk.NotFound, "%s %s: there is no provider of that name", verb, arg)
		return e.Place, nil, disk.Hint(err, "the configuration has %s", strings.Join(p.SiteNames(), ", "))
	}
	s, ok := at.(providers.Sharer)
	if !ok {
		return e.Place, nil, disk.Errorf(disk.Unsupported, "%s %s: provider %q shares no images", verb, arg, e.Provider)
	}
	return e.Place, s, nil
}

// onlyImage is the one image that a place names. A name that several have is refused: it
// could be the wrong one that others see.
func onlyImage(c *cli.Context, p *pipeline.Pipeline, verb string, place fs.Place) (fs.Named, error) {
	if place.Stem == "" {
		return fs.Named{}, usage("name one image", "%s: %s is a whole folder", verb, placeName(place.Provider, place.Kind, ""))
	}
	p.Forget(place.Provider)
	l, err := list(c.Context, p, place.Provider, place.Kind)
	if err == nil && l.Stale {
		err = disk.Errorf(disk.Unreachable, "%s %s: the provider cannot be reached", verb, placeName(place.Provider, place.Kind, place.Stem))
	}
	if err != nil {
		return fs.Named{}, err
	}
	return oneOf(verb, place, fs.NewIndex(l.Entries).All(place.Stem))
}

// oneOf is the only one of those that a place may mean.
func oneOf(verb string, place fs.Place, all []fs.Named) (fs.Named, error) {
	what := placeName(place.Provider, place.Kind, place.Stem)
	switch len(all) {
	case 0:
		return fs.Named{}, disk.Hint(disk.Errorf(disk.NotFound, "%s %s: no such image", verb, what), "chromogenic ls %s:%s shows what is there", place.Provider, place.Kind)
	case 1:
		return all[0], nil
	}
	var ids []string
	for _, n := range all {
		ids = append(ids, placeName(place.Provider, place.Kind, fs.Encode(n.Entry.ID)))
	}
	return fs.Named{}, disk.Hint(disk.Errorf(disk.Invalid, "%s %s: %d images have that name", verb, what, len(all)), "name one by its id: %s", strings.Join(ids, ", "))
}

func membersCommand() *cli.Command {
	return &cli.Command{
		Name:      "members",
		Usage:     "list with whom an image is shared, or accept one",
		ArgsUsage: "PROVIDER:images/NAME",
		Description: "An image that another project shares with this one is in no listing until it is accepted.\n" +
			"members --pending PROVIDER:images lists what waits for that, or was rejected; --accept and\n" +
			"--reject take its name or its id. What was rejected can be accepted later, and the other way\n" +
			"round. A kernel and a ramdisk are answered with their image.",
		Flags: append(commonFlags(), jsonFlag(),
			&cli.BoolFlag{Name: "pending", Usage: "list what others share with this project and it has not accepted"},
			&cli.BoolFlag{Name: "accept", Usage: "take an image that another project shares into the listing"},
			&cli.BoolFlag{Name: "reject", Usage: "leave it out, or take it out again"},
		),
		Action: membersAction,
	}
}

func membersAction(c *cli.Context) error {
	if err := wantArgs(c, 1, 1); err != nil {
		return err
	}
	asked := 0
	for _, flag := range []string{"pending", "accept", "reject"} {
		if c.Bool(flag) {
			asked++
		}
	}
	if asked > 1 {
		return usage("say one of them", "members: --pending, --accept and --reject exclude each other")
	}
	p, conf, err := openSession(c)
	if err != nil {
		return err
	}
	defer p.Close()
	place, s, err := sharerOf(p, "members", c.Args().First())
	if err != nil {
		return err
	}
	switch {
	case c.Bool("pending"):
		return printOffers(c, s, place)
	case c.Bool("accept") || c.Bool("reject"):
		if err := answerOffer(c, p, s, place); err != nil {
			return err
		}
		owner, done, err := service(c, p, conf)
		if err != nil {
			return err
		}
		defer done()
		return owner.Refresh(c.Context, place.Provider) // a mount shows it at once
	}
	n, err := onlyImage(c, p, "members", place)
	if err != nil {
		return err
	}
	members, err := s.Members(c.Context, n.Entry)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		if members == nil {
			members = []providers.Member{}
		}
		return printJSON(c.App.Writer, members)
	}
	t := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	for _, m := range members {
		fmt.Fprintf(t, "%s\t%s\t%s\n", harmless(m.ID), m.Status, harmless(m.Name))
	}
	return t.Flush()
}

// An offer is one that is printed.
type offer struct {
	Place   string    `json:"place"` // by the id, which no other image has
	Name    string    `json:"name"`
	ID      string    `json:"id"`
	Owner   string    `json:"owner"` // the id of the project that shares it
	Status  string    `json:"status"`
	Size    int64     `json:"size"` // bytes; -1 unknown
	Created time.Time `json:"created"`
}

// offers are what others share, by their names.
func offers(c *cli.Context, s providers.Sharer, place fs.Place) ([]providers.Offer, []fs.Named, error) {
	all, err := s.Offers(c.Context)
	if err != nil {
		return nil, nil, err
	}
	var entries []providers.Entry
	for _, o := range all {
		entries = append(entries, o.Entry)
	}
	named := fs.Shown(entries)
	if place.Stem != "" {
		named = fs.NewIndex(entries).All(place.Stem)
	}
	return all, named, nil
}

func printOffers(c *cli.Context, s providers.Sharer, place fs.Place) error {
	all, named, err := offers(c, s, place)
	if err != nil {
		return err
	}
	list := []offer{}
	for _, n := range named {
		for _, o := range all {
			if o.ID == n.Entry.ID {
				list = append(list, offer{
					Place: placeName(place.Provider, place.Kind, fs.Encode(o.ID)), Name: o.Name, ID: o.ID, Owner: o.Owner,
					Status: o.Answer, Size: o.Size, Created: o.Created.UTC(),
				})
			}
		}
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, list)
	}
	t := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PLACE\tNAME\tSTATUS\tSIZE\tOWNER")
	for _, o := range list {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", o.Place, harmless(o.Name), o.Status, size(o.Size), o.Owner)
	}
	return t.Flush()
}

// answerOffer accepts or rejects one image: of those that are offered, or that are in the
// listing already.
func answerOffer(c *cli.Context, p *pipeline.Pipeline, s providers.Sharer, place fs.Place) error {
	if place.Stem == "" {
		return usage("chromogenic members --pending "+placeName(place.Provider, place.Kind, "")+" lists them", "members: name one image")
	}
	_, named, err := offers(c, s, place)
	if err != nil {
		return err
	}
	var n fs.Named
	if len(named) == 0 { // what was accepted can be rejected still
		n, err = onlyImage(c, p, "members", place)
	} else {
		n, err = oneOf("members", place, named)
	}
	if err != nil {
		return err
	}
	if err := s.Answer(c.Context, n.Entry, c.Bool("accept")); err != nil {
		return err
	}
	answer := "rejected"
	if c.Bool("accept") {
		answer = "accepted"
	}
	fmt.Fprintln(c.App.Writer, answer, placeName(place.Provider, place.Kind, n.Name))
	return nil
}
