package vmdk

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"chromogenic/disk"
)

const (
	probeSize     = 2048
	maxDescriptor = 1 << 20 // as qemu's vmdk_read_desc; real ones are under 64 KiB
	maxExtents    = 4096    // 2 TiB in pieces of 2 GiB are 1024
	noParent      = "ffffffff"
)

// Kinds of extents (VDF, The Descriptor File).
const (
	extentFlat     = "FLAT"
	extentSparse   = "SPARSE"
	extentZero     = "ZERO"
	extentVMFS     = "VMFS"
	extentCOWD     = "VMFSSPARSE"
	extentSESparse = "SESPARSE"
)

// descriptor is what a disk's text says, as far as reading it goes.
type descriptor struct {
	createType string
	cid        string
	adapter    string // lower case
	extents    []extent
}

// extent is one line of the extent description.
type extent struct {
	kind          string // upper case
	sectors       int64
	name          string
	offsetSectors int64 // of the data in a flat file
}

// isDescriptor tells whether head begins the text of a descriptor: its first
// comment says so, or, as qemu has it, its first line that is no comment is the
// version, and the type of the disk follows.
func isDescriptor(head []byte) bool {
	head = bytes.ToLower(bytes.TrimPrefix(head, []byte("\xef\xbb\xbf")))
	for line := range bytes.Lines(head) {
		line = bytes.ReplaceAll(bytes.TrimSpace(line), []byte(" "), nil)
		switch {
		case len(line) == 0:
		case bytes.HasPrefix(line, []byte("#diskdescriptorfile")):
			return true
		case line[0] == '#':
		default:
			return bytes.HasPrefix(line, []byte("version=")) && bytes.Contains(head, []byte("createtype"))
		}
	}
	return false
}

// readEmbedded reads the descriptor inside a hosted extent, up to its first NUL;
// it is empty where there is none.
func readEmbedded(img disk.Image, h header) ([]byte, error) {
	if h.descriptorSector == 0 {
		return nil, nil
	}
	n := h.descriptorSectors
	if n == 0 {
		n = 20 // what all products leave for it
	}
	if h.descriptorSector > maxVirtual/sector || int64(h.descriptorSector)*sector >= img.Size() {
		return nil, errHintTruncated(disk.Errorf(disk.Malformed, "open vmdk: truncated: descriptor at sector %d in a file of %d bytes", h.descriptorSector, img.Size()))
	}
	off := int64(h.descriptorSector) * sector
	p := make([]byte, min(int64(min(n, maxDescriptor/sector))*sector, img.Size()-off))
	if err := disk.ReadFull(img, p, off); err != nil {
		return nil, fmt.Errorf("read vmdk descriptor: %w", err)
	}
	end := bytes.IndexByte(p, 0)
	if end < 0 {
		end = len(p)
		if n > maxDescriptor/sector {
			return nil, errLongDescriptor()
		}
	}
	return bytes.TrimSpace(p[:end]), nil
}

// openDescriptorFile opens a disk whose descriptor is a file of its own.
func openDescriptorFile(img disk.Image, resolve disk.Resolver) (*disk.Machine, error) {
	if img.Size() > maxDescriptor {
		return nil, errLongDescriptor()
	}
	p := make([]byte, img.Size())
	if err := disk.ReadFull(img, p, 0); err != nil {
		return nil, fmt.Errorf("read vmdk descriptor: %w", err)
	}
	p, _, _ = bytes.Cut(p, []byte{0})
	d, err := parseDescriptor(p)
	if err != nil {
		return nil, err
	}
	return openExtents(img, d, resolve)
}

func errLongDescriptor() error {
	return disk.Errorf(disk.Malformed, "open vmdk: descriptor of more than %d bytes", maxDescriptor)
}

// parseDescriptor reads the text and refuses disks that need more than their
// own extents: a parent, or a key. Lines it does not know are left alone. Keys
// and kinds may be in any case, spaces and quotes are optional, lines may end in
// CR LF. Only extents' names leave ASCII, and these are taken as the bytes they
// are, whatever encoding the text claims.
func parseDescriptor(text []byte) (*descriptor, error) {
	d := &descriptor{}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	for line := range strings.FieldsFuncSeq(string(text), func(r rune) bool { return r == '\n' || r == '\r' }) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		e, ok, err := parseExtent(line)
		if err != nil {
			return nil, err
		}
		if ok {
			if d.extents = append(d.extents, e); len(d.extents) > maxExtents {
				return nil, disk.Errorf(disk.Malformed, "open vmdk: more than %d extents", maxExtents)
			}
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			continue
		}
		key, value = strings.ToLower(strings.TrimSpace(key)), unquote(value)
		if err := refuseKey(key, value); err != nil {
			return nil, err
		}
		switch key {
		case "createtype":
			d.createType = value
		case "cid":
			d.cid = value
		case "ddb.adaptertype":
			d.adapter = strings.ToLower(value)
		}
	}
	if len(d.extents) == 0 && d.createType == "" && d.cid == "" {
		return nil, disk.Errorf(disk.Malformed, "open vmdk: the descriptor has no createType, no CID and no extent")
	}
	return d, nil
}

// refuseKey refuses a disk that says of itself that its extents are not all.
func refuseKey(key, value string) error {
	switch {
	case value == "":
	case key == "parentcid" && !strings.EqualFold(value, noParent), key == "parentfilenamehint":
		return disk.Hint(disk.Errorf(disk.Unsupported, "open vmdk: the disk needs a backing disk: %s=%q", key, value),
			"consolidate its snapshots first, or convert the whole chain with the product that made it")
	case strings.Contains(key, "crypt"), strings.Contains(key, "keysafe"),
		key == "ddb.iofilters" && strings.Contains(strings.ToLower(value), "crypt"):
		return disk.Hint(disk.Errorf(disk.Unsupported, "open vmdk: the disk is encrypted: its descriptor has %q", key),
			"decrypt the disk with the product that made it")
	}
	return nil
}

// parseExtent reads an extent line: access, sectors, kind, and but for ZERO a
// name and maybe the offset in it; ok is false for a line that is none.
func parseExtent(line string) (e extent, ok bool, err error) {
	access, rest, _ := strings.Cut(strings.ReplaceAll(line, "\t", " "), " ")
	switch strings.ToUpper(access) {
	case "RW", "RDONLY", "NOACCESS":
	default:
		return extent{}, false, nil
	}
	bad := func(why string) (extent, bool, error) {
		return extent{}, false, disk.Errorf(disk.Malformed, "open vmdk: extent line %.200q: %s", line, why)
	}
	count, rest, _ := strings.Cut(strings.TrimLeft(rest, " "), " ")
	if strings.HasPrefix(strings.TrimLeft(count+rest, " "), "=") {
		return extent{}, false, nil // a key of that name
	}
	e.sectors, err = strconv.ParseInt(count, 10, 64)
	if err != nil || e.sectors < 1 || e.sectors > maxVirtual/sector {
		return bad("the number of sectors")
	}
	kind, rest, _ := strings.Cut(strings.TrimLeft(rest, " "), " ")
	e.kind = strings.ToUpper(kind)
	if e.kind == extentZero {
		return e, true, nil
	}
	if strings.EqualFold(access, "NOACCESS") {
		return extent{}, false, disk.Errorf(disk.Unsupported, "open vmdk: extent line %.200q gives no access", line)
	}
	rest = strings.TrimLeft(rest, " ")
	if strings.HasPrefix(rest, `"`) {
		e.name, rest, ok = strings.Cut(rest[1:], `"`)
		if !ok {
			return bad("a quote is not closed")
		}
	} else {
		e.name, rest, _ = strings.Cut(rest, " ")
	}
	if offset, _, _ := strings.Cut(strings.TrimSpace(rest), " "); offset != "" {
		e.offsetSectors, err = strconv.ParseInt(offset, 10, 64)
		if err != nil || e.offsetSectors < 0 || e.offsetSectors > maxVirtual/sector {
			return bad("the offset")
		}
	}
	return e, true, nil
}

// unquote takes spaces and one pair of quotes from a value.
func unquote(s string) string {
	s = strings.TrimSpace(s)
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = strings.TrimSpace(s[1 : len(s)-1])
	}
	return s
}

// bus is the disk's adapter in the terms of disk.Disk.
func (d *descriptor) bus() string {
	switch d.adapter {
	case "ide":
		return "ide"
	case "lsilogic", "buslogic", "lsisas1068", "pvscsi", "legacyesx":
		return "scsi"
	}
	return ""
}

// checkName refuses every name that is not a plain one in the same folder.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > 255 || strings.ContainsAny(name, "/\\\x00") {
		return disk.Hint(disk.Errorf(disk.Unsupported, "open vmdk: extent %.200q is not a plain file name", name),
			"put the extents beside the descriptor and give only their names in it")
	}
	return nil
}
