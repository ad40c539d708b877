package cleaner

import "bytes"

// identity removes what makes the machine a member of a domain, and what it has been
// told as one.
func identity(g *Guest) error {
	if err := g.remove(
		"/etc/krb5.keytab", "/etc/*.keytab", "/etc/*/*.keytab", "/var/kerberos/krb5/user/*", "/var/lib/*/*.keytab", "/var/tmp/krb5_*", "/etc/krb5.keytab.*",
		"/etc/ipa/ca.crt", "/etc/ipa/default.conf", "/etc/ipa/nssdb/*", "/var/lib/ipa-client/sysrestore/*", "/var/lib/ipa-client/pki/*", "/var/lib/ipa/*", "/var/lib/certmonger/requests/*", "/var/lib/certmonger/cas/*",
		"/var/lib/sss/db/*", "/var/lib/sss/mc/*", "/var/lib/sss/secrets/*", "/var/lib/sss/keytabs/*", "/var/lib/sss/pubconf/kdcinfo.*", "/var/lib/sss/pubconf/kpasswdinfo.*", "/var/lib/sss/pubconf/known_hosts", "/var/lib/sss/gpo_cache/*", "/var/lib/sss/deskprofile/*", "/var/log/sssd/*.ldb",
		"/var/lib/samba/private/*", "/var/lib/samba/*.tdb", "/var/lib/samba/*/*.dat", "/etc/samba/secrets.tdb", "/etc/samba/passdb.tdb", "/etc/samba/smbpasswd", "/var/cache/samba/*.tdb", "/var/cache/samba/*.dat", "/var/lib/samba/winbindd_privileged/*", "/etc/opt/quest/vas/*.keytab", "/var/opt/quest/vas/*", "/var/lib/pbis/db/*", "/var/cache/realmd/*", "/var/lib/adcli/*",
		"/var/lib/pam_pkcs11/*", "/var/lib/fprint/*", "/var/lib/AccountsService/users/*.bak", "/var/cache/nscd/*", "/var/db/nscd/*", "/var/lib/nslcd/*", "/var/cache/pam_ccreds/*", "/var/cache/.security.db",
		"/etc/nvme/hostnqn", "/etc/nvme/hostid", "/etc/iscsi/nodes", "/var/lib/iscsi/nodes/*", "/var/lib/iscsi/send_targets/*", "/var/lib/iscsi/ifaces/*", "/etc/target/saveconfig.json", "/etc/target/backup/*", "/var/lib/dovecot/*",
	); err != nil {
		return err
	}
	// open-iscsi makes a new name of its own where it is told so; elsewhere a unit does
	// where the file is missing.
	const name = "/etc/iscsi/initiatorname.iscsi"
	text, ok, err := g.read(name)
	if err != nil || !ok || !bytes.Contains(text, []byte("InitiatorName=")) {
		return err
	}
	if g.exists("/usr/lib/open-iscsi/startup-checks.sh") || g.exists("/lib/open-iscsi/startup-checks.sh") {
		return g.write(name, []byte("GenerateName=yes\n"), owner{mode: 0o600})
	}
	return g.remove(name)
}

// kerberosData removes the database of a Kerberos realm but for its configuration.
func kerberosData(g *Guest) error {
	keep := func(p string) bool {
		return p == "/var/kerberos/krb5kdc/kadm5.acl" || p == "/var/kerberos/krb5kdc/kdc.conf"
	}
	return g.empty(keep, "/var/kerberos/krb5kdc", "/var/lib/krb5kdc")
}
