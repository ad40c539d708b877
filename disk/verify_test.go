package disk_test

import (
	"context"
	"errors"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

var errDigest = errors.New("digest differs")

// A doubtful image came with a digest that it does not have.
type doubtful struct{ disk.Image }

func (doubtful) Verify(context.Context) error { return errDigest }

// No wrapper hides that an image has digests to check.
func TestWrappersVerify(t *testing.T) {
	img := doubtful{disktest.Pattern(1<<20, nil)}
	c := disk.NewCache(disk.CacheOptions{})
	defer c.Close()
	for name, wrapped := range map[string]disk.Image{
		"disk":     disk.Disk{Image: img},
		"overlay":  disk.NewOverlay(img, disk.OverlayOptions{}),
		"section":  disk.Section(img, 10, 10),
		"concat":   disk.Concat(disktest.Pattern(5, nil), img),
		"cache":    c.Image("x", img),
		"digester": disk.NewDigester(img),
	} {
		if err := disk.Verify(t.Context(), wrapped); !errors.Is(err, errDigest) {
			t.Errorf("verify of %s gives %v", name, err)
		}
	}
	if err := disk.Verify(t.Context(), disk.Section(disktest.Pattern(10, nil), 0, 5)); err != nil {
		t.Errorf("verify of an image without digests gives %v", err)
	}
}
