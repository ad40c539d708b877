package eucalyptus

import (
	"bytes"
	"context"
	"crypto/sha1"
	"fmt"
	"strings"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
	"chromogenic/providers/internal/bundle"
	"chromogenic/providers/internal/ec2"
	"chromogenic/providers/internal/ec2test"
)

// noise is an image that does not shrink: its bundle has as many parts as it has 10 MiB.
func noise(size int64) disk.Image {
	p := make([]byte, size)
	x := uint64(88172645463325252)
	for i := range p {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		p[i] = byte(x)
	}
	return disk.Bytes(p)
}

// content is the manifest of an image, as text, and the place of its objects.
func (r *rig) content(t *testing.T, e providers.Entry) (at place, text string) {
	t.Helper()
	i, err := r.record(t.Context(), e.ID)
	if err != nil {
		t.Fatal(err)
	}
	if at, err = i.bundle(); err != nil {
		t.Fatal(err)
	}
	p, err := r.cloud.S3.Get(at.bucket, at.key)
	if err != nil {
		t.Fatal(err)
	}
	return at, string(p)
}

// overwrite puts other bytes in the place of an object, as its owner could.
func (r *rig) overwrite(t *testing.T, at place, p []byte) {
	t.Helper()
	if err := r.cloud.S3.Put(r.account, at.bucket, at.key, "aws-exec-read", p); err != nil {
		t.Fatal(err)
	}
}

// read opens an image and reads all of it.
func (r *rig) read(ctx context.Context, e providers.Entry) error {
	src, err := r.Open(ctx, e, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	img, err := fetched(ctx, src.Image)
	if err == nil {
		_, err = disktest.Read(img)
	}
	return err
}

// TestDamaged reads bundles that are not what they should be: each has an error of its own,
// and none is read.
func TestDamaged(t *testing.T) {
	cloud := ec2test.Start(t, ec2test.Options{})
	img := noise(12 << 20)
	part := func(n int) string { return fmt.Sprintf("web.part.%02d", n) }
	replace := func(old, new string) func(t *testing.T, r *rig, at place, text string) {
		return func(t *testing.T, r *rig, at place, text string) {
			if strings.Count(text, old) < 1 {
				t.Fatalf("the manifest has no %q", old)
			}
			r.overwrite(t, at, []byte(strings.Replace(text, old, new, 1)))
		}
	}
	between := func(t *testing.T, text, from, to string) string {
		_, rest, _ := strings.Cut(text, from)
		value, _, ok := strings.Cut(rest, to)
		if !ok {
			t.Fatalf("the manifest has no %s", from)
		}
		return value
	}
	swap := func(from, to, value string) func(t *testing.T, r *rig, at place, text string) {
		return func(t *testing.T, r *rig, at place, text string) {
			replace(from+between(t, text, from, to)+to, from+value+to)(t, r, at, text)
		}
	}
	tests := map[string]struct {
		damage func(t *testing.T, r *rig, at place, text string)
		kind   disk.Kind
		says   string
	}{
		"corrupt part": {func(t *testing.T, r *rig, at place, _ string) {
			p, err := cloud.S3.Get(at.bucket, at.beside(part(1)).key)
			if err != nil {
				t.Fatal(err)
			}
			p[1000] ^= 1
			r.overwrite(t, at.beside(part(1)), p)
		}, disk.Malformed, `part "web.part.01": its SHA-1 is`},
		"short part": {func(t *testing.T, r *rig, at place, _ string) {
			p, err := cloud.S3.Get(at.bucket, at.beside(part(1)).key)
			if err != nil {
				t.Fatal(err)
			}
			r.overwrite(t, at.beside(part(1)), p[:len(p)-16])
		}, disk.Malformed, `part "web.part.01": its SHA-1 is`},
		"missing part": {func(t *testing.T, _ *rig, at place, _ string) {
			if err := cloud.S3.Delete(at.bucket, at.beside(part(1)).key); err != nil {
				t.Fatal(err)
			}
		}, disk.NotFound, `part "web.part.01"`},
		"missing manifest": {func(t *testing.T, _ *rig, at place, _ string) {
			if err := cloud.S3.Delete(at.bucket, at.key); err != nil {
				t.Fatal(err)
			}
		}, disk.Malformed, "its manifest is gone"},
		"size":              {swap("<size>", "</size>", "12582913"), disk.Malformed, "the manifest says 12582913"},
		"absurd size":       {swap("<size>", "</size>", "999999999999999999999"), disk.Malformed, "size"},
		"bundled size":      {swap("<bundled_size>", "</bundled_size>", "20000000"), disk.Malformed, "20000000"},
		"digest of all":     {swap(`<digest algorithm="SHA1">`, "</digest>", strings.Repeat("1", 40)), disk.Malformed, "SHA-1"},
		"count":             {swap(`<parts count="`, `"`, "3"), disk.Malformed, "part"},
		"name with a slash": {replace("<filename>web.part.00</filename>", "<filename>../web.part.00</filename>"), disk.Malformed, "../web.part.00"},
		"absolute name":     {replace("<filename>web.part.00</filename>", "<filename>/etc/passwd</filename>"), disk.Malformed, "/etc/passwd"},
		"same part twice":   {replace("<filename>web.part.01</filename>", "<filename>web.part.00</filename>"), disk.Malformed, "web.part.00"},
		"entity bomb": {func(t *testing.T, r *rig, at place, text string) {
			bomb := `<!DOCTYPE m [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>`
			r.overwrite(t, at, []byte(bomb+strings.Replace(text, "<name>web", "<name>&b;", 1)))
		}, disk.Malformed, "document type"},
		"no XML": {func(t *testing.T, r *rig, at place, text string) {
			r.overwrite(t, at, []byte(text[:len(text)/2]))
		}, disk.Malformed, ""},
		"a page": {func(t *testing.T, r *rig, at place, _ string) {
			r.overwrite(t, at, []byte("<html><body>Sign in</body></html>"))
		}, disk.Malformed, ""},
		"large": {func(t *testing.T, r *rig, at place, text string) {
			r.overwrite(t, at, []byte(text+strings.Repeat(" ", bundle.MaxManifest)))
		}, disk.TooLarge, "at most"},
		"version":     {swap("<version>", "</version>", "2031-01-01"), disk.Unsupported, "2031-01-01"},
		"another key": {func(t *testing.T, r *rig, at place, text string) { r.seal(t, at, text, cloud.Account("bob")) }, disk.Denied, "it is not sealed for this private key"},
		"gzip bomb":   {func(t *testing.T, r *rig, at place, text string) { r.forge(t, at, text, tarOf(t, 12<<20, 1, 64<<20)) }, disk.Malformed, ""},
		"two members": {func(t *testing.T, r *rig, at place, text string) { r.forge(t, at, text, tarOf(t, 12<<20, 2, 0)) }, disk.Malformed, "member"},
		"larger disk": {func(t *testing.T, r *rig, at place, text string) { r.forge(t, at, text, tarOf(t, 13<<20, 1, 0)) }, disk.Malformed, "13631488"},
		"no tar": {func(t *testing.T, r *rig, at place, text string) {
			r.forge(t, at, text, packedTar(make([]byte, 12<<20)))
		}, disk.Malformed, ""},
		"not packed": {func(t *testing.T, r *rig, at place, text string) {
			r.forge(t, at, text, forged{packed: bytes.Repeat([]byte("abcd"), 1000), sum: [sha1.Size]byte{1}})
		}, disk.Denied, "not compressed by gzip"},
	}
	r := newRig(t, cloud, "alice", func(o *Options) { o.Index = false })
	e := r.put(t, "web", img)
	at, text := r.content(t, e)
	objects := map[string][]byte{}
	for _, key := range cloud.S3.Keys(at.bucket) {
		p, err := cloud.S3.Get(at.bucket, key)
		if err != nil {
			t.Fatal(err)
		}
		objects[key] = p
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			defer func() {
				for key, p := range objects {
					r.overwrite(t, place{at.bucket, key}, p)
				}
			}()
			tt.damage(t, r, at, text)
			err := r.read(t.Context(), e)
			if disk.KindOf(err) != tt.kind || !strings.Contains(fmt.Sprint(err), tt.says) {
				t.Errorf("it says %v of kind %s, want kind %s and %q", err, disk.KindOf(err), tt.kind, tt.says)
			}
		})
	}
}

// TestForeign opens an image that another account has made public: its bundle is private, and
// when that is not, it is encrypted for others.
func TestForeign(t *testing.T) {
	cloud := ec2test.Start(t, ec2test.Options{})
	alice := newRig(t, cloud, "alice", func(o *Options) { o.Index = false })
	img := disktest.Pattern(3<<20, nil)
	e := alice.put(t, "web", img)
	if err := alice.current.ec2.ChangeLaunchPermissions(t.Context(), e.ID, ec2.Permissions{Everybody: true}, ec2.Permissions{}); err != nil {
		t.Fatal(err)
	}
	bob := newRig(t, cloud, "bob")
	list, err := bob.List(t.Context(), providers.Images)
	if err != nil || len(list) != 1 || list[0].ID != e.ID || list[0].Meta.Visibility != "public" {
		t.Fatalf("bob sees %+v, %v", list, err)
	}
	want := func(says string) {
		t.Helper()
		err := bob.read(t.Context(), list[0])
		if disk.KindOf(err) != disk.Denied || !strings.Contains(err.Error()+disk.AsError(err).Hint, says) {
			t.Errorf("bob reads %v (%s), want %q", err, disk.AsError(err).Hint, says)
		}
	}
	want("ask for read access to the bucket")
	at, text := alice.content(t, e)
	if err := cloud.S3.Put(alice.account, at.bucket, at.key, "public-read", []byte(text)); err != nil {
		t.Fatal(err)
	}
	want("looked for in " + bob.dir)
	if _, err := bob.SetMeta(t.Context(), list[0], providers.Metadata{}); disk.KindOf(err) != disk.Denied {
		t.Errorf("bob changes it: %v", err)
	}
	if err := bob.Delete(t.Context(), list[0]); disk.KindOf(err) != disk.Denied {
		t.Errorf("bob deletes it: %v", err)
	}
	if _, err := bob.Members(t.Context(), list[0]); disk.KindOf(err) != disk.Denied {
		t.Errorf("bob asks for its members: %v", err)
	}

	// The cloud's own key opens it, where that is at hand.
	for _, part := range []string{"web.part.00"} {
		p, err := cloud.S3.Get(at.bucket, at.beside(part).key)
		if err != nil {
			t.Fatal(err)
		}
		if err := cloud.S3.Put(alice.account, at.bucket, at.beside(part).key, "public-read", p); err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, bob.dir+"/rc/cloud-pk.pem", string((&ec2test.Account{Key: cloud.Key}).KeyPEM()))
	bob.holds(t, list[0], img)
}

// TestNetwork reads and writes over a network that fails, and with a store that has too much
// to do: what can be had is had.
func TestNetwork(t *testing.T) {
	cloud := ec2test.Start(t, ec2test.Options{})
	img := noise(11<<20 + 512)
	for _, index := range []bool{false, true} { // of reads: what is sent is the same
		r := newRig(t, cloud, "alice", func(o *Options) { o.Index, o.Stall, o.Retry = index, 500*time.Millisecond, 5*time.Second })
		for name, trouble := range map[string][]ec2test.Trouble{
			"reset":    {{On: "PUT", Contains: ".part.", Do: ec2test.Reset, At: 3 << 20}},
			"lost":     {{On: "PUT", Contains: ".part.", Do: ec2test.Lost}, {On: "PUT", Contains: "manifest", Do: ec2test.Lost}},
			"slowdown": {ec2test.SlowDown(4)},
			"500":      {{On: "PUT", Do: ec2test.Status, Status: 500, Code: "InternalError", Message: "again"}},
		} {
			if index && name != "lost" {
				continue
			}
			for _, tr := range trouble {
				cloud.S3.Trouble(tr)
			}
			e, err := r.upload(t, specOf("web", img), img)
			cloud.S3.Calm()
			if err != nil {
				t.Errorf("index %v: upload with %s: %v", index, name, err)
				continue
			}
			r.holds(t, e, img)
			r.remove(t, e)
		}
		e := r.put(t, "web", img)
		for name, trouble := range map[string]ec2test.Trouble{
			"reset":    {On: "GET", Contains: ".part.", Do: ec2test.Reset},
			"truncate": {On: "GET", Contains: ".part.01", Do: ec2test.Truncate, At: 300_001},
			"twice":    {On: "GET", Contains: ".part.01", Do: ec2test.Truncate, At: 100_001, Times: 2},
			"stall":    {On: "GET", Contains: ".part.01", Do: ec2test.Stall, At: 200_001},
			"slowdown": {On: "GET", Contains: ".part.", Do: ec2test.Status, Status: 503, Code: "SlowDown", Times: 3},
		} {
			cloud.S3.Trouble(trouble)
			if err := r.read(t.Context(), e); err != nil {
				t.Errorf("index %v: read with %s: %v", index, name, err)
			}
			cloud.S3.Calm()
		}
		r.holds(t, e, img)
		cloud.S3.Trouble(ec2test.Trouble{On: "GET", Contains: ".part.01", Do: ec2test.Corrupt, At: 5000})
		if err := r.read(t.Context(), e); disk.KindOf(err) != disk.Malformed {
			t.Errorf("index %v: read what is corrupted on its way: %v", index, err)
		}
		cloud.S3.Calm()
		cloud.S3.Trouble(ec2test.Trouble{On: "GET", Contains: ".part.01", Do: ec2test.Status, Status: 403, Code: "AccessDenied", Times: -1})
		if err := r.read(t.Context(), e); disk.KindOf(err) != disk.Denied {
			t.Errorf("index %v: read what is denied: %v", index, err)
		}
		cloud.S3.Calm()
		if left := r.debris(t); len(left) > 0 {
			t.Errorf("index %v: left are %q", index, left)
		}
		r.remove(t, e)
	}
}

// TestResumed counts what is fetched again when a connection breaks: what was missing, and no
// more.
func TestResumed(t *testing.T) {
	cloud := ec2test.Start(t, ec2test.Options{})
	r := newRig(t, cloud, "alice", func(o *Options) { o.Index = false })
	e := r.put(t, "web", noise(15<<20))
	cloud.S3.Trouble(ec2test.Trouble{On: "GET", Contains: ".part.00", Do: ec2test.Truncate, At: 9 << 20})
	cloud.S3.ResetTraffic()
	if err := r.read(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	i, err := r.record(t.Context(), e.ID)
	if err != nil {
		t.Fatal(err)
	}
	if out := cloud.S3.Traffic().Out; out > 27<<20 { // what was cut off counts as sent
		t.Errorf("%d bytes were sent for image %s of 15 MiB", out, i.ID)
	}
}

// TestFillEnds cancels and closes in the middle of a fetch, and fetches many at once.
func TestFillEnds(t *testing.T) {
	cloud := ec2test.Start(t, ec2test.Options{})
	r := newRig(t, cloud, "alice", func(o *Options) { o.Index = false })
	img := noise(35 << 20)
	e := r.put(t, "web", img)
	stalled := func() *ec2test.Trouble {
		return cloud.S3.Trouble(ec2test.Trouble{On: "GET", Contains: ".part.02", Do: ec2test.Stall, At: 100, Times: -1})
	}
	for name, end := range map[string]func(src providers.Source, cancel func()){
		"cancelled": func(_ providers.Source, cancel func()) { cancel() },
		"closed":    func(src providers.Source, _ func()) { src.Close() },
	} {
		stalled()
		src, err := r.Open(t.Context(), e, 0)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(200*time.Millisecond, func() { end(src, cancel) })
		began := time.Now()
		_, err = fetched(ctx, src.Image)
		if err == nil || time.Since(began) > 4*time.Second {
			t.Errorf("%s: %v after %v", name, err, time.Since(began))
		}
		cancel()
		src.Close()
		cloud.S3.Calm()
	}
	full := failingSpool{disk.Errorf(disk.NoSpace, "the spool is full")}
	src, err := r.Open(t.Context(), e, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := src.Image.(providers.Filler).Fill(t.Context(), full, nil); disk.KindOf(err) != disk.NoSpace {
		t.Errorf("a spool that is full: %v", err)
	}
	if _, err := src.ReadAt(make([]byte, 10), 0); disk.KindOf(err) != disk.Unsupported || !strings.Contains(err.Error(), "must be fetched as a whole") {
		t.Errorf("a read: %v", err)
	}
	src.Close()
	errs := make(chan error, 3)
	for range cap(errs) {
		go func() { errs <- r.read(context.Background(), e) }()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// failingSpool is a spool that fails at once.
type failingSpool struct{ err error }

func (e failingSpool) Begin(int64, int64) error { return e.err }

func (e failingSpool) WriteAt([]byte, int64) (int, error) { return 0, e.err }

// TestLargeParts reads a bundle whose parts are larger than those of the known programs, and
// one with an empty part at its end, as euca2ools makes them.
func TestLargeParts(t *testing.T) {
	cloud := ec2test.Start(t, ec2test.Options{})
	r := newRig(t, cloud, "alice", func(o *Options) { o.Index = false })
	img := noise(26 << 20)
	e := r.put(t, "web", img)
	at, text := r.content(t, e)
	m, err := bundle.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, part := range m.Parts {
		p, err := cloud.S3.Get(at.bucket, at.beside(part.Name).key)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p...)
	}
	m.Parts = nil
	for i, p := range [][]byte{all[:21<<20], all[21<<20:], nil} {
		name := fmt.Sprintf("web.part.%02d", i)
		r.overwrite(t, at.beside(name), p)
		m.Parts = append(m.Parts, bundle.Part{Name: name, SHA1: sha1.Sum(p)})
	}
	r.encode(t, at, m)
	r.holds(t, e, img)
}
