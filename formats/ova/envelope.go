package ova

import (
	"fmt"
	"strings"

	"chromogenic/disk"
)

// An envelope is what a descriptor says: the files, the disks made of them, and
// the machine they belong to. Its clauses are those of DSP0243 2.1.
type envelope struct {
	files  map[string]fileRef // by id
	disks  []virtualDisk      // as DiskSection lists them
	system *element           // the VirtualSystem; empty when there is none
	config string             // the default configuration of the deployment, or empty
}

// A fileRef is a File of References (7.1).
type fileRef struct {
	href        string
	compression string
	chunkSize   int64 // bytes; 0 is not chunked
	size        int64 // bytes; -1 is unknown, or not a number
}

// A virtualDisk is a Disk of DiskSection (9.1), and how the machine sees it.
type virtualDisk struct {
	id, fileRef, parentRef string
	format                 string // a URI, for messages
	capacity               int64  // bytes; -1 where it is a property to be asked for
	capacityErr            error  // why the capacity cannot be read: only a disk without a file needs it
	boot                   bool   // oVirt marks the boot disk
	bus                    string
}

// parseEnvelope reads a descriptor. It does not look at the files.
func parseEnvelope(text []byte) (*envelope, error) {
	root, err := parseXML(text)
	if err != nil {
		return nil, err
	}
	if root.name.Local != "Envelope" || root.name.Space != "" && !isOVF(root.name.Space) {
		return nil, disk.Errorf(disk.Malformed, "parse ovf: root element is %q of %q, not an Envelope", root.name.Local, root.name.Space)
	}
	e := &envelope{files: map[string]fileRef{}, system: &element{}}
	for _, f := range root.first("References").all("File") {
		if err := e.addFile(f); err != nil {
			return nil, err
		}
	}
	for _, kind := range []string{"Disk", "SharedDisk"} { // shared: of several machines, since 2.0
		for _, section := range root.all(kind + "Section") {
			for _, d := range section.all(kind) {
				if err := e.addDisk(d); err != nil {
					return nil, err
				}
			}
		}
	}
	switch systems := virtualSystems(root); len(systems) {
	case 0:
	case 1:
		e.system = systems[0]
	default:
		return nil, disk.Hint(disk.Errorf(disk.Unsupported, "parse ovf: the package holds %d machines", len(systems)),
			"deploy it where it comes from and export each machine alone")
	}
	for i, c := range root.first("DeploymentOptionSection").all("Configuration") { // 9.8: the first, unless one is marked
		if i == 0 || c.attr("default") == "true" || c.attr("default") == "1" {
			e.config = c.attr("id")
		}
	}
	return e, nil
}

// virtualSystems finds the machines, in collections too. The depth of XML bounds
// the recursion.
func virtualSystems(e *element) []*element {
	found := e.all("VirtualSystem")
	for _, c := range e.all("VirtualSystemCollection") {
		found = append(found, virtualSystems(c)...)
	}
	return found
}

func (e *envelope) addFile(f *element) error {
	id := f.attr("id")
	if _, twice := e.files[id]; twice {
		return disk.Errorf(disk.Malformed, "parse ovf: two files have the id %q", id)
	}
	ref := fileRef{href: f.attr("href"), compression: f.attr("compression"), size: -1}
	// The size bounds nothing and is wrong in many packages, so only the whole of
	// a chunked file is compared with it.
	if size, err := quantity(f.attr("size"), ""); err == nil {
		ref.size = size
	}
	if s := f.attr("chunkSize"); s != "" {
		var err error
		if ref.chunkSize, err = quantity(s, ""); err != nil {
			return fmt.Errorf("chunk size of file %q: %w", id, err)
		}
	}
	e.files[id] = ref
	return nil
}

func (e *envelope) addDisk(d *element) error {
	v := virtualDisk{
		id: d.attr("diskId"), fileRef: d.attr("fileRef"), parentRef: d.attr("parentRef"), format: d.attr("format"),
		capacity: -1, boot: d.attr("boot") == "true", bus: interfaceBus(d.attr("disk-interface")),
	}
	if e.find(v.id) != nil {
		return disk.Errorf(disk.Malformed, "parse ovf: two disks have the id %q", v.id)
	}
	if len(e.disks) == maxDisks {
		return disk.Errorf(disk.Malformed, "parse ovf: more than %d disks", maxDisks)
	}
	// 9.1: a capacity may be "${property}", to be asked for at deployment.
	if s := d.attr("capacity"); s != "" && !strings.HasPrefix(s, "${") {
		v.capacity, v.capacityErr = quantity(s, d.attr("capacityAllocationUnits"))
	}
	e.disks = append(e.disks, v)
	return nil
}

// find is the disk of that id, or nil.
func (e *envelope) find(id string) *virtualDisk {
	for i := range e.disks {
		if e.disks[i].id == id {
			return &e.disks[i]
		}
	}
	return nil
}

// interfaceBus is the bus of an oVirt disk-interface attribute.
func interfaceBus(s string) string {
	switch strings.ToLower(s) {
	case "virtio":
		return "virtio"
	case "virtio_scsi", "spapr_vscsi":
		return "scsi"
	case "ide":
		return "ide"
	case "sata":
		return "sata"
	}
	return ""
}
