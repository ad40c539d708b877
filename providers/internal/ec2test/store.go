package ec2test

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
)

// A Store is the object store of a Cloud.
type Store struct {
	c      *Cloud
	back   *s3rver
	client *http.Client
	temp   string // to be removed

	mu       sync.Mutex
	buckets  map[string]*Account          // owners
	objects  map[string]map[string]object // of a bucket
	uploads  map[string]object            // of an upload id
	mischief []*Trouble
	traffic  Traffic
	failing  [2]string // code and message of the bundles that fail
}

// Traffic is what has come and gone since the beginning, or the last Reset.
type Traffic struct {
	Requests map[string]int // by method
	In, Out  int64          // bytes of bodies
}

func newStore(c *Cloud, dir string) (*Store, error) {
	s := &Store{
		c: c, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
		buckets: map[string]*Account{}, objects: map[string]map[string]object{}, uploads: map[string]object{},
	}
	s.traffic.Requests = map[string]int{}
	var err error
	if dir == "" {
		if dir, err = os.MkdirTemp("", "ec2test-"); err != nil {
			return nil, err
		}
		s.temp = dir
	}
	s.back, err = startS3rver(dir)
	if err != nil && s.temp != "" {
		err = errors.Join(err, os.RemoveAll(s.temp))
	}
	return s, err
}

func (s *Store) close() error {
	s.client.CloseIdleConnections()
	err := s.back.stop()
	if s.temp != "" {
		err = errors.Join(err, os.RemoveAll(s.temp))
	}
	return err
}

// Trouble has requests go wrong. On is the method.
func (s *Store) Trouble(t Trouble) *Trouble {
	s.mu.Lock()
	defer s.mu.Unlock()
	ready := t.ready()
	s.mischief = append(s.mischief, ready)
	return ready
}

// Calm ends all trouble.
func (s *Store) Calm() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mischief = nil
}

// Traffic is what has come and gone.
func (s *Store) Traffic() Traffic {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.traffic
	t.Requests = map[string]int{}
	for k, v := range s.traffic.Requests {
		t.Requests[k] = v
	}
	return t
}

// ResetTraffic counts from zero.
func (s *Store) ResetTraffic() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.traffic = Traffic{Requests: map[string]int{}}
}

// ACL is the canned one of an object, empty where there is no object.
func (s *Store) ACL(bucket, key string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.objects[bucket][key].acl
}

// Keys are the objects of a bucket, in order; nil where there is no bucket.
func (s *Store) Keys(bucket string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.buckets[bucket] == nil {
		return nil
	}
	keys := []string{}
	for k := range s.objects[bucket] {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Buckets are all buckets, in order.
func (s *Store) Buckets() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for b := range s.buckets {
		names = append(names, b)
	}
	slices.Sort(names)
	return names
}

// Put stores an object as its owner would, in a bucket that is made where it is missing.
func (s *Store) Put(owner *Account, bucket, key, acl string, body []byte) error {
	if s.owner(bucket) == nil {
		if err := s.direct(http.MethodPut, bucket, "", nil, nil); err != nil {
			return err
		}
		s.mu.Lock()
		s.buckets[bucket] = owner
		s.mu.Unlock()
	}
	if err := s.direct(http.MethodPut, bucket, key, body, nil); err != nil {
		return err
	}
	s.remember(bucket, key, object{owner, cmp.Or(acl, "private")})
	return nil
}

// Get is the content of an object, whoever may read it.
func (s *Store) Get(bucket, key string) ([]byte, error) {
	var b bytes.Buffer
	err := s.direct(http.MethodGet, bucket, key, nil, &b)
	return b.Bytes(), err
}

// Delete removes an object, or with an empty key a bucket.
func (s *Store) Delete(bucket, key string) error {
	if err := s.direct(http.MethodDelete, bucket, key, nil, nil); err != nil {
		return err
	}
	s.forget(bucket, key)
	return nil
}

func (s *Store) owner(bucket string) *Account {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buckets[bucket]
}

func (s *Store) remember(bucket, key string, o object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects[bucket] == nil {
		s.objects[bucket] = map[string]object{}
	}
	s.objects[bucket][key] = o
}

func (s *Store) forget(bucket, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if key == "" {
		delete(s.buckets, bucket)
		delete(s.objects, bucket)
		return
	}
	delete(s.objects[bucket], key)
}

// backURL is where s3rver has an object.
func (s *Store) backURL(bucket, key, query string) string {
	u := url.URL{Path: "/" + bucket}
	if key != "" {
		u.Path += "/" + key
	}
	return s.back.url + u.EscapedPath() + query
}

// direct asks s3rver, past owners and signatures.
func (s *Store) direct(method, bucket, key string, body []byte, into io.Writer) error {
	req, err := http.NewRequestWithContext(s.c.ctx, method, s.backURL(bucket, key, ""), bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		text, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("%s %s/%s: %d %s", method, bucket, key, resp.StatusCode, text)
	}
	if into == nil {
		into = io.Discard
	}
	_, err = io.Copy(into, resp.Body)
	return err
}

// cloudReads gives the content of an object as the cloud's own services get it, up to
// limit bytes.
func (s *Store) cloudReads(bucket, key string, limit int64) ([]byte, *refusal) {
	s.mu.Lock()
	o, there := s.objects[bucket][key]
	s.mu.Unlock()
	if !there {
		return nil, refuse(http.StatusNotFound, "NoSuchKey", "%s/%s", bucket, key)
	}
	if !o.mayRead(nil, true) {
		return nil, refuse(http.StatusForbidden, "AccessDenied", "%s/%s is %s", bucket, key, o.acl)
	}
	var b bytes.Buffer
	if err := s.direct(http.MethodGet, bucket, key, nil, &b); err != nil {
		return nil, refuse(http.StatusInternalServerError, "InternalError", "%v", err)
	}
	if int64(b.Len()) > limit {
		return nil, refuse(http.StatusBadRequest, "EntityTooLarge", "%s/%s has %d bytes", bucket, key, b.Len())
	}
	return b.Bytes(), nil
}

// s3Error is an error as S3 has them.
func (s *Store) s3Error(w http.ResponseWriter, r *http.Request, e *refusal) {
	text, _ := xml.Marshal(struct { // of strings
		XMLName   xml.Name `xml:"Error"`
		Code      string
		Message   string
		Resource  string
		RequestID string `xml:"RequestId"`
	}{Code: e.code, Message: e.message, Resource: r.URL.Path, RequestID: random(8)})
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(e.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(append([]byte(xml.Header), text...))
	}
}

// split takes the path behind that of the service apart.
func split(rest string) (bucket, key string, err error) {
	bucket, key, _ = strings.Cut(strings.TrimPrefix(rest, "/"), "/")
	if bucket, err = url.PathUnescape(bucket); err != nil {
		return "", "", err
	}
	key, err = url.PathUnescape(key)
	return bucket, key, err
}
