package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rsa"
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers/internal/crypt"
)

// pack makes a bundle of any tar stream, or of any stream at all.
func pack(t testing.TB, size int64, stream []byte, zip bool) made {
	t.Helper()
	b := made{secret: crypt.AES128CBC{}.NewSecret(), parts: store{}}
	plain := stream
	if zip {
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		w.Write(stream)
		w.Close()
		plain = z.Bytes()
	}
	mode, err := crypt.AES128CBC{}.Encrypt(b.secret)
	if err != nil {
		t.Fatal(err)
	}
	n := 16 - len(plain)%16
	sealed := append(bytes.Clone(plain), bytes.Repeat([]byte{byte(n)}, n)...)
	mode.CryptBlocks(sealed, sealed)
	b.m = &Manifest{
		Version: Version, Name: "web", User: "123456789012", Type: Machine, Algorithm: "AES-128-CBC",
		Digest: sha1.Sum(stream), Size: size, BundledSize: int64(len(sealed)),
		Parts: []Part{{"web.part.0", sha1.Sum(sealed)}},
	}
	b.parts["web.part.0"] = sealed
	if err := b.m.Seal(b.secret, nil, &keys().user.PublicKey); err != nil {
		t.Fatal(err)
	}
	if b.text, err = b.m.Encode(nil); err != nil {
		t.Fatal(err)
	}
	return b
}

// tarOf is a tar stream of members.
func tarOf(t testing.TB, members ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range members {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			p := make([]byte, h.Size)
			disktest.Fill(p, 0)
			if _, err := w.Write(p); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name string, size int64) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644}
}

// sumHeader corrects the checksum of a tar header that was changed.
func sumHeader(h []byte) {
	copy(h[sumOff:], "        ")
	sum := 0
	for _, b := range h[:tarBlock] {
		sum += int(b)
	}
	copy(h[sumOff:], fmt.Sprintf("%06o\x00 ", sum))
}

// A stream that is not that of one disk of the size of the manifest.
func TestUnbundleRefusesStreams(t *testing.T) {
	good := tarOf(t, file("disk", 5000))
	edit := func(change func(p []byte)) []byte {
		p := bytes.Clone(good)
		change(p)
		sumHeader(p)
		return p
	}
	sparse := func(entries ...int64) []byte {
		return edit(func(p []byte) {
			p[typeOff] = 'S'
			copy(p[257:], "ustar  \x00")
			copy(p[realSizeOff:], fmt.Sprintf("%011o\x00", 5000))
			for i, n := range entries {
				copy(p[sparseOff+i*numberLen:], fmt.Sprintf("%011o\x00", n))
			}
		})
	}
	pax := func(records map[string]string) []byte {
		h := file("disk", 5000)
		// archive/tar writes no records of sparse files: they get other names of the
		// same length first.
		h.Format, h.PAXRecords = tar.FormatPAX, map[string]string{}
		for k, v := range records {
			h.PAXRecords[strings.Replace(k, "GNU.", "GNX.", 1)] = v
		}
		p := bytes.ReplaceAll(tarOf(t, h), []byte("GNX."), []byte("GNU."))
		return p
	}
	bomb := append(bytes.Clone(good), make([]byte, maxTail+1)...)
	for name, row := range map[string]struct {
		stream []byte
		size   int64
		zip    bool
		want   string
	}{
		"empty":             {nil, 5000, true, "ends too early"},
		"larger":            {good, 4999, true, `"disk": it has 5000 bytes, but the manifest says 4999`},
		"smaller":           {good, 1 << 40, true, "it has 5000 bytes"},
		"two members":       {tarOf(t, file("disk", 5000), file("second", 1)), 5000, true, `a second member "second" is behind "disk"`},
		"folder first":      {tarOf(t, &tar.Header{Typeflag: tar.TypeDir, Name: "d/"}, file("disk", 5000)), 5000, true, "is no file"},
		"link":              {tarOf(t, &tar.Header{Typeflag: tar.TypeSymlink, Name: "disk", Linkname: "/etc/passwd"}), 5000, true, "is no file"},
		"cut in data":       {good[:2000], 5000, true, "ends too early"},
		"cut in header":     {good[:200], 5000, true, "ends too early"},
		"cut behind data":   {good[:512+5120], 5000, true, "cut off"},
		"garbage behind":    {append(bytes.Clone(good), 'x'), 5000, true, "not zero"},
		"bomb":              {bomb, 5000, true, "behind member"},
		"no tar":            {noise(5000), 5000, true, "no header"},
		"bad number":        {edit(func(p []byte) { copy(p[sizeOff:], "9") }), 5000, true, "no number"},
		"negative":          {edit(func(p []byte) { p[sizeOff] = 0xff }), 5000, true, "negative"},
		"endless headers":   {bytes.Repeat(edit(func(p []byte) { p[typeOff] = 'L'; copy(p[sizeOff:], "00000000000\x00") })[:512], 9), 5000, true, "too many"},
		"long header":       {edit(func(p []byte) { p[typeOff] = 'x'; copy(p[sizeOff:], "77777777777\x00") }), 5000, true, "extended header of"},
		"sparse, backwards": {sparse(4000, 1000, 0, 100), 5000, true, "not behind"},
		"sparse, overlap":   {sparse(0, 3000, 2999, 2000), 5000, true, "not behind"},
		"sparse, too far":   {sparse(4000, 1001), 5000, true, "behind the end"},
		"sparse, not all":   {sparse(0, 4000), 5000, true, "5000 bytes are stored, but its map has 4000"},
		"pax, not all":      {pax(map[string]string{"GNU.sparse.size": "5000", "GNU.sparse.map": "0,10"}), 5000, true, "its map has 10"},
		"pax, odd":          {pax(map[string]string{"GNU.sparse.size": "5000", "GNU.sparse.map": "0,10,20"}), 5000, true, "no length"},
		"pax, no number":    {pax(map[string]string{"GNU.sparse.size": "5000", "GNU.sparse.map": "0,x"}), 5000, true, "no number"},
		"pax, no size":      {pax(map[string]string{"GNU.sparse.map": "0,10"}), 5000, true, "no size"},
		"pax, version":      {pax(map[string]string{"GNU.sparse.major": "2"}), 5000, true, "not known"},
		"pax, no map":       {pax(map[string]string{"GNU.sparse.major": "1", "GNU.sparse.realsize": "5000"}), 5000, true, "sparse map"},
	} {
		t.Run(name, func(t *testing.T) {
			b := pack(t, row.size, row.stream, row.zip)
			wantError(t, Unbundle(t.Context(), b.m, b.secret, b.parts.fetch, discard{}, nil), disk.Malformed, row.want)
		})
	}
	b := pack(t, 5000, good, false)
	wantError(t, Unbundle(t.Context(), b.m, b.secret, b.parts.fetch, discard{}, nil), disk.Denied, "not compressed by gzip")
}

// discard is a spool without bottom.
type discard struct{}

func (discard) Begin(int64, int64) error               { return nil }
func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

// A gzip stream of zeros that never ends is left as soon as it is no tar.
func TestGzipBomb(t *testing.T) {
	head := tarOf(t, file("disk", 1<<20))
	b := pack(t, 1<<20, append(head, make([]byte, 64<<20)...), true)
	if b.m.BundledSize > 1<<20 {
		t.Fatalf("the bomb has %d bytes", b.m.BundledSize)
	}
	wantError(t, Unbundle(t.Context(), b.m, b.secret, b.parts.fetch, discard{}, nil), disk.Malformed, "more than 16777216 bytes behind")
}

// Parts that are not what the manifest says.
func TestUnbundleRefusesParts(t *testing.T) {
	base := bundleOf(t, disk.Bytes(noise(1<<20)), false).cut(t, 3)
	broken := errors.New("connection reset")
	for name, row := range map[string]struct {
		change func(b *made)
		fetch  func(f Fetch) Fetch
		kind   disk.Kind
		words  []string
	}{
		"a flipped bit":    {func(b *made) { b.parts["web.part.01"][5000] ^= 1 }, nil, disk.Malformed, []string{`part "web.part.01"`, "SHA-1"}},
		"its first bit":    {func(b *made) { b.parts["web.part.00"][0] ^= 1 }, nil, disk.Malformed, []string{`part "web.part.00"`, "SHA-1"}},
		"its last bit":     {func(b *made) { p := b.parts["web.part.02"]; p[len(p)-1] ^= 1 }, nil, disk.Malformed, []string{`part "web.part.02"`, "SHA-1"}},
		"missing":          {func(b *made) { delete(b.parts, "web.part.01") }, nil, disk.NotFound, []string{`part "web.part.01"`}},
		"the first":        {func(b *made) { delete(b.parts, "web.part.00") }, nil, disk.NotFound, []string{`part "web.part.00"`}},
		"short":            {func(b *made) { b.parts["web.part.01"] = b.parts["web.part.01"][:200_000] }, nil, disk.Malformed, []string{`part "web.part.01"`, "SHA-1"}},
		"empty":            {func(b *made) { b.parts["web.part.00"] = nil }, nil, disk.Malformed, []string{`part "web.part.00"`}},
		"without end":      {nil, func(f Fetch) Fetch { return endless(f) }, disk.Malformed, []string{`part "web.part.02"`, "goes on"}},
		"swapped":          {func(b *made) { p := b.parts; p["web.part.00"], p["web.part.01"] = p["web.part.01"], p["web.part.00"] }, nil, disk.Malformed, []string{"SHA-1"}},
		"sum of the parts": {func(b *made) { b.m.BundledSize += 16 }, nil, disk.Malformed, []string{"they have", "but the manifest says"}},
		"less":             {func(b *made) { b.m.BundledSize -= 16 }, nil, disk.Malformed, []string{"goes on behind byte"}},
		"size":             {func(b *made) { b.m.Size++ }, nil, disk.Malformed, []string{"it has 1048576 bytes"}},
		"digest":           {func(b *made) { b.m.Digest[0] ^= 1 }, nil, disk.Malformed, []string{"verify tar", "SHA-1"}},
		"other key":        {func(b *made) { b.secret = crypt.AES128CBC{}.NewSecret() }, nil, disk.Denied, []string{"not compressed by gzip"}},
		"last part twice":  {func(b *made) { b.m.Parts = append(b.m.Parts, b.m.Parts[2]); b.m.BundledSize += 1 << 20 }, nil, disk.Malformed, nil},
		"cut connection":   {nil, func(f Fetch) Fetch { return cut(f, io.ErrUnexpectedEOF) }, disk.Other, []string{`part "web.part.01"`, "at byte"}},
		"connection":       {nil, func(f Fetch) Fetch { return cut(f, broken) }, disk.Other, []string{`part "web.part.01"`, "connection reset"}},
		"algorithm":        {func(b *made) { b.m.Algorithm = "DES" }, nil, disk.Unsupported, []string{"DES"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := base.clone()
			if row.change != nil {
				row.change(&b)
			}
			fetch := b.parts.fetch
			if row.fetch != nil {
				fetch = row.fetch(fetch)
			}
			err := Unbundle(t.Context(), b.m, b.secret, fetch, discard{}, nil)
			if row.kind == disk.Other || row.kind == disk.Unsupported {
				err = disk.Hint(err, "none is needed")
			}
			wantError(t, err, row.kind, row.words...)
		})
	}
}

// endless gives bytes behind the end of the last part.
func endless(f Fetch) Fetch {
	return func(ctx context.Context, part string, off, n int64) (io.ReadCloser, error) {
		r, err := f(ctx, part, off, n)
		if err == nil && part == "web.part.02" {
			r = io.NopCloser(io.MultiReader(r, zeros{}))
		}
		return r, err
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// cut ends the second part with an error.
func cut(f Fetch, err error) Fetch {
	return func(ctx context.Context, part string, off, n int64) (io.ReadCloser, error) {
		r, e := f(ctx, part, off, n)
		if e == nil && part == "web.part.01" {
			r = io.NopCloser(io.MultiReader(io.LimitReader(r, 70_000), failing{err}))
		}
		return r, e
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// When nobody waits any more, all ends, whatever it is at.
func TestUnbundleCancelled(t *testing.T) {
	b := bundleOf(t, disk.Bytes(noise(1<<20)), false).cut(t, 3)
	ctx, cancel := context.WithCancel(t.Context())
	fetch := func(ctx context.Context, part string, off, n int64) (io.ReadCloser, error) {
		if part == "web.part.01" {
			cancel()
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return b.parts.fetch(ctx, part, off, n)
	}
	if err := Unbundle(ctx, b.m, b.secret, fetch, discard{}, nil); disk.KindOf(err) != disk.Cancelled {
		t.Errorf("%v of kind %v", err, disk.KindOf(err))
	}
}

// A manifest that lies, or is not ours.
func TestManifestRefused(t *testing.T) {
	b := bundleOf(t, disk.Bytes(noise(1<<20)), false).cut(t, 2)
	good := string(b.text)
	other := hex.EncodeToString(make([]byte, 20))
	replace := func(old, new string) string {
		t.Helper()
		if !strings.Contains(good, old) {
			t.Fatalf("no %q in the manifest", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	for name, row := range map[string]struct {
		text string
		kind disk.Kind
		want string
	}{
		"empty":           {"", disk.Malformed, "missing"},
		"html":            {"<html></html>", disk.Malformed, "outermost"},
		"cut":             {good[:len(good)-20], disk.Malformed, "EOF"},
		"huge":            {strings.Repeat(" ", MaxManifest) + good, disk.Malformed, "more than any"},
		"entities":        {`<!DOCTYPE m [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>` + good, disk.Malformed, "document type"},
		"entity":          {replace(">web<", ">&web;<"), disk.Malformed, "entity"},
		"encoding":        {replace(`version="1.0"`, `version="1.0" encoding="utf-7"`), disk.Malformed, "utf-7"},
		"deep":            {replace("<name>web</name>", strings.Repeat("<a>", 20)+strings.Repeat("</a>", 20)+"<name>web</name>"), disk.Malformed, "deep"},
		"long text":       {replace(">web<", ">"+strings.Repeat("x", maxText+1)+"<"), disk.Malformed, "more than"},
		"version":         {replace(">2007-10-10<", ">2017-10-10<"), disk.Unsupported, "2017-10-10"},
		"two images":      {replace("<image>", "<image></image><image>"), disk.Malformed, "twice"},
		"two names":       {replace("<name>web</name>", "<name>web</name><name>web</name>"), disk.Malformed, "twice"},
		"no user":         {replace("<user>123456789012</user>", ""), disk.Malformed, "image/user"},
		"no digest":       {replace(hex.EncodeToString(b.m.Digest[:]), other), disk.Malformed, "image/digest"},
		"short digest":    {replace(hex.EncodeToString(b.m.Digest[:]), "00ff"), disk.Malformed, "SHA-1"},
		"md5":             {replace(`<digest algorithm="SHA1">`, `<digest algorithm="MD5">`), disk.Unsupported, "MD5"},
		"size":            {replace(">1048576<", ">-1<"), disk.Malformed, "no number"},
		"size 0":          {replace(">1048576<", ">0<"), disk.Malformed, "image/size"},
		"large size":      {replace(">1048576<", ">9223372036854775807<"), disk.Malformed, "more than"},
		"larger size":     {replace(">1048576<", ">99999999999999999999<"), disk.Malformed, "no number"},
		"bundled size":    {replace(fmt.Sprintf(">%d<", b.m.BundledSize), ">17<"), disk.Malformed, "cannot be"},
		"count":           {replace(`count="2"`, `count="3"`), disk.Malformed, "part 2 of 3 is missing"},
		"count too small": {replace(`count="2"`, `count="1"`), disk.Malformed, "part 1 of 1"},
		"count 0":         {replace(`count="2"`, `count="0"`), disk.Malformed, "part 0 of 0"},
		"huge count":      {replace(`count="2"`, `count="1000000000"`), disk.Malformed, "more than"},
		"index":           {replace(`index="1"`, `index="0"`), disk.Malformed, "part 0 is there twice"},
		"no index":        {replace(` index="1"`, ``), disk.Malformed, "no number"},
		"slash":           {replace("web.part.01", "../web.part.01"), disk.Malformed, "no plain file name"},
		"backslash":       {replace("web.part.01", `a\b`), disk.Malformed, "no plain file name"},
		"dots":            {replace("web.part.01", ".."), disk.Malformed, "no plain file name"},
		"line feed":       {replace("web.part.01", "a&#10;b"), disk.Malformed, "no plain file name"},
		"no file":         {replace("<filename>web.part.01</filename>", ""), disk.Malformed, "no file name"},
		"one file twice":  {replace("web.part.01", "web.part.00"), disk.Malformed, "two parts are named"},
		"key":             {replace(hex.EncodeToString(b.m.Owner.Key), "xyz"), disk.Malformed, "hex"},
		"two ciphers":     {replace(`<user_encrypted_key algorithm="AES-128-CBC"`, `<user_encrypted_key algorithm="DES"`), disk.Malformed, "DES"},
		"text outside":    {good + "x", disk.Malformed, "outside"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(row.text))
			wantError(t, err, row.kind, row.want)
		})
	}
	tool := InstanceStore{Account: "210987654321", Keys: []*rsa.PrivateKey{keys().user}}
	wantError(t, tool.Run(t.Context(), b.text, b.parts.fetch, discard{}, nil), disk.Denied, "123456789012", "210987654321")
	tool = InstanceStore{Keys: []*rsa.PrivateKey{keys().other}}
	wantError(t, tool.Run(t.Context(), b.text, b.parts.fetch, discard{}, nil), disk.Denied, "private key")
	wantError(t, InstanceStore{}.Run(t.Context(), b.text, b.parts.fetch, discard{}, nil), disk.Denied, "private key")
}

func TestSignature(t *testing.T) {
	b := bundleOf(t, disktest.Pattern(5000, nil), false)
	m, err := Parse(b.text)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Verify(&keys().user.PublicKey); err != nil {
		t.Error(err)
	}
	wantError(t, m.Verify(&keys().other.PublicKey), disk.Malformed, "signature")
	changed := bytes.Replace(b.text, []byte("x86_64"), []byte("i386"), 1)
	if m, err = Parse(changed); err != nil {
		t.Fatal(err)
	}
	wantError(t, m.Verify(&keys().user.PublicKey), disk.Malformed, "signature")
	// euca2ools --pretty: white space between the elements after they were signed.
	pretty := bytes.ReplaceAll(b.text, []byte("><"), []byte(">\n  <"))
	if m, err = Parse(pretty); err != nil {
		t.Fatal(err)
	}
	if err := m.Verify(&keys().user.PublicKey); err != nil {
		t.Error(err)
	}
	text, err := b.m.Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	if m, err = Parse(text); err != nil || !bytes.Contains(text, []byte("<signature>UNSIGNED</signature>")) {
		t.Fatal(err)
	}
	wantError(t, m.Verify(&keys().user.PublicKey), disk.Malformed, "not signed")
}

// An index that is damaged, forged, or of another bundle.
func TestIndexRefused(t *testing.T) {
	b := bundleOf(t, disktest.Pattern(5*chunkSize, nil), true)
	other := bundleOf(t, disktest.Pattern(5*chunkSize-1, nil), true)
	same := bundleOf(t, disktest.Pattern(5*chunkSize, nil), true) // the same disk, another key
	sign := func(change func(p []byte)) []byte {
		p := bytes.Clone(b.index[:len(b.index)-32])
		change(p)
		return append(p, indexSum(p, b.secret)...)
	}
	if int64(len(b.index)) != IndexSize(5*chunkSize) {
		t.Errorf("the index has %d bytes, want %d", len(b.index), IndexSize(5*chunkSize))
	}
	for name, row := range map[string]struct {
		index []byte
		want  string
	}{
		"empty":    {nil, "bytes"},
		"short":    {b.index[:len(b.index)-1], "bytes"},
		"other":    {other.index, "another bundle"},
		"same":     {same.index, "not authentic"},
		"garbage":  {noise(len(b.index)), "no index"},
		"changed":  {append(bytes.Clone(b.index[:100]), append([]byte{b.index[100] ^ 1}, b.index[101:]...)...), "not authentic"},
		"first":    {sign(func(p []byte) { binary.BigEndian.PutUint64(p[60:], math.MaxUint64) }), "first chunk"},
		"no chunk": {sign(func(p []byte) { binary.BigEndian.PutUint32(p[68:], 0) }), "chunk 0"},
		"large":    {sign(func(p []byte) { binary.BigEndian.PutUint32(p[68:], maxPacked+1) }), "chunk 0"},
		"too far":  {sign(func(p []byte) { binary.BigEndian.PutUint64(p[60:], uint64(b.m.BundledSize)) }), "last chunk"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(t.Context(), b.m, b.secret, row.index, b.parts.fetch)
			if err == nil || disk.KindOf(err) != disk.Malformed || !strings.Contains(err.Error(), row.want) {
				t.Errorf("%v of kind %v, want %q", err, disk.KindOf(err), row.want)
			}
		})
	}
}

// Reads at random verify what they give, and fetch no more than they need.
func TestRandomReads(t *testing.T) {
	img := disk.Bytes(noise(12 << 20))
	b := bundleOf(t, img, true)
	want := content(t, img)
	var fetched int64
	count := func(ctx context.Context, part string, off, n int64) (io.ReadCloser, error) {
		fetched += n
		return b.parts.fetch(ctx, part, off, n)
	}
	back, err := Open(t.Context(), b.m, b.secret, b.index, count)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 100)
	for _, off := range []int64{2_345_678, 2_345_800} { // the second is of the chunk that is kept
		if _, err := back.ReadAt(p, off); err != nil || !bytes.Equal(p, want[off:off+100]) {
			t.Errorf("read at %d: %v", off, err)
		}
	}
	if fetched > maxPacked+64 {
		t.Errorf("%d bytes are fetched for 200", fetched)
	}
	b.parts["web.part.00"][5<<20+500_000] ^= 1
	_, err = back.ReadAt(p, 5<<20+100_000)
	wantError(t, err, disk.Malformed, "at offset 5342880 of the disk")
	if n, err := back.ReadAt(make([]byte, 3<<20), 4<<20); n > 1<<20 || disk.KindOf(err) != disk.Malformed {
		t.Errorf("read over what is damaged: %d bytes, %v", n, err)
	}
	if _, err := back.ReadAt(p, 100); err != nil {
		t.Errorf("read elsewhere: %v", err)
	}
	b.parts["web.part.00"] = b.parts["web.part.00"][:5<<20+500_000]
	_, err = back.ReadAt(p, 5<<20+100_000)
	wantError(t, err, disk.Malformed, `part "web.part.00"`)
	delete(b.parts, "web.part.01")
	_, err = back.ReadAt(p, 11<<20)
	wantError(t, err, disk.NotFound, `part "web.part.01"`)
	back.Close()
	if _, err := back.ReadAt(p, 100); !errors.Is(err, disk.ErrClosed) {
		t.Errorf("read after close: %v", err)
	}
}
