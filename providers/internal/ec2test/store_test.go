package ec2test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
)

// s3client is the SDK's for an account, with the settings that Eucalyptus takes.
func s3client(c *Cloud, path string, a *Account, change func(*s3.Options)) *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: aws.String(c.URL + path), Region: "eucalyptus", UsePathStyle: true, HTTPClient: c.client, Retryer: aws.NopRetryer{},
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired, ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: a.AccessKey, SecretAccessKey: a.Secret}, nil
		}),
	}, func(o *s3.Options) {
		if change != nil {
			change(o)
		}
	})
}

// codeOf is the code of an error of S3, or the status where it has no body.
func codeOf(err error) string {
	var e smithy.APIError
	if errors.As(err, &e) {
		return e.ErrorCode()
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// The SDK stores, reads, lists and removes, at both addresses, with and without TLS.
func TestStore(t *testing.T) {
	for _, o := range []Options{{}, {TLS: true}} {
		c := Start(t, o)
		for i, path := range []string{"/services/objectstorage", "/services/Walrus", "/services/objectstorage/"} {
			alice := s3client(c, path, c.Account("alice"), nil)
			bucket, key := aws.String(fmt.Sprintf("bucket-%d", i)), aws.String("dir/a b+c~ä%2F.part.00")
			if _, err := alice.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: bucket}); err != nil {
				t.Fatal(err)
			}
			body := bytes.Repeat([]byte("0123456789"), 1000)
			if _, err := alice.PutObject(t.Context(), &s3.PutObjectInput{Bucket: bucket, Key: key, Body: bytes.NewReader(body), ACL: "aws-exec-read", Metadata: map[string]string{"x": "y"}}); err != nil {
				t.Fatal(err)
			}
			if acl := c.S3.ACL(*bucket, *key); acl != "aws-exec-read" {
				t.Errorf("acl %q", acl)
			}
			got, err := alice.GetObject(t.Context(), &s3.GetObjectInput{Bucket: bucket, Key: key, Range: aws.String("bytes=9995-10100")})
			if err != nil {
				t.Fatal(err)
			}
			if p, err := io.ReadAll(got.Body); err != nil || string(p) != "56789" || aws.ToString(got.ContentRange) != "bytes 9995-9999/10000" {
				t.Errorf("%q %v %q", p, err, aws.ToString(got.ContentRange))
			}
			head, err := alice.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: bucket, Key: key})
			if err != nil || *head.ContentLength != 10000 || head.Metadata["x"] != "y" {
				t.Errorf("%+v, %v", head, err)
			}
			list, err := alice.ListObjects(t.Context(), &s3.ListObjectsInput{Bucket: bucket, Prefix: aws.String("dir/")})
			if err != nil || len(list.Contents) != 1 || *list.Contents[0].Key != *key || *list.Contents[0].Size != 10000 {
				t.Errorf("%+v, %v", list, err)
			}
			// A multipart upload keeps the ACL that it began with.
			big := aws.String("big")
			up, err := alice.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: bucket, Key: big, ACL: "aws-exec-read"})
			if err != nil {
				t.Fatal(err)
			}
			part, err := alice.UploadPart(t.Context(), &s3.UploadPartInput{Bucket: bucket, Key: big, UploadId: up.UploadId, PartNumber: aws.Int32(1), Body: bytes.NewReader(body)})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := alice.CompleteMultipartUpload(t.Context(), &s3.CompleteMultipartUploadInput{
				Bucket: bucket, Key: big, UploadId: up.UploadId,
				MultipartUpload: &types.CompletedMultipartUpload{Parts: []types.CompletedPart{{ETag: part.ETag, PartNumber: aws.Int32(1)}}},
			}); err != nil || c.S3.ACL(*bucket, "big") != "aws-exec-read" {
				t.Errorf("%v, acl %q", err, c.S3.ACL(*bucket, "big"))
			}
			if _, err := alice.DeleteBucket(t.Context(), &s3.DeleteBucketInput{Bucket: bucket}); codeOf(err) != "BucketNotEmpty" {
				t.Errorf("%v", err)
			}
			if _, err := alice.DeleteObjects(t.Context(), &s3.DeleteObjectsInput{Bucket: bucket, Delete: &types.Delete{Objects: []types.ObjectIdentifier{{Key: big}}}}); err != nil {
				t.Error(err)
			}
			if _, err := alice.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: bucket, Key: key}); err != nil || len(c.S3.Keys(*bucket)) != 0 {
				t.Errorf("%v; there are %v", err, c.S3.Keys(*bucket))
			}
			if _, err := alice.DeleteBucket(t.Context(), &s3.DeleteBucketInput{Bucket: bucket}); err != nil || slices.Contains(c.S3.Buckets(), *bucket) {
				t.Errorf("%v", err)
			}
		}
	}
}

// What must not be, is refused.
func TestStoreRefuses(t *testing.T) {
	c := Start(t, Options{})
	alice, bob := c.Account("alice"), c.Account("bob")
	for key, acl := range map[string]string{"private": "", "public": "public-read", "cloud": "aws-exec-read", "bundle": "ec2-bundle-read", "users": "authenticated-read"} {
		if err := c.S3.Put(alice, "alices", key, acl, []byte(key)); err != nil {
			t.Fatal(err)
		}
	}
	const path = "/services/objectstorage"
	get := func(who *Account, key string, change func(*s3.Options)) string {
		_, err := s3client(c, path, who, change).GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("alices"), Key: &key})
		return codeOf(err)
	}
	put := func(who *Account, bucket string, change func(*s3.Options)) string {
		_, err := s3client(c, path, who, change).PutObject(t.Context(), &s3.PutObjectInput{Bucket: &bucket, Key: aws.String("new"), Body: strings.NewReader("x")})
		return codeOf(err)
	}
	anybody := func(key string) string {
		resp, err := http.Get(c.ObjectStorageURL() + "/alices/" + key)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		return resp.Status
	}
	wrong := &Account{AccessKey: alice.AccessKey, Secret: "wrong"}
	for name, tt := range map[string]struct{ got, want string }{
		"alice private":   {get(alice, "private", nil), ""},
		"bob private":     {get(bob, "private", nil), "AccessDenied"},
		"bob public":      {get(bob, "public", nil), ""},
		"bob users":       {get(bob, "users", nil), ""},
		"bob cloud":       {get(bob, "cloud", nil), "AccessDenied"},
		"bob bundle":      {get(bob, "bundle", nil), "AccessDenied"},
		"bob none":        {get(bob, "none", nil), "AccessDenied"},
		"alice none":      {get(alice, "none", nil), "NoSuchKey"},
		"anybody public":  {anybody("public"), "200 OK"},
		"anybody users":   {anybody("users"), "403 Forbidden"},
		"anybody cloud":   {anybody("cloud"), "403 Forbidden"},
		"wrong secret":    {get(wrong, "private", nil), "SignatureDoesNotMatch"},
		"unknown key":     {get(&Account{AccessKey: "AKINONE", Secret: "x"}, "private", nil), "InvalidAccessKeyId"},
		"bob writes":      {put(bob, "alices", nil), "AccessDenied"},
		"alice writes":    {put(alice, "alices", nil), ""},
		"no bucket":       {put(alice, "nobodys", nil), "NoSuchBucket"},
		"a trailer":       {put(alice, "alices", func(o *s3.Options) { trailer(o) }), "AccessDenied"},
		"altered payload": {put(alice, "alices", func(o *s3.Options) { o.HTTPClient = altering{"x", "y"} }), "AccessDenied"},
		"altered path":    {get(alice, "private", func(o *s3.Options) { o.HTTPClient = redirecting{"/private", "/public"} }), "SignatureDoesNotMatch"},
		"header added": {get(alice, "private", func(o *s3.Options) {
			o.HTTPClient = adding{"X-Amz-Acl", "public-read"}
		}), "AccessDenied"},
		"added range": {get(alice, "private", func(o *s3.Options) { o.HTTPClient = adding{"Range", "bytes=0-1"} }), ""}, // nobody signs it
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %q, want %q", name, tt.got, tt.want)
		}
	}
	for who, want := range map[*Account]string{alice: "BucketAlreadyOwnedByYou", bob: "BucketAlreadyExists"} {
		if _, err := s3client(c, path, who, nil).CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("alices")}); codeOf(err) != want {
			t.Errorf("%s makes the bucket again: %v", who.Name, err)
		}
	}
	c.o.Now = func() time.Time { return time.Now().Add(time.Hour) }
	if got := get(alice, "private", nil); got != "RequestExpired" {
		t.Errorf("an old signature: %q", got)
	}
}

// trailer has the SDK send what new ones do by default.
func trailer(o *s3.Options) {
	o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenSupported
	o.HTTPClient = changing(func(r *http.Request) { r.Header.Set("X-Amz-Content-Sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER") })
}

// changing changes a request that is signed.
type changing func(*http.Request)

func (f changing) Do(r *http.Request) (*http.Response, error) {
	f(r)
	return http.DefaultClient.Do(r)
}

type altering struct{ from, to string }

func (a altering) Do(r *http.Request) (*http.Response, error) {
	r.Body = io.NopCloser(strings.NewReader(a.to))
	return http.DefaultClient.Do(r)
}

type redirecting struct{ from, to string }

func (a redirecting) Do(r *http.Request) (*http.Response, error) {
	r.URL.Path = strings.Replace(r.URL.Path, a.from, a.to, 1)
	r.URL.RawPath = ""
	return http.DefaultClient.Do(r)
}

type adding struct{ name, value string }

func (a adding) Do(r *http.Request) (*http.Response, error) {
	r.Header.Set(a.name, a.value)
	return http.DefaultClient.Do(r)
}

// v2 signs a request of S3 with version 2, by the rules of its documentation alone.
func v2(t *testing.T, a *Account, method, host, path, resource string, body []byte, header map[string]string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, host+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	date := time.Now().UTC().Format(http.TimeFormat)
	r.Header.Set("Date", date)
	amz := ""
	for k, v := range header {
		r.Header.Set(k, v)
		amz += strings.ToLower(k) + ":" + v + "\n"
	}
	mac := hmac.New(sha1.New, []byte(a.Secret))
	fmt.Fprintf(mac, "%s\n\n\n%s\n%s%s", method, date, amz, resource)
	r.Header.Set("Authorization", "AWS "+a.AccessKey+":"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	return r
}

// Signatures of version 2, as s3cmd and boto make them: over the path with that of the
// service, or without.
func TestStoreV2(t *testing.T) {
	c := Start(t, Options{})
	alice := c.Account("alice")
	do := func(r *http.Request) string {
		resp, err := c.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		p, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.Status[:3] + " " + string(p)
	}
	const base = "/services/objectstorage"
	if got := do(v2(t, alice, "PUT", c.URL, base+"/abc", base+"/abc", nil, nil)); got != "200 " {
		t.Error(got)
	}
	if got := do(v2(t, alice, "PUT", c.URL, base+"/abc/d%20e?acl=", base+"/abc/d%20e?acl", nil, nil)); !strings.HasPrefix(got, "404") {
		t.Error(got)
	}
	if got := do(v2(t, alice, "PUT", c.URL, base+"/abc/d%20e", "/abc/d%20e", []byte("text"), map[string]string{"X-Amz-Acl": "aws-exec-read"})); got != "200 " || c.S3.ACL("abc", "d e") != "aws-exec-read" {
		t.Error(got)
	}
	if got := do(v2(t, alice, "GET", c.URL, base+"/abc/d%20e?ignored=1", base+"/abc/d%20e", nil, nil)); got != "200 text" {
		t.Error(got)
	}
	for name, r := range map[string]*http.Request{
		"secret":   v2(t, &Account{AccessKey: alice.AccessKey, Secret: "wrong"}, "GET", c.URL, base+"/abc/d%20e", base+"/abc/d%20e", nil, nil),
		"resource": v2(t, alice, "GET", c.URL, base+"/abc/d%20e", base+"/abc/other", nil, nil),
		"method":   v2(t, alice, "PUT", c.URL, base+"/abc/d%20e?acl=", base+"/abc/d%20e", nil, nil),
	} {
		if got := do(r); !strings.HasPrefix(got, "403") || !strings.Contains(got, "SignatureDoesNotMatch") {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// A form is taken with a policy that it meets, and with no other.
func TestForm(t *testing.T) {
	c := Start(t, Options{})
	alice := c.Account("alice")
	if err := c.S3.Put(alice, "bundles", "first", "", nil); err != nil {
		t.Fatal(err)
	}
	policy := func(expires time.Duration, more string) string {
		return fmt.Sprintf(`{"expiration":%q,"conditions":[{"acl":"ec2-bundle-read"},{"bucket":"bundles"},["starts-with","$key","web"]%s]}`,
			time.Now().Add(expires).UTC().Format("2006-01-02T15:04:05Z"), more)
	}
	good := map[string]string{"key": "web.part.00", "acl": "ec2-bundle-read", "AWSAccessKeyId": alice.AccessKey}
	for _, tt := range []struct {
		name, policy string
		change       map[string]string
		want         string
	}{
		{"good", policy(time.Hour, ""), nil, "204"},
		{"content type", policy(time.Hour, ""), map[string]string{"Content-Type": "a/b"}, "204"},
		{"expired", policy(-time.Minute, ""), nil, "403 AccessDenied"},
		{"key", policy(time.Hour, ""), map[string]string{"key": "other"}, "403 AccessDenied"},
		{"acl", policy(time.Hour, ""), map[string]string{"acl": "public-read"}, "403 AccessDenied"},
		{"another field", policy(time.Hour, ""), map[string]string{"x-amz-meta-a": "b"}, "403 AccessDenied"},
		{"a field of the policy", policy(time.Hour, `,["eq","$x-amz-meta-a","b"]`), map[string]string{"x-amz-meta-a": "b"}, "204"},
		{"signature", policy(time.Hour, ""), map[string]string{"signature": "AAAA"}, "403 SignatureDoesNotMatch"},
		{"no policy", "", nil, "403 SignatureDoesNotMatch"},
		{"no json", "{", nil, "400 InvalidPolicyDocument"},
		{"key id", policy(time.Hour, ""), map[string]string{"AWSAccessKeyId": "AKINONE"}, "403 InvalidAccessKeyId"},
		{"bob", policy(time.Hour, ""), map[string]string{"AWSAccessKeyId": c.Account("bob").AccessKey}, "403 SignatureDoesNotMatch"},
	} {
		var b bytes.Buffer
		form := multipart.NewWriter(&b)
		encoded := base64.StdEncoding.EncodeToString([]byte(tt.policy))
		mac := hmac.New(sha1.New, []byte(alice.Secret))
		mac.Write([]byte(encoded))
		fields := map[string]string{"policy": encoded, "signature": base64.StdEncoding.EncodeToString(mac.Sum(nil))}
		for _, m := range []map[string]string{good, tt.change} {
			for k, v := range m {
				fields[k] = v
			}
		}
		for k, v := range fields {
			if err := form.WriteField(k, v); err != nil {
				t.Fatal(err)
			}
		}
		w, err := form.CreateFormFile("file", "x")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(w, "content")
		form.Close()
		resp, err := http.Post(c.ObjectStorageURL()+"/bundles", form.FormDataContentType(), &b)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		status, code, _ := strings.Cut(tt.want, " ")
		if !strings.HasPrefix(resp.Status, status) || !strings.Contains(string(text), code) {
			t.Errorf("%s: %s %s", tt.name, resp.Status, text)
		}
		if p, _ := c.S3.Get("bundles", "web.part.00"); tt.name == "good" && (string(p) != "content" || c.S3.ACL("bundles", "web.part.00") != "ec2-bundle-read") {
			t.Errorf("it holds %q, %s", p, c.S3.ACL("bundles", "web.part.00"))
		}
	}
}

// Trouble is as it is asked for, and is over when it should be.
func TestStoreTrouble(t *testing.T) {
	c := Start(t, Options{})
	alice := c.Account("alice")
	body := bytes.Repeat([]byte("0123456789"), 10000)
	if err := c.S3.Put(alice, "abc", "part", "", body); err != nil {
		t.Fatal(err)
	}
	get := func() (string, []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		out, err := s3client(c, "/services/objectstorage", alice, nil).GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String("abc"), Key: aws.String("part")})
		if err != nil {
			return codeOf(err), nil
		}
		defer out.Body.Close()
		p, err := io.ReadAll(out.Body)
		if err != nil {
			return "while reading: " + err.Error(), p
		}
		return "", p
	}
	for _, tt := range []struct {
		t    Trouble
		code string
		n    int
	}{
		{Trouble{On: "GET", Do: Reset}, "reset", 0},
		{Trouble{On: "GET", Do: Truncate, At: 50000}, "while reading: ", 50000},
		{Trouble{On: "GET", Do: Stall, At: 50000}, "while reading: context deadline exceeded", 50000},
		{SlowDown(1), "SlowDown", 0},
		{Trouble{Contains: "part", Do: Status, Status: 403, Code: "AccessDenied"}, "AccessDenied", 0},
		{Trouble{Contains: "other", Do: Reset}, "", 100000},
		{Trouble{On: "PUT", Do: Reset}, "", 100000},
	} {
		c.S3.Calm()
		c.S3.Trouble(tt.t)
		code, p := get()
		if !strings.Contains(code, tt.code) || tt.code == "" && code != "" || len(p) != tt.n || !bytes.Equal(p, body[:tt.n]) {
			t.Errorf("%+v: %q and %d bytes", tt.t, code, len(p))
		}
		if code, p := get(); code != "" || len(p) != len(body) {
			t.Errorf("behind %+v: %q", tt.t, code)
		}
	}
	c.S3.Calm()
	c.S3.Trouble(Trouble{On: "GET", Do: Corrupt, At: 777, After: 1})
	if _, p := get(); !bytes.Equal(p, body) {
		t.Error("the first is not well")
	}
	if _, p := get(); len(p) != len(body) || p[777] == body[777] || !bytes.Equal(p[778:], body[778:]) {
		t.Error("the second is not corrupt")
	}
	c.S3.Calm()
	c.S3.ResetTraffic()
	get()
	if tr := c.S3.Traffic(); tr.Requests["GET"] != 1 || tr.Out != 100000 || tr.In != 0 {
		t.Errorf("%+v", tr)
	}
}
