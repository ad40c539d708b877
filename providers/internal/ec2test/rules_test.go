package ec2test

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// post sends a form of EC2 and gives the status and the text of the answer.
func post(t *testing.T, c *Cloud, path, body string, header http.Header) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	maps.Copy(r.Header, header)
	resp, err := c.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(resp.StatusCode) + " " + string(text)
}

func hmac256(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

// signed4 is the header of a form by the documentation of Signature Version 4 alone: not
// by the signer with which the stand-in verifies.
func signed4(c *Cloud, a *Account, path, body string, at time.Time, region, service string) http.Header {
	host := strings.TrimPrefix(c.URL, "http://")
	date := at.UTC().Format("20060102T150405Z")
	scope := date[:8] + "/" + region + "/" + service + "/aws4_request"
	sum := sha256.Sum256([]byte(body))
	canonical := "POST\n" + path + "\n\nhost:" + host + "\nx-amz-date:" + date + "\n\nhost;x-amz-date\n" + hex.EncodeToString(sum[:])
	sum = sha256.Sum256([]byte(canonical))
	key := []byte("AWS4" + a.Secret)
	for _, part := range []string{date[:8], region, service, "aws4_request"} {
		key = hmac256(key, part)
	}
	signature := hex.EncodeToString(hmac256(key, "AWS4-HMAC-SHA256\n"+date+"\n"+scope+"\n"+hex.EncodeToString(sum[:])))
	return http.Header{
		"X-Amz-Date":    {date},
		"Authorization": {"AWS4-HMAC-SHA256 Credential=" + a.AccessKey + "/" + scope + ",SignedHeaders=host;x-amz-date,Signature=" + signature},
	}
}

// signed2 is a form signed by the documentation of Signature Version 2.
func signed2(c *Cloud, a *Account, path string, at time.Time, method string, form map[string]string) string {
	all := map[string]string{"AWSAccessKeyId": a.AccessKey, "SignatureVersion": "2", "SignatureMethod": method, "Timestamp": at.UTC().Format("2006-01-02T15:04:05Z")}
	maps.Copy(all, form)
	var pairs []string
	for _, k := range slices.Sorted(maps.Keys(all)) {
		pairs = append(pairs, url.PathEscape(k)+"="+strings.ReplaceAll(url.QueryEscape(all[k]), "+", "%20"))
	}
	algorithm := map[string]func() hash.Hash{"HmacSHA256": sha256.New, "HmacSHA1": sha1.New}[method]
	if algorithm == nil {
		algorithm = sha256.New
	}
	m := hmac.New(algorithm, []byte(a.Secret))
	query := strings.Join(pairs, "&")
	fmt.Fprintf(m, "POST\n%s\n%s\n%s", strings.TrimPrefix(c.URL, "http://"), path, query)
	return query + "&Signature=" + url.QueryEscape(base64.StdEncoding.EncodeToString(m.Sum(nil)))
}

// Who signs as it is documented is let in, and nobody else.
func TestQuerySignatures(t *testing.T) {
	c := Start(t, Options{})
	alice := c.Account("alice")
	wrong := &Account{AccessKey: alice.AccessKey, Secret: "wrong"}
	nobody := &Account{AccessKey: "AKINONE", Secret: "wrong"}
	const path, body = "/services/compute", "Action=DescribeInstances&Version=2016-11-15"
	now := time.Now()
	four := func(a *Account, at time.Time, region, service, sent string) string {
		return post(t, c, path, sent, signed4(c, a, path, body, at, region, service))
	}
	two := func(a *Account, path string, at time.Time, method string, form map[string]string) string {
		if form == nil {
			form = map[string]string{"Action": "DescribeInstances", "Version": "2013-02-01"}
		}
		return post(t, c, "/services/Eucalyptus", signed2(c, a, path, at, method, form), nil)
	}
	const old = "/services/Eucalyptus"
	altered := func() string {
		form := signed2(c, alice, old, now.Add(-5*time.Second), "HmacSHA256", map[string]string{"Action": "DescribeInstances", "Version": "2013-02-01"})
		return post(t, c, old, strings.Replace(form, "DescribeInstances", "DescribeImages", 1), nil)
	}
	for name, tt := range map[string]struct{ got, want string }{
		"version 4":             {four(alice, now, "eucalyptus", "ec2", body), "200"},
		"any region, service":   {four(alice, now, "us-east-1", "compute", body), "200"},
		"fourteen minutes":      {four(alice, now.Add(-14*time.Minute), "a", "b", body), "200"},
		"wrong secret":          {four(wrong, now, "eucalyptus", "ec2", body), "403 SignatureDoesNotMatch"},
		"unknown key":           {four(nobody, now, "eucalyptus", "ec2", body), "403 InvalidClientTokenId"},
		"old":                   {four(alice, now.Add(-16*time.Minute), "eucalyptus", "ec2", body), "400 RequestExpired"},
		"of tomorrow":           {four(alice, now.Add(24*time.Hour), "eucalyptus", "ec2", body), "400 RequestExpired"},
		"altered body":          {four(alice, now, "eucalyptus", "ec2", body+"&InstanceId.1=i-12345678"), "403 SignatureDoesNotMatch"},
		"not signed":            {post(t, c, path, body, nil), "403 MissingAuthenticationToken"},
		"half a header":         {post(t, c, path, body, http.Header{"Authorization": {"AWS4-HMAC-SHA256 Credential=a/b"}}), "400 IncompleteSignature"},
		"version 2":             {two(alice, old, now, "HmacSHA256", nil), "200"},
		"version 2 with SHA-1":  {two(alice, old, now, "HmacSHA1", nil), "200"},
		"version 2 with MD5":    {two(alice, old, now, "HmacMD5", nil), "403 AccessDenied"},
		"version 2, secret":     {two(wrong, old, now, "HmacSHA256", nil), "403 SignatureDoesNotMatch"},
		"version 2, key":        {two(nobody, old, now, "HmacSHA256", nil), "403 InvalidClientTokenId"},
		"version 2, path":       {two(alice, path, now.Add(time.Second), "HmacSHA256", nil), "403 SignatureDoesNotMatch"},
		"version 2, old":        {two(alice, old, now.Add(-time.Hour), "HmacSHA256", nil), "400 RequestExpired"},
		"version 2, no time":    {two(alice, old, now, "HmacSHA256", map[string]string{"Action": "DescribeInstances", "Timestamp": "now"}), "403 AccessDenied"},
		"version 2, altered":    {altered(), "403 SignatureDoesNotMatch"},
		"no version of the api": {two(alice, old, now, "HmacSHA256", map[string]string{"Action": "DescribeInstances"}), "400 MissingParameter"},
		"no such action":        {two(alice, old, now, "HmacSHA256", map[string]string{"Action": "MakeCoffee", "Version": "2013-02-01"}), "400 InvalidAction"},
		"unknown parameter":     {two(alice, old, now, "HmacSHA256", map[string]string{"Action": "DescribeImages", "Version": "2013-02-01", "MaxResults": "5"}), "400 MaxResults = 5"},
		"unknown filter":        {two(alice, old, now, "HmacSHA256", map[string]string{"Action": "DescribeSecurityGroups", "Version": "2013-02-01", "Filter.1.Name": "x", "Filter.1.Value.1": "y"}), "400 InvalidParameterValue"},
		"a stub":                {two(alice, old, now, "HmacSHA256", map[string]string{"Action": "CopyImage", "Version": "2013-02-01", "SourceImageId": "x"}), "200 <CopyImageResponse"},
		"no service":            {post(t, c, "/services/Nothing", body, nil), "404 Failure: 404 Not Found"},
	} {
		status, text, _ := strings.Cut(tt.want, " ")
		if !strings.HasPrefix(tt.got, status) || !strings.Contains(tt.got, text) {
			t.Errorf("%s: %s, want %s", name, tt.got, tt.want)
		}
	}
	again := signed2(c, alice, old, now.Add(-7*time.Second), "HmacSHA256", map[string]string{"Action": "DescribeInstances", "Version": "2013-02-01"})
	if got := post(t, c, old, again, nil); !strings.HasPrefix(got, "200") {
		t.Error(got)
	}
	if got := post(t, c, old, again, nil); !strings.HasPrefix(got, "403") || !strings.Contains(got, "replay") {
		t.Errorf("a second time: %s", got)
	}
}

// A region that is set is enforced, as AWS does.
func TestRegion(t *testing.T) {
	c := Start(t, Options{Region: "eu-west-1"})
	const path, body = "/services/compute", "Action=DescribeInstances&Version=2016-11-15"
	for region, want := range map[string]string{"eu-west-1": "200", "us-east-1": "403"} {
		if got := post(t, c, path, body, signed4(c, c.Account("bob"), path, body, time.Now(), region, "ec2")); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s", region, got)
		}
	}
}

// An account sees and changes nothing of another.
func TestAccountsApart(t *testing.T) {
	c := Start(t, Options{})
	alice, bob := c.Account("alice"), c.Account("bob")
	v := c.Launch(alice, Instance{Tags: map[string]string{"Name": "web"}})
	ask := func(a *Account, body string) string {
		body += "&Version=2016-11-15"
		return post(t, c, "/services/compute", body, signed4(c, a, "/services/compute", body, time.Now(), "eucalyptus", "ec2"))
	}
	for name, tt := range map[string]struct{ got, want string }{
		"alice":         {ask(alice, "Action=DescribeInstances"), "200 <instanceId>" + v},
		"alice by name": {ask(alice, "Action=DescribeInstances&Filter.1.Name=tag%3AName&Filter.1.Value.1=w%2A"), "200 <instanceId>" + v},
		"bob":           {ask(bob, "Action=DescribeInstances&InstanceId.1="+v), "400 InvalidInstanceID.NotFound"},
		"bob tags":      {ask(bob, "Action=CreateTags&ResourceId.1="+v+"&Tag.1.Key=a&Tag.1.Value=b"), "400 InvalidID"},
		"bob bundles":   {ask(bob, "Action=CreateImage&InstanceId="+v+"&Name=abc"), "400 InvalidInstanceID.NotFound"},
		"reserved tag":  {ask(alice, "Action=CreateTags&ResourceId.1="+v+"&Tag.1.Key=aws%3Aa&Tag.1.Value=b"), "400 InvalidParameterValue"},
		"groups":        {ask(bob, "Action=DescribeSecurityGroups"), "200 <ownerId>" + bob.Number + "</ownerId>"},
	} {
		status, text, _ := strings.Cut(tt.want, " ")
		if !strings.HasPrefix(tt.got, status) || !strings.Contains(tt.got, text) {
			t.Errorf("%s: %s, want %s", name, tt.got, tt.want)
		}
	}
	if got := ask(bob, "Action=DescribeInstances"); !strings.HasPrefix(got, "200") || strings.Contains(got, v) {
		t.Errorf("bob sees %s", got)
	}
}
