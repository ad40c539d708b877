package pipeline

import (
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
)

// TestConfigure: providers come and go; who stays keeps its listing, what is open
// stays open, and what cannot be taken changes nothing.
func TestConfigure(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", disktest.Pattern(1<<20, func(int64) bool { return true }))
	first, _ := b.site("a")
	second, _ := b.site("b")
	v := b.view("a", "web", "qcow2")
	head := make([]byte, 4096)
	if _, err := v.ReadAt(head, v.Size()/2); err != nil {
		t.Fatal(err)
	}
	if err := b.Configure([]Site{first.made, second.made, first.made}, Limits{}); disk.KindOf(err) != disk.Invalid {
		t.Errorf("two of one name: %v", err)
	}
	if got := b.SiteNames(); len(got) != 2 {
		t.Errorf("after an error there are %q", got)
	}
	if err := b.Configure([]Site{second.made}, Limits{}); err != nil {
		t.Fatal(err)
	}
	if now, err := b.site("b"); err != nil || now != second {
		t.Errorf("who stays is another now, %v", err)
	}
	if _, err := b.List(t.Context(), "a", providers.Images); disk.KindOf(err) != disk.NotFound {
		t.Errorf("list who has gone: %v", err)
	}
	if _, err := v.ReadAt(head, v.Size()-int64(len(head))); err != nil {
		t.Errorf("read what was open: %v", err)
	}
	changed := second.made
	changed.Snapshot = "never"
	if err := b.Configure([]Site{first.made, changed}, Limits{}); err != nil {
		t.Fatal(err)
	}
	if got := b.SnapshotPolicy("b"); got != "never" {
		t.Errorf("the policy is %q", got)
	}
	b.entry("a", "web")
}
