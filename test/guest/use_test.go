package guest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pem looks like a private key to everybody.
const pem = "-----BEGIN RSA PRIVATE KEY-----\n%s-----END RSA PRIVATE KEY-----\n"

// planted are the places of secrets, as those who have worked on a server leave them: a
// path, and behind a colon what is around the secret, if that matters. A star is for the
// home of each user.
var planted = []string{
	"*/.bash_history", "*/.mysql_history", "*/.psql_history", "*/.sqlite_history", "*/.python_history", "*/.node_repl_history", "*/.viminfo", "*/.lesshst", "*/.wget-hsts",
	"*/.ssh/id_rsa:" + pem, "*/.ssh/id_ed25519:" + pem, "*/.ssh/known_hosts", "*/.ssh/config", "*/.netrc", "*/.my.cnf:[client]\npassword=%s", "*/.pgpass", "*/.aws/credentials", "*/.docker/config.json",
	"*/.kube/config", "*/.gnupg/private-keys-v1.d/a.key", "*/.config/openstack/clouds.yaml", "*/.config/gh/hosts.yml", "*/.git-credentials", "*/.terraform.d/credentials.tfrc.json", "*/.vault-token", "*/.cache/motd",
	"*/admin-openrc.sh:export OS_PASSWORD=%s", "*/dump.sql", "*/report.odt", "*/.local/share/keyrings/login.keyring", "*/.mozilla/firefox/x/logins.json", "*/.Xauthority", "*/nohup.out",
	"/etc/ssl/private/www.key:" + pem, "/etc/letsencrypt/archive/www/privkey1.pem:" + pem, "/etc/nginx/site.key:" + pem, "/etc/apache2/ssl/site.pem:" + pem, "/etc/postfix/sasl_passwd", "/etc/postfix/sasl_passwd.db",
	"/etc/wireguard/wg0.conf", "/etc/openvpn/server/ta.key", "/etc/ipsec.secrets:: PSK \"%s\"\n", "/etc/ppp/chap-secrets.bak", "/etc/krb5.keytab", "/etc/NetworkManager/system-connections/office.nmconnection:[wifi-security]\npsk=%s\n",
	"/etc/puppet/ssl/private_keys/build-42.pem:" + pem, "/var/lib/puppet/ssl/private_keys/build-42.pem:" + pem, "/etc/chef/client.pem:" + pem, "/etc/salt/pki/minion/minion.pem:" + pem, "/etc/zabbix/agent.psk", "/etc/gitlab-runner/config.toml",
	"/var/lib/cloud/instance/user-data.txt:#cloud-config\npassword: %s\n", "/var/lib/cloud/instances/i-0/sem/x", "/var/lib/cloud/seed/nocloud/user-data:#cloud-config\npassword: %s\n",
	"/var/log/syslog", "/var/log/auth.log", "/var/log/auth.log.1", "/var/log/mail.log", "/var/log/mysql/error.log", "/var/log/apt/term.log", "/var/log/nginx/access.log", "/var/log/cloud-init.log", "/var/log/audit/audit.log", "/var/log/btmp",
	"/var/log/journal/5f2a1d0e9f0b4c0f8c3f0a4a5c4a9f00/system.journal", "/var/log/installer/cdebconf/questions.dat", "/var/log/site/app.log.3.gz",
	"/var/spool/cron/crontabs/alice", "/var/spool/postfix/maildrop/1A2B", "/var/mail/alice", "/var/spool/cron/atjobs/a0000101",
	"/tmp/upload", "/var/tmp/vi.recover/x", "/var/backups/shadow.bak", "/var/crash/core.1", "/core:\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x04\x00%s",
	"/var/lib/dhcp/dhclient.eth0.leases", "/var/lib/NetworkManager/secret_key", "/var/lib/systemd/random-seed", "/var/lib/systemd/coredump/core.bash", "/var/lib/samba/private/secrets.tdb", "/var/lib/sss/db/cache.ldb",
	"/etc/shadow-", "/etc/ssh/sshd_config.bak", "/etc/.ssh.swp", "/opt/cyverse/x", "/etc/rc.local.atmo", "/var/log/atmo/atmo.log",
}

// put writes a file full of a secret, with its folders.
func put(t testing.TB, root, path, around string, mode os.FileMode) {
	t.Helper()
	at := filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(around, "%s") {
		around = "%s"
	}
	text := strings.Replace(around, "%s", secret(path), 1)
	if err := os.WriteFile(at, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// use makes the traces of people: accounts with passwords and keys, and all that is
// planted.
func use(t testing.TB, root string) {
	t.Helper()
	in := func(text string) { sh(t, "chroot", root, "/bin/bash", "-euc", text) }
	in("useradd -m -s /bin/bash -c 'Alice " + mark + "-gecos-4f1c2b9d7e' -G sudo,adm alice; useradd -m -G users bob")
	in("echo 'alice:" + mark + "-password' | chpasswd; echo 'root:" + mark + "-root' | chpasswd")
	in("echo 'alice ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/alice")
	in("ssh-keygen -q -A; systemd-machine-id-setup > /dev/null 2>&1 || dbus-uuidgen > /etc/machine-id")
	in("mkdir -m 0700 -p /root/.ssh; echo 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHHIl8L0Oqkc0Qm3Jm4mVJpbIcuQ7bYk8Ty1k6BqXwqz " + mark + "-authorized' > /root/.ssh/authorized_keys")
	for i, p := range planted {
		path, around, _ := strings.Cut(p, ":")
		homes := []string{""}
		if rest, ok := strings.CutPrefix(path, "*"); ok {
			homes, path = []string{"/root", "/home/alice", "/home/bob"}, rest
		}
		for _, home := range homes {
			put(t, root, home+path, around, []os.FileMode{0o600, 0o644, 0o640}[i%3])
		}
	}
	in("chown -R alice: /home/alice; chown -R bob: /home/bob; chgrp adm /var/log/syslog /var/log/auth.log")
	// What was swapped to a file, and what was longer once.
	in("fallocate -l 4M /swapfile; chmod 600 /swapfile; mkswap -q /swapfile 2>/dev/null; echo '/swapfile none swap sw 0 0' >> /etc/fstab")
	f, err := os.OpenFile(filepath.Join(root, "swapfile"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(secret("swapfile")), 1<<20); err != nil {
		t.Fatal(err)
	}
	put(t, root, "/srv/shorter", "%s", 0o644)
	sh(t, "sync", "-f", root)
	if err := os.Truncate(filepath.Join(root, "srv/shorter"), 5); err != nil {
		t.Fatal(err)
	}
}
