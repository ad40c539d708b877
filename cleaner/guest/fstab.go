package guest

import (
	"bufio"
	"bytes"
	"cmp"
	"path"
	"slices"
	"strconv"
	"strings"
)

// A mountLine is a line of fstab(5) that may concern a filesystem of the disk.
type mountLine struct {
	Source, Path, Type, Subvol string
}

const (
	maxFstab      = 64 << 10 // bytes of fstab that are read
	maxFstabLines = 128      // lines of it that are considered
)

// parseFstab reads what a hostile guest may have written. The lines are in the order
// in which they are mounted: those nearer to the root first.
func parseFstab(text []byte) []mountLine {
	var lines []mountLine
	scan := bufio.NewScanner(bytes.NewReader(text[:min(len(text), maxFstab)]))
	scan.Buffer(nil, maxFstab+1)
	for scan.Scan() && len(lines) < maxFstabLines {
		f := strings.Fields(scan.Text())
		if len(f) < 3 || strings.HasPrefix(f[0], "#") {
			continue
		}
		l := mountLine{Source: unquote(unescape(f[0])), Path: unescape(f[1]), Type: f[2]}
		if len(f) > 3 {
			l.Subvol = subvolOf(f[3])
		}
		switch {
		case l.Type == "swap":
			l.Path = ""
		case !path.IsAbs(l.Path) || len(l.Path) > 1024 || strings.Contains(l.Path, "\x00"):
			continue
		default:
			l.Path = path.Clean(l.Path)
		}
		lines = append(lines, l)
	}
	slices.SortStableFunc(lines, func(a, b mountLine) int { return cmp.Compare(depth(a.Path), depth(b.Path)) })
	return lines
}

// depth is the number of names in a clean path.
func depth(p string) int {
	if p == "/" {
		return 0
	}
	return strings.Count(p, "/")
}

// subvolOf finds the subvolume of btrfs(5): its path, or "id=" with its number.
func subvolOf(options string) string {
	for o := range strings.SplitSeq(options, ",") {
		if v, ok := strings.CutPrefix(o, "subvol="); ok {
			return strings.Trim(v, "/")
		}
		if v, ok := strings.CutPrefix(o, "subvolid="); ok {
			return "id=" + v
		}
	}
	return ""
}

// unescape undoes what getmntent(3) knows: three octal digits behind a backslash.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// unquote takes the quotes off the value of a tag, which mount(8) allows.
func unquote(s string) string { return strings.ReplaceAll(s, `"`, "") }

// names tells whether source, as fstab has it, means this volume. Device names are
// those of the first disk by number, whatever the bus calls it.
func (v *volumeOf) named(source string) bool {
	tag, value, ok := strings.Cut(source, "=")
	if !ok {
		if by, found := strings.CutPrefix(source, "/dev/disk/by-"); found {
			if tag, value, ok = strings.Cut(by, "/"); ok {
				return v.tagged(strings.ToUpper(tag), value)
			}
		}
		return deviceNumber(source) == v.Number
	}
	return v.tagged(strings.ToUpper(tag), value)
}

func (v *volumeOf) tagged(tag, value string) bool {
	have := ""
	switch tag {
	case "UUID":
		have = v.UUID
	case "LABEL":
		return value != "" && value == v.Label
	case "PARTUUID":
		have = v.PartUUID
	case "PARTLABEL":
		return value != "" && value == v.PartLabel
	}
	return have != "" && strings.EqualFold(have, value)
}

// firstDisks are what the first disk is called, before the number of a partition.
// What is a data disk on one bus may be the first on no other.
var firstDisks = []string{"/dev/sda", "/dev/vda", "/dev/xvda", "/dev/hda", "/dev/nvme0n1p", "/dev/mmcblk0p", "/dev/nvme0n1"}

// deviceNumber is the partition that a device name means, 0 for the whole disk, -1
// for what is no name of the first disk.
func deviceNumber(device string) int {
	for _, prefix := range firstDisks {
		if rest, ok := strings.CutPrefix(device, prefix); ok {
			if rest == "" {
				return 0
			}
			if n, err := strconv.ParseUint(rest, 10, 16); err == nil && n > 0 {
				return int(n)
			}
		}
	}
	return -1
}
