package e2e

import (
	"archive/tar"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// A container is a way to keep a disk in a file.
type container struct {
	name, ext string
	make      func(t testing.TB, disk, to string)
}

// containers are what the tests serve from. Raw is first.
func containers() []container {
	return []container{
		{"raw", "raw", func(t testing.TB, disk, to string) { run(t, "cp", "--sparse=always", disk, to) }},
		{"plain", "qcow2", qemuConvert("-O", "qcow2")},
		{"zlib", "qcow2", qemuConvert("-O", "qcow2", "-c", "-o", "compression_type=zlib")},
		{"zstd", "qcow2", qemuConvert("-O", "qcow2", "-c", "-o", "compression_type=zstd")},
		{"sparse", "vmdk", qemuConvert("-O", "vmdk", "-o", "subformat=monolithicSparse")},
		{"stream", "vmdk", qemuConvert("-O", "vmdk", "-o", "subformat=streamOptimized")},
		{"ova", "ova", func(t testing.TB, disk, to string) { makeOVA(t, to, disk) }},
	}
}

// qemuConvert makes a container of a raw disk by qemu-img convert.
func qemuConvert(args ...string) func(t testing.TB, disk, to string) {
	return func(t testing.TB, disk, to string) {
		t.Helper()
		need(t, "qemu-img")
		run(t, "qemu-img", append(append([]string{"convert", "-f", "raw"}, args...), disk, to)...)
	}
}

// makeOVA packs raw disks as an appliance: an OVF and streamOptimized VMDKs.
func makeOVA(t testing.TB, to string, disks ...string) {
	t.Helper()
	dir := t.TempDir()
	var files, descs, items string
	var members []string
	for i, d := range disks {
		name := fmt.Sprintf("machine-disk%d.vmdk", i+1)
		path := filepath.Join(dir, name)
		qemuConvert("-O", "vmdk", "-o", "subformat=streamOptimized")(t, d, path)
		info, err := os.Stat(d)
		if err != nil {
			t.Fatal(err)
		}
		files += fmt.Sprintf(`<File ovf:href=%q ovf:id="file%d"/>`, name, i)
		descs += fmt.Sprintf(`<Disk ovf:capacity="%d" ovf:capacityAllocationUnits="byte" ovf:diskId="disk%d" ovf:fileRef="file%d" `+
			`ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>`, info.Size(), i, i)
		items += fmt.Sprintf(`<Item><rasd:AddressOnParent>%d</rasd:AddressOnParent><rasd:ElementName>disk%d</rasd:ElementName>`+
			`<rasd:HostResource>ovf:/disk/disk%d</rasd:HostResource><rasd:InstanceID>%d</rasd:InstanceID>`+
			`<rasd:Parent>3</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>`, i, i, i, 10+i)
		members = append(members, path)
	}
	ovf := filepath.Join(dir, "machine.ovf")
	writeFile(t, ovf, fmt.Appendf(nil, ovfText, files, descs, items))
	packTar(t, to, append([]string{ovf}, members...)...)
}

// ovfText is an envelope with room for files, disks and disk items.
const ovfText = `<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
 xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData">
<References>%s</References>
<DiskSection><Info>Disks</Info>%s</DiskSection>
<VirtualSystem ovf:id="machine"><Info>A machine</Info><Name>machine</Name>
<OperatingSystemSection ovf:id="101"><Info>Linux</Info></OperatingSystemSection>
<VirtualHardwareSection><Info>Hardware</Info>
<System><vssd:ElementName>Hardware</vssd:ElementName><vssd:InstanceID>0</vssd:InstanceID><vssd:VirtualSystemIdentifier>machine</vssd:VirtualSystemIdentifier><vssd:VirtualSystemType>vmx-10</vssd:VirtualSystemType></System>
<Item><rasd:ElementName>1 CPU</rasd:ElementName><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>1</rasd:VirtualQuantity></Item>
<Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:ElementName>512 MB</rasd:ElementName><rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>512</rasd:VirtualQuantity></Item>
<Item><rasd:Address>0</rasd:Address><rasd:ElementName>SCSI</rasd:ElementName><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceSubType>lsilogic</rasd:ResourceSubType><rasd:ResourceType>6</rasd:ResourceType></Item>
%s</VirtualHardwareSection></VirtualSystem></Envelope>
`

// packTar writes files as a tar, in order, without their folders.
func packTar(t testing.TB, to string, files ...string) {
	t.Helper()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	w := tar.NewWriter(out)
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		h := &tar.Header{Name: filepath.Base(file), Mode: 0o644, Size: int64(len(b)), Format: tar.FormatUSTAR}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// A member is a file inside a tar.
type member struct {
	name      string
	off, size int64
}

// tarMembers lists a tar. The reader takes whole blocks and no more, so where
// the file stands after a header is where the content begins.
func tarMembers(t testing.TB, file string) []member {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []member
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatalf("read tar %s: %v", file, err)
		}
		off, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, member{h.Name, off, h.Size})
	}
}

// same fails the test unless qemu-img finds the same disk in a raw file and in
// an image of the given format.
func same(t testing.TB, disk, image, format string) {
	t.Helper()
	need(t, "qemu-img")
	if format == "ova" {
		var disks []member
		for _, m := range tarMembers(t, image) {
			if filepath.Ext(m.name) == ".vmdk" {
				disks = append(disks, m)
			}
		}
		if len(disks) == 0 {
			t.Errorf("%s holds no VMDK", image)
			return
		}
		inner := fmt.Sprintf(`json:{"driver":"vmdk","file":{"driver":"raw","offset":%d,"size":%d,"file":{"driver":"file","filename":%q}}}`,
			disks[0].off, disks[0].size, image)
		compare(t, "-f", "raw", disk, inner)
		return
	}
	compare(t, "-f", "raw", "-F", format, disk, image)
	if format != "raw" {
		if r := try(t, "qemu-img", "check", "-f", format, image); r.code != 0 {
			t.Errorf("qemu-img check %s: exit status %d\n%s", image, r.code, r.out)
		}
	}
}

func compare(t testing.TB, args ...string) {
	t.Helper()
	if r := try(t, "qemu-img", append([]string{"compare"}, args...)...); r.code != 0 {
		t.Errorf("qemu-img compare %q: exit status %d\n%s", args, r.code, r.out)
	}
}
