package ec2test

import (
	"context"
	"crypto/rsa"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// Options are those of a Cloud.
type Options struct {
	TLS         bool             // https, with a certificate of the cloud's own authority: Cloud.CA
	Now         func() time.Time // the clock by which signatures expire; nil is the machine's
	Key         *rsa.PrivateKey  // of the cloud; nil is one that all clouds of a process have
	Dir         string           // of the object store; empty is a temporary one
	Region      string           // enforced in scopes, as AWS does; empty takes any, as Eucalyptus does
	MaxManifest int64            // bytes; 0 is 2 MiB, the default of images.maxmanifestsizebytes
	MaxImage    int64            // bytes of a disk; 0 is any
	Page        int              // entries in a page of DescribeImages and DescribeInstances; 0 knows no pages

	// AWSStates has bundle tasks go through the states of AWS's documents: pending,
	// waiting-for-shutdown, bundling, storing, complete. Eucalyptus has pending, storing,
	// complete.
	AWSStates bool

	// CloudSeals has BundleInstance encrypt for the cloud alone, as a node does that has
	// no certificate of the user: such a bundle cannot be read by anybody else.
	CloudSeals bool

	// Pace is called before a bundle task enters a state, and may block, but not for ever:
	// Close waits for it. Nil is at once.
	Pace func(task, state string)
}

// A Cloud is one that runs. Its methods may be called at any time.
type Cloud struct {
	URL  string          // http://127.0.0.1:port
	CA   []byte          // PEM; nil without TLS
	Cert []byte          // of the cloud, PEM: what eucarc has as EUCALYPTUS_CERT
	Key  *rsa.PrivateKey // of Cert
	S3   *Store

	o        Options
	accounts []*Account
	serial   string // in ids, so that no two clouds share them

	mu        sync.Mutex
	images    []*image
	instances []*Instance
	tasks     []*task
	tags      map[string]map[string]string // of a resource
	mischief  []*Trouble
	seen      map[string]time.Time // signatures of version 2
	requests  map[string]int
	count     int

	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
	server *http.Server
	served chan struct{}
	client *http.Client
}

// Start runs a cloud until the test ends. Without s3rver the test is skipped, in CI it
// fails.
func Start(t testing.TB, o Options) *Cloud {
	t.Helper()
	if err := Missing(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%v; CI must have it", err)
		}
		t.Skipf("!!!!! NOT TESTED: %v", err)
	}
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// New runs a cloud until Close. It has the accounts eucalyptus, whose users administer the
// cloud, alice and bob.
func New(o Options) (*Cloud, error) {
	keys, err := keyring()
	if err != nil {
		return nil, err
	}
	c := &Cloud{
		Key: o.Key, o: o, served: make(chan struct{}), serial: random(4),
		tags: map[string]map[string]string{}, seen: map[string]time.Time{}, requests: map[string]int{},
	}
	if c.Key == nil {
		c.Key = keys.cloud
	}
	if c.o.Now == nil {
		c.o.Now = time.Now
	}
	if c.o.MaxManifest == 0 {
		c.o.MaxManifest = 2 << 20
	}
	if c.Cert, err = certificate(c.Key, "eucalyptus"); err != nil {
		return nil, err
	}
	for i, name := range []string{"eucalyptus", "alice", "bob"} {
		a := &Account{Name: name, Number: fmt.Sprintf("%012d", 123456789000+i*111), Admin: i == 0, Key: keys.users[i]}
		a.AccessKey, a.Secret = "AKI"+strings.ToUpper(random(9)), random(20)
		if a.Cert, err = certificate(a.Key, name); err != nil {
			return nil, err
		}
		c.accounts = append(c.accounts, a)
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if c.S3, err = newStore(c, o.Dir); err != nil {
		c.cancel()
		return nil, err
	}
	if err := c.listen(); err != nil {
		return nil, fmt.Errorf("%w (%v)", err, c.Close())
	}
	return c, nil
}

func (c *Cloud) listen() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		close(c.served)
		return err
	}
	c.URL, c.client = "http://"+l.Addr().String(), &http.Client{}
	if c.o.TLS {
		authority, config, roots, err := authority()
		if err != nil {
			close(c.served)
			return err
		}
		c.CA, c.URL = authority, "https://"+l.Addr().String()
		c.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
		l = tls.NewListener(l, config)
	}
	c.server = &http.Server{Handler: c, ReadHeaderTimeout: time.Minute}
	go func() {
		defer close(c.served)
		_ = c.server.Serve(l) // until Close
	}()
	return nil
}

// ComputeURL is the endpoint of EC2, ObjectStorageURL that of S3.
func (c *Cloud) ComputeURL() string { return c.URL + "/services/compute" }

// ObjectStorageURL is the endpoint of S3.
func (c *Cloud) ObjectStorageURL() string { return c.URL + "/services/objectstorage" }

// Account is the account of a name: eucalyptus, alice, bob.
func (c *Cloud) Account(name string) *Account {
	for _, a := range c.accounts {
		if a.Name == name {
			return a
		}
	}
	panic("ec2test: no account " + name)
}

// Requests is how often an action of EC2 was asked for, refused or not.
func (c *Cloud) Requests(action string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.requests[action]
}

// Close ends the cloud, with all that waits in it.
func (c *Cloud) Close() error {
	c.cancel()
	if c.server != nil {
		_ = c.server.Close() // of what runs: it is to end
	}
	<-c.served
	c.work.Wait()
	if c.client != nil {
		c.client.CloseIdleConnections()
	}
	return c.S3.close()
}

// ServeHTTP is that of the port of all services.
func (c *Cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for _, s := range []struct {
		path  string
		serve func(w http.ResponseWriter, r *http.Request, path string)
	}{
		{"/services/compute", c.serveEC2},
		{"/services/Eucalyptus", c.serveEC2},
		{"/services/Empyrean", c.serveCertificates},
		{"/services/bootstrap", c.serveCertificates},
		{"/services/objectstorage", c.S3.serve},
		{"/services/Walrus", c.S3.serve},
	} {
		if rest, ok := strings.CutPrefix(r.URL.EscapedPath(), s.path); ok && (rest == "" || rest[0] == '/') {
			s.serve(w, r, rest)
			return
		}
	}
	http.Error(w, "Failure: 404 Not Found", http.StatusNotFound)
}

// id makes one that no other thing has.
func (c *Cloud) id(prefix string) string {
	c.count++
	return fmt.Sprintf("%s-%s%04x", prefix, c.serial[:4], c.count)
}

// block is a PEM block.
func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
