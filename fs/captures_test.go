package fs

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chromogenic/pipeline"
	"chromogenic/providers"
)

// capturesOf are a machine and captures of it, of one name.
func capturesOf(id, name string, taken ...time.Time) []providers.Entry {
	out := []providers.Entry{{Kind: providers.Instances, ID: id, Name: name, Created: time.Unix(1, 0)}}
	for _, t := range taken {
		c := &providers.Capture{Of: id, Taken: t}
		out = append(out, providers.Entry{Kind: providers.Instances, ID: id + "@" + t.Format(time.RFC3339Nano), Name: name, Created: t, Capture: c})
	}
	return out
}

func TestCaptureNames(t *testing.T) {
	at := time.Date(2026, 11, 21, 3, 0, 0, 0, time.UTC)
	const stamp = "20261121T030000Z"
	entries := capturesOf("i-1", "web", at.Add(time.Second), at.In(time.FixedZone("", 7200)))
	entries = append(entries, capturesOf("i-2", "web", at)...)
	entries = append(entries, providers.Entry{Kind: providers.Instances, ID: "i-3", Name: "web@" + stamp, Created: time.Unix(2, 0)})
	entries = append(entries, capturesOf("i-4", "a@b.raw", at)...)
	entries = append(entries, capturesOf("i-5", strings.Repeat("x", 300), at)...)
	names := map[string]bool{}
	for _, n := range Shown(entries) {
		if names[n.Name] || len(n.Name) > maxStem {
			t.Errorf("name %q twice, or too long", n.Name)
		}
		names[n.Name] = true
		for _, stem := range []string{n.Name, n.Entry.ID} {
			if got, ok := Find(entries, stem); !ok || got.Entry.ID != n.Entry.ID {
				t.Errorf("Find(%q) = %q, %v, want %q", stem, got.Entry.ID, ok, n.Entry.ID)
			}
		}
	}
	for _, want := range []string{"web", "web@" + stamp, "web@20261121T030001Z", "web%40" + stamp, "a%40b%2Eraw@" + stamp} {
		if !names[want] {
			t.Errorf("%q is not among %v", want, names)
		}
	}
	if got, ok := Find(entries, "a@b.raw@"+stamp); !ok || got.Entry.Capture == nil {
		t.Errorf("as somebody types it: %+v, %v", got, ok)
	}
	// The captures of a machine that is gone are not it.
	if got, ok := Find(entries[1:3], "web"); ok {
		t.Errorf("the name of a machine that is gone finds %+v", got)
	}
}

// TestCaptures mounts a machine that may not be read, with a capture of it.
func TestCaptures(t *testing.T) {
	vm := pattern(2, 2<<20)
	const name, file = "vm@20261121T030000Z", "vm@20261121T030000Z.img"
	for _, del := range []bool{false, true} {
		m := mountSites(t, func(m *testMount, o *Options) {
			o.AllowDelete = del
			writeImage(t, filepath.Join(m.a+"-instances", "vm.img"), pattern(3, 2<<20))
			writeImage(t, filepath.Join(m.a+"-instances", file), vm)
		}, func(o *pipeline.Options) { o.Sites[0].Snapshot = "never" })
		in := func(name string) string { return m.path("a/instances/" + name) }
		want := []string{"vm.ova", "vm.qcow2", "vm.raw", "vm.vmdk", name + ".ova", name + ".qcow2", name + ".raw", name + ".vmdk"}
		if diff := cmp.Diff(want, list(t, in(""))); diff != "" {
			t.Errorf("listed (-want +got):\n%s", diff)
		}
		for _, path := range []string{name + ".raw", "by-id/vm%40" + name[3:] + "%2Eimg.raw"} {
			if got := readFile(t, in(path)); !bytes.Equal(got, vm) {
				t.Errorf("%s is other bytes", path)
			}
		}
		var st, live syscall.Stat_t
		if syscall.Stat(in(name+".raw"), &st) != nil || syscall.Stat(in("vm.raw"), &live) != nil || st.Blocks >= live.Blocks || live.Blocks*512 != live.Size {
			t.Errorf("the capture takes %d blocks, the machine %d", st.Blocks, live.Blocks)
		}
		for attr, want := range map[string]string{"consistency": "crash", "created": "2026-11-21T03:00:00Z", "name": "vm", "id": file} {
			buf := make([]byte, 256)
			n, err := syscall.Getxattr(in(name+".qcow2"), xattrPrefix+attr, buf)
			if err != nil || string(buf[:n]) != want {
				t.Errorf("attribute %s: %q, %v, want %q", attr, buf[:max(n, 0)], err, want)
			}
		}
		run(t, 0, "cp", in(name+".qcow2"), m.path("b/images/vm.qcow2"))
		m.wantImage(t, "vm", vm)

		_, err := os.OpenFile(in(name+".raw"), os.O_WRONLY, 0)
		wantErrno(t, "write a capture", err, syscall.EPERM)
		wantErrno(t, "rename a capture", os.Rename(in(name+".raw"), in("x.raw")), syscall.EPERM)
		wantErrno(t, "rm of a live machine", os.Remove(in("vm.raw")), syscall.EPERM)
		if !del {
			wantErrno(t, "rm of a capture", os.Remove(in(name+".raw")), syscall.EPERM)
			if got := len(list(t, m.a+"-instances")); got != 2 {
				t.Errorf("%d files", got)
			}
			continue
		}
		run(t, 0, "rm", in(name+".vmdk"))
		if diff := cmp.Diff(want[:4], list(t, in(""))); diff != "" {
			t.Errorf("listed after rm (-want +got):\n%s", diff)
		}
		if got := list(t, m.a+"-instances"); !cmp.Equal(got, []string{"vm.img"}) {
			t.Errorf("the folder has %q", got)
		}
	}
}
