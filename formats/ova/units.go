package ova

import (
	"math/bits"
	"strconv"
	"strings"

	"chromogenic/disk"
)

// maxCapacity bounds the capacity that a descriptor may state, in bytes: 64 TiB,
// the largest VMDK that VMware makes (62 TB) and more.
const maxCapacity = 64 << 40

// unitSize is the number of bytes of an allocation unit: DSP0004 C.1 writes
// "byte * 2^30", OVF 0.9 wrote "GigaBytes", and people write all in between. An
// empty unit is the byte. It is 0 for what is not a unit of bytes.
func unitSize(unit string) int64 {
	unit = strings.ToLower(strings.Join(strings.Fields(unit), ""))
	base, factor, ok := strings.Cut(unit, "*")
	switch base {
	case "", "b", "byte", "bytes":
	case "kilobytes", "kilobyte", "kb", "kib":
		return 1 << 10
	case "megabytes", "megabyte", "mb", "mib":
		return 1 << 20
	case "gigabytes", "gigabyte", "gb", "gib":
		return 1 << 30
	case "terabytes", "terabyte", "tb", "tib":
		return 1 << 40
	default:
		return 0
	}
	if !ok {
		return 1
	}
	root, power, ok := strings.Cut(factor, "^")
	n, err := strconv.ParseInt(root, 10, 32)
	if err != nil || n < 1 {
		return 0
	}
	if !ok {
		return n
	}
	exp, err := strconv.Atoi(power)
	if err != nil || exp < 0 {
		return 0
	}
	size := int64(1)
	for range exp {
		if size *= n; size > maxCapacity {
			return 0
		}
		if n == 1 {
			break
		}
	}
	return size
}

// quantity is a number of units, in bytes.
func quantity(number, unit string) (int64, error) {
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return 0, disk.Errorf(disk.Malformed, "parse ovf: %q is not a size", number)
	}
	size := unitSize(unit)
	if size == 0 {
		return 0, disk.Errorf(disk.Malformed, "parse ovf: %q is not a unit of bytes", unit)
	}
	hi, lo := bits.Mul64(n, uint64(size))
	if hi != 0 || lo > maxCapacity {
		return 0, disk.Errorf(disk.Malformed, "parse ovf: a size of %s × %d bytes", number, size)
	}
	return int64(lo), nil
}
