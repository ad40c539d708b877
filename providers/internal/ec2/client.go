// Package ec2 asks the EC2 query API, of Eucalyptus and of AWS: images, instances,
// bundles, tags and launch permissions. It is the only package that knows the AWS SDK's
// service/ec2, which takes minutes to compile; no type of the SDK is in its API.
//
// The SDK writes requests and reads answers. All else between it and the network is
// ours (transport.go): the signature, version 4 or 2, the API version, the bounds of
// what is read, and what an error means. There is one retry layer, providers.Retry.
//
// What Eucalyptus does otherwise than AWS is from its source, release 4.4; no service
// of either was asked. Errors are of disk.Error with the service's own words in them;
// Code gives its code for one.
package ec2

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/smithy-go"

	"chromogenic/disk"
	"chromogenic/providers"
)

// Credentials are what requests are signed with.
type Credentials struct {
	AccessKey, Secret string
	Token             string // of temporary credentials; empty for others
}

// String keeps the secret out of messages.
func (c Credentials) String() string { return "credentials of " + c.AccessKey }

// GoString does so for %#v.
func (c Credentials) GoString() string { return c.String() }

// Options are those of a Client. Credentials are required; the rest has useful zero
// values where Endpoint or Region is given.
type Options struct {
	Endpoint    string                                     // URL of the service with its path: https://host:8773/services/compute; empty is AWS's of the region
	Region      string                                     // empty is "eucalyptus" for a given Endpoint
	Credentials func(context.Context) (Credentials, error) // asked for each request: they may be renewed
	SigV2       bool                                       // old clouds: sign with version 2
	Version     string                                     // of the API, sent with each request; empty is the SDK's, 2016-11-15
	HTTP        *http.Client                               // TLS settings, time limits; nil is the default, with two minutes for a request
	Retry       *providers.Retry                           // the one retry layer; nil is one of 16 requests at a time
	Now         func() time.Time                           // the clock of signatures; nil is the machine's

	// PageSize is how many images or instances one answer holds at most. Zero leaves
	// that to the service, and says nothing about it: Eucalyptus knows no such parameter
	// of DescribeImages and refuses what it does not know. Pages that a service makes on
	// its own are followed in any case.
	PageSize int32
}

// A Client asks one service. It is safe for concurrent use.
type Client struct {
	api      *ec2.Client
	t        *transport
	retry    *providers.Retry
	pageSize *int32
}

// parallel is how many requests run at a time where nobody says.
const parallel = 16

// New makes a client. It asks nothing; options that cannot be are Invalid.
func New(o Options) (*Client, error) {
	if o.Credentials == nil {
		return nil, disk.Errorf(disk.Invalid, "ec2: no credentials")
	}
	t := &transport{credentials: o.Credentials, sigV2: o.SigV2, stamps: &stamper{}, version: o.Version, now: o.Now, http: stay(o.HTTP), region: o.Region}
	if t.now == nil {
		t.now = time.Now
	}
	if o.Endpoint != "" {
		u, err := url.Parse(o.Endpoint)
		if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.RawQuery != "" {
			return nil, disk.Hint(disk.Errorf(disk.Invalid, "ec2: endpoint %q is no URL of a service", redact(o.Endpoint)),
				"it is like https://cloud.example.com:8773/services/compute")
		}
		t.endpoint, t.region = u, cmp.Or(o.Region, "eucalyptus")
	}
	if t.region == "" {
		return nil, disk.Errorf(disk.Invalid, "ec2: neither endpoint nor region")
	}
	c := &Client{t: t, retry: o.Retry}
	if c.retry == nil {
		c.retry = providers.NewRetry(0, parallel)
	}
	if o.PageSize > 0 {
		c.pageSize = aws.Int32(o.PageSize)
	}
	c.api = ec2.New(ec2.Options{
		Region:                     t.region,
		Credentials:                aws.AnonymousCredentials{}, // the transport signs
		Retryer:                    aws.NopRetryer{},
		HTTPClient:                 t,
		DisableClockSkewCorrection: true,
	}, func(so *ec2.Options) {
		if t.endpoint != nil {
			so.BaseEndpoint = aws.String(t.endpoint.String())
		}
	})
	return c, nil
}

// redact leaves no password in a URL, whatever it is otherwise.
func redact(s string) string {
	scheme, rest, found := strings.Cut(s, "://")
	if !found {
		scheme, rest = "", s
	}
	host, path, _ := strings.Cut(rest, "/")
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		host = "…" + host[i:]
	}
	path, _, _ = strings.Cut(path, "?")
	return strings.TrimPrefix(scheme+"://"+host+"/"+path, "://")
}

// call asks for one thing, again and again while another try may help. What it is in
// words begins the error.
func call[In, Out any](ctx context.Context, c *Client, what string, op func(context.Context, *In, ...func(*ec2.Options)) (*Out, error), in *In) (*Out, error) {
	var out *Out
	err := c.retry.Do(ctx, func(ctx context.Context) (err error) {
		out, err = op(ctx, in)
		return cause(ctx, err)
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return out, nil
}

// cause takes our own error out of what the SDK makes of it, and classifies the SDK's.
func cause(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	var t *providers.Transient
	var known *disk.Error
	var parameters smithy.InvalidParamsError
	var unread *smithy.DeserializationError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &t):
		return t
	case errors.As(err, &known):
		return known
	case errors.As(err, &parameters):
		return &disk.Error{Kind: disk.Invalid, Err: parameters}
	case errors.As(err, &unread):
		return nonsense("%w", unread.Err)
	}
	return &disk.Error{Kind: disk.Other, Err: err}
}
