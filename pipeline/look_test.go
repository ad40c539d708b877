package pipeline

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/formats"
	"chromogenic/formats/layout"
	"chromogenic/providers"
	"chromogenic/providers/local"
)

// A hanging provider is a folder whose images do not answer as long as it hangs.
type hanging struct {
	*local.Provider
	gone  chan struct{} // closed when they answer again
	opens atomic.Int64
}

func (h *hanging) Open(ctx context.Context, e providers.Entry, n int) (providers.Source, error) {
	h.opens.Add(1)
	src, err := h.Provider.Open(ctx, e, n)
	if err == nil && e.Name == "stuck" {
		src.Image = hangingImage{src.Image, h.gone}
	}
	return src, err
}

type hangingImage struct {
	disk.Image
	gone chan struct{}
}

func (i hangingImage) ReadAt(p []byte, off int64) (int, error) {
	<-i.gone
	return i.Image.ReadAt(p, off)
}

// newHanging is a bench whose provider a hangs for the image "stuck".
func newHanging(t *testing.T) (*bench, *hanging) {
	h := &hanging{gone: make(chan struct{})}
	b := newBench(t, func(o *Options) {
		h.Provider = o.Sites[0].Provider.(*local.Provider)
		o.Sites[0].Provider = h
	})
	return b, h
}

// asQcow2 is a container of a disk.
func asQcow2(t *testing.T, img disk.Image) disk.Image {
	t.Helper()
	row, _ := formats.ByName("qcow2")
	m, err := layout.MapOf(img)
	if err != nil {
		t.Fatal(err)
	}
	file, err := row.Layout(&disk.Machine{Disks: []disk.Disk{{Image: layout.Frozen(img, m)}}}, layout.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// An image that does not answer is listed as it is, and keeps nobody: not who has
// given up, and not who cannot wait. When it answers, one look was enough.
func TestLookHangs(t *testing.T) {
	b, h := newHanging(t)
	b.put("a/stuck.qcow2", asQcow2(t, disktest.Pattern(1<<20, nil)))
	b.put("a/still.qcow2", asQcow2(t, disktest.Pattern(1<<20, nil)))
	began := time.Now()
	stuck, still := b.entry("a", "stuck"), b.entry("a", "still")
	if took := time.Since(began); took < listStall || took > 3*listStall {
		t.Errorf("the listing took %v", took)
	}
	if still.VirtualSize != 1<<20 || stuck.VirtualSize != -1 || stuck.Reason != "" {
		t.Errorf("listed %+v and %+v", still, stuck)
	}
	began = time.Now()
	b.Forget("a")
	b.entry("a", "stuck")
	ref := Ref{Site: "a", Entry: stuck, Format: "raw"}
	if _, err := b.Stat(Impatient(t.Context(), time.Millisecond), ref); !errors.Is(err, ErrStalled) || disk.KindOf(err) != disk.Timeout {
		t.Errorf("stat of the impatient: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := b.Stat(ctx, ref); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("stat of one who gives up: %v", err)
	}
	if took := time.Since(began); took > listStall/2 {
		t.Errorf("the next listing and stats took %v", took)
	}
	if n := h.opens.Load(); n != 2 {
		t.Errorf("%d opens of two images", n)
	}
	close(h.gone)
	if st, err := b.Stat(t.Context(), ref); err != nil || st.Size != 1<<20 {
		t.Errorf("stat when it answers: %v, %v", st, err)
	}
}

// A copy of something else does not wait for a view that does not answer.
func TestRecogniseHangs(t *testing.T) {
	b, h := newHanging(t)
	img := disktest.Pattern(4<<20, nil)
	b.put("a/stuck.raw", img) // its size and holes are known without a read
	v := b.view("a", "stuck", "raw")
	defer v.Close()
	s, err := b.NewSpool(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	p := make([]byte, 1<<20)
	for off := int64(0); off < 4<<20; off += 1 << 20 {
		if err := disk.ReadFull(img, p, off); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := s.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 3*stallTime {
			t.Errorf("the write at %d took %v", off, took)
		}
	}
	close(h.gone)
	if _, ok := s.Source(); ok {
		t.Error("it is recognised as what did not answer")
	}
	disktest.Compare(t, s.Image(), img)
}

// A source that was lost is opened anew for the next read of the same view.
func TestLeaseLost(t *testing.T) {
	img := disktest.Pattern(1<<20, nil)
	opens := 0
	l := &lease{ctx: t.Context(), open: func(context.Context) (*source, error) {
		opens++
		from := disk.Image(img)
		if opens == 1 {
			from = disktest.Faulty(img, disktest.Faults{Err: disk.Errorf(disk.Unreachable, "unplugged")})
		}
		return &source{Image: from, machine: &disk.Machine{Disks: []disk.Disk{{Image: from}}}}, nil
	}}
	v := leased{l, 0, img.Size()}
	if _, err := v.ReadAt(make([]byte, 10), 0); disk.KindOf(err) != disk.Unreachable {
		t.Fatalf("read of what is gone: %v", err)
	}
	disktest.Compare(t, v, img)
	if opens != 2 {
		t.Errorf("%d opens", opens)
	}
	if err := l.close(); err != nil {
		t.Error(err)
	}
}
