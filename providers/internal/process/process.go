// Package process names the process that works on a thing in a cloud, so that another one
// can tell whether anybody still does.
package process

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Name is that of this process on this run of this machine, or of a container on it, which
// numbers its own. What is half made says so in its record.
func Name() string { return Machine() + ":" + strconv.Itoa(os.Getpid()) }

// Machine tells one run of a machine's kernel, and of those who see the same processes on
// it, from all others; empty where that cannot be told.
func Machine() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	space, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return ""
	}
	sum := sha256.Sum256([]byte(string(id) + space))
	return hex.EncodeToString(sum[:8])
}

// abandoned is how long what another machine has begun is left alone.
const abandoned = 24 * time.Hour

// Works tells whether another process of a Name may still work on what it has begun. Of
// this machine the kernel knows; of others the time alone tells, since it was touched last.
func Works(name string, touched time.Time) bool {
	at, pid, _ := strings.Cut(name, ":")
	if n, err := strconv.Atoi(pid); err == nil && at == Machine() && at != "" {
		err := syscall.Kill(n, 0)
		return n != os.Getpid() && (err == nil || err == syscall.EPERM) // another user's
	}
	return time.Since(touched) < abandoned
}
