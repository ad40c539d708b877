// Package openstack brings up a real OpenStack for its tests (openstack.sh), and puts
// a proxy before its services that counts what passes, and injects faults into it.
package openstack

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A Fault is what goes wrong with the requests that it meets. Without any of the ways
// below it cuts the connection.
type Fault struct {
	Method, Path string // of the requests; the path ends so. Empty is any
	Times        int    // how many requests it meets; 0 is all
	Skip         int    // how many it lets pass before

	// After is how many bytes of the body pass before it happens: of the request's for a
	// PUT, of the answer's for others. An answer by Status comes before the first byte of
	// the answer.
	After int64

	Status  int            // answers so instead of the service
	Header  http.Header    // of that answer
	Body    string         // of that answer
	Stall   bool           // nothing moves any longer, for a while
	For     time.Duration  // as long, and then the connection is cut; 0 for 3 s
	Corrupt bool           // the byte behind After is another
	Cut     bool           // the answer ends as if it were whole, or nearly
	Whole   bool           // the header Range is lost on its way
	Lost    bool           // the service has done what was asked, and its answer is lost
	Do      func()         // runs when it happens, and the request goes on
	met     atomic.Int64   //
	_       [0]func(Fault) // by address only
}

// A Proxy stands before one service.
type Proxy struct {
	URL string // of the proxy

	Latency  time.Duration // added to each request
	Requests atomic.Int64
	Sent     atomic.Int64 // bytes of bodies towards the client
	Received atomic.Int64 // bytes of bodies from the client
	Refused  atomic.Int64 // answers 401 of the service

	target   *url.URL
	listener net.Listener
	server   *http.Server
	proxy    *httputil.ReverseProxy

	mu     sync.Mutex
	faults []*Fault
	log    []string
}

// stallTime is how long nothing moves where a fault does not say.
const stallTime = 3 * time.Second

type connKey struct{}

// NewProxy listens on a loopback port of its own.
func NewProxy(target string) (*Proxy, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	p := &Proxy{target: u}
	p.proxy = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(u)
			r.Out.Host = r.In.Host
		},
		ModifyResponse: p.answer,
		FlushInterval:  -1,
		ErrorHandler:   func(w http.ResponseWriter, r *http.Request, err error) { p.cut(r) },
		BufferPool:     buffers{&sync.Pool{New: func() any { return make([]byte, 256<<10) }}},
		Transport:      &http.Transport{ExpectContinueTimeout: time.Second, MaxIdleConnsPerHost: 32, DisableCompression: true, ReadBufferSize: 256 << 10, WriteBufferSize: 256 << 10},
	}
	return p, p.listen("127.0.0.1:0")
}

type buffers struct{ pool *sync.Pool }

func (b buffers) Get() []byte  { return b.pool.Get().([]byte) }
func (b buffers) Put(p []byte) { b.pool.Put(p) } //nolint:staticcheck // a slice of 256 KiB, whatever its header costs

func (p *Proxy) listen(addr string) error {
	var err error
	for range 50 { // the port may be busy for a moment when it is taken again
		if p.listener, err = net.Listen("tcp", addr); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	p.URL = "http://" + p.listener.Addr().String()
	p.server = &http.Server{
		Handler:     http.HandlerFunc(p.serve),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
	}
	go p.server.Serve(p.listener)
	return nil
}

// Close ends the proxy, and all that passes.
func (p *Proxy) Close() { p.server.Close() }

// Open listens again, where it did before.
func (p *Proxy) Open() error { return p.listen(strings.TrimPrefix(p.URL, "http://")) }

// Inject adds a fault.
func (p *Proxy) Inject(f *Fault) *Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, f)
	return f
}

// Clear takes all faults away, and sets the counters to 0.
func (p *Proxy) Clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults, p.log = nil, nil
	p.Requests.Store(0)
	p.Sent.Store(0)
	p.Received.Store(0)
}

// Log is the method, path and range of all requests.
func (p *Proxy) Log() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.log...)
}

// Met is how many requests the fault has met.
func (f *Fault) Met() int { return int(f.met.Load()) }

// fault is the one that a request meets.
func (p *Proxy) fault(r *http.Request) *Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log = append(p.log, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+r.Header.Get("Range")))
	for _, f := range p.faults {
		if f.Method != "" && f.Method != r.Method || !strings.HasSuffix(r.URL.Path, f.Path) {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		if f.Times == 0 || int(f.met.Load()) < f.Times {
			return f
		}
	}
	return nil
}

type faultKey struct{}

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) {
	p.Requests.Add(1)
	f := p.fault(r)
	if p.Latency > 0 {
		time.Sleep(p.Latency)
	}
	r = r.WithContext(r.Context()) // a body of ours in the server's own request would hide from it that the client waits (Expect)
	r.Body = &counted{ReadCloser: r.Body, n: &p.Received}
	if f != nil && r.Method == http.MethodPut && !f.Cut {
		if !p.sending(f, w, r) {
			return
		}
	} else if f != nil {
		if f.Whole {
			f.met.Add(1)
			r.Header.Del("Range")
		}
		if f.Status != 0 {
			f.met.Add(1)
			f.reply(w)
			return
		}
		r = r.WithContext(context.WithValue(r.Context(), faultKey{}, f))
	}
	p.proxy.ServeHTTP(w, r)
}

// sending injects a fault into the body of a request; false if that is the end of it.
func (p *Proxy) sending(f *Fault, w http.ResponseWriter, r *http.Request) bool {
	if f.Status != 0 {
		io.CopyN(io.Discard, r.Body, f.After)
		f.met.Add(1)
		f.reply(w)
		p.cutLater(r)
		return false
	}
	r.Body = &faulty{ReadCloser: r.Body, f: f, left: f.After, ctx: r.Context(), cut: func() { p.cut(r) }}
	return true
}

func (f *Fault) reply(w http.ResponseWriter) {
	for key, values := range f.Header {
		w.Header()[key] = values
	}
	w.WriteHeader(f.Status)
	io.WriteString(w, f.Body)
}

// errLost ends an answer before its first byte.
var errLost = errors.New("the answer is lost")

// answer injects a fault into the body of an answer.
func (p *Proxy) answer(resp *http.Response) error {
	r := resp.Request
	if resp.StatusCode == http.StatusUnauthorized {
		p.Refused.Add(1)
	}
	body := io.ReadCloser(&counted{ReadCloser: resp.Body, n: &p.Sent})
	f, ok := r.Context().Value(faultKey{}).(*Fault)
	if ok && f.Lost {
		f.met.Add(1)
		return errLost // the connection is cut
	}
	if ok && !f.Whole {
		body = &faulty{ReadCloser: body, f: f, left: f.After, ctx: r.Context(), cut: func() { p.cut(r) }}
	}
	resp.Body = body
	return nil
}

// cut resets the connection of a request.
func (p *Proxy) cut(r *http.Request) {
	if c, ok := r.Context().Value(connKey{}).(*net.TCPConn); ok {
		c.SetLinger(0)
		c.Close()
	}
}

// cutLater leaves the client time to read the answer, on a busy machine too.
func (p *Proxy) cutLater(r *http.Request) {
	time.AfterFunc(5*time.Second, func() { p.cut(r) })
}

// A counted body adds its bytes up.
type counted struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// A faulty body has a fault behind some bytes.
type faulty struct {
	io.ReadCloser
	f    *Fault
	left int64
	ctx  context.Context
	cut  func()
	over bool
}

func (b *faulty) Read(p []byte) (int, error) {
	if b.over {
		return b.ReadCloser.Read(p)
	}
	if b.left > 0 {
		n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
		b.left -= int64(n)
		return n, err
	}
	b.over = true
	if n := b.f.met.Add(1); b.f.Times > 0 && n > int64(b.f.Times) { // another one, at the same time, came first
		b.f.met.Add(-1)
		return b.ReadCloser.Read(p)
	}
	switch {
	case b.f.Do != nil:
		b.f.Do()
	case b.f.Stall: // who has read a part of a request is not told that its sender has gone
		select {
		case <-b.ctx.Done():
		case <-time.After(cmp.Or(b.f.For, stallTime)):
		}
		b.cut()
		return 0, io.ErrUnexpectedEOF
	case b.f.Corrupt:
		n, err := b.ReadCloser.Read(p)
		if n > 0 {
			p[0] ^= 0x40
		} else {
			b.over = false
			b.f.met.Add(-1)
		}
		return n, err
	case b.f.Cut:
		return 0, io.EOF
	default:
		b.cut()
		return 0, io.ErrUnexpectedEOF
	}
	return b.ReadCloser.Read(p)
}
