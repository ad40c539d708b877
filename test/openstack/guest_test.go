package openstack

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// marker is what a guest leaves on its disk.
const marker = "chromogenic guest was here"

// guestDisk is a disk of 1 MiB whose boot sector copies block 8 to block 9, and itself
// to block 8. So block 8 tells that a guest has run from the disk, and block 9 that one
// has run from a disk on which another had run before. Then it says so on the console.
func guestDisk() []byte {
	const sector = 0x7c00
	packet := func(buffer, block byte) []byte { // one block, from or to 0:buffer
		return []byte{16, 0, 1, 0, 0, buffer, 0, 0, block, 0, 0, 0, 0, 0, 0, 0}
	}
	call := func(at int, function byte) []byte { // mov si, at; mov ax, function; int 13h
		at += sector
		return []byte{0xbe, byte(at), byte(at >> 8), 0xb8, 0, function, 0xcd, 0x13}
	}
	const read, write = 0x42, 0x43
	disk := make([]byte, 1<<20)
	// cli; ax, ds, es and ss are 0; sp is 7c00h; sti
	code := []byte{0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0xbc, 0x00, 0x7c, 0xfb}
	code = append(code, call(0x40, read)...)
	code = append(code, call(0x50, write)...)
	code = append(code, call(0x60, write)...)
	const say, text = 0xa0, 0xc0
	copy(disk, append(code, 0xe9, byte(say-len(code)-3), 0x00)) // jmp say
	copy(disk[say:], []byte{
		0xbe, text, 0x7c, // mov si, text
		0xba, 0xf8, 0x03, // mov dx, 3f8h: the first serial port
		0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8, // lodsb; test al, al; jz +3; out dx, al; jmp -8
		0xf4, 0xeb, 0xfd, // hlt, for ever
	})
	copy(disk[text:], "guest login: \r\n\x00")
	copy(disk[0x40:], packet(0x7e, 8))
	copy(disk[0x50:], packet(0x7e, 9))
	copy(disk[0x60:], packet(0x7c, 8))
	copy(disk[0x80:], marker)
	copy(disk[510:], []byte{0x55, 0xaa})
	return disk
}

// server starts a machine from an image.
func (a *api) server(t testing.TB, name, image string) (id string) {
	t.Helper()
	var answer struct{ Server struct{ ID string } }
	a.call(t, http.MethodPost, a.nova+"/servers", map[string]any{"server": map[string]any{
		"name": name, "imageRef": image, "flavorRef": "42", "networks": "none",
	}}, &answer)
	a.wait(t, answer.Server.ID, "ACTIVE")
	return answer.Server.ID
}

// boot starts a guest from an image, and waits until the marker is in a block of its
// disk.
func (a *api) boot(t testing.TB, name, image string, block int) string {
	t.Helper()
	id := a.server(t, name, image)
	disk := filepath.Join(cloud.dir, "instances", id, "disk")
	for end := time.Now().Add(time.Minute); ; time.Sleep(500 * time.Millisecond) {
		out, _ := tryCommand("qemu-io", "-U", "-r", "-f", "qcow2", "-c", fmt.Sprintf("read -v %d 512", block*512), disk)
		if strings.Contains(out, "chromogenic.gues") { // a line of the dump
			return id
		}
		if time.Now().After(end) {
			t.Fatalf("the guest has written nothing: %s", out)
		}
	}
}

// wait waits for a status of a server.
func (a *api) wait(t testing.TB, id, status string) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(300 * time.Millisecond) {
		var answer struct {
			Server struct {
				Status string
				Task   string `json:"OS-EXT-STS:task_state"`
				Fault  struct{ Message, Details string }
			}
		}
		a.call(t, http.MethodGet, a.nova+"/servers/"+id, nil, &answer)
		if s := answer.Server; s.Status == status && s.Task == "" {
			return
		} else if s.Status == "ERROR" || time.Now().After(end) {
			t.Fatalf("server %s is %+v, not %s", id, s, status)
		}
	}
}

// block is a block of 512 bytes of a raw file.
func block(t testing.TB, path string, n int64) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := make([]byte, 512)
	if _, err := f.ReadAt(p, n*512); err != nil {
		t.Fatal(err)
	}
	return p
}

func wantMarker(t testing.TB, path string, n int64, want bool) {
	t.Helper()
	if got := bytes.Contains(block(t, path, n), []byte(marker)); got != want {
		t.Errorf("%s: the marker is in block %d: %v", path, n, got)
	}
}

// TestGuest: a guest is captured, its disk taken to another project, and booted there.
func TestGuest(t *testing.T) {
	in, a, b := twoSites(t, "")
	web := a.boot(t, "web", a.put(t, "seed", "raw", bytes.NewReader(guestDisk()), nil), 8)
	dir := in.mount(t)
	list := sh(t, "ls", "-l", filepath.Join(dir, "a", "instances"))
	if !strings.Contains(list, "1073741824") || !strings.Contains(list, "web.raw") {
		t.Errorf("the instances are %s", list)
	}
	if out, err := tryCommand("head", "-c", "512", filepath.Join(dir, "a", "instances", "web.raw")); err == nil {
		t.Errorf("a plain read of a live machine gives %d bytes", len(out))
	}
	began := time.Now()
	sh(t, "cp", filepath.Join(dir, "a", "instances", "web.raw"), filepath.Join(dir, "b", "images.verbatim"))
	t.Logf("captured and copied in %v", time.Since(began))
	golden := filepath.Join(t.TempDir(), "golden.raw")
	sh(t, "cp", filepath.Join(dir, "b", "images", "web.raw"), golden)
	wantMarker(t, golden, 8, true)
	wantMarker(t, golden, 9, false)
	for end := time.Now().Add(15 * time.Second); len(a.images(t)) > 1; time.Sleep(time.Second) { // its source stays open for a moment
		if time.Now().After(end) {
			t.Fatalf("project a has %v", a.images(t))
		}
	}
	images := b.images(t)
	if len(images) != 1 || images[0].text("name") != "web" || images[0].text("visibility") != "private" || images[0].text("image_type") != "" {
		t.Fatalf("project b has %v", images)
	}

	b.boot(t, "again", images[0].text("id"), 9)
	place := strings.Fields(in.run(t, "capture", "b:instances/again"))[0]
	copied := filepath.Join(t.TempDir(), "again.raw")
	in.run(t, "cp", place+".raw", copied)
	wantMarker(t, copied, 8, true)
	wantMarker(t, copied, 9, true)
	if list := sh(t, "ls", filepath.Join(dir, "b", "instances")); strings.Count(list, "again@") == 0 {
		t.Errorf("the capture is not listed: %s", list)
	}
	in.run(t, "capture", "b:instances/again", "--image", "second")
	if list := sh(t, "ls", filepath.Join(dir, "b", "images")); !strings.Contains(list, "second.raw") {
		t.Errorf("the image of a capture is not listed: %s", list)
	}
	for range 2 {
		in.run(t, "capture", "b:instances/again", "--keep", "2")
	}
	if n := strings.Count(in.run(t, "ls", "b:instances"), "again@"); n != 2 {
		t.Errorf("%d captures are kept, not 2", n)
	}
	if left := b.debris(t); len(left) != 2 { // the captures
		t.Errorf("left behind: %q", left)
	}

	// A machine that is off is captured too, and known to be.
	a.call(t, http.MethodPost, a.nova+"/servers/"+web+"/action", map[string]any{"os-stop": nil}, nil)
	a.wait(t, web, "SHUTOFF")
	out := in.run(t, "capture", "a:instances/web", "--json")
	if !strings.Contains(out, `"stopped"`) {
		t.Errorf("the capture of a stopped server is %s", out)
	}
	fmt.Println("guests:", time.Since(began).Round(time.Second))
}
