package ec2test

import (
	"bytes"
	"io"
	"net/http"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// The client with which the stand-in's store is tested is let in by another's server too,
// and one with the wrong secret is not.
func TestVersitygw(t *testing.T) {
	url, key, secret := Versitygw(t)
	gateway := func(secret string) *s3.Client {
		return s3client(&Cloud{URL: url}, "", &Account{AccessKey: key, Secret: secret}, func(o *s3.Options) {
			o.Region, o.HTTPClient = "us-east-1", http.DefaultClient
		})
	}
	good, body := gateway(secret), bytes.Repeat([]byte("0123456789"), 1000)
	if _, err := good.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("abc")}); err != nil {
		t.Fatal(err)
	}
	name := aws.String("dir/a b+c~ä")
	if _, err := good.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("abc"), Key: name, Body: bytes.NewReader(body)}); err != nil {
		t.Fatal(err)
	}
	got, err := good.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("abc"), Key: name, Range: aws.String("bytes=5-9")})
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	if p, err := io.ReadAll(got.Body); err != nil || string(p) != "56789" {
		t.Errorf("%q, %v", p, err)
	}
	if _, err := gateway("wrong").GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("abc"), Key: name}); codeOf(err) != "SignatureDoesNotMatch" {
		t.Errorf("with the wrong secret: %v", err)
	}
}
