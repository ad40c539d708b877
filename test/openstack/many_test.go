package openstack

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// many images are in a project of some size: more than a page of Glance.
func many() int {
	if full() {
		return 2000
	}
	return 1100
}

// TestMany: a project of many images costs the pages of one listing, and later nothing.
func TestMany(t *testing.T) {
	t.Parallel()
	many := many()
	newUser(t, "crowd", "member")
	a := login(t, "crowd")
	began := time.Now()
	crowd(t, a.put(t, "image-0000", "raw", strings.NewReader(strings.Repeat("x", 512)), nil), many)
	t.Cleanup(func() { crowd(t, "", 0) })
	t.Logf("%d images were made in %v", many, time.Since(began).Round(time.Millisecond))
	proxy := proxyOf(t, cloud.glance)
	in := install(t, cloudsFile(t, "crowd", proxy.URL, ""), "  crowd: {type: openstack, cloud: crowd}\n")
	dir := in.mount(t)
	images := filepath.Join(dir, "crowd", "images")
	settle(t, proxy) // a mount looks for what a crash has left when it starts
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
	t.Cleanup(func() { a.remove(t, id) })
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
	sh(t, "rsync", "-a", "--include=image-0001.raw", "--include=one.raw", "--exclude=*", images+"/", backup)
	kept := sh(t, "ls", backup)
	if strings.Count(kept, "\n") != 2 {
		t.Errorf("the backup has %s", kept)
	}
	proxy.Close()
	in.try("refresh")
	out, err := tryCommand("rsync", "-a", "--delete", "--include=image-0001.raw", "--include=one.raw", "--exclude=*", images+"/", backup)
	t.Logf("rsync of a cloud that is away: %v %s", err, out)
	if now := sh(t, "ls", backup); now != kept {
		t.Errorf("the backup had %s and has %s", kept, now)
	}
	if now := sh(t, "ls", images); strings.Count(now, ".raw\n") != many+1 {
		t.Errorf("%d images of a cloud that is away", strings.Count(now, ".raw\n"))
	}
}

// settle waits until nothing asks the service any longer.
func settle(t testing.TB, p *Proxy) {
	for last, end := int64(-1), time.Now().Add(30*time.Second); ; time.Sleep(time.Second) {
		now := p.Requests.Load()
		if now == last && now > 0 || time.Now().After(end) {
			return
		}
		last = now
	}
}

// crowd makes copies of the record of a raw image in Glance's database, until there are
// n images, all of the same bytes: by its API 2,000 take three minutes. Without an image
// the records of the copies go.
func crowd(t testing.TB, image string, n int) {
	t.Helper()
	sh(t, "/usr/bin/python3", "-c", `
import sqlite3, sys, uuid
db, image, n = sqlite3.connect(sys.argv[1], timeout=30), sys.argv[2], int(sys.argv[3])
tables = (('images', 'id'), ('image_locations', 'image_id'))
def columns(table): return [c[1] for c in db.execute('PRAGMA table_info(%s)' % table)]
if image:
    for i in range(1, n):
        new = 'c0ffee00' + str(uuid.uuid4())[8:]
        for table, key in tables:
            names = [c for c in columns(table) if c != 'id' or table == 'images']
            row = dict(zip(names, db.execute('SELECT %s FROM %s WHERE %s = ?' % (','.join(names), table, key), (image,)).fetchone()))
            row[key] = new
            if table == 'images':
                row['name'] = 'image-%04d' % i
            db.execute('INSERT INTO %s (%s) VALUES (%s)' % (table, ','.join(names), ','.join('?' * len(names))), [row[c] for c in names])
else:
    for table, key in reversed(tables):
        db.execute("DELETE FROM %s WHERE %s LIKE 'c0ffee00-%%'" % (table, key))
db.commit()`, filepath.Join(cloud.dir, "db", "glance.sqlite"), image, fmt.Sprint(n))
}
