package pipeline

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"chromogenic/disk"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
)

// A piece is one disk on its way, or one container that holds all disks.
type piece struct {
	from     int              // disk of the source
	to       int              // its number at the destination
	device   string           // what it is called there; empty for a boot disk
	replaces *providers.Entry // that has a disk of this number, which goes; nil for none
	whole    bool             // so do all disks of that

	format  string
	payload disk.Image     // the bytes to send
	bytes   *disk.Digester // over them
	guest   *disk.Digester // over the disk; nil when the payload does not read it
	upload  providers.Upload
	made    *providers.Entry // what the provider made of it, until the job is done

	sent, digest string // digests of bytes and guest, verified
}

// machineAsked tells whether all disks of the source are to be copied, and not one
// alone.
func (j *job) machineAsked() bool {
	if v := j.spec.From; v != nil {
		return j.spec.Machine || v.Ref.Format == formatOVA && v.Ref.Disk == 0
	}
	return len(j.src.facts.Disks) > 1 || isMachine(j.spec.Format)
}

// isMachine tells whether files of a format hold all disks of a machine.
func isMachine(format string) bool {
	row, err := rowOf(format)
	return err == nil && row.Machine
}

// isAlone tells whether files of a format are the disk, byte for byte, and are shown in
// no other.
func isAlone(format string) bool {
	row, err := rowOf(format)
	return err == nil && row.Alone
}

// diskOf is the disk that is copied, of a machine the boot disk.
func (j *job) diskOf() int {
	if j.spec.From == nil || j.spec.Machine {
		return 0
	}
	return j.spec.From.Ref.Disk
}

// ask fixes which disks are to be copied where.
func (j *job) ask() error {
	disks := j.src.facts.Disks
	switch {
	case j.spec.Disk < 0 || j.spec.Disk >= providers.MaxDisks:
		return disk.Errorf(disk.Invalid, "send disk %d: a machine has at most %d", j.spec.Disk, providers.MaxDisks)
	case j.spec.Disk > 0 && j.keeper == nil:
		err := disk.Errorf(disk.Unsupported, "send disk %d to provider %q: it keeps one file for each machine", j.spec.Disk, j.spec.Site)
		return disk.Hint(err, "send the machine as an ova, which holds all its disks, or the disk as an image of its own")
	case j.spec.Disk > 0 && j.machineAsked():
		err := disk.Errorf(disk.Invalid, "send disk %d: what is sent is a machine", j.spec.Disk)
		return disk.Hint(err, "copy one of its disks: raw, qcow2 or vmdk")
	case !j.machineAsked() || len(disks) == 1:
		j.pieces = []*piece{{from: j.diskOf(), to: j.spec.Disk, device: j.spec.Device, replaces: j.spec.Replaces, whole: j.machineAsked()}}
		return nil
	}
	j.pieces = nil
	for i, d := range disks {
		p := &piece{from: i, to: i, device: d.Device, replaces: j.spec.Replaces, whole: true}
		if i == 0 {
			p.device = ""
		}
		j.pieces = append(j.pieces, p)
	}
	return nil
}

// taken lists the images of the destination that have the name already, but for
// the one that is replaced.
func (j *job) taken(ctx context.Context) ([]providers.Entry, error) {
	l, err := j.p.ListNow(ctx, j.spec.Site, providers.Images)
	if err != nil {
		return nil, err
	}
	var out []providers.Entry
	for _, e := range l.Entries {
		mine := j.spec.Disk == 0 && j.spec.Replaces != nil && e.ID == j.spec.Replaces.ID
		if e.Name == j.spec.Name && !mine {
			out = append(out, e)
		}
	}
	return out, nil
}

// waitingDisks are the data disks that wait for an image of the name, by number.
func (j *job) waitingDisks(ctx context.Context) (map[int]providers.Entry, error) {
	if j.keeper == nil {
		return nil, nil
	}
	l, err := j.p.ListNow(ctx, j.spec.Site, providers.Disks)
	if err != nil {
		return nil, err
	}
	waiting := map[int]providers.Entry{}
	for _, e := range l.Entries {
		if e.Name == j.spec.Name && e.Kind == providers.Disks {
			waiting[e.Waiting.Number] = e
		}
	}
	return waiting, nil
}

// compare looks at what has the name already. The same disks are a success without
// work; those that are missing are added; others are refused, or replaced.
func (j *job) compare(ctx context.Context) error {
	if j.spec.Role != "" {
		return j.compareCompanion(ctx)
	}
	if err := j.ask(); err != nil {
		return err
	}
	if err := j.compareDisks(ctx); err != nil {
		return err
	}
	there := j.rec.Entry // unchanged
	if there == nil {
		there = j.grows
	}
	return j.gather(ctx, there)
}

// compareDisks is compare without companions.
func (j *job) compareDisks(ctx context.Context) error {
	taken, err := j.taken(ctx)
	if err != nil {
		return err
	}
	waiting, err := j.waitingDisks(ctx)
	if err != nil {
		return err
	}
	if j.spec.Disk > 0 && j.spec.Replaces != nil {
		return j.supersede(taken, waiting)
	}
	if len(taken) == 0 {
		return j.compareNone(ctx, waiting)
	}
	var differs error
	for i := range taken {
		missing, same, err := j.against(ctx, &taken[i], waiting)
		if disk.KindOf(err) == disk.Exists {
			differs = err
			continue
		}
		if err != nil {
			return fmt.Errorf("compare with the image of that name: %w", err)
		}
		switch {
		case same && len(missing) == 0:
			return j.unchanged(ctx, taken[i])
		case same && len(taken) == 1 && j.takesMore(taken[i]):
			j.pieces, j.grows = missing, &taken[i]
			return nil
		case same && len(taken) == 1 && !j.spec.Replace:
			err := disk.Errorf(disk.Exists, "name %q is taken by an image without disk %d, which cannot be added to it", j.spec.Name, missing[0].to)
			return disk.Hint(err, "its file holds all disks of the machine that it has: choose another name, or remove the image that is there")
		}
	}
	if len(taken) == 1 && j.spec.Replace {
		return j.replace(ctx, &taken[0], waiting)
	}
	if len(taken) == 1 && differs != nil {
		return differs
	}
	return j.errTaken()
}

func (j *job) errTaken() error {
	if j.spec.Disk > 0 {
		err := disk.Errorf(disk.Exists, "disk %d of %q is another one", j.spec.Disk, j.spec.Name)
		return disk.Hint(err, "choose another name, or remove the disk that is there")
	}
	err := disk.Errorf(disk.Exists, "name %q is taken by another image", j.spec.Name)
	return disk.Hint(err, "choose another name, or remove the image that is there")
}

// takesMore tells whether data disks can be added to an image.
func (j *job) takesMore(e providers.Entry) bool {
	return j.keeper != nil && !isMachine(e.Format)
}

// unchanged ends the copy of what is there already.
func (j *job) unchanged(ctx context.Context, e providers.Entry) error {
	j.rec.Unchanged = true
	j.noteAlone()
	now, err := j.keepMtime(ctx, e)
	j.rec.Entry = &now
	return err
}

// against compares the disks that are asked for with an image, and with the data
// disks that wait behind it; same is false where one of them is another disk. It
// reads only where sizes agree and no digest is known. Of disks that differ where it
// looks first the error tells the place, and is Exists.
func (j *job) against(ctx context.Context, e *providers.Entry, waiting map[int]providers.Entry) (missing []*piece, same bool, err error) {
	if e.Reason != "" {
		return nil, false, nil
	}
	f, err := j.p.facts(ctx, j.spec.Site, *e)
	if err != nil {
		return nil, false, err
	}
	j.have = len(f.Disks)
	for _, p := range j.pieces {
		if p.to < len(f.Disks) && padded(j.src.facts.Disks[p.from].Size) != padded(f.Disks[p.to].Size) {
			return nil, false, nil
		}
	}
	for _, p := range j.pieces {
		var is bool
		if p.to < len(f.Disks) {
			is, err = j.same(ctx, p, Ref{Site: j.spec.Site, Entry: *e, Disk: p.to}, f.Disks[p.to].Size)
		} else if w, ok := waiting[p.to]; ok {
			is, err = j.sameWaiting(ctx, p, w)
		} else {
			missing = append(missing, p)
			continue
		}
		if err != nil || !is {
			return nil, false, err
		}
	}
	return missing, true, nil
}

// same tells whether a disk of the source is the one of a ref, which has a size.
func (j *job) same(ctx context.Context, p *piece, r Ref, size int64) (bool, error) {
	if v := j.spec.From; v != nil && p.from == r.Disk && v.Ref.versionKey() == r.versionKey() {
		return true, nil
	}
	if padded(j.src.facts.Disks[p.from].Size) != padded(size) {
		return false, nil
	}
	if err := j.glanceAt(ctx, p.from, r); err != nil {
		return false, err
	}
	theirs, err := j.p.GuestDigest(ctx, r)
	if err != nil {
		return false, err
	}
	ours, err := j.digestOf(ctx, p.from)
	return ours == theirs, err
}

// glance is how much of two disks is compared before their digests are, which take
// reading all of them: most that differ do so here, in bytes.
const glance = 1 << 20

// glanceAt compares the beginnings of disk i of the source and of a disk that is
// there, unless both digests are known.
func (j *job) glanceAt(ctx context.Context, i int, r Ref) error {
	if v := j.spec.From; v != nil && !v.Ref.Entry.Live() && j.p.KnownDigest(r) != "" {
		ours := v.Ref
		if ours.Disk = i; j.p.KnownDigest(ours) != "" {
			return nil
		}
	}
	r.Format = formatRaw
	theirs, err := j.p.View(ctx, r)
	if err != nil {
		return err
	}
	theirs.brief = true
	defer theirs.Close()
	at, err := firstDifference(j.src.disk(i), theirs, min(glance, padded(theirs.Size())))
	if err != nil || at < 0 {
		return err
	}
	return errDiffers(r, at)
}

// sameWaiting is same for a data disk that waits. One that cannot be read is another.
func (j *job) sameWaiting(ctx context.Context, p *piece, w providers.Entry) (bool, error) {
	if w.Reason != "" {
		return false, nil
	}
	f, err := j.p.facts(ctx, j.spec.Site, w)
	if err != nil {
		return false, err
	}
	return j.same(ctx, p, Ref{Site: j.spec.Site, Entry: w}, f.Disks[0].Size)
}

// compareNone is compare where there is no image of the name: data disks may wait
// for one.
func (j *job) compareNone(ctx context.Context, waiting map[int]providers.Entry) error {
	j.waiting = len(waiting)
	var missing []*piece
	for _, p := range j.pieces {
		w, ok := waiting[p.to]
		if !ok {
			missing = append(missing, p)
			continue
		}
		is, err := j.sameWaiting(ctx, p, w)
		if err != nil && disk.KindOf(err) != disk.Exists {
			return fmt.Errorf("compare with the disk that waits: %w", err)
		}
		switch {
		case is && j.spec.Disk > 0:
			return j.unchanged(ctx, w)
		case is:
		case !j.spec.Replace && j.spec.Disk == 0:
			err := disk.Errorf(disk.Exists, "disk %d, which waits for image %q, is another one", p.to, j.spec.Name)
			return disk.Hint(err, "choose another name, or remove the disk that waits")
		case !j.spec.Replace:
			return cmp.Or(err, j.errTaken())
		default:
			p.replaces = &w
			missing = append(missing, p)
		}
	}
	j.pieces = missing
	return nil
}

// replace makes the pieces take the place of what an image has.
func (j *job) replace(ctx context.Context, e *providers.Entry, waiting map[int]providers.Entry) error {
	if j.spec.Disk > 0 {
		if isMachine(e.Format) {
			err := disk.Errorf(disk.Unsupported, "replace disk %d of %q: its file holds all disks of the machine", j.spec.Disk, e.Name)
			return disk.Hint(err, "replace the whole image")
		}
		return j.supersede([]providers.Entry{*e}, waiting)
	}
	for _, p := range j.pieces {
		p.replaces, p.whole = e, j.machineAsked()
	}
	f, err := j.p.facts(ctx, j.spec.Site, *e)
	if err != nil {
		return nil // what cannot be read has no disks to speak of
	}
	switch n := len(f.Disks); {
	case n == 1 || j.machineAsked():
	case len(e.Disks) > 1:
		j.grows = e
		j.note("only the boot disk is replaced: image %q keeps its %d data disks", e.Name, n-1)
	default:
		j.note("the image that goes has %d disks, the new one has one", n)
	}
	return nil
}

// supersede makes a data disk take the place of the one that has its number now.
func (j *job) supersede(taken []providers.Entry, waiting map[int]providers.Entry) error {
	p := j.pieces[0]
	p.replaces = nil
	if w, ok := waiting[p.to]; ok {
		p.replaces = &w
		return nil
	}
	for i := range taken {
		if p.to < len(taken[i].Disks) {
			p.replaces, j.grows = &taken[i], &taken[i]
		}
	}
	return nil
}

// note keeps in the record what the user should know though nothing failed.
func (j *job) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	add := func(r *jobs.Record) {
		if !slices.Contains(r.Notes, text) {
			r.Notes = append(r.Notes, text)
		}
	}
	if j.live == nil {
		add(j.rec)
		return
	}
	j.live.Note(add)
}

// noteLeftOut says what of a machine is captured nowhere.
func (j *job) noteLeftOut(e providers.Entry) {
	if e.LeftOut != "" {
		j.note("machine %q: %s", e.Name, e.LeftOut)
	}
}

// noteAlone says that one disk of several is copied, unless the others are there or
// on their way, and that those of a live machine are not of one moment.
func (j *job) noteAlone() {
	v := j.spec.From
	if v != nil {
		j.noteLeftOut(v.Ref.Entry)
	}
	n := len(j.src.facts.Disks)
	if v == nil || n == 1 || j.machineAsked() {
		return
	}
	name := v.Ref.Entry.Name
	if v.Ref.Entry.Live() {
		j.note("the disk is captured apart from the others of machine %q: %s.ova, or a capture that is kept, has all of them at one moment", name, name)
	}
	if j.spec.Disk > 0 || j.have >= n || j.waiting >= n-1 {
		return
	}
	which := fmt.Sprintf("disk %d", j.diskOf())
	if j.diskOf() == 0 {
		which = "the boot disk"
	}
	j.note("only %s is copied: machine %q has %d disks; the others are in %s.disks/, and all of them in %s.ova", which, name, n, name, name)
}

// digestOf is the digest of one disk of the source.
func (j *job) digestOf(ctx context.Context, i int) (string, error) {
	if v := j.spec.From; v != nil && !v.Ref.Entry.Live() {
		r := v.Ref
		r.Disk = i
		return j.p.GuestDigest(ctx, r)
	}
	return disk.Sum(ctx, j.src.disk(i), nil)
}

// padded is a size in bytes rounded up to whole sectors.
func padded(size int64) int64 {
	return (size + disk.SectorSize - 1) / disk.SectorSize * disk.SectorSize
}

// keepMtime gives what stays the time that its writer asks for: an image, or one
// disk of it. Several disks in one file have the time of the machine, not of one of
// them, or each file of a backup would undo what the one before has set.
func (j *job) keepMtime(ctx context.Context, e providers.Entry) (providers.Entry, error) {
	n := j.spec.Disk
	if e.Kind == providers.Disks {
		n = 0
	} else if j.have > max(1, len(e.Disks)) && !j.machineAsked() {
		return e, nil
	}
	r := Ref{Site: j.spec.Site, Entry: e, Disk: n}
	if j.machineAsked() {
		r.Format = formatOVA
	}
	if j.spec.Mtime.IsZero() || j.spec.Mtime.Equal(r.Updated()) {
		return e, nil
	}
	return j.p.SetMtime(ctx, r, j.spec.Mtime)
}

// order is that in which pieces are registered. The boot disk comes last, for with
// it the machine appears; but one that takes the place of another comes first, so
// that no new data disk is ever one of the old machine. Data disks come from the last
// to the first, which brings in all that waited behind it.
func (j *job) order() []*piece {
	pieces := slices.Clone(j.pieces)
	slices.SortFunc(pieces, func(a, b *piece) int { return b.to - a.to })
	if last := pieces[len(pieces)-1]; last.replaces != nil && last.to == 0 {
		pieces = append([]*piece{last}, pieces[:len(pieces)-1]...)
	}
	return pieces
}
