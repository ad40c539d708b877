package eucalyptus

import (
	"fmt"
	"maps"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chromogenic/disk"
	"chromogenic/providers"
	"chromogenic/providers/internal/ec2"
)

// TestSignV2 compares signatures with those of "Signing and Authenticating REST Requests"
// of Amazon's S3 guide, and with openssl.
func TestSignV2(t *testing.T) {
	const access, secret = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	at := time.Date(2007, 3, 27, 19, 36, 42, 0, time.UTC)
	sign := func(method, url string, header map[string]string) (auth, text string) {
		req, err := http.NewRequest(method, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		for key, value := range header {
			req.Header.Set(key, value)
		}
		signV2(req, access, secret, "", at)
		return req.Header.Get("Authorization"), textV2(req)
	}
	// There the date has no "GMT" but "+0000", and the bucket is in the host: only the text
	// can be compared.
	_, text := sign("GET", "http://s3/johnsmith/photos/puppy.jpg?acl&x=1&uploadId=a%2Fb", map[string]string{
		"Content-Type": "image/jpeg", "X-Amz-Meta-B": "two", "X-Amz-Acl": " public-read ", "Range": "bytes=0-1",
	})
	want := "GET\n\nimage/jpeg\nTue, 27 Mar 2007 19:36:42 GMT\nx-amz-acl:public-read\nx-amz-meta-b:two\n/johnsmith/photos/puppy.jpg?acl&uploadId=a%2Fb"
	if text != want {
		t.Errorf("signed is %q, want %q", text, want)
	}
	auth, text := sign("PUT", "http://cloud:8773/services/Walrus/b/k%20k", map[string]string{"Content-Md5": "rL0Y20zC+Fzt72VPzMSk2A==", "X-Amz-Acl": "aws-exec-read"})
	cmd := exec.Command("openssl", "dgst", "-sha1", "-hmac", secret, "-binary")
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	b64 := exec.Command("base64", "-w0")
	b64.Stdin = strings.NewReader(string(out))
	out, err = b64.Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := "AWS " + access + ":" + string(out); auth != want {
		t.Errorf("the signature is %q, openssl says %q", auth, want)
	}
}

func TestNames(t *testing.T) {
	for name, want := range map[string]string{"web": "web", "web-1.2(x86)/a_": "web-1.2(x86)/a_"} {
		if got := cloudName(name, ""); got != want {
			t.Errorf("%q becomes %q", name, got)
		}
	}
	seen := map[string]string{}
	for _, name := range []string{"ab", "größe 大", "gr__e _", " x y", "a\nb", strings.Repeat("n", 129), strings.Repeat("n", 130), strings.Repeat("大", 200), "%2F", "/", "//"} {
		for _, salt := range []string{"", "job"} {
			got := cloudName(name, salt)
			if len(got) < minName || len(got) > maxName || strings.Trim(got, nameChars) != "" || seen[got] != "" {
				t.Errorf("%q becomes %q, as %q does", name, got, seen[got])
			}
			seen[got] = name
		}
		if safe := safeName(name); strings.Trim(safe, nameChars[:62]+"-_") != "" || safe == "" || safe[0] == '-' {
			t.Errorf("%q becomes %q in a key", name, safe)
		}
	}
	for _, name := range []string{"", "a\x00b", strings.Repeat("n", 256)} {
		if err := checkName(name); disk.KindOf(err) != disk.Invalid {
			t.Errorf("name %.20q: %v", name, err)
		}
	}
}

// TestMetadata keeps metadata in tags and reads it again.
func TestMetadata(t *testing.T) {
	long := strings.Repeat("long ", 60)
	tests := map[string]providers.Metadata{
		"none":        {},
		"description": {Meta: disk.Meta{Description: "a web server"}},
		"long":        {Meta: disk.Meta{Description: long}},
		"ours":        {Meta: disk.Meta{Description: "chromogenic commit x y"}},
		"tags":        {Meta: disk.Meta{Tags: []string{"a", "b=c", "x=", "aws:z", "chromogenic:job=1", "k=1", "k=2"}}},
		"many tags":   {Meta: disk.Meta{Tags: []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"}}},
		"all": {
			Meta:  disk.Meta{Arch: "aarch64", Firmware: "uefi", MinDisk: 10, MinRAM: 512, DiskBus: "virtio", OSType: "linux", OSDistro: "debian", SecureBoot: true, CPUs: 2},
			Props: map[string]string{"hw_x": "1", "chromogenic_src_y": "größe"}, MetaTime: time.Unix(1600000000, 5).UTC(),
		},
	}
	for name, m := range tests {
		slices.Sort(m.Meta.Tags)
		own, err := ownTags("job", "größe", "gr__e", 5<<20, time.Unix(1, 0))
		if err != nil {
			t.Fatal(err)
		}
		description, tags, err := kept(m, own)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for key, value := range tags {
			if len(key) > maxTagKey || len(value) > maxTagValue || len(tags) > maxTags || strings.HasPrefix(key, "aws:") {
				t.Errorf("%s: the cloud would not take tag %q=%q of %d", name, key, value, len(tags))
			}
		}
		r := record{ec2.Image{Architecture: "x86_64", Description: description, Tags: tags, Name: "gr__e"}}
		if r.hidden() || !r.ours() || r.name() != "größe" || r.size() != 5<<20 || !r.updated().Equal(time.Unix(1, 0)) {
			t.Errorf("%s: the record is %+v", name, r)
		}
		got := r.metadata()
		if !got.Same(m) || !got.MetaTime.Equal(m.MetaTime) {
			t.Errorf("%s: read again it is %+v, was %+v", name, got, m)
		}
		set, remove := r.changedTags(tags)
		if len(set)+len(remove) > 0 {
			t.Errorf("%s: what is there is set again: %v, %v", name, set, remove)
		}
	}
	many := providers.Metadata{Props: map[string]string{}}
	for i := range 400 {
		many.Props[fmt.Sprintf("key%d", i*7919)] = short(fmt.Sprint(i))
	}
	if _, _, err := kept(many, nil); disk.KindOf(err) != disk.TooLarge {
		t.Errorf("more than the tags hold: %v", err)
	}
	// What somebody else has set is told as it is, and what is damaged says nothing.
	r := record{ec2.Image{Architecture: "i386", Platform: "windows", Public: true, Description: "d", Tags: map[string]string{"env": "prod", tagMeta + "0": "%%"}}}
	want := providers.Metadata{Meta: disk.Meta{Arch: "i686", OSType: "windows", Visibility: "public", Description: "d", Tags: []string{"env=prod"}}}
	if diff := cmp.Diff(want, r.metadata()); diff != "" {
		t.Error(diff)
	}
}

func TestRecord(t *testing.T) {
	r := record{ec2.Image{ID: "emi-1", Location: "bucket/a/b.manifest.xml", State: "available"}}
	if r.name() != "b" || r.reason() != "" {
		t.Errorf("it is %q, %q", r.name(), r.reason())
	}
	at, err := r.bundle()
	if err != nil || at != (place{"bucket", "a/b.manifest.xml"}) || at.beside("b.part.00") != (place{"bucket", "a/b.part.00"}) {
		t.Errorf("its bundle is %v, %v", at, err)
	}
	for _, location := range []string{"", "bucket", "/", "876690818618/", "bucket/"} {
		r := record{ec2.Image{ID: "emi-1", Location: location, State: "available"}}
		if _, err := r.bundle(); disk.KindOf(err) != disk.Unsupported || r.reason() == "" {
			t.Errorf("location %q: %v", location, err)
		}
	}
	for _, r := range []record{{ec2.Image{State: "pending"}}, {ec2.Image{State: "failed"}}, {ec2.Image{State: "available", RootDeviceType: "ebs", Location: "x/y"}}} {
		if r.reason() == "" || r.unreadable() == nil {
			t.Errorf("%+v can be read", r)
		}
	}
	if k := disk.KindOf((&record{ec2.Image{State: "available", RootDeviceType: "ebs"}}).unreadable()); k != disk.Unsupported {
		t.Errorf("an image of a volume is %s", k)
	}
}

// FuzzTags unpacks what anybody may have written into tags.
func FuzzTags(f *testing.F) {
	_, tags, err := kept(providers.Metadata{Meta: disk.Meta{Firmware: "uefi"}, Props: map[string]string{"a": "b"}}, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(tags[tagMeta+"0"], "x", "i-1 2026-01-02T03:04:05Z crash", "chromogenic commit j h:1")
	f.Add("", "", "", "")
	f.Fuzz(func(t *testing.T, a, b, capture, description string) {
		r := record{ec2.Image{Description: description, Tags: map[string]string{tagMeta + "0": a, tagMeta + "1": b, tagCapture: capture, b: a}}}
		m := r.metadata()
		r.version(m)
		r.state()
		parseCapture(capture)
		if description, tags, err := kept(m, r.lasting()); err == nil {
			back := record{ec2.Image{Description: description, Tags: tags}}
			if len(tags) > maxTags || back.hidden() {
				t.Errorf("it would be kept as %q %v", description, slices.Sorted(maps.Keys(tags)))
			}
		}
	})
}
