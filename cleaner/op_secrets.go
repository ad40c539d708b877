package cleaner

import (
	"path"
	"regexp"
	"slices"
)

// secretFiles are what lets somebody in elsewhere, in any home.
var secretFiles = []string{
	".aws", ".azure", ".config/gcloud", ".config/openstack", ".config/gh", ".config/glab-cli", ".config/hub", ".config/rclone", ".config/gsutil", ".config/doctl", ".config/hcloud", ".config/linode-cli", ".config/scw", ".config/configstore", ".config/heroku", ".config/pulumi", ".config/helm", ".config/containers/auth.json", ".config/sops", ".config/age", ".config/op", ".config/Bitwarden CLI", ".config/keybase", ".config/git/credentials", ".config/pip", ".config/pypoetry/auth.toml", ".config/composer/auth.json", ".config/restic", ".config/borg", ".config/filezilla", ".config/syncthing", ".config/ngrok", ".config/wireguard", ".config/solana",
	".kube", ".minikube", ".helm", ".docker", ".dockercfg", ".netrc", "_netrc", ".authinfo*", ".git-credentials*", ".git-credential-cache", ".gitconfig.local", ".pgpass", ".my.cnf", ".mylogin.cnf", ".mongorc.js", ".gnupg", ".gnupg2", ".pki", ".irods", ".globus", ".globusonline", ".boto", ".s3cfg", ".s3curl", ".passwd-s3fs", ".passwd-*", ".novarc", ".novaclient", ".openstack", ".os_cred*", ".eucarc", ".euca", ".oci", ".bluemix", ".aliyun", ".aliyuncli", ".tccli", ".doctl", ".hcloud", ".linode*", ".terraform.d", ".terraformrc", ".vault-token", ".vault_pass*", ".vault-pass*", ".consul-token", ".nomad-token", ".ansible", ".chef", ".puppet", ".puppetlabs", ".salt", ".vagrant.d", ".npmrc", ".yarnrc*", ".pypirc", ".gem/credentials", ".bundle/config", ".cargo/credentials*", ".m2/settings*.xml", ".gradle/gradle.properties", ".ivy2/.credentials", ".sbt/*credentials*", ".composer/auth.json", ".nuget/NuGet/NuGet.Config", ".condarc", ".continuum", ".huggingface", ".kaggle", ".wandb", ".jupyter", ".cloudflared", ".fly", ".heroku", ".netlify", ".vercel", ".ngrok*", ".databrickscfg", ".snowflake", ".snowsql", ".snsql",
	".smbcredentials", ".smb", ".smb*", ".cifs*", ".davfs2", ".msmtprc", ".fetchmailrc", ".procmailrc", ".muttrc", ".mutt", ".mailrc", ".esmtprc", ".getmail", ".offlineimaprc", ".mbsyncrc", ".lftprc", ".ncftp", ".ncrc", ".wgetrc", ".curlrc", ".vnc", ".rdp", ".Xauthority", ".krb5", ".k5login", ".k5identity", ".config/freerdp", ".local/share/keyrings", ".gnome2/keyrings", ".gnome2_private", ".kde/share/apps/kwallet", ".local/share/kwalletd", ".password-store", ".local/share/gopass", ".erlang.cookie", ".htpasswd", ".google_authenticator", ".totp", ".otp*", ".yubico", ".ecryptfs", ".Private", ".snap", ".subversion", ".cvspass", ".hgrc", ".pulse-cookie", ".config/pulse/cookie", ".esd_auth", ".putty", ".electrum*", ".bitcoin", ".ethereum", ".wallet*",
	".secret*", ".secrets", ".credential*", ".token*", ".api_key*", ".apikey*", ".env", ".env.*", ".envrc", ".local/share/opentofu", ".local/share/containers/storage/secrets", ".config/systemd/user/*.env", "snap",
}

// looseFiles are secrets that people leave in the folder they are in.
var looseFiles = []string{
	"*openrc*", "*.pem", "*.ppk", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.key", "*.kdbx", "*.ovpn", "*.asc.key", "*.rdp", "*clouds.yaml", "*clouds.yml", "*credentials*", "*credentials.csv", "*accessKeys*.csv", "*password*", "*passwd*", "*secret*", "kubeconfig*", "novarc", "eucarc", "ec2rc*", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "*service-account*.json", "*service_account*.json", "core", "core.[0-9]*", "vault-pass*", "vault_pass*",
}

// secretPaths are secrets of the system, outside of homes.
var secretPaths = []string{
	"/etc/openstack/clouds.y*ml", "/etc/users.oath", "/etc/security/users.oath", "/etc/liboath/*", "/etc/libvirt/secrets/*", "/etc/libvirt/passwd.db", "/boot/ignition/config.ign", "/usr/share/oem/config.ign", "/etc/.ignition-result.json", "/var/lib/coreos-install/user_data", "/etc/openstack/secure.y*ml", "/etc/boto.cfg", "/etc/s3cfg", "/etc/passwd-s3fs", "/etc/s3fs/passwd*", "/etc/rclone.conf", "/etc/rclone/*.conf", "/etc/davfs2/secrets", "/etc/cifs*cred*", "/etc/samba/*cred*", "/etc/smb*cred*", "/etc/.smb*", "/etc/*credentials*", "/etc/.*credentials*", "/etc/.netrc", "/etc/netrc", "/etc/ftp*passwd", "/etc/.env", "/etc/aws", "/etc/ceph/*.keyring", "/etc/ceph/*.secret", "/etc/ceph/secret*", "/var/lib/ceph/*/*/keyring",
	"/etc/apt/auth.conf", "/etc/apt/auth.conf.d/*", "/etc/zypp/credentials.d/*", "/etc/zypp/credentials.cat", "/etc/dnf/vars/*token*", "/etc/dnf/vars/*password*", "/etc/yum/vars/*token*", "/etc/yum/vars/*password*", "/etc/docker/key.json", "/etc/containers/auth.json", "/etc/containers/registries.d/*auth*",
	"/etc/credstore/*", "/etc/credstore.encrypted/*", "/usr/lib/credstore/*", "/var/lib/containers/storage/secrets", "/etc/restic*", "/etc/borgmatic/*", "/etc/borg*", "/etc/duply/*", "/etc/msmtprc", "/etc/fetchmailrc", "/etc/exim4/passwd.client?*", "/etc/postfix/sasl_passwd*", "/etc/postfix/sasl/sasl_passwd*", "/etc/mail/authinfo*", "/etc/sasldb2", "/etc/sasl2/sasldb2", "/etc/ldap.secret", "/etc/pam_ldap.secret", "/etc/libnss-ldap.secret", "/etc/ldap/ldap.secret", "/etc/openldap/ldap.secret", "/var/cache/debconf/passwords.dat-old", "/etc/vnc/*passwd*", "/etc/x11vnc.pass", "/etc/.pgpass", "/etc/htpasswd*", "/etc/*/.htpasswd", "/etc/*/htpasswd*",
	"/.secrets", "/.env", "/.netrc", "/.aws", "/.docker", "/.kube", "/autoinst.xml", "/preseed.cfg", "/var/adm/autoinstall", "/var/lib/autoinstall", "/var/lib/YaST2/*autoinst*", "/etc/ec2_version_token",
}

// settings are texts in which people write down secrets among other settings. Their
// values are emptied.
var settings = []string{
	"/etc/environment", "/etc/environment.d/*", "/etc/profile.d/*", "/etc/security/pam_env.conf", "/etc/bash.bashrc.local", "/etc/profile.local",
	"/etc/apt/apt.conf", "/etc/apt/apt.conf.d/*", "/etc/apt/sources.list", "/etc/apt/sources.list.d/*", "/etc/yum.conf", "/etc/yum.repos.d/*", "/etc/dnf/dnf.conf", "/etc/zypp/zypp.conf", "/etc/zypp/repos.d/*", "/etc/sysconfig/proxy", "/etc/pip.conf", "/etc/xdg/pip/pip.conf", "/etc/npmrc", "/usr/etc/npmrc", "/etc/wgetrc", "/etc/curlrc", "/etc/gitconfig", "/etc/mercurial/hgrc", "/etc/proxychains*.conf", "/etc/redsocks.conf", "/etc/iscsi/iscsid.conf", "/etc/sssd/sssd.conf", "/etc/sssd/conf.d/*", "/etc/containers/registries.conf", "/etc/dbconfig-common/*.conf", "/etc/docker/daemon.json",
}

// bindPassword is that of nslcd.conf(5) and the like.
var bindPassword = regexp.MustCompile(`(?i)^\s*(bindpw|rootpwmodpw|rootbindpw|bindcred)\s`)

// secrets removes credentials from every home and from the system's places.
func secrets(g *Guest) error {
	patterns, err := g.inHomes(secretFiles...)
	if err != nil {
		return err
	}
	loose := []string{"/root"}
	for _, a := range g.kept() {
		if n, ok, err := g.lookup(a.home, true); err != nil {
			return err
		} else if ok && (within(n.path, "/home") || g.protected(a.name)) && n.path != "/" {
			loose = append(loose, n.path)
		}
	}
	for _, home := range slices.Compact(loose) {
		for _, name := range looseFiles {
			patterns = append(patterns, path.Join(literally(home), name))
		}
	}
	if err := g.remove(slices.Concat(patterns, secretPaths)...); err != nil {
		return err
	}
	if err := g.truncate("/var/cache/debconf/passwords.dat"); err != nil {
		return err
	}
	starts, err := g.inHomes(append([]string{".pam_environment", ".xsessionrc", ".zshenv", ".zprofile", ".bash_aliases", ".config/environment.d/*", ".gitconfig", ".config/git/config"}, startFiles...)...)
	if err != nil {
		return err
	}
	// Of directory clients, whose settings have a space between name and value.
	if err := g.editAll(dropMatching(bindPassword), "/etc/ldap.conf", "/etc/nslcd.conf", "/etc/pam_ldap.conf", "/etc/libnss-ldap.conf", "/etc/ldap/ldap.conf", "/etc/openldap/ldap.conf", "/etc/sudo-ldap.conf"); err != nil {
		return err
	}
	if err := g.editAll(blankSecrets, slices.Concat(settings, starts)...); err != nil {
		return err
	}
	return g.editAll(blankVariables, "/etc/systemd/system/*.service", "/etc/systemd/system/*.service.d/*.conf", "/etc/systemd/user/*.service")
}
