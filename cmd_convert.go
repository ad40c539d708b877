package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"chromogenic/disk"
	"chromogenic/formats"
	"chromogenic/formats/layout"
	"chromogenic/pipeline"
)

func convertCommand() *cli.Command {
	return &cli.Command{
		Name:      "convert",
		Usage:     "write a disk image in another format",
		ArgsUsage: "SRC DST",
		Description: "SRC and DST are plain files; no configuration is needed. Their formats are those of their extensions.\n" +
			"The data disks of SRC may lie beside it, as a mount shows them: NAME.disks/1-DEVICE.FORMAT and so on.\n" +
			"DST is written all at once and sparse, read back and compared. The same bytes with the same holes give the same DST.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "f", Usage: "SRC is of `FORMAT`, whatever it is called"},
			&cli.StringFlag{Name: "O", Usage: "write `FORMAT`, whatever DST is called"},
			&cli.StringFlag{Name: "backing", Usage: "SRC is a qcow2 overlay of `FILE`; the name inside SRC is never followed"},
			&cli.IntFlag{Name: "disk", Value: allDisks, DefaultText: "all", Usage: "write disk `N` of several, 0 is the one that boots"},
			&cli.BoolFlag{Name: "force", Usage: "replace DST if it exists"},
			&cli.BoolFlag{Name: "v", Usage: "show progress and say what was written"},
		},
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 2, 2); err != nil {
				return err
			}
			return convert(c.Context, c.Args().Get(0), c.Args().Get(1), conversion{
				From:    c.String("f"),
				To:      c.String("O"),
				Backing: c.String("backing"),
				Disk:    c.Int("disk"),
				Force:   c.Bool("force"),
				Verbose: c.Bool("v"),
			})
		},
	}
}

// A conversion says how convert works.
type conversion struct {
	From, To string // formats; empty is that of the name
	Backing  string // path of the backing file; empty for none
	Disk     int    // 0 is the boot disk; allDisks, or the only one
	Force    bool
	Verbose  bool
}

// allDisks is no number of a disk.
const allDisks = -1

// convert writes the disks of one file, or of a set of files, as another.
func convert(ctx context.Context, from, to string, o conversion) (err error) {
	out := output{Force: o.Force, Verify: true}
	if err := o.refuse(from, to, out); err != nil {
		return err
	}
	format, err := targetFormat(to, o.To)
	if err != nil {
		return err
	}
	var backing disk.Image
	if o.Backing != "" {
		base, err := openSource(o.Backing, "", nil)
		if err != nil {
			return err
		}
		defer base.Close()
		backing = base.Disks[0]
	}
	src, err := openSource(from, o.From, backing)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := o.addSet(src, from, format); err != nil {
		return fmt.Errorf("convert %q: %w", from, err)
	}
	m, err := o.choose(src.Machine, format)
	if err != nil {
		return fmt.Errorf("convert %q: %w", from, err)
	}
	if err := m.Verify(ctx); err != nil {
		return fmt.Errorf("convert %q: %w", from, err)
	}
	file, err := layOut(m, format)
	if err != nil {
		return fmt.Errorf("convert %q to %s: %w", from, format.Name, err)
	}
	if o.Verbose {
		meter := newMeter(os.Stderr)
		defer func() {
			meter.close()
			if err == nil {
				fmt.Fprintf(os.Stderr, "%s: %s, %d bytes, virtual size %d bytes\n", to, format.Name, file.Size(), m.Disks[0].Size())
			}
		}()
		out.Progress = meter.update
	}
	return writeFile(ctx, file, to, out)
}

// refuse tells early what cannot be done with the two paths.
func (o conversion) refuse(from, to string, out output) error {
	for _, path := range []string{from, to, o.Backing} {
		if path == "-" {
			return usage("write to a file; images are read at any offset", "convert: \"-\" is not supported")
		}
	}
	a, err := os.Stat(from)
	if err != nil {
		return fmt.Errorf("convert: %w", err)
	}
	for _, path := range []string{from, o.Backing} {
		a, errA := os.Stat(path)
		b, errB := os.Stat(to)
		if errA == nil && errB == nil && os.SameFile(a, b) {
			return usage("write to another file", "convert %q: it is the source of itself", to)
		}
	}
	if a.IsDir() {
		return disk.Errorf(disk.Unsupported, "convert %q: it is a folder", from)
	}
	return out.refuseTarget(to)
}

// addSet adds the data disks that lie beside a file, where they are asked for: for a
// format that holds a machine, or one of them by its number.
func (o conversion) addSet(src *source, from string, to formats.Format) error {
	if src.Format.Machine {
		return nil
	}
	files, err := dataDisks(from, src.Format.Name)
	switch {
	case o.Disk == 0 || err == nil && len(files) == 0:
		return nil
	case o.Disk == allDisks && !to.Machine && err != nil: // it has no part in what is written
		return nil
	case err != nil:
		return err
	case o.Disk == allDisks && !to.Machine:
		fmt.Fprintf(os.Stderr, "chromogenic: note: only the boot disk is written: %s holds %d more; an ova holds all disks, --disk N writes one of them\n", setFolder(from), len(files))
		return nil
	}
	return src.addDisks(files)
}

// choose takes the disks that the format will hold. Of several disks none is
// left out in silence.
func (o conversion) choose(m *disk.Machine, to formats.Format) (*disk.Machine, error) {
	n := len(m.Disks)
	if o.Disk < allDisks || o.Disk >= n {
		return nil, disk.Errorf(disk.NotFound, "find disk %d: there are %d, and 0 is the first", o.Disk, n)
	}
	one := disk.Machine{Meta: m.Meta}
	switch {
	case o.Disk != allDisks:
		one.Disks = m.Disks[o.Disk : o.Disk+1]
		return &one, nil
	case n > 1 && !to.Machine:
		err := disk.Errorf(disk.Unsupported, "it holds %d disks, a %s file one", n, to.Name)
		return nil, disk.Hint(err, "say --disk N for one of them, or write an ova")
	}
	return m, nil
}

// targetFormat is the format to write: the one that is asked for, or that of the
// extension.
func targetFormat(path, stated string) (formats.Format, error) {
	f, _, ok := formats.ByExt(filepath.Base(path))
	if stated != "" {
		var err error
		if f, err = formatByName(stated); err != nil {
			return f, err
		}
	} else if !ok {
		return f, usage("say -O FORMAT", "write %q: its name tells no format", path)
	}
	if f.Layout == nil {
		return f, disk.Errorf(disk.Unsupported, "write %q: %s can only be read", path, f.Name)
	}
	return f, nil
}

// layOut makes the file. Identifiers inside it derive from the sizes and the
// allocation maps of the disks, so the same disks give the same bytes.
func layOut(m *disk.Machine, f formats.Format) (*layout.File, error) {
	if f.Name == "raw" {
		return f.Layout(m, layout.Options{}) // without a map: its holes are those of the source
	}
	var seed []byte
	frozen := disk.Machine{Meta: m.Meta}
	for _, d := range m.Disks {
		if f.MaxSize > 0 && d.Size() > f.MaxSize {
			return nil, disk.Errorf(disk.TooLarge, "disk of %d bytes: the format takes %d", d.Size(), f.MaxSize)
		}
		allocated, err := layout.MapOf(d)
		if err != nil {
			return nil, err
		}
		seed = append(seed, pipeline.SeedOf(allocated)...)
		d.Image = layout.Frozen(d.Image, allocated)
		frozen.Disks = append(frozen.Disks, d)
	}
	return f.Layout(&frozen, layout.Options{Seed: seed})
}
