package eucalyptus

import (
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // version 2 signs with it
	"encoding/base64"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"time"
)

// subresources are the parameters of a request that are signed with its path: those that
// make it another request, as S3's "Signing and Authenticating REST Requests" lists them.
var subresources = []string{
	"acl", "delete", "lifecycle", "location", "logging", "notification", "partNumber", "policy", "requestPayment",
	"torrent", "uploadId", "uploads", "versionId", "versioning", "versions", "website", "tagging", "cors",
}

// signV2 signs a request to S3 in version 2, which is all that Eucalyptus before 4.1 knows:
// HMAC-SHA1 over the method, Content-MD5, Content-Type, the date, the headers x-amz-* and
// the path, which has the folder of the service in it, as boto signs it and S3V2Authentication
// of Eucalyptus allows.
func signV2(req *http.Request, access, secret, token string, now time.Time) {
	req.Header.Set("Date", now.UTC().Format(http.TimeFormat))
	if token != "" {
		req.Header.Set("X-Amz-Security-Token", token)
	}
	mac := hmac.New(sha1.New, []byte(secret))
	mac.Write([]byte(textV2(req)))
	req.Header.Set("Authorization", "AWS "+access+":"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}

// textV2 is what is signed.
func textV2(req *http.Request) string {
	var b strings.Builder
	for _, line := range []string{req.Method, req.Header.Get("Content-Md5"), req.Header.Get("Content-Type"), req.Header.Get("Date")} {
		b.WriteString(line + "\n")
	}
	var amz []string
	for key, values := range req.Header {
		if key := strings.ToLower(key); strings.HasPrefix(key, "x-amz-") {
			for i, v := range values {
				values[i] = textproto.TrimString(v)
			}
			amz = append(amz, key+":"+strings.Join(values, ",")+"\n")
		}
	}
	slices.Sort(amz)
	b.WriteString(strings.Join(amz, ""))
	b.WriteString(req.URL.EscapedPath())
	var sub []string
	for _, pair := range strings.Split(req.URL.RawQuery, "&") {
		key, value, _ := strings.Cut(pair, "=")
		switch {
		case !slices.Contains(subresources, key):
		case value == "":
			sub = append(sub, key)
		default:
			sub = append(sub, key+"="+value)
		}
	}
	if slices.Sort(sub); len(sub) > 0 {
		b.WriteString("?" + strings.Join(sub, "&"))
	}
	return b.String()
}
