package ec2

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// A stamper dates signatures of version 2. Eucalyptus takes none of them twice
// (checkForReplay in Hmacv2LoginModule.java), and their dates have whole seconds: of
// requests that are alike, each has a second of its own. It is safe for concurrent use.
type stamper struct {
	mu   sync.Mutex
	used map[string]time.Time // signature to its date
}

// forget is when a signature is too old for anybody to take it.
const forget = 15 * time.Minute

// sign is signV2 at the first second from now on at which the signature is a new one.
func (s *stamper) sign(form url.Values, method, host, path string, c Credentials, now time.Time) url.Values {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.used, func(_ string, at time.Time) bool { return now.Sub(at) > forget })
	for at := now.UTC().Truncate(time.Second); ; at = at.Add(time.Second) {
		signed := signV2(form, method, host, path, c, at)
		signature := signed.Get("Signature")
		if _, taken := s.used[signature]; taken {
			continue
		}
		if s.used == nil {
			s.used = map[string]time.Time{}
		}
		s.used[signature] = at
		return signed
	}
}

// signV2 signs a form with Signature Version 2 of the EC2 query API: HMAC-SHA256 of
//
//	method \n host \n path \n canonical query
//
// in base64, where the canonical query is all parameters but the signature in the order
// of their bytes, encoded as RFC 3986 has it. Eucalyptus before 4 knows no other with
// SHA-256. Token is a parameter of its own.
func signV2(form url.Values, method, host, path string, c Credentials, now time.Time) url.Values {
	signed := maps.Clone(form)
	signed.Set("AWSAccessKeyId", c.AccessKey)
	signed.Set("SignatureVersion", "2")
	signed.Set("SignatureMethod", "HmacSHA256")
	signed.Set("Timestamp", now.Format("2006-01-02T15:04:05Z"))
	if c.Token != "" {
		signed.Set("SecurityToken", c.Token)
	}
	signed.Del("Signature")
	mac := hmac.New(sha256.New, []byte(c.Secret))
	mac.Write([]byte(method + "\n" + host + "\n" + path + "\n" + encode(signed)))
	signed.Set("Signature", base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	return signed
}

// hostOf is a host as the header names it, in small letters: without a port that is that
// of the scheme.
func hostOf(u *url.URL) string {
	host := strings.ToLower(u.Host)
	switch u.Scheme {
	case "https":
		return strings.TrimSuffix(host, ":443")
	case "http":
		return strings.TrimSuffix(host, ":80")
	}
	return host
}

// encode writes a form in the order of its keys' bytes, a space as %20.
func encode(form url.Values) string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(form)) {
		for _, value := range slices.Sorted(slices.Values(form[key])) {
			if b.Len() > 0 {
				b.WriteByte('&')
			}
			b.WriteString(escape(key) + "=" + escape(value))
		}
	}
	return b.String()
}

// escape is RFC 3986: all bytes but the unreserved ones as %XX.
func escape(s string) string {
	return strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
}
