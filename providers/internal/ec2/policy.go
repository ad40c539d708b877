package ec2

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"
)

// MaxPolicy is how long a policy may be in base64, in bytes: VmControl.java of
// Eucalyptus 4.4.
const MaxPolicy = 4096

// PolicyFor is the document that allows a cloud to put a bundle into a bucket, under
// names that begin with prefix, until it expires: what euca-bundle-instance sends. The
// order of the conditions does not matter; Eucalyptus looks for the bucket's name and
// for ec2-bundle-read in the text, and its object store requires all of it of each form.
func PolicyFor(bucket, prefix string, expires time.Time) []byte {
	text, err := json.Marshal(map[string]any{
		"expiration": expires.UTC().Format("2006-01-02T15:04:05Z"),
		"conditions": []any{
			map[string]string{"acl": "ec2-bundle-read"},
			map[string]string{"bucket": bucket},
			[]string{"starts-with", "$key", prefix},
		},
	})
	if err != nil {
		panic(err) // of strings alone: it cannot fail
	}
	return text
}

// SignPolicy signs a policy. Encoded is the document in base64, as forms carry it;
// signature is HMAC-SHA1 of that text with the secret key, in base64.
func SignPolicy(secret string, policy []byte) (encoded, signature string) {
	encoded = base64.StdEncoding.EncodeToString(policy)
	mac := hmac.New(sha1.New, []byte(secret))
	mac.Write([]byte(encoded))
	return encoded, base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// isPrefixInUse tells it by the text of Bundles.java, the only sign that there is.
func isPrefixInUse(err error) bool {
	var f *Fault
	return errors.As(err, &f) && strings.Contains(f.Message, "Bucket prefix in use")
}
