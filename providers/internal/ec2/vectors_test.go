package ec2

import (
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// need skips the test where a program is missing, which CI does not allow.
func need(t testing.TB, programs ...string) {
	t.Helper()
	for _, name := range programs {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("%s is not installed; CI must have it", name)
			}
			t.Skipf("!!!!! NOT TESTED: %s is not installed", name)
		}
	}
}

// The example of Amazon's documentation of Signature Version 2 ("Query API
// Authentication", Elastic MapReduce 2009-03-31): string to sign and signature are there
// in print.
func TestSignV2Documented(t *testing.T) {
	form := url.Values{"Action": {"DescribeJobFlows"}, "Version": {"2009-03-31"}}
	at := time.Date(2011, 10, 3, 15, 19, 30, 0, time.UTC)
	c := Credentials{AccessKey: "AKIAIOSFODNN7EXAMPLE", Secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}
	got := signV2(form, "GET", "elasticmapreduce.amazonaws.com", "/", c, at)
	// The documentation's timestamp has no Z.
	if got.Get("Timestamp") != "2011-10-03T15:19:30Z" {
		t.Fatalf("timestamp %q", got.Get("Timestamp"))
	}
	form = url.Values{}
	for k, v := range got {
		form[k] = v
	}
	form.Del("Signature")
	form.Set("Timestamp", "2011-10-03T15:19:30")
	text := "GET\nelasticmapreduce.amazonaws.com\n/\n" + encode(form)
	want := "GET\nelasticmapreduce.amazonaws.com\n/\nAWSAccessKeyId=AKIAIOSFODNN7EXAMPLE&Action=DescribeJobFlows&SignatureMethod=HmacSHA256&SignatureVersion=2&Timestamp=2011-10-03T15%3A19%3A30&Version=2009-03-31"
	if text != want {
		t.Errorf("signed is\n%s\nwant\n%s", text, want)
	}
	if got := openssl(t, "sha256", c.Secret, text); got != "i91nKc4PWAt0JJIdXwz9HxZCJDdiy6cf/Mj6vPxyYIs=" {
		t.Errorf("openssl has %s for the documented text", got)
	}
}

// openssl is the HMAC of a text in base64.
func openssl(t *testing.T, digest, key, text string) string {
	t.Helper()
	need(t, "openssl", "bash")
	cmd := exec.Command("bash", "-c", `set -o pipefail; openssl dgst -`+digest+` -hmac "$1" -binary | base64 -w0`, "-", key)
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("openssl: %v: %s", err, out)
	}
	return string(out)
}

// What openssl computes over the text of the documentation's rules, written by hand.
func TestSignV2Program(t *testing.T) {
	c := Credentials{AccessKey: "AKI", Secret: "s3cr+t/=", Token: "t o~k"}
	form := url.Values{"Action": {"DescribeImages"}, "Version": {"2016-11-15"}, "Owner.1": {"self"}, "ImageId.10": {"*"}, "ImageId.2": {"ä b+c"}}
	got := signV2(form, "POST", "cloud.example:8773", "/services/Eucalyptus", c, time.Date(2026, 11, 22, 1, 2, 3, 456, time.UTC))
	want := openssl(t, "sha256", c.Secret, "POST\ncloud.example:8773\n/services/Eucalyptus\n"+
		"AWSAccessKeyId=AKI&Action=DescribeImages&ImageId.10=%2A&ImageId.2=%C3%A4%20b%2Bc&Owner.1=self&SecurityToken=t%20o~k"+
		"&SignatureMethod=HmacSHA256&SignatureVersion=2&Timestamp=2026-11-22T01%3A02%3A03Z&Version=2016-11-15")
	if got.Get("Signature") != want {
		t.Errorf("signature %s, openssl has %s", got.Get("Signature"), want)
	}
	if len(form) != 5 {
		t.Errorf("the caller's form was changed: %v", form)
	}
}

// No two requests that are alike have one signature, whenever they are made.
func TestStamps(t *testing.T) {
	var s stamper
	now := time.Date(2026, 11, 22, 1, 2, 3, 0, time.UTC)
	form := url.Values{"Action": {"DescribeBundleTasks"}}
	c := Credentials{AccessKey: "a", Secret: "b"}
	seen := map[string]bool{}
	for range 5 {
		got := s.sign(form, "POST", "h", "/", c, now)
		if sig := got.Get("Signature"); seen[sig] {
			t.Fatalf("%s was used before", sig)
		} else {
			seen[sig] = true
		}
	}
	if got := s.sign(form, "POST", "h", "/", c, now.Add(time.Hour)).Get("Timestamp"); got != "2026-11-22T02:02:03Z" {
		t.Errorf("an hour later it is %s", got)
	}
	if len(s.used) != 1 {
		t.Errorf("%d signatures are kept of old", len(s.used))
	}
}

func TestPolicy(t *testing.T) {
	p := PolicyFor("bucket", `pre"fix`, time.Date(2026, 11, 22, 9, 0, 0, 0, time.FixedZone("", 3600)))
	want := `{"conditions":[{"acl":"ec2-bundle-read"},{"bucket":"bucket"},["starts-with","$key","pre\"fix"]],"expiration":"2026-11-22T08:00:00Z"}`
	if string(p) != want {
		t.Errorf("policy %s", p)
	}
	encoded, signature := SignPolicy("secret", p)
	if got := openssl(t, "sha1", "secret", encoded); got != signature {
		t.Errorf("signature %s, openssl has %s", signature, got)
	}
	need(t, "base64")
	cmd := exec.Command("base64", "-d")
	cmd.Stdin = strings.NewReader(encoded)
	if out, err := cmd.Output(); err != nil || string(out) != want {
		t.Errorf("base64 -d has %s, %v", out, err)
	}
}

func TestHostOf(t *testing.T) {
	for in, want := range map[string]string{
		"https://Cloud.Example:443/x": "cloud.example", "https://h:8773/x": "h:8773", "http://h:80/": "h", "http://h:443/": "h:443", "https://[::1]:443/": "[::1]",
	} {
		u, err := url.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := hostOf(u); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

func TestBootstrap(t *testing.T) {
	for in, want := range map[string]string{
		"https://h.example:8773/services/compute":     "https://h.example:8773/services/Empyrean",
		"https://h.example:8773/services/Eucalyptus/": "https://h.example:8773/services/Empyrean",
		"https://compute.cloud.example:8773/":         "https://bootstrap.cloud.example:8773/",
		"https://ec2.cloud.example":                   "https://bootstrap.cloud.example/",
		"http://10.0.0.1:8773/services/compute":       "http://10.0.0.1:8773/services/Empyrean",
		"http://10.0.0.1:8773":                        "http://10.0.0.1:8773/Empyrean",
	} {
		u, err := url.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := bootstrap(*u); got.String() != want {
			t.Errorf("%s: %s, want %s", in, got.String(), want)
		}
	}
}
