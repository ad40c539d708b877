package ova

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

// bare replaces a text of the smallest descriptor.
func bareWith(old, new string) tarFile {
	if !strings.Contains(ovfBare, old) {
		panic("no " + old)
	}
	return file0("bare.ovf", strings.Replace(ovfBare, old, new, 1))
}

// Each refusal has its own kind and says what is wrong.
func TestOpenRefuses(t *testing.T) {
	good := tarFile{name: "bare.vmdk", content: stream(t, small(1))}
	bare := file0("bare.ovf", ovfBare)
	raw := tarFile{name: "bare.vmdk", content: all(t, small(1))}
	archive := packTar(t, tar.FormatUSTAR, bare, good)
	patched := func(off int, with string) []byte {
		p := bytes.Clone(archive)
		copy(p[off:], with)
		copy(p[sumOff:], fmt.Sprintf("%06o\x00 ", checksum(p[:tarBlock])))
		return p
	}
	ustar := func(files ...tarFile) []byte { return packTar(t, tar.FormatUSTAR, files...) }
	hardware := func(items string) tarFile {
		return bareWith("</VirtualSystem>", "<VirtualHardwareSection>"+items+"</VirtualHardwareSection></VirtualSystem>")
	}
	emptyDisk := func(attrs string) []byte {
		return ustar(bareWith(`ovf:fileRef="file1" ovf:capacity="1048576"`, attrs))
	}
	var crowd []tarFile
	for i := range maxMembers {
		crowd = append(crowd, tarFile{name: fmt.Sprint(i)})
	}
	huge := bytes.Clone(archive)
	copy(huge[124:], "\x80\x00\x00\x00") // base-256
	binary.BigEndian.PutUint64(huge[128:], 1<<63-600)
	copy(huge[sumOff:], fmt.Sprintf("%06o\x00 ", checksum(huge[:tarBlock])))

	for name, tc := range map[string]struct {
		ova  []byte
		kind disk.Kind
		want string // in the error
	}{
		// The archive.
		"empty":                 {nil, disk.Malformed, "cut off"},
		"not a tar":             {bytes.Repeat([]byte("x"), 4096), disk.Malformed, "header"},
		"checksum":              {append([]byte("B"), archive[1:]...), disk.Malformed, "header"},
		"cut in a header":       {archive[:700], disk.Malformed, "bare.ovf"},
		"cut in a member":       {archive[:len(archive)-1024-512-700], disk.Malformed, "bare.vmdk"},
		"cut in the padding":    {packTar(t, tar.FormatUSTAR, good, bare)[:len(good.content)+512+512+len(ovfBare)+1], disk.Malformed, "cut off"},
		"no end of archive":     {archive[:len(archive)-1024], disk.Malformed, "cut off"},
		"size beyond 2^62":      {huge, disk.Malformed, "runs past the end"},
		"negative size":         {patched(124, strings.Repeat("\xff", 12)), disk.Malformed, "header"},
		"no descriptor":         {ustar(good), disk.Unsupported, "no .ovf"},
		"two of one name":       {ustar(bare, good, good), disk.Malformed, "two members"},
		"too many members":      {ustar(append(crowd, bare, good)...), disk.Malformed, "members"},
		"continued volume":      {patched(156, "M"), disk.Unsupported, "volume"},
		"global sparse":         {packTar(t, tar.FormatPAX, tarFile{header: tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"GNU.sparse.name": "x"}}}, bare), disk.Malformed, "global"},
		"global size":           {packTar(t, tar.FormatPAX, tarFile{header: tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"size": "512"}}}, bare), disk.Malformed, "global"},
		"descriptor of 5 MiB":   {ustar(file0("bare.ovf", ovfBare+strings.Repeat(" ", 5<<20)), good), disk.Malformed, "more than"},
		"disk is a symlink":     {ustar(bare, tarFile{name: "bare.vmdk", header: tar.Header{Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}}), disk.Malformed, "regular"},
		"disk is a hard link":   {ustar(bare, tarFile{name: "bare.vmdk", header: tar.Header{Typeflag: tar.TypeLink, Linkname: "bare.ovf"}}), disk.Malformed, "regular"},
		"descriptor is symlink": {ustar(tarFile{name: "bare.ovf", header: tar.Header{Typeflag: tar.TypeSymlink, Linkname: "/x.ovf"}}, good), disk.Unsupported, "no .ovf"},

		// The descriptor.
		"no XML":                {ustar(file0("bare.ovf", "<Envelope"), good), disk.Malformed, "parse ovf"},
		"no envelope":           {ustar(file0("bare.ovf", "<a/>"), good), disk.Malformed, "Envelope"},
		"another envelope":      {ustar(file0("bare.ovf", `<Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"/>`), good), disk.Malformed, "soap"},
		"DTD":                   {ustar(file0("bare.ovf", `<!DOCTYPE Envelope [<!ENTITY a SYSTEM "file:///etc/passwd">]>`+ovfBare), good), disk.Malformed, "type declaration"},
		"entity":                {ustar(bareWith("<Name>bare", "<Name>&a;"), good), disk.Malformed, "entity"},
		"deep":                  {ustar(bareWith("<Info/>", strings.Repeat("<a>", 100)+strings.Repeat("</a>", 100)), good), disk.Malformed, "levels"},
		"wide":                  {ustar(bareWith("<Info/>", strings.Repeat("<a/>", maxElements)), good), disk.Malformed, "elements"},
		"EBCDIC":                {ustar(file0("bare.ovf", `<?xml version="1.0" encoding="ibm-037"?>`+ovfBare), good), disk.Malformed, "encoding"},
		"UTF-16 cut":            {ustar(file0("bare.ovf", utf16Text(binary.BigEndian, ovfBare[:100])), good), disk.Malformed, "parse ovf"},
		"two machines":          {ustar(bareWith("</Envelope>", "<VirtualSystem/></Envelope>"), good), disk.Unsupported, "2 machines"},
		"no disks":              {ustar(bareWith(`<Disk ovf:diskId="vmdisk1" ovf:fileRef="file1" ovf:capacity="1048576"/>`, "")), disk.Unsupported, "no disk"},
		"absolute path":         {ustar(bareWith("bare.vmdk", "/etc/passwd"), good), disk.Malformed, "plain name"},
		"parent path":           {ustar(bareWith("bare.vmdk", "../bare.vmdk"), good), disk.Malformed, "plain name"},
		"escaped path":          {ustar(bareWith("bare.vmdk", "..%2fbare.vmdk"), good), disk.Malformed, "plain name"},
		"windows path":          {ustar(bareWith("bare.vmdk", `C:\bare.vmdk`), good), disk.Malformed, "plain name"},
		"folder":                {ustar(bareWith("bare.vmdk", "d/bare.vmdk"), good), disk.Malformed, "plain name"},
		"dots":                  {ustar(bareWith("bare.vmdk", ".."), good), disk.Malformed, "plain name"},
		"URL":                   {ustar(bareWith("bare.vmdk", "https://example.org/bare.vmdk"), good), disk.Malformed, "plain name"},
		"no href":               {ustar(bareWith("bare.vmdk", ""), good), disk.Malformed, "plain name"},
		"missing file":          {ustar(bare), disk.Malformed, `lacks the file "bare.vmdk"`},
		"unknown file id":       {ustar(bareWith(`fileRef="file1"`, `fileRef="file2"`), good), disk.Malformed, `"file2"`},
		"gzip":                  {ustar(bareWith(`ovf:id="file1"`, `ovf:id="file1" ovf:compression="gzip"`), good), disk.Unsupported, "gzip"},
		"delta disk":            {ustar(bareWith(`fileRef="file1"`, `fileRef="file1" ovf:parentRef="base"`), good), disk.Unsupported, "differs from"},
		"raw disk":              {ustar(bare, raw), disk.Unsupported, "neither a VMDK"},
		"empty file":            {ustar(bare, tarFile{name: "bare.vmdk"}), disk.Unsupported, "neither a VMDK"},
		"cut disk":              {ustar(bare, tarFile{name: "bare.vmdk", content: good.content[:len(good.content)-1536]}), disk.Malformed, "bare.vmdk"},
		"two files, one id":     {ustar(bareWith("</References>", `<File ovf:id="file1" ovf:href="x"/></References>`), good), disk.Malformed, "two files"},
		"two disks, one id":     {ustar(bareWith("</DiskSection>", `<Disk ovf:diskId="vmdisk1"/></DiskSection>`), good), disk.Malformed, "two disks"},
		"many disks":            {ustar(bareWith("</DiskSection>", manyDisks()+`</DiskSection>`), good), disk.Malformed, "more than"},
		"capacity of 2^63":      {emptyDisk(`ovf:capacity="9223372036854775808"`), disk.Malformed, "size of"},
		"capacity overflows":    {emptyDisk(`ovf:capacity="99999999999" ovf:capacityAllocationUnits="byte * 2^40"`), disk.Malformed, "size of"},
		"capacity of words":     {emptyDisk(`ovf:capacity="much"`), disk.Malformed, `"much"`},
		"capacity of -1":        {emptyDisk(`ovf:capacity="-1"`), disk.Malformed, `"-1"`},
		"unit of hertz":         {emptyDisk(`ovf:capacity="1" ovf:capacityAllocationUnits="hertz"`), disk.Malformed, `"hertz"`},
		"empty disk of 0":       {emptyDisk(`ovf:capacity="0"`), disk.Unsupported, "neither a file"},
		"empty disk of ${}":     {emptyDisk(`ovf:capacity="${x}"`), disk.Unsupported, "neither a file"},
		"unknown disk":          {ustar(hardware(`<Item><ResourceType>17</ResourceType><HostResource>ovf:/disk/nope</HostResource></Item>`), good), disk.Malformed, `"nope"`},
		"disk of a host":        {ustar(hardware(`<Item><ResourceType>17</ResourceType><HostResource>/dev/sda</HostResource></Item>`), good), disk.Unsupported, "/dev/sda"},
		"a chunk is missing":    {ustar(bare, chunk(0, good.content[:100]), chunk(2, good.content[200:])), disk.Malformed, "missing"},
		"chunks unannounced":    {ustar(bare, chunk(0, good.content[:100]), chunk(1, good.content[100:])), disk.Malformed, "chunks of 0"},
		"the last chunk lacks":  {ustar(chunked(100000, len(good.content)), chunk(0, good.content[:100000])), disk.Malformed, "together"},
		"chunk of another size": {ustar(chunked(100000, len(good.content)), chunk(0, good.content[:99999]), chunk(1, good.content[99999:])), disk.Malformed, "begins at"},

		// The manifest.
		"manifest of words":     {ustar(bare, good, file0("bare.mf", "all is well\n")), disk.Malformed, "line 1"},
		"manifest cut":          {ustar(bare, good, file0("bare.mf", "SHA1(bare.ovf)= 0123")), disk.Malformed, "line 1"},
		"manifest without name": {ustar(bare, good, file0("bare.mf", "SHA1()= "+strings.Repeat("0", 40))), disk.Malformed, "line 1"},
		"manifest by MD5":       {ustar(bare, good, file0("bare.mf", "MD5(bare.ovf)= "+strings.Repeat("0", 32))), disk.Unsupported, "MD5"},
		"manifest too long":     {ustar(bare, good, file0("bare.mf", strings.Repeat("\n", maxManifest+1))), disk.Malformed, "more than"},
		"manifest names more":   {ustar(bare, good, manifestOf("bare.mf", "SHA1(%s)= %x\n", bare, file0("gone.iso", ""))), disk.Malformed, `lacks "gone.iso"`},
		"manifest contradicts":  {ustar(bare, good, manifestOf("bare.mf", "SHA1(%s)= %x\n", bare, file0("bare.ovf", ""))), disk.Malformed, "differ"},
		"descriptor changed":    {ustar(bare, good, manifestOf("bare.mf", "SHA256(%s)= %x\n", file0("bare.ovf", ovfBare+" "))), disk.Malformed, "the manifest says SHA256"},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := Open(disk.Bytes(tc.ova))
			if err == nil {
				m.Close()
				t.Fatal("opened")
			}
			if disk.KindOf(err) != tc.kind || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("kind %v: %v; want kind %v and %q", disk.KindOf(err), err, tc.kind, tc.want)
			}
		})
	}
}

// Members with holes, as GNU tar stores them in each of its ways, are refused
// rather than read as if they had none, but only where they are needed.
func TestOpenSparse(t *testing.T) {
	good, bare := stream(t, small(1)), strings.Replace(ovfBare, "bare.vmdk", "a%20disk", 1)
	manifest := manifestOf("", "SHA1(%s)= %x\n", file0("extra.iso", "")).content
	for _, args := range [][]string{{"--format=gnu"}, {"--format=pax", "--sparse-version=0.0"}, {"--format=pax", "--sparse-version=0.1"}, {"--format=pax", "--sparse-version=1.0"}} {
		for name, tc := range map[string]struct {
			sparse string // the member with a hole
			order  []string
			cut    bool // before the end of the archive
			kind   disk.Kind
			want   string // in the error; empty opens
		}{
			"the disk":       {"a disk", []string{"bare.ovf", "a disk"}, false, disk.Unsupported, "sparse"},
			"the descriptor": {"bare.ovf", []string{"bare.ovf", "a disk"}, false, disk.Unsupported, "sparse"},
			"the manifest":   {"bare.mf", []string{"bare.ovf", "a disk", "bare.mf"}, false, disk.Unsupported, "sparse"},
			"in a manifest":  {"extra.iso", []string{"bare.ovf", "a disk", "extra.iso", "bare.mf"}, false, disk.Unsupported, "sparse"},
			"not needed":     {"extra.iso", []string{"extra.iso", "bare.ovf", "a disk"}, false, disk.Other, ""},
			"and last":       {"extra.iso", []string{"bare.ovf", "a disk", "extra.iso"}, false, disk.Other, ""},
			"last and cut":   {"extra.iso", []string{"bare.ovf", "a disk", "extra.iso"}, true, disk.Malformed, "cut off"},
		} {
			dir := t.TempDir()
			for name, content := range map[string][]byte{"bare.ovf": []byte(bare), "a disk": good, "extra.iso": []byte("iso"), "bare.mf": manifest} {
				write(t, filepath.Join(dir, name), content)
			}
			if err := os.Truncate(filepath.Join(dir, tc.sparse), 4<<20); err != nil {
				t.Fatal(err)
			}
			ova := filepath.Join(dir, "x.ova")
			run(t, "tar", append(append(args, "-C", dir, "--sparse", "--blocking-factor=1", "-cf", ova), tc.order...)...)
			p, err := os.ReadFile(ova)
			if err != nil {
				t.Fatal(err)
			}
			if tc.cut {
				p = p[:len(p)-2*tarBlock]
			}
			m, err := Open(disk.Bytes(p))
			switch {
			case tc.want == "" && err == nil:
				same(t, m.Disks[0].Image, small(1))
				m.Close()
			case tc.want == "" || disk.KindOf(err) != tc.kind || !strings.Contains(err.Error(), tc.want):
				t.Errorf("%v: %s: %v", args, name, err)
			}
		}
	}
}

// The advice is for who has a package, not a disk.
func TestHints(t *testing.T) {
	bare := file0("bare.ovf", ovfBare)
	overlay := qemu(t, small(1), "-O", "qcow2")
	binary.BigEndian.PutUint64(overlay[8:], 0x300) // of the name of a backing file
	binary.BigEndian.PutUint32(overlay[16:], 4)
	copy(overlay[0x300:], "base")
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	if _, err := w.Write(packTar(t, tar.FormatUSTAR, bare)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		ova  []byte
		kind disk.Kind
		want string
	}{
		"gzip":    {gz.Bytes(), disk.Unsupported, "gunzip it first"},
		"backing": {packTar(t, tar.FormatUSTAR, bare, tarFile{name: "bare.vmdk", content: overlay}), disk.Malformed, "export the machine with its disks flattened"},
	} {
		_, err := Open(disk.Bytes(tc.ova))
		if err == nil || disk.KindOf(err) != tc.kind || !strings.Contains(disk.AsError(err).Hint, tc.want) {
			t.Errorf("%s: kind %v, hint %q: %v", name, disk.KindOf(err), disk.AsError(err).Hint, err)
		}
	}
}

func pax(f tarFile, key, value string) tarFile {
	f.header.PAXRecords = map[string]string{key: value}
	return f
}

func manyDisks() string {
	var b strings.Builder
	for i := range maxDisks {
		fmt.Fprintf(&b, `<Disk ovf:diskId="d%d"/>`, i)
	}
	return b.String()
}

func chunk(i int, content []byte) tarFile {
	return tarFile{name: fmt.Sprintf("bare.vmdk.%09d", i), content: content}
}

func chunked(chunkSize, size int) tarFile {
	return bareWith(`ovf:id="file1"`, fmt.Sprintf(`ovf:id="file1" ovf:chunkSize="%d" ovf:size="%d"`, chunkSize, size))
}

// What opens but has other bytes than the manifest says is found by Verify, also
// in an extent that only the disk knows of.
func TestVerify(t *testing.T) {
	bare, good := file0("bare.ovf", ovfBare), tarFile{name: "bare.vmdk", content: stream(t, small(1))}
	bad := tarFile{name: good.name, content: bytes.Clone(good.content)}
	bad.content[len(bad.content)/2] ^= 1
	for _, line := range []string{"SHA1(%s)= %x\n", "SHA256(%s)= %x\n", "SHA2-512(%s) = %x"} {
		m, err := Open(disk.Bytes(packTar(t, tar.FormatUSTAR, manifestOf("bare.mf", line, good), bare, bad)))
		if err != nil {
			t.Fatal(err)
		}
		if err := disk.Verify(t.Context(), m.Disks[0]); disk.KindOf(err) != disk.Malformed || !strings.Contains(err.Error(), "bare.vmdk") {
			t.Errorf("verify of a changed disk: %v", err)
		}
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		if err := m.Verify(cancelled); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	}
	flat := tarFile{name: "flat", content: all(t, small(1))}
	text := file0("bare.vmdk", "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 2048 FLAT \"flat\" 0\n")
	flatBad := file0("flat", strings.Repeat("x", len(flat.content)))
	for want, extent := range map[disk.Kind]tarFile{disk.Malformed: flatBad, disk.Other: flat} {
		m, err := Open(disk.Bytes(packTar(t, tar.FormatUSTAR, bare, text, extent, manifestOf("bare.mf", "SHA1(%s)= %x\n", text, flat))))
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Verify(t.Context()); disk.KindOf(err) != want || (err == nil) != (want == disk.Other) {
			t.Errorf("verify of an extent: %v", err)
		}
	}
	f := disktest.Faulty(disk.Bytes(packTar(t, tar.FormatUSTAR, manifestOf("bare.mf", "SHA1(%s)= %x\n", good), bare, good)), disktest.Faults{})
	m, err := Open(f)
	if err != nil {
		t.Fatal(err)
	}
	if f.Bytes() > 64<<10 {
		t.Errorf("open read %d bytes", f.Bytes())
	}
	for range 2 {
		if err := m.Verify(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if n := f.Bytes(); n > int64(len(good.content))+64<<10 {
		t.Errorf("two verifications read %d bytes of %d", n, len(good.content))
	}
}

// A source that fails says why, whichever read fails; it is never taken for a
// damaged archive.
func TestOpenPassesErrors(t *testing.T) {
	ova := packTar(t, tar.FormatPAX, file0("bare.ovf", ovfBare), tarFile{name: "bare.vmdk", content: stream(t, small(1))}, file0("bare.mf", ""))
	count := disktest.Faulty(disk.Bytes(ova), disktest.Faults{})
	if _, err := Open(count); err != nil {
		t.Fatal(err)
	}
	for n := range count.Reads() {
		f := disktest.Faulty(disk.Bytes(ova), disktest.Faults{Nth: n + 1, Err: disk.Errorf(disk.Stale, "changed")})
		if _, err := Open(f); disk.KindOf(err) != disk.Stale {
			t.Errorf("read %d fails: %v", n+1, err)
		}
	}
}

func TestUnits(t *testing.T) {
	for unit, want := range map[string]int64{
		"": 1, "byte": 1, "bytes": 1, "byte * 2^10": 1 << 10, "byte*2^20": 1 << 20, "Byte * 2 ^ 30": 1 << 30, "byte * 10^9": 1e9, "byte * 1024": 1024,
		"KiloBytes": 1 << 10, "MegaBytes": 1 << 20, "MB": 1 << 20, "GigaBytes": 1 << 30, "TB": 1 << 40, "byte * 2^0": 1, "byte * 1^99999999": 1,
		"byte * 2^99": 0, "byte * 2^-1": 0, "byte * 0": 0, "byte * -2^2": 0, "hertz * 10^6": 0, "byte * x^2": 0, "byte * 2^": 0, "byte *": 0,
	} {
		if got := unitSize(unit); got != want {
			t.Errorf("%q is %d bytes, want %d", unit, got, want)
		}
	}
}

func TestProbe(t *testing.T) {
	v7 := tarHeader("web.ovf", 5)
	clear(v7[257:])
	copy(v7[sumOff:], fmt.Sprintf("%06o\x00 ", checksum(v7)))
	other := tarHeader("notes.txt", 5)
	clear(other[257:])
	copy(other[sumOff:], fmt.Sprintf("%06o\x00 ", checksum(other)))
	bad := tarHeader("web.ovf", 5)
	bad[0]++
	for name, tc := range map[string]struct {
		head []byte
		want bool
	}{
		"ours": {tarHeader("machine.ovf", 5), true}, "big": {tarHeader("disk1.vmdk", 9<<30), true}, "V7": {v7, true},
		"V7 of something": {other, false}, "short": {tarHeader("machine.ovf", 5)[:511], false}, "empty": {nil, false},
		"zeros": {make([]byte, 2048), false}, "checksum": {bad, false},
	} {
		if got := Probe(tc.head); got != tc.want {
			t.Errorf("%s: Probe is %v", name, got)
		}
	}
	for text, want := range map[string]bool{
		ovfVMware: true, ovfVirtualBox: true, ovf09: true, ovfOVirt: true, ovf20: true, ovfBare: true, utf8BOM + "\n" + ovfBare: true,
		utf16Text(binary.LittleEndian, "\ufeff"+ovfBare): true, utf16Text(binary.BigEndian, "\ufeff"+ovfBare): true,
		utf16Text(binary.LittleEndian, ovfBare): true, utf16Text(binary.BigEndian, ovfBare): true, utf16Text(binary.BigEndian, "<a/>"): false,
		"": false, "<a/>": false, `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/">`: false, "about <Envelope xmlns:ovf=": false,
	} {
		if got := ProbeOVF([]byte(text)[:min(len(text), 2048)]); got != want {
			t.Errorf("ProbeOVF of %.60q is %v", text, got)
		}
	}
}
