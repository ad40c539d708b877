package ova

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"fmt"
	"strings"
	"unicode"

	"chromogenic/disk"
)

// maxWritten is how many disks a machine that is written may have: what one
// parallel SCSI controller takes.
const maxWritten = 15

// The size of the descriptor that is written, in bytes: enough for the longest
// texts below and all that is constant, and more for each disk.
const (
	descriptorBase    = 12 << 10
	descriptorPerDisk = 1 << 10
)

// The most of a text that goes in a descriptor, in bytes after escaping. The
// name stands there three times.
const (
	maxName        = 512
	maxDescription = 4096
)

// What a machine has that nobody said anything about.
const (
	defaultCPUs = 2
	defaultRAM  = 2048 // MiB
)

// describe writes the descriptor, padded with blanks to its fixed size. It is
// OVF 1.0, which all importers know, in the words that they agree on:
//
//   - virt-v2v (input/OVF.ml) wants the 1.0 namespace, HostResource as
//     ovf:/disk/ID, a controller of type 5, 6 or 20 as Parent, Name, and takes
//     the firmware from vmw:Config.
//   - VirtualBox (ovfreader.cpp) takes the name from ovf:id, wants format and
//     capacity in plain bytes on each Disk, memory in "byte * 2^20", and no
//     required item that it does not know. It ignores vmw:Config: it has no
//     other way to be told of UEFI than a whole machine of its own.
//   - VMware wants the elements of an Item in the order of the alphabet, and a
//     virtual hardware that knows UEFI (vmx-08 and later).
func describe(m *disk.Machine, name string, parts []part) ([]byte, error) {
	w := &writer{}
	name = text(cmp.Or(name, m.Meta.Name, "machine"), maxName)
	os, ids := guestOS(m.Meta), diskIDs(m)
	w.line(`<?xml version="1.0" encoding="UTF-8"?>`)
	w.line(`<Envelope xmlns="%[1]s" xmlns:ovf="%[1]s" xmlns:rasd="%[2]s_ResourceAllocationSettingData" xmlns:vssd="%[2]s_VirtualSystemSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf">`,
		"http://schemas.dmtf.org/ovf/envelope/1", "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM")
	w.line(`  <References>`)
	for i, p := range parts {
		w.line(`    <File ovf:href="%s" ovf:id="file%d" ovf:size="%d"/>`, diskName(i), i+1, p.file.Size())
	}
	w.line(`  </References>`)
	w.line(`  <DiskSection>`)
	w.line(`    <Info>Virtual disks</Info>`)
	for i, p := range parts {
		w.line(`    <Disk ovf:capacity="%d" ovf:capacityAllocationUnits="byte" ovf:diskId="%[5]s" ovf:fileRef="file%[2]d" ovf:format="%[3]s" ovf:populatedSize="%[4]d"/>`,
			p.capacity, i+1, "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized", p.populated, ids[i])
	}
	w.line(`  </DiskSection>`)
	w.line(`  <NetworkSection>`)
	w.line(`    <Info>Logical networks</Info>`)
	w.line(`    <Network ovf:name="VM Network">`)
	w.line(`      <Description>The VM Network network</Description>`)
	w.line(`    </Network>`)
	w.line(`  </NetworkSection>`)
	w.line(`  <VirtualSystem ovf:id="%s">`, name)
	w.line(`    <Info>A virtual machine</Info>`)
	w.line(`    <Name>%s</Name>`, name)
	w.line(`    <OperatingSystemSection ovf:id="%d" vmw:osType="%s">`, os.cim, os.vmware)
	w.line(`      <Info>The guest operating system</Info>`)
	w.line(`      <Description>%s</Description>`, os.virtualBox)
	w.line(`    </OperatingSystemSection>`)
	w.hardware(m, name, ids)
	if d := text(m.Meta.Description, maxDescription); d != "" {
		w.line(`    <AnnotationSection>`)
		w.line(`      <Info>A description of the machine</Info>`)
		w.line(`      <Annotation>%s</Annotation>`, d)
		w.line(`    </AnnotationSection>`)
	}
	w.line(`  </VirtualSystem>`)
	w.line(`</Envelope>`)
	pad := descriptorBase + descriptorPerDisk*len(parts) - w.Len() - 1
	if pad < 0 {
		return nil, disk.Errorf(disk.Other, "describe machine: descriptor is %d bytes too long", -pad)
	}
	w.line("%*s", pad, "")
	return w.Bytes(), nil
}

// maxDiskID is the longest name, in bytes, that a disk keeps.
const maxDiskID = 32

// diskIDs are the ids of the disks: the names that the source gives them, where they
// are plain ones, so that whoever reads the descriptor calls them so again.
func diskIDs(m *disk.Machine) []string {
	ids, used := make([]string, len(m.Disks)), map[string]bool{}
	for i, d := range m.Disks {
		ids[i] = fmt.Sprintf("vmdisk%d", i+1)
		odd := strings.ContainsFunc(d.Device, func(r rune) bool {
			return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
		})
		if d.Device != "" && len(d.Device) <= maxDiskID && !odd && !used[d.Device] && !strings.HasPrefix(d.Device, "vmdisk") {
			ids[i] = d.Device
		}
		used[ids[i]] = true
	}
	return ids
}

// A writer writes a descriptor line by line.
type writer struct{ bytes.Buffer }

func (w *writer) line(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }

// item writes a device. The pairs are names and values of elements, in the order
// of the alphabet as the schema of rasd has them; an empty value is left out.
func (w *writer) item(pairs ...string) {
	w.line(`      <Item>`)
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			w.line(`        <rasd:%[1]s>%[2]s</rasd:%[1]s>`, pairs[i], pairs[i+1])
		}
	}
	w.line(`      </Item>`)
}

// hardware writes the devices: instance 1 and 2 are CPU and memory, 3 the network
// card, 10 and up the controllers, 20 and up the disks.
func (w *writer) hardware(m *disk.Machine, name string, ids []string) {
	disks := len(ids)
	cpus, ram := cmp.Or(max(m.Meta.CPUs, 0), defaultCPUs), cmp.Or(max(m.Meta.MinRAM, 0), defaultRAM)
	ram = (ram + 3) / 4 * 4 // VMware takes multiples of 4 MiB
	w.line(`    <VirtualHardwareSection>`)
	w.line(`      <Info>Virtual hardware</Info>`)
	w.line(`      <System>`)
	w.line(`        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>`)
	w.line(`        <vssd:InstanceID>0</vssd:InstanceID>`)
	w.line(`        <vssd:VirtualSystemIdentifier>%s</vssd:VirtualSystemIdentifier>`, name)
	w.line(`        <vssd:VirtualSystemType>vmx-10 virtualbox-2.2</vssd:VirtualSystemType>`)
	w.line(`      </System>`)
	w.item("AllocationUnits", "hertz * 10^6", "Description", "Number of virtual CPUs", "ElementName", fmt.Sprintf("%d virtual CPUs", cpus),
		"InstanceID", "1", "ResourceType", "3", "VirtualQuantity", fmt.Sprint(cpus))
	w.item("AllocationUnits", "byte * 2^20", "Description", "Memory size", "ElementName", fmt.Sprintf("%d MiB of memory", ram),
		"InstanceID", "2", "ResourceType", "4", "VirtualQuantity", fmt.Sprint(ram))
	c := controllerOf(cmp.Or(m.Meta.DiskBus, m.Disks[0].Bus), disks)
	for i := range (disks + c.slots - 1) / c.slots {
		w.item("Address", fmt.Sprint(i), "Description", c.title, "ElementName", fmt.Sprintf("%s %d", c.title, i),
			"InstanceID", fmt.Sprint(10+i), "ResourceSubType", c.subtype, "ResourceType", c.kind)
	}
	for i := range disks {
		w.item("AddressOnParent", fmt.Sprint(c.address(i%c.slots)), "ElementName", fmt.Sprintf("Hard disk %d", i+1),
			"HostResource", "ovf:/disk/"+ids[i], "InstanceID", fmt.Sprint(20+i),
			"Parent", fmt.Sprint(10+i/c.slots), "ResourceType", "17")
	}
	w.item("AddressOnParent", "7", "AutomaticAllocation", "true", "Connection", "VM Network", "ElementName", "Network adapter 1",
		"InstanceID", "3", "ResourceSubType", nicSubtype(m.Meta.NIC), "ResourceType", "10")
	firmware := "bios"
	if m.Meta.Firmware == "uefi" {
		firmware = "efi"
	}
	w.line(`      <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="%s"/>`, firmware)
	if m.Meta.SecureBoot && firmware == "efi" {
		w.line(`      <vmw:Config ovf:required="false" vmw:key="bootOptions.efiSecureBootEnabled" vmw:value="true"/>`)
	}
	w.line(`    </VirtualHardwareSection>`)
}

// A controller is the kind that the disks hang on.
type controller struct {
	kind, subtype, title string
	slots                int // disks on each
}

// controllerOf is the controller for a bus and so many disks; of IDE there are
// only two. What OVF has no controller for is lsilogic, the one that every
// importer and most guests know.
func controllerOf(bus string, disks int) controller {
	switch {
	case bus == "ide" && disks <= 4:
		return controller{"5", "PIIX4", "IDE Controller", 2}
	case bus == "sata":
		return controller{"20", "AHCI", "SATA Controller", 30}
	}
	return controller{"6", "lsilogic", "SCSI Controller", maxWritten}
}

// address is that of the i-th disk on a controller. On SCSI 7 is the controller's own.
func (c controller) address(i int) int {
	if c.kind == "6" && i >= 7 {
		return i + 1
	}
	return i
}

func nicSubtype(model string) string {
	if model == "vmxnet3" {
		return "VmxNet3"
	}
	return "E1000"
}

// A guest is an operating system in three vocabularies: CIM_OperatingSystem's,
// VMware's guest identifiers and VirtualBox's types.
type guest struct {
	cim                int
	vmware, virtualBox string
}

// guestOS names the guest as exactly as hardware version 10 knows it.
func guestOS(m disk.Meta) guest {
	switch {
	case m.OSType == "windows":
		return guest{103, "windows7Server64Guest", "Windows2008_64"}
	case m.OSDistro == "debian":
		return guest{96, "debian7_64Guest", "Debian_64"}
	case m.OSDistro == "ubuntu":
		return guest{94, "ubuntu64Guest", "Ubuntu_64"}
	case m.OSDistro == "centos":
		return guest{107, "centos64Guest", "RedHat_64"}
	case m.OSDistro == "rhel":
		return guest{80, "rhel7_64Guest", "RedHat_64"}
	}
	return guest{101, "otherLinux64Guest", "Linux26_64"}
}

// text is s for an attribute or an element, escaped, on one line, and cut so that
// it has at most limit bytes.
func text(s string, limit int) string {
	var out strings.Builder
	for _, r := range strings.TrimSpace(strings.ToValidUTF8(s, "\uFFFD")) {
		if unicode.IsControl(r) {
			r = ' '
		}
		var one bytes.Buffer
		xml.EscapeText(&one, []byte(string(r))) // a Buffer never fails
		if out.Len()+one.Len() > limit {
			break
		}
		out.Write(one.Bytes())
	}
	return out.String()
}
