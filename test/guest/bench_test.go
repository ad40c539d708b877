package guest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// What is wanted of a clean, against virt-sysprep: by user-mode-linux, which isolates the
// guest as its appliance does, and by the loop device, which does not.
const (
	umlWanted  = 15
	loopWanted = 60
	keptWanted = 0.02 // of the image's bytes in the overlay
)

// rounds is how often all sides run, after once to warm up.
const rounds = 3

// TestBenchClean prints how long the same Debian takes to be cleaned in place by
// virt-sysprep, whose appliance is built and in the page cache, and by us.
func TestBenchClean(t *testing.T) {
	need(t, "CHROMOGENIC_BENCH", "mmdebstrap", "virt-sysprep", "linux.uml")
	path := machine(t)
	copied := filepath.Join(t.TempDir(), "copy.raw")
	t.Setenv("LIBGUESTFS_BACKEND", "direct")
	if os.Getenv("LIBGUESTFS_BACKEND_SETTINGS") == "" {
		t.Setenv("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg") // there are machines whose KVM hangs
	}
	var report struct {
		Written int64 `json:"written"`
	}
	ours := func(access ...string) func() {
		return func() {
			args := append([]string{"clean", "--json", "--in-place", "--state-dir", t.TempDir(), "--ssh-key", visitor, copied}, access...)
			if err := json.Unmarshal([]byte(sh(t, program, args...)), &report); err != nil {
				t.Fatal(err)
			}
		}
	}
	sides := []struct {
		name string
		run  func()
	}{
		{"virt-sysprep", func() { sh(t, "virt-sysprep", "-q", "-a", copied, "--operations", "defaults,user-account") }},
		{"clean by user-mode-linux", ours("--access", "uml")},
		{"clean by loop device", ours("--access", "loop", "--trusted-images")},
	}
	took := make([][]float64, len(sides))
	for round := range rounds + 1 {
		for i, s := range sides {
			sh(t, "cp", "--sparse=always", path, copied)
			sh(t, "sync", "-f", copied)
			began := time.Now()
			s.run()
			if round > 0 {
				took[i] = append(took[i], time.Since(began).Seconds())
			}
			if i == 1 && round == 0 {
				kept := float64(report.Written) / float64(diskMiB<<20)
				t.Logf("the overlay stores %d bytes, %.2f %% of the image, wanted less than %.0f %%", report.Written, 100*kept, 100*keptWanted)
				if kept >= keptWanted {
					t.Error("the overlay is larger than wanted")
				}
			}
		}
	}
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	t.Logf("a disk of %d MiB, of which %d are data; %d rounds", diskMiB, st.Blocks>>11, rounds)
	for i, s := range sides {
		slices.Sort(took[i])
		row := fmt.Sprintf("%-26s %7.2f s (%.2f to %.2f)", s.name, took[i][rounds/2], took[i][0], took[i][rounds-1])
		if i == 0 {
			t.Log(row)
			continue
		}
		wanted := []float64{0, umlWanted, loopWanted}[i]
		least, most := took[0][0]/took[i][rounds-1], took[0][rounds-1]/took[i][0]
		ratio := took[0][rounds/2] / took[i][rounds/2]
		t.Logf("%s   1/%.0f of virt-sysprep (1/%.0f to 1/%.0f), wanted 1/%.0f", row, ratio, least, most, wanted)
		if ratio < wanted {
			t.Errorf("%s takes 1/%.1f of virt-sysprep, wanted 1/%.0f", s.name, ratio, wanted)
		}
	}
}
