package ec2test

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// skew is how old, or new, a signature may be.
const skew = 15 * time.Minute

// A refusal is an answer that is an error. Its zero hint is none.
type refusal struct {
	status        int
	code, message string
}

func (r *refusal) Error() string { return fmt.Sprintf("%d %s: %s", r.status, r.code, r.message) }

func refuse(status int, code, format string, args ...any) *refusal {
	return &refusal{status, code, fmt.Sprintf(format, args...)}
}

// The refusals of signatures, with the codes of AWS's common errors.
func noKey() *refusal {
	return refuse(http.StatusForbidden, "InvalidClientTokenId", "The security token included in the request is invalid.")
}

func wrongSignature() *refusal {
	return refuse(http.StatusForbidden, "SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method.")
}

func (c *Cloud) byKey(key string) *Account {
	for _, a := range c.accounts {
		if a.AccessKey == key {
			return a
		}
	}
	return nil
}

// isV4 tells whether a request has a header of version 4.
func isV4(r *http.Request) bool {
	return strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256")
}

// verifyV4 is whose request it is: the signature is computed anew, over the method, path
// and query as they came and the headers that are said to be signed.
func (c *Cloud) verifyV4(r *http.Request, payload string, forS3 bool) (*Account, *refusal) {
	part := map[string]string{}
	_, list, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	for _, kv := range strings.Split(list, ",") {
		k, v, _ := strings.Cut(strings.TrimSpace(kv), "=")
		part[k] = v
	}
	scope := strings.Split(part["Credential"], "/")
	if len(scope) != 5 || scope[4] != "aws4_request" || part["SignedHeaders"] == "" || part["Signature"] == "" {
		return nil, refuse(http.StatusBadRequest, "IncompleteSignature", "the Authorization header is not complete")
	}
	account := c.byKey(scope[0])
	if account == nil || account.Token != r.Header.Get("X-Amz-Security-Token") {
		return nil, noKey()
	}
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil {
		return nil, refuse(http.StatusForbidden, "AccessDenied", "Date not found.")
	}
	if age := c.o.Now().Sub(at); age.Abs() > skew {
		return nil, refuse(http.StatusBadRequest, "RequestExpired", "Request has expired. Signed at %s, it is %s", at.Format(time.RFC3339), c.o.Now().UTC().Format(time.RFC3339))
	}
	if scope[1] != at.Format("20060102") {
		return nil, wrongSignature()
	}
	if c.o.Region != "" && scope[2] != c.o.Region {
		return nil, refuse(http.StatusForbidden, "SignatureDoesNotMatch", "Credential should be scoped to a valid region.")
	}
	signed := strings.Split(part["SignedHeaders"], ";")
	again := &http.Request{Method: r.Method, URL: &url.URL{Scheme: "http", Host: r.Host, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}, Host: r.Host, Header: http.Header{}}
	for _, name := range signed {
		switch name {
		case "host":
		case "content-length":
			again.ContentLength = r.ContentLength
		default:
			again.Header[http.CanonicalHeaderKey(name)] = slices.Clone(r.Header.Values(name))
		}
	}
	for name := range r.Header {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "x-amz-") && !slices.Contains(signed, lower) && lower != "x-amzn-trace-id" {
			return nil, refuse(http.StatusForbidden, "AccessDenied", "There were headers present in the request which were not signed: %s", lower)
		}
	}
	err = v4.NewSigner().SignHTTP(context.Background(), aws.Credentials{AccessKeyID: account.AccessKey, SecretAccessKey: account.Secret},
		again, payload, scope[3], scope[2], at, func(o *v4.SignerOptions) { o.DisableURIPathEscaping = forS3 })
	if err != nil {
		return nil, refuse(http.StatusInternalServerError, "InternalFailure", "%v", err)
	}
	if subtle.ConstantTimeCompare([]byte(again.Header.Get("Authorization")), []byte(canonicalAuthorization(r.Header.Get("Authorization")))) != 1 {
		return nil, wrongSignature()
	}
	return account, nil
}

// canonicalAuthorization has the spaces of the signer.
func canonicalAuthorization(s string) string {
	algorithm, list, _ := strings.Cut(s, " ")
	parts := strings.Split(list, ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return algorithm + " " + strings.Join(parts, ", ")
}

// verifyQueryV2 is whose query it is, by its parameters.
func (c *Cloud) verifyQueryV2(r *http.Request, path string, form url.Values) (*Account, *refusal) {
	if form.Get("SignatureVersion") != "2" {
		return nil, refuse(http.StatusForbidden, "MissingAuthenticationToken", "the request is not signed")
	}
	account := c.byKey(form.Get("AWSAccessKeyId"))
	if account == nil || account.Token != form.Get("SecurityToken") {
		return nil, noKey()
	}
	var algorithm func() hash.Hash
	switch form.Get("SignatureMethod") {
	case "HmacSHA256":
		algorithm = sha256.New
	case "HmacSHA1":
		algorithm = sha1.New
	default:
		return nil, refuse(http.StatusForbidden, "AccessDenied", "Invalid signature method: %s", form.Get("SignatureMethod"))
	}
	at, err := time.Parse("2006-01-02T15:04:05Z", form.Get("Timestamp"))
	if err != nil {
		return nil, refuse(http.StatusForbidden, "AccessDenied", "Date not found.")
	}
	if c.o.Now().Sub(at).Abs() > skew {
		return nil, refuse(http.StatusBadRequest, "RequestExpired", "Request has expired. Timestamp date is %s", form.Get("Timestamp"))
	}
	var pairs []string
	for _, k := range slices.Sorted(maps.Keys(form)) {
		for _, v := range slices.Sorted(slices.Values(form[k])) {
			if k != "Signature" {
				pairs = append(pairs, rfc3986(k)+"="+rfc3986(v))
			}
		}
	}
	mac := hmac.New(algorithm, []byte(account.Secret))
	fmt.Fprintf(mac, "%s\n%s\n%s\n%s", r.Method, strings.ToLower(r.Host), path, strings.Join(pairs, "&"))
	given := form.Get("Signature")
	if given != base64.StdEncoding.EncodeToString(mac.Sum(nil)) {
		return nil, wrongSignature()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, again := c.seen[given]; again {
		return nil, refuse(http.StatusForbidden, "AccessDenied", "Message replay detected. Same signature was used within 15 minutes")
	}
	c.seen[given] = at
	return account, nil
}

// rfc3986 encodes all but the unreserved characters.
func rfc3986(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.~", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// subresources are the parameters that a signature of version 2 of S3 covers.
var subresources = []string{
	"acl", "cors", "delete", "lifecycle", "location", "logging", "notification", "partNumber", "policy", "requestPayment", "tagging",
	"torrent", "uploadId", "uploads", "versionId", "versioning", "versions", "website",
	"response-cache-control", "response-content-disposition", "response-content-encoding", "response-content-language", "response-content-type", "response-expires",
}

// verifyHeaderV2 is whose request it is, by "Authorization: AWS key:signature". The path is
// signed with that of the service before it, or without, as S3V2Authentication.java has it.
func (c *Cloud) verifyHeaderV2(r *http.Request, rest string) (*Account, *refusal) {
	key, given, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Authorization"), "AWS "), ":")
	account := c.byKey(key)
	if account == nil || account.Token != r.Header.Get("X-Amz-Security-Token") {
		return nil, refuse(http.StatusForbidden, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.")
	}
	date := r.Header.Get("Date")
	at, err := http.ParseTime(date)
	if amz := r.Header.Get("X-Amz-Date"); amz != "" {
		date = ""
		at, err = http.ParseTime(amz)
	}
	if err != nil {
		return nil, refuse(http.StatusForbidden, "AccessDenied", "there is no valid date")
	}
	if c.o.Now().Sub(at).Abs() > skew {
		return nil, refuse(http.StatusForbidden, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large.")
	}
	var amz []string
	for name, values := range r.Header {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "x-amz-") {
			amz = append(amz, lower+":"+strings.TrimSpace(strings.Join(values, ","))+"\n")
		}
	}
	slices.Sort(amz)
	var sub []string
	query := r.URL.Query()
	for _, name := range subresources {
		if v, ok := query[name]; ok {
			if v[0] != "" {
				name += "=" + v[0]
			}
			sub = append(sub, name)
		}
	}
	slices.Sort(sub)
	tail := ""
	if len(sub) > 0 {
		tail = "?" + strings.Join(sub, "&")
	}
	if rest == "" {
		rest = "/"
	}
	for _, path := range []string{rest, r.URL.EscapedPath()} {
		text := r.Method + "\n" + r.Header.Get("Content-Md5") + "\n" + r.Header.Get("Content-Type") + "\n" + date + "\n" + strings.Join(amz, "") + path + tail
		if given == mac1(account.Secret, text) {
			return account, nil
		}
	}
	return nil, wrongSignature()
}

// mac1 is HMAC-SHA1 in base64.
func mac1(secret, text string) string {
	mac := hmac.New(sha1.New, []byte(secret))
	mac.Write([]byte(text))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// sum256 is the SHA-256 in hex.
func sum256(p []byte) string {
	s := sha256.Sum256(p)
	return hex.EncodeToString(s[:])
}

// number reads one that must be there.
func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return -1
	}
	return n
}
