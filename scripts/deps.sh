#!/bin/bash
# Installs the Debian packages whose programs the tests call, as root; for other
# users it names what is missing and fails. With the argument "bench" those of the
# benchmarks too.
set -euo pipefail

# A line each: program, package.
missing() {
	while read -r program package; do
		PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null || echo "$package"
	done <<'END'
gcc gcc
qemu-img qemu-utils
genisoimage genisoimage
qemu-io qemu-utils
vmdkinfo libvmdk-utils
qcowinfo libqcow-utils
virt-v2v virt-v2v
mkfs.ext4 e2fsprogs
mkfs.xfs xfsprogs
mkfs.btrfs btrfs-progs
mkfs.vfat dosfstools
linux.uml user-mode-linux
fuse2fs fuse2fs
newuidmap uidmap
mmdebstrap mmdebstrap
sfdisk fdisk
sgdisk gdisk
parted parted
fusermount3 fuse3
mount mount
rsync rsync
restic restic
borg borgbackup
getfattr attr
setfattr attr
getfacl acl
strace strace
python3 python3
scp openssh-client
sshd openssh-server
tar tar
xz xz-utils
gzip gzip
pigz pigz
openssl openssl
fuser psmisc
man man-db
node nodejs
npm npm
END
	[ "${1:-}" = bench ] || return 0
	command -v virt-sysprep >/dev/null || echo guestfs-tools
	ls /boot/vmlinuz-* >/dev/null 2>&1 || echo linux-image-amd64 # of its appliance
}

# A real OpenStack asks and starts services when it is installed, unless it is told
# not to: its own script does that.
cloud=test/openstack/openstack.sh
cd "$(dirname "$0")/.."
install_cloud() {
	OPENSTACK_NOVA=libvirt $cloud missing || OPENSTACK_NOVA=libvirt $cloud install >/dev/null
}

# The object store of providers/internal/ec2test, which looks for it there. Its version
# is in s3rver.go too.
s3rver=3.7.1
install_s3rver() {
	local dir=${CHROMOGENIC_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/chromogenic/tools}/s3rver-$s3rver
	[ ! -e "$dir/node_modules/s3rver/bin/s3rver.js" ] || return 0
	echo "installing s3rver $s3rver"
	mkdir -p "$(dirname "$dir")"
	rm -rf "$dir.part"
	npm install --prefix "$dir.part" --no-save --no-audit --no-fund --ignore-scripts --loglevel=error "s3rver@$s3rver" >/dev/null
	rm -rf "$dir"
	mv "$dir.part" "$dir"
}

packages=$(missing "${1:-}" | sort -u | tr '\n' ' ')
if [ -z "$packages" ]; then
	install_cloud
	install_s3rver
	exit
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	echo "the tests need these Debian packages: $packages" >&2
	echo "install them with: apt-get install $packages" >&2
	exit 1
fi
echo "installing $packages"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq </dev/null
status=0
policy=/usr/sbin/policy-rc.d made= # they must start no services
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod 755 $policy
	made=1
fi
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $packages </dev/null >/dev/null || status=$?
[ -z "$made" ] || rm -f $policy
[ $status = 0 ] || exit $status
still=$(missing "${1:-}" | sort -u | tr '\n' ' ')
if [ -n "$still" ]; then
	echo "still missing after the installation: $still" >&2
	exit 1
fi
install_cloud
install_s3rver
