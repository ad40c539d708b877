package ova

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"chromogenic/disk"
)

// meta is what the descriptor knows of the machine. A value that makes no sense
// is left out: none of them decides about a byte of the disks.
func (e *envelope) meta() disk.Meta {
	s := e.system
	hw := s.first("VirtualHardwareSection")
	m := disk.Meta{
		Name:        cmp.Or(s.first("Name").text, hw.first("System").first("VirtualSystemIdentifier").text, s.attr("id")),
		Description: s.first("AnnotationSection").first("Annotation").text,
	}
	for _, it := range e.items() {
		switch n, _ := strconv.ParseInt(it.quantity, 10, 32); {
		case it.kind == typeCPU && m.CPUs == 0 && n > 0:
			m.CPUs = int(n)
		case it.kind == typeMemory && m.MinRAM == 0:
			// Without units it is MiB, as every program takes it, not bytes.
			if size, err := quantity(it.quantity, cmp.Or(it.units, "MegaBytes")); err == nil {
				m.MinRAM = size >> 20
			}
		case it.kind == typeNIC && m.NIC == "":
			m.NIC = nicModel(it.subtype)
		}
	}
	m.Firmware, m.SecureBoot = firmware(s, hw)
	operatingSystem(&m, s.first("OperatingSystemSection"))
	return m
}

// nicModel is the model of a ResourceSubType, which may list several.
func nicModel(subtype string) string {
	model, _, _ := strings.Cut(strings.ToLower(subtype), " ")
	switch {
	case strings.HasPrefix(model, "e1000"):
		return "e1000"
	case strings.HasPrefix(model, "virtio"):
		return "virtio"
	}
	return model
}

// firmware reads VMware's extra configuration (vmw:Config key="firmware") and
// VirtualBox's own machine (vbox:Machine/Hardware/Firmware).
func firmware(system, hw *element) (kind string, secure bool) {
	for _, c := range hw.all("Config") {
		value := c.attrOf("vmware.com", "value")
		switch c.attrOf("vmware.com", "key") {
		case "firmware":
			kind = map[string]string{"efi": "uefi", "bios": "bios"}[value]
		case "bootOptions.efiSecureBootEnabled":
			secure = value == "true"
		}
	}
	vbox := system.first("Machine").first("Hardware").first("Firmware")
	for _, a := range vbox.attrs {
		if a.Name.Local != "type" || kind != "" {
			continue
		}
		if kind = "bios"; strings.HasPrefix(a.Value, "EFI") {
			kind = "uefi"
		}
	}
	return kind, secure && kind == "uefi"
}

// windowsIDs are the values of CIM_OperatingSystem.OsType that are a Windows of
// NT's line, as VirtualBox lists them in ovfreader.h.
func windowsIDs() []string {
	return strings.Fields("18 58 63 67 69 70 71 72 73 74 76 77 103 105 111 112 113 114 115 116 117 118 119 120 121 122")
}

// linuxIDs are those that are a Linux.
func linuxIDs() []string {
	return strings.Fields("36 79 80 82 83 84 85 86 87 88 89 90 91 92 93 94 95 96 97 98 99 100 101 106 107 108 109")
}

// operatingSystem fills what the OperatingSystemSection (DSP0243 9.10) says: by
// VMware's and VirtualBox's own names, which are more exact, or by the number.
func operatingSystem(m *disk.Meta, s *element) {
	own := strings.ToLower(cmp.Or(s.attrOf("vmware.com", "osType"), s.first("OSType").text))
	id := s.attr("id")
	switch {
	case strings.HasPrefix(own, "win"), own == "" && slices.Contains(windowsIDs(), id):
		m.OSType = "windows"
	case strings.Contains(own, "linux"), own == "" && slices.Contains(linuxIDs(), id):
		m.OSType = "linux"
	}
	for _, d := range []string{"debian", "ubuntu", "centos", "rhel", "fedora", "opensuse", "sles", "oracle", "photon", "rocky", "almalinux"} {
		if strings.Contains(own, d) || strings.HasPrefix(own, "redhat") && d == "rhel" {
			m.OSType, m.OSDistro = "linux", strings.Replace(d, "oracle", "ol", 1)
			break
		}
	}
	switch {
	case strings.Contains(own, "arm"):
		m.Arch = "aarch64"
	case strings.Contains(own, "64"):
		m.Arch = "x86_64"
	}
}
