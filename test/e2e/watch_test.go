package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A watch looks, again and again while a program copies, at what others can see
// of the image to be. What is seen under its name must be whole each time.
type watch struct {
	s        *server
	site     site
	name     string          // of the image
	dst      string          // the path that is written
	sums     map[string]bool // of the files seen in the provider's folder
	views    map[string]bool // and of the views listed, by file name and digest
	tooEarly string          // a complaint
	spool    int64           // the most space that the spool took, in bytes
	quit     chan struct{}
	wg       sync.WaitGroup
}

// watching starts a watch over an image that does not exist yet.
func watching(s *server, to site, dst string) *watch {
	name := strings.TrimSuffix(filepath.Base(dst), filepath.Ext(dst))
	w := &watch{s: s, site: to, name: name, dst: dst, sums: map[string]bool{}, views: map[string]bool{}, quit: make(chan struct{})}
	w.wg.Go(func() {
		for {
			w.look()
			select {
			case <-w.quit:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	return w
}

// look is one look at everything.
func (w *watch) look() {
	// First the mount, then the folder: what the mount lists must be in the
	// folder by then.
	if _, err := os.Stat(w.dst); err == nil {
		w.note(w.views, w.dst, filepath.Base(w.dst)+" ")
	}
	listed, _ := readNames(w.s.images(w.site.name))
	files, _ := readNames(w.site.images)
	var there bool
	for _, n := range files {
		if w.named(n) {
			there = true
			w.note(w.sums, filepath.Join(w.site.images, n), "")
		}
	}
	for _, n := range listed {
		if !w.named(n) || strings.HasSuffix(n, ".json") {
			continue
		}
		if !there {
			w.tooEarly = n + " is listed and the folder does not have it"
		}
		w.note(w.views, w.s.images(w.site.name, n), n+" ")
	}
	w.spool = max(w.spool, diskUsage(filepath.Join(w.s.state, "spool")))
}

// named tells whether a file name is one of the image.
func (w *watch) named(file string) bool {
	return strings.TrimSuffix(file, filepath.Ext(file)) == w.name
}

// note remembers the content of a file. One look at each content is enough,
// but a file is read each time.
func (w *watch) note(seen map[string]bool, path, prefix string) {
	sum, _, err := readThrough(path)
	if errno(err) == syscall.ESTALE {
		return // a program sets the time of what it has copied: that is another version
	}
	if err != nil {
		sum = err.Error()
	}
	seen[prefix+sum] = true
}

// done ends the watch and checks what was seen against what is there now.
func (w *watch) done(t testing.TB, file string) {
	t.Helper()
	close(w.quit)
	w.wg.Wait()
	if w.tooEarly != "" {
		t.Error(w.tooEarly)
	}
	if final := digest(t, file); len(w.sums) > 1 || len(w.sums) == 1 && !w.sums[final] {
		t.Errorf("%s was seen incomplete: %v, is %s", file, w.sums, final)
	}
	count := map[string]int{}
	for key := range w.views {
		name, _, _ := strings.Cut(key, " ")
		if count[name]++; count[name] > 1 {
			t.Errorf("%s was listed with several contents: %v", name, w.views)
		}
	}
}

// nothing ends the watch of an image that must not have appeared at all.
func (w *watch) nothing(t testing.TB) {
	t.Helper()
	close(w.quit)
	w.wg.Wait()
	w.look()
	if len(w.sums)+len(w.views) > 0 {
		t.Errorf("%s was visible: %v %v", w.name, w.sums, w.views)
	}
	for _, format := range formats() {
		if _, err := os.Stat(w.s.images(w.site.name, w.name+"."+format)); err == nil {
			t.Errorf("%s.%s resolves", w.name, format)
		}
	}
}

// diskUsage is the space that the files below a folder take, in bytes.
func diskUsage(root string) (sum int64) {
	filepath.Walk(root, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			sum += blocks(info)
		}
		return nil
	})
	return sum
}
