package cleaner

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"chromogenic/cleaner/guest"
)

// What a fresh Debian loses or gets when it is cleaned. Whatever else is planted in it
// has to leave without a trace.
var freshDebian = []string{
	"changed /etc/hostname", "changed /etc/hosts",
	"gone /etc/group-", "gone /etc/gshadow-", "gone /etc/passwd-", "gone /etc/shadow-", "gone /etc/subgid-", "gone /etc/subuid-",
	"gone /etc/ssh/ssh_host_ecdsa_key", "gone /etc/ssh/ssh_host_ecdsa_key.pub", "gone /etc/ssh/ssh_host_ed25519_key", "gone /etc/ssh/ssh_host_ed25519_key.pub", "gone /etc/ssh/ssh_host_rsa_key", "gone /etc/ssh/ssh_host_rsa_key.pub",
	"gone /etc/ssl/certs/ssl-cert-snakeoil.pem", "gone /etc/ssl/private/ssl-cert-snakeoil.key",
	"made /etc/systemd/system/chromogenic-snakeoil.service", "made /etc/systemd/system/multi-user.target.wants/chromogenic-snakeoil.service",
	"gone /root/.ssh", "gone /var/cache/apt/archives/lock",
}

// planted are secrets in places where software of all kinds keeps them. All of them
// hold the mark, and none is there afterwards; a star is for the home of each user.
var planted = []string{
	"*/.ssh/id_rsa", "*/.bash_history", "*/.zsh_history", "*/.python_history", "*/.viminfo", "*/.lesshst", "*/.netrc", "*/.aws/credentials", "*/.config/gcloud/credentials.db", "*/.docker/config.json", "*/.kube/config", "*/.gnupg/secring.gpg", "*/.pgpass", "*/.my.cnf", "*/.cache/x", "*/openrc.sh", "*/key.pem", "*/.local/share/fish/fish_history", "*/.git-credentials", "*/.npmrc", "*/.m2/settings.xml", "*/notes.txt", "*/core",
	"/var/mail/alice", "/var/spool/cron/crontabs/alice", "/var/spool/cron/atjobs/a00001", "/var/spool/cron/atspool/x", "/var/spool/postfix/deferred/1/1A", "/var/spool/cups/c00001",
	"/etc/shadow.bak", "/etc/passwd~", "/etc/sudoers.d/.x.swp", "/etc/ssh/sshd_config.bak", "/etc/security/opasswd.old", "/var/backups/shadow.bak", "/var/backups/gshadow.bak", "/etc/.git/objects/00/11",
	"/etc/zabbix/agent.psk", "/var/lib/puppet/ssl/private_keys/a.pem", "/etc/puppetlabs/puppet/ssl/private_keys/a.pem", "/etc/chef/client.pem", "/etc/chef/validation.pem", "/etc/salt/pki/minion/minion.pem", "/etc/salt/minion_id", "/opt/consul/data/serf/local.keyring", "/etc/vault.d/secret-id", "/etc/vault/role_id", "/var/lib/kubelet/pki/kubelet-client-current.pem", "/etc/kubernetes/admin.conf", "/etc/kubernetes/pki/ca.key", "/var/lib/etcd/member/wal/0.wal", "/etc/rancher/k3s/k3s.yaml", "/var/lib/rancher/k3s/server/token", "/var/lib/docker/containers/c/c-json.log", "/var/lib/docker/swarm/docker-state.json", "/var/ossec/etc/client.keys", "/etc/gitlab-runner/config.toml", "/opt/splunkforwarder/etc/passwd",
	"/etc/NetworkManager/system-connections/Home.nmconnection:[wifi-security]\npsk=%s\n", "/etc/wpa_supplicant/wpa_supplicant-wlan0.conf:network={\n\tpsk=%s\n}\n", "/etc/wireguard/wg0.conf", "/etc/openvpn/client/a.key", "/etc/ipsec.d/private/a.pem", "/etc/ppp/chap-secrets.bak", "/var/lib/iwd/home.psk", "/etc/systemd/network/wg0.netdev:[WireGuard]\nPrivateKey=%s\n",
	"/etc/krb5.keytab", "/var/lib/sss/db/ccache_X", "/var/lib/sss/secrets/secrets.ldb", "/var/lib/samba/private/secrets.tdb", "/var/lib/ipa-client/pki/x.pem",
	"/etc/letsencrypt/live/x/privkey.pem", "/etc/ssl/private/site.key", "/etc/nginx/ssl/site.key:" + key, "/srv/app/deploy:" + key, "/usr/local/etc/app/tls:" + key, "/etc/dovecot/private/dovecot.pem",
	"/var/lib/cloud/instances/i-1/user-data.txt", "/var/lib/cloud/instances/i-1/obj.pkl", "/var/lib/cloud/data/x", "/var/lib/cloud/seed/nocloud-net/user-data:#cloud-config\npassword: %s\n", "/etc/cloud/cloud.cfg.d/99-installer.cfg", "/etc/cloud/cloud.cfg.d/50-x.cfg:chpasswd:\n  list: root:%s\n",
	"/var/lib/dhcp/dhclient.leases", "/var/lib/NetworkManager/secret_key", "/var/lib/systemd/network/x", "/var/lib/dhcpcd/eth0.lease",
	"/etc/apt/auth.conf", "/etc/apt/auth.conf.d/a.conf", "/etc/pki/consumer/key.pem", "/etc/pki/entitlement/1-key.pem", "/var/lib/rhsm/x", "/etc/zypp/credentials.d/SCC", "/var/lib/ubuntu-advantage/private/machine-token.json", "/var/lib/waagent/ovf-env.xml", "/var/lib/amazon/ssm/Vault/Store/RegistrationKey", "/var/lib/heat-config/deployed/x.json", "/etc/os-collect-config.conf", "/var/lib/juju/agents/machine-0/agent.conf",
	"/var/crash/x.crash", "/var/lib/systemd/coredump/core.x", "/var/spool/abrt/x/coredump", "/core.123:\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x04\x00%s", "/var/lib/systemd/random-seed", "/var/lib/systemd/credential.secret", "/etc/credstore/db", "/boot/efi/loader/random-seed", "/var/lib/tailscale/tailscaled.state", "/var/lib/bluetooth/A/B/info", "/etc/ntp.keys", "/etc/bind/rndc.key",
	"/tmp/x", "/var/tmp/y/z", "/mnt/x", "/media/usb/x", "/run/x.pid", "/dev/shm/x", "/home/nobody-s/x", "/data/carol/x", "/lost+found/#123",
	"/etc/postfix/sasl_passwd", "/etc/msmtprc", "/etc/openstack/clouds.yaml", "/etc/boto.cfg", "/etc/ceph/ceph.client.admin.keyring", "/etc/iscsi/nodes/x", "/var/lib/snapd/device/private-keys-v1/k", "/var/lib/snapd/cookie/x", "/var/lib/AccountsService/users/alice", "/var/lib/fwupd/pki/secret.key", "/var/adm/autoinstall/x.xml", "/opt/cyverse/x", "/var/log/atmo/x",
}

// emptiedLogs are planted, and there afterwards without their content, with mode and
// owner.
var emptiedLogs = []file{
	{path: "/var/log/syslog", mode: 0o640, uid: 102},
	{path: "/var/log/auth.log.1", mode: 0o640, uid: 102},
	{path: "/var/log/kern.log.2.gz", mode: 0o600},
	{path: "/var/log/audit/audit.log", mode: 0o400},
	{path: "/var/log/site/deep/app.log", mode: 0o666, uid: 1000},
}

// TestDebian plants secrets in real Debians, with users made by their own tools, and
// wants to have each back as it was installed.
func TestDebian(t *testing.T) {
	if testing.Short() {
		t.Skip("installs Debian")
	}
	if os.Getuid() != 0 {
		t.Skip("installs Debian, for which it takes root")
	}
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	suites := []string{"bookworm"}
	if os.Getenv("CHROMOGENIC_FULL") != "" {
		suites = append(suites, "trixie")
	}
	for _, suite := range suites {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			tr := tree{t: t, dir: filepath.Join(t.TempDir(), "root")}
			install(t, suite, tr.dir)
			fresh := tr.manifest()
			plant(t, tr)
			if n := len(tr.search(secret)); n < len(planted) {
				t.Fatalf("%d secrets were planted, of %d", n, len(planted))
			}
			full := tr.manifest()

			plan := tr.mustClean(Options{Plan: true})
			for p, was := range full {
				if is := tr.manifestOf(p); is != was {
					t.Errorf("a plan has changed %s", p)
				}
			}
			begin := time.Now()
			report := tr.mustClean(Options{})
			files, bytes := report.Totals()
			t.Logf("cleaned in %s: %d files, %d bytes", time.Since(begin).Round(time.Millisecond), files, bytes)
			comparePlan(t, plan, report)
			if !slices.Equal(report.Users, []string{"alice", "bob", "carol"}) {
				t.Errorf("removed %q", report.Users)
			}
			if left := tr.search(secret); len(left) > 0 {
				t.Errorf("secrets are left in %q", left)
			}
			compareFresh(t, fresh, full, tr.manifest())
			for _, w := range report.Warnings {
				t.Logf("warning: %s", w)
			}
		})
	}
}

// manifestOf is the record of one path.
func (tr tree) manifestOf(p string) record {
	one := tree{t: tr.t, dir: tr.at(p)}
	if info, err := os.Lstat(one.dir); err != nil || info.IsDir() {
		all := map[string]record{}
		if err == nil {
			st := stat(info)
			all["/"] = record{Mode: info.Mode(), UID: st.Uid, GID: st.Gid, Ino: st.Ino}
		}
		return all["/"]
	}
	return one.manifest()["/"]
}

// compareFresh wants nothing to differ from the fresh system but what is known to, the
// logs that were planted, and folders without anything in them.
func compareFresh(t *testing.T, fresh, full, after map[string]record) {
	t.Helper()
	var diff []string
	for p, was := range fresh {
		is, there := after[p]
		was.Ino, is.Ino = 0, 0
		switch {
		case !there:
			diff = append(diff, "gone "+p)
		case is != was:
			diff = append(diff, "changed "+p)
		}
	}
	holds := map[string]bool{}
	for p, r := range after {
		if !r.Mode.IsDir() {
			for d := path.Dir(p); d != "/"; d = path.Dir(d) {
				holds[d] = true
			}
		}
	}
	for p, is := range after {
		if _, was := fresh[p]; was || is.Mode.IsDir() && !holds[p] {
			continue
		}
		if i := slices.IndexFunc(emptiedLogs, func(f file) bool { return within(f.path, p) }); i >= 0 {
			was := full[p]
			was.Size, was.Sum, is.Sum = 0, "", ""
			if is != was && is.Mode.IsRegular() {
				t.Errorf("%s is %+v, and was %+v", p, is, was)
			}
			continue
		}
		diff = append(diff, "made "+p)
	}
	slices.Sort(diff)
	for _, d := range diff {
		if !slices.Contains(freshDebian, d) {
			t.Errorf("%s: it is not as it was installed", d)
		}
	}
}

func install(t *testing.T, suite, dir string) {
	t.Helper()
	packages := "systemd-sysv,openssh-server,sudo,cloud-init,ssl-cert,cron,at,rsyslog,netplan.io,dbus,logrotate,passwd,libpam-systemd,chrony,wpasupplicant"
	tar := filepath.Join(t.TempDir(), suite+".tar")
	cmd := exec.Command("mmdebstrap", "--variant=minbase", "--include="+packages, "--quiet", suite, tar)
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("install %s: %v\n%s", suite, err, out)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tar", "-C", dir, "--xattrs", "--xattrs-include=*", "-xf", tar).CombinedOutput(); err != nil {
		t.Fatalf("unpack %s: %v\n%s", suite, err, out)
	}
}

func plant(t *testing.T, tr tree) {
	t.Helper()
	run := func(stdin string, args ...string) {
		t.Helper()
		cmd := exec.Command("chroot", append([]string{tr.dir}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	run("", "useradd", "-m", "-s", "/bin/bash", "-c", "Alice "+secret, "-G", "sudo,users,adm", "alice")
	run("", "useradd", "-m", "-G", "users", "bob")
	run("", "mkdir", "-p", "/data")
	run("", "useradd", "-m", "-d", "/data/carol", "carol")
	run("alice:"+secret+"\nroot:"+secret+"\n", "chpasswd")
	for i, p := range planted {
		p, text, _ := strings.Cut(p, ":")
		if text == "" {
			text = "%s\n"
		}
		if !strings.Contains(text, secret) {
			text = fmt.Sprintf(text, secret)
		}
		homes := []string{""}
		if rest, ok := strings.CutPrefix(p, "*"); ok {
			homes, p = []string{"/root", "/home/alice", "/home/bob", "/data/carol"}, rest
		}
		for _, home := range homes {
			tr.put(file{path: home + p, text: text, mode: []os.FileMode{0o600, 0o644}[i%2]})
		}
	}
	for _, f := range emptiedLogs {
		f.text = secret
		tr.put(f)
	}
	if err := unix.Setxattr(tr.at("/var/log/syslog"), "user.note", []byte("kept"), 0); err != nil {
		t.Fatal(err)
	}
	for p, more := range map[string]string{
		"/etc/sudoers": "alice ALL=(ALL) NOPASSWD: ALL # " + secret + "\n", "/root/.bashrc": "export X_TOKEN=" + secret + "\n", "/var/log/lastlog": secret, "/var/log/wtmp": secret,
		"/etc/fstab": "/dev/vdb /data ext4 defaults 0 0\n//nas/" + secret + " /nas cifs user=x,password=" + secret + " 0 0\n",
	} {
		f, err := os.OpenFile(tr.at(p), os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteString(more)
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(tr.at("/etc/machine-id"), []byte("5f2a1d0e9f0b4c0f8c3f0a4a5c4a9f00\n"), 0o444); err != nil {
		t.Fatal(err)
	}
}

// The reply to an order is JSON, of a size that a console of a small kernel carries.
func TestReplySize(t *testing.T) {
	tr := newTree(t, debianLike()...)
	for i := range 2 * maxPaths {
		tr.put(file{path: fmt.Sprintf("/var/log/%d.log", i), text: "x"})
	}
	root, err := os.OpenRoot(tr.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	reply, err := Work(context.Background(), root, guest.Facts{}, []byte("{}"))
	if err != nil || !json.Valid(reply) || len(reply) > 256<<10 {
		t.Errorf("the reply has %d bytes: %v", len(reply), err)
	}
}
