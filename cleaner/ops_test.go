package cleaner

import (
	"os"
	"strings"
	"testing"

	"chromogenic/cleaner/guest"
)

func TestFstab(t *testing.T) {
	facts := guest.Facts{Filesystems: []guest.Filesystem{
		{Number: 1, Type: "ext4", UUID: "aaaa", Label: "cloudimg-rootfs", Mountpoint: "/"},
		{Number: 15, Type: "vfat", UUID: "7C2D-1F0A", Label: "UEFI", Mountpoint: "/boot/efi"},
		{Number: 2, Type: "swap", UUID: "bbbb"},
		{Number: 14, Type: "bios-boot"},
	}}
	for line, stays := range map[string]bool{
		"UUID=aaaa / ext4 defaults 0 1":                                       true,
		"LABEL=cloudimg-rootfs / ext4 defaults 0 1":                           true,
		"UUID=7c2d-1f0a /boot/efi vfat umask=0077 0 1":                        true,
		"UUID=bbbb none swap sw 0 0":                                          true,
		"/dev/sda2 none swap sw 0 0":                                          true,
		"/dev/vda15 /boot/efi vfat defaults 0 0":                              true,
		"/dev/vda1 /old ext4 defaults 0 0":                                    true,
		"/dev/mapper/vg-data /data xfs defaults 0 0":                          true,
		"nas:/export /nas nfs defaults 0 0":                                   true,
		"tmpfs /tmp tmpfs size=1g 0 0":                                        true,
		"/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0":                  true,
		"# /dev/vdb /data ext4":                                               true,
		"UUID=cccc /data ext4 defaults 0 0":                                   false,
		"LABEL=data /data ext4 defaults 0 0":                                  false,
		"/dev/disk/by-uuid/cccc /data ext4 defaults 0 0":                      false,
		"/dev/vdb /data ext4 defaults 0 0":                                    false,
		"/dev/xvdf1 /data ext4 defaults 0 0":                                  false,
		"/dev/nvme1n1 /data ext4 defaults 0 0":                                false,
		"/dev/nvme0n1p3 /data ext4 defaults 0 0":                              false,
		"/dev/sda12 /data ext4 defaults 0 0":                                  false,
		"/dev/disk/cloud/x /mnt auto defaults,nofail,comment=cloudconfig 0 2": false,
		"//nas/x /x cifs user=joe,password=x 0 0":                             false,
		"ceph:/ /c ceph name=a,secret=AQD== 0 0":                              false,
		"ceph:/ /c ceph name=a,secretfile=/etc/ceph/a.secret 0 0":             false,
	} {
		tr := newTree(t, append(minimal(), file{path: "/etc/fstab", text: line + "\n"})...)
		if _, err := tr.cleanWith(Options{Only: []string{"fstab"}}, facts); err != nil {
			t.Fatal(err)
		}
		if got := tr.read("/etc/fstab"); (got != "") != stays {
			t.Errorf("%s: left is %q", line, got)
		}
	}
	// Where the disk has what cannot be looked into, an identity may be in there.
	facts.Filesystems = append(facts.Filesystems, guest.Filesystem{Number: 3, Type: "lvm"})
	tr := newTree(t, append(minimal(), file{path: "/etc/fstab", text: "UUID=cccc /data ext4 defaults 0 0\n"})...)
	if _, err := tr.cleanWith(Options{Only: []string{"fstab"}}, facts); err != nil || tr.read("/etc/fstab") == "" {
		t.Errorf("a filesystem that may be in LVM was dropped: %v", err)
	}
}

func TestAuthorizedKeysFile(t *testing.T) {
	tr := newTree(t, append(minimal(),
		file{path: "/etc/ssh/sshd_config", text: "AuthorizedKeysFile .ssh/authorized_keys /var/keys/%u /etc/%u\n"}, file{path: "/etc/ssh/sshd_config.d/a.conf", text: "authorizedkeysfile=/srv/sshkeys/%u/authorized\n"},
		file{path: "/var/keys/alice", text: pub}, file{path: "/srv/sshkeys/alice/authorized", text: pub},
	)...)
	tr.mustClean(Options{Only: []string{"ssh-keys"}})
	if tr.exists("/var/keys/alice") || tr.exists("/srv/sshkeys/alice/authorized") || !tr.exists("/etc/passwd") {
		t.Error("keys that sshd_config leads to are there still, or more is gone")
	}
}

func TestDockerLayers(t *testing.T) {
	const docker = "/var/lib/docker/"
	layer, image := strings.Repeat("a1", 32), strings.Repeat("b2", 32)
	tr := newTree(t, append(minimal(),
		file{path: docker + "image/overlay2/layerdb/mounts/c1/mount-id", text: layer}, file{path: docker + "image/overlay2/layerdb/mounts/c1/init-id", text: layer + "-init"},
		file{path: docker + "image/overlay2/layerdb/mounts/c2/mount-id", text: "../../../../etc"},
		file{path: docker + "overlay2/" + layer + "/diff/root/.aws/credentials", text: secret}, file{path: docker + "overlay2/" + layer + "-init/x", text: secret}, file{path: docker + "overlay2/" + image + "/diff/bin/sh", text: "image"},
		file{path: docker + "containers/c1/hostconfig.json", text: secret}, file{path: docker + "volumes/v/_data/x", text: "data"},
	)...)
	tr.mustClean(Options{Only: []string{"containers"}})
	if left := tr.search(secret); len(left) > 0 {
		t.Errorf("left of the container: %q", left)
	}
	if !tr.exists(docker+"overlay2/"+image+"/diff/bin/sh") || !tr.exists(docker+"volumes/v/_data/x") || !tr.exists("/etc/passwd") {
		t.Error("an image, a volume or the system is gone with the container")
	}
}

func TestOptionalOperations(t *testing.T) {
	tr := newTree(t, append(minimal(),
		file{path: "/etc/machine-id", text: "5f2a1d0e9f0b4c0f8c3f0a4a5c4a9f00\n", mode: 0o444}, file{path: "/var/spool/cron/crontabs/root", text: "x"},
		file{path: "/etc/x.conf.dpkg-old", text: "x"}, file{path: "/var/lib/apt/lists/partial/x", text: "x"}, file{path: "/var/lib/cloud/seed/nocloud/meta-data", text: "x"},
		file{path: "/etc/firewalld/zones/public.xml", text: "x"}, file{path: "/usr/local/share/ca-certificates/site.crt", text: "x"},
		file{path: "/var/kerberos/krb5kdc/principal", text: "x"}, file{path: "/var/kerberos/krb5kdc/kdc.conf", text: "x"}, file{path: "/etc/selinux/config", text: "# SELINUX= can be\nSELINUX=enforcing\n"},
		file{path: "/etc/cloud/cloud.cfg", text: "users:\n   - default\ndisable_root: true\nssh_deletekeys: 1\n"}, file{path: "/var/log/a.log.1", text: "x"}, file{path: "/var/log/a.log", text: "x"},
	)...)
	var with []string
	for _, op := range Operations() {
		if !op.Default {
			with = append(with, op.Name)
		}
	}
	report := tr.mustClean(Options{With: with})
	for _, name := range with {
		if o := report.outcome(name); o.Outcome != Done {
			t.Errorf("%s: %s", name, o.Outcome)
		}
	}
	for _, p := range []string{"/var/spool/cron/crontabs/root", "/etc/x.conf.dpkg-old", "/var/lib/apt/lists/partial/x", "/var/lib/cloud/seed/nocloud", "/etc/firewalld/zones/public.xml", "/usr/local/share/ca-certificates/site.crt", "/var/kerberos/krb5kdc/principal", "/var/log/a.log.1"} {
		if tr.exists(p) {
			t.Errorf("%s is there still", p)
		}
	}
	for p, want := range map[string]string{
		"/etc/machine-id": "uninitialized\n", "/etc/selinux/config": "# SELINUX= can be\nSELINUX=disabled\n", "/var/kerberos/krb5kdc/kdc.conf": "x", "/.unconfigured": "", "/var/log/a.log": "",
		"/etc/cloud/cloud.cfg": "#users:\n#   - default\ndisable_root: false\nssh_deletekeys: false\n",
	} {
		if got := tr.read(p); got != want {
			t.Errorf("%s has %q, want %q", p, got, want)
		}
	}
}

// What is made in a guest with SELinux is labelled by the guest.
func TestRelabel(t *testing.T) {
	for mode, want := range map[string]bool{"enforcing": true, "permissive": true, "disabled": false} {
		tr := newTree(t, append(minimal(), file{path: "/etc/selinux/config", text: "SELINUX=" + mode + "\n"}, file{path: "/root/"})...)
		tr.mustClean(Options{SSHKeys: []string{pub}})
		if tr.exists("/.autorelabel") != want {
			t.Errorf("%s: a label is asked for: %v", mode, !want)
		}
	}
	tr := newTree(t, append(minimal(), file{path: "/etc/selinux/config", text: "SELINUX=enforcing\n"}, file{path: "/etc/hostname", text: "x\n"})...)
	tr.mustClean(Options{})
	if tr.exists("/.autorelabel") {
		t.Error("nothing was made, and labels are asked for")
	}
}

func TestNetworkThatCloudInitDoesNotMake(t *testing.T) {
	const plan = "network: {version: 2, ethernets: {e: {match: {macaddress: x}}}}\n"
	files := append(minimal(), file{path: "/etc/netplan/50-cloud-init.yaml", text: plan}, file{path: "/etc/netplan/60-x.yaml", text: "network:\n  ethernets:\n    e:\n      match:\n        macaddress: 52:54:00:12:34:56\n"})
	off := append(files, file{path: "/etc/cloud/cloud.cfg.d/99-off.cfg", text: "network: {config: disabled}\n"})
	tr := newTree(t, off...)
	report := tr.mustClean(Options{})
	if !tr.exists("/etc/netplan/50-cloud-init.yaml") || !strings.Contains(strings.Join(report.Warnings, "\n"), "/etc/netplan/60-x.yaml names the address") {
		t.Errorf("the only configuration is gone, or nobody is told of a card's address: %q", report.Warnings)
	}
	tr = newTree(t, files...)
	tr.mustClean(Options{})
	if tr.exists("/etc/netplan/50-cloud-init.yaml") {
		t.Error("what cloud-init has made is there still")
	}
}

func TestHosts(t *testing.T) {
	for _, c := range []struct{ before, after string }{
		{"127.0.1.1 old.example.org old\n", ""},
		{"127.0.0.1 localhost old # me\n", "127.0.0.1\tlocalhost # me\n"},
		{"::1 ip6-localhost OLD\r\n", "::1\tip6-localhost\r\n"},
		{"10.0.0.5 old.example.org old other\n", "10.0.0.5\tother\n"},
		{"10.0.0.6 old.debian.net\n", "10.0.0.6 old.debian.net\n"},
		{"# old\n\n", "# old\n\n"},
		{"old old\n", "old old\n"},
		{"10.0.0.7\tolder", "10.0.0.7\tolder"},
	} {
		if got := string(dropNames([]byte(c.before), []string{"old"})); got != c.after {
			t.Errorf("%q becomes %q, want %q", c.before, got, c.after)
		}
	}
}

func TestBlankSecrets(t *testing.T) {
	for before, after := range map[string]string{
		"export AWS_SECRET_ACCESS_KEY=abc\n":                "export AWS_SECRET_ACCESS_KEY=\n",
		"API_KEY=\"abc\"\n":                                 "API_KEY=\"\"\n",
		"  \"auth_token\": \"abc\",\n":                      "  \"auth_token\": \"\",\n",
		"password: abc\r\n":                                 "password: \r\n",
		"x: {password: abc, user: y}\n":                     "x: {password: \"\", user: y}\n",
		"db = postgres://u:p@h/d\n":                         "db = postgres://h/d\n",
		"ldap_default_authtok = abc\n":                      "ldap_default_authtok = \n",
		"lock_passwd: True\n":                               "lock_passwd: True\n",
		"password_file=/etc/x\ntoken_ttl = 3600s\n":         "password_file=/etc/x\ntoken_ttl = 3600s\n",
		"TOKEN=$(cat /x)\nPASSWORD=${P}\n":                  "TOKEN=$(cat /x)\nPASSWORD=${P}\n",
		"# password=old\n; token=old\n":                     "# password=old\n; token=old\n",
		"PasswordAuthentication=no\nssh_pwauth: false\n":    "PasswordAuthentication=no\nssh_pwauth: false\n",
		"gpgkey=file:///etc/pki/x\nhttp://h:80/ a@b\n":      "gpgkey=file:///etc/pki/x\nhttp://h:80/ a@b\n",
		"proxy=http://user:pa%40ss@proxy:3128/\n":           "proxy=http://proxy:3128/\n",
		"if [ -n \"$TOKEN\" ]; then\n  echo token: none\n":  "if [ -n \"$TOKEN\" ]; then\n  echo token: none\n",
		"Acquire::http::Proxy \"http://u:p@proxy:3128\";\n": "Acquire::http::Proxy \"http://proxy:3128\";\n",
	} {
		if got := string(blankSecrets([]byte(before))); got != after {
			t.Errorf("%q becomes %q, want %q", before, got, after)
		}
	}
}

func TestSpecialDevice(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("makes a device, for which it takes root")
	}
	tr := newTree(t, append(minimal(), file{path: "/dev/"}, file{path: "/var/log/"})...)
	for _, p := range []string{"/dev/console", "/var/log/tty"} {
		if err := mknod(tr.at(p)); err != nil {
			t.Skipf("mknod: %v", err)
		}
	}
	tr.put(file{path: "/dev/left-over", text: "x"})
	tr.mustClean(Options{})
	if !tr.exists("/dev/console") || !tr.exists("/var/log/tty") || tr.exists("/dev/left-over") {
		t.Error("devices are gone, or a file among them is not")
	}
}
