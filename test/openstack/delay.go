package openstack

import (
	"net"
	"net/url"
	"time"
)

// A Delay is a service that is far away: each byte takes its time on its way, there and
// back, and a new connection takes a whole turn before its first byte, as the handshake
// of TCP does. It bounds no rate.
type Delay struct {
	URL string

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
	go d.carry(service, client)
	d.carry(client, service)
}

// A parcel is on its way.
type parcel struct {
	p   []byte
	due time.Time
}

// inFlight is how much may be on its way in one direction, in parcels of 64 KiB: at 10 ms
// enough for 3 GB/s. A network whose windows are smaller is another experiment.
const inFlight = 512

// carry takes what comes from one end to the other, later.
func (d *Delay) carry(to, from net.Conn) {
	way, free := make(chan parcel, inFlight), make(chan []byte, inFlight)
	go func() {
		defer close(way)
		for {
			var p []byte
			select {
			case p = <-free:
			default:
				p = make([]byte, 64<<10)
			}
			n, err := from.Read(p)
			if n > 0 {
				way <- parcel{p[:n], time.Now().Add(d.way)}
			}
			if err != nil {
				return
			}
		}
	}()
	for x := range way {
		time.Sleep(time.Until(x.due))
		if _, err := to.Write(x.p); err != nil {
			from.Close() // nobody reads on
		}
		select {
		case free <- x.p[:cap(x.p)]:
		default:
		}
	}
	if c, ok := to.(*net.TCPConn); ok {
		c.CloseWrite()
	}
}
