package eucalyptus

import (
	"bytes"
	"context"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
	"chromogenic/providers/internal/ec2test"
)

// TestVersitygw asks somebody else's store, which is strict about signatures. It is no
// Walrus, and knows no ACL of EC2.
func TestVersitygw(t *testing.T) {
	url, access, secret := ec2test.Versitygw(t)
	open := func(secret string) *store {
		signer := aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: access, SecretAccessKey: secret}, nil
		})
		client := &http.Client{Transport: &transport{next: http.DefaultTransport, stall: 10 * time.Second}}
		return newStore(url, "us-east-1", client, providers.NewRetry(time.Second, 4), signer)
	}
	s := open(secret)
	ctx := t.Context()
	for range 2 {
		if err := s.bucket(ctx, "images"); err != nil {
			t.Fatal(err)
		}
	}
	body, err := disktest.Read(noise(11 << 20))
	if err != nil {
		t.Fatal(err)
	}
	objects := map[string][]byte{"a/web.part.00": body, "a/empty": nil, "a/größe + & %": body[:1000], "b/other": body[:5]}
	for key, p := range objects {
		if err := s.put(ctx, place{"images", key}, p); err != nil {
			t.Fatal(err)
		}
	}
	list, err := s.list(ctx, place{"images", "a/"})
	if err != nil || len(list) != 3 || list["web.part.00"].size != int64(len(body)) || !isMD5(list["web.part.00"].etag) {
		t.Errorf("listed are %+v, %v", list, err)
	}
	for key, want := range objects {
		p, err := s.whole(ctx, place{"images", key}, 20<<20)
		if err != nil || !bytes.Equal(p, want) {
			t.Errorf("%s: %d bytes, %v", key, len(p), err)
		}
	}
	p := make([]byte, 70_000)
	r := reading{size: -1, ranged: true}
	if n, err := s.read(ctx, place{"images", "a/web.part.00"}, 5<<20, p, &r); err != nil || n != len(p) || !bytes.Equal(p, body[5<<20:][:n]) || r.size != int64(len(body)) {
		t.Errorf("a range: %d bytes of %d, %v", n, r.size, err)
	}
	if _, err := s.whole(ctx, place{"images", "a/web.part.00"}, 10<<20); disk.KindOf(err) != disk.TooLarge {
		t.Errorf("more than is wanted: %v", err)
	}
	for _, at := range []place{{"images", "none"}, {"nobucket", "none"}} {
		if _, err := s.whole(ctx, at, 10); disk.KindOf(err) != disk.NotFound {
			t.Errorf("%s: %v", at, err)
		}
	}
	if err := open("wrong").put(ctx, place{"images", "x"}, body[:10]); disk.KindOf(err) != disk.Denied {
		t.Errorf("a wrong secret: %v", err)
	}
	if err := s.clear(ctx, place{"images", "a/"}); err != nil {
		t.Fatal(err)
	}
	list, err = s.list(ctx, place{"images", ""})
	if err != nil || len(list) != 1 || !slices.ContainsFunc([]string{"b/other"}, func(k string) bool { return list[k].size == 5 }) {
		t.Errorf("left are %+v, %v", list, err)
	}
	if err := s.remove(ctx, place{"images", "none"}); err != nil {
		t.Errorf("what is gone is removed: %v", err)
	}
}
