package pipeline

import "chromogenic/providers"

// Formats whose files may lead to others.
const (
	formatVMDK = "vmdk"
	formatOVF  = "ovf"
)

// maxDescriptor is, in bytes, the largest file that leads to others. The readers
// take descriptors of 1 MiB in a vmdk, and of 4 MiB in an ovf.
const maxDescriptor = 4 << 20

// assemble tells a provider how to find the files that an image lies in.
func assemble(p providers.Provider) {
	if a, ok := p.(providers.Assembler); ok {
		a.SetReader(map[string]int64{formatVMDK: maxDescriptor, formatOVF: maxDescriptor}, readParts)
	}
}

// readParts opens an image for what it asks Resolve for, and tells whether it could
// be opened.
func readParts(src providers.Source) (whole bool, err error) {
	s, err := decode(src, trust{})
	if err == nil {
		return true, s.machine.Close()
	}
	if lasting(err) {
		return false, nil
	}
	return false, err
}
