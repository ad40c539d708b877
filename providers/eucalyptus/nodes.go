package eucalyptus

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"

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
