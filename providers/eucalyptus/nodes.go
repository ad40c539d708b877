package eucalyptus

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"chromogenic/disk"
	"chromogenic/providers"
	"chromogenic/providers/internal/ec2"
)

// NodeAccess is a way to the disks of instances on the nodes that they run on, for private
// clouds whose owner allows it: ssh. The instance is not restarted.
type NodeAccess struct {
	SSH        string // USER@HOST[:PORT]; %h in it is the node of the instance, as the cloud tells its administrators
	KeyFile    string // the private key, without a passphrase
	Path       string // of the disk on the node; {instance} is the id of the instance, {owner} the number of its account
	KnownHosts string // empty for ~/.ssh/known_hosts

	// Pause has the instance stand still while its disk is read (virsh suspend), so that the
	// copy is as after a power failure. Otherwise it is Torn.
	Pause bool
}

// Torn is the consistency of a disk that was read while the instance wrote to it: its parts
// are of different moments. A file system with a journal may come through a check, or not.
const Torn providers.Consistency = "torn"

// check refuses what cannot be.
func (n *NodeAccess) check() error {
	switch {
	case n == nil:
		return nil
	case n.Path == "" || n.KeyFile == "":
		return disk.Errorf(disk.Invalid, "make provider: access to nodes needs a key file, and the path of the disks")
	case strings.Count(n.SSH, "@") != 1 || strings.HasPrefix(n.SSH, "@") || strings.HasSuffix(n.SSH, "@"):
		return disk.Errorf(disk.Invalid, "make provider: access to nodes: %q is not USER@HOST", n.SSH)
	}
	return nil
}

// snapshotOfNode opens the disk of an instance on its node. It is read when it is fetched.
func (p *Provider) snapshotOfNode(ctx context.Context, i ec2.Instance, spec providers.SnapSpec) (providers.Snapshot, error) {
	d, err := newNodeDisk(p.o.Nodes, i, p.o.Stall)
	if err == nil {
		d.size, err = d.measure(ctx)
	}
	if err != nil {
		return providers.Snapshot{}, err
	}
	how := Torn
	if p.o.Nodes.Pause {
		how = providers.Crash
	}
	return providers.Snapshot{
		ID: spec.Job + "/" + nodeToken, Taken: time.Now(), Consistency: how, Metadata: p.inherited(ctx, i),
		Disks: []providers.Source{{Image: d, Format: "raw", InOrder: true}},
	}, nil
}

// nodeToken is the id of a snapshot of which the cloud knows nothing.
const nodeToken = "node"

// A nodeDisk is the disk of an instance on its node: a stream of it, at the time of Fill.
type nodeDisk struct {
	access   *NodeAccess
	instance string
	user     string
	addr     string
	path     string
	stall    time.Duration
	size     int64

	ctx    context.Context
	cancel context.CancelCauseFunc
}

func newNodeDisk(n *NodeAccess, i ec2.Instance, stall time.Duration) (*nodeDisk, error) {
	if !isID(i.ID) || i.Owner != "" && !isAccount(i.Owner) {
		return nil, disk.Errorf(disk.Malformed, "the cloud calls the instance %q of account %q", i.ID, i.Owner)
	}
	user, host, _ := strings.Cut(n.SSH, "@")
	if strings.Contains(host, "%h") {
		node := i.Tags["euca:node"]
		if node == "" {
			err := disk.Errorf(disk.Unsupported, "the cloud does not tell on which node instance %s runs", i.ID)
			return nil, disk.Hint(err, "it tells its administrators alone, as the tag euca:node: use their credentials, or name the node")
		}
		host = strings.ReplaceAll(host, "%h", node)
	}
	if _, _, err := net.SplitHostPort(host); err != nil {
		host = net.JoinHostPort(host, "22")
	}
	d := &nodeDisk{
		access: n, instance: i.ID, user: user, addr: host, stall: stall,
		path: strings.NewReplacer("{instance}", i.ID, "{owner}", i.Owner).Replace(n.Path),
	}
	d.ctx, d.cancel = context.WithCancelCause(context.Background())
	return d, nil
}

// isID tells whether a text is an id of the cloud, and so a plain name of a file.
func isID(s string) bool {
	return s != "" && len(s) < 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") == "" && s[0] != '-'
}

func (d *nodeDisk) Size() int64 { return d.size }

// Close ends a Fill that is running.
func (d *nodeDisk) Close() error {
	d.cancel(disk.ErrClosed)
	return nil
}

// Extent is all of it.
func (d *nodeDisk) Extent(off, n int64) (disk.Extent, error) {
	if d.ctx.Err() != nil {
		return disk.Extent{}, disk.ErrClosed
	}
	n, err := disk.CheckRange(off, n, d.size)
	return disk.Extent{Off: off, Len: n}, err
}

// ReadAt fails.
func (d *nodeDisk) ReadAt([]byte, int64) (int, error) {
	if d.ctx.Err() != nil {
		return 0, disk.ErrClosed
	}
	return 0, disk.Errorf(disk.Unsupported, "read instance %s on its node: it must be fetched as a whole", d.instance)
}

// sizeCommand prints the size of a file or a block device, whichever the disk is.
const sizeCommand = `{ test -b %[1]s && blockdev --getsize64 %[1]s || stat -L -c %%s %[1]s; }`

// measure is the size of the disk.
func (d *nodeDisk) measure(ctx context.Context) (size int64, err error) {
	err = d.run(ctx, fmt.Sprintf(sizeCommand, quoted(d.path)), func(out io.Reader) error {
		size, err = readSize(bufio.NewReader(out))
		return err
	})
	return size, err
}

// readSize reads a line with a size in bytes.
func readSize(r *bufio.Reader) (int64, error) {
	line, err := r.ReadSlice('\n')
	if err != nil && err != io.EOF {
		return 0, fmt.Errorf("read size of the disk: %w", err)
	}
	size, err := strconv.ParseInt(strings.TrimSpace(string(line)), 10, 64)
	if err != nil || size <= 0 {
		return 0, disk.Errorf(disk.NotFound, "read size of the disk: the node says %.80q", line)
	}
	return size, nil
}

// Fill streams the disk: dd and gzip are on every node, zeros are hardly anything when they
// are packed, and the checksum of gzip tells what was lost on the way. Zeros are not written
// to the spool. Progress is called with the bytes of the disk.
func (d *nodeDisk) Fill(ctx context.Context, to spool, progress func(done int64)) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(d.ctx, func() { cancel(context.Cause(d.ctx)) })()
	if d.access.Pause {
		if err := d.virsh(ctx, "suspend"); err != nil {
			return err
		}
		defer func() {
			resume, stop := context.WithTimeout(context.WithoutCancel(ctx), abortTime)
			defer stop()
			if failed := d.virsh(resume, "resume"); failed != nil {
				failed = disk.Hint(fmt.Errorf("it stands still: %w", failed), "let it go on: virsh resume %s, on node %s", d.instance, d.addr)
				err = errors.Join(failed, err)
			}
		}()
	}
	path := quoted(d.path)
	err = d.run(ctx, fmt.Sprintf(sizeCommand+` && dd if=%[1]s bs=1048576 2>/dev/null | gzip -1c`, path), func(out io.Reader) error {
		return d.unpack(ctx, bufio.NewReaderSize(out, 256<<10), to, progress)
	})
	if err != nil {
		return fmt.Errorf("fetch disk of %s: %w", d.instance, err)
	}
	return nil
}

// virsh suspends or resumes the instance.
func (d *nodeDisk) virsh(ctx context.Context, verb string) error {
	err := d.run(ctx, "virsh -q "+verb+" "+quoted(d.instance), func(out io.Reader) error {
		_, err := io.Copy(io.Discard, out)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s instance %s: %w", verb, d.instance, err)
	}
	return nil
}

// unpack writes the stream to the spool.
func (d *nodeDisk) unpack(ctx context.Context, in *bufio.Reader, to spool, progress func(done int64)) error {
	size, err := readSize(in)
	if err != nil {
		return err
	}
	if size != d.size {
		return disk.Errorf(disk.Stale, "the disk has %d bytes, it had %d", size, d.size)
	}
	if err := to.Begin(size, size); err != nil {
		return fmt.Errorf("begin spool: %w", err)
	}
	zr, err := gzip.NewReader(in)
	if err != nil {
		return damagedStream(err)
	}
	defer zr.Close()
	block := make([]byte, 64<<10)
	for off := int64(0); ; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := io.ReadFull(zr, block)
		if off+int64(n) > size {
			return disk.Errorf(disk.Malformed, "the disk goes on behind byte %d", size)
		}
		if !zeros(block[:n]) {
			if _, err := to.WriteAt(block[:n], off); err != nil {
				return err
			}
		}
		off += int64(n)
		if progress != nil {
			progress(off)
		}
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF && off == size:
			if off < size {
				return disk.Errorf(disk.Malformed, "the disk ends at byte %d of %d: reading it has failed on the node", off, size)
			}
			if err == io.ErrUnexpectedEOF { // the last block; is the checksum right?
				if _, err := io.ReadFull(zr, block[:1]); err != io.EOF {
					return damagedStream(err)
				}
			}
			return nil
		case err != nil:
			return damagedStream(err)
		}
	}
}

// damagedStream is the error of what came from the node.
func damagedStream(err error) error {
	if errors.Is(err, gzip.ErrChecksum) || errors.Is(err, gzip.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return disk.Errorf(disk.Malformed, "what the node sends is cut off or damaged: %w", err)
	}
	return err
}

func zeros(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// quoted is a word of a shell.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

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
		return disk.Errorf(disk.Timeout, "node %s: %w", d.addr, errStalled)
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
