package guest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
)

// Options say how a guest is reached. Zero values are good.
type Options struct {
	Access     string        // "uml", "fuse2fs", "loop"; empty and "auto" take the first that works
	Trusted    bool          // of "auto": loop is allowed, where the host's own kernel reads the image
	ReadOnly   bool          // nothing is written to img, and the work finds a tree that it cannot write to
	Program    []byte        // a static program whose main calls Child
	Executable string        // where one is, if there is no Program; empty is this one
	Memory     int64         // of user-mode-linux, in bytes; 0 is 512 MiB
	Timeout    time.Duration // of the whole; 0 is half an hour
}

const (
	defaultMemory  = 512 << 20
	defaultTimeout = 30 * time.Minute
)

// A Result is what came of a run.
type Result struct {
	Facts Facts
	Reply []byte // of the work
}

// Run finds the guest on img, has its filesystems mounted in a sandbox, and the work
// done there, by order. All changes are written to img, which is left as it was with
// ReadOnly, and in any state when there is an error. Afterwards its filesystems are
// checked, and free blocks and other space without meaning hold nothing.
//
// The order is the work's own, of MaxReply bytes at most. An error of the work is
// returned with its kind, text and hint. When ctx ends, so does all that was started.
func Run(ctx context.Context, img Disk, o Options, order []byte) (Result, error) {
	if len(order) > MaxReply {
		return Result{}, disk.Errorf(disk.TooLarge, "work on guest: an order of %d bytes is more than %d", len(order), MaxReply)
	}
	timeout := cmp.Or(o.Timeout, defaultTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout,
		disk.Errorf(disk.Timeout, "the guest's disk took longer than %s", timeout))
	defer cancel()
	var t table
	var volumes []volumeOf
	err := patiently(ctx, func() (err error) {
		t, volumes, err = survey(img)
		return err
	})
	if err != nil {
		return Result{}, err
	}
	j := job{Table: t.kind, Volumes: volumes, ReadOnly: o.ReadOnly, Order: order, Memory: cmp.Or(o.Memory, defaultMemory), Tools: findTools()}
	facts := func() Facts { return factsOf(j, j.Volumes, j.Warnings) }
	self, err := o.program()
	if err != nil {
		return Result{Facts: facts()}, err
	}
	defer self.Close()
	if o.ReadOnly {
		scratch := disk.NewOverlay(still{img}, disk.OverlayOptions{Budget: scratchBudget})
		defer scratch.Close()
		img = scratch
	}
	var r result
	for failed := (map[string]string{}); ; {
		if err := j.choose(self, o, failed); err != nil {
			return Result{Facts: facts()}, err
		}
		if r, err = j.sandboxed(ctx, img, self); err != nil {
			return Result{Facts: facts()}, err
		}
		if r.Failure == nil || !r.Failure.Unstarted {
			break
		}
		failed[j.Access] = r.Failure.Text // another way may
		j.Warnings = append(j.Warnings, r.Failure.Text)
	}
	if err := j.learn(r); err != nil {
		return Result{Facts: facts()}, err
	}
	if err := r.Failure.err(); err != nil || o.ReadOnly {
		return Result{facts(), r.Reply}, err
	}
	if err := j.scrubbed(ctx, img, self); err != nil {
		return Result{Facts: facts()}, err
	}
	if err := patiently(ctx, func() error { return wipe(img, t, slices.Clone(j.Volumes)) }); err != nil {
		return Result{Facts: facts()}, err
	}
	return Result{facts(), r.Reply}, nil
}

// patiently calls f, and returns earlier when ctx ends: a disk that does not answer
// cannot be told to. What f writes is not to be looked at then.
func patiently(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait for disk: %w", context.Cause(ctx))
	}
}

// sandboxed has the job done in a cage.
func (j job) sandboxed(ctx context.Context, img Disk, self *os.File) (result, error) {
	files := map[string]span{}
	for _, v := range j.Volumes {
		files[v.File] = span{v.Offset, v.Size}
	}
	c, err := startCage(self, j, stageWork, j.Access == accessFuse2fs && !j.Check)
	if err != nil {
		return result{}, err
	}
	return c.converse(ctx, img, j, files)
}

// scrubbed removes what the work has left where no driver removes it, and has the
// filesystems checked in a cage.
func (j *job) scrubbed(ctx context.Context, img Disk, self *os.File) error {
	var check job
	err := patiently(ctx, func() (err error) {
		check, err = j.scrub(ctx, img)
		return err
	})
	if err != nil {
		return err
	}
	r, err := check.sandboxed(ctx, img, self)
	if err != nil {
		return err
	}
	r.Warnings = append(check.Warnings, r.Warnings...)
	if err := j.learn(r); err != nil {
		return err
	}
	return r.Failure.err()
}

// scratchBudget is how much of what is written to a disk that is only looked at is held
// in memory, in bytes: the replay of a journal.
const scratchBudget = 16 << 20

// Look says what is on a disk, without mounting anything: so no mountpoints are known.
func Look(img Disk) (Facts, error) {
	t, volumes, err := survey(img)
	if err != nil {
		return Facts{}, err
	}
	return factsOf(job{Table: t.kind}, volumes, nil), nil
}

// survey reads the partition table, and what each partition says of itself.
func survey(img Disk) (table, []volumeOf, error) {
	t, err := readTable(img, img.Size())
	if err != nil {
		return table{}, nil, err
	}
	var volumes []volumeOf
	for _, p := range t.parts {
		v, err := identify(img, p.span)
		if err != nil {
			return table{}, nil, err
		}
		if p.Kind == guidBIOSBoot {
			v = volume{Type: "bios-boot"}
		} else if v.Type == "" {
			v.Reason = "it holds nothing that is known, and its bytes stay as they are"
		}
		volumes = append(volumes, volumeOf{
			Filesystem: Filesystem{Number: p.Number, Offset: p.Off, Size: p.Size, Type: v.Type, UUID: v.UUID, Label: v.Label, Reason: v.Reason},
			PartUUID:   p.UUID, PartLabel: p.Name, Used: v.Size, File: fmt.Sprintf("p%d", p.Number),
		})
	}
	return t, volumes, nil
}

// program is a copy of the static program without a name, which everybody may run:
// it may lie in a folder that a sandbox may not enter.
func (o Options) program() (*os.File, error) {
	if o.Program != nil {
		return nameless(bytes.NewReader(o.Program), "worker")
	}
	path := o.Executable
	if path == "" {
		var err error
		if path, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("find own program: %w", err)
		}
	}
	from, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("find own program: %w", err)
	}
	defer from.Close()
	return nameless(from, path)
}

// nameless copies a program; path is what errors call it.
func nameless(from io.Reader, path string) (*os.File, error) {
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("copy own program: %w", err)
	}
	to := os.NewFile(uintptr(fd), path)
	if _, err = io.Copy(to, from); err == nil {
		err = to.Chmod(0o755)
	}
	if err != nil {
		to.Close()
		return nil, fmt.Errorf("copy own program: %w", err)
	}
	return readOnlyCopy(to)
}

// readOnlyCopy opens a file without a name anew, for one that is open for writing
// cannot be run.
func readOnlyCopy(f *os.File) (*os.File, error) {
	defer f.Close()
	again, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("copy own program: %w", err)
	}
	return again, nil
}

// still is a disk seen as an image that is only read.
type still struct{ Disk }

func (still) Close() error { return nil }

func (s still) Extent(off, n int64) (disk.Extent, error) {
	n, err := disk.CheckRange(off, n, s.Size())
	return disk.Extent{Off: off, Len: n}, err
}

// wipe discards what belongs to no partition, the ends of partitions that their
// filesystems do not use, and swap space.
func wipe(img Disk, t table, volumes []volumeOf) error {
	free := t.gaps(img.Size())
	for _, v := range volumes {
		switch {
		case v.Type == "swap":
			if err := wipeSwap(img, v); err != nil {
				return fmt.Errorf("wipe swap space of partition %d: %w", v.Number, err)
			}
		case v.Reason == "" && v.Used > 0 && slices.Contains(mountable, v.Type):
			free = append(free, span{v.Offset + v.Used, v.Size - v.Used})
		}
	}
	for _, s := range free {
		if s.Size == 0 {
			continue
		}
		if err := img.Discard(s.Off, s.Size); err != nil {
			return fmt.Errorf("wipe %d bytes at offset %d: %w", s.Size, s.Off, err)
		}
	}
	return nil
}
