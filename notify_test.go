package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestNotify(t *testing.T) {
	for _, socket := range []string{filepath.Join(t.TempDir(), "notify"), fmt.Sprintf("@chromogenic-%d", os.Getpid())} {
		listener, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		t.Setenv("NOTIFY_SOCKET", socket)
		n := newNotifier(false, slog.New(slog.DiscardHandler))
		if _, ok := os.LookupEnv("NOTIFY_SOCKET"); ok {
			t.Error("children inherit NOTIFY_SOCKET")
		}
		for _, c := range []struct {
			send func()
			want string
		}{
			{func() { n.ready("a, b at /mnt") }, "READY=1\nSTATUS=a, b at /mnt"},
			{n.reloading, "RELOADING=1\nMONOTONIC_USEC="},
			{n.stopping, "STOPPING=1"},
		} {
			c.send()
			text := make([]byte, 1024)
			if err := listener.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			size, err := listener.Read(text)
			if got := string(text[:size]); err != nil || !strings.HasPrefix(got, c.want) {
				t.Errorf("%s: got %q, %v; want %q", socket, got, err, c.want)
			}
		}
	}
}

// A daemon tells nothing, nor does a mount without a manager; one that is gone is
// logged.
func TestNotifyNobody(t *testing.T) {
	for _, c := range []struct {
		socket string
		daemon bool
		logged bool
	}{
		{"", false, false},
		{filepath.Join(t.TempDir(), "nothing"), true, false},
		{filepath.Join(t.TempDir(), "nothing"), false, true},
	} {
		t.Setenv("NOTIFY_SOCKET", c.socket)
		var log bytes.Buffer
		newNotifier(c.daemon, slog.New(slog.NewTextHandler(&log, nil))).stopping()
		if (log.Len() > 0) != c.logged {
			t.Errorf("%+v: log %q", c, log.String())
		}
	}
}
