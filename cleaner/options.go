package cleaner

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"regexp"
	"slices"
	"strings"

	"chromogenic/disk"
)

// tableVersion is of the table: raised whenever an operation does something else to
// the same guest, so that images that were cleaned before are told apart.
const tableVersion = "2"

// Options say how an image is cleaned. The zero value is the default: all default
// operations, no account kept.
type Options struct {
	Plan         bool     `json:"plan,omitempty"`          // write nothing, report what would be done
	Only         []string `json:"only,omitempty"`          // these operations alone
	Skip         []string `json:"skip,omitempty"`          // of the default ones
	With         []string `json:"with,omitempty"`          // optional operations
	KeepUsers    []string `json:"keep_users,omitempty"`    // accounts that stay, with home and authorized_keys
	SSHKeys      []string `json:"ssh_keys,omitempty"`      // "USER:KEY", or "KEY" for the first kept user, or root
	Hostname     string   `json:"hostname,omitempty"`      // empty is "localhost"
	RootPassword string   `json:"root_password,omitempty"` // as crypt(5) hashes it; empty locks root
	Recipe       Recipe   `json:"recipe,omitzero"`         // of the site, after the table
}

// maxOrder bounds the JSON of options.
const maxOrder = 4 << 20

func readOptions(order []byte) (opt Options, err error) {
	if len(order) > maxOrder {
		return opt, disk.Errorf(disk.TooLarge, "read options: %d bytes are more than %d", len(order), maxOrder)
	}
	if len(order) == 0 {
		return opt, nil
	}
	dec := json.NewDecoder(bytes.NewReader(order))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&opt); err != nil {
		return opt, disk.Errorf(disk.Invalid, "read options: %w", err)
	}
	return opt, opt.Validate()
}

var (
	// userName is what useradd(8) takes, and a little more: names with capitals and
	// dots come from directories.
	userName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?$`)
	// hostName of hostname(7): labels of 63, 253 in all.
	hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,62})(\.[A-Za-z0-9][A-Za-z0-9-]{0,62})*$`)
	// keyLine of authorized_keys, sshd(8): type and key, with options before and a
	// comment behind.
	keyLine = regexp.MustCompile(`^([^\r\n]*\s)?(ssh-(rsa|dss|ed25519)|ecdsa-sha2-\S+|sk-\S+@openssh\.com)\s+[A-Za-z0-9+/]{40,}={0,3}(\s[^\r\n]*)?$`)
	// cryptHash is what crypt(5) has: an identifier between dollar signs, or the 13
	// characters of old.
	cryptHash = regexp.MustCompile(`^(\$[0-9a-z]+\$[!-9;-~]+|[./0-9A-Za-z]{13})$`)
)

// Validate tells what of the options makes no sense, before there is a guest.
func (o Options) Validate() error {
	for _, list := range [][]string{o.Only, o.Skip, o.With} {
		for _, name := range list {
			if !slices.ContainsFunc(Operations(), func(op Operation) bool { return op.Name == name }) {
				return disk.Hint(disk.Errorf(disk.Invalid, "choose operations: there is no operation %q", name), "their names are in chromogenic clean --list")
			}
		}
	}
	if len(o.Only) > 0 && len(o.Skip)+len(o.With) > 0 {
		return disk.Hint(disk.Errorf(disk.Invalid, "choose operations: only says all, and leaves nothing for skip and with"), "name all operations with --only, or none")
	}
	for _, name := range o.KeepUsers {
		if !userName.MatchString(name) {
			return disk.Errorf(disk.Invalid, "keep user: %q is no name of a user", name)
		}
	}
	for _, key := range o.SSHKeys {
		if _, line := splitKey(key); !keyLine.MatchString(line) {
			return disk.Hint(disk.Errorf(disk.Invalid, "give SSH key: %.40q is no line of authorized_keys", line), "give what a .pub file says, with USER: before it if it is not for the default user")
		}
	}
	if o.Hostname != "" && (len(o.Hostname) > 253 || !hostName.MatchString(o.Hostname)) {
		return disk.Errorf(disk.Invalid, "set hostname: %q is no name of a host", o.Hostname)
	}
	if o.RootPassword != "" && !cryptHash.MatchString(o.RootPassword) {
		return disk.Hint(disk.Errorf(disk.Invalid, "set password of root: this is no hash of crypt(5)"), "make one with: openssl passwd -6")
	}
	return o.Recipe.Validate()
}

// splitKey parts the user from the key; none is the default user.
func splitKey(key string) (user, line string) {
	if name, rest, ok := strings.Cut(key, ":"); ok && userName.MatchString(name) {
		return name, strings.TrimSpace(rest)
	}
	return "", strings.TrimSpace(key)
}

// Fingerprint is the SHA-256, in hex, of all that decides what a run makes of a guest:
// the options and the version of the table. Whether it is a plan has no part in it.
func (o Options) Fingerprint() string {
	o.Plan = false
	for _, list := range []*[]string{&o.Only, &o.Skip, &o.With} {
		*list = slices.Compact(slices.Sorted(slices.Values(*list)))
	}
	text, err := json.Marshal(o)
	if err != nil {
		panic("cleaner: options are not JSON: " + err.Error()) // they are strings and numbers
	}
	sum := sha256.Sum256(append([]byte("cleaner "+tableVersion+"\n"), text...))
	return hex.EncodeToString(sum[:])
}

// runs tells whether an operation is asked for.
func (o Options) runs(op Operation) bool {
	if len(o.Only) > 0 {
		return slices.Contains(o.Only, op.Name)
	}
	return (op.Default || slices.Contains(o.With, op.Name)) && !slices.Contains(o.Skip, op.Name)
}
