package openstack

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"
	"golang.org/x/sync/singleflight"

	"chromogenic/disk"
	"chromogenic/providers"
	"chromogenic/providers/internal/stall"
)

// A client asks the services of one cloud, in one project and region. It logs in when
// it must, with credentials that it reads anew each time: before a token ends, after
// one was refused, and when the files of credentials have changed. It is safe for
// concurrent use.
type client struct {
	cloud, region string
	retry         *providers.Retry
	stall         time.Duration // without a byte, that a request is given up after

	logins  singleflight.Group
	mu      sync.Mutex
	current *session
}

// A session is what a login has given.
type session struct {
	token     string
	renew     time.Time // when another one is due; zero for never
	endpoints map[string]string
	project   string // its id
	who       string // for people
	roles     []string
	volumes   bool // the cloud has a block storage service
	source    string
	stamp     string
	http      *http.Client
	transport *http.Transport
}

// renewal is how long before its end a token is replaced, at most: a request that begins
// with it is judged by the service a little later, by another clock.
const renewal = 2 * time.Minute

func newClient(o Options) *client {
	c := &client{cloud: o.Cloud, region: o.Region, stall: o.Stall, retry: providers.NewRetry(o.Retry, parallel)}
	if c.stall == 0 {
		c.stall = 30 * time.Second
	}
	return c
}

// parallel is how many requests of one provider run at a time.
const parallel = 16

// session gives one whose token is good, as far as can be known. Refused is the token
// of which a service has said that it is not. Those who need a login at the same time wait
// for one, and share what comes of it.
func (c *client) session(ctx context.Context, refused string) (*session, error) {
	if s := c.good(refused); s != nil {
		return s, nil
	}
	select {
	case r := <-c.logins.DoChan(refused, func() (any, error) { return c.renew(refused) }):
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*session), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// account is the session for what is not a request itself, with the retries of one.
func (c *client) account(ctx context.Context) (s *session, err error) {
	err = c.retry.Do(ctx, func(ctx context.Context) error {
		s, err = c.session(ctx, "")
		return err
	})
	return s, err
}

// renew logs in, for all who wait for it.
func (c *client) renew(refused string) (*session, error) {
	if s := c.good(refused); s != nil { // somebody has just logged in
		return s, nil
	}
	mark := stamp()
	cred, err := readCredentials(c.cloud, c.region)
	if err != nil {
		if s := c.valid(refused); s != nil { // the files are being replaced, and its token is good until it ends
			return s, nil
		}
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), c.stall, stall.Err)
	defer cancel()
	s, err := login(ctx, cred)
	if err != nil {
		return nil, err
	}
	s.stamp = mark
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current = s
	return s, nil
}

// valid is the session that is there, nil where its token is not good any longer.
func (c *client) valid(refused string) *session {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.current
	// By the wall clock: a laptop sleeps.
	if s != nil && s.token != refused && (s.renew.IsZero() || time.Now().Round(0).Before(s.renew)) {
		return s
	}
	return nil
}

// good is valid, nil also where the files of credentials have changed since.
func (c *client) good(refused string) *session {
	if s := c.valid(refused); s != nil && s.stamp == stamp() {
		return s
	}
	return nil
}

func login(ctx context.Context, cred *credentials) (*session, error) {
	s := &session{endpoints: map[string]string{}, source: cred.source}
	s.transport, s.http = newHTTP(cred.tls)
	cloud, err := openstack.NewClient(cred.auth.IdentityEndpoint)
	if err != nil {
		return nil, disk.Errorf(disk.Denied, "log in at %q: %w", cred.auth.IdentityEndpoint, err)
	}
	cloud.HTTPClient = *s.http
	if err := openstack.Authenticate(ctx, cloud, cred.auth); err != nil {
		s.transport.CloseIdleConnections()
		return nil, loginError(ctx, err)
	}
	s.token = cloud.Token()
	s.endpoints[identityService] = strings.TrimSuffix(cloud.IdentityBase, "/") + "/v3" // where the login was
	catalog, err := s.read(cloud.GetAuthResult())
	if err != nil {
		return nil, &disk.Error{Kind: disk.Denied, Err: fmt.Errorf("log in: %w", err)}
	}
	return s, s.locate(catalog, cred)
}

// mine tells whether an image is of the project, as far as both are known.
func (s *session) mine(r *record) bool {
	return r.Owner == s.project || s.project == "" || r.Owner == ""
}

// An answer to a login, or to the question what a token is worth.
type answer interface {
	ExtractToken() (*tokens.Token, error)
	ExtractProject() (*tokens.Project, error)
	ExtractUser() (*tokens.User, error)
	ExtractRoles() ([]tokens.Role, error)
	ExtractServiceCatalog() (*tokens.ServiceCatalog, error)
}

// read takes what the answer to the login says.
func (s *session) read(result gophercloud.AuthResult) (*tokens.ServiceCatalog, error) {
	r, ok := result.(answer)
	if !ok {
		return nil, fmt.Errorf("the answer is a %T", result)
	}
	token, err := r.ExtractToken()
	if err != nil {
		return nil, err
	}
	project, _ := r.ExtractProject()
	user, _ := r.ExtractUser()
	roles, _ := r.ExtractRoles()
	if token != nil && !token.ExpiresAt.IsZero() {
		s.renew = token.ExpiresAt.Add(-min(renewal, time.Until(token.ExpiresAt)/4))
	}
	if user != nil {
		s.who = "user " + user.Name
	}
	if project != nil {
		s.project = project.ID
		s.who += ", project " + project.Name
	}
	for _, r := range roles {
		s.roles = append(s.roles, r.Name)
	}
	if slices.Sort(s.roles); len(s.roles) > 0 {
		s.who += ", roles " + strings.Join(s.roles, " ")
	}
	return r.ExtractServiceCatalog()
}

// newHTTP is an HTTP client of long transfers: no time-out of its own (see stalling).
// HTTP/2 would put all of them into one connection, which one lost packet stops.
func newHTTP(config *tls.Config) (*http.Transport, *http.Client) {
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		TLSClientConfig:       config,
		MaxIdleConnsPerHost:   parallel,
		IdleConnTimeout:       30 * time.Second,
		ExpectContinueTimeout: time.Second,
		ReadBufferSize:        256 << 10,
		WriteBufferSize:       256 << 10,
		DisableCompression:    true, // of images, by which Content-Range would not fit
	}
	return t, &http.Client{Transport: t, CheckRedirect: stay}
}

// stay follows a redirection at the same host alone: a token is for nobody else.
func stay(req *http.Request, via []*http.Request) error {
	first := via[0].URL
	if req.URL.Host != first.Host || req.URL.Scheme != first.Scheme || len(via) > 5 {
		return http.ErrUseLastResponse
	}
	return nil
}

// A request is one to a service.
type request struct {
	service, method, path string
	query                 url.Values
	header                map[string]string
	json                  any // the body
	ok                    []int
	once                  bool // a second one of the same is another: no retry once it may have been received

	patience time.Duration // how long the answer may take when all is sent; 0 is as long as any other byte

	// stream makes the body, of size bytes, anew for each try.
	stream func() io.Reader
	size   int64
}

// maxAnswer bounds, in bytes, an answer that is read as a whole. A page of a listing
// with a thousand images has about 2 MB.
const maxAnswer = 64 << 20

// call makes a request and decodes its answer, unless into is nil.
func (c *client) call(ctx context.Context, r request, into any) (http.Header, error) {
	var header http.Header
	err := c.retry.Do(ctx, func(ctx context.Context) error {
		resp, end, err := c.try(ctx, r)
		if err != nil {
			return err
		}
		defer end()
		header = resp.Header
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		if into == nil {
			return nil // the header has said that it is done
		}
		if err != nil {
			return transportError(ctx, fmt.Errorf("%s %s: %w", r.method, r.path, err))
		}
		if err := json.Unmarshal(body, into); err != nil {
			return disk.Errorf(disk.Unreachable, "%s %s: the answer is not what it should be: %w", r.method, r.path, err)
		}
		return nil
	})
	return header, err
}

// try makes a request once, or twice when the token is refused. The body of the answer
// gives up when it stalls; end closes it.
func (c *client) try(ctx context.Context, r request) (resp *http.Response, end func(), err error) {
	refused := ""
	for {
		s, err := c.session(ctx, refused)
		if err != nil {
			return nil, nil, err
		}
		resp, end, err := c.send(ctx, s, r)
		if err != nil {
			return nil, nil, err
		}
		if slices.Contains(r.ok, resp.StatusCode) {
			return resp, end, nil
		}
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // what came of it is the message
		end()
		if resp.StatusCode == http.StatusUnauthorized && refused == "" {
			refused = s.token
			continue
		}
		err = answerError(resp, body)
		if t := transient(err); r.once && t != nil && !t.Throttled {
			err = t.Err
		}
		return nil, nil, err
	}
}

// send sends a request and waits for the header of its answer.
func (c *client) send(ctx context.Context, s *session, r request) (*http.Response, func(), error) {
	base := s.endpoints[r.service]
	if base == "" {
		return nil, nil, disk.Errorf(disk.Unsupported, "ask the %s service: this cloud has none", r.service)
	}
	watch := stall.New(ctx, c.stall)
	if r.stream == nil && r.patience > 0 {
		watch.Allow(r.patience)
	}
	target := base + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(watch.Ctx, r.method, target, nil)
	if err == nil {
		err = r.fill(req, watch, c.stall)
	}
	if err != nil {
		watch.Stop()
		return nil, nil, disk.Errorf(disk.Invalid, "%s %s: %w", r.method, r.path, err)
	}
	req.Header.Set("X-Auth-Token", s.token)
	resp, err := s.http.Do(req)
	if err != nil {
		defer watch.Stop()
		err := transportError(watch.Ctx, err)
		if t := transient(err); r.once && t != nil && !refused(t) {
			err = t.Err
		}
		return nil, nil, err
	}
	watch.Rest()
	resp.Body = watch.Body(resp.Body)
	return resp, func() { watch.Stop(); resp.Body.Close() }, nil
}

// refused tells whether a connection was never made.
func refused(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// fill gives the request its body and headers.
func (r request) fill(req *http.Request, w *stall.Watch, after time.Duration) error {
	req.Header.Set("Accept", "application/json")
	switch {
	case r.json != nil:
		body, err := json.Marshal(r.json)
		if err != nil {
			return err
		}
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		req.Header.Set("Content-Type", "application/json")
	case r.stream != nil:
		req.Body, req.ContentLength = sending{r.stream(), w, after, r.patience}, r.size
		if r.size == 0 {
			req.Body = http.NoBody
		}
		req.Header.Set("Content-Type", "application/octet-stream")
		if r.size > 0 { // what is refused for a quota or a role is not sent at all
			req.Header.Set("Expect", "100-continue")
		}
	}
	for key, value := range r.header {
		req.Header.Set(key, value)
	}
	return nil
}
