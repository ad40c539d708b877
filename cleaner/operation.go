package cleaner

// An Operation is a row of the table: one thing that is taken out of a guest, or given
// to it.
type Operation struct {
	Name    string // small letters and hyphens, as --skip and --with take it
	Heading string // what it does, as a sentence without a full stop
	Detail  string // which paths, and what of them
	Default bool   // it runs unless it is left out
	Run     func(*Guest) error
}

// Operations is the table, in the order in which they run: snapshots first, in which
// nothing else can be changed; then what is removed by name, whole folders and identities after it, what is written last.
func Operations() []Operation {
	return []Operation{
		{"snapshots", "Remove snapshots of the system", "Those of snapper but for the one that is in use, and Timeshift's: all that was removed is in them still.", true, snapshots},
		{"users", "Remove the accounts of people", "Accounts with a number from UID_MIN to UID_MAX of /etc/login.defs (1000 to 60000 without it) that are not kept: their lines in passwd, shadow, group, gshadow, subuid and subgid, their memberships in all groups, the group of their name, home folder (wherever it is, if it is theirs), mail, crontab, linger, AccountsService and sudo's state.", true, users},
		{"sudoers", "Remove the rules of accounts that are gone", "Rules and Defaults of removed users in /etc/sudoers, /etc/sudoers.d/ and doas.conf; a file of sudoers.d that has nothing else.", true, sudoers},
		{"history", "Remove histories", "In every home, root's and those of services too: histories of shells, of clients of databases and of interpreters, .lesshst, .viminfo, .cache, browsers, traces of editors and desktops.", true, history},
		{"ssh-keys", "Remove SSH keys of users", ".ssh of every home, and keys where AuthorizedKeysFile of sshd_config says they are. Kept users keep their authorized_keys alone.", true, sshKeys},
		{"secrets", "Remove credentials", "In every home: .aws, .azure, .kube, .docker, .netrc, .pgpass, .gnupg, .config/gcloud, .config/openstack and many like them; in homes of people and root's also *openrc*, *.pem, *.key, *password*. Of the system: clouds.yaml, apt's auth.conf, zypper's credentials, passwords of debconf, SASL, S3, CIFS, Ceph and others. In settings of the shell, of package managers and of units the values of passwords and tokens, and passwords in URLs.", true, secrets},
		{"homes", "Remove what is left of people", "Everything in /home but the homes of accounts that stay; everything in /root but its start files (.bashrc and others), which become those of the distribution.", true, homes},
		{"ssh-hostkeys", "Remove the SSH host keys", "/etc/ssh/ssh_host_* and those of dropbear. Where neither cloud-init nor the service makes new ones, as in Debian, a unit is installed that does at the next boot.", true, sshHostkeys},
		{"private-keys", "Remove private keys of services", "/etc/ssl/private, /etc/pki/tls/private, those of Let's Encrypt, IPsec, WireGuard, OpenVPN, Tailscale, DNS, mail and others by their places; and every file of up to 256 KiB that holds a private key, in /etc, /opt, /srv, /usr/local, /var, /boot and homes, but for samples of software and databases. Debian's snakeoil certificate is made anew at the next boot. Secrets of chrony, PPP, IPsec and Exim lose their lines.", true, privateKeys},
		{"cloud-init", "Make the next boot the first for cloud-init", "/var/lib/cloud but for its seed, of which files with a secret go too; configuration with passwords or tokens in /etc/cloud/cloud.cfg.d, that of installers, the sudo rules and sshd settings that cloud-init has made.", true, cloudInit},
		{"network", "Remove what ties the guest to its network cards", "70-persistent-net.rules and the like are emptied where they exist; HWADDR, MACADDR, UUID and LLADDR in ifcfg-*; addresses of cards in NetworkManager's connections; network configuration that cloud-init has made and will make anew; leases, DUIDs and state of all DHCP clients and servers, NetworkManager, networkd and wicked; a resolv.conf that a program has made is emptied.", true, network},
		{"network-secrets", "Remove passwords of networks", "Connections with a password of NetworkManager, wpa_supplicant and iwd; keys of networkd's devices; passwords in netplan and in interfaces.", true, networkSecrets},
		{"hostname", "Remove the name of the machine", "/etc/hostname becomes localhost, or the name that is given; HOSTNAME in /etc/sysconfig/network and ifcfg-*; the old name in /etc/hosts and /etc/mailname; /etc/machine-info.", true, hostname},
		{"agents", "Remove the identities of agents", "Puppet's ssl, Chef's client.pem, Salt's minion_id and pki, keys of Zabbix, Nagios, Sensu, Icinga and other monitoring, subscription-manager, rhn, SUSEConnect, Ubuntu Pro, Landscape, the agents of AWS, Azure, Google, Oracle and OpenStack, Consul, Vault, Nomad, runners of CI. In their configuration the values of keys and tokens.", true, agents},
		{"identity", "Leave domains and directories", "Keytabs of Kerberos, FreeIPA's and certmonger's state, databases of SSSD and Samba, systemd-homed, names of iSCSI and NVMe.", true, identity},
		{"containers", "Remove containers and membership in clusters", "Containers of Docker, Podman, containerd and CRI-O with what they have written, Docker's swarm; keys, kubeconfigs and state of kubelet, kubeadm, etcd, k3s, RKE2, k0s and MicroK8s. Images and volumes stay.", true, containers},
		{"snapd", "Remove the identity of the machine at the store of snaps", "Device keys and serial, logins in state.json, snapshots. Snaps stay.", true, snapd},
		{"fstab", "Drop disks that are not part of the image", "Lines of /etc/fstab for other disks than the first, for partitions of the first that the image does not have, for file systems by UUID or LABEL that are not on the disk, with a password or a file of credentials (which goes too), and those that cloud-init has made.", true, fstab},
		{"atmosphere", "Remove what CyVerse's Atmosphere has left", "Its blocks and those of Nagios and Sensu in sudoers, sshd_config and start files; AllowGroups users root; what was appended behind the last line of sudoers; its lines in rc.local; members of the group users who are not there; /opt/cyverse, /var/log/atmo, /etc/rc.local.atmo, /usr/sbin/atmo_boot.py.", true, atmosphere},
		{"spools", "Remove what waits to be done or read", "Mail, queues of mail servers, jobs of at, prints, and the crontabs of users who are not there.", true, spools},
		{"backups", "Remove copies of changed files", "*.bak, *~ and copies of editors and augeas in /etc, /root, /srv, /tmp, /var, /opt and homes; copies of passwd, shadow, group, gshadow, subuid and subgid under any name in /etc and /var/backups; the repository of etckeeper.", true, backups},
		{"crash", "Remove dumps of memory", "Contents of /var/crash, /var/spool/abrt, systemd's coredump and pstore, apport's; dumps of processes and kernels in /, /var, /opt and /srv.", true, crash},
		{"tmp", "Empty the folders for what does not last", "Everything in /tmp, /var/tmp, /mnt, /media and lost+found, but for places where fstab mounts something; files in /run, /dev, /proc and /sys.", true, tmp},
		{"package-cache", "Remove packages that were fetched", "Files in the caches of apt, dnf, yum, zypper, PackageKit, pacman and apk.", true, packageCache},
		{"locks", "Remove locks and caches of devices", "*.pid, __db.* of rpm, blkid.tab, LVM's cache, archives and list of devices, multipath's bindings.", true, lockFiles},
		{"log-extra", "Remove what installers and rotation leave", "Kickstart and preseed files in /root and /, logrotate's status, databases of locate, state of logcheck, fail2ban and release upgrades.", true, logExtra},
		{"remove-rotated", "Remove rotated logs", "Compressed and numbered logs in /var/log, which are emptied otherwise.", false, removeRotated},
		{"logs", "Empty logs in place", "Every file in /var/log keeps inode, mode, owner and attributes, and is empty afterwards; those of the journal are removed. utmp, wtmp and what has come after them, pacct.", true, logs},
		{"root-password", "Lock root", "root's password, or the one that is given; the passwords of all accounts that stay but those of kept users, of groups, and of the boot loader.", true, rootPassword},
		{"swap", "Clear files of swap", "What was paged out or hibernated is overwritten; the files stay.", true, swap},
		{"random-seed", "Remove seeds and keys that are made once", "random-seed of all kinds, also that of the boot loader; systemd's credential.secret and TPM keys.", true, randomSeed},
		{"machine-id", "Remove the id of the machine", "/etc/machine-id is emptied (removed without systemd), /var/lib/dbus/machine-id becomes a link to it.", true, machineIDs},
		{"first-boot", "Have systemd take the next boot for the first of all", "/etc/machine-id becomes \"uninitialized\": presets are applied again.", false, firstBoot},
		{"crontabs", "Remove all crontabs", "Those of accounts that stay, root's too; /etc/crontab and /etc/cron.d are the distribution's.", false, allCrontabs},
		{"package-backups", "Remove what package managers keep of changed files", "*.dpkg-old, *.rpmsave and the like.", false, packageBackups},
		{"apt-lists", "Remove apt's lists of packages", "Files in /var/lib/apt/lists.", false, aptLists},
		{"cloud-seed", "Remove cloud-init's seed", "/var/lib/cloud/seed: a seed there wins over what a cloud says.", false, cloudSeed},
		{"firewall-rules", "Remove rules of the firewall", "iptables, firewalld's zones and services, ufw's and nftables' rules of the site.", false, firewallRules},
		{"ca-certificates", "Remove the site's own certificates", "Those of authorities that were added, and of /etc/pki/CA and /etc/pki/tls.", false, caCertificates},
		{"kerberos-data", "Remove the database of a Kerberos realm", "Files of the KDC but for its configuration.", false, kerberosData},
		{"selinux-disable", "Disable SELinux", "SELINUX=disabled in /etc/selinux/config.", false, selinuxDisable},
		{"flag-reconfiguration", "Have old systems ask their new owner", "/.unconfigured is made.", false, reconfigure},
		{"atmosphere-cloud-config", "Set cloud-init up as Atmosphere wants it", "users and its default are commented out in cloud.cfg, disable_root and ssh_deletekeys become false.", false, atmosphereCloudConfig},
		{"recipe", "Do what the site's recipe says", "The steps of the file that is given, in their order.", true, runRecipe},
		{"ssh-login", "Give keys to users", "The keys that are given, in authorized_keys of their users.", true, sshLogin},
		{"selinux-relabel", "Have SELinux label files anew", "/.autorelabel, where files were made in a guest that enforces or permits SELinux.", true, relabelled},
		{"verify", "Look again", "No id of the machine, no log that is not empty, no removed user, no host key, no key that lets somebody in, no private key. Data of services, files of removed users and credentials of clouds are told of.", true, verify},
	}
}
