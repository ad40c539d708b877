package pipeline

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

// TestRateOfASet: all disks of a machine have one rate together, as one has.
func TestRateOfASet(t *testing.T) {
	t.Parallel()
	const size, rate = 3 << 20, 4 << 20
	b := newBench(t)
	if err := os.Mkdir(filepath.Join(b.dir, "a/web.disks"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.put("a/web.raw", disktest.Pattern(size, nil))
	b.put("a/web.disks/1-vdb.raw", disktest.Pattern(size, nil))
	for name, of := range map[string]Rate{"sent": {Send: rate}, "read": {Read: rate}} {
		start := time.Now()
		_, err := b.copy(CopySpec{From: b.view("a", "web", "raw"), Machine: true, Site: "b", Name: name, Rate: of})
		if err != nil {
			t.Fatal(err)
		}
		if took, least := time.Since(start), time.Duration(2*size-rate/paceParts)*time.Second/rate; took < least {
			t.Errorf("two disks of %d bytes were %s at %d a second in %v", size, name, rate, took)
		}
	}
	if got := b.traffic("b").Sent; got < 4*size {
		t.Errorf("%d bytes are counted as sent", got)
	}
}

// TestLateSet: another writer takes the name while a machine is sent. Of the same
// machine nothing is left to do; of another one nothing of ours stays.
func TestLateSet(t *testing.T) {
	for _, same := range []bool{true, false} {
		b := newBench(t)
		putSet(b)
		v := b.view("a", "web", "ova")
		once := false
		spec := CopySpec{From: v, Site: "b", Name: "web", Progress: func(p Progress) {
			if p.Stage != stageRegister || once {
				return
			}
			once = true
			other := CopySpec{Image: second(), Format: "raw", Site: "b", Name: "web"}
			if same {
				other = CopySpec{From: v, Site: "b", Name: "web"}
			}
			if _, err := b.copy(other); err != nil {
				t.Error(err)
			}
		}}
		rec, err := b.copy(spec)
		if same {
			if err != nil || !rec.Unchanged {
				t.Errorf("the same machine: %+v, %v", rec, err)
			}
			b.holdsSet("b", "web", holes(), second(), third())
			continue
		}
		wantKind(t, err, disk.Exists)
		b.holdsSet("b", "web", second())
		if left := b.disks("b"); len(left) != 1 {
			t.Errorf("left: %q", left)
		}
	}
}
