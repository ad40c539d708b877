package providertest

import (
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
)

// instances is the listing of the instances: the live one, and its captures.
func (f Fixture) instances(t *testing.T) (live providers.Entry, captures []providers.Entry) {
	t.Helper()
	entries, err := f.Provider.List(t.Context(), providers.Instances)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Live() {
			live = e
		} else {
			captures = append(captures, e)
		}
	}
	if len(entries) != len(captures)+1 {
		t.Fatalf("instances are %+v, of which one is live", entries)
	}
	return live, captures
}

func keepCaptures(t *testing.T, f Fixture) {
	keeper := role[providers.Keeper](t, f)
	need(t, f.Instance != nil && f.Change != nil, "change instances")
	f.Instance(t, "web", pattern())
	web, _ := f.instances(t)
	keep := func(spec providers.SnapSpec) providers.Entry {
		t.Helper()
		spec.Job = "20261121T030000Z-0a1b2c"
		live, _ := f.instances(t)
		e, err := keeper.Keep(t.Context(), live, spec)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	first := keep(providers.SnapSpec{})
	second := keep(providers.SnapSpec{})
	f.Change(t, web)
	third := keep(providers.SnapSpec{})
	_, listed := f.instances(t)
	if len(listed) != 3 {
		t.Fatalf("captures are %+v, want three", listed)
	}
	for i, e := range []providers.Entry{first, second, third} {
		c := e.Capture
		if c == nil || e.Kind != providers.Instances || e.Name != "web" || e.Reason != "" {
			t.Fatalf("capture %d is %+v", i, e)
		}
		if c.Of != web.ID || c.Consistency == "" || !c.Ours || time.Since(c.Taken).Abs() > time.Hour || !c.Taken.Equal(c.Taken.UTC().Truncate(time.Second)) {
			t.Errorf("capture %d is %+v", i, c)
		}
		if i > 0 && !c.Taken.After([]providers.Entry{first, second}[i-1].Capture.Taken) {
			t.Errorf("capture %d is of %v, no later than the one before", i, c.Taken)
		}
	}
	for range 2 {
		f.holds(t, first, pattern())
		f.holds(t, second, pattern())
	}
	refusals(t, f, keeper, first)

	if err := keeper.DeleteCapture(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "delete a capture again", keeper.DeleteCapture(t.Context(), second), disk.NotFound)
	if live, left := f.instances(t); len(left) != 2 || live.ID != web.ID {
		t.Errorf("left are %+v and %+v", live, left)
	}
	f.holds(t, first, pattern())
	f.clean(t, 0)
}

// refusals are what cannot be done with captures and instances.
func refusals(t *testing.T, f Fixture, keeper providers.Keeper, capture providers.Entry) {
	t.Helper()
	_, err := keeper.Keep(t.Context(), capture, providers.SnapSpec{})
	wantKind(t, "capture a capture", err, disk.Unsupported)
	live, _ := f.instances(t)
	wantKind(t, "delete a live instance", keeper.DeleteCapture(t.Context(), live), disk.Unsupported)
	lie := live
	lie.Capture = capture.Capture
	wantKind(t, "delete a live instance that is said to be a capture", keeper.DeleteCapture(t.Context(), lie), disk.Unsupported)
	if del, ok := f.Provider.(providers.Deleter); ok {
		wantKind(t, "delete a capture as an image", del.Delete(t.Context(), capture), disk.Unsupported)
	}
	if snapper, ok := f.Provider.(providers.Snapshotter); ok {
		_, err := snapper.Snapshot(t.Context(), capture, providers.SnapSpec{})
		wantKind(t, "snapshot a capture", err, disk.Unsupported)
	}
	for _, spec := range []providers.SnapSpec{{RequireStopped: true}, {RequireFrozen: true}} {
		_, before := f.instances(t)
		e, err := keeper.Keep(t.Context(), live, spec)
		if err != nil {
			wantKind(t, "a capture that must be better", err, disk.Unsupported)
			if _, after := f.instances(t); len(after) != len(before) {
				t.Errorf("a capture that was refused is there: %+v", after)
			}
			continue
		}
		if e.Capture.Consistency == providers.Crash {
			t.Errorf("for %+v the capture is %q", spec, e.Capture.Consistency)
		}
		if err := keeper.DeleteCapture(t.Context(), e); err != nil {
			t.Error(err)
		}
	}
}
