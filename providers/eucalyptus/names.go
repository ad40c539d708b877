package eucalyptus

import (
	"strings"

	"chromogenic/disk"
)

// The bounds of the name of an image: ImageManager.java of Eucalyptus takes 3 to 128
// characters, of these alone, and no name twice in an account.
const (
	minName   = 3
	maxName   = 128
	nameChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789()./-_"
)

// checkName refuses a name that cannot be kept: what the cloud does not take as a name is a
// tag.
func checkName(name string) error {
	if n := len(name); n == 0 || n > maxTagValue {
		return disk.Errorf(disk.Invalid, "a name of %d bytes, it may have 1 to %d", n, maxTagValue)
	}
	if strings.ContainsRune(name, 0) {
		return disk.Errorf(disk.Invalid, "a name with a zero byte")
	}
	return nil
}

// cloudName is the name that the cloud takes for an image, the name itself wherever it can
// be. A salt makes it another one, where the name is in use.
func cloudName(name, salt string) string {
	ok := len(name) >= minName && len(name) <= maxName && strings.Trim(name, nameChars) == ""
	if ok && salt == "" {
		return name
	}
	plain := plainText(name, nameChars)
	return plain[:min(len(plain), maxName-10)] + "-" + short(name + salt)[:8]
}

// safeName is what names of objects are made of: nothing that a store, a URL or a shell
// takes for anything else.
func safeName(name string) string {
	s := strings.Trim(plainText(name, nameChars[:62]+"-_"), "-_")
	if s == "" {
		s = "image"
	}
	return s[:min(len(s), 60)]
}

// plainText puts an underscore in the place of all that is none of the characters.
func plainText(s, chars string) string {
	return strings.Map(func(c rune) rune {
		if c < 0x80 && strings.ContainsRune(chars, c) {
			return c
		}
		return '_'
	}, s)
}
