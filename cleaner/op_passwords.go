package cleaner

import (
	"regexp"
	"strings"
)

// noPassword is a field of shadow(5) that no password matches. Unlike "!" it is not
// taken for a locked account, to which sshd would let nobody in by key either.
const noPassword = "*"

// rootPassword locks root, or gives it the password of the options, and takes the
// passwords of all accounts that stay but those of kept users: their hashes would be
// those of every machine made from the image.
func rootPassword(g *Guest) error {
	change := func(shadow bool) func([]byte) []byte {
		return func(text []byte) []byte {
			return eachLine(text, func(line []byte) []byte {
				body := strings.TrimRight(string(line), "\r\n")
				f := strings.Split(body, ":")
				if len(f) < 2 || f[0] == "" || strings.ContainsAny(f[0][:1], "+-#") {
					return line
				}
				f[1] = g.password(f[0], f[1], shadow)
				return append([]byte(strings.Join(f, ":")), line[len(body):]...)
			})
		}
	}
	if _, err := g.edit("/etc/shadow", change(true)); err != nil {
		return err
	}
	if _, err := g.edit("/etc/passwd", change(!g.exists("/etc/shadow"))); err != nil {
		return err
	}
	// Passwords of groups are nobody's to keep.
	groups := field(1, func(string) bool { return true }, func(old string) string {
		if hashed.MatchString(old) {
			return "!"
		}
		return old
	})
	if err := g.editAll(groups, "/etc/gshadow", "/etc/group"); err != nil {
		return err
	}
	return g.editAll(grubPassword, "/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/boot/grub2/user.cfg", "/boot/grub/user.cfg", "/etc/grub.d/*", "/boot/grub/menu.lst", "/boot/grub/grub.conf", "/etc/grub.conf", "/etc/lilo.conf")
}

// hashed is a field with a password in it: what is not empty, "x", or locked.
var hashed = regexp.MustCompile(`[./0-9A-Za-z]{13,}|\$`)

// password is the field that an account gets for what it has. shadow tells whether this
// is the file that decides; in the other one only hashes go.
func (g *Guest) password(name, old string, shadow bool) string {
	switch {
	case name == "root" && shadow && g.opt.RootPassword != "":
		return g.opt.RootPassword
	case g.protected(name):
		return old
	case name == "root" && shadow && !locked(old), hashed.MatchString(old), old == "":
		if shadow {
			return noPassword
		}
		return "x"
	}
	return old
}

// locked tells whether no password matches a field.
func locked(f string) bool { return f != "" && strings.Trim(f, "!*x") == "" || f == "!*" }

var grubHash = regexp.MustCompile(`(?m)^([ \t]*(?:password(?:_pbkdf2)?|GRUB2_PASSWORD=)[^\n]*?)(grub\.pbkdf2\.\S+|--md5 \S+|--encrypted \S+)`)

// grubPassword takes the password of the boot loader's menu away, with what asks
// for it: a line without its hash would be no configuration.
func grubPassword(text []byte) []byte {
	if !grubHash.Match(text) {
		return text
	}
	return eachLine(text, func(line []byte) []byte {
		if grubHash.Match(line) || regexp.MustCompile(`^\s*set superusers=`).Match(line) {
			return nil
		}
		return line
	})
}
