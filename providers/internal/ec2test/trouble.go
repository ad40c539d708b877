package ec2test

import (
	"fmt"
	"net"
	"net/http"
	"strings"
)

// A Mischief is a way in which a request goes wrong.
type Mischief string

// The ways. At says after how many bytes of a body, where they concern one.
const (
	Reset    Mischief = "reset"    // the connection breaks; of an upload after At bytes of it were read
	Lost     Mischief = "lost"     // it is done, and the connection breaks before the answer
	Stall    Mischief = "stall"    // the answer stops after At bytes, until the cloud is closed or Release is called
	Truncate Mischief = "truncate" // the answer ends after At bytes, and the connection with it
	Corrupt  Mischief = "corrupt"  // the byte at At of the answer is another
	Page     Mischief = "page"     // status 200 and a page of HTML
	Status   Mischief = "status"   // an error of Status, Code and Message
)

// A Trouble is what is to go wrong. It concerns requests whose method, or action of EC2,
// is On (empty for all), and whose path, or any parameter, contains Contains.
type Trouble struct {
	On, Contains string
	Do           Mischief
	At           int64
	Times        int // 0 for once, less for ever
	After        int // so many requests go well before

	Status        int // of Status: 503, 403
	Code, Message string
	RetryAfter    string

	met     int
	release chan struct{}
}

// SlowDown is the trouble of a store that has too much to do, so many times.
func SlowDown(times int) Trouble {
	return Trouble{Do: Status, Status: http.StatusServiceUnavailable, Code: "SlowDown", Message: "Please reduce your request rate.", Times: times}
}

// Release ends what is stalled.
func (t *Trouble) Release() { close(t.release) }

func (t Trouble) ready() *Trouble {
	if t.Times == 0 {
		t.Times = 1
	}
	t.release = make(chan struct{})
	return &t
}

// trouble takes the first of a list that concerns a request. The caller holds the lock of
// the list.
func trouble(list []*Trouble, on string, texts ...string) *Trouble {
	for _, t := range list {
		if t.Times == 0 || t.On != "" && t.On != on || !strings.Contains(strings.Join(texts, "\x00"), t.Contains) {
			continue
		}
		if t.met++; t.met <= t.After {
			continue
		}
		t.Times--
		return t
	}
	return nil
}

// Trouble has requests of EC2 go wrong.
func (c *Cloud) Trouble(t Trouble) *Trouble {
	c.mu.Lock()
	defer c.mu.Unlock()
	ready := t.ready()
	c.mischief = append(c.mischief, ready)
	return ready
}

// Calm ends all trouble of EC2; Store.Calm does so for the store.
func (c *Cloud) Calm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mischief = nil
}

// page is what a proxy answers with that knows better.
const page = "<!DOCTYPE html><html><head><title>Sign in</title></head><body><h1>Welcome</h1><p>Please sign in to the network.</p></body></html>"

// breakOff ends the connection of a request at once.
func breakOff(w http.ResponseWriter) {
	if h, ok := w.(http.Hijacker); ok {
		if conn, _, err := h.Hijack(); err == nil {
			if tcp, ok := conn.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0) // the other side gets RST
			}
			_ = conn.Close()
			return
		}
	}
	panic(http.ErrAbortHandler)
}

// write sends an answer as the trouble has it; nil has it well.
func (t *Trouble) write(w http.ResponseWriter, done <-chan struct{}, status int, body []byte) {
	cut := int64(len(body))
	if t != nil {
		switch t.Do {
		case Lost, Reset:
			breakOff(w)
			return
		case Page:
			status, body = http.StatusOK, []byte(page)
			cut = int64(len(body))
			w.Header().Set("Content-Type", "text/html")
		case Stall, Truncate:
			cut = min(t.At, cut)
		case Corrupt:
			if t.At < int64(len(body)) {
				body[t.At] ^= 0x55
			}
		}
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body[:cut])
	if t == nil || cut == int64(len(body)) {
		return
	}
	_ = http.NewResponseController(w).Flush()
	if t.Do == Stall {
		select {
		case <-t.release:
			_, _ = w.Write(body[cut:])
			return
		case <-done:
		}
	}
	breakOff(w)
}
