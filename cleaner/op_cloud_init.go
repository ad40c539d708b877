package cleaner

import (
	"path"
	"regexp"
)

// cloudSecret is a line of cloud-init's user-data or configuration with a secret:
// passwords of users and of chpasswd, tokens of MAAS, keys.
var cloudSecret = regexp.MustCompile(`(?im)^\s*(-\s+)?["']?(passwd|password|hashed_passwd|plain_text_passwd|plaintext_password|token_key|token_secret|consumer_key|secret_key|access_key|secret|token|api_key|chpasswd|userdata_raw|validation_key|rsa_private|dsa_private|ecdsa_private|ed25519_private)["']?\s*:|PRIVATE KEY|(?i)passwd\s+--stdin|chpasswd`)

// cloudInit makes the next boot the first for cloud-init, and removes what it was told
// and what it has made of that. A seed stays, as cloud-init clean keeps it, unless
// there is a secret in it.
func cloudInit(g *Guest) error {
	keep := func(p string) bool { return path.Base(p) == "seed" }
	if err := g.empty(keep, "/var/lib/cloud"); err != nil {
		return err
	}
	if err := g.remove("/run/cloud-init/*", "/etc/sudoers.d/90-cloud-init-users", "/etc/ssh/sshd_config.d/50-cloud-init.conf", "/etc/cloud/cloud.cfg.d/99-installer.cfg", "/etc/cloud/cloud.cfg.d/*installer*.cfg", "/etc/cloud/cloud.cfg.d/90_dpkg_maas.cfg", "/etc/cloud/cloud.cfg.d/curtin-*", "/etc/cloud/cloud.cfg.d/*curtin*.cfg", "/etc/cloud/cloud.cfg.d/*subiquity*installer*", "/etc/cloud/cloud.cfg.d/20-disable-cc-dpkg-grub.cfg.bak", "/var/lib/cloud-init"); err != nil {
		return err
	}
	// A seed and a site's own configuration are whole or nothing: what is left of them
	// without a line may be no YAML.
	files, err := g.glob("/etc/cloud/cloud.cfg.d/*")
	if err != nil {
		return err
	}
	files = append(files, "/boot/firmware/user-data", "/boot/user-data") // NoCloud of small boards
	err = g.walk("/var/lib/cloud/seed", func(e entry) error {
		if e.regular() {
			files = append(files, e.path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, p := range files {
		text, _, err := g.read(p)
		if err != nil {
			return err
		}
		if !cloudSecret.Match(text) {
			continue
		}
		g.warn("%s is gone: it held a secret for cloud-init", show(p))
		if err := g.removePath(p); err != nil {
			return err
		}
	}
	_, err = g.edit("/etc/cloud/cloud.cfg", blankSecrets)
	return err
}

// cloudSeed removes the seed too.
func cloudSeed(g *Guest) error { return g.remove("/var/lib/cloud/seed/*", "/seed") }
