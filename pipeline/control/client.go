package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"

	"chromogenic/disk"
	"chromogenic/pipeline"
	"chromogenic/pipeline/jobs"
)

// A Client is the Service of another process. Its errors keep kind, code, request
// id and hint.
type Client struct {
	path string
	http *http.Client
}

var _ Service = (*Client)(nil)

// Dial finds the process that listens at path. NotFound is that there is none.
func Dial(path string) (*Client, error) {
	conn, err := connect(context.Background(), path)
	switch {
	case errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOTDIR):
		return nil, disk.Errorf(disk.NotFound, "connect to %q: nobody listens there", path)
	case err != nil:
		return nil, fmt.Errorf("connect to %q: %w", path, err)
	}
	conn.Close()
	return &Client{path, &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return connect(ctx, path) },
	}}}, nil
}

// Close ends the connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status is that of Service, as are all others.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.ask(ctx, "GET", "/status", nil, &s)
}

// Jobs are the records.
func (c *Client) Jobs(ctx context.Context) (all []jobs.Record, err error) {
	return all, c.ask(ctx, "GET", "/jobs", nil, &all)
}

// Job is one record.
func (c *Client) Job(ctx context.Context, id string) (rec jobs.Record, err error) {
	return rec, c.ask(ctx, "GET", "/jobs/"+url.PathEscape(id), nil, &rec)
}

// Wait waits for a job.
func (c *Client) Wait(ctx context.Context, id string) (rec jobs.Record, err error) {
	return rec, c.ask(ctx, "GET", "/jobs/"+url.PathEscape(id)+"/wait", nil, &rec)
}

// Cancel cancels a job.
func (c *Client) Cancel(ctx context.Context, id string) (rec jobs.Record, err error) {
	return rec, c.ask(ctx, "POST", "/jobs/"+url.PathEscape(id)+"/cancel", nil, &rec)
}

// Resume resumes a job.
func (c *Client) Resume(ctx context.Context, id, until string, progress func(pipeline.Progress)) (*jobs.Record, error) {
	return c.follow(ctx, "/jobs/"+url.PathEscape(id)+"/resume", struct {
		Until string `json:"until"`
	}{until}, progress)
}

// Copy copies.
func (c *Client) Copy(ctx context.Context, r Request, progress func(pipeline.Progress)) (*jobs.Record, error) {
	return c.follow(ctx, "/copy", r, progress)
}

// Capture captures.
func (c *Client) Capture(ctx context.Context, r CaptureRequest, progress func(pipeline.Progress)) (*jobs.Record, error) {
	return c.follow(ctx, "/capture", r, progress)
}

// Remove removes.
func (c *Client) Remove(ctx context.Context, r RemoveRequest) (what pipeline.Removed, err error) {
	return what, c.ask(ctx, "POST", "/remove", r, &what)
}

// Refresh refreshes.
func (c *Client) Refresh(ctx context.Context, site string) error {
	return c.ask(ctx, "POST", "/refresh", struct {
		Site string `json:"site"`
	}{site}, nil)
}

// GC finds leftovers.
func (c *Client) GC(ctx context.Context, o pipeline.GCOptions) ([]pipeline.Leftover, error) {
	var out leftovers
	err := c.ask(ctx, "POST", "/gc", o, &out)
	if err == nil {
		err = Err(out.Error)
	}
	return out.Leftovers, err
}

// Charge counts bytes.
func (c *Client) Charge(ctx context.Context, site string, n int64, over bool) (int64, error) {
	var out granted
	err := c.ask(ctx, "POST", "/charge", charge{site, n, over}, &out)
	return out.Bytes, err
}

// Metrics are numbers.
func (c *Client) Metrics(ctx context.Context) ([]byte, error) {
	answer, err := c.send(ctx, "GET", "/metrics", nil)
	if err != nil {
		return nil, err
	}
	defer answer.Close()
	text, err := io.ReadAll(answer)
	if err != nil {
		return nil, c.lost(ctx, err)
	}
	return text, nil
}

// ask sends one request and decodes the answer into out, unless that is nil.
func (c *Client) ask(ctx context.Context, method, path string, in, out any) error {
	answer, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer answer.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, answer)
	} else {
		err = json.NewDecoder(answer).Decode(out)
	}
	if err != nil {
		return c.lost(ctx, err)
	}
	return nil
}

// follow sends a request and reads the stream that answers it.
func (c *Client) follow(ctx context.Context, path string, in any, progress func(pipeline.Progress)) (*jobs.Record, error) {
	answer, err := c.send(ctx, "POST", path, in)
	if err != nil {
		return nil, err
	}
	defer answer.Close()
	for d := json.NewDecoder(answer); ; {
		var l line
		if err := d.Decode(&l); err != nil {
			return nil, c.lost(ctx, err)
		}
		if l.Progress == nil {
			return l.Record, Err(l.Error)
		}
		if progress != nil {
			progress(pipeline.Progress(*l.Progress))
		}
	}
}

// send sends a request and gives the body of the answer, which the caller closes.
// An answer that tells of an error is one.
func (c *Client) send(ctx context.Context, method, path string, in any) (io.ReadCloser, error) {
	var text []byte
	if in != nil {
		var err error
		if text, err = json.Marshal(in); err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://chromogenic"+path, bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, c.lost(ctx, err)
	}
	if answer.StatusCode == http.StatusOK {
		return answer.Body, nil
	}
	defer answer.Body.Close()
	var f failed
	if json.NewDecoder(answer.Body).Decode(&f) != nil || f.Error == nil {
		err := disk.Errorf(disk.Other, "ask the mount for %s: it answers %s", path, answer.Status)
		return nil, disk.Hint(err, "the mount may be of another version: chromogenic version, and .chromogenic/version in the mount, tell")
	}
	return nil, Err(f.Error)
}

// lost is the error of an answer that does not come.
func (c *Client) lost(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	err = disk.Errorf(disk.Unreachable, "ask the mount at %q: %w", c.path, err)
	return disk.Hint(err, "it has ended, or was killed; its next start goes on with its jobs")
}
