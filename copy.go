package main

import (
	"cmp"
	"os"
	"path/filepath"
	"time"

	"chromogenic/formats"
	"chromogenic/fs"
	"chromogenic/pipeline"
	"chromogenic/providers"
)

// spec is what the pipeline is asked to copy; the function closes its source.
func (j *copying) spec() (pipeline.CopySpec, func(), error) {
	spec := pipeline.CopySpec{
		Site:  j.dst.Provider,
		Name:  fs.Decode(j.dst.Stem),
		Store: j.c.String("store"),
		Clean: j.c.String("clean"),
	}
	if _, ok := j.p.Provider(spec.Site); !ok {
		_, err := list(j.c.Context, j.p, spec.Site, providers.Images)
		return spec, nil, err
	}
	if j.src.Path != "" {
		return j.fromFile(spec)
	}
	n, err := find(j.c.Context, j.p, j.src.Place)
	if err != nil {
		return spec, nil, err
	}
	v, err := view(j.c.Context, j.p, j.src.Place, n)
	if err != nil {
		return spec, nil, err
	}
	if err := j.refuseFormat(v.Ref.Format); err != nil {
		v.Close()
		return spec, nil, err
	}
	spec.From = v
	spec.Name = cmp.Or(spec.Name, n.Entry.Name, n.Entry.ID)
	spec.Mtime = n.Entry.Updated
	return spec, func() { v.Close() }, nil
}

// fromFile completes a spec whose source is a plain file.
func (j *copying) fromFile(spec pipeline.CopySpec) (pipeline.CopySpec, func(), error) {
	info, err := statSource(j.src.Path)
	if err != nil {
		return spec, nil, err
	}
	base := filepath.Base(j.src.Path)
	format, stem, ok := formats.ByExt(base)
	switch {
	case ok:
		if err := j.refuseFormat(format.Name); err != nil {
			return spec, nil, err
		}
		spec.Format = format.Name
	case j.dst.Format != "":
		spec.Format = j.dst.Format
	default:
		return spec, nil, usage("name the format in the destination: "+placeName(j.dst.Provider, j.dst.Kind, "NAME.FORMAT"), "cp: the name of %q tells no format", j.src.Path)
	}
	img, err := openImage(j.src.Path)
	if err != nil {
		return spec, nil, err
	}
	spec.Image, spec.Origin = img, j.src.Path
	spec.Name = cmp.Or(spec.Name, fs.Decode(stem))
	spec.Mtime = info.ModTime()
	return spec, func() { img.Close() }, nil
}

// toFile copies an image of a provider to a plain file.
func (j *copying) toFile() (*pipeline.Record, error) {
	n, err := find(j.c.Context, j.p, j.src.Place)
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
	v, err := view(j.c.Context, j.p, j.src.Place, n)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	if folder {
		f, _ := formats.ByName(v.Ref.Format)
		path = filepath.Join(path, n.Name+"."+f.Exts[0])
	}
	out := output{Force: j.c.Bool("force"), Verify: true, Mtime: n.Entry.Updated}
	if err := out.refuseTarget(path); err != nil {
		return nil, err
	}
	rec := &pipeline.Record{
		Schema:      1,
		ID:          pipeline.NewID(),
		State:       "planned",
		Started:     time.Now(),
		Source:      placeName(j.src.Provider, j.src.Kind, n.Name),
		Destination: path,
		Format:      v.Ref.Format,
		Bytes:       v.Allocated(),
		VirtualSize: n.Entry.VirtualSize,
		Stages:      []pipeline.Stage{{Name: "writing", Outcome: "planned"}, {Name: "verifying", Outcome: "planned"}},
	}
	if j.meter == nil {
		return rec, nil
	}
	out.Progress = j.meter.update
	if err := writeFile(j.c.Context, v, path, out); err != nil {
		return nil, err
	}
	rec.State, rec.Ended = "done", time.Now()
	for i := range rec.Stages {
		rec.Stages[i].Outcome = "done"
	}
	return rec, nil
}
