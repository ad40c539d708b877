package local

import (
	"fmt"
	"strings"

	"chromogenic/disk"
)

// maxFileName is NAME_MAX of Linux, in bytes.
const maxFileName = 255

// The name of an image is any text, that of a file is not. So in the stem of a
// file's name a slash, a control character and a leading dot are written as an
// escape: %2F, %0A, %2E, the digits in upper case. Nothing else is escaped. In
// particular a percent sign stands for itself, as in "50%off", unless it begins
// what would be read as one of these escapes; then it is quoted as %25. Quoting
// repeats: "%2F" is written "%252F", and "%252F" is "%25252F".
//
// So every name has one stem that decodes to it, and every stem without control
// characters is the one of the name that it decodes to.

// needsEscape tells whether byte c at index i of a name cannot stand for itself.
func needsEscape(c byte, i int) bool {
	return c == '/' || c < 0x20 || c == 0x7f || c == '.' && i == 0
}

// escapeAt looks for an escape at s[i:], which may be quoted: it returns the
// escaped byte, how often it is quoted, and whether there is one.
func escapeAt(s string, i int) (c byte, quotes int, ok bool) {
	if i >= len(s) || s[i] != '%' {
		return 0, 0, false
	}
	rest := s[i+1:]
	for strings.HasPrefix(rest, "25") {
		rest = rest[2:]
		quotes++
	}
	if len(rest) < 2 {
		return 0, 0, false
	}
	hi, lo := strings.IndexByte(upperHex, rest[0]), strings.IndexByte(upperHex, rest[1])
	if hi < 0 || lo < 0 {
		return 0, 0, false
	}
	c = byte(hi<<4 | lo)
	return c, quotes, needsEscape(c, i)
}

const upperHex = "0123456789ABCDEF"

// encodeName gives the stem of the file that keeps the image of a name.
func encodeName(name string) string {
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		if _, _, ok := escapeAt(name, i); ok || needsEscape(c, i) {
			fmt.Fprintf(&b, "%%%02X", c)
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}

// decodeName gives the name of the image whose file has the stem.
func decodeName(stem string) string {
	var b strings.Builder
	for i := 0; i < len(stem); i++ {
		c, quotes, ok := escapeAt(stem, i)
		switch {
		case !ok:
			b.WriteByte(stem[i])
		case quotes > 0: // one quote less; the digits that follow stand for themselves
			b.WriteByte('%')
			i += 2
		default:
			b.WriteByte(c)
			i += 2
		}
	}
	return b.String()
}

// fileName is the name of the file that keeps the image of a name. Ext has its
// dot.
func fileName(name, ext string) (string, error) {
	if name == "" {
		return "", disk.Errorf(disk.Invalid, "name image: the name is empty")
	}
	file := encodeName(name) + ext
	if len(file) > maxFileName {
		return "", disk.Hint(disk.Errorf(disk.Invalid, "name image %.40q…: its file's name would take %d bytes of %d", name, len(file), maxFileName),
			"choose a shorter name")
	}
	return file, nil
}

// plainName tells whether a name is one of a file in the folder that is not
// hidden.
func plainName(name string) bool {
	return name != "" && name[0] != '.' && !strings.ContainsAny(name, "/\x00")
}
