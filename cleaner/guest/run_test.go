package guest

import (
	"testing"
	"time"
)

func TestFirst(t *testing.T) {
	d := openDisk(t, makeDisk(t, "gpt",
		partSpec{512, "linux", ext("ext4", linux("LABEL=x / ext4 defaults 0 1\n"))}))
	began := time.Now()
	facts, said := do(t, d, Options{Timeout: 15 * time.Second}, cleaning()...)
	t.Logf("%s, %+v %v stored %d", time.Since(began), facts, said, d.Stored())
	for _, text := range traces() {
		if at := holds(t, d, text); at >= 0 {
			t.Errorf("%q is at %d", text[:20], at)
		}
	}
}
