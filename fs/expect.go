package fs

import (
	"context"
	"strings"
)

// begin makes a file, and tells its spool which disk is there already under the name
// by which it will be published; guess is what an unfinished one may become, nil where
// nobody can tell.
func (k *kindNode) begin(ctx context.Context, g *staged, guess *goal) error {
	if err := k.folder.add(g); err != nil {
		return err
	}
	if g.public() {
		to := g.goal()
		guess = &to
	}
	if guess == nil || guess.format.Name == JSONName || roleOf(guess.format) != "" || g.qemu {
		return nil // metadata is no disk, nor is a kernel, and qemu writes what it has not finished
	}
	ctx, cancel := patient(ctx)
	defer cancel()
	v, certain, err := k.t.p.Existing(ctx, k.site, guess.name, guess.disk, guess.format.Name)
	if err != nil || v == nil {
		return nil // the commit compares too, and tells why it cannot
	}
	defer v.Close()
	// Of a container other bytes can be the same disk. What is renamed to its name
	// fails there: a program that copies many goes on then.
	strict := g.public() && certain && guess.format.Name == "raw" && !k.t.o.AllowReplace && g.replaces == nil
	g.spool.Expect(v, strict)
	return nil
}

// meant guesses from its key what an unfinished file will be published as: rsync
// writes NAME as .NAME.XXXXXX, or as NAME in a dot-directory. A wrong guess changes
// nothing but the room that the file takes.
func meant(key string) *goal {
	dir, file := splitKey(key)
	dir, _, _ = strings.Cut(dir, "/")
	stem, inDisks := disksStem(dir)
	read := func(file string) *goal {
		if !inDisks {
			stem, f, ok := Parse(file)
			if !ok {
				return nil
			}
			return &goal{name: Decode(stem), format: f}
		}
		n, device, f, ok := ParseDisk(file)
		if !ok {
			return nil
		}
		return &goal{name: Decode(stem), disk: n, device: device, format: f}
	}
	file = strings.TrimPrefix(file, ".")
	if to := read(file); to != nil {
		return to
	}
	if i := strings.LastIndexByte(file, '.'); i > 0 {
		return read(file[:i])
	}
	return nil
}
