package ec2test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/xml"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// maxObject is how much the proxy holds of one body, in bytes.
const maxObject = 1 << 30

// serve is the object store as its users see it. Rest is the path behind that of the
// service, encoded.
func (s *Store) serve(w http.ResponseWriter, r *http.Request, rest string) {
	s.mu.Lock()
	s.traffic.Requests[r.Method]++
	t := trouble(s.mischief, r.Method, r.URL.Path, r.URL.RawQuery)
	s.mu.Unlock()
	w.Header().Set("X-Amz-Request-Id", random(8))
	if t != nil {
		switch t.Do {
		case Status:
			if t.RetryAfter != "" {
				w.Header().Set("Retry-After", t.RetryAfter)
			}
			s.s3Error(w, r, refuse(t.Status, t.Code, "%s", t.Message))
			return
		case Reset:
			_, _ = io.CopyN(io.Discard, r.Body, t.At)
			breakOff(w)
			return
		}
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxObject))
	if err != nil {
		s.s3Error(w, r, refuse(http.StatusBadRequest, "IncompleteBody", "%v", err))
		return
	}
	s.mu.Lock()
	s.traffic.In += int64(len(body))
	s.mu.Unlock()
	status, answer, e := s.answer(w.Header(), r, rest, body)
	if e != nil {
		s.s3Error(w, r, e)
		return
	}
	if t != nil && t.Do == Lost {
		breakOff(w)
		return
	}
	if r.Method == http.MethodHead {
		w.WriteHeader(status)
		return
	}
	s.mu.Lock()
	s.traffic.Out += int64(len(answer))
	s.mu.Unlock()
	if status == http.StatusNoContent {
		w.WriteHeader(status)
		return
	}
	t.write(w, s.c.ctx.Done(), status, answer)
}

// answer does what a request asks for.
func (s *Store) answer(h http.Header, r *http.Request, rest string, body []byte) (int, []byte, *refusal) {
	bucket, key, err := split(rest)
	if err != nil {
		return 0, nil, refuse(http.StatusBadRequest, "InvalidURI", "%v", err)
	}
	if r.Method == http.MethodPost && strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/form-data") {
		return s.form(r, bucket, body)
	}
	who, e := s.whose(r, rest, body)
	if e != nil {
		return 0, nil, e
	}
	if sum := r.Header.Get("Content-Md5"); sum != "" && sum != md5sum(body) {
		return 0, nil, refuse(http.StatusBadRequest, "BadDigest", "The Content-MD5 you specified did not match what we received.")
	}
	switch {
	case bucket == "":
		return s.service(r, who)
	case key == "":
		return s.bucket(h, r, who, bucket, body)
	}
	return s.object(h, r, who, bucket, key, body)
}

// whose is who asks: nil for nobody in particular.
func (s *Store) whose(r *http.Request, rest string, body []byte) (*Account, *refusal) {
	authorization := r.Header.Get("Authorization")
	switch {
	case isV4(r):
		payload := r.Header.Get("X-Amz-Content-Sha256")
		switch {
		case payload == "":
			return nil, refuse(http.StatusForbidden, "AccessDenied", "x-amz-content-sha256 header is missing.")
		case payload == "UNSIGNED-PAYLOAD":
		case payload != sum256(body): // trailers too: STREAMING-UNSIGNED-PAYLOAD-TRAILER is no sum
			return nil, refuse(http.StatusForbidden, "AccessDenied", "x-amz-content-sha256 header is invalid.")
		}
		who, e := s.c.verifyV4(r, payload, true)
		if e != nil && e.code == "InvalidClientTokenId" {
			e = refuse(http.StatusForbidden, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.")
		}
		return who, e
	case strings.HasPrefix(authorization, "AWS "):
		return s.c.verifyHeaderV2(r, rest)
	case authorization != "":
		return nil, refuse(http.StatusBadRequest, "InvalidSecurity", "The provided security credentials are not valid.")
	}
	return nil, nil
}

func denied() *refusal { return refuse(http.StatusForbidden, "AccessDenied", "Access Denied") }

// service lists the buckets of an account.
func (s *Store) service(r *http.Request, who *Account) (int, []byte, *refusal) {
	if who == nil || r.Method != http.MethodGet {
		return 0, nil, denied()
	}
	type bucket struct{ Name, CreationDate string }
	var list struct {
		XMLName xml.Name `xml:"http://s3.amazonaws.com/doc/2006-03-01/ ListAllMyBucketsResult"`
		Owner   struct{ ID, DisplayName string }
		Buckets []bucket `xml:"Buckets>Bucket"`
	}
	list.Owner.ID, list.Owner.DisplayName = who.Number, who.Name
	for _, b := range s.Buckets() {
		if s.owner(b) == who {
			list.Buckets = append(list.Buckets, bucket{b, "2017-01-01T00:00:00.000Z"})
		}
	}
	text, err := xml.Marshal(list)
	if err != nil {
		return 0, nil, refuse(http.StatusInternalServerError, "InternalError", "%v", err)
	}
	return http.StatusOK, text, nil
}

var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]$`)

// bucket makes, lists, locates and removes one.
func (s *Store) bucket(h http.Header, r *http.Request, who *Account, bucket string, body []byte) (int, []byte, *refusal) {
	owner := s.owner(bucket)
	query := r.URL.Query()
	if r.Method == http.MethodPut && len(query) == 0 {
		switch {
		case who == nil:
			return 0, nil, denied()
		case !bucketName.MatchString(bucket):
			return 0, nil, refuse(http.StatusBadRequest, "InvalidBucketName", "The specified bucket is not valid.")
		case owner == who:
			return 0, nil, refuse(http.StatusConflict, "BucketAlreadyOwnedByYou", "Your previous request to create the named bucket succeeded and you already own it.")
		case owner != nil:
			return 0, nil, refuse(http.StatusConflict, "BucketAlreadyExists", "The requested bucket name is not available.")
		}
		if err := s.direct(http.MethodPut, bucket, "", nil, nil); err != nil {
			return 0, nil, refuse(http.StatusInternalServerError, "InternalError", "%v", err)
		}
		s.mu.Lock()
		s.buckets[bucket] = who
		s.mu.Unlock()
		h.Set("Location", "/"+bucket)
		return http.StatusOK, nil, nil
	}
	if owner == nil {
		return 0, nil, refuse(http.StatusNotFound, "NoSuchBucket", "The specified bucket does not exist")
	}
	if who != owner {
		return 0, nil, denied()
	}
	switch {
	case r.Method == http.MethodGet && query.Has("location"):
		return http.StatusOK, []byte(xml.Header + `<LocationConstraint xmlns="http://s3.amazonaws.com/doc/2006-03-01/"/>`), nil
	case r.Method == http.MethodGet && query.Has("acl"):
		return http.StatusOK, policyOf(object{owner, "private"}), nil
	case r.Method == http.MethodGet && query.Has("versioning"):
		return http.StatusOK, []byte(xml.Header + `<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"/>`), nil
	case r.Method == http.MethodGet, r.Method == http.MethodHead:
		for _, second := range []string{"list-type", "continuation-token", "start-after", "fetch-owner"} {
			query.Del(second) // version 2 of lists, of which the source knows nothing
		}
	case r.Method == http.MethodPost && query.Has("delete"):
		return s.deleteMany(bucket, body)
	case r.Method == http.MethodDelete:
		if len(s.Keys(bucket)) > 0 {
			return 0, nil, refuse(http.StatusConflict, "BucketNotEmpty", "The bucket you tried to delete is not empty")
		}
	default:
		return 0, nil, refuse(http.StatusNotImplemented, "NotImplemented", "%s of a bucket with %q", r.Method, r.URL.RawQuery)
	}
	status, answer, e := s.pass(h, r, bucket, "", query, body)
	if e == nil && r.Method == http.MethodDelete && status/100 == 2 {
		s.forget(bucket, "")
	}
	return status, answer, e
}

// deleteMany is POST ?delete.
func (s *Store) deleteMany(bucket string, body []byte) (int, []byte, *refusal) {
	var ask struct {
		Keys []string `xml:"Object>Key"`
	}
	if err := xml.Unmarshal(body, &ask); err != nil {
		return 0, nil, refuse(http.StatusBadRequest, "MalformedXML", "%v", err)
	}
	var b bytes.Buffer
	b.WriteString(xml.Header + `<DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">`)
	for _, key := range ask.Keys {
		if err := s.Delete(bucket, key); err != nil {
			return 0, nil, refuse(http.StatusInternalServerError, "InternalError", "%v", err)
		}
		b.WriteString("<Deleted><Key>")
		_ = xml.EscapeText(&b, []byte(key))
		b.WriteString("</Key></Deleted>")
	}
	b.WriteString("</DeleteResult>")
	return http.StatusOK, b.Bytes(), nil
}

// object reads, writes and removes one.
func (s *Store) object(h http.Header, r *http.Request, who *Account, bucket, key string, body []byte) (int, []byte, *refusal) {
	owner := s.owner(bucket)
	if owner == nil {
		return 0, nil, refuse(http.StatusNotFound, "NoSuchBucket", "The specified bucket does not exist")
	}
	s.mu.Lock()
	o, there := s.objects[bucket][key]
	s.mu.Unlock()
	query := r.URL.Query()
	acl := cmp.Or(r.Header.Get("X-Amz-Acl"), "private")
	if !slices.Contains(canned, acl) {
		return 0, nil, refuse(http.StatusBadRequest, "InvalidArgument", "unknown canned acl %q", acl)
	}
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case reads && !query.Has("uploadId"):
		if !there {
			if who != owner { // whether there is one is told to nobody else
				return 0, nil, denied()
			}
			return 0, nil, refuse(http.StatusNotFound, "NoSuchKey", "The specified key does not exist.")
		}
		if query.Has("acl") {
			if who != o.owner {
				return 0, nil, denied()
			}
			return http.StatusOK, policyOf(o), nil
		}
		if !o.mayRead(who, false) {
			return 0, nil, denied()
		}
	case who != owner:
		return 0, nil, denied()
	case r.Method == http.MethodPut && query.Has("acl"):
		if !there {
			return 0, nil, refuse(http.StatusNotFound, "NoSuchKey", "The specified key does not exist.")
		}
		if len(body) > 0 {
			return 0, nil, refuse(http.StatusNotImplemented, "NotImplemented", "an acl that is not canned")
		}
		s.remember(bucket, key, object{o.owner, acl})
		return http.StatusOK, nil, nil
	case r.Method == http.MethodPut && r.Header.Get("X-Amz-Copy-Source") != "":
		from, fromKey, err := split(r.Header.Get("X-Amz-Copy-Source"))
		s.mu.Lock()
		source, there := s.objects[from][fromKey]
		s.mu.Unlock()
		if err != nil || !there || !source.mayRead(who, false) {
			return 0, nil, denied()
		}
	}
	status, answer, e := s.pass(h, r, bucket, key, query, body)
	if e != nil || status/100 != 2 {
		return status, answer, e
	}
	switch {
	case r.Method == http.MethodPut && !query.Has("partNumber"):
		s.remember(bucket, key, object{who, acl})
	case r.Method == http.MethodPost && query.Has("uploads"):
		var begun struct {
			UploadID string `xml:"UploadId"`
		}
		if err := xml.Unmarshal(answer, &begun); err != nil {
			return 0, nil, refuse(http.StatusInternalServerError, "InternalError", "%v", err)
		}
		s.mu.Lock()
		s.uploads[begun.UploadID] = object{who, acl}
		s.mu.Unlock()
	case r.Method == http.MethodPost && query.Has("uploadId"):
		s.mu.Lock()
		made := s.uploads[query.Get("uploadId")]
		s.mu.Unlock()
		s.remember(bucket, key, made)
	case r.Method == http.MethodDelete && !query.Has("uploadId"):
		s.forget(bucket, key)
	}
	return status, answer, nil
}

// passed are the headers that s3rver gets: no signature, and no checksum but Content-MD5.
var passed = regexp.MustCompile(`^(Content-Type|Content-Md5|Content-Encoding|Content-Disposition|Cache-Control|Expires|Range|If-.*|X-Amz-Meta-.*|X-Amz-Copy-Source.*|X-Amz-Metadata-Directive|X-Amz-Storage-Class)$`)

// pass asks s3rver.
func (s *Store) pass(h http.Header, r *http.Request, bucket, key string, query url.Values, body []byte) (int, []byte, *refusal) {
	q := ""
	if len(query) > 0 {
		q = "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(context.WithoutCancel(r.Context()), r.Method, s.backURL(bucket, key, q), bytes.NewReader(body))
	if err != nil {
		return 0, nil, refuse(http.StatusBadRequest, "InvalidURI", "%v", err)
	}
	for name, values := range r.Header {
		if passed.MatchString(name) {
			req.Header[name] = values
		}
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, nil, refuse(http.StatusServiceUnavailable, "ServiceUnavailable", "%v", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil, refuse(http.StatusServiceUnavailable, "ServiceUnavailable", "%v", err)
	}
	for name, values := range resp.Header {
		if name != "Connection" && name != "Keep-Alive" && name != "Date" && (name != "Content-Length" || r.Method == http.MethodHead) {
			h[name] = values
		}
	}
	return resp.StatusCode, answer, nil
}
