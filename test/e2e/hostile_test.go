package e2e

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// canary is what no view may ever show: the content of a file of the host.
const canary = "canary-7e57-of-the-host"

// secret writes a file that an image may not reach: a whole number of sectors
// and long enough to pass for a disk.
func secret(t testing.TB, path string) string {
	t.Helper()
	writeFile(t, path, bytes.Repeat([]byte(canary+"\n"), 512*64))
	return path
}

// TestHostFiles serves images that name files of the host.
func TestHostFiles(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img")
	a := newSite(t, "a")
	// Beside the folder, so that "../secret.raw" reaches it.
	host := secret(t, filepath.Join(filepath.Dir(a.images), "secret.raw"))
	in := func(name string) string { return filepath.Join(a.images, name) }
	for name, target := range map[string]string{"absolute": host, "parent": "../secret.raw", "passwd": "/etc/passwd", "proc": "/proc/self/environ", "json": `json:{"driver":"file","filename":"` + host + `"}`} {
		run(t, "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", target, in("backing-"+name+".qcow2"), "1M")
		run(t, "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-o", "compat=0.10", "-F", "raw", "-b", target, in("backing-v2-"+name+".qcow2"), "1M")
		for _, kind := range []string{"FLAT", "SPARSE", "VMFS", "VMFSSPARSE", "VMFSRDM", "VMFSRAW"} {
			writeFile(t, in("extent-"+kind+"-"+name+".vmdk"), descriptor(fmt.Sprintf("RW 2048 %s \"%s\" 0", kind, target), ""))
		}
		writeFile(t, in("parent-"+name+".vmdk"), descriptor(`RW 2048 ZERO`, fmt.Sprintf("parentFileNameHint=%q\n", target)))
		writeFile(t, in("href-"+name+".ovf"), fmt.Appendf(nil, ovfText, fmt.Sprintf(`<File ovf:href=%q ovf:id="file0"/>`, strings.ReplaceAll(target, `"`, "'")),
			`<Disk ovf:capacity="1048576" ovf:diskId="disk0" ovf:fileRef="file0" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>`, ""))
		linkOVA(t, in("link-"+name+".ova"), tar.TypeSymlink, target)
		linkOVA(t, in("hardlink-"+name+".ova"), tar.TypeLink, target)
		if err := os.Symlink(target, in("symlink-"+name+".raw")); err != nil {
			t.Fatal(err)
		}
	}
	data := filepath.Join(t.TempDir(), "data.raw")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file="+data+",data_file_raw=on", in("datafile.qcow2"), "1M")
	secret(t, data)
	innocent := random(t, in("innocent.raw"), mib, 91)

	s := mount(t, config{sites: []site{a}})
	if listed := names(t, s.images("a")); slices.ContainsFunc(listed, func(n string) bool { return !strings.HasPrefix(n, "innocent.") }) {
		t.Errorf("hostile images are listed: %q", listed)
	}
	for _, file := range names(t, a.images) {
		name := strings.TrimSuffix(file, filepath.Ext(file))
		for _, format := range append(formats(), "json", "ovf") {
			b, err := readAll(s.images("a", name+"."+format))
			if bytes.Contains(b, []byte(canary)) || bytes.Contains(b, []byte("root:x:")) {
				t.Errorf("%s.%s shows a file of the host", name, format)
			}
			refused := []syscall.Errno{syscall.EBADMSG, syscall.ENOTSUP, syscall.ENOENT, syscall.EACCES, syscall.EPERM}
			if strings.HasPrefix(name, "backing") || strings.HasPrefix(name, "extent") || name == "datafile" {
				refused = refused[:2]
			}
			if slices.Contains(formats(), format) && file != "innocent.raw" && !slices.Contains(refused, errno(err)) {
				t.Errorf("%s.%s: %d bytes, %v (errno %d); want one of %v", name, format, len(b), err, errno(err), refused)
			}
		}
	}
	same(t, innocent, s.images("a", "innocent.qcow2"), "qcow2")
}

// descriptor is the text of a VMDK of one extent.
func descriptor(extent, more string) []byte {
	parent := "ffffffff"
	if more != "" {
		parent = "12345678"
	}
	return fmt.Appendf(nil, "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=%s\ncreateType=\"monolithicFlat\"\n%s\n# Extent description\n%s\n\n"+
		"# The Disk Data Base\n#DDB\nddb.virtualHWVersion = \"4\"\nddb.geometry.cylinders = \"2\"\nddb.geometry.heads = \"16\"\nddb.geometry.sectors = \"63\"\nddb.adapterType = \"ide\"\n",
		parent, more, extent)
}

// linkOVA packs an appliance whose disk is a link to another file.
func linkOVA(t testing.TB, to string, kind byte, target string) {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	ovf := fmt.Appendf(nil, ovfText, `<File ovf:href="disk.vmdk" ovf:id="file0"/>`,
		`<Disk ovf:capacity="1048576" ovf:diskId="disk0" ovf:fileRef="file0" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>`, "")
	for _, h := range []*tar.Header{
		{Name: "machine.ovf", Mode: 0o644, Size: int64(len(ovf))},
		{Name: "disk.vmdk", Mode: 0o644, Typeflag: kind, Linkname: target},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			w.Write(ovf)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	writeFile(t, to, b.Bytes())
}

// TestSymlinkSwap replaces an image by a link to a file of the host, and back,
// while it is read.
func TestSymlinkSwap(t *testing.T) {
	t.Parallel()
	a := newSite(t, "a")
	host := secret(t, filepath.Join(t.TempDir(), "secret.raw"))
	image := filepath.Join(a.images, "x.raw")
	b := bytes.Repeat([]byte("an honest image\n"), len(canary)*2048)
	writeFile(t, image, b)
	s := mount(t, config{sites: []site{a}})
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-quit:
				return
			case <-time.After(time.Duration(i%29) * 10 * time.Millisecond):
			}
			next := image + ".next" // of no extension that is served
			os.Remove(next)
			if i%2 == 0 {
				os.Symlink(host, next)
			} else {
				os.WriteFile(next, b, 0o644)
			}
			os.Rename(next, image)
		}
	})
	var read int
	refused := map[string]int{}
	// On a busy machine the swap may win for a while.
	for began := time.Now(); time.Since(began) < 3*time.Second || (read == 0 || len(refused) == 0) && time.Since(began) < time.Minute; {
		s.refresh(t)
		for _, format := range formats() {
			got, err := readAll(s.images("a", "x."+format))
			if bytes.Contains(got, []byte(canary)) {
				t.Fatalf("x.%s shows a file of the host", format)
			}
			if err == nil {
				read++
			} else {
				refused[err.Error()]++
			}
		}
	}
	close(quit)
	wg.Wait()
	if read == 0 || len(refused) == 0 {
		t.Errorf("%d reads succeeded and these were refused: %v; the swap was not tested", read, refused)
	}
}

// TestNamesThatClimb writes images under names that would leave the folder if
// they were taken for paths.
func TestNamesThatClimb(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img")
	b := newSite(t, "b")
	root := filepath.Dir(b.images)
	secret(t, filepath.Join(root, "secret.raw"))
	disk := random(t, filepath.Join(t.TempDir(), "d"), mib, 92)
	writeFile(t, filepath.Join(b.images, `..%2Fsecret.raw`), bytes.Repeat([]byte("its own "), 64*1024))
	s := mount(t, config{sites: []site{b}})
	outside := tree(t, root, b.images)
	for i, name := range []string{"..%2Fclimb", "%2E%2E%2Fclimb", "..%2F..%2Fclimb", "%2Fetc%2Fclimb", "...", "%2E.", "..", `..\climb`, "a%00b", "a%2F..%2F..%2Fclimb", "%2Esecret"} {
		random(t, disk, mib, uint64(200+i))
		dst := s.images("b", name+".raw")
		if r := try(t, "cp", disk, dst); r.code == 0 {
			if got := digest(t, dst); got != digest(t, disk) {
				t.Errorf("%s reads otherwise than it was written", dst)
			}
		}
	}
	if now := tree(t, root, b.images); !slices.Equal(outside, now) {
		t.Errorf("outside of the folder was %q and is %q", outside, now)
	}
	for _, n := range append(names(t, s.images("b")), "..%2Fsecret.raw", "%2E%2E%2Fsecret.raw", "../../../secret.raw") {
		if got, _ := readAll(s.images("b") + "/" + n); bytes.Contains(got, []byte(canary)) {
			t.Errorf("%s shows a file of the host", n)
		}
	}
}

// tree lists all files below a folder but for one folder's.
func tree(t testing.TB, root, except string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if path == except {
			return fs.SkipDir
		}
		all = append(all, path)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return all
}
