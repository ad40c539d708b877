package ec2

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"chromogenic/disk"
	"chromogenic/providers"
)

// What is read of an answer at most, in bytes: of one, for 10,000 images are about 20 MB,
// and of an error. And how deep its elements may nest; EC2's do so about ten deep.
const (
	maxAnswer = 128 << 20
	maxError  = 64 << 10
	maxDepth  = 64
)

// A transport is what the SDK takes for its HTTP client: it signs requests, sends them,
// and gives nothing back but whole answers to the action that was asked for. All else is
// an error, classified. It is safe for concurrent use.
type transport struct {
	endpoint    *url.URL // nil for that of the request
	region      string
	version     string // in the place of the SDK's
	sigV2       bool
	stamps      *stamper
	credentials func(context.Context) (Credentials, error)
	http        *http.Client
	now         func() time.Time
}

// patience is how long one request may take where nobody says otherwise. To register a
// bundle takes Eucalyptus seconds.
const patience = 2 * time.Minute

// stay is a client that follows no redirection: a signature is for one host and path.
func stay(c *http.Client) *http.Client {
	if c == nil {
		c = &http.Client{Timeout: patience}
	}
	own := *c
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &own
}

// Do is that of the SDK's HTTP client.
func (t *transport) Do(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		var err error
		if body, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		_ = req.Body.Close() // it was in memory
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, disk.Errorf(disk.Other, "read the form of the request: %w", err)
	}
	to := *req.URL
	if t.endpoint != nil {
		to = *t.endpoint // the SDK would add a slash
	}
	if t.version != "" {
		form.Set("Version", t.version)
	}
	answer, header, err := t.ask(req.Context(), &to, "ec2", form)
	if err != nil {
		return nil, err
	}
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Request: req, ContentLength: int64(len(answer)),
		Body: io.NopCloser(bytes.NewReader(answer)),
	}, nil
}

// ask posts a form to a service, once, and gives the whole answer to its Action.
func (t *transport) ask(ctx context.Context, to *url.URL, service string, form url.Values) ([]byte, http.Header, error) {
	cred, err := t.credentials(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		var transient *providers.Transient
		if errors.As(err, &transient) {
			return nil, nil, err
		}
		e := disk.AsError(err)
		kind := e.Kind
		if kind == disk.Other || kind == disk.NotFound {
			kind = disk.Denied
		}
		return nil, nil, &disk.Error{Kind: kind, Hint: e.Hint, RequestID: e.RequestID, Err: err}
	}
	req, err := t.request(ctx, to, service, form, cred)
	if err != nil {
		return nil, nil, err
	}
	resp, err := t.http.Do(req)
	if err != nil {
		return nil, nil, transportError(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }() // it was read, or is of no use
	if resp.StatusCode != http.StatusOK {
		text, err := io.ReadAll(io.LimitReader(resp.Body, maxError))
		if err != nil && ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		return nil, nil, t.answerError(resp, text)
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, nil, transportError(ctx, err)
	case len(answer) > maxAnswer:
		return nil, nil, nonsense("the answer has more than %d bytes", maxAnswer)
	}
	return answer, resp.Header, isAnswer(answer, form.Get("Action"))
}

// request is a signed one.
func (t *transport) request(ctx context.Context, to *url.URL, service string, form url.Values, cred Credentials) (*http.Request, error) {
	if cred.AccessKey == "" || cred.Secret == "" {
		return nil, disk.Hint(disk.Errorf(disk.Denied, "there are no credentials"), "chromogenic doctor tells where they are looked for")
	}
	now := t.now().UTC()
	if t.sigV2 {
		form = t.stamps.sign(form, http.MethodPost, hostOf(to), cmp.Or(to.EscapedPath(), "/"), cred, now)
	}
	body := encode(form)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), strings.NewReader(body))
	if err != nil {
		return nil, disk.Errorf(disk.Invalid, "ec2: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	req.Header.Set("User-Agent", "chromogenic")
	if t.sigV2 {
		return req, nil
	}
	sum := sha256.Sum256([]byte(body))
	err = v4.NewSigner().SignHTTP(ctx,
		aws.Credentials{AccessKeyID: cred.AccessKey, SecretAccessKey: cred.Secret, SessionToken: cred.Token},
		req, hex.EncodeToString(sum[:]), service, t.region, now)
	if err != nil {
		return nil, disk.Errorf(disk.Other, "sign the request: %w", err)
	}
	return req, nil
}

// isAnswer tells whether a text is a whole answer to an action: what is not, the page of
// a proxy above all, would be read as an answer that lists nothing.
func isAnswer(text []byte, action string) error {
	d := xml.NewDecoder(bytes.NewReader(text))
	root := ""
	for depth := 0; ; {
		tok, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nonsense("%w", err)
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			if depth == 0 && root == "" {
				root = tok.Name.Local
			}
			if depth++; depth > maxDepth {
				return nonsense("the answer nests its elements more than %d deep", maxDepth)
			}
		case xml.EndElement:
			depth--
		case xml.Directive:
			return nonsense("the answer declares a document type")
		}
	}
	// DescribeServiceCertificatesResponseType is what Eucalyptus calls one.
	if root != action+"Response" && root != action+"ResponseType" {
		return nonsense("the answer to %s is a %q", action, cmp.Or(root, "text without an element"))
	}
	return nil
}

// nonsense is the error of an answer that is none of this API. Nothing is known of any
// image then, so it is not one of these.
func nonsense(format string, args ...any) error {
	return disk.Hint(disk.Errorf(disk.Unreachable, "the service gives no answer of EC2: "+format, args...),
		"look at the address of the service: it ends with /services/compute for Eucalyptus; a proxy on the way may answer in its place")
}
