package cleaner

import (
	"bytes"
	iofs "io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// keyPlaces hold nothing but private keys, and what is made with them.
var keyPlaces = []string{
	"/etc/ssl/private/*", "/etc/pki/tls/private/*", "/etc/pki/CA/private/*", "/etc/letsencrypt/archive", "/etc/letsencrypt/live", "/etc/letsencrypt/keys", "/etc/letsencrypt/accounts", "/etc/letsencrypt/csr", "/etc/letsencrypt/renewal", "/var/lib/acme", "/etc/acme*/*.key", "/var/lib/dehydrated", "/var/lib/caddy/*/certificates", "/var/lib/caddy/.local",
	"/etc/ipsec.secrets.d/*", "/etc/ipsec.d/private/*", "/etc/ipsec.d/*.secrets", "/etc/ipsec.d/*.db", "/var/lib/ipsec/nss/*.db", "/etc/strongswan/ipsec.d/private/*", "/etc/swanctl/private/*", "/etc/swanctl/rsa/*", "/etc/swanctl/ecdsa/*", "/etc/swanctl/pkcs8/*", "/etc/swanctl/pkcs12/*", "/etc/strongswan/swanctl/private/*", "/etc/racoon/psk.txt", "/etc/racoon/certs/*",
	"/etc/wireguard/*", "/etc/openvpn/*.key", "/etc/openvpn/*.ovpn", "/etc/openvpn/*.p12", "/etc/openvpn/*auth*", "/etc/openvpn/*pass*", "/etc/openvpn/*/*.key", "/etc/openvpn/*/*.ovpn", "/etc/openvpn/*/*.p12", "/etc/openvpn/*/*auth*", "/etc/openvpn/*/*pass*", "/etc/openvpn/*/keys", "/etc/openvpn/*/pki/private", "/etc/tinc/*/*.priv", "/etc/vpnc/*.conf", "/etc/openfortivpn/config", "/etc/nebula/*.key", "/var/lib/tailscale/*", "/var/lib/zerotier-one/identity.*", "/var/lib/zerotier-one/authtoken.secret", "/etc/zerotier/identity.*", "/var/lib/netbird/*", "/etc/netbird/config.json",
	"/etc/bind/rndc.key", "/etc/rndc.key", "/etc/rndc.conf", "/etc/bind/*.private", "/var/lib/bind/*.private", "/var/named/*.private", "/etc/bind/*tsig*", "/etc/knot/keys", "/var/lib/knot/keys",
	"/etc/exim4/*.key", "/etc/dkimkeys/*.private", "/etc/dkimkeys/*/*.private", "/etc/opendkim/keys/*", "/etc/dovecot/private/*", "/etc/pki/dovecot/private/*", "/etc/cups/ssl/*", "/etc/webmin/miniserv.pem", "/etc/cockpit/ws-certs.d/*.key", "/etc/cockpit/ws-certs.d/0-self-signed*", "/etc/xrdp/*.pem", "/etc/xrdp/rsakeys.ini", "/etc/luks/*", "/etc/luks-keys/*", "/etc/keys/*", "/etc/cryptsetup-keys.d/*", "/etc/cryptsetup-initramfs/*.key", "/boot/*.key", "/etc/tor/keys", "/var/lib/tor/keys", "/var/lib/tor/*/*secret_key", "/var/lib/tor/*/private_key", "/etc/ntp.keys", "/etc/ntp/keys", "/etc/ntp/crypto/*key*", "/etc/ntpsec/ntp.keys", "/etc/trusted-key.key.private", "/var/lib/shim-signed/mok/*", "/var/lib/dkms/mok.*", "/etc/pki/nssdb/key*.db.bak", "/etc/pki/rpm-gpg/private*", "/var/lib/mysql/*.pem", "/var/lib/boinc-client/gui_rpc_auth.cfg", "/var/lib/transmission-daemon/info/settings.json",
}

// searched are the folders in which keys are found by what they are, whatever they are
// called. /usr is the distribution's, but for /usr/local.
var searched = []string{"/etc", "/opt", "/srv", "/usr/local", "/var", "/boot", "/root", "/home", "/data", "/app"}

// samples are folders in which software brings keys of its own for its tests, but for
// /etc, where nobody keeps tests.
var samples = []string{"site-packages", "dist-packages", "node_modules", "gems", "test", "tests", "testdata", "testing", "examples", "fixtures", "doc", "docs"}

var notSearched = []string{"/var/lib/dpkg", "/var/lib/rpm", "/var/lib/apt", "/var/cache", "/var/lib/docker", "/var/lib/containers", "/var/lib/containerd", "/var/lib/snapd/snaps", "/var/lib/mysql", "/var/lib/postgresql", "/var/lib/pgsql", "/var/log", "/boot/grub", "/boot/grub2"}

// maxKey is the size of a file that is searched for a key; a key has some KiB, and a
// file with many, or a configuration with one in it, a little more.
const maxKey = 256 << 10

var (
	// privateKey is one in the textual encodings of RFC 7468, RFC 1421 (with headers),
	// OpenSSH (PROTOCOL.key) and RFC 4880, or of PuTTY, with enough of it to be one: a line of
	// base64 behind the mark, or the mark as a line of its own with its end somewhere below.
	// What only speaks of keys, such as a script, has neither.
	privateKey = regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----(\\n|\r?\n)([A-Za-z-]+: [^\n]*\r?\n)*(\r?\n)?[A-Za-z0-9+/=]{32}|PuTTY-User-Key-File-[0-9]: |(?ms)^-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----\r?$.*^-----END [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----\r?$`)
	// foreignToken is a credential that is known by its form: AWS, GitHub, GitLab, Slack.
	foreignToken = regexp.MustCompile(`\b(A(?:KI|SI)A[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60}|glpat-[A-Za-z0-9_-]{20}|xox[abprs]-[0-9A-Za-z-]{20})`)
)

// privateKeys removes keys where they are kept, and wherever else they are found.
func privateKeys(g *Guest) error {
	snakeoil := g.exists("/etc/ssl/private/ssl-cert-snakeoil.key")
	for _, place := range keyPlaces {
		if err := removeKeys(g, place); err != nil {
			return err
		}
	}
	if snakeoil {
		if err := g.snakeoil(); err != nil {
			return err
		}
	}
	// Files that come with packages, and hold nothing but secrets besides comments.
	secretLine := func(line []byte) bool { return isSetting(line) && !bytes.HasPrefix(line, []byte("include ")) }
	if err := g.editAll(dropLines(secretLine), "/etc/chrony.keys", "/etc/chrony/chrony.keys", "/etc/ppp/chap-secrets", "/etc/ppp/pap-secrets", "/etc/ppp/srp-secrets", "/etc/ipsec.secrets", "/etc/strongswan/ipsec.secrets", "/etc/exim4/passwd.client"); err != nil {
		return err
	}
	return g.searchKeys(g.removeEntry)
}

// removeKeys removes what a pattern matches, but for links: Debian's dovecot has one to
// the snakeoil certificate, which is made anew.
func removeKeys(g *Guest, pattern string) error {
	paths, err := g.glob(pattern)
	if err != nil {
		return err
	}
	for _, p := range paths {
		n, ok, err := g.lookup(p, false)
		if err != nil {
			return err
		}
		if !ok || n.info.Mode()&iofs.ModeSymlink != 0 {
			continue
		}
		if err := g.removePath(p); err != nil {
			return err
		}
	}
	return nil
}

// isSetting tells whether a line says something, and is no comment.
func isSetting(line []byte) bool {
	line = bytes.TrimSpace(line)
	return len(line) > 0 && line[0] != '#' && line[0] != ';'
}

// snakeoil has Debian's ssl-cert make its certificate anew, for services that do not
// start without.
func (g *Guest) snakeoil() error {
	if err := g.remove("/etc/ssl/certs/ssl-cert-snakeoil.pem"); err != nil || !g.systemd() || !g.exists("/usr/sbin/make-ssl-cert") {
		return err
	}
	return g.unit(unit{
		name:      "chromogenic-snakeoil",
		about:     "Make the self-signed certificate of this machine",
		condition: "ConditionPathExists=!/etc/ssl/private/ssl-cert-snakeoil.key",
		before:    "apache2.service nginx.service postfix.service postgresql.service exim4.service dovecot.service",
		command:   "/usr/sbin/make-ssl-cert generate-default-snakeoil",
	})
}

// searchKeys calls found for every file with a private key in the searched folders,
// but for the homes of kept users. Other credentials are told of.
func (g *Guest) searchKeys(found func(entry) error) error {
	skip := slices.Clone(notSearched)
	for _, a := range g.kept() {
		if n, ok, err := g.lookup(a.home, true); err == nil && ok && g.protected(a.name) && n.path != "/" {
			skip = append(skip, n.path)
		}
	}
	visit := func(e entry) error {
		if e.folder() {
			if slices.Contains(skip, e.path) || slices.Contains(samples, e.name) && !within(e.path, "/etc") {
				return errSkip
			}
			return nil
		}
		if !e.regular() || e.info.Size() < 64 || e.info.Size() > maxKey || strings.HasPrefix(e.name, "ssh_host_") && path.Dir(e.path) == "/etc/ssh" {
			return nil
		}
		if g.searched[e.path] == versionOf(e.info) {
			return nil // nobody has written to it since
		}
		text, err := readEntry(e)
		if err != nil {
			return pathError(e.path, err)
		}
		if privateKey.Match(text) {
			return found(e)
		}
		if foreignToken.Match(text) {
			g.warn("%s holds what looks like a credential of a cloud or service", show(e.path))
		}
		g.searched[e.path] = versionOf(e.info)
		return nil
	}
	for _, folder := range searched {
		if err := g.walk(folder, visit); err != nil {
			return err
		}
	}
	return nil
}

// A fileVersion tells a file from what it is after somebody has written to it.
type fileVersion struct {
	inode         uint64
	size          int64
	changed, made int64 // ctime and mtime, in nanoseconds
}

func versionOf(info iofs.FileInfo) fileVersion {
	st := statOf(info)
	return fileVersion{st.Ino, st.Size, st.Ctim.Nano(), st.Mtim.Nano()}
}

// readEntry reads a small file that walk came by. It may be shorter than it was said to be.
func readEntry(e entry) ([]byte, error) {
	dir, err := e.dir.folder()
	if err != nil {
		return nil, err
	}
	var fd int
	err = uninterrupted(func() (err error) {
		fd, err = unix.Openat(dir, e.name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	text := make([]byte, min(e.info.Size(), maxKey))
	n, err := readOpen(fd, text)
	return text[:n], err
}
