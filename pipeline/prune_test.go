package pipeline

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"chromogenic/disk/disktest"
	"chromogenic/providers"
)

// kept tells whether facts and a digest of a version are in the state.
func (b *bench) kept(e providers.Entry) (facts, digest bool) {
	return b.state.get(bucketFacts, imageKey("a", e)) != nil, b.KnownDigest(Ref{Site: "a", Entry: e}) != ""
}

// TestPrune has versions go and come back: what is known of them stays for a month,
// and what is known of others stays for ever.
func TestPrune(t *testing.T) {
	b := newBench(t)
	for _, name := range []string{"a/stays.raw", "a/changes.raw", "a/goes.raw", "b/other.raw"} {
		b.put(name, disktest.Pattern(1<<20, nil))
	}
	digest := func(name string) providers.Entry {
		e := b.entry("a", name)
		if _, err := b.GuestDigest(t.Context(), Ref{Site: "a", Entry: e}); err != nil {
			t.Fatal(err)
		}
		return e
	}
	stays, before, goes := digest("stays"), digest("changes"), digest("goes")
	other := b.entry("b", "other")
	b.put("a/changes.raw", disktest.Pattern(2<<20, nil))
	after := digest("changes")
	if err := os.Rename(filepath.Join(b.dir, "a/goes.raw"), filepath.Join(b.dir, "goes.raw")); err != nil {
		t.Fatal(err)
	}
	b.Forget("a")

	now := time.Now()
	prune := func(after time.Duration) {
		t.Helper()
		l, err := b.ListNow(t.Context(), "a", providers.Images)
		if err == nil {
			err = b.prune("a", providers.Images, l.Entries, now.Add(after))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string, e providers.Entry, want bool) {
		t.Helper()
		if facts, digest := b.kept(e); facts != want || digest != want {
			t.Errorf("%s: of %s facts are kept: %v, a digest: %v; want %v", when, e.ID, facts, digest, want)
		}
	}
	prune(0)
	prune(goneTime - time.Minute)
	for _, e := range []providers.Entry{stays, before, after, goes} {
		check("within the month", e, true)
	}
	// One comes back, and its time begins anew when it goes again.
	if err := os.Rename(filepath.Join(b.dir, "goes.raw"), filepath.Join(b.dir, "a/goes.raw")); err != nil {
		t.Fatal(err)
	}
	prune(goneTime - time.Second)
	if err := os.Remove(filepath.Join(b.dir, "a/goes.raw")); err != nil {
		t.Fatal(err)
	}
	prune(goneTime + time.Minute)
	check("after the month", before, false)
	check("after the month", after, true)
	check("gone again", goes, true)
	prune(2*goneTime + time.Hour)
	check("gone for a month", goes, false)
	check("after two months", stays, true)
	if b.state.get(bucketFacts, imageKey("b", other)) == nil {
		t.Error("what is known of another site is gone")
	}
	if n := len(b.state.all(bucketGone)); n != 0 {
		t.Errorf("%d versions are noted as gone", n)
	}
}

// TestPruneIsBounded has more versions go than are kept.
func TestPruneIsBounded(t *testing.T) {
	b := newBench(t)
	e := providers.Entry{Kind: providers.Images, ID: "x.raw"}
	now := time.Now()
	for round := range 3 {
		err := b.state.db.Update(func(tx *bbolt.Tx) error {
			for i := range goneMost / 2 {
				e.Version = fmt.Sprint(round, "-", i)
				if err := tx.Bucket([]byte(bucketFacts)).Put([]byte(imageKey("a", e)), []byte("facts")); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.prune("a", providers.Images, nil, now.Add(time.Duration(round)*time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	all := b.state.all(bucketFacts)
	if len(all) != goneMost || len(b.state.all(bucketGone)) != goneMost {
		t.Errorf("%d versions are known, %d noted as gone, want %d", len(all), len(b.state.all(bucketGone)), goneMost)
	}
	for round, want := range []bool{false, true, true} {
		e.Version = fmt.Sprint(round, "-", 7)
		if _, ok := all[imageKey("a", e)]; ok != want {
			t.Errorf("of round %d version 7 is kept: %v", round, ok)
		}
	}
}

// TestListingPrunes leaves it to a listing.
func TestListingPrunes(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", disktest.Pattern(1<<20, nil))
	b.entry("a", "web")
	if err := os.Remove(filepath.Join(b.dir, "a/web.raw")); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b.open()
	if _, err := b.List(t.Context(), "a", providers.Images); err != nil {
		t.Fatal(err)
	}
	if n := len(b.state.all(bucketGone)); n != 1 {
		t.Errorf("%d versions are noted as gone", n)
	}
}
