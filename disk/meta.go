package disk

// Meta is what is known of a machine besides its bytes: the canonical schema
// that travels between clouds, into an OVF and into <name>.json. Empty fields
// are unknown. What has no field here is a property (providers.Metadata).
type Meta struct {
	Name        string   `json:"name,omitempty"`
	Description string   `json:"description,omitempty"`
	Arch        string   `json:"arch,omitempty"`        // "x86_64", "aarch64"
	Firmware    string   `json:"firmware,omitempty"`    // "bios" or "uefi"
	SecureBoot  bool     `json:"secure_boot,omitempty"` //
	DiskBus     string   `json:"disk_bus,omitempty"`    // "scsi", "ide", "sata", "virtio"
	NIC         string   `json:"nic,omitempty"`         // "e1000", "virtio", "vmxnet3"
	OSType      string   `json:"os_type,omitempty"`     // "linux" or "windows"
	OSDistro    string   `json:"os_distro,omitempty"`
	OSVersion   string   `json:"os_version,omitempty"`
	MinDisk     int64    `json:"min_disk,omitempty"` // GiB
	MinRAM      int64    `json:"min_ram,omitempty"`  // MiB
	CPUs        int      `json:"cpus,omitempty"`
	Tags        []string `json:"tags,omitempty"`
	Kernel      string   `json:"kernel,omitempty"`
	Ramdisk     string   `json:"ramdisk,omitempty"`
	Visibility  string   `json:"visibility,omitempty"`
	Members     []string `json:"members,omitempty"`
}
