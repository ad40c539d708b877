package providertest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
)

func uploadExists(t *testing.T, f Fixture) {
	up := role[providers.Uploader](t, f)
	e := f.upload(t, "taken", pattern())
	_, err := up.Begin(t.Context(), f.spec("taken", pattern()))
	wantKind(t, "upload to a name that is taken", err, disk.Exists)
	f.holds(t, e, pattern())
	f.clean(t, 1)
}

// uploadRace lets several uploads of one name begin; one of them may win.
func uploadRace(t *testing.T, f Fixture) {
	role[providers.Uploader](t, f)
	slow := f.send(t, f.spec("late", pattern()), pattern())
	fast := disktest.Pattern(1<<20, nil)
	winner := f.upload(t, "late", fast)
	_, err := slow.Commit(t.Context())
	wantKind(t, "the later commit", err, disk.Exists)
	if err := slow.Abort(t.Context()); err != nil {
		t.Error(err)
	}
	f.holds(t, winner, fast)
	f.clean(t, 1)

	const racers = 4
	var uploads [racers]providers.Upload
	for i := range uploads {
		uploads[i] = f.send(t, f.spec("race", pattern()), pattern())
	}
	var errs [racers]error
	var wg sync.WaitGroup
	for i, u := range uploads {
		wg.Go(func() {
			_, errs[i] = u.Commit(t.Context())
			if errs[i] != nil {
				errs[i] = errors.Join(errs[i], u.Abort(t.Context()))
			}
		})
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else {
			wantKind(t, "a commit that lost", err, disk.Exists)
		}
	}
	if won != 1 {
		t.Errorf("%d commits of one name won", won)
	}
	f.holds(t, f.image(t, "race"), pattern())
	f.clean(t, 2)
}

func uploadAborted(t *testing.T, f Fixture) {
	role[providers.Uploader](t, f)
	stages := []func(u providers.Upload) error{
		func(providers.Upload) error { return nil },
		func(u providers.Upload) error { return u.Send(t.Context(), pattern(), func(int64) {}) },
		func(u providers.Upload) error { _, err := u.Verify(t.Context()); return err },
	}
	for n := range stages {
		u := f.begin(t, f.spec("aborted", pattern()))
		for _, stage := range stages[:n+1] {
			if err := stage(u); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if err := u.Abort(t.Context()); err != nil {
				t.Errorf("abort after stage %d: %v", n, err)
			}
		}
		f.clean(t, 0)
	}
	f.upload(t, "aborted", pattern())
	f.clean(t, 1)
}

// uploadFailingSource breaks the source in the middle.
func uploadFailingSource(t *testing.T, f Fixture) {
	role[providers.Uploader](t, f)
	torn := disk.Errorf(disk.Stale, "the source has changed")
	at := disk.Extent{Off: 3 << 20, Len: 1}
	faults := map[string]disktest.Faults{
		"error":      {Range: at, Err: torn},
		"short":      {Range: at, Short: 100, Err: torn},
		"just short": {Range: at, Short: 100},
	}
	for name, faulty := range faults {
		img := disktest.Faulty(disktest.Pattern(5<<20, nil), faulty)
		u := f.begin(t, f.spec("torn", img))
		err := u.Send(t.Context(), img, func(int64) {})
		if err == nil || faulty.Err != nil && !errors.Is(err, torn) {
			t.Errorf("%s: sending says %v", name, err)
		}
		if err := u.Abort(t.Context()); err != nil {
			t.Error(err)
		}
		f.clean(t, 0)
	}
}

// uploadCancelled cancels while the source hangs.
func uploadCancelled(t *testing.T, f Fixture) {
	up := role[providers.Uploader](t, f)
	img := disktest.Faulty(disktest.Pattern(5<<20, nil), disktest.Faults{Range: disk.Extent{Off: 3 << 20, Len: 1}, Hang: true})
	defer img.Close()
	u := f.begin(t, f.spec("cancelled", img))
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	began := time.Now()
	wantKind(t, "cancelled sending", u.Send(ctx, img, func(int64) {}), disk.Cancelled)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("sending ended %v after it was cancelled", took)
	}
	if err := u.Abort(ctx); err != nil { // cleaning up is done all the same
		t.Error(err)
	}
	f.clean(t, 0)

	u = f.send(t, f.spec("cancelled", pattern()), pattern())
	_, err := u.Commit(ctx)
	wantKind(t, "cancelled commit", err, disk.Cancelled)
	if err := u.Abort(ctx); err != nil {
		t.Error(err)
	}
	_, err = up.Begin(ctx, f.spec("cancelled", pattern()))
	wantKind(t, "cancelled begin", err, disk.Cancelled)
	f.clean(t, 0)
}
