package fs

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"chromogenic/disk"
	"chromogenic/formats"
	"chromogenic/providers"
)

// The path grammar, in both directions. A file's name is a stem, a dot and the
// extension of a format. The stem is the shown name of an image: its true name
// with some bytes written as %XX, so that every text is a file name, that no
// true name looks like one of ours, and that each decodes to what it was.

// maxName is NAME_MAX of Linux, in bytes.
const maxName = 255

// maxStem leaves room for the longest extension.
const maxStem = maxName - len(".ramdisk")

// A Named is an entry with its shown name, the stem of all its files.
type Named struct {
	Name  string
	Entry providers.Entry
}

// reserved tells whether ext, which is no format's of the table, may not end a
// shown name either: it makes another file of an image, or is that of a format
// to come, whose arrival renames nothing.
func reserved(ext string) bool {
	switch strings.ToLower(ext) {
	case "json", "disks", "kernel", "ramdisk", "vhd", "vhdx", "vdi":
		return true
	}
	return false
}

// Encode writes a true name as a stem, which may be of any length. What is
// written as %XX: the percent sign, the slash, NUL and the other control
// characters, a leading dot, ~ and @, the dot of a known extension at the end,
// and bytes that are no UTF-8.
func Encode(name string) string {
	dot := strings.LastIndexByte(name, '.')
	if _, _, known := formats.ByExt(name); !known && !reserved(name[dot+1:]) {
		dot = -1
	}
	var b strings.Builder
	for i := 0; i < len(name); {
		r, n := utf8.DecodeRuneInString(name[i:])
		bad := r == utf8.RuneError && n == 1
		if bad || unicode.IsControl(r) || strings.ContainsRune("%/~@", r) || r == '.' && (i == 0 || i == dot) {
			for _, c := range []byte(name[i : i+n]) {
				b.WriteByte('%')
				b.WriteByte(upperHex[c>>4])
				b.WriteByte(upperHex[c&15])
			}
		} else {
			b.WriteString(name[i : i+n])
		}
		i += n
	}
	return b.String()
}

const upperHex = "0123456789ABCDEF"

// Decode is the true name that a stem stands for: the inverse of Encode, and
// lenient, for people type names too. A percent sign that begins no escape
// stands for itself.
func Decode(stem string) string {
	var b strings.Builder
	for i := 0; i < len(stem); i++ {
		if stem[i] == '%' && i+2 < len(stem) {
			if c, err := strconv.ParseUint(stem[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 2
				continue
			}
		}
		b.WriteByte(stem[i])
	}
	return b.String()
}

// Parse takes the name of a file apart into stem and format; it is false for a
// name that has no extension of the table, or nothing before it.
func Parse(file string) (stem string, f formats.Format, ok bool) {
	f, stem, ok = formats.ByExt(file)
	return stem, f, ok && stem != ""
}

// disksExt ends the name of the directory of a machine's data disks.
const disksExt = ".disks"

// ParseDisk takes the name of a file of such a directory apart: <n>-<device>.<fmt>,
// where 0 is the boot disk. The device, which may be left out, is for people. It is
// false for a name of another sort, and for formats that hold whole machines.
func ParseDisk(file string) (n int, device string, f formats.Format, ok bool) {
	stem, f, ok := Parse(file)
	digits, device, _ := strings.Cut(stem, "-")
	n, err := strconv.Atoi(digits)
	ok = ok && err == nil && n >= 0 && n < providers.MaxDisks && digits == strconv.Itoa(n) && !f.Machine
	return n, Decode(device), f, ok
}

// DiskStem is the name of a disk of a machine without its extension.
func DiskStem(n int, device string) string {
	return cut(strconv.Itoa(n)+"-"+Encode(cmp.Or(device, "disk")), maxStem)
}

// cut shortens a stem to at most n bytes and splits neither a character nor an
// escape.
func cut(stem string, n int) string {
	if len(stem) <= n {
		return stem
	}
	for n > 0 && !utf8.RuneStart(stem[n]) {
		n--
	}
	if i := strings.LastIndexByte(stem[:n], '%'); i >= 0 && i > n-3 {
		n = i
	}
	return stem[:n]
}

// An Index finds the entries of one listing by the names of their files. It is
// immutable.
type Index struct {
	shown  []Named
	byName map[string]int // shown name
	byTrue map[string]int // true name: the oldest of those that share it
	byID   map[string]int
}

// NewIndex names the entries of a listing: of those that share a name the oldest
// keeps it plain, the others get ~id8, so a newcomer renames nobody. The name of a
// capture ends in @ and its time, as that of nothing else does.
func NewIndex(entries []providers.Entry) *Index {
	x := &Index{
		byName: make(map[string]int, len(entries)),
		byTrue: make(map[string]int, len(entries)),
		byID:   make(map[string]int, len(entries)),
	}
	entries = slices.Clone(entries)
	slices.SortStableFunc(entries, func(a, b providers.Entry) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	for i, e := range entries {
		name, at := cmp.Or(e.Name, e.ID), captureTime(e)
		shown := x.free(Encode(name)+at, e.ID)
		name += at
		x.shown = append(x.shown, Named{shown, e})
		x.byName[shown] = i
		if _, taken := x.byTrue[name]; !taken {
			x.byTrue[name] = i
		}
		if _, taken := x.byID[e.ID]; !taken {
			x.byID[e.ID] = i
		}
	}
	return x
}

// captureTime is what the name of a capture ends in, empty for anything else.
func captureTime(e providers.Entry) string {
	if e.Capture == nil {
		return ""
	}
	return "@" + e.Capture.Taken.UTC().Format(providers.CaptureLayout)
}

// free is the shown name for an encoded one. No encoded name holds a ~, so plain
// names and those with a tag never meet; of two tags that are equal the later
// grows.
func (x *Index) free(plain, id string) string {
	if _, taken := x.byName[plain]; !taken && len(plain) <= maxStem {
		return plain
	}
	sum := sha256.Sum256([]byte(id))
	digits := hex.EncodeToString(sum[:])
	for n := 1; ; n++ {
		tag := "~" + digits[:min(8*n, len(digits))]
		if 8*n > len(digits) { // entries of one id: the listing is wrong, the names still differ
			tag = "~" + digits[:8] + "-" + strconv.Itoa(n)
		}
		// Two bytes are left over, so that a copy's name, in which the ~ is
		// an escape, is no longer than allowed.
		shown := cut(plain, maxStem-2-len(tag)) + tag
		if _, taken := x.byName[shown]; !taken {
			return shown
		}
	}
}

// Shown are the entries in their order, each with its name.
func (x *Index) Shown() []Named { return x.shown }

// Find gives the entry that a stem names: by the shown name, or another spelling
// of the true one, or else by the id. An id that ends in a known extension, as
// that of a folder's x.raw, is found in by-id/ alone: x.raw.raw is the file of an
// image that is called x.raw, if ever there is one, and never of x.
func (x *Index) Find(stem string) (Named, bool) {
	i, ok := x.byName[stem]
	if !ok {
		i, ok = x.byTrue[Decode(stem)]
	}
	if ok {
		return x.shown[i], true
	}
	if _, _, file := formats.ByExt(Decode(stem)); file {
		return Named{}, false
	}
	return x.ID(stem)
}

// All gives every entry that a stem may mean: by a shown name that is nobody's true
// name, by the true name, which several may share, or else by the id, which may be
// spelled as in by-id/. It is for who must not guess.
func (x *Index) All(stem string) []Named {
	i, ok := x.byName[stem]
	if ok && strings.ContainsRune(stem, '~') { // as no encoded name does
		return x.shown[i : i+1]
	}
	var all []Named
	for _, n := range x.shown {
		if cmp.Or(n.Entry.Name, n.Entry.ID)+captureTime(n.Entry) == Decode(stem) {
			all = append(all, n)
		}
	}
	if n, ok := x.ID(stem); ok && len(all) == 0 {
		all = append(all, n)
	}
	return all
}

// ID gives the entry of an id, as it is or as a stem spells it.
func (x *Index) ID(stem string) (Named, bool) {
	for _, id := range []string{stem, Decode(stem)} {
		if i, ok := x.byID[id]; ok {
			return x.shown[i], true
		}
	}
	return Named{}, false
}

// Shown names the entries of a listing.
func Shown(entries []providers.Entry) []Named { return NewIndex(entries).Shown() }

// Find gives the entry of a listing that a stem names.
func Find(entries []providers.Entry, stem string) (Named, bool) { return NewIndex(entries).Find(stem) }

// A Place is an image or instance as the command line names it.
type Place struct {
	Provider string
	Kind     providers.Kind
	Stem     string // for Find; empty for the whole directory
	Format   string // of the table; empty when none is named
	Disk     int    // of a machine, where InDisks
	Device   string // that it is called there
	InDisks  bool   // one disk is named, as NAME.disks/N

	Role providers.Role // of a companion that is named, as NAME.kernel; empty for the image
}

// placeSyntax tells a place from a plain path: a provider's name, then the name
// of a directory.
var placeSyntax = regexp.MustCompile(`^([a-z0-9][a-z0-9_-]*):(images|instances)(/.*)?$`)

// ParsePlace reads PROVIDER:images/NAME[.FMT], PROVIDER:instances/NAME[@TIME][.FMT],
// of both NAME.disks/N[-DEVICE][.FMT], and of images NAME.kernel and NAME.ramdisk. It is false for anything else, which is a
// path of the host.
func ParsePlace(s string) (p Place, ok bool, err error) {
	m := placeSyntax.FindStringSubmatch(s)
	if m == nil {
		return Place{}, false, nil
	}
	p = Place{Provider: m[1], Kind: providers.Kind(m[2]), Stem: strings.TrimPrefix(m[3], "/")}
	if stem, file, ok := strings.Cut(p.Stem, disksExt+"/"); ok && stem != "" && !strings.ContainsRune(stem, '/') {
		if n, device, f, ok := parseDiskPlace(file); ok {
			p.Stem, p.Disk, p.Device, p.Format, p.InDisks = stem, n, device, f, true
			return p, true, nil
		}
		err := disk.Errorf(disk.Invalid, "parse place %q: %q names no disk", s, file)
		return Place{}, true, disk.Hint(err, "disks are called NUMBER-DEVICE.FORMAT; 0 is the boot disk, and NUMBER will do")
	}
	if stem, f, known := Parse(p.Stem); known {
		p.Stem, p.Format = stem, f.Name
	} else if stem, role, ok := ParseCompanion(p.Stem); ok && p.Kind == providers.Images {
		p.Stem, p.Role = stem, role
	}
	if strings.ContainsRune(p.Stem, '/') {
		err := disk.Errorf(disk.Invalid, "parse place %q: a name has no slash", s)
		return Place{}, true, disk.Hint(err, "write a slash in the name of an image as %%2F")
	}
	return p, true, nil
}

// parseDiskPlace is ParseDisk where the format may be left out.
func parseDiskPlace(file string) (n int, device, format string, ok bool) {
	if n, device, f, ok := ParseDisk(file); ok {
		return n, device, f.Name, true
	}
	if _, _, known := formats.ByExt(file); known {
		return 0, "", "", false
	}
	n, device, _, ok = ParseDisk(file + ".raw")
	return n, device, "", ok
}
