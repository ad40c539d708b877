package ova

import (
	"archive/tar"
	"encoding/binary"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

// FuzzOpenOVA opens any bytes as an OVA, and reads what opens.
func FuzzOpenOVA(f *testing.F) {
	disk1 := stream(f, pattern{size: 70 << 10, to: 512})
	files := []tarFile{file0("bare.ovf", ovfBare), {name: "bare.vmdk", content: disk1}}
	files = append(files, manifestOf("bare.mf", "SHA256(%s)= %x\n", files...))
	for _, format := range []tar.Format{tar.FormatUSTAR, tar.FormatPAX, tar.FormatGNU} {
		f.Add(packTar(f, format, files...))
	}
	f.Add(packTar(f, tar.FormatUSTAR, file0("x.ovf", ovf20), tarFile{name: "two.vmdk.000000000", content: disk1}))
	// Most of what is worth changing is in archives without a disk's bytes.
	empty := bareWith(`ovf:fileRef="file1"`, "")
	for _, format := range []tar.Format{tar.FormatUSTAR, tar.FormatPAX, tar.FormatGNU} {
		f.Add(packTar(f, format, empty, manifestOf("bare.mf", "SHA1(%s)= %x\n", empty)))
	}
	f.Add(packTar(f, tar.FormatUSTAR, tarFile{name: "x.ovf", content: []byte(ovfBare)}, file0("bare.vmdk", "KDMV")))
	f.Add(packTar(f, tar.FormatPAX, pax(file0("vm.ovf", ovfOVirt), "comment", "é")))
	f.Fuzz(func(t *testing.T, ova []byte) {
		disktest.Within(t)
		Probe(ova)
		m, err := Open(disk.Bytes(ova))
		if err != nil {
			return
		}
		defer m.Close()
		p := make([]byte, 4096)
		for _, d := range m.Disks {
			for _, off := range []int64{0, d.Size() / 2, d.Size() - 1} {
				d.ReadAt(p, off)
				d.Extent(off, 1<<20)
			}
		}
		m.Verify(t.Context())
	})
}

// FuzzParseOVF parses any text as a descriptor, and asks for all it may say.
func FuzzParseOVF(f *testing.F) {
	for _, text := range []string{ovfVMware, ovfVirtualBox, ovf09, ovfOVirt, ovf20, ovfBare} {
		f.Add([]byte(text))
	}
	f.Add([]byte(utf16Text(binary.LittleEndian, "\ufeff"+ovfBare)))
	f.Fuzz(func(t *testing.T, text []byte) {
		disktest.Within(t)
		ProbeOVF(text)
		e, err := parseEnvelope(text)
		if err != nil {
			if k := disk.KindOf(err); k != disk.Malformed && k != disk.Unsupported {
				t.Fatalf("kind %v: %v", k, err)
			}
			return
		}
		e.meta()
		disks, err := e.attached()
		if err == nil && len(disks) > len(e.disks) {
			t.Fatalf("%d disks attached of %d", len(disks), len(e.disks))
		}
		for _, d := range disks {
			if d.capacity > maxCapacity {
				t.Fatalf("capacity %d", d.capacity)
			}
		}
	})
}

// FuzzManifest parses any text as a manifest.
func FuzzManifest(f *testing.F) {
	f.Add([]byte("SHA256(disk1.vmdk)= 6d1a0f6b1a6b1a6b1a6b1a6b1a6b1a6b1a6b1a6b1a6b1a6b1a6b1a6b1a6b1a6b\r\n"))
	f.Add([]byte("SHA1 (a(b)c) = da39a3ee5e6b4b0d3255bfef95601890afd80709\n\nSHA2-512(x)="))
	f.Fuzz(func(t *testing.T, text []byte) {
		disktest.Within(t)
		m, err := parseManifest(text)
		if err != nil {
			return
		}
		for name, digests := range m {
			for _, d := range digests {
				if h := newHash(d.algorithm); name == "" || h == nil || h.Size() != len(d.sum) {
					t.Fatalf("%q: %v", name, d)
				}
			}
		}
	})
}
