package pipeline

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
)

// A farCloud is a provider that lists one image and may be slow, or away.
type farCloud struct {
	place string
	name  string        // of the image
	slow  chan struct{} // an answer waits for it; nil is at once
	away  bool
	why   error // it fails with, in place of that
	asked int
}

func (c *farCloud) Name() string     { return "far" }
func (c *farCloud) Location() string { return c.place }

func (c *farCloud) List(_ context.Context, kind providers.Kind) ([]providers.Entry, error) {
	c.asked++
	if c.slow != nil {
		<-c.slow
	}
	if c.why != nil {
		return nil, c.why
	}
	if c.away {
		return nil, disk.Errorf(disk.Unreachable, "ask: nobody answers")
	}
	return []providers.Entry{{Kind: kind, ID: "1", Version: "1", Name: c.name, Size: 512, VirtualSize: 512}}, nil
}

func (c *farCloud) Open(context.Context, providers.Entry, int) (providers.Source, error) {
	return providers.Source{}, disk.Errorf(disk.Unreachable, "open: nobody answers")
}

func farPipeline(t *testing.T, c *farCloud, dir string, serving bool) *Pipeline {
	t.Helper()
	p, err := New(Options{Sites: []Site{{Provider: c}}, StateDir: dir, Serving: serving})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// wantListed lists the images and compares the name of the one, and whether it is old.
func wantListed(t *testing.T, p *Pipeline, name string, stale bool) {
	t.Helper()
	all, err := p.List(t.Context(), "far", providers.Images)
	if err != nil {
		t.Fatal(err)
	}
	if len(all.Entries) != 1 || all.Entries[0].Name != name || all.Stale != stale {
		t.Errorf("the listing is %+v, want %q, stale %v", all, name, stale)
	}
}

// TestListingOfASlowCloud: the last listing is served while the next is on its way, but
// not after a change that must show.
func TestListingOfASlowCloud(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &farCloud{name: "a"}
		p := farPipeline(t, c, "", true)
		defer p.Close()
		wantListed(t, p, "a", false)
		wantListed(t, p, "a", false)
		if c.asked != 1 {
			t.Errorf("asked %d times", c.asked)
		}
		time.Sleep(freshCloud)
		c.slow = make(chan struct{})
		began := time.Now()
		wantListed(t, p, "a", true)
		wantListed(t, p, "a", true)
		if took := time.Since(began); took != listPatience {
			t.Errorf("the old listings came after %v", took)
		}
		synctest.Wait()
		if c.asked != 2 {
			t.Errorf("asked %d times", c.asked)
		}
		c.name = "b"
		close(c.slow)
		synctest.Wait()
		wantListed(t, p, "b", false)

		c.slow, c.name = make(chan struct{}), "c"
		p.Forget("far") // there is something new
		go func() {
			time.Sleep(10 * listPatience)
			close(c.slow)
		}()
		wantListed(t, p, "c", false)
	})
}

// TestListingIsAskedForAgain: who wants to see a change is not served with an answer to
// a question from before it.
func TestListingIsAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &farCloud{name: "a", slow: make(chan struct{})}
		p := farPipeline(t, c, "", true)
		defer p.Close()
		go p.List(t.Context(), "far", providers.Images)
		synctest.Wait()
		p.Forget("far")
		go func() {
			time.Sleep(time.Second)
			close(c.slow)
		}()
		wantListed(t, p, "a", false)
		if c.asked != 2 {
			t.Errorf("asked %d times", c.asked)
		}
	})
}

// TestListingOutlives: of a cloud that is away a mount shows what the one before has
// listed, but neither a command nor a mount of another cloud does.
func TestListingOutlives(t *testing.T) {
	dir := t.TempDir()
	p := farPipeline(t, &farCloud{place: "x", name: "a"}, dir, true)
	wantListed(t, p, "a", false)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		place   string
		serving bool
		kept    bool
	}{
		{"x", true, true},
		{"x", false, false},
		{"y", true, false},
		{"", true, false},
	} {
		p := farPipeline(t, &farCloud{place: tt.place, away: true}, dir, tt.serving)
		if tt.kept {
			wantListed(t, p, "a", true)
			if s := p.Listings()[0]; !s.Stale || s.Error == "" || s.Entries != 1 {
				t.Errorf("the state is %+v", s)
			}
		} else {
			_, err := p.List(t.Context(), "far", providers.Images)
			wantKind(t, err, disk.Unreachable)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// A cloud that is there is asked, whatever was listed a moment ago.
	p = farPipeline(t, &farCloud{place: "x", name: "b"}, dir, true)
	wantListed(t, p, "b", false)
}

// TestListingAfterAFailure: whatever a cloud fails with, its last listing is served, and
// it is asked again after a while; at once when something has changed or the owner says so.
func TestListingAfterAFailure(t *testing.T) {
	for _, kind := range []disk.Kind{disk.NotFound, disk.Invalid, disk.Unsupported, disk.Malformed, disk.Other, disk.Denied, disk.Timeout} {
		synctest.Test(t, func(t *testing.T) {
			c := &farCloud{name: "a"}
			p := farPipeline(t, c, "", true)
			defer p.Close()
			wantListed(t, p, "a", false)
			time.Sleep(freshCloud)
			c.why = disk.Errorf(kind, "list: no")
			wantListed(t, p, "a", true)
			wantListed(t, p, "a", true)
			if c.asked != 2 {
				t.Errorf("%v: asked %d times", kind, c.asked)
			}
			c.why, c.name = nil, "b"
			p.Forget("far")
			wantListed(t, p, "b", false)

			time.Sleep(freshCloud)
			c.away = true
			wantListed(t, p, "b", true)
			p.Refresh()
			wantListed(t, p, "b", true)
			if c.asked != 5 {
				t.Errorf("%v: asked %d times", kind, c.asked)
			}
			c.away, c.name = false, "c"
			wantListed(t, p, "b", true)
			time.Sleep(awayTime)
			wantListed(t, p, "c", false)
		})
	}
}

// TestListingThatChangedWhileItFailed: a change of our own during a question that fails
// has the next one asked.
func TestListingThatChangedWhileItFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &farCloud{name: "a"}
		p := farPipeline(t, c, "", true)
		defer p.Close()
		wantListed(t, p, "a", false)
		time.Sleep(freshCloud)
		c.slow, c.away = make(chan struct{}), true
		go p.List(t.Context(), "far", providers.Images)
		synctest.Wait()
		p.Forget("far")
		close(c.slow)
		synctest.Wait()
		c.slow, c.away, c.name = nil, false, "b"
		wantListed(t, p, "b", false)
	})
}

// TestListingOfNothing: a cloud without any listing is never said to have none.
func TestListingOfNothing(t *testing.T) {
	for kind, want := range map[disk.Kind]disk.Kind{disk.NotFound: disk.Unreachable, disk.Denied: disk.Denied, disk.Other: disk.Other} {
		p := farPipeline(t, &farCloud{why: disk.Hint(disk.Errorf(kind, "list: no"), "mend it")}, "", true)
		_, err := p.List(t.Context(), "far", providers.Images)
		wantKind(t, err, want)
		if hint := disk.AsError(err).Hint; hint != "mend it" {
			t.Errorf("%v: the hint is %q", kind, hint)
		}
	}
}
