package e2e

import (
	"path/filepath"
	"syscall"
	"testing"
	"os"
	"fmt"
	"chromogenic/test/faultfs"
)

func TestTryFault(t *testing.T) {
	for _, cached := range []bool{false, true} {
	f := newFaulty(t, cached)
	a, b := newSite(t, "a"), newSite(t, "b")
	a.images = f.dir
	random(t, filepath.Join(f.below, "x.raw"), 4*mib, 1)
	s := mount(t, config{sites: []site{a, b}})
	try1 := func(what string, x faultfs.Fault) {
		x.Effect, x.From = cmpd(x.Effect), 2*mib
		x.Errno = syscall.EIO
		n := f.set(t, x)
		fmt.Println("----", what, cached)
		for _, fm := range []string{"raw", "qcow2"} {
			fmt.Println(try(t, "sh", "-c", "cat "+s.images("a", "x."+fm)+" | sha256sum"))
			fmt.Println(try(t, "getfattr", "--only-values", "-n", "user.chromogenic.error", s.images("a", "x."+fm)))
			fmt.Println(try(t, "cp", s.images("a", "x."+fm), s.images("b", "y."+fm)))
			fmt.Println(try(t, binary(), "explain", s.images("b", "y."+fm)).out)
			fmt.Println(try(t, binary(), "convert", f.dir+"/x.raw", t.TempDir()+"/o."+fm).out)
		}
		fmt.Println(f.struck(t, n), names(t, b.images))
		f.mend(t)
		for _, n := range names(t, b.images) { os.Remove(b.images+"/"+n) }
		s.refresh(t)
	}
	try1("eio", faultfs.Fault{Op: "read", Effect: "fail"})
	try1("end", faultfs.Fault{Op: "read", Effect: "end"})
	try1("short", faultfs.Fault{Op: "read", Effect: "short"})
	fmt.Println(s.reasons(t))
	}
}
func cmpd(e faultfs.Effect) faultfs.Effect { return e }
