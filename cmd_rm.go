package main

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/urfave/cli/v2"

	"chromogenic/disk"
	"chromogenic/fs"
	"chromogenic/pipeline"
	"chromogenic/pipeline/control"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
)

func rmCommand() *cli.Command {
	return &cli.Command{
		Name:      "rm",
		Usage:     "remove images and captures for good",
		ArgsUsage: "PLACE...",
		Description: "PLACE is PROVIDER:images/NAME, or PROVIDER:instances/NAME@TIME for a capture; a machine\n" +
			"itself is never removed. An image goes with all its disks and files, kernel and ramdisk too,\n" +
			"that no other image needs, and with the metadata that was kept for it. PROVIDER:images/NAME.disks/N is one data\n" +
			"disk, which goes alone; those of greater numbers wait then. One that somebody reads through the mount, that a\n" +
			"copy needs, or that its provider protects, is busy and stays.\n" +
			"\n" +
			"On a terminal each is shown, and asked about. A name that several images share is refused,\n" +
			"with their ids, any of which will do. All places are tried, and the exit status is that of\n" +
			"the worst failure.",
		Flags: append(commonFlags(), jsonFlag(),
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask"},
			&cli.BoolFlag{Name: "purge", Usage: "remove what the image is made of too, where its cloud would keep that: the bundle of an EMI"},
			&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "say what would go, and remove nothing"},
		),
		Action: removeAction,
	}
}

func removeAction(c *cli.Context) error {
	if !c.Args().Present() {
		return usage("chromogenic rm PLACE...", "rm: no place is given")
	}
	var targets []*target
	for _, arg := range c.Args().Slice() {
		place, err := removable(arg)
		if err != nil {
			return err
		}
		targets = append(targets, &target{place: place, Place: arg})
	}
	ask := !c.Bool("yes") && !c.Bool("dry-run")
	if ask && !isTerminal(os.Stdin) {
		return disk.Hint(disk.Errorf(disk.Policy, "rm: standard input is no terminal, so nobody can be asked"), "say --yes if you mean it, or --dry-run to see what would go")
	}
	s, p, done, err := openOwner(c)
	if err != nil {
		return err
	}
	defer done()
	r := &removing{c: c, p: p, service: s, ask: ask, in: bufio.NewReader(os.Stdin)}
	for _, t := range targets { // before one that goes leaves others of the same name
		r.told(t, r.find(t))
	}
	for _, t := range targets {
		switch {
		case t.Error != nil:
		case c.Context.Err() != nil:
			t.Outcome = outcomeKept
		default:
			r.told(t, r.remove(t))
		}
	}
	if c.Bool("json") {
		if err := printJSON(c.App.Writer, targets); err != nil {
			return err
		}
	}
	return r.worst
}

// removable is the place of an image or a capture.
func removable(arg string) (fs.Place, error) {
	e, err := parseEnd(arg)
	switch {
	case err != nil:
		return fs.Place{}, err
	case e.Path != "":
		return fs.Place{}, usage("a place is PROVIDER:images/NAME or PROVIDER:instances/NAME@TIME; files of a mount are removed with rm, if it has --allow-delete", "rm: %q is no place", arg)
	case e.Stem == "":
		return fs.Place{}, usage("name one image", "rm: %q is a whole folder", arg)
	case e.InDisks && e.Disk == 0:
		return fs.Place{}, usage("name the image, which goes with all its disks", "rm: %q is a boot disk", arg)
	}
	return e.Place, nil
}

// A target is one place, and what became of it.
type target struct {
	place fs.Place
	named fs.Named
	disks int // that the image has
	disk  int // that goes alone; 0 is all

	Place   string      `json:"place"`
	ID      string      `json:"id,omitempty"`
	Version string      `json:"version,omitempty"`
	Name    string      `json:"name,omitempty"` // the true one
	Format  string      `json:"format,omitempty"`
	Created time.Time   `json:"created,omitzero"`
	Outcome string      `json:"outcome"` // "removed", "planned", "kept" when the answer was no, "failed"
	Error   *jobs.Error `json:"error,omitempty"`
	*pipeline.Removed
}

// The outcomes.
const (
	outcomeRemoved = "removed"
	outcomePlanned = "planned"
	outcomeKept    = "kept"
	outcomeFailed  = "failed"
)

// A removing is one run of rm.
type removing struct {
	c       *cli.Context
	p       *pipeline.Pipeline
	service control.Service
	ask     bool
	in      *bufio.Reader
	done    []*target
	worst   error // a toldError
}

// told tells of a failure at one place.
func (r *removing) told(t *target, err error) {
	if err == nil {
		return
	}
	t.Outcome, t.Error = outcomeFailed, jobs.ErrorOf(err)
	complain(os.Stderr, err)
	rank := func(err error) int { return slices.Index(severity(), exitStatus(r.c.Context, err)) }
	if r.worst == nil || rank(err) > rank(r.worst) {
		r.worst = toldError{err}
	}
}

// severity are the exit statuses, the worst last.
func severity() []int {
	return []int{exitDone, exitNotFound, exitPolicy, exitVerify, exitUnreachable, exitFailed, exitUsage, exitInterrupted}
}

// remove deals with one place.
func (r *removing) remove(t *target) error {
	for _, earlier := range r.done {
		if earlier.Place == t.Place { // the same image in another format
			t.Outcome, t.Error, t.Removed = earlier.Outcome, earlier.Error, earlier.Removed
			return nil
		}
	}
	r.done = append(r.done, t)
	q := control.RemoveRequest{Site: t.place.Provider, Kind: t.named.Entry.Kind, ID: t.ID, Version: t.Version, Disk: t.disk, Purge: r.c.Bool("purge"), DryRun: true}
	if r.ask || r.c.Bool("dry-run") {
		what, err := r.service.Remove(r.c.Context, q)
		if err != nil {
			return err
		}
		t.Removed, t.Outcome = &what, outcomePlanned
	}
	if r.c.Bool("dry-run") {
		if r.c.Bool("json") {
			return nil
		}
		return r.show(r.c.App.Writer, t)
	}
	if r.ask {
		yes, err := r.agreed(t)
		if err != nil || !yes {
			t.Outcome = outcomeKept
			return err
		}
	}
	q.DryRun = false
	what, err := r.service.Remove(r.c.Context, q)
	if err != nil {
		return err
	}
	t.Removed, t.Outcome = &what, outcomeRemoved
	if !r.c.Bool("json") {
		fmt.Fprintln(r.c.App.Writer, "removed", t.Place)
	}
	return nil
}

// find finds what a place names. It never guesses.
func (r *removing) find(t *target) error {
	dir := placeName(t.place.Provider, t.place.Kind, "")
	n, err := r.only(t)
	switch {
	case err != nil:
		return err
	case t.place.InDisks:
		return r.findDisk(t, n)
	case t.place.Role != "":
		return r.findCompanion(t, n)
	case n == nil:
		return disk.Hint(disk.Errorf(disk.NotFound, "remove %s: no such image", t.Place), "chromogenic ls -l %s shows what is there", strings.TrimSuffix(dir, "/"))
	}
	t.is(*n, dir+n.Name)
	if m, err := r.p.Machine(r.c.Context, pipeline.Ref{Site: t.place.Provider, Entry: n.Entry, Format: "raw"}); err == nil {
		t.disks = len(m.Disks)
	}
	return nil
}

// only gives the one entry that has the name, or the id, of a place; nil for none.
func (r *removing) only(t *target) (*fs.Named, error) {
	l, err := list(r.c.Context, r.p, t.place.Provider, t.place.Kind)
	if err != nil {
		return nil, err
	}
	if l.Stale {
		return nil, disk.Errorf(disk.Unreachable, "remove %s: the provider cannot be reached", t.Place)
	}
	all := fs.NewIndex(l.Entries).All(t.place.Stem)
	switch len(all) {
	case 0:
		return nil, nil
	case 1:
		return &all[0], nil
	}
	var ids []string
	for _, n := range all {
		ids = append(ids, placeName(t.place.Provider, t.place.Kind, fs.Encode(n.Entry.ID)))
	}
	return nil, disk.Hint(disk.Errorf(disk.Invalid, "remove %s: %d images have that name", t.Place, len(all)), "name one by its id: %s", strings.Join(ids, ", "))
}

// findDisk finds a data disk: of the image that has the name, nil if there is none, or
// one that waits for it.
func (r *removing) findDisk(t *target, image *fs.Named) error {
	at, name, number := t.place.Stem, fs.Decode(t.place.Stem), t.place.Disk
	if image != nil {
		at, name = image.Name, cmp.Or(image.Entry.Name, image.Entry.ID)
		m, err := r.p.Machine(r.c.Context, pipeline.Ref{Site: t.place.Provider, Entry: image.Entry, Format: "raw"})
		if err != nil {
			return err
		}
		if number < len(m.Disks) {
			t.disk = number
			t.is(*image, placeName(t.place.Provider, t.place.Kind, at+".disks/"+fs.DiskStem(number, m.Disks[number].Device)))
			return nil
		}
	}
	l, err := r.p.List(r.c.Context, t.place.Provider, providers.Disks)
	if err != nil {
		return err
	}
	for _, e := range l.Entries {
		if t.place.Kind == providers.Images && e.Name == name && e.Waiting.Number == number {
			t.is(fs.Named{Name: at, Entry: e}, placeName(t.place.Provider, t.place.Kind, at+".disks/"+fs.DiskStem(number, e.Waiting.Device)))
			return nil
		}
	}
	return disk.Errorf(disk.NotFound, "remove %s: no such disk", t.Place)
}

// findCompanion finds a kernel or a ramdisk that waits for its image.
func (r *removing) findCompanion(t *target, image *fs.Named) error {
	if image != nil {
		err := disk.Errorf(disk.Unsupported, "remove %s: it is a part of the image", t.Place)
		return disk.Hint(err, "remove the image, with which it goes unless others need it")
	}
	l, err := r.p.List(r.c.Context, t.place.Provider, providers.Disks)
	if err != nil {
		return err
	}
	for _, e := range l.Entries {
		if e.Role == t.place.Role && e.Name == fs.Decode(t.place.Stem) {
			t.is(fs.Named{Name: t.place.Stem, Entry: e}, placeName(t.place.Provider, t.place.Kind, t.place.Stem+"."+string(e.Role)))
			t.named.Entry.Kind = providers.Disks // by which it is found again
			return nil
		}
	}
	return disk.Errorf(disk.NotFound, "remove %s: no such file", t.Place)
}

// is notes what a place has turned out to be, and its full name.
func (t *target) is(n fs.Named, place string) {
	t.named, t.Place = n, place
	t.ID, t.Version, t.Name, t.Format, t.Created = n.Entry.ID, n.Entry.Version, n.Entry.Name, n.Entry.Format, n.Entry.Created.UTC()
}

// show tells what goes with an image.
func (r *removing) show(w io.Writer, t *target) error {
	fmt.Fprintln(w, t.Place)
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(label, text string) {
		if text != "" {
			fmt.Fprintf(tab, "  %s\t%s\n", label, text)
		}
	}
	line("name", harmless(t.Name))
	line("id", harmless(t.ID))
	line("provider", t.place.Provider)
	line("format", t.Format)
	if !t.Created.IsZero() {
		line("created", t.Created.Format("2006-01-02 15:04"))
	}
	line("unreadable", harmless(t.named.Entry.Reason))
	if t.disks > 1 {
		line("disks", strconv.Itoa(t.disks)+", all of them")
	}
	line("size", size(t.Size))
	line("files", count(t.Files))
	line("metadata", harmless(t.Metadata))
	for _, k := range t.Kept {
		line("stays", harmless(k.File)+": "+harmless(k.Reason))
	}
	return tab.Flush()
}

// maxNames is how many files are named before the rest is only counted.
const maxNames = 6

// count names files, or the first of them.
func count(files []string) string {
	var names []string
	for _, f := range files[:min(len(files), maxNames)] {
		names = append(names, harmless(f))
	}
	text := strings.Join(names, ", ")
	if more := len(files) - len(names); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	if len(files) > 1 {
		text = fmt.Sprintf("%d: %s", len(files), text)
	}
	return text
}

// harmless is a foreign text that can do no harm to a terminal.
func harmless(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

// agreed shows what would go and asks. Anything but yes is no.
func (r *removing) agreed(t *target) (bool, error) {
	if err := r.show(os.Stderr, t); err != nil {
		return false, err
	}
	fmt.Fprint(os.Stderr, "remove it for good? [y/N] ")
	answer := make(chan string, 1)
	go func() {
		text, _ := r.in.ReadString('\n') // the end of the input is no answer
		answer <- text
	}()
	select {
	case text := <-answer:
		text = strings.ToLower(strings.TrimSpace(text))
		return text == "y" || text == "yes", nil
	case <-r.c.Context.Done():
		fmt.Fprintln(os.Stderr)
		return false, context.Cause(r.c.Context)
	}
}
