package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"chromogenic/disk"
	"chromogenic/pipeline"
	"chromogenic/providers"
)

func metaCommand() *cli.Command {
	sub := func(name, args, text, about string, least, most int, do func(*cli.Context, *pipeline.Pipeline) error) *cli.Command {
		return &cli.Command{
			Name: name, Usage: text, ArgsUsage: args, Description: about,
			Flags: append(commonFlags(), jsonFlag()),
			Action: func(c *cli.Context) error {
				if err := wantArgs(c, least, most); err != nil {
					return err
				}
				p, _, err := openSession(c)
				if err != nil {
					return err
				}
				return errors.Join(do(c, p), p.Close())
			},
		}
	}
	return &cli.Command{
		Name:  "meta",
		Usage: "show and set the metadata of images",
		Description: "The keys are those of NAME.json in the mount: firmware, os.type, min_disk (GiB), min_ram\n" +
			"(MiB) and so on; prop.KEY is a property. The items of a list have commas between them.",
		Subcommands: []*cli.Command{
			sub("get", "PLACE [KEY]", "print all metadata as KEY=VALUE, or one value",
				"With --json it is the document that NAME.json holds. A value that is not known is not found.", 1, 2, getMeta),
			sub("set", "PLACE KEY=VALUE...", "set values", "KEY= removes one.", 2, math.MaxInt, setMeta),
			sub("copy", "SRC DST", "give an image the metadata of another", "SRC is a place, or a plain file as NAME.json is one.", 2, 2, copyMeta),
		},
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				return cli.ShowSubcommandHelp(c)
			}
			return noCommand(c.Command.Subcommands, "meta", c.Args().First())
		},
	}
}

// A subject is an image whose metadata is asked for.
type subject struct {
	site  string
	entry providers.Entry
}

// subjectOf finds the image of a place.
func subjectOf(c *cli.Context, p *pipeline.Pipeline, arg string) (subject, error) {
	e, err := parseEnd(arg)
	if err != nil {
		return subject{}, err
	}
	if e.Provider == "" || e.Stem == "" {
		return subject{}, usage("a place is PROVIDER:images/NAME", "meta: %q is no place of an image", arg)
	}
	e.Stem = strings.TrimSuffix(e.Stem, ".json") // as the mount shows it
	n, err := find(c.Context, p, e.Place)
	return subject{e.Provider, n.Entry}, err
}

func getMeta(c *cli.Context, p *pipeline.Pipeline) error {
	s, err := subjectOf(c, p, c.Args().First())
	if err != nil {
		return err
	}
	if c.NArg() == 1 {
		return printMeta(c, p, s)
	}
	m, err := p.Metadata(c.Context, s.site, s.entry)
	if err != nil {
		return err
	}
	key := c.Args().Get(1)
	text, err := m.Get(key)
	switch {
	case err != nil:
		return err
	case text == "":
		return disk.Errorf(disk.NotFound, "get %s: it is not known", key)
	case c.Bool("json"):
		return printJSON(c.App.Writer, map[string]string{key: text})
	}
	fmt.Fprintln(c.App.Writer, text)
	return nil
}

// printMeta writes all metadata of an image.
func printMeta(c *cli.Context, p *pipeline.Pipeline, s subject) error {
	if c.Bool("json") {
		text, _, err := p.Document(c.Context, s.site, s.entry)
		if err != nil {
			return err
		}
		_, err = c.App.Writer.Write(text)
		return err
	}
	m, err := p.Metadata(c.Context, s.site, s.entry)
	if err != nil {
		return err
	}
	for _, key := range m.Keys() {
		text, err := m.Get(key)
		if err != nil {
			return err
		}
		fmt.Fprintf(c.App.Writer, "%s=%s\n", key, text)
	}
	return nil
}

func setMeta(c *cli.Context, p *pipeline.Pipeline) error {
	s, err := subjectOf(c, p, c.Args().First())
	if err != nil {
		return err
	}
	var m providers.Metadata
	if s.entry.MetaReason == "" { // what cannot be read is written anew
		if m, err = p.Metadata(c.Context, s.site, s.entry); err != nil {
			return err
		}
	}
	for _, arg := range c.Args().Slice()[1:] {
		key, value, ok := strings.Cut(arg, "=")
		if !ok {
			return usage("say KEY=VALUE, or KEY= to remove it", "meta set: %q has no =", arg)
		}
		if err := m.Set(key, value); err != nil {
			return err
		}
	}
	return putMeta(c, p, s, m)
}

func copyMeta(c *cli.Context, p *pipeline.Pipeline) error {
	to, err := subjectOf(c, p, c.Args().Get(1))
	if err != nil {
		return err
	}
	m, err := sourceMeta(c, p, c.Args().First())
	if err != nil {
		return err
	}
	// Who may see an image is said of each: meta set PLACE visibility=…, share.
	m.Meta.Visibility, m.Meta.Members = to.entry.Meta.Visibility, to.entry.Meta.Members
	return putMeta(c, p, to, m)
}

// sourceMeta is the metadata of a place, or in a plain file.
func sourceMeta(c *cli.Context, p *pipeline.Pipeline, arg string) (providers.Metadata, error) {
	e, err := parseFile(arg)
	if err != nil {
		return providers.Metadata{}, err
	}
	if e.Provider != "" {
		s, err := subjectOf(c, p, arg)
		if err != nil {
			return providers.Metadata{}, err
		}
		return p.Metadata(c.Context, s.site, s.entry)
	}
	f, err := os.Open(e.Path)
	if err != nil {
		return providers.Metadata{}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, providers.MaxDocument+1))
	if err != nil {
		return providers.Metadata{}, err
	}
	doc, err := providers.DecodeDocument(text)
	return doc.Metadata, err
}

// putMeta sets all metadata of an image. What is empty is set too, in the place of
// what the container says.
func putMeta(c *cli.Context, p *pipeline.Pipeline, s subject, m providers.Metadata) error {
	m.MetaTime = time.Time{}
	if m.Empty() {
		m.MetaTime = time.Now()
	}
	now, err := p.SetMeta(c.Context, s.site, s.entry, m)
	if err != nil || !c.Bool("json") {
		return err
	}
	return printMeta(c, p, subject{s.site, now})
}
