package local

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"chromogenic/providers"
)

// TestMadeAnew removes a file and makes another of the same name, size and time.
// The filesystem may give it the same inode number; it is another image.
func TestMadeAnew(t *testing.T) {
	p, images, _ := newProvider(t)
	built := time.Unix(1600000000, 0)
	seen := map[string]bool{}
	inodes := map[uint64]bool{}
	for i := range 8 {
		write(t, images, "x.raw", string(rune('a'+i)))
		path := filepath.Join(images, "x.raw")
		if err := os.Chtimes(path, built, built); err != nil {
			t.Fatal(err)
		}
		d, err := p.open(providers.Images)
		if err != nil {
			t.Fatal(err)
		}
		st, _, err := d.state("x.raw")
		d.close()
		if err != nil {
			t.Fatal(err)
		}
		if st.made == 0 {
			t.Skip("the filesystem records no birth")
		}
		inodes[st.inode] = true
		e := find(t, p, providers.Images, "x.raw")
		if seen[e.Version] {
			t.Errorf("version %s comes back", e.Version)
		}
		seen[e.Version] = true
		// What only renames, or changes modes, makes no other version of it.
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		if again := find(t, p, providers.Images, "x.raw"); again.Version != e.Version {
			t.Errorf("chmod makes version %s of %s", again.Version, e.Version)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond) // a tick of the clock of births
	}
	t.Logf("%d inode numbers for %d files", len(inodes), len(seen))
}

// TestBusyMachine looks at the disk of a machine that never rests.
func TestBusyMachine(t *testing.T) {
	p, _, instances := newProvider(t)
	write(t, instances, "vm.raw", "0123456789")
	stop := writer(t, filepath.Join(instances, "vm.raw"))
	defer stop()
	for range 50 {
		e := find(t, p, providers.Instances, "vm.raw")
		time.Sleep(5 * time.Millisecond)
		src := open(t, p, e)
		if _, err := src.ReadAt(make([]byte, 4), 0); err != nil {
			t.Fatal(err)
		}
	}
}
