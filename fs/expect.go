package fs

import (
	"context"
	"strings"

	"chromogenic/formats"
)

// begin makes a file, and tells its spool which image has the name already under
// which it will be published; file is the dot-name of an unfinished one.
func (k *kindNode) begin(ctx context.Context, g *staged, file string) error {
	if err := k.folder.add(g); err != nil {
		return err
	}
	name, f := g.name, g.format
	if !g.public() {
		stem, guess, ok := meant(file)
		if !ok {
			return nil
		}
		name, f = Decode(stem), &guess
	}
	if f.Name == JSONName || g.qemu {
		return nil // metadata is no disk, and qemu writes what it has not finished
	}
	ctx, cancel := patient(ctx)
	defer cancel()
	v, certain, err := k.t.p.Existing(ctx, k.site, name, f.Name)
	if err != nil || v == nil {
		return nil // the commit compares too, and tells why it cannot
	}
	defer v.Close()
	// Of a container other bytes can be the same disk. What is renamed to its name
	// fails there: a program that copies many goes on then.
	strict := g.public() && certain && f.Name == "raw" && !k.t.o.AllowReplace && g.replaces == nil
	g.spool.Expect(v, strict)
	return nil
}

// meant guesses under which name an unfinished file will be published: rsync writes
// NAME as .NAME.XXXXXX, or as NAME in a dot-directory. A wrong guess changes nothing
// but the room that the file takes.
func meant(file string) (stem string, f formats.Format, ok bool) {
	file = strings.TrimPrefix(file, ".")
	if stem, f, ok = Parse(file); ok {
		return stem, f, true
	}
	if i := strings.LastIndexByte(file, '.'); i > 0 {
		return Parse(file[:i])
	}
	return "", f, false
}
