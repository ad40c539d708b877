package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"chromogenic/disk"
	"chromogenic/pipeline"
	"chromogenic/pipeline/jobs"
)

const (
	maxBody     = 64 << 10               // of a request, in bytes
	headTime    = 5 * time.Second        // for a request to arrive
	idleTime    = time.Minute            // of a connection
	stopTime    = 10 * time.Second       // for what runs to be suspended
	streamEvery = 200 * time.Millisecond // between two lines of progress
)

// Serve listens at path, a socket in the state directory of p, until the function
// is called, which must be before p is closed. When ctx ends, or with the
// function, copies and jobs that run for a command are suspended.
func Serve(ctx context.Context, p *pipeline.Pipeline, path string, log *slog.Logger) (stop func(), err error) {
	return serve(ctx, Local(p), path, log)
}

func serve(ctx context.Context, s Service, path string, log *slog.Logger) (stop func(), err error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	l, err := listen(path)
	if err != nil {
		return nil, err
	}
	base, suspend := context.WithCancelCause(context.WithoutCancel(ctx))
	undo := context.AfterFunc(ctx, func() { suspend(pipeline.ErrSuspended) })
	server := &http.Server{
		Handler:           handler(s),
		BaseContext:       func(net.Listener) context.Context { return base },
		ReadHeaderTimeout: headTime,
		IdleTimeout:       idleTime,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Warn("serve control socket", "path", path, "error", err)
		}
	}()
	return sync.OnceFunc(func() {
		undo()
		suspend(pipeline.ErrSuspended)
		wait, done := context.WithTimeout(context.Background(), stopTime)
		defer done()
		if err := server.Shutdown(wait); err != nil {
			log.Warn("close control socket: a command still waits", "error", err)
			server.Close()
		}
		<-ended
		if err := os.Remove(path); err != nil {
			log.Warn("remove control socket", "error", err)
		}
	}), nil
}

// handler serves s.
func handler(s Service) http.Handler {
	mux := http.NewServeMux()
	get := func(path string, answer func(r *http.Request) (any, error)) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) { reply(w, r, answer) })
	}
	post := func(path string, answer func(r *http.Request) (any, error)) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) { reply(w, r, answer) })
	}
	get("/status", func(r *http.Request) (any, error) { return s.Status(r.Context()) })
	get("/jobs", func(r *http.Request) (any, error) {
		all, err := s.Jobs(r.Context())
		if all == nil {
			all = []jobs.Record{}
		}
		return all, err
	})
	get("/jobs/{id}", func(r *http.Request) (any, error) { return s.Job(r.Context(), r.PathValue("id")) })
	get("/jobs/{id}/wait", func(r *http.Request) (any, error) { return s.Wait(r.Context(), r.PathValue("id")) })
	post("/jobs/{id}/cancel", func(r *http.Request) (any, error) { return s.Cancel(r.Context(), r.PathValue("id")) })
	post("/refresh", func(r *http.Request) (any, error) {
		var in struct{ Site string }
		if err := body(r, &in); err != nil {
			return nil, err
		}
		return struct{}{}, s.Refresh(r.Context(), in.Site)
	})
	post("/remove", func(r *http.Request) (any, error) {
		var in RemoveRequest
		if err := body(r, &in); err != nil {
			return nil, err
		}
		return s.Remove(r.Context(), in)
	})
	post("/gc", func(r *http.Request) (any, error) {
		var in pipeline.GCOptions
		if err := body(r, &in); err != nil {
			return nil, err
		}
		found, err := s.GC(r.Context(), in)
		return leftovers{found, jobs.ErrorOf(err)}, nil
	})
	post("/charge", func(r *http.Request) (any, error) {
		var in charge
		if err := body(r, &in); err != nil {
			return nil, err
		}
		n, err := s.Charge(r.Context(), in.Site, in.Bytes, in.Over)
		return granted{n}, err
	})
	mux.HandleFunc("POST /jobs/{id}/resume", func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Until string }
		stream(w, r, &in, func(ctx context.Context, p func(pipeline.Progress)) (*jobs.Record, error) {
			return s.Resume(ctx, r.PathValue("id"), in.Until, p)
		})
	})
	mux.HandleFunc("POST /copy", func(w http.ResponseWriter, r *http.Request) {
		var in Request
		stream(w, r, &in, func(ctx context.Context, p func(pipeline.Progress)) (*jobs.Record, error) {
			return s.Copy(ctx, in, p)
		})
	})
	mux.HandleFunc("POST /capture", func(w http.ResponseWriter, r *http.Request) {
		var in CaptureRequest
		stream(w, r, &in, func(ctx context.Context, p func(pipeline.Progress)) (*jobs.Record, error) {
			return s.Capture(ctx, in, p)
		})
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		text, err := s.Metrics(r.Context())
		if err != nil {
			refuse(w, err)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write(text) // who asked may be gone
	})
	return http.MaxBytesHandler(mux, maxBody)
}

// body decodes the request; an empty one leaves in as it is.
func body(r *http.Request, in any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(in); err != nil && !errors.Is(err, io.EOF) {
		return disk.Errorf(disk.Invalid, "read request: %w", err)
	}
	return nil
}

// reply answers with one value or an error.
func reply(w http.ResponseWriter, r *http.Request, answer func(r *http.Request) (any, error)) {
	out, err := answer(r)
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // who asked may be gone
}

// refuse answers with an error.
func refuse(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status(disk.KindOf(err)))
	_ = json.NewEncoder(w).Encode(failed{jobs.ErrorOf(err)})
}

// status is what HTTP says of a kind of error.
func status(k disk.Kind) int {
	switch k {
	case disk.NotFound:
		return http.StatusNotFound
	case disk.Invalid:
		return http.StatusBadRequest
	case disk.Denied, disk.Policy, disk.ReadOnly:
		return http.StatusForbidden
	case disk.Exists, disk.Busy:
		return http.StatusConflict
	}
	return http.StatusInternalServerError
}

// stream decodes the request into in, runs do, and tells how far it is until its
// result is there. Progress never waits for who reads it.
func stream(w http.ResponseWriter, r *http.Request, in any, do func(context.Context, func(pipeline.Progress)) (*jobs.Record, error)) {
	if err := body(r, in); err != nil {
		refuse(w, err)
		return
	}
	ctx, stop := endingWith(r.Context(), disk.Errorf(disk.Cancelled, "the command that waited for it has ended"))
	defer stop()
	var latest atomic.Pointer[pipeline.Progress]
	result := make(chan line, 1)
	go func() {
		rec, err := guard(func() (*jobs.Record, error) {
			return do(ctx, func(p pipeline.Progress) { latest.Store(&p) })
		})
		result <- line{Record: rec, Error: jobs.ErrorOf(err)}
	}()
	w.Header().Set("Content-Type", "application/jsonl")
	enc, flush := json.NewEncoder(w), http.NewResponseController(w)
	tick := time.NewTicker(streamEvery)
	defer tick.Stop()
	for {
		select {
		case last := <-result:
			_ = enc.Encode(last) // who asked may be gone
			return
		case <-tick.C:
			p := latest.Swap(nil)
			if p == nil {
				continue
			}
			now := progress(*p)
			if enc.Encode(line{Progress: &now}) == nil {
				_ = flush.Flush()
			}
		}
	}
}

// guard makes an error of a panic, which net/http catches in its own goroutines
// alone: one bad copy must not end the mount.
func guard(do func() (*jobs.Record, error)) (rec *jobs.Record, err error) {
	defer func() {
		if e := recover(); e != nil {
			err = fmt.Errorf("run job: panic: %v", e)
		}
	}()
	return do()
}
