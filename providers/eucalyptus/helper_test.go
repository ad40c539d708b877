package eucalyptus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
	"chromogenic/providers/internal/bundle"
	"chromogenic/providers/internal/ec2test"
)

// A rig is a provider of one account of a stand-in cloud.
type rig struct {
	*Provider
	cloud   *ec2test.Cloud
	account *ec2test.Account
	wire    *wire
	dir     string // of credentials and journals
}

// newRig makes one. No file of the user who tests has a part in it.
func newRig(t *testing.T, cloud *ec2test.Cloud, account string, change ...func(*Options)) *rig {
	t.Helper()
	r := &rig{cloud: cloud, account: cloud.Account(account), dir: alone(t)}
	r.wire = newWire(t, strings.TrimPrefix(strings.TrimPrefix(cloud.URL, "http://"), "https://"))
	o := Options{
		Name: "euca", Eucarc: r.eucarc(t), Index: true, Dir: filepath.Join(r.dir, "journals"),
		Retry: 300 * time.Millisecond, Stall: 5 * time.Second, Poll: 20 * time.Millisecond,
	}
	for _, c := range change {
		c(&o)
	}
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	r.Provider = p
	return r
}

// eucarc writes that of the account, as Eucalyptus 4 does.
func (r *rig) eucarc(t *testing.T) string {
	t.Helper()
	writeFile(t, filepath.Join(r.dir, "rc", "pk.pem"), string(r.account.KeyPEM()))
	writeFile(t, filepath.Join(r.dir, "rc", "cert.pem"), string(r.account.Cert))
	writeFile(t, filepath.Join(r.dir, "rc", "cloud-cert.pem"), string(r.cloud.Cert))
	scheme, _, _ := strings.Cut(r.cloud.URL, ":")
	return writeFile(t, filepath.Join(r.dir, "rc", "eucarc"), fmt.Sprintf(`EUCA_KEY_DIR=$(cd $(dirname ${BASH_SOURCE:-$0}); pwd -P)
export EC2_URL=%[1]s://%[2]s/services/compute
export S3_URL=%[1]s://%[2]s/services/objectstorage
export EC2_PRIVATE_KEY=${EUCA_KEY_DIR}/pk.pem
export EC2_CERT=${EUCA_KEY_DIR}/cert.pem
export EUCALYPTUS_CERT=${EUCA_KEY_DIR}/cloud-cert.pem
export EC2_ACCOUNT_NUMBER='%[3]s'
export EC2_ACCESS_KEY='%[4]s'
export EC2_SECRET_KEY='%[5]s'
`, scheme, r.wire.addr, r.account.Number, r.account.AccessKey, r.account.Secret))
}

// upload makes an image.
func (r *rig) upload(t *testing.T, spec providers.Spec, img disk.Image) (providers.Entry, error) {
	t.Helper()
	u, err := r.Begin(t.Context(), spec)
	if err != nil {
		return providers.Entry{}, err
	}
	defer func() {
		if err := u.Abort(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	if err := u.Send(t.Context(), img, func(int64) {}); err != nil {
		return providers.Entry{}, err
	}
	if _, err := u.Verify(t.Context()); err != nil {
		return providers.Entry{}, err
	}
	return u.Commit(t.Context())
}

// specOf is that of an image.
func specOf(name string, img disk.Image) providers.Spec {
	return providers.Spec{Job: "20261121T030000Z-0a1b2c", Name: name, Format: "raw", Size: img.Size()}
}

func (r *rig) put(t *testing.T, name string, img disk.Image) providers.Entry {
	t.Helper()
	e, err := r.upload(t, specOf(name, img), img)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// remove removes an image behind the back of the provider.
func (r *rig) remove(t *testing.T, e providers.Entry) {
	t.Helper()
	if err := r.Purge(t.Context(), e); err != nil {
		t.Fatal(err)
	}
}

// debris is what belongs to no image: objects, images that are about to be committed, and
// journals.
func (r *rig) debris(t *testing.T) []string {
	t.Helper()
	var left []string
	all, err := r.ownRecords(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var stems []string
	for _, i := range all {
		if state, _, _ := i.state(); state == stateCommit {
			left = append(left, "image "+i.ID+" is "+i.Description)
		}
		if at, err := i.bundle(); err == nil {
			stems = append(stems, strings.TrimSuffix(at.String(), bundle.ManifestSuffix)+".")
		}
	}
	for _, bucket := range r.cloud.S3.Buckets() {
		for _, key := range r.cloud.S3.Keys(bucket) {
			at := place{bucket, key}
			if !slices.ContainsFunc(stems, func(stem string) bool { return strings.HasPrefix(at.String(), stem) }) {
				left = append(left, "object "+at.String())
			}
		}
	}
	journals, err := r.journals()
	if err != nil {
		t.Fatal(err)
	}
	return append(left, journals...)
}

// holds reads an image, and compares it.
func (r *rig) holds(t *testing.T, e providers.Entry, want disk.Image) {
	t.Helper()
	src, err := r.Open(t.Context(), e, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	img, err := fetched(t.Context(), src.Image)
	if err != nil {
		t.Fatal(err)
	}
	cache := disk.NewCache(disk.CacheOptions{}) // as the pipeline has one: each read costs a request
	defer cache.Close()
	disktest.Compare(t, cache.Image(e.ID, img), want)
}

// fetched is an image that can be read at random: itself, or what its Fill gives.
func fetched(ctx context.Context, img disk.Image) (disk.Image, error) {
	f, ok := img.(providers.Filler)
	if !ok {
		return img, nil
	}
	to := &memory{}
	last := int64(0)
	err := f.Fill(ctx, to, func(done int64) { last = max(last, done) })
	if err == nil && (last != to.bundled || int64(len(to.p)) != img.Size()) {
		err = fmt.Errorf("progress ends at %d of %d, with %d bytes of %d", last, to.bundled, len(to.p), img.Size())
	}
	return readOnly{img, to.p}, err
}

// memory is a spool.
type memory struct {
	p       []byte
	bundled int64
}

func (m *memory) Begin(size, bundled int64) error {
	m.p, m.bundled = make([]byte, size), bundled
	return nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) { return copy(m.p[off:], p), nil }

// readOnly is a spool that was filled, over the image that filled it.
type readOnly struct {
	disk.Image
	p []byte
}

func (r readOnly) ReadAt(p []byte, off int64) (int, error) {
	if _, err := r.Extent(min(off, max(0, r.Size()-1)), 1); err != nil && r.Size() > 0 {
		return 0, err // it is closed
	}
	q, eof := disk.ClipRead(p, off, r.Size())
	copy(q, r.p[min(off, r.Size()):])
	return len(q), eof
}

// A wire is the network between a provider and its cloud.
type wire struct {
	addr, to string

	mu     sync.Mutex
	listen net.Listener
	conns  map[net.Conn]bool
	done   sync.WaitGroup
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	w := &wire{to: to, addr: "127.0.0.1:0", conns: map[net.Conn]bool{}}
	if err := w.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.cut(); w.done.Wait() })
	return w
}

func (w *wire) open() error {
	l, err := net.Listen("tcp", w.addr)
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.listen, w.addr = l, l.Addr().String()
	w.mu.Unlock()
	w.done.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", w.to)
			if err != nil {
				near.Close()
				continue
			}
			w.mu.Lock()
			w.conns[near], w.conns[far] = true, true
			w.mu.Unlock()
			for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
				w.done.Go(func() {
					_, _ = io.Copy(pair[0], pair[1])
					pair[0].Close()
					pair[1].Close()
				})
			}
		}
	})
	return nil
}

// cut breaks all connections, and takes no new ones.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.listen.Close()
	for c := range w.conns {
		err = errors.Join(err, c.Close())
	}
	clear(w.conns)
	_ = err // of what is closed already
}

// freePort is one that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// waitFor waits until somebody listens.
func waitFor(t *testing.T, addr string) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return
		}
		if time.Since(began) > 10*time.Second {
			t.Fatalf("nobody listens at %s: %v", addr, err)
		}
	}
}
