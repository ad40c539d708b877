package faultfs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A request is a line of a server's standard input.
type request struct {
	Set   *Fault `json:",omitempty"` // the answer is its number
	Clear bool   `json:",omitempty"` // all faults end; the answer is 0
	Hits  *int   `json:",omitempty"` // the answer is how often the fault of that number has struck
}

// Serve mounts folder and obeys in until its end; out gets a line when the mount is
// live and one for each request. Cached lets the kernel keep pages; without it
// every read and write arrives here as the program has asked for it.
func Serve(folder, mountpoint string, cached bool, in io.Reader, out io.Writer) error {
	plain, err := fs.NewLoopbackRoot(folder)
	if err != nil {
		return err
	}
	t := &tree{folder: folder, cached: cached}
	root := &node{plain.(*fs.LoopbackNode), t}
	root.RootData.RootNode = root
	var none time.Duration // what lies below may change at any time
	srv, err := fs.Mount(mountpoint, root, &fs.Options{
		EntryTimeout: &none, AttrTimeout: &none, NegativeTimeout: &none,
		MountOptions: fuse.MountOptions{
			FsName: folder, Name: "faultfs", DirectMount: os.Geteuid() == 0, DirectMountFlags: unix.MS_NODEV | unix.MS_NOSUID,
			MaxWrite: 1 << 20, ExtraCapabilities: fuse.CAP_DIRECT_IO_ALLOW_MMAP,
		},
	})
	if err != nil {
		return fmt.Errorf("mount %q: %w", mountpoint, err)
	}
	fmt.Fprintln(out, "live")
	err = t.obey(in, out)
	t.clear()
	if e := srv.Unmount(); e != nil { // who has files open there is told ENOTCONN from now on
		err = errors.Join(err, unix.Unmount(mountpoint, unix.MNT_DETACH))
	}
	return err
}

// obey does what each line says.
func (t *tree) obey(in io.Reader, out io.Writer) error {
	for lines := json.NewDecoder(in); ; {
		var r request
		if err := lines.Decode(&r); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read request: %w", err)
		}
		answer := 0
		switch {
		case r.Set != nil:
			answer = t.add(*r.Set)
		case r.Clear:
			t.clear()
		case r.Hits != nil:
			answer = t.hits(*r.Hits)
		}
		fmt.Fprintln(out, answer)
	}
}
