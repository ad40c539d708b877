package eucalyptus

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // as stores of objects give it
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"chromogenic/disk"
	"chromogenic/providers"
)

// execRead is the canned ACL by which the cloud may read an object, besides its owner. The
// SDK knows it as that of AWS.
const execRead = types.ObjectCannedACLAwsExecRead

// A store is the object storage of a cloud: Walrus, or the gateway that has taken its
// place. It is safe for concurrent use.
type store struct {
	api   *s3.Client
	retry *providers.Retry
}

// A place is an object, or what lies below a prefix.
type place struct{ bucket, key string }

func (p place) String() string { return p.bucket + "/" + p.key }

// beside is the object of a plain name in the folder of another.
func (p place) beside(name string) place {
	return place{p.bucket, p.key[:strings.LastIndex(p.key, "/")+1] + name}
}

// An object is what the store says of one.
type object struct {
	key  string
	size int64
	etag string // without quotes: the MD5 in hex, mostly
}

// newStore makes a client. SDK retries are off, and so are checksums that Eucalyptus does
// not know; signatures of version 2 are made by the transport.
func newStore(endpoint, region string, client *http.Client, retry *providers.Retry, credentials aws.CredentialsProvider) *store {
	return &store{retry: retry, api: s3.New(s3.Options{
		BaseEndpoint: aws.String(strings.TrimSuffix(endpoint, "/")), Region: region, UsePathStyle: true,
		Credentials: credentials, HTTPClient: client, Retryer: aws.NopRetryer{},
		RequestChecksumCalculation:     aws.RequestChecksumCalculationWhenRequired,
		ResponseChecksumValidation:     aws.ResponseChecksumValidationWhenRequired,
		DisableMultiRegionAccessPoints: true, DisableS3ExpressSessionAuth: aws.Bool(true),
		ContinueHeaderThresholdBytes: -1,
	})}
}

// do is a call with its retries.
func (s *store) do(ctx context.Context, what string, at place, op func(context.Context) error) error {
	err := s.retry.Do(ctx, func(ctx context.Context) error { return storeError(ctx, op(ctx)) })
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, at, err)
	}
	return nil
}

// A reading is what is known of an object of which parts are read one after the other: that
// of its first answer.
type reading struct {
	size   int64 // -1 unknown
	etag   string
	ranged bool // no more is asked for than what is read
}

// read fills p from off on, as far as the object goes. A connection that breaks is taken up
// where it broke, as long as the object is the same.
func (s *store) read(ctx context.Context, at place, off int64, p []byte, r *reading) (n int, err error) {
	err = s.do(ctx, "get", at, func(ctx context.Context) error {
		if r.size >= 0 && off+int64(n) >= r.size || n == len(p) {
			return nil
		}
		in := &s3.GetObjectInput{Bucket: &at.bucket, Key: &at.key}
		from := off + int64(n)
		if from > 0 || r.ranged || r.size > off+int64(len(p)) {
			in.Range = aws.String(fmt.Sprintf("bytes=%d-%d", from, off+int64(len(p))-1))
		}
		out, err := s.api.GetObject(ctx, in)
		if err != nil {
			return err
		}
		defer out.Body.Close()
		size, err := answered(out, from)
		if err != nil {
			return err
		}
		etag := strings.Trim(aws.ToString(out.ETag), `"`)
		if r.size >= 0 && (size != r.size || etag != r.etag) {
			return disk.Errorf(disk.Stale, "it has %d bytes and ETag %q, it had %d and %q a moment ago", size, etag, r.size, r.etag)
		}
		r.size, r.etag = size, etag
		m, err := io.ReadFull(out.Body, p[n:n+int(min(int64(len(p)-n), size-from))])
		n += m
		return err
	})
	return n, err
}

// answered is the size of the object of which an answer has the bytes from off on.
func answered(out *s3.GetObjectOutput, off int64) (int64, error) {
	length := aws.ToInt64(out.ContentLength)
	text := aws.ToString(out.ContentRange)
	if text == "" {
		if off > 0 {
			return 0, disk.Errorf(disk.Unsupported, "the store ignores ranges: it answers with the whole object")
		}
		if out.ContentLength == nil || length < 0 {
			return 0, disk.Errorf(disk.Unreachable, "the answer does not say how many bytes the object has")
		}
		return length, nil
	}
	var from, to, size int64
	if n, err := fmt.Sscanf(text, "bytes %d-%d/%d", &from, &to, &size); err != nil || n != 3 || from != off || to < from || to >= size {
		return 0, disk.Errorf(disk.Unreachable, "bytes from %d on were asked for, and it answers with %q", off, text)
	}
	return size, nil
}

// whole is an object of at most most bytes.
func (s *store) whole(ctx context.Context, at place, most int64) ([]byte, error) {
	r := reading{size: -1}
	p := make([]byte, min(most+1, 64<<10))
	n, err := s.read(ctx, at, 0, p, &r)
	switch {
	case err != nil:
		return nil, err
	case r.size > most:
		return nil, disk.Errorf(disk.TooLarge, "get %s: it has %d bytes, at most %d", at, r.size, most)
	case int64(n) == r.size:
		return p[:n], nil
	}
	p = append(p[:n], make([]byte, r.size-int64(n))...)
	_, err = s.read(ctx, at, int64(n), p[n:], &r)
	return p, err
}

// put stores an object. A store that says of it another MD5 than it has is Malformed.
func (s *store) put(ctx context.Context, at place, body []byte) error {
	sum := md5.Sum(body) //nolint:gosec // see above
	return s.do(ctx, "put", at, func(ctx context.Context) error {
		out, err := s.api.PutObject(ctx, &s3.PutObjectInput{
			Bucket: &at.bucket, Key: &at.key, Body: bytes.NewReader(body), ContentLength: aws.Int64(int64(len(body))),
			ContentMD5: aws.String(base64.StdEncoding.EncodeToString(sum[:])), ACL: execRead,
			ContentType: aws.String("application/octet-stream"),
		})
		if err != nil {
			return err
		}
		if etag := strings.Trim(aws.ToString(out.ETag), `"`); isMD5(etag) && etag != hex.EncodeToString(sum[:]) {
			return &providers.Transient{Err: disk.Errorf(disk.Malformed, "the store has the MD5 %s, %x was sent", etag, sum)}
		}
		return nil
	})
}

// isMD5 tells whether an ETag is the MD5 of an object, as far as its form goes.
func isMD5(etag string) bool {
	b, err := hex.DecodeString(etag)
	return err == nil && len(b) == md5.Size
}

// list is what lies below a prefix, by its key behind that. It is all, or an error.
func (s *store) list(ctx context.Context, below place) (map[string]object, error) {
	all := map[string]object{}
	for marker := ""; ; {
		var out *s3.ListObjectsOutput
		err := s.do(ctx, "list", below, func(ctx context.Context) (err error) {
			out, err = s.api.ListObjects(ctx, &s3.ListObjectsInput{Bucket: &below.bucket, Prefix: &below.key, Marker: optional(marker)})
			return err
		})
		if err != nil {
			return nil, err
		}
		last := marker
		for _, o := range out.Contents {
			key := aws.ToString(o.Key)
			name, ok := strings.CutPrefix(key, below.key)
			if last = max(last, key); ok {
				all[name] = object{key: key, size: aws.ToInt64(o.Size), etag: strings.Trim(aws.ToString(o.ETag), `"`)}
			}
		}
		if !aws.ToBool(out.IsTruncated) {
			return all, nil
		}
		if last == marker {
			return nil, disk.Errorf(disk.Unreachable, "list %s: the next page is this one again", below)
		}
		marker = last
	}
}

// remove removes an object. One that is gone is removed.
func (s *store) remove(ctx context.Context, at place) error {
	err := s.do(ctx, "remove", at, func(ctx context.Context) error {
		_, err := s.api.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &at.bucket, Key: &at.key})
		return err
	})
	if disk.KindOf(err) == disk.NotFound {
		return nil
	}
	return err
}

// clear removes all that lies below a prefix, which ends in a slash.
func (s *store) clear(ctx context.Context, below place) error {
	all, err := s.list(ctx, below)
	if disk.KindOf(err) == disk.NotFound { // the bucket is gone
		return nil
	}
	for _, o := range all {
		err = errors.Join(err, s.remove(ctx, place{below.bucket, o.key}))
	}
	return err
}

// bucket sees to it that there is a bucket of ours, private when it is made. One that is
// somebody else's is Denied.
func (s *store) bucket(ctx context.Context, name string) error {
	at := place{bucket: name}
	err := s.do(ctx, "look for bucket", at, func(ctx context.Context) error {
		_, err := s.api.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &name})
		return err
	})
	if disk.KindOf(err) != disk.NotFound {
		return err
	}
	err = s.do(ctx, "make bucket", at, func(ctx context.Context) error {
		_, err := s.api.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &name, ACL: types.BucketCannedACLPrivate})
		return err
	})
	if disk.KindOf(err) == disk.Exists { // somebody was faster
		return s.do(ctx, "look for bucket", at, func(ctx context.Context) error {
			_, err := s.api.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &name})
			return err
		})
	}
	return err
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
