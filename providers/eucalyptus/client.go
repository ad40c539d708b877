package eucalyptus

import (
	"context"
	"crypto/rsa"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"chromogenic/disk"
	"chromogenic/providers/internal/ec2"
	"chromogenic/providers/internal/stall"
)

// A session is the two services of a cloud, and the account whose they are asked in.
type session struct {
	cred    *credentials
	stamp   string
	ec2     *ec2.Client
	store   *store
	account string // its number
	sigv2   bool

	mu    sync.Mutex
	cloud *rsa.PublicKey // that bundles are sealed with, when the cloud was asked for it
}

// session gives one, made of credentials that are read anew when their files have changed.
// Those who need one at the same time wait for the same.
func (p *Provider) session(ctx context.Context) (*session, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	mark := stamp(p.o)
	p.mu.Lock()
	s := p.current
	p.mu.Unlock()
	if s != nil && s.stamp == mark {
		return s, nil
	}
	select {
	case r := <-p.logins.DoChan(mark, func() (any, error) { return p.login(mark) }):
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*session), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// login makes a session, for all who wait for it, and asks the cloud who we are. An old
// cloud that refuses signatures of version 4 is asked in version 2.
func (p *Provider) login(mark string) (*session, error) {
	cred, err := readCredentials(p.o)
	if err != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.current != nil { // the files are being replaced
			return p.current, nil
		}
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), 2*p.o.Stall, stall.Err)
	defer cancel()
	s, err := p.open(ctx, cred, cred.sigv2)
	if refused := disk.KindOf(err) == disk.Denied || ec2.Code(err) == "MissingParameter"; refused && !cred.sigv2 {
		if old, failed := p.open(ctx, cred, true); failed == nil {
			s, err = old, nil
		}
	}
	if err != nil {
		return nil, err
	}
	s.stamp = mark
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current = s
	return s, nil
}

// open makes the clients of both services, and finds the account.
func (p *Provider) open(ctx context.Context, cred *credentials, sigv2 bool) (*session, error) {
	config, err := cred.tls()
	if err != nil {
		return nil, err
	}
	base := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		TLSClientConfig:     config, // of it alone, so that HTTP/2 does not put all into one connection
		MaxIdleConnsPerHost: parallel,
		IdleConnTimeout:     30 * time.Second,
		ReadBufferSize:      256 << 10,
		WriteBufferSize:     256 << 10,
		DisableCompression:  true,
	}
	s := &session{cred: cred, sigv2: sigv2}
	s.ec2, err = ec2.New(ec2.Options{
		Endpoint: cred.ec2URL, SigV2: sigv2, HTTP: &http.Client{Transport: &transport{next: base, stall: p.o.Stall}}, Retry: p.retry,
		Credentials: func(context.Context) (ec2.Credentials, error) {
			return ec2.Credentials{AccessKey: cred.access, Secret: cred.secret, Token: cred.token}, nil
		},
	})
	if err != nil {
		return nil, err
	}
	if s.account, err = s.ec2.Account(ctx); disk.KindOf(err) == disk.NotFound && cred.account != "" {
		s.account, err = cred.account, nil
	}
	if err != nil {
		return nil, err
	}
	endpoint, err := storeURL(cred)
	if err != nil {
		return nil, err
	}
	objects := &transport{next: base, stall: p.o.Stall}
	var signer aws.CredentialsProvider = aws.AnonymousCredentials{}
	if sigv2 {
		objects.sign = func(req *http.Request) error {
			signV2(req, cred.access, cred.secret, cred.token, time.Now())
			return nil
		}
	} else {
		signer = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: cred.access, SecretAccessKey: cred.secret, SessionToken: cred.token}, nil
		})
	}
	client := &http.Client{Transport: objects, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	s.store = newStore(endpoint, anyRegion, client, p.retry, signer)
	return s, nil
}

// anyRegion is that of signatures: Eucalyptus looks at none.
const anyRegion = "eucalyptus"

// storeURL is that of the object storage; where none is said, the one beside EC2.
func storeURL(cred *credentials) (string, error) {
	if cred.s3URL != "" {
		return cred.s3URL, nil
	}
	u, err := url.Parse(cred.ec2URL)
	if err == nil {
		for ec2, s3 := range map[string]string{"/services/compute": "/services/objectstorage", "/services/Eucalyptus": "/services/Walrus"} {
			if strings.TrimSuffix(u.Path, "/") == ec2 {
				u.Path = s3
				return u.String(), nil
			}
		}
	}
	return "", disk.Errorf(disk.Denied, "find credentials: %s says no S3_URL (s3-url), where the bundles of images are", cred.source)
}

// mine tells whether an image is of the account.
func (s *session) mine(i *record) bool { return i.Owner == s.account }
