package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"chromogenic/disk"
	"chromogenic/formats"
	"chromogenic/fs"
	"chromogenic/pipeline"
	"chromogenic/pipeline/control"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
)

// between copies from one place to another.
func (j *copying) between() (*jobs.Record, error) {
	n, err := find(j.c.Context, j.p, j.src.Place)
	if err != nil {
		return nil, err
	}
	if j.src.Role != "" || j.dst.Role != "" {
		return nil, usage("copy the image, with which its kernel and its ramdisk go", "cp: a kernel or a ramdisk alone goes to, or comes from, a plain file")
	}
	name := n.Entry.Name
	if n, err = reuse(j.c, j.p, j.src.Provider, n); err != nil {
		return nil, err
	}
	machine := j.src.Format == "" && !j.src.InDisks
	format := formatOf(j.src.Place, n)
	if machine {
		format = ownFormat(n)
	}
	if err := j.refuseFormat(format); err != nil {
		return nil, err
	}
	r := control.Request{
		Source: control.Source{
			Site: j.src.Provider, Kind: n.Entry.Kind, ID: n.Entry.ID, Format: format,
			Disk: j.src.Disk, Machine: machine,
		},
		Destination: control.Destination{Site: j.dst.Provider, Name: cmp.Or(fs.Decode(j.dst.Stem), name), Disk: j.dst.Disk, Device: j.dst.Device},
		Store:       j.c.String("store"),
		Clean:       j.clean,
		Replace:     j.c.Bool("allow-replace"),
		Rate:        j.rate,
		OverBudget:  j.c.Bool("over-budget"),
		Until:       j.c.String("until"),
		DryRun:      j.meter == nil,
	}
	if r.DryRun {
		return j.service.Copy(j.c.Context, r, nil)
	}
	return j.service.Copy(j.c.Context, r, j.meter.update)
}

// fromFile copies a plain file to a place.
func (j *copying) fromFile() (*jobs.Record, error) {
	info, err := statSource(j.src.Path)
	if err != nil {
		return nil, err
	}
	spec := pipeline.CopySpec{
		Site:    j.dst.Provider,
		Origin:  j.src.Path,
		Store:   j.c.String("store"),
		Clean:   j.clean,
		Until:   j.c.String("until"),
		Replace: j.c.Bool("allow-replace"),
		Rate:    j.rate,
		Mtime:   info.ModTime(),
	}
	base := filepath.Base(j.src.Path)
	format, stem, ok := formats.ByExt(base)
	stemOf, role, isCompanion := fs.ParseCompanion(base)
	switch {
	case isCompanion || j.dst.Role != "":
		if isCompanion && j.dst.Role != "" && role != j.dst.Role {
			return nil, usage("leave one of the extensions out", "cp: a %s cannot arrive as a %s", role, j.dst.Role)
		}
		spec.Role, spec.Format, stem = cmp.Or(j.dst.Role, role), "raw", stemOf
		if j.dst.Format != "" || cmp.Or(j.dst.Stem, stem) == "" {
			return nil, usage("name the image: "+placeName(j.dst.Provider, j.dst.Kind, "NAME"), "cp: a %s is no disk", spec.Role)
		}
	case ok:
		if err := j.refuseFormat(format.Name); err != nil {
			return nil, err
		}
		spec.Format = format.Name
	case j.dst.Format != "":
		spec.Format = j.dst.Format
	default:
		return nil, usage("name the format in the destination: "+placeName(j.dst.Provider, j.dst.Kind, "NAME.FORMAT"), "cp: the name of %q tells no format", j.src.Path)
	}
	if spec.Until != "" && !j.p.Durable() {
		err := disk.Errorf(disk.Unsupported, "copy until stage %q: the state directory, where jobs are kept, is in use", spec.Until)
		return nil, disk.Hint(err, "unmount first, or copy the file into the mount, all at once")
	}
	spec.Name, spec.Disk, spec.Device = fs.Decode(cmp.Or(j.dst.Stem, stem)), j.dst.Disk, j.dst.Device
	if f, ok := formats.ByName(spec.Format); ok && !f.Machine && spec.Disk == 0 && spec.Role == "" {
		spec.Note = besideNote(j.src.Path, spec.Format, placeName(j.dst.Provider, j.dst.Kind, ""))
	}
	if spec.File, err = filepath.Abs(j.src.Path); err != nil {
		return nil, err
	}
	img, err := openImage(j.src.Path)
	if err != nil {
		return nil, err
	}
	defer img.Close()
	spec.Image = img
	if j.meter == nil {
		return j.p.Plan(j.c.Context, spec)
	}
	spec.Progress = j.meter.update
	return j.p.Copy(j.c.Context, spec)
}

// toFile copies an image of a provider to a plain file.
func (j *copying) toFile() (*jobs.Record, error) {
	n, err := find(j.c.Context, j.p, j.src.Place)
	if err == nil {
		n, err = reuse(j.c, j.p, j.src.Provider, n)
	}
	if err != nil {
		return nil, err
	}
	path := j.dst.Path
	info, err := os.Stat(path)
	folder := err == nil && info.IsDir()
	named, _, known := formats.ByExt(filepath.Base(path))
	if !folder && known {
		if j.src.Format != "" && j.src.Format != named.Name {
			return nil, usage("leave one of the extensions out", "cp: a %s cannot arrive as a %s", j.src.Format, named.Name)
		}
		j.src.Format = named.Name
	}
	v, err := j.view(n)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	if err := j.p.Afford(j.c.Context, v, false); err != nil {
		return nil, err
	}
	name, note, err := j.nameOf(v, n)
	if err != nil {
		return nil, err
	}
	if folder && j.src.Role != "" {
		path = filepath.Join(path, n.Name+"."+string(j.src.Role))
	} else if folder {
		f, _ := formats.ByName(v.Ref.Format)
		path = filepath.Join(path, name+"."+f.Exts[0])
	}
	out := output{Force: j.c.Bool("force"), Verify: true, Mtime: v.Ref.Updated()}
	if err := out.refuseTarget(path); err != nil {
		return nil, err
	}
	rec := &jobs.Record{
		Schema:      jobs.Schema,
		ID:          jobs.NewID(),
		State:       jobs.Planned,
		Started:     time.Now(),
		Source:      placeName(j.src.Provider, j.src.Kind, n.Name),
		Destination: path,
		Format:      v.Ref.Format,
		Bytes:       v.Allocated(),
		VirtualSize: n.Entry.VirtualSize,
		Stages:      []jobs.Stage{{Name: "writing", Outcome: jobs.OutcomePlanned}, {Name: "verifying", Outcome: jobs.OutcomePlanned}},
		Notes:       note,
		Cleaned:     v.Ref.Cleaned != "",
	}
	if j.meter == nil {
		return rec, nil
	}
	out.Progress = j.meter.update
	if n.Entry.Live() {
		ctx := providers.Watch(j.c.Context, func(state string) { j.meter.update(pipeline.Progress{Stage: "capture", Note: state}) })
		if err := v.Ready(ctx); err != nil {
			return nil, err
		}
	}
	if err := writeFile(j.c.Context, pipeline.Pace(j.c.Context, v, j.rate.Read), path, out); err != nil {
		return nil, err
	}
	rec.State, rec.Ended = jobs.Done, time.Now()
	for i := range rec.Stages {
		rec.Stages[i].Outcome = jobs.OutcomeDone
	}
	return rec, nil
}

// view opens what is copied to a plain file, cleaned if that is asked for.
func (j *copying) view(n fs.Named) (*pipeline.View, error) {
	v, err := view(j.c.Context, j.p, j.src.Place, n, j.c.Bool("over-budget"))
	if err != nil || j.clean != "require" {
		return v, err
	}
	defer v.Close()
	f, _ := formats.ByName(v.Ref.Format)
	switch {
	case f.Alone || j.src.Role != "":
		return nil, usage("copy it without --clean", "cp: what is no disk of a guest cannot be cleaned")
	case v.Ref.Disk > 0:
		err := disk.Errorf(disk.Unsupported, "clean disk %d of %q: only a boot disk can be cleaned", v.Ref.Disk, n.Entry.Name)
		return nil, disk.Hint(err, "copy it without --clean")
	}
	return j.p.View(j.c.Context, j.p.Cleaned(v.Ref))
}

// nameOf is what the file of a view is called, without its extension, and a note
// where it leaves disks of the machine out that nobody said were not wanted.
func (j *copying) nameOf(v *pipeline.View, n fs.Named) (name string, note []string, err error) {
	if j.src.Role != "" {
		return n.Name, nil, nil
	}
	if len(n.Entry.Companions) > 0 {
		var beside []string
		for _, c := range n.Entry.Companions {
			beside = append(beside, "its "+string(c.Role))
		}
		files := "are files"
		if len(beside) == 1 {
			files = "is a file"
		}
		note = append(note, fmt.Sprintf("%s %s beside it: %s.%s", strings.Join(beside, " and "), files, placeName(j.src.Provider, j.src.Kind, n.Name), n.Entry.Companions[0].Role))
	}
	if v.Ref.Disk > 0 {
		return fs.DiskStem(v.Ref.Disk, j.src.Device), nil, nil
	}
	m, err := j.p.Machine(j.c.Context, v.Ref)
	if err != nil {
		return "", nil, err
	}
	f, _ := formats.ByName(v.Ref.Format)
	if disks := len(m.Disks); disks > 1 && !f.Machine && !j.src.InDisks {
		note = append(note, fmt.Sprintf("only the boot disk is copied: machine %q has %d disks; an ova holds them all, and NAME.disks/N is one of them", n.Entry.Name, disks))
	}
	return n.Name, note, nil
}
