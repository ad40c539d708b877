package openstack

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// many images are in a project of some size: three pages of Glance, of which the last
// is empty or nearly so.
const many = 2000

// TestMany: a project of many images costs the pages of one listing, and later nothing.
func TestMany(t *testing.T) {
	newUser(t, "crowd", "member")
	a := login(t, "crowd")
	began := time.Now()
	a.crowd(t, many)
	t.Cleanup(func() { a.empty(t) })
	t.Logf("%d images were made in %v", many, time.Since(began).Round(time.Second))
	proxy := proxyOf(t, cloud.glance)
	in := install(t, cloudsFile(t, "crowd", proxy.URL, ""), "  crowd: {type: openstack, cloud: crowd}\n")
	dir := in.mount(t)
	images := filepath.Join(dir, "crowd", "images")
	step := func(name string, do func()) (requests []string) {
		t.Helper()
		proxy.Clear()
		began := time.Now()
		do()
		took := time.Since(began).Round(time.Millisecond)
		requests = proxy.Log()
		t.Logf("%s: %v, %d requests", name, took, len(requests))
		return requests
	}
	var listed string
	first := step("ls", func() { listed = sh(t, "ls", images) })
	if n := strings.Count(listed, ".raw\n"); n != many {
		t.Errorf("%d images are listed", n)
	}
	pages := 0
	for _, line := range first {
		if strings.HasSuffix(line, "/images") {
			pages++
		}
	}
	if want := many/1000 + 1; pages > want || pages < len(first) {
		t.Errorf("the first ls has made %d requests for %d pages: %.20q", len(first), want, first)
	}
	for name, do := range map[string]func(){
		"second ls":  func() { sh(t, "ls", images) },
		"ls -l":      func() { sh(t, "ls", "-l", images) },
		"ls -l anew": func() { sh(t, "ls", "-l", images) },
		"find":       func() { sh(t, "find", images, "-name", "*.vmdk", "-newermt", "2020-01-01") },
	} {
		if made := step(name, do); len(made) > 0 { // raw: their sizes are in the listing
			t.Errorf("%s makes %d requests: %.20q", name, len(made), made)
		}
	}

	// The one that is not raw is looked into once, and never again.
	dir2 := testDisk(t)
	qcow := filepath.Join(t.TempDir(), "one.qcow2")
	sh(t, "qemu-img", "convert", "-O", "qcow2", dir2, qcow)
	f, err := os.Open(qcow)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	id := a.put(t, "one", "qcow2", f, nil)
	in.run(t, "refresh")
	looks := func(lines []string) (n int) {
		for _, line := range lines {
			if strings.Contains(line, id) {
				n++
			}
		}
		return n
	}
	made := step("ls -l with a qcow2", func() { sh(t, "ls", "-l", images) })
	if looks(made) == 0 || looks(made) != len(made) {
		t.Errorf("of a qcow2 among %d others: %.20q", many, made)
	}
	long := sh(t, "ls", "-l", "--time-style=full-iso", images)
	if made := step("ls -l", func() { sh(t, "ls", "-l", images) }); len(made) > 0 {
		t.Errorf("ls -l anew: %.20q", made)
	}
	sh(t, "umount", dir)
	in.run(t, "mount", "--daemon", dir)
	again := step("ls -l after a remount", func() {
		if diff := cmp.Diff(long, sh(t, "ls", "-l", "--time-style=full-iso", images)); diff != "" {
			t.Errorf("ls -l after a remount: %s", diff)
		}
	})
	if looks(again) > 0 {
		t.Errorf("after a remount: %.20q", again)
	}

	// A cloud that goes away takes nothing from a backup.
	backup := t.TempDir()
	sh(t, "rsync", "-a", "--include=*-000?.raw", "--include=one.*", "--exclude=*", images+"/", backup)
	kept := sh(t, "ls", backup)
	if strings.Count(kept, "\n") < 12 {
		t.Errorf("the backup has %s", kept)
	}
	proxy.Close()
	in.try("refresh")
	out, err := tryCommand("rsync", "-a", "--delete", "--include=*-000?.raw", "--include=one.*", "--exclude=*", images+"/", backup)
	t.Logf("rsync of a cloud that is away: %v %s", err, out)
	if now := sh(t, "ls", backup); now != kept {
		t.Errorf("the backup had %s and has %s", kept, now)
	}
	if now := sh(t, "ls", images); strings.Count(now, ".raw\n") != many+1 {
		t.Errorf("%d images of a cloud that is away", strings.Count(now, ".raw\n"))
	}
}

// atOnce calls do for 0 to n-1, sixteen at a time.
func atOnce(n int, do func(i int)) {
	var next atomic.Int64
	var wait sync.WaitGroup
	for range 16 {
		wait.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				do(i)
			}
		})
	}
	wait.Wait()
}

// crowd makes n small raw images.
func (a *api) crowd(t testing.TB, n int) {
	atOnce(n, func(i int) {
		a.put(t, fmt.Sprintf("image-%04d", i), "raw", strings.NewReader(fmt.Sprintf("%-512d", i)), nil)
	})
}

// empty removes all images of the project.
func (a *api) empty(t testing.TB) {
	all := a.images(t)
	atOnce(len(all), func(i int) { a.call(t, http.MethodDelete, "/images/"+all[i].text("id"), nil, nil) })
}
