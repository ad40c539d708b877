package eucalyptus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"chromogenic/disk"
	"chromogenic/providers/internal/stall"
)

// run runs a command on the node and gives its output to read.
func (d *nodeDisk) run(ctx context.Context, command string, read func(io.Reader) error) error {
	conn, err := d.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	idle := time.AfterFunc(d.stall, func() { conn.Close() })
	defer idle.Stop()
	session, err := conn.NewSession()
	if err != nil {
		return d.failed(ctx, idle, err)
	}
	defer session.Close()
	said := &firstBytes{}
	session.Stderr = said
	out, err := session.StdoutPipe()
	if err == nil {
		err = session.Start(command)
	}
	if err != nil {
		return d.failed(ctx, idle, err)
	}
	if err := read(&lively{out, idle, d.stall}); err != nil {
		if err := d.failed(ctx, idle, nil); err != nil {
			return err
		}
		if text := strings.TrimSpace(string(said.p)); text != "" {
			err = fmt.Errorf("%w: %s", err, strings.ToValidUTF8(text, "?"))
		}
		return err
	}
	if err := session.Wait(); err != nil {
		var exit *ssh.ExitError
		if errors.As(err, &exit) {
			return disk.Errorf(disk.Unsupported, "the command on node %s ends with status %d: %s", d.addr, exit.ExitStatus(), strings.ToValidUTF8(strings.TrimSpace(string(said.p)), "?"))
		}
		return d.failed(ctx, idle, err)
	}
	return nil
}

// failed is the error of a connection; nil for none.
func (d *nodeDisk) failed(ctx context.Context, idle *time.Timer, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case !idle.Stop():
		return disk.Errorf(disk.Timeout, "node %s: %w", d.addr, stall.Err)
	case err == nil:
		return nil
	}
	return disk.Errorf(disk.Unreachable, "node %s: %w", d.addr, err)
}

// A lively reader winds up the clock of a connection whenever something comes. The clock
// stands while its reader is busy.
type lively struct {
	io.Reader
	idle  *time.Timer
	stall time.Duration
}

func (r *lively) Read(p []byte) (int, error) {
	r.idle.Reset(r.stall)
	n, err := r.Reader.Read(p)
	if err == nil {
		r.idle.Reset(24 * time.Hour)
	}
	return n, err
}

// firstBytes keeps the beginning of what a command complains of.
type firstBytes struct{ p []byte }

func (w *firstBytes) Write(p []byte) (int, error) {
	w.p = append(w.p, p[:min(len(p), maxMessage-len(w.p))]...)
	return len(p), nil
}

// dial logs in at the node, whose key must be a known one.
func (d *nodeDisk) dial(ctx context.Context) (*ssh.Client, error) {
	file, err := os.ReadFile(expandHome(d.access.KeyFile))
	if err != nil {
		return nil, disk.Errorf(disk.Denied, "log in at node %s: %w", d.addr, err)
	}
	key, err := ssh.ParsePrivateKey(file)
	if err != nil {
		return nil, disk.Errorf(disk.Denied, "log in at node %s: read key %s: %w", d.addr, d.access.KeyFile, err)
	}
	known := expandHome(cmp.Or(d.access.KnownHosts, filepath.Join(home(), ".ssh", "known_hosts")))
	check, err := knownhosts.New(known)
	if err != nil {
		return nil, disk.Errorf(disk.Denied, "log in at node %s: read known hosts: %w", d.addr, err)
	}
	conn, err := (&net.Dialer{Timeout: d.stall}).DialContext(ctx, "tcp", d.addr)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, disk.Errorf(disk.Unreachable, "log in at node %s: %w", d.addr, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	_ = conn.SetDeadline(time.Now().Add(d.stall)) // of the login alone
	c, channels, requests, err := ssh.NewClientConn(conn, d.addr, &ssh.ClientConfig{
		User: d.user, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: check, HostKeyAlgorithms: keyTypes(check, d.addr, conn.RemoteAddr()),
	})
	if err != nil {
		conn.Close()
		return nil, d.loginError(ctx, err, known)
	}
	_ = conn.SetDeadline(time.Time{})
	return ssh.NewClient(c, channels, requests), nil
}

func (d *nodeDisk) loginError(ctx context.Context, err error, known string) error {
	var key *knownhosts.KeyError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &key) && len(key.Want) == 0:
		return disk.Hint(disk.Errorf(disk.Denied, "log in at node %s: its key is not known", d.addr), "compare it, and add it to %s: ssh-keyscan prints it", known)
	case errors.As(err, &key):
		return disk.Hint(disk.Errorf(disk.Denied, "log in at node %s: it has another key than it had: %w", d.addr, err), "find out why, before you change %s", known)
	case strings.Contains(err.Error(), "unable to authenticate"):
		return disk.Hint(disk.Errorf(disk.Denied, "log in at node %s as %s: %w", d.addr, d.user, err), "the node has to have the public key of %s among its authorized keys", d.access.KeyFile)
	}
	return disk.Errorf(disk.Unreachable, "log in at node %s: %w", d.addr, err)
}

// keyTypes are the algorithms of the keys of a host that are known: a server that has
// several is asked for one of them.
func keyTypes(check ssh.HostKeyCallback, addr string, remote net.Addr) []string {
	var key *knownhosts.KeyError
	if !errors.As(check(addr, remote, noKey{}), &key) {
		return nil
	}
	var types []string
	for _, k := range key.Want {
		switch t := k.Key.Type(); t {
		case ssh.KeyAlgoRSA:
			types = append(types, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256, t)
		default:
			types = append(types, t)
		}
	}
	return types
}

// noKey is the key of no host.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return []byte("none") }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("it is no key") }
