package main

import (
	"fmt"
	iofs "io/fs"
	"syscall"
)

// describe is mode, owner, group and size.
func describe(info iofs.FileInfo) string {
	st := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%v %d:%d %d", info.Mode(), st.Uid, st.Gid, info.Size())
}
