package cleaner

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// key is a private key as far as anything looks at it.
const key = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAA" + secret + "\n-----END OPENSSH PRIVATE KEY-----\n"

// pub is what a .pub file says.
const pub = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHHIl8L0Oqkc0Qm3Jm4mVJpbIcuQ7bYk8Ty1k6BqXwqz alice@desk"

// common are files that guests of all families have.
func common() []file {
	return []file{
		{path: "/usr/lib/systemd/systemd", text: "elf", mode: 0o755},
		{path: "/usr/bin/tool", text: "elf", mode: 0o4755},
		{path: "/etc/hosts.allow", text: "sshd: ALL\n"},
		{path: "/usr/share/doc/openssl/key.pem", text: "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n-----END PRIVATE KEY-----\n"},
		{path: "/etc/cron.d/job", text: "0 * * * * root true\n"},
		{path: "/etc/crontab", text: "SHELL=/bin/sh\n"},
		{path: "/etc/subuid", text: "alice:100000:65536\nbob:165536:65536\nsvc:500000:10\n1002:600000:5\n", fate: edited, want: "svc:500000:10\n"},
		{path: "/etc/subgid", text: "alice:100000:65536\n", fate: edited, want: ""},
		{path: "/etc/subuid-", text: "alice:1:1\n", fate: gone},

		// People.
		{path: "/home/alice/", uid: 1000, fate: gone},
		{path: "/home/alice/.ssh/id_ed25519", text: key, mode: 0o600, uid: 1000, fate: gone},
		{path: "/home/alice/.ssh/authorized_keys", text: pub, uid: 1000, fate: gone},
		{path: "/home/alice/thesis.txt", text: secret, fate: gone},
		{path: "/home/alice/.bash_history", text: secret, fate: gone},
		{path: "/home/left-over/.netrc", text: secret, fate: gone},
		{path: "/home/left-over/", uid: 4711, fate: gone},
		{path: "/home/stray", text: secret, fate: gone},
		{path: "/data/carol/", uid: 1002, fate: gone},
		{path: "/data/carol/.aws/credentials", text: secret, fate: gone},
		{path: "/data/project/readme", text: "ours"},
		{path: "/var/spool/mail/alice", text: secret, mode: 0o660, uid: 1000, fate: gone},
		{path: "/var/lib/systemd/linger/alice", text: "", fate: gone},
		{path: "/var/lib/AccountsService/users/alice", text: secret, fate: gone},

		// Root.
		{path: "/root/", mode: 0o700},
		{path: "/root/.ssh/authorized_keys", text: pub, mode: 0o600, fate: gone},
		{path: "/root/.ssh/", mode: 0o700, fate: gone},
		{path: "/root/.bash_history", text: "mysql -p" + secret, mode: 0o600, fate: gone},
		{path: "/root/.python_history", text: secret, fate: gone},
		{path: "/root/.mysql_history", text: secret, fate: gone},
		{path: "/root/.viminfo", text: secret, fate: gone},
		{path: "/root/.lesshst", text: secret, fate: gone},
		{path: "/root/.aws/credentials", text: secret, fate: gone},
		{path: "/root/.aws/", fate: gone},
		{path: "/root/.docker/config.json", text: secret, fate: gone},
		{path: "/root/.docker/", fate: gone},
		{path: "/root/.kube/config", text: secret, fate: gone},
		{path: "/root/.kube/", fate: gone},
		{path: "/root/demo-openrc.sh", text: "export OS_PASSWORD=" + secret, fate: gone},
		{path: "/root/thesis.txt", text: secret, fate: gone},

		// Accounts of services, which stay.
		{path: "/var/lib/svc/", uid: 990},
		{path: "/var/lib/svc/.ssh/id_rsa", text: key, fate: gone},
		{path: "/var/lib/svc/.ssh/", fate: gone},
		{path: "/var/lib/svc/.psql_history", text: secret, fate: gone},
		{path: "/snap/README", text: "snapd's"},
		{path: "/usr/bin/snap", text: "elf", mode: 0o755},
		{path: "/etc/dovecot/private/dovecot.key", text: "-> /etc/ssl/private/ssl-cert-snakeoil.key"},
		{path: "/etc/ipsec.secrets", text: "# ours\ninclude /var/lib/strongswan/ipsec.secrets.inc\n: PSK \"" + secret + "\"\n", mode: 0o600, fate: edited, want: "# ours\ninclude /var/lib/strongswan/ipsec.secrets.inc\n"},
		{path: "/.cache/x", text: secret, fate: gone},
		{path: "/.cache/", fate: gone},
		{path: "/var/lib/svc/data", text: "the service's"},

		// Logs of many owners and modes.
		{path: "/var/log/", mode: 0o775},
		{path: "/var/log/syslog", text: secret, mode: 0o640, uid: 104, fate: emptied},
		{path: "/var/log/syslog.1.gz", text: secret, mode: 0o640, uid: 104, fate: emptied},
		{path: "/var/log/lastlog", text: secret, mode: 0o664, uid: 43, fate: emptied},
		{path: "/var/log/wtmp", text: secret, mode: 0o664, fate: emptied},
		{path: "/var/log/btmp", text: secret, mode: 0o600, fate: emptied},
		{path: "/var/log/audit/audit.log", text: secret, mode: 0o600, fate: emptied},
		{path: "/var/log/audit/", mode: 0o700},
		{path: "/var/log/app/deep/er/app.log", text: secret, mode: 0o4755, uid: 990, fate: emptied},
		{path: "/var/log/cloud-init-output.log", text: secret, fate: emptied},
		{path: "/var/log/empty", text: ""},
		{path: "/var/log/current", text: "-> syslog"},
		{path: "/var/log/journal/", mode: 0o2755},
		{path: "/var/log/journal/5f2a/system.journal", text: secret, fate: gone},
		{path: "/var/log/journal/5f2a/", fate: gone},

		// Identity.
		{path: "/etc/machine-id", text: "5f2a1d0e9f0b4c0f8c3f0a4a5c4a9f00\n", mode: 0o444, fate: emptied},
		{path: "/var/lib/dbus/machine-id", text: "5f2a1d0e9f0b4c0f8c3f0a4a5c4a9f00\n", fate: linked, want: "/etc/machine-id"},
		{path: "/var/lib/systemd/random-seed", text: secret, mode: 0o600, fate: gone},
		{path: "/var/lib/systemd/credential.secret", text: secret, mode: 0o400, fate: gone},
		{path: "/boot/efi/loader/random-seed", text: secret, fate: gone},
		{path: "/etc/ssh/ssh_host_ed25519_key", text: key, mode: 0o600, fate: gone},
		{path: "/etc/ssh/ssh_host_ed25519_key.pub", text: pub, fate: gone},
		{path: "/etc/ssh/moduli", text: "many\n"},
		{path: "/etc/krb5.keytab", text: secret, mode: 0o600, fate: gone},
		{path: "/var/lib/sss/db/cache_example.ldb", text: secret, fate: gone},
		{path: "/var/lib/samba/private/secrets.tdb", text: secret, fate: gone},
		{path: "/var/lib/puppet/ssl/private_keys/host.pem", text: key, fate: gone},
		{path: "/var/lib/puppet/ssl/private_keys/", fate: gone},
		{path: "/var/lib/puppet/ssl/", mode: 0o771},
		{path: "/etc/chef/client.pem", text: key, fate: gone},
		{path: "/etc/salt/minion_id", text: "host-" + secret, fate: gone},
		{path: "/etc/salt/pki/minion/minion.pem", text: key, fate: gone},
		{path: "/etc/salt/pki/minion/", fate: gone},
		{path: "/etc/salt/pki/", fate: gone},
		{path: "/etc/salt/minion", text: "master: salt\n"},
		{path: "/etc/zabbix/agent.psk", text: secret, fate: gone},
		{path: "/etc/datadog-agent/datadog.yaml", text: "api_key: " + secret + "\nsite: datadoghq.com\n", mode: 0o640, fate: edited, want: "api_key: \nsite: datadoghq.com\n"},
		{path: "/etc/consul.d/consul.hcl", text: "datacenter = \"dc1\"\nencrypt = \"" + secret + "\"\n", fate: edited, want: "datacenter = \"dc1\"\nencrypt = \"\"\n"},
		{path: "/etc/vault.d/role_id", text: secret, fate: gone},
		{path: "/var/lib/kubelet/pki/kubelet.key", text: key, fate: gone},
		{path: "/var/lib/kubelet/pki/", fate: gone},
		{path: "/etc/kubernetes/admin.conf", text: secret, fate: gone},
		{path: "/var/lib/docker/containers/c1/config.v2.json", text: secret, fate: gone},
		{path: "/var/lib/docker/containers/c1/", fate: gone},
		{path: "/var/lib/docker/image/overlay2/repositories.json", text: "{}"},
		{path: "/var/lib/snapd/state.json", text: `{"data":{"auth":{"device":{"session-macaroon":"` + secret + `"}},"snaps":{"core":1}},"last-task-id":7}`, mode: 0o600, fate: edited, want: `{"data":{"snaps":{"core":1}},"last-task-id":7}`},
		{path: "/var/lib/snapd/device/private-keys-v1/k", text: secret, mode: 0o600, fate: gone},

		// cloud-init.
		{path: "/usr/bin/cloud-init", text: "#!/usr/bin/python3\n", mode: 0o755},
		{path: "/var/lib/cloud/instance", text: "-> /var/lib/cloud/instances/i-1", fate: gone},
		{path: "/var/lib/cloud/instances/i-1/user-data.txt", text: "#cloud-config\npassword: " + secret, mode: 0o600, fate: gone},
		{path: "/var/lib/cloud/instances/i-1/", fate: gone},
		{path: "/var/lib/cloud/instances/", fate: gone},
		{path: "/var/lib/cloud/data/instance-id", text: "i-1", fate: gone},
		{path: "/var/lib/cloud/data/", fate: gone},
		{path: "/var/lib/cloud/seed/nocloud/meta-data", text: "instance-id: seed\n"},
		{path: "/var/lib/cloud/seed/nocloud/user-data", text: "#cloud-config\nchpasswd:\n  list: |\n    root:" + secret + "\n", fate: gone},
		{path: "/etc/cloud/cloud.cfg", text: "users:\n - default\ndisable_root: true\nsystem_info:\n  default_user:\n    lock_passwd: True\n"},
		{path: "/etc/cloud/cloud.cfg.d/90_dpkg_maas.cfg", text: "datasource:\n  MAAS: {token_secret: " + secret + "}\n", fate: gone},
		{path: "/etc/cloud/cloud.cfg.d/99-site.cfg", text: "timezone: UTC\n"},

		// The network.
		{path: "/etc/NetworkManager/system-connections/wifi.nmconnection", text: "[wifi-security]\npsk=" + secret + "\n", mode: 0o600, fate: gone},
		{path: "/etc/NetworkManager/system-connections/eth.nmconnection", text: "[ethernet]\nmac-address=52:54:00:12:34:56\nmtu=1500\n", mode: 0o600, fate: edited, want: "[ethernet]\nmtu=1500\n"},
		{path: "/etc/wpa_supplicant/wpa_supplicant.conf", text: "network={\n psk=\"" + secret + "\"\n}\n", mode: 0o600, fate: gone},
		{path: "/etc/udev/rules.d/70-persistent-net.rules", text: "SUBSYSTEM==net\n", fate: emptied},
		{path: "/var/lib/NetworkManager/secret_key", text: secret, mode: 0o600, fate: gone},
		{path: "/var/lib/NetworkManager/internal-1-eth0.lease", text: secret, fate: gone},
		{path: "/etc/wireguard/wg0.conf", text: "[Interface]\nPrivateKey=" + secret + "\n", mode: 0o600, fate: gone},
		{path: "/etc/openvpn/client/site.ovpn", text: key, fate: gone},

		// What waits, what is cached, what is left.
		{path: "/var/spool/cron/atjobs/a00001018f1e00", text: secret, mode: 0o700, fate: gone},
		{path: "/var/spool/postfix/deferred/A/A1B2", text: secret, fate: gone},
		{path: "/var/crash/vmcore", text: secret, fate: gone},
		{path: "/var/lib/systemd/coredump/core.bash.1000.zst", text: secret, fate: gone},
		{path: "/core", text: "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x04\x00" + secret, fate: gone},
		{path: "/tmp/session", text: secret, fate: gone},
		{path: "/tmp/", mode: os.ModeSticky | 0o777},
		{path: "/var/tmp/x/y", text: secret, fate: gone},
		{path: "/var/tmp/x/", fate: gone},
		{path: "/mnt/backup/dump.sql", text: secret, fate: gone},
		{path: "/mnt/backup/", fate: gone},
		{path: "/run/agent.pid", text: "12", fate: gone},
		{path: "/etc/passwd-", text: "alice:x:1000:\n", fate: gone},
		{path: "/etc/shadow-", text: "root:$6$" + secret + ":1:\n", mode: 0o600, fate: gone},
		{path: "/etc/gshadow-", text: "x:" + secret + "::\n", fate: gone},
		{path: "/etc/shadow.bak", text: secret, fate: gone},
		{path: "/etc/nginx/site.conf~", text: secret, fate: gone},
		{path: "/etc/nginx/.site.conf.swp", text: secret, fate: gone},
		{path: "/etc/nginx/site.key", text: key, mode: 0o600, fate: gone},
		{path: "/etc/nginx/site.conf", text: "server {}\n"},
		{path: "/etc/.git/objects/ab/cd", text: secret, fate: gone},
		{path: "/etc/.git/objects/ab/", fate: gone},
		{path: "/etc/.git/objects/", fate: gone},
		{path: "/etc/.git/", fate: gone},
		{path: "/opt/app/deploy_key", text: key, mode: 0o600, fate: gone},
		{path: "/opt/app/lib/python3/site-packages/tests/key.pem", text: "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n-----END PRIVATE KEY-----\n"},
		{path: "/etc/environment", text: "PATH=/bin\nAPI_TOKEN=" + secret + "\nhttp_proxy=http://joe:" + secret + "@proxy:3128\n", fate: edited, want: "PATH=/bin\nAPI_TOKEN=\nhttp_proxy=http://proxy:3128\n"},
		{path: "/etc/systemd/system/app.service", text: "[Service]\nEnvironment=\"DB_PASSWORD=" + secret + "\" A=b\nExecStart=/bin/app\n", fate: edited, want: "[Service]\nEnvironment=\"DB_PASSWORD=\" A=b\nExecStart=/bin/app\n"},

		// Atmosphere.
		{path: "/etc/rc.local.atmo", text: "x", fate: gone},
		{path: "/opt/cyverse/tmp/x", text: secret, fate: gone},
		{path: "/opt/cyverse/tmp/", fate: gone},
		{path: "/opt/cyverse/", fate: gone},
		{path: "/usr/sbin/atmo_boot.py", text: secret, fate: gone},
		{path: "/var/log/atmo/deploy.log", text: secret, fate: gone},
		{path: "/var/log/atmo/", fate: gone},
		{path: "/etc/skel/.bashrc", text: "alias ll='ls -l'\n## Atmosphere System\nsource x\n## End Atmosphere System\nunset x\n", fate: edited, want: "alias ll='ls -l'\nunset x\n"},
		{path: "/etc/ssh/sshd_config", text: "Port 22\n## Atmosphere System\nAllowUsers x\n## End Atmosphere System\nAllowGroups users core-services root\nUsePAM yes\n", mode: 0o600, fate: edited, want: "Port 22\nUsePAM yes\n"},
		{path: "/etc/sudoers", text: "root ALL=(ALL) ALL\n# Begin Nagios\nnagios ALL=x\n# End Nagios\nalice ALL=(ALL) \\\n  NOPASSWD: ALL\n#includedir /etc/sudoers.d\nmaxim ALL=(ALL) ALL\n", mode: 0o440, fate: edited, want: "root ALL=(ALL) ALL\n#includedir /etc/sudoers.d\n"},
		{path: "/etc/sudoers.d/alice", text: "# her own\nalice ALL=(ALL) NOPASSWD: ALL\n", mode: 0o440, fate: gone},
		{path: "/etc/sudoers.d/wheel", text: "%wheel ALL=(ALL) ALL\n", mode: 0o440},
		{path: "/etc/sudoers.d/90-cloud-init-users", text: "debian ALL=(ALL) NOPASSWD:ALL\n", mode: 0o440, fate: gone},
	}
}

// debianLike is a tree with what Debian has of its own. It is no Debian: nothing in it
// runs.
func debianLike() []file {
	return append(common(), []file{
		{path: "/etc/os-release", text: "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=\"12\"\n"},
		{path: "/etc/login.defs", text: "UID_MIN 1000\nUID_MAX 60000\n"},
		{path: "/etc/passwd", text: "root:x:0:0:root:/root:/bin/bash\nsvc:x:990:990::/var/lib/svc:/bin/sh\nnet:x:998:998::/:/sbin/nologin\nnobody:x:65534:65534:nobody:/usr/bin:/usr/sbin/nologin\nalice:x:1000:1000:Alice " + secret + ",,,:/home/alice:/bin/bash\nbob:x:1001:1001::/home/bob:/bin/bash\ncarol:x:1002:1002::/data/carol:/bin/bash\n", fate: edited, want: "root:x:0:0:root:/root:/bin/bash\nsvc:x:990:990::/var/lib/svc:/bin/sh\nnet:x:998:998::/:/sbin/nologin\nnobody:x:65534:65534:nobody:/usr/bin:/usr/sbin/nologin\n"},
		{path: "/etc/shadow", text: "root:$6$" + secret + ":19000:0:99999:7:::\nsvc:!:19000::::::\nnobody:*:19000::::::\nalice:$y$" + secret + ":19000::::::\nbob:!:1::::::\ncarol:!:1::::::\n", mode: 0o640, uid: 42, fate: edited, want: "root:*:19000:0:99999:7:::\nsvc:!:19000::::::\nnobody:*:19000::::::\n"},
		{path: "/etc/group", text: "root:x:0:\nsudo:x:27:alice,svc,bob\nusers:x:100:alice,bob,ghost\nalice:x:1000:\nbob:x:1001:svc\ncarol:x:1002:\nteam:x:1050:carol\n", fate: edited, want: "root:x:0:\nsudo:x:27:svc\nusers:x:100:\nbob:x:1001:svc\nteam:x:1050:\n"},
		{path: "/etc/gshadow", text: "root:*::\nsudo:*:alice:alice,svc\nalice:!::\nbob:!::svc\nteam:$6$" + secret + "::carol\n", mode: 0o640, uid: 42, fate: edited, want: "root:*::\nsudo:*::svc\nbob:!::svc\nteam:!::\n"},
		{path: "/etc/hostname", text: "secrethost\n", fate: edited, want: "localhost\n"},
		{path: "/etc/hosts", text: "127.0.0.1\tlocalhost\n127.0.1.1\tsecrethost.example.org secrethost\n10.0.0.7 db # the database\n", fate: edited, want: "127.0.0.1\tlocalhost\n10.0.0.7 db # the database\n"},
		{path: "/etc/mailname", text: "secrethost.example.org\n", fate: edited, want: "localhost\n"},
		{path: "/root/.bashrc", text: "export TOKEN=" + secret + "\n", fate: edited, want: "# root's\n"},
		{path: "/usr/share/base-files/dot.bashrc", text: "# root's\n"},
		{path: "/etc/ssl/private/", mode: 0o710},
		{path: "/etc/ssl/private/ssl-cert-snakeoil.key", text: key, mode: 0o640, fate: gone},
		{path: "/etc/ssl/certs/ssl-cert-snakeoil.pem", text: "cert", fate: gone},
		{path: "/usr/sbin/make-ssl-cert", text: "#!/bin/sh\n", mode: 0o755},
		{path: "/etc/systemd/system/chromogenic-snakeoil.service", fate: made, want: "*"},
		{path: "/etc/systemd/system/multi-user.target.wants/chromogenic-snakeoil.service", fate: madeLink, want: "/etc/systemd/system/chromogenic-snakeoil.service"},
		{path: "/var/spool/cron/crontabs/alice", text: secret, mode: 0o600, fate: gone},
		{path: "/var/spool/cron/crontabs/root", text: "0 3 * * * backup\n", mode: 0o600},
		{path: "/var/spool/cron/crontabs/", mode: os.ModeSticky | 0o730},
		{path: "/var/cache/apt/archives/bash.deb", text: "deb", fate: gone},
		{path: "/var/cache/apt/archives/partial/", mode: 0o700},
		{path: "/var/lib/apt/lists/x", text: "Package: x\n"},
		{path: "/etc/apt/auth.conf.d/site.conf", text: "machine x login y password " + secret, mode: 0o600, fate: gone},
		{path: "/etc/apt/sources.list", text: "deb https://joe:" + secret + "@deb.example.org/debian stable main\n", fate: edited, want: "deb https://deb.example.org/debian stable main\n"},
		{path: "/var/cache/debconf/passwords.dat", text: "Value: " + secret, mode: 0o600, fate: emptied},
		{path: "/var/lib/dhcp/dhclient.eth0.leases", text: secret, fate: gone},
		{path: "/etc/netplan/50-cloud-init.yaml", text: "network: {}\n", mode: 0o600, fate: gone},
		{path: "/etc/netplan/01-site.yaml", text: "network:\n  wifis:\n    w:\n      access-points:\n        home: {password: \"" + secret + "\"}\n", mode: 0o600, fate: edited, want: "network:\n  wifis:\n    w:\n      access-points:\n        home: {password: \"\"}\n"},
		{path: "/var/backups/shadow.bak", text: secret, mode: 0o600, fate: gone},
		{path: "/var/lib/dpkg/info/x.postinst", text: "#!/bin/sh\necho -----BEGIN PRIVATE KEY-----\n", mode: 0o755},
		{path: "/etc/fstab", text: "UUID=1 / ext4 defaults 0 1\n/dev/vdb /data ext4 defaults 0 2\n/dev/sda2 /scratch ext4 defaults 0 2\n/dev/vdc /mnt auto defaults,nofail,comment=cloudconfig 0 2\n//nas/x /nas cifs credentials=/etc/nas.cred 0 0\ntmpfs /tmp tmpfs defaults 0 0\n", fate: edited, want: "UUID=1 / ext4 defaults 0 1\ntmpfs /tmp tmpfs defaults 0 0\n"},
		{path: "/etc/nas.cred", text: "password=" + secret, mode: 0o600, fate: gone},
		{path: "/etc/rc.local", text: "#!/bin/sh\n/usr/sbin/atmo_boot.py\nexit 0\n", mode: 0o755, fate: edited, want: "#!/bin/sh\nexit 0\n"},
	}...)
}

// redHatLike is a tree with what Red Hat's family has of its own, marked as such.
func redHatLike() []file {
	return append(common(), []file{
		{path: "/etc/os-release", text: "NAME=\"Rocky Linux\"\nPRETTY_NAME=\"Rocky Linux 9.4\"\nID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"9.4\"\n"},
		{path: "/etc/passwd", text: "root:x:0:0:root:/root:/bin/bash\nsvc:x:990:990::/var/lib/svc:/bin/sh\nnet:x:998:998::/:/sbin/nologin\nalice:x:1000:1000::/home/alice:/bin/bash\ncarol:x:1002:1002::/data/carol:/bin/bash\nbob:x:1001:1001::/home/bob:/bin/bash", fate: edited, want: "root:x:0:0:root:/root:/bin/bash\nsvc:x:990:990::/var/lib/svc:/bin/sh\nnet:x:998:998::/:/sbin/nologin\n"},
		{path: "/etc/shadow", text: "root:$6$" + secret + "::0:99999:7:::\nsvc:!!:19000::::::\nalice:$6$" + secret + ":19000::::::\n", mode: 0o400, fate: edited, want: "root:*::0:99999:7:::\nsvc:!!:19000::::::\n"},
		{path: "/etc/group", text: "root:x:0:\nwheel:x:10:alice\nalice:x:1000:\n", fate: edited, want: "root:x:0:\nwheel:x:10:\n"},
		{path: "/etc/gshadow", text: "wheel:::alice\nalice:!::\n", mode: 0o400, fate: edited, want: "wheel:::\n"},
		{path: "/etc/hostname", text: "secrethost.example.org\n", fate: edited, want: "localhost\n"},
		{path: "/etc/hosts", text: "127.0.0.1 localhost secrethost\n", fate: edited, want: "127.0.0.1\tlocalhost\n"},
		{path: "/etc/sysconfig/network", text: "NETWORKING=yes\nHOSTNAME=secrethost\n", fate: edited, want: "NETWORKING=yes\n"},
		{path: "/etc/sysconfig/network-scripts/ifcfg-eth0", text: "DEVICE=eth0\nHWADDR=52:54:00:12:34:56\nUUID=\"1-2\"\nDHCP_HOSTNAME=secrethost\nONBOOT=yes\n", fate: edited, want: "DEVICE=eth0\nONBOOT=yes\n"},
		{path: "/root/.bashrc", text: "alias rm='rm -i'\nexport AWS_SECRET_ACCESS_KEY=" + secret + "\n", fate: edited, want: "alias rm='rm -i'\n"},
		{path: "/usr/share/rootfiles/.bashrc", text: "alias rm='rm -i'\n"},
		{path: "/root/anaconda-ks.cfg", text: "rootpw --iscrypted " + secret, mode: 0o600, fate: gone},
		{path: "/root/.cshrc", text: "setenv API_KEY " + "x\n"},
		{path: "/etc/pki/consumer/key.pem", text: key, fate: gone},
		{path: "/etc/pki/entitlement/1-key.pem", text: key, fate: gone},
		{path: "/etc/pki/tls/private/localhost.key", text: key, mode: 0o600, fate: gone},
		{path: "/etc/pki/tls/certs/ca-bundle.crt", text: "certs"},
		{path: "/etc/sysconfig/rhn/systemid", text: secret, fate: gone},
		{path: "/var/lib/rhsm/facts/facts.json", text: secret, fate: gone},
		{path: "/var/lib/rhsm/facts/", fate: gone},
		{path: "/etc/yum.repos.d/site.repo", text: "[site]\nbaseurl=https://joe:" + secret + "@yum.example.org/\nusername=joe\npassword=" + secret + "\ngpgkey=file:///etc/pki/x\n", fate: edited, want: "[site]\nbaseurl=https://yum.example.org/\nusername=joe\npassword=\ngpgkey=file:///etc/pki/x\n"},
		{path: "/var/lib/rpm/__db.001", text: "x", fate: gone},
		{path: "/var/lib/rpm/rpmdb.sqlite", text: "x"},
		{path: "/var/cache/dnf/base/x.rpm", text: "x", fate: gone},
		{path: "/var/spool/cron/alice", text: secret, mode: 0o600, fate: gone},
		{path: "/var/spool/cron/root", text: "0 3 * * * backup\n", mode: 0o600},
		{path: "/var/lib/dhclient/dhclient--eth0.lease", text: secret, fate: gone},
		{path: "/etc/selinux/config", text: "SELINUX=enforcing\nSELINUXTYPE=targeted\n"},
		{path: "/usr/lib/systemd/system/sshd-keygen@.service", text: "[Unit]\n"},
		{path: "/etc/fstab", text: "/dev/mapper/rl-root / xfs defaults 0 0\n/dev/xvdb1 /data xfs defaults 0 0\n", fate: edited, want: "/dev/mapper/rl-root / xfs defaults 0 0\n"},
		{path: "/etc/chrony.keys", text: "# keys\n1 SHA1 HEX:" + secret + "\n", mode: 0o640, fate: edited, want: "# keys\n"},
	}...)
}

// suseLike is a tree with what SUSE has of its own, marked as such.
func suseLike() []file {
	return append(common(), []file{
		{path: "/usr/lib/os-release", text: "ID=\"sles\"\nID_LIKE=\"suse\"\nVERSION_ID=\"15.5\"\nPRETTY_NAME=\"SUSE Linux Enterprise Server 15 SP5\"\n"},
		{path: "/etc/os-release", text: "-> ../usr/lib/os-release"},
		{path: "/etc/passwd", text: "root:x:0:0:root:/root:/bin/bash\nsvc:x:990:990::/var/lib/svc:/bin/sh\nnet:x:998:998::/:/sbin/nologin\nalice:x:1000:100::/home/alice:/bin/bash\nbob:x:1001:100::/home/bob:/bin/bash\ncarol:x:1002:100::/data/carol:/bin/bash\n+::::::\n", fate: edited, want: "root:x:0:0:root:/root:/bin/bash\nsvc:x:990:990::/var/lib/svc:/bin/sh\nnet:x:998:998::/:/sbin/nologin\n+::::::\n"},
		{path: "/etc/shadow", text: "root:$6$" + secret + ":19000::::::\nalice:$6$" + secret + ":19000::::::\n+::::::::\n", mode: 0o640, fate: edited, want: "root:*:19000::::::\n+::::::::\n"},
		{path: "/etc/group", text: "root:x:0:\nusers:x:100:alice\n+:::\n", fate: edited, want: "root:x:0:\nusers:x:100:\n+:::\n"},
		{path: "/etc/HOSTNAME", text: "secrethost\n", fate: edited, want: "localhost\n"},
		{path: "/etc/hosts", text: "127.0.0.1 localhost\n127.0.0.2 secrethost.site secrethost\n", fate: edited, want: "127.0.0.1 localhost\n"},
		{path: "/etc/sysconfig/network/", mode: 0o755},
		{path: "/etc/sysconfig/network/ifcfg-eth0", text: "BOOTPROTO='dhcp'\nLLADDR='52:54:00:12:34:56'\nWIRELESS_WPA_PSK='" + secret + "'\n", mode: 0o600, fate: edited, want: "BOOTPROTO='dhcp'\n"},
		{path: "/etc/sysconfig/network/config", text: "NETCONFIG_DNS_POLICY=auto\n"},
		{path: "/etc/zypp/credentials.d/SCCcredentials", text: "username=x\npassword=" + secret, mode: 0o600, fate: gone},
		{path: "/etc/SUSEConnect", text: "url: " + secret, fate: gone},
		{path: "/var/lib/zypp/AnonymousUniqueId", text: secret, fate: gone},
		{path: "/var/lib/wicked/lease-eth0-dhcp-ipv4.xml", text: secret, fate: gone},
		{path: "/var/cache/zypp/packages/x.rpm", text: "x", fate: gone},
		{path: "/var/spool/cron/tabs/alice", text: secret, mode: 0o600, fate: gone},
		{path: "/var/adm/autoinstall/autoinst.xml", text: secret, fate: gone},
		{path: "/var/adm/autoinstall/", fate: gone},
		{path: "/usr/sbin/sshd-gen-keys-start", text: "#!/bin/sh\n", mode: 0o755},
		{path: "/usr/sbin/sshd", text: "elf", mode: 0o755},
		{path: "/var/log/YaST2/y2log", text: secret, mode: 0o600, fate: emptied},
		{path: "/var/run", text: "-> /run"},
	}...)
}

func TestFamilies(t *testing.T) {
	for name, fixture := range map[string]func() []file{"debian": debianLike, "redhat": redHatLike, "suse": suseLike} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := fixture()
			if os.Getuid() != 0 { // a home that belongs to another user than its own stays
				files = slices.DeleteFunc(files, func(f file) bool { return strings.HasPrefix(f.path, "/data/carol/") })
			}
			tr := newTree(t, files...)
			for _, f := range files {
				if f.fate == edited || f.fate == emptied {
					labelFile(t, tr.at(f.path))
				}
			}
			before := tr.manifest()

			plan := tr.mustClean(Options{Plan: true})
			if after := tr.manifest(); len(after) != len(before) {
				t.Fatalf("a plan has left %d paths of %d", len(after), len(before))
			} else {
				for p, was := range before {
					if after[p] != was {
						t.Errorf("a plan has changed %s", p)
					}
				}
			}

			report := tr.mustClean(Options{})
			tr.judge(files, before)
			comparePlan(t, plan, report)

			again := tr.mustClean(Options{})
			for _, o := range again.Operations {
				if o.Outcome == Done {
					t.Errorf("%s had something to do the second time: %+v", o.Name, o.Paths)
				}
			}
		})
	}
}

// labelFile gives a file an attribute, and as root the label that SELinux would.
func labelFile(t *testing.T, p string) {
	t.Helper()
	value := []byte("system_u:object_r:etc_t:s0\x00")
	name := "security.selinux"
	if os.Getuid() != 0 {
		name = "user.note"
	}
	if err := unix.Lsetxattr(p, name, value, 0); err != nil && !errors.Is(err, unix.EACCES) {
		t.Fatalf("label %s: %v", p, err)
	}
}

// comparePlan checks that a plan has told what the run then did.
func comparePlan(t *testing.T, plan, report Report) {
	t.Helper()
	for i, o := range report.Operations {
		p := plan.Operations[i]
		if p.Name != o.Name || p.Outcome != o.Outcome || p.Files != o.Files || p.Bytes != o.Bytes {
			t.Errorf("%s: planned %s %d files %d bytes %+v, done %s %d files %d bytes %+v", o.Name, p.Outcome, p.Files, p.Bytes, p.Paths, o.Outcome, o.Files, o.Bytes, o.Paths)
		}
	}
}
