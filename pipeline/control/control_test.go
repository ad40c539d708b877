package control

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/pipeline"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
	"chromogenic/providers/local"
)

// newPipeline is one over the folders a and b of dir, with the image web in a.
func newPipeline(t *testing.T, dir string) *pipeline.Pipeline {
	t.Helper()
	var sites []pipeline.Site
	for _, name := range []string{"a", "b"} {
		folder := filepath.Join(dir, name)
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		p, err := local.New(local.Options{Name: name, Images: folder, Formats: map[string]string{"raw": "raw"}})
		if err != nil {
			t.Fatal(err)
		}
		sites = append(sites, pipeline.Site{Provider: p})
	}
	p, err := disktest.Read(image())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a/web.raw"), p, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := pipeline.New(pipeline.Options{Sites: sites, StateDir: filepath.Join(dir, "state")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := out.Close(); err != nil {
			t.Error(err)
		}
	})
	return out
}

func image() disk.Image { return disktest.Pattern(1<<20, nil) }

// web is a request to copy the image to b.
func web() Request {
	return Request{
		Source:      Source{Site: "a", Kind: providers.Images, ID: "web.raw", Format: "raw"},
		Destination: Destination{Site: "b"},
	}
}

// connected serves s and gives a client of it.
func connected(t *testing.T, s Service) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), SocketName)
	stop, err := serve(t.Context(), s, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	c, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func wantKind(t *testing.T, err error, want disk.Kind) {
	t.Helper()
	if got := disk.KindOf(err); err == nil || got != want {
		t.Errorf("error %v is %s, want %s", err, got, want)
	}
}

// A command need not know whether it asks a mount or a pipeline of its own.
func TestServices(t *testing.T) {
	for name, of := range map[string]func(*testing.T, *pipeline.Pipeline) Service{
		"local":  func(_ *testing.T, p *pipeline.Pipeline) Service { return Local(p) },
		"client": func(t *testing.T, p *pipeline.Pipeline) Service { return connected(t, Local(p)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			testService(t, dir, of(t, newPipeline(t, dir)))
		})
	}
}

func testService(t *testing.T, dir string, s Service) {
	ctx := t.Context()

	status, err := s.Status(ctx)
	if err != nil || status.PID != os.Getpid() || !slices.Equal(status.Providers, []string{"a", "b"}) {
		t.Errorf("status %+v, %v", status, err)
	}
	if all, err := s.Jobs(ctx); err != nil || len(all) != 0 {
		t.Errorf("jobs %+v, %v", all, err)
	}

	r := web()
	r.DryRun = true
	if rec, err := s.Copy(ctx, r, nil); err != nil || rec.State != jobs.Planned {
		t.Errorf("a dry run is %+v, %v", rec, err)
	}
	r.DryRun, r.Until = false, "layout"
	rec, err := s.Copy(ctx, r, func(pipeline.Progress) {})
	if err != nil || rec.State != jobs.Interrupted || rec.Destination != "b:images/web" {
		t.Fatalf("a copy until layout is %+v, %v", rec, err)
	}
	short := rec.ID[len(rec.ID)-6:]
	if got, err := s.Wait(ctx, short); err != nil || got.ID != rec.ID {
		t.Errorf("waited for %+v, %v", got, err)
	}
	if found, err := s.GC(ctx, pipeline.GCOptions{DryRun: true}); err != nil || len(found) != 0 {
		t.Errorf("found %+v, %v", found, err)
	}
	if rec, err = s.Resume(ctx, short, "", nil); err != nil || rec.State != jobs.Done || rec.Entry == nil {
		t.Fatalf("resumed %+v, %v", rec, err)
	}
	if got, err := s.Job(ctx, short); err != nil || !cmp.Equal(got.Stages, rec.Stages) || got.GuestDigest == "" {
		t.Errorf("the record is %+v, %v", got, err)
	}
	_, err = s.Cancel(ctx, short)
	wantKind(t, err, disk.Invalid)
	_, err = s.Resume(ctx, short, "", nil)
	wantKind(t, err, disk.Invalid)

	r.Destination.Name = "two"
	if rec, err = s.Copy(ctx, r, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Cancel(ctx, rec.ID); err != nil || got.State != jobs.Cancelled || got.Error == nil {
		t.Errorf("cancelled %+v, %v", got, err)
	}
	if all, err := s.Jobs(ctx); err != nil || len(all) != 2 || all[1].ID != rec.ID {
		t.Errorf("jobs %+v, %v", all, err)
	}

	// An image that nobody has listed yet.
	if err := os.Rename(filepath.Join(dir, "a/web.raw"), filepath.Join(dir, "a/new.raw")); err != nil {
		t.Fatal(err)
	}
	r = web()
	r.Source.ID = "new.raw"
	if rec, err := s.Copy(ctx, r, nil); err != nil || rec.Destination != "b:images/new" {
		t.Errorf("a copy of a new image is %+v, %v", rec, err)
	}
	_, err = s.Copy(ctx, web(), nil)
	wantKind(t, err, disk.NotFound)
	r.Source.Site = "nowhere"
	_, err = s.Copy(ctx, r, nil)
	wantKind(t, err, disk.NotFound)
	_, err = s.Job(ctx, "nothing")
	wantKind(t, err, disk.NotFound)
	if disk.AsError(err).Hint == "" {
		t.Errorf("no hint in %v", err)
	}

	if text, err := s.Metrics(ctx); err != nil || !strings.Contains(string(text), "\nchromogenic_jobs_running 0\n") {
		t.Errorf("metrics %s, %v", text, err)
	}
	testRemove(t, s)

	for _, site := range []string{"", "a"} {
		if err := s.Refresh(ctx, site); err != nil {
			t.Errorf("refresh %q: %v", site, err)
		}
	}
	wantKind(t, s.Refresh(ctx, "nowhere"), disk.NotFound)
	if err := os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "away")); err != nil {
		t.Fatal(err)
	}
	wantKind(t, s.Refresh(ctx, "a"), disk.Unreachable)
	if err := s.Refresh(ctx, "b"); err != nil {
		t.Errorf("refresh of the other: %v", err)
	}
	_, err = s.GC(ctx, pipeline.GCOptions{DryRun: true})
	wantKind(t, err, disk.Unreachable)
}

// testRemove removes the image two of b, for which somebody has seen an older
// listing first.
func testRemove(t *testing.T, s Service) {
	t.Helper()
	ctx := t.Context()
	rec, err := s.Copy(ctx, Request{Source: Source{Site: "a", Kind: providers.Images, ID: "new.raw", Format: "raw"}, Destination: Destination{Site: "b", Name: "two"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := RemoveRequest{Site: "b", Kind: providers.Images, ID: rec.Entry.ID, Version: "another"}
	_, err = s.Remove(ctx, r)
	wantKind(t, err, disk.Stale)
	r.Version, r.DryRun = rec.Entry.Version, true
	if got, err := s.Remove(ctx, r); err != nil || got.Job != "" || !slices.Equal(got.Files, []string{"two.raw"}) {
		t.Errorf("a dry run is %+v, %v", got, err)
	}
	r.DryRun = false
	got, err := s.Remove(ctx, r)
	if err != nil || got.Size != image().Size() {
		t.Fatalf("removed %+v, %v", got, err)
	}
	if rec, err := s.Job(ctx, got.Job); err != nil || rec.Source != "b:images/two" || rec.State != jobs.Done {
		t.Errorf("the record is %+v, %v", rec, err)
	}
	_, err = s.Remove(ctx, r)
	wantKind(t, err, disk.NotFound)
}

// A job that is resumed waits on when who resumed it goes away.
func TestResumeIsSuspended(t *testing.T) {
	p := newPipeline(t, t.TempDir())
	s := Local(p)
	r := web()
	r.Until = "layout"
	rec, err := s.Copy(t.Context(), r, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = s.Resume(ctx, rec.ID, "", func(p pipeline.Progress) {
		if p.Stage == "verify" {
			cancel()
		}
	})
	wantKind(t, err, disk.Cancelled)
	if hint := disk.AsError(err).Hint; !strings.Contains(hint, "resume "+rec.ID) {
		t.Errorf("the hint is %q", hint)
	}
	if got, err := p.Jobs().Get(rec.ID); err != nil || got.State != jobs.Interrupted {
		t.Errorf("the record is %+v, %v", got, err)
	}
	if rec, err := s.Resume(t.Context(), rec.ID, "", nil); err != nil || rec.State != jobs.Done {
		t.Errorf("resumed %+v, %v", rec, err)
	}
}

// A fake answers with err; its Copy waits for the end of its context.
type fake struct {
	Service
	err   error
	began chan struct{}
	cause chan error
}

func newFake() *fake { return &fake{began: make(chan struct{}), cause: make(chan error, 1)} }

func (f *fake) Job(context.Context, string) (jobs.Record, error) { return jobs.Record{}, f.err }

func (f *fake) Resume(context.Context, string, string, func(pipeline.Progress)) (*jobs.Record, error) {
	return &jobs.Record{ID: "x"}, f.err
}

func (f *fake) GC(context.Context, pipeline.GCOptions) ([]pipeline.Leftover, error) {
	return []pipeline.Leftover{{ID: "x"}}, f.err
}

func (f *fake) Copy(ctx context.Context, _ Request, progress func(pipeline.Progress)) (*jobs.Record, error) {
	progress(pipeline.Progress{Stage: "send", Done: 1, Total: 2})
	close(f.began)
	<-ctx.Done()
	f.cause <- context.Cause(ctx)
	return nil, context.Cause(ctx)
}

// Errors keep all that a user is told, whatever the way.
func TestErrorsCross(t *testing.T) {
	for _, k := range disk.Kinds() {
		f := newFake()
		f.err = &disk.Error{Kind: k.Kind, Code: "CHR-9999", RequestID: "req-1", Hint: "do that", Err: errors.New("it fails")}
		c := connected(t, f)
		for name, ask := range map[string]func() error{
			"answer": func() error { _, err := c.Job(t.Context(), "x"); return err },
			"stream": func() error {
				rec, err := c.Resume(t.Context(), "x", "", nil)
				if rec == nil || rec.ID != "x" {
					t.Errorf("the record does not come with the error: %+v", rec)
				}
				return err
			},
			"beside an answer": func() error {
				found, err := c.GC(t.Context(), pipeline.GCOptions{DryRun: true})
				if len(found) != 1 {
					t.Errorf("what was found does not come with the error: %+v", found)
				}
				return err
			},
		} {
			e := disk.AsError(ask())
			if e.Kind != k.Kind || e.Code != "CHR-9999" || e.RequestID != "req-1" || e.Hint != "do that" || e.Error() != "it fails" {
				t.Errorf("%s of %s: %+v", name, k.Name, e)
			}
		}
	}
}

func TestCopyEndsWithItsCommand(t *testing.T) {
	f := newFake()
	c := connected(t, f)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("interrupted")
	_, err := c.Copy(ctx, web(), func(p pipeline.Progress) {
		if p != (pipeline.Progress{Stage: "send", Done: 1, Total: 2}) {
			t.Errorf("progress %+v", p)
		}
		cancel(why)
	})
	if !errors.Is(err, why) {
		t.Errorf("error %v, want %v", err, why)
	}
	select {
	case cause := <-f.cause:
		wantKind(t, cause, disk.Cancelled)
		if cause == pipeline.ErrSuspended {
			t.Error("the copy is suspended, and not cancelled")
		}
	case <-time.After(10 * time.Second):
		t.Error("the copy goes on without its command")
	}
}

func TestStopSuspends(t *testing.T) {
	for name, by := range map[string]func(stop, cancel func()){
		"function": func(stop, _ func()) { stop() },
		"context":  func(_, cancel func()) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), SocketName)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			f := newFake()
			stop, err := serve(ctx, f, path, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			c, err := Dial(path)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			result := make(chan error, 1)
			go func() {
				_, err := c.Copy(t.Context(), web(), nil)
				result <- err
			}()
			<-f.began
			by(stop, cancel)
			if cause := <-f.cause; cause != pipeline.ErrSuspended {
				t.Errorf("the copy ends with %v", cause)
			}
			wantKind(t, <-result, disk.Cancelled)
			stop()
			if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the socket is left: %v", err)
			}
			_, err = Dial(path)
			wantKind(t, err, disk.NotFound)
			_, err = c.Job(t.Context(), "x")
			wantKind(t, err, disk.Unreachable)
		})
	}
}

// A panic of one copy is its own failure.
func TestPanic(t *testing.T) {
	_, err := connected(t, Local(nil)).Copy(t.Context(), web(), nil)
	wantKind(t, err, disk.Other)
	if err == nil || !strings.Contains(err.Error(), "panic") {
		t.Errorf("error %v", err)
	}
}

func TestRequests(t *testing.T) {
	c := connected(t, newFake())
	for _, r := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "/copy", `{"source": `, http.StatusBadRequest},
		{"POST", "/copy", `{"sorce": {}}`, http.StatusBadRequest},
		{"POST", "/copy", `{"store": "` + strings.Repeat("x", maxBody) + `"}`, http.StatusBadRequest},
		{"POST", "/gc", `[]`, http.StatusBadRequest},
		{"GET", "/copy", ``, http.StatusMethodNotAllowed},
		{"GET", "/nothing", ``, http.StatusNotFound},
	} {
		q, err := http.NewRequestWithContext(t.Context(), r.method, "http://x"+r.path, strings.NewReader(r.body))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := c.http.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != r.status {
			t.Errorf("%s %s %.20s: %d, want %d", r.method, r.path, r.body, answer.StatusCode, r.status)
		}
	}
	wantKind(t, c.ask(t.Context(), "GET", "/nothing", nil, nil), disk.Other)
}

func TestSocket(t *testing.T) {
	dir := t.TempDir()
	long := filepath.Join(dir, strings.Repeat("d", 100), strings.Repeat("e", 100))
	if err := os.MkdirAll(long, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{"short": dir, "long": long} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, SocketName)
			_, err := Dial(path)
			wantKind(t, err, disk.NotFound)
			// As a process that was killed leaves it.
			l, err := listen(path)
			if err != nil {
				t.Fatal(err)
			}
			l.Close()
			_, err = Dial(path)
			wantKind(t, err, disk.NotFound)

			stop, err := serve(t.Context(), newFake(), path, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			if info, err := os.Lstat(path); err != nil || info.Mode() != os.ModeSocket|0o600 {
				t.Errorf("the socket has mode %v, %v", info.Mode(), err)
			}
			c, err := Dial(path)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Job(t.Context(), "x"); err != nil {
				t.Error(err)
			}
			_, err = serve(t.Context(), newFake(), path, nil)
			wantKind(t, err, disk.Busy)
		})
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := listen(file)
	wantKind(t, err, disk.Exists)
	_, err = Dial(filepath.Join(file, SocketName))
	wantKind(t, err, disk.NotFound)
}
