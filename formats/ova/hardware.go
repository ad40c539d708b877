package ova

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"chromogenic/disk"
)

// The resource types of CIM_ResourceAllocationSettingData (DSP0243 8.3) that
// matter here.
const (
	typeCPU      = 3
	typeMemory   = 4
	typeIDE      = 5
	typeSCSI     = 6
	typeNIC      = 10
	typeFloppy   = 14
	typeCD       = 15
	typeDVD      = 16
	typeDisk     = 17
	typeOtherHBA = 20 // SATA, NVMe or virtio-scsi, by the subtype
)

// An item is a device of the virtual hardware. The fields are texts as they
// stand: an InstanceID need not be a number.
type item struct {
	kind                       int
	id, parent, subtype, units string
	quantity, hostResource     string
	address                    int // on the parent, of a disk; of itself, of a controller
}

// items lists the hardware that the default configuration has. Of several
// hardware sections, which are alternatives, the first counts.
func (e *envelope) items() []item {
	var items []item
	for _, x := range e.system.first("VirtualHardwareSection").kids {
		switch x.name.Local {
		case "Item", "StorageItem", "EthernetPortItem": // the latter two of 2.0
		default:
			continue
		}
		if c := x.attr("configuration"); c != "" && !slices.Contains(strings.Fields(c), e.config) {
			continue
		}
		if b := x.attr("bound"); b != "" && b != "normal" { // "min", "max": limits of the item itself
			continue
		}
		it := item{
			parent: x.first("Parent").text, subtype: x.first("ResourceSubType").text,
			units: x.first("AllocationUnits").text, quantity: x.first("VirtualQuantity").text,
			hostResource: x.first("HostResource").text,
		}
		it.kind, _ = strconv.Atoi(x.first("ResourceType").text)
		it.id = cmp.Or(x.first("InstanceID").text, x.first("InstanceId").text) // "Id" until 1.0
		address := x.first("AddressOnParent").text
		if it.kind == typeIDE || it.kind == typeSCSI || it.kind == typeOtherHBA {
			address = cmp.Or(x.first("Address").text, x.first("BusNumber").text)
		}
		it.address, _ = strconv.Atoi(address)
		items = append(items, it)
	}
	return items
}

// bus is the kind of bus that a controller drives.
func (it item) bus() string {
	subtype := strings.ToLower(it.subtype)
	switch {
	case it.kind == typeIDE:
		return "ide"
	case it.kind == typeSCSI:
		return "scsi"
	case it.kind == typeOtherHBA && strings.Contains(subtype, "ahci"):
		return "sata"
	case it.kind == typeOtherHBA && strings.Contains(subtype, "virtio"):
		return "scsi"
	}
	return ""
}

// diskID is the disk that an item attaches: HostResource is ovf:/disk/ID by the
// standard, /disk/ID in 0.9, and ovf://disk/ID in the wild.
func (it item) diskID() (id string, ok bool) {
	switch it.kind {
	case typeFloppy, typeCD, typeDVD:
		return "", false
	}
	path := strings.TrimPrefix(it.hostResource, "ovf:")
	path = strings.TrimPrefix(path, "/")
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	return strings.CutPrefix(path, "/disk/")
}

// An attachment orders a disk among the others: as the firmware looks for one to
// boot from, by controller and then by the address on it.
type attachment struct {
	disk                    virtualDisk
	family, unit, at, order int
}

// attached is the disks of the machine, that to boot from first. A descriptor
// whose hardware attaches none gives all that it lists; otherwise those that the
// hardware does not mention come last, without a bus.
func (e *envelope) attached() ([]virtualDisk, error) {
	items := e.items()
	families := map[int]int{} // a controller's type → when such a one was first met
	controllers := map[string]item{}
	for _, it := range items {
		if _, met := families[it.kind]; !met {
			families[it.kind] = len(families)
		}
		if _, twice := controllers[it.id]; it.id != "" && !twice {
			controllers[it.id] = it
		}
	}
	var found []attachment
	used := map[string]bool{}
	for i, it := range items {
		id, ok := it.diskID()
		if !ok {
			if it.kind == typeDisk {
				return nil, disk.Errorf(disk.Unsupported, "parse ovf: disk %q is attached from %q, which is no disk of the package", it.id, it.hostResource)
			}
			continue
		}
		d := e.find(id)
		if d == nil {
			return nil, disk.Errorf(disk.Malformed, "parse ovf: the hardware attaches disk %q, which is not in the disk section", id)
		}
		if used[id] {
			continue
		}
		used[id] = true
		a := attachment{disk: *d, family: len(families), at: it.address, order: i}
		if c, ok := controllers[it.parent]; ok && it.parent != "" {
			a.family, a.unit = families[c.kind], c.address
			a.disk.bus = cmp.Or(a.disk.bus, c.bus())
		}
		found = append(found, a)
	}
	for i, d := range e.disks {
		if !used[d.id] && !e.elsewhere(d.id) {
			found = append(found, attachment{disk: d, family: len(families) + 1, order: i})
		}
	}
	slices.SortStableFunc(found, func(a, b attachment) int {
		return cmp.Or(boolOrder(a.disk.boot, b.disk.boot), cmp.Compare(a.family, b.family),
			cmp.Compare(a.unit, b.unit), cmp.Compare(a.at, b.at), cmp.Compare(a.order, b.order))
	})
	disks := make([]virtualDisk, len(found))
	for i, a := range found {
		disks[i] = a.disk
	}
	return disks, nil
}

// elsewhere tells whether the disk belongs to a configuration that is not the
// default one.
func (e *envelope) elsewhere(id string) bool {
	for _, x := range e.system.first("VirtualHardwareSection").kids {
		if got, ok := (item{hostResource: x.first("HostResource").text}).diskID(); ok && got == id {
			return true
		}
	}
	return false
}

// boolOrder puts true first.
func boolOrder(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}
