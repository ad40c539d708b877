package main

import (
	"fmt"
	"log/slog"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// A notifier tells the service manager how we are: sd_notify(3). Without a
// manager that wants to know it tells nobody.
type notifier struct {
	socket string // a path, or the name of an abstract socket behind an @
	log    *slog.Logger
}

// newNotifier finds the manager, and hides it from the programs that we start. A
// daemon is not what the manager has started, and tells nothing.
func newNotifier(daemon bool, log *slog.Logger) *notifier {
	n := &notifier{os.Getenv("NOTIFY_SOCKET"), log}
	os.Unsetenv("NOTIFY_SOCKET")
	if daemon {
		n.socket = ""
	}
	return n
}

func (n *notifier) ready(status string) { n.send("READY=1\nSTATUS=" + status) }
func (n *notifier) stopping()           { n.send("STOPPING=1") }

// reloading is followed by ready. The time is what Type=notify-reload asks for.
func (n *notifier) reloading() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return // never: the clock is always there
	}
	n.send(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000))
}

// send is one datagram. That nobody takes it is no reason to fail.
func (n *notifier) send(state string) {
	if n.socket == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err == nil {
		defer conn.Close()
		_, err = conn.Write([]byte(state))
	}
	if err != nil {
		n.log.Warn("notify service manager", "error", err)
	}
}
