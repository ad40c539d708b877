package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// partsMakers make the image web of a disk, in a folder: a descriptor, which is
// named first, and a file beside it that holds the bytes as they are.
func partsMakers() map[string]func(t testing.TB, disk, folder string) (descriptor, extent string) {
	vmdk := func(subformat, extent string) func(testing.TB, string, string) (string, string) {
		return func(t testing.TB, disk, folder string) (string, string) {
			qemuConvert("-O", "vmdk", "-o", "subformat="+subformat)(t, disk, filepath.Join(folder, "web.vmdk"))
			return "web.vmdk", extent
		}
	}
	return map[string]func(t testing.TB, disk, folder string) (string, string){
		"monolithicFlat":       vmdk("monolithicFlat", "web-flat.vmdk"),
		"twoGbMaxExtentFlat":   vmdk("twoGbMaxExtentFlat", "web-f001.vmdk"),
		"twoGbMaxExtentSparse": vmdk("twoGbMaxExtentSparse", "web-s001.vmdk"),
		"ovf": func(t testing.TB, disk, folder string) (string, string) {
			qemuConvert("-O", "vmdk", "-o", "subformat=monolithicSparse")(t, disk, filepath.Join(folder, "web.disk1"))
			file := `<File ovf:href="web.disk1" ovf:id="file"/>`
			desc := fmt.Sprintf(`<Disk ovf:capacity="%d" ovf:capacityAllocationUnits="byte" ovf:diskId="disk" ovf:fileRef="file" `+
				`ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html"/>`, stat(t, disk).Size)
			item := `<Item><rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:ElementName>disk</rasd:ElementName>` +
				`<rasd:HostResource>ovf:/disk/disk</rasd:HostResource><rasd:InstanceID>10</rasd:InstanceID>` +
				`<rasd:Parent>3</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>`
			writeFile(t, filepath.Join(folder, "web.ovf"), fmt.Appendf(nil, ovfText, file, desc, item))
			return "web.ovf", "web.disk1"
		},
	}
}

// partsMount mounts a folder with one image of several files, all written an hour
// ago.
func partsMount(t testing.TB, maker func(t testing.TB, disk, folder string) (string, string)) (s *server, descriptor, extent string) {
	t.Helper()
	a := newSite(t, "a")
	disk := filepath.Join(t.TempDir(), "disk")
	sparse(t, disk, 16*mib)
	script(t, `printf 'what was written first' | dd of="$1" bs=1M seek=1 conv=notrunc status=none`, disk)
	descriptor, extent = maker(t, disk, a.images)
	long := time.Now().Add(-time.Hour)
	for _, name := range names(t, a.images) {
		if err := os.Chtimes(filepath.Join(a.images, name), long, long); err != nil {
			t.Fatal(err)
		}
	}
	return mount(t, config{sites: []site{a}}), filepath.Join(a.images, descriptor), filepath.Join(a.images, extent)
}

// overwrite writes text over the place in a file that holds the other.
func overwrite(t testing.TB, file, old, text string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, []byte(old))
	if at < 0 {
		t.Fatalf("%s does not hold %q", file, old)
	}
	if _, err := f.WriteAt([]byte(text), int64(at)); err != nil {
		t.Fatal(err)
	}
}

// A face is what a program sees of a file.
type face struct {
	ino   uint64
	mtime syscall.Timespec
	sum   string
}

// faces are those of the views of an image.
func faces(t testing.TB, s *server) map[string]face {
	t.Helper()
	all := map[string]face{}
	for _, format := range formats() {
		path := s.images("a", "web."+format)
		st := stat(t, path)
		all[format] = face{st.Ino, st.Mtim, digest(t, path)}
	}
	return all
}

// TestPartsChange changes the extent of an image, and nothing else: to every
// program each view of the image is another file then.
func TestPartsChange(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img", "rsync")
	for name, maker := range partsMakers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, descriptor, extent := partsMount(t, maker)
			to := t.TempDir()
			rsync := func(when string, want int) {
				t.Helper()
				if n := rsyncCount(t, "-a", "-S", "--delete", s.images("a")+"/", to+"/"); n != want {
					t.Errorf("rsync %s transferred %d files, want %d", when, n, want)
				}
			}
			written := *stat(t, descriptor)
			before := faces(t, s)
			rsync("at first", len(formats())+1)
			rsync("of an unchanged image", 0)
			open, err := os.Open(s.images("a", "web.qcow2"))
			if err != nil {
				t.Fatal(err)
			}
			defer open.Close()

			overwrite(t, extent, "what was written first", "WHAT")
			time.Sleep(1500 * time.Millisecond) // what the kernel knows of a name holds for a second
			after := faces(t, s)
			for _, format := range formats() {
				a, b := before[format], after[format]
				if a.ino == b.ino || a.mtime == b.mtime || a.sum == b.sum {
					t.Errorf("%s is %+v, it was %+v", format, b, a)
				}
				if want := stat(t, extent).Mtim; b.mtime != want {
					t.Errorf("%s: time %v, want that of the extent, %v", format, b.mtime, want)
				}
			}
			if now := *stat(t, descriptor); now.Mtim != written.Mtim || now.Ino != written.Ino {
				t.Errorf("the descriptor has changed too: %+v, it was %+v", now, written)
			}
			if got := script(t, `dd if="$1" bs=1M skip=1 count=1 status=none | head -c 8`, s.images("a", "web.raw")); got != "WHAT was" {
				t.Errorf("the disk holds %q where it was written", got)
			}
			if _, err := open.ReadAt(make([]byte, 8*mib), 0); errno(err) != syscall.ESTALE {
				t.Errorf("what was open reads with %v", err)
			}
			open.Close()
			rsync("after the change", len(formats())+1)
			for _, format := range formats() {
				if digest(t, filepath.Join(to, "web."+format)) != after[format].sum {
					t.Errorf("%s: the copy differs", format)
				}
			}
			rsync("after that", 0)

			s = s.again(t, filepath.Join(t.TempDir(), "elsewhere"), filepath.Join(t.TempDir(), "fresh"))
			rsync("after a remount with a fresh state", 0)
			for format, now := range faces(t, s) {
				if now != after[format] {
					t.Errorf("%s is %+v after a remount, it was %+v", format, now, after[format])
				}
			}
		})
	}
}
