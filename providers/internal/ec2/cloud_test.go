package ec2_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chromogenic/disk"
	"chromogenic/providers"
	"chromogenic/providers/internal/bundle"
	"chromogenic/providers/internal/crypt"
	"chromogenic/providers/internal/ec2"
	"chromogenic/providers/internal/ec2test"
)

// client asks a cloud as an account.
func client(t testing.TB, c *ec2test.Cloud, name string, change func(*ec2.Options)) *ec2.Client {
	t.Helper()
	a := c.Account(name)
	o := ec2.Options{
		Endpoint: c.ComputeURL(), Retry: providers.NewRetry(0, 4),
		Credentials: func(context.Context) (ec2.Credentials, error) {
			return ec2.Credentials{AccessKey: a.AccessKey, Secret: a.Secret, Token: a.Token}, nil
		},
	}
	if c.CA != nil {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(c.CA)
		o.HTTP = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	}
	if change != nil {
		change(&o)
	}
	got, err := ec2.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// bundled puts a bundle of a disk into the store, and gives its location.
func bundled(t testing.TB, c *ec2test.Cloud, name string, change func(m *bundle.Manifest)) string {
	t.Helper()
	a := c.Account(name)
	secret := crypt.AES128CBC{}.NewSecret()
	put := func(key string, body []byte) {
		if err := c.S3.Put(a, "images", key, "aws-exec-read", body); err != nil {
			t.Fatal(err)
		}
	}
	m, _, err := bundle.Bundle(t.Context(), disk.Bytes(make([]byte, 1<<20)), bundle.Spec{Name: "web", Secret: secret},
		func(_ context.Context, w bundle.Written, body []byte) error {
			put("dir/"+w.Name, slices.Clone(body))
			return nil
		})
	if err != nil {
		t.Fatal(err)
	}
	key, err := crypt.ParsePublicKey(c.Cert)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Seal(secret, key, &a.Key.PublicKey); err != nil {
		t.Fatal(err)
	}
	m.User, m.Architecture = a.Number, "x86_64"
	if change != nil {
		change(m)
	}
	text, err := m.Encode(a.Key)
	if err != nil {
		t.Fatal(err)
	}
	put("dir/web.manifest.xml", text)
	return "images/dir/web.manifest.xml"
}

// Both signatures are taken, over both addresses, over TLS and without, and refused with
// the wrong secret.
func TestSignatures(t *testing.T) {
	for _, secure := range []bool{false, true} {
		c := ec2test.Start(t, ec2test.Options{TLS: secure})
		for _, v2 := range []bool{false, true} {
			for _, path := range []string{"/services/compute", "/services/Eucalyptus", "/services/compute/"} {
				set := func(o *ec2.Options) { o.SigV2, o.Endpoint = v2, c.URL+path }
				got := client(t, c, "alice", set)
				for range 3 { // of version 2 none is taken twice
					if list, err := got.Images(t.Context(), ec2.ImageFilter{Tags: map[string]string{"a b+ä~*": "x y/=&"}}); err != nil || len(list) != 0 {
						t.Errorf("tls %v, version 2 %v, %s: %v, %v", secure, v2, path, list, err)
					}
				}
				wrong := client(t, c, "alice", func(o *ec2.Options) {
					set(o)
					o.Credentials = func(context.Context) (ec2.Credentials, error) {
						return ec2.Credentials{AccessKey: c.Account("alice").AccessKey, Secret: "wrong"}, nil
					}
				})
				if _, err := wrong.Images(t.Context(), ec2.ImageFilter{}); disk.KindOf(err) != disk.Denied || ec2.Code(err) != "SignatureDoesNotMatch" {
					t.Errorf("the wrong secret: %v", err)
				}
				late := client(t, c, "alice", func(o *ec2.Options) {
					set(o)
					o.Now = func() time.Time { return time.Now().Add(-time.Hour) }
				})
				if _, err := late.Images(t.Context(), ec2.ImageFilter{}); disk.KindOf(err) != disk.Denied || !strings.Contains(disk.AsError(err).Hint, "clock") {
					t.Errorf("a wrong clock: %v, %s", err, disk.AsError(err).Hint)
				}
			}
		}
	}
}

// Temporary credentials go with their token, and are nothing without it.
func TestToken(t *testing.T) {
	c := ec2test.Start(t, ec2test.Options{})
	c.Account("bob").Token = "to/ke+n=="
	for _, v2 := range []bool{false, true} {
		bob := client(t, c, "bob", func(o *ec2.Options) { o.SigV2 = v2 })
		if _, err := bob.Images(t.Context(), ec2.ImageFilter{}); err != nil {
			t.Errorf("version 2 %v: %v", v2, err)
		}
		bare := client(t, c, "bob", func(o *ec2.Options) {
			o.SigV2 = v2
			o.Credentials = func(context.Context) (ec2.Credentials, error) {
				return ec2.Credentials{AccessKey: c.Account("bob").AccessKey, Secret: c.Account("bob").Secret}, nil
			}
		})
		if _, err := bare.Images(t.Context(), ec2.ImageFilter{}); disk.KindOf(err) != disk.Denied || ec2.Code(err) != "InvalidClientTokenId" {
			t.Errorf("without a token, version 2 %v: %v", v2, err)
		}
	}
}

func TestImages(t *testing.T) {
	c := ec2test.Start(t, ec2test.Options{})
	alice, bob := client(t, c, "alice", nil), client(t, c, "bob", nil)
	at := bundled(t, c, "alice", nil)
	id, err := alice.Register(t.Context(), ec2.Registration{Name: "web", Description: "a web server", Location: at, Architecture: "x86_64", Virtualization: "hvm"})
	if err != nil {
		t.Fatal(err)
	}
	list, err := alice.Images(t.Context(), ec2.ImageFilter{Owners: []string{"self"}})
	if err != nil || len(list) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	got := list[0]
	if time.Since(got.Created) > time.Minute || time.Since(got.Created) < -time.Minute {
		t.Errorf("created %v", got.Created)
	}
	want := ec2.Image{
		ID: id, Name: "web", Location: at, State: "available", Owner: c.Account("alice").Number, Type: ec2.Machine, Architecture: "x86_64",
		RootDeviceType: ec2.InstanceStore, RootDevice: "/dev/sda", Virtualization: "hvm", Description: "a web server", Created: got.Created, Tags: map[string]string{},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if _, err := alice.Register(t.Context(), ec2.Registration{Name: "web", Location: at, Virtualization: "hvm"}); disk.KindOf(err) != disk.Exists {
		t.Errorf("twice: %v", err)
	}
	// Bob sees it when he may.
	for _, step := range []struct {
		add, remove ec2.Permissions
		want        ec2.Permissions
		sees        int
	}{
		{want: ec2.Permissions{}, sees: 0},
		{add: ec2.Permissions{Accounts: []string{c.Account("bob").Number}}, want: ec2.Permissions{Accounts: []string{c.Account("bob").Number}}, sees: 1},
		{add: ec2.Permissions{Everybody: true}, remove: ec2.Permissions{Accounts: []string{c.Account("bob").Number}}, want: ec2.Permissions{Everybody: true}, sees: 1},
		{remove: ec2.Permissions{Everybody: true}, sees: 0},
	} {
		if err := alice.ChangeLaunchPermissions(t.Context(), id, step.add, step.remove); err != nil {
			t.Fatal(err)
		}
		p, err := alice.LaunchPermissions(t.Context(), id)
		if d := cmp.Diff(step.want, p); d != "" || err != nil {
			t.Errorf("%v %s", err, d)
		}
		if list, err := bob.Images(t.Context(), ec2.ImageFilter{}); err != nil || len(list) != step.sees {
			t.Errorf("bob sees %v, %v", list, err)
		}
	}
	if err := bob.ChangeLaunchPermissions(t.Context(), id, ec2.Permissions{Everybody: true}, ec2.Permissions{}); disk.KindOf(err) != disk.NotFound {
		t.Errorf("bob shares it: %v", err)
	}
	// Tags, and lists by them.
	if err := alice.SetTags(t.Context(), []string{id}, map[string]string{"a": "1", "b": "", "chromogenic:job": "ä+ &=~*%2F"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := alice.SetTags(t.Context(), []string{id}, map[string]string{"a": "2"}, []string{"a", "b", "none"}); err != nil {
		t.Fatal(err)
	}
	for value, n := range map[string]int{"ä+ &=~*%2F": 1, "ä+*": 0, "*": 0, "ä+ &=~?%2F": 0, `ä+ &=~\*%2F`: 0, "": 0} {
		list, err = alice.Images(t.Context(), ec2.ImageFilter{Tags: map[string]string{"chromogenic:job": value}})
		if err != nil || len(list) != n {
			t.Errorf("%q: %v, %v", value, list, err)
		}
	}
	list, err = alice.Images(t.Context(), ec2.ImageFilter{Tags: map[string]string{"a": "2"}})
	if err != nil || len(list) != 1 || !cmp.Equal(list[0].Tags, map[string]string{"a": "2", "chromogenic:job": "ä+ &=~*%2F"}) {
		t.Errorf("%v, %v", list, err)
	}
	if list, err := alice.Images(t.Context(), ec2.ImageFilter{Tags: map[string]string{"a": "1"}}); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	if err := alice.SetDescription(t.Context(), id, "another <text> & more"); err != nil {
		t.Fatal(err)
	}
	if list, err := alice.Images(t.Context(), ec2.ImageFilter{IDs: []string{id}}); err != nil || list[0].Description != "another <text> & more" {
		t.Errorf("%v, %v", list, err)
	}
	ok(t, alice.SetDescription(t.Context(), id, ""))
	if list, err := alice.Images(t.Context(), ec2.ImageFilter{IDs: []string{id}}); err != nil || list[0].Description != "" {
		t.Errorf("%v, %v", list, err)
	}
	if _, err := alice.Images(t.Context(), ec2.ImageFilter{IDs: []string{"emi-00000000"}}); disk.KindOf(err) != disk.NotFound || ec2.Code(err) != "InvalidAMIID.NotFound" || disk.AsError(err).RequestID == "" {
		t.Errorf("%v", err)
	}
	if err := alice.Deregister(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := alice.Deregister(t.Context(), id); disk.KindOf(err) != disk.NotFound {
		t.Errorf("twice: %v", err)
	}
}

// What a bundle may not be is refused with what Eucalyptus says.
func TestRegisterRefused(t *testing.T) {
	c := ec2test.Start(t, ec2test.Options{})
	for _, tt := range []struct {
		name   string
		change func(m *bundle.Manifest)
		after  func(t *testing.T, c *ec2test.Cloud)
		reg    ec2.Registration
		kind   disk.Kind
		code   string
		says   string
	}{
		{name: "account", change: func(m *bundle.Manifest) { m.User = "123123123123" }, kind: disk.Denied, code: "AuthFailure", says: "Manifest is not accessible"},
		{name: "paravirtual", reg: ec2.Registration{Virtualization: "paravirtual"}, kind: disk.Invalid, code: "MissingParameter", says: "Kernel ID must be specified"},
		{name: "kernel", change: func(m *bundle.Manifest) { m.Type = bundle.Kernel }, kind: disk.Denied, code: "InternalFailure", says: "Only administrators"},
		{name: "by kernel_id", change: func(m *bundle.Manifest) { m.RamdiskID = "true" }, kind: disk.Denied, code: "InternalFailure", says: "ramdisk"},
		{name: "other cloud's key", change: func(m *bundle.Manifest) {
			key := must(rsa.GenerateKey(rand.Reader, 2048))
			if err := m.Seal(crypt.AES128CBC{}.NewSecret(), &key.PublicKey, nil); err != nil {
				panic(err)
			}
		}, kind: disk.Invalid, code: "InvalidManifest", says: "ec2_encrypted_key"},
		{name: "no part", after: func(t *testing.T, c *ec2test.Cloud) { ok(t, c.S3.Delete("images", "dir/web.part.00")) }, kind: disk.Invalid, code: "InvalidManifest", says: "NoSuchKey"},
		{name: "private part", after: func(t *testing.T, c *ec2test.Cloud) {
			body := must(c.S3.Get("images", "dir/web.part.00"))
			ok(t, c.S3.Put(c.Account("alice"), "images", "dir/web.part.00", "", body))
		}, kind: disk.Invalid, code: "InvalidManifest", says: "AccessDenied"},
		{name: "short part", after: func(t *testing.T, c *ec2test.Cloud) {
			body := must(c.S3.Get("images", "dir/web.part.00"))
			ok(t, c.S3.Put(c.Account("alice"), "images", "dir/web.part.00", "aws-exec-read", body[16:]))
		}, kind: disk.Invalid, code: "InvalidManifest", says: "bundled_size"},
		{name: "private manifest", after: func(t *testing.T, c *ec2test.Cloud) {
			body := must(c.S3.Get("images", "dir/web.manifest.xml"))
			ok(t, c.S3.Put(c.Account("alice"), "images", "dir/web.manifest.xml", "public-nothing", body))
		}, kind: disk.Invalid, code: "InternalFailure", says: "Failed to read manifest file: images/dir/web.manifest.xml"},
		{name: "nowhere", reg: ec2.Registration{Location: "images/none.manifest.xml", Virtualization: "hvm"}, kind: disk.Invalid, code: "InternalFailure", says: "Failed to read"},
		{name: "no bundle", after: func(t *testing.T, c *ec2test.Cloud) {
			ok(t, c.S3.Put(c.Account("alice"), "images", "dir/web.manifest.xml", "aws-exec-read", []byte("hello")))
		}, kind: disk.Invalid, code: "InternalFailure", says: "Failed to read"},
		{name: "long manifest", after: func(t *testing.T, c *ec2test.Cloud) {
			ok(t, c.S3.Put(c.Account("alice"), "images", "dir/web.manifest.xml", "aws-exec-read", make([]byte, 3<<20)))
		}, kind: disk.Invalid, code: "InternalFailure", says: "Failed to read"},
		{name: "name", reg: ec2.Registration{Name: "a b", Virtualization: "hvm"}, kind: disk.Invalid, code: "InvalidAMIName.Malformed"},
		{name: "volume", reg: ec2.Registration{Virtualization: "hvm", BlockDevices: []ec2.BlockDevice{{Device: "/dev/sdb", Size: 1}}}, kind: disk.Invalid, code: "InvalidBlockDeviceMapping"},
		{name: "what it does not know", reg: ec2.Registration{Virtualization: "hvm", BootMode: "uefi"}, kind: disk.Invalid, code: "InvalidParameterValue", says: "BootMode"},
		{name: "virtualization", reg: ec2.Registration{Virtualization: "both"}, kind: disk.Invalid, code: "InternalFailure", says: "virtualization"},
		{name: "no place", reg: ec2.Registration{Location: "x", Virtualization: "hvm"}, kind: disk.Other, says: "Invalid image location"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			at, before := bundled(t, c, "alice", tt.change), c.Requests("RegisterImage")
			if tt.after != nil {
				tt.after(t, c)
			}
			r := tt.reg
			if r.Location == "" {
				r.Location = at
			}
			if r.Name == "" {
				r.Name = "web"
			}
			if r.Virtualization == "" {
				r.Virtualization = "hvm"
			}
			id, err := client(t, c, "alice", nil).Register(t.Context(), r)
			if tt.kind == disk.Other { // whatever it is
				tt.kind, tt.code = disk.KindOf(err), ec2.Code(err)
			}
			if id != "" || err == nil || disk.KindOf(err) != tt.kind || ec2.Code(err) != tt.code || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%q, %v %q: %v", id, disk.KindOf(err), ec2.Code(err), err)
			}
			if ids, tries := c.ImageIDs(), c.Requests("RegisterImage")-before; len(ids) != 0 || tries != 1 {
				t.Errorf("%v after %d tries", ids, tries)
			}
		})
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The administrator registers kernels, and machines that are started with them.
func TestKernels(t *testing.T) {
	c := ec2test.Start(t, ec2test.Options{})
	admin := client(t, c, "eucalyptus", nil)
	ids := map[string]string{}
	for _, kind := range []string{bundle.Kernel, bundle.Ramdisk} {
		at := bundled(t, c, "eucalyptus", func(m *bundle.Manifest) { m.Type = kind })
		id, err := admin.Register(t.Context(), ec2.Registration{Name: kind, Location: at})
		if err != nil {
			t.Fatal(err)
		}
		ids[kind] = id
	}
	if !strings.HasPrefix(ids[bundle.Kernel], "eki-") || !strings.HasPrefix(ids[bundle.Ramdisk], "eri-") {
		t.Errorf("%v", ids)
	}
	at := bundled(t, c, "eucalyptus", nil)
	id, err := admin.Register(t.Context(), ec2.Registration{Name: "old", Location: at, Kernel: ids[bundle.Kernel], Ramdisk: ids[bundle.Ramdisk]})
	if err != nil {
		t.Fatal(err)
	}
	list, err := admin.Images(t.Context(), ec2.ImageFilter{IDs: []string{id}})
	if err != nil || list[0].Kernel != ids[bundle.Kernel] || list[0].Ramdisk != ids[bundle.Ramdisk] || list[0].Virtualization != "paravirtual" {
		t.Errorf("%+v, %v", list, err)
	}
}

// A page is followed by the next, whoever makes pages; a page that fails leaves no list.
func TestPages(t *testing.T) {
	c := ec2test.Start(t, ec2test.Options{Page: 7})
	for range 20 {
		c.Launch(c.Account("alice"), ec2test.Instance{})
	}
	for _, size := range []int32{0, 5, 1000} {
		alice := client(t, c, "alice", func(o *ec2.Options) { o.PageSize = size })
		list, err := alice.Instances(t.Context())
		seen := map[string]bool{}
		for _, i := range list {
			seen[i.ID] = true
		}
		if err != nil || len(list) != 20 || len(seen) != 20 {
			t.Errorf("pages of %d: %d, %v", size, len(list), err)
		}
	}
	alice := client(t, c, "alice", nil)
	c.Trouble(ec2test.Trouble{On: "DescribeInstances", Contains: "page-14", Do: ec2test.Status, Status: 400, Code: "InvalidNextToken", Message: "expired"})
	if list, err := alice.Instances(t.Context()); err == nil || list != nil {
		t.Errorf("%v, %v", list, err)
	}
	c.Trouble(ec2test.Trouble{On: "DescribeInstances", Contains: "page-14", Do: ec2test.Page})
	if list, err := alice.Instances(t.Context()); disk.KindOf(err) != disk.Unreachable || list != nil {
		t.Errorf("%v, %v", list, err)
	}
}

func target(c *ec2test.Cloud, account, bucket, prefix string) ec2.BundleTarget {
	a := c.Account(account)
	p := ec2.PolicyFor(bucket, prefix, time.Now().Add(time.Hour))
	_, signature := ec2.SignPolicy(a.Secret, p)
	return ec2.BundleTarget{Bucket: bucket, Prefix: prefix, AccessKey: a.AccessKey, Policy: p, Signature: signature}
}

func TestAccount(t *testing.T) {
	c := ec2test.Start(t, ec2test.Options{})
	for _, v2 := range []bool{false, true} {
		bob := client(t, c, "bob", func(o *ec2.Options) { o.SigV2 = v2 })
		if n, err := bob.Account(t.Context()); err != nil || n != c.Account("bob").Number {
			t.Errorf("%q, %v", n, err)
		}
		list, err := bob.ServiceCertificates(t.Context())
		if err != nil || len(list) != 2 || list[0].Service != "compute" || list[0].Usage != "image-bundling" {
			t.Fatalf("%v, %v", list, err)
		}
		key, err := crypt.ParsePublicKey(list[0].PEM)
		if err != nil || !key.Equal(&c.Key.PublicKey) {
			t.Errorf("%v", err)
		}
	}
}
