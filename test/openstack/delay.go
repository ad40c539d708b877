package openstack

import (
	"cmp"
	"errors"
	"net"
	"net/url"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Delay is a service that is far away: each byte takes its time on its way, there and
// back, and a new connection takes a whole turn before its first byte, as the handshake
// of TCP does.
type Delay struct {
	URL  string
	Rate int64 // bytes a second in each direction of a connection; 0 bounds none

	listener net.Listener
	target   string
	way      time.Duration
}

// NewDelay listens on a loopback port of its own. A round trip takes trip longer than
// to the target.
func NewDelay(target string, trip time.Duration) (*Delay, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &Delay{URL: "http://" + l.Addr().String(), listener: l, target: u.Host, way: trip / 2}
	go d.accept()
	return d, nil
}

// Close accepts no further connection; those that there are end with their client.
func (d *Delay) Close() { d.listener.Close() }

func (d *Delay) accept() {
	for {
		client, err := d.listener.Accept()
		if err != nil {
			return
		}
		go d.serve(client)
	}
}

func (d *Delay) serve(client net.Conn) {
	time.Sleep(2 * d.way)
	service, err := net.Dial("tcp", d.target)
	if err != nil {
		client.Close()
		return
	}
	near, far := client.(*net.TCPConn), service.(*net.TCPConn)
	go d.carry(far, near)
	d.carry(near, far)
}

// A parcel is on its way, in a pipe: it passes without being copied, for what is measured
// is what the way costs, and not this program.
type parcel struct {
	pipe *pipe
	n    int
	due  time.Time
}

// A pipe is one of the kernel.
type pipe struct{ in, out int }

func newPipe() (*pipe, error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, err
	}
	// As much as fits into a parcel; what may be had without it does too.
	_, _ = unix.FcntlInt(uintptr(ends[1]), unix.F_SETPIPE_SZ, parcelSize)
	return &pipe{in: ends[1], out: ends[0]}, nil
}

func (p *pipe) close() {
	unix.Close(p.in)
	unix.Close(p.out)
}

// takes is how long a connection takes for n bytes, nap at least.
func (d *Delay) takes(n int) time.Duration {
	if d.Rate == 0 {
		return nap
	}
	return max(nap, time.Duration(int64(n)*int64(time.Second)/d.Rate))
}

// take moves what comes from a connection into the empty pipe; 0 is its end.
func (p *pipe) take(from syscall.RawConn) (n int, err error) {
	e := from.Read(func(fd uintptr) bool {
		var moved int64
		moved, err = unix.Splice(int(fd), nil, p.in, nil, parcelSize, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		n = int(moved)
		return !errors.Is(err, unix.EAGAIN)
	})
	return n, cmp.Or(e, err)
}

// give moves n bytes of the pipe to a connection.
func (p *pipe) give(to syscall.RawConn, n int) (err error) {
	for n > 0 && err == nil {
		e := to.Write(func(fd uintptr) bool {
			var moved int64
			if moved, err = unix.Splice(p.out, nil, int(fd), nil, n, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK); err == nil {
				n -= int(moved)
			}
			return !errors.Is(err, unix.EAGAIN)
		})
		err = cmp.Or(err, e)
	}
	return err
}

// What may be on its way in one direction: parcels, each of up to so many bytes and of what
// a pipe holds. A network whose windows are smaller is another experiment.
const (
	inFlight   = 256
	parcelSize = 1 << 20
	nap        = 500 * time.Microsecond // between two, so that they are large
)

// carry takes what comes from one end to the other, later.
func (d *Delay) carry(to, from *net.TCPConn) {
	way, free := make(chan parcel, inFlight), make(chan *pipe, inFlight)
	source, err := from.SyscallConn()
	if err != nil {
		return
	}
	sink, err := to.SyscallConn()
	if err != nil {
		return
	}
	go func() {
		defer close(way)
		for {
			var p *pipe
			select {
			case p = <-free:
			default:
				if p, err = newPipe(); err != nil {
					return
				}
			}
			n, err := p.take(source)
			if n == 0 || err != nil {
				p.close()
				return
			}
			way <- parcel{p, n, time.Now().Add(d.way)}
			time.Sleep(d.takes(n))
		}
	}()
	for x := range way {
		time.Sleep(time.Until(x.due))
		if err := x.pipe.give(sink, x.n); err != nil {
			from.Close() // nobody reads on
			x.pipe.close()
			continue
		}
		select {
		case free <- x.pipe:
		default:
			x.pipe.close()
		}
	}
	to.CloseWrite()
	for {
		select {
		case p := <-free:
			p.close()
		default:
			return
		}
	}
}
