#!/bin/bash
# Shows what chromogenic does, on a small disk image that it makes. Nothing
# outside a temporary folder is touched; mounts and folders go away whatever
# happens.
set -euo pipefail

chromogenic=$(realpath "${1:?usage: demo.sh PATH-OF-CHROMOGENIC}")
PATH="$PATH:/usr/sbin:/sbin"
export LC_ALL=C.UTF-8
unset CHROMOGENIC_CONFIG CHROMOGENIC_STATE_DIR

fail() {
	echo "demo: $*" >&2
	exit 1
}
need() {
	command -v "$1" >/dev/null || fail "$1 is missing: apt-get install $2"
}
need mkfs.ext4 e2fsprogs
need sfdisk fdisk
need sha256sum coreutils
[ -e /dev/fuse ] || fail "/dev/fuse is missing: this machine (or container) has no FUSE"
[ "$(id -u)" = 0 ] || need fusermount3 fuse3

dir=$(mktemp -d "${TMPDIR:-/tmp}/chromogenic-demo.XXXXXX")
mnt=$dir/mnt
server=
cleanup() {
	status=$?
	trap '' INT TERM HUP
	cd /
	"$chromogenic" umount "$mnt" 2>/dev/null || true
	if [ -n "$server" ]; then
		kill "$server" 2>/dev/null || true
		wait "$server" 2>/dev/null || true
	fi
	if mountpoint -q "$mnt" 2>/dev/null; then
		umount -l "$mnt" 2>/dev/null || fusermount3 -uz "$mnt" 2>/dev/null || true
	fi
	rm -rf "$dir"
	[ $status = 0 ] || echo "demo: FAILED with status $status" >&2
	exit $status
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

bold= plain=
[ ! -t 1 ] || { bold=$(tput bold 2>/dev/null || true) plain=$(tput sgr0 2>/dev/null || true); }
title() { printf '\n%s# %s%s\n' "$bold" "$*" "$plain"; }
show() { # prints a command and runs it
	printf '%s$ %s%s\n' "$bold" "${*//$dir\//}" "$plain"
	"$@"
}
quietly() { # fails with all that was said
	local out
	out=$("$@" 2>&1) || fail "$*: $out"
}

# mount starts a server and waits until it is live.
mount_all() {
	"$chromogenic" mount --config "$dir/config.yaml" --log-file "$dir/log" "$mnt" &
	server=$!
	for _ in $(seq 200); do
		[ -e "$mnt/.chromogenic/version" ] && return
		kill -0 "$server" 2>/dev/null || fail "the server ended: $(cat "$dir/log" 2>/dev/null)"
		sleep 0.05
	done
	fail "the mount is not live after 10 s"
}
unmount_all() {
	"$chromogenic" umount "$mnt"
	wait "$server" || fail "the server ended with status $?"
	server=
}

mkdir "$dir/office" "$dir/vault" "$mnt" "$dir/files"
cat >"$dir/config.yaml" <<END
state_dir: state
providers:
  office: {type: local, images: office}
  vault:  {type: local, images: vault, store: qcow2}
END

title "A disk of 256 MiB: GPT, one ext4 partition, with real files in it"
cp -r /usr/share/common-licenses "$dir/files/licenses"
cp "$(command -v bash)" "$dir/files/"
truncate -s 256M "$dir/office/web.raw"
printf 'label: gpt\nstart=2048, name="root"\n' | sfdisk -q "$dir/office/web.raw"
mkfs.ext4 -q -F -d "$dir/files" -E offset=$((2048 * 512)) "$dir/office/web.raw" $((254 * 1024))k
sync "$dir/office/web.raw"
show ls -ls --block-size=1 "$dir/office"

title "Two folders as two providers, mounted"
show cat "$dir/config.yaml"
mount_all
show ls "$mnt"
title "One image, four formats, and no more disk: ls -ls counts in KiB what is allocated"
show ls -ls "$mnt/office/images"
show du -sk "$dir/office"

title "Every format is the same disk"
show "$chromogenic" inspect "$mnt/office/images/web.qcow2"
for format in raw qcow2 vmdk; do
	if command -v qemu-img >/dev/null; then
		show qemu-img compare -F "$format" -f raw "$dir/office/web.raw" "$mnt/office/images/web.$format"
	fi
done
for format in qcow2 vmdk ova; do
	quietly "$chromogenic" convert "$mnt/office/images/web.$format" "$dir/back.raw" --force
	show cmp "$dir/office/web.raw" "$dir/back.raw"
	rm "$dir/back.raw"
done
if command -v qemu-img >/dev/null; then
	show qemu-img check "$mnt/office/images/web.qcow2"
else
	echo "(qemu-img is not installed; it would be asked too)"
fi

title "Copying is cp: from one provider to the other, converted on the way"
show cp "$mnt/office/images/web.raw" "$mnt/vault/images/"
show ls -s --block-size=1 "$dir/vault"
show ls "$mnt/vault/images"
if command -v qemu-img >/dev/null; then
	show qemu-img compare -f raw -F qcow2 "$dir/office/web.raw" "$dir/vault/web.qcow2"
fi

title "The same bytes for ever: backups see nothing new"
(cd "$mnt/office/images" && sha256sum web.raw web.qcow2 web.vmdk web.ova) >"$dir/sums"
show cat "$dir/sums"
mkdir "$dir/backup"
if command -v rsync >/dev/null; then
	quietly rsync -a "$mnt/office/images/" "$dir/backup/"
	echo "first rsync: $(ls "$dir/backup" | wc -l) files"
fi
unmount_all
mount_all
echo "(unmounted, and mounted again)"
(cd "$mnt/office/images" && show sha256sum -c "$dir/sums")
if command -v rsync >/dev/null; then
	again=$(rsync -a --stats "$mnt/office/images/" "$dir/backup/" | sed -n 's/^Number of regular files transferred: //p')
	echo "second rsync: $again files"
	[ "$again" = 0 ] || fail "the second rsync copied $again files"
else
	echo "(rsync is not installed; its second run would copy nothing)"
fi

title "Unmounted, and nothing is left"
unmount_all
show ls "$mnt"
echo "demo: done"
