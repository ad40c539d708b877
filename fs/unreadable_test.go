package fs

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"chromogenic/disk"
	"chromogenic/pipeline"
	"chromogenic/providers"
	"chromogenic/providers/local"
)

// distant is a folder that passes for a cloud: a readdir opens none of its images.
type distant struct{ *local.Provider }

func (distant) ProbeOnList() bool { return false }

// TestUnreadableImagesOfACloud: one that turns out not to be what it is called is listed
// until somebody has found that out, and again when it is another.
func TestUnreadableImagesOfACloud(t *testing.T) {
	m := mountSites(t, func(m *testMount, o *Options) {
		writeImage(t, filepath.Join(m.a, "good.raw"), pattern(1, 1<<20))
		writeImage(t, filepath.Join(m.a, "bad.qcow2"), []byte("QFI\xfb and nothing more, which is no header"))
		o.Formats = []string{"raw", "qcow2", JSONName}
	}, func(o *pipeline.Options) {
		o.Sites[0].Provider = distant{o.Sites[0].Provider.(*local.Provider)}
	})
	dir := m.path("a/images")
	all := list(t, dir)
	if !slices.Contains(all, "bad.raw") || !slices.Contains(all, "good.raw") {
		t.Fatalf("listed are %q", all)
	}
	_, err := os.Stat(filepath.Join(dir, "bad.raw"))
	wantErrno(t, "stat", err, syscall.ENOTSUP)
	want := []string{"good.json", "good.qcow2", "good.raw"}
	if got := list(t, dir); !slices.Equal(got, want) {
		t.Errorf("then %q, want %q", got, want)
	}
	for _, name := range want {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	_, err = os.Stat(filepath.Join(dir, "bad.raw"))
	wantErrno(t, "stat of what is not listed", err, syscall.ENOTSUP)
	writeImage(t, filepath.Join(m.a, "bad.qcow2"), []byte("QFI\xfb and nobody has looked at this one yet"))
	m.tree.p.Refresh()
	if got := list(t, dir); !slices.Contains(got, "bad.qcow2") {
		t.Errorf("of another version %q", got)
	}
}

// A lost provider is distant, and its listings fail.
type lost struct {
	distant
	why atomic.Pointer[disk.Kind]
}

func (p *lost) List(ctx context.Context, kind providers.Kind) ([]providers.Entry, error) {
	if k := p.why.Load(); k != nil {
		return nil, disk.Errorf(*k, "ask: no")
	}
	return p.distant.List(ctx, kind)
}

// TestListingThatFails: a directory of a cloud never vanishes, whatever the cloud says.
func TestListingThatFails(t *testing.T) {
	for kind, want := range map[disk.Kind]syscall.Errno{
		disk.NotFound: syscall.EHOSTUNREACH, disk.Unreachable: syscall.EHOSTUNREACH, disk.Denied: syscall.EACCES, disk.Other: syscall.EIO,
	} {
		p := &lost{}
		m := mountSites(t, func(m *testMount, _ *Options) {
			writeImage(t, filepath.Join(m.a, "web.raw"), pattern(1, 1<<20))
		}, func(o *pipeline.Options) {
			p.distant = distant{o.Sites[0].Provider.(*local.Provider)}
			o.Sites[0].Provider = p
		})
		p.why.Store(&kind)
		_, err := os.ReadDir(m.path("a/images"))
		wantErrno(t, "opendir", err, want)
		_, err = os.Stat(m.path("a/images/web.raw"))
		wantErrno(t, "stat", err, want)
		p.why.Store(nil)
		m.tree.p.Refresh()
		before := list(t, m.path("a/images"))
		p.why.Store(&kind)
		m.tree.p.Refresh()
		if now := list(t, m.path("a/images")); !slices.Equal(now, before) || len(now) == 0 {
			t.Errorf("%v: listed are %q, before %q", kind, now, before)
		}
	}
}
