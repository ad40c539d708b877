#!/bin/bash
# Brings up a real OpenStack, from Debian's packages, for the tests: keystone and
# glance, with OPENSTACK_NOVA=libvirt also placement, nova and libvirt with guests
# that qemu emulates. All of it is on 127.0.0.1 and in one folder; no systemd, no
# RabbitMQ, no MariaDB.
#
#   openstack.sh install     Debian's packages, as root
#   openstack.sh missing     names what is not installed; status 1 if anything is
#   openstack.sh up          starts what does not run yet, and prints env
#   openstack.sh down        ends it; the state stays
#   openstack.sh restart N   ends one service and starts it again
#   openstack.sh status      what runs; status 3 if nothing does
#   openstack.sh env         where it is, for a shell to eval
#   openstack.sh destroy     ends it and removes the state
#
# The projects a and b have a user each, of the same name, with the role member:
# clouds a, b and admin of $OPENSTACK_DIR/clouds.yaml.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

dir=$(realpath -m "${OPENSTACK_DIR:-$PWD/.openstack}")
nova=${OPENSTACK_NOVA:-off}                   # off or libvirt
base=${OPENSTACK_PORT:-15000}                 # the first of five ports
token_seconds=${OPENSTACK_TOKEN_SECONDS:-86400} # how long a token holds
quota=${OPENSTACK_QUOTA:-0}                   # of each user's images, as glance has it ("64MB"); 0 is none
patience=${OPENSTACK_WAIT:-120}               # seconds that a service may take to answer

host=127.0.0.1
keystone=http://$host:$base/v3
glance=http://$host:$((base + 1))
placement=http://$host:$((base + 2))
compute=http://$host:$((base + 3))
neutron=http://$host:$((base + 4))
region=RegionOne
password=secret
python=/usr/bin/python3 # another one on PATH has not Debian's modules
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY all_proxy ALL_PROXY

say() { echo "openstack.sh: $*" >&2; }
die() {
	say "$@"
	exit 1
}

# shellcheck source=test/openstack/process.sh
. "$here/process.sh"
# shellcheck source=test/openstack/config.sh
. "$here/config.sh"
# shellcheck source=test/openstack/nova.sh
. "$here/nova.sh"

install_packages() {
	local packages=(keystone glance-api python3-openstackclient curl util-linux)
	if [ "$nova" != off ]; then
		packages+=(placement-api nova-api nova-conductor nova-scheduler nova-compute nova-compute-kvm
			libvirt-daemon-system libvirt-clients qemu-system-x86 qemu-utils python3-libvirt genisoimage)
	fi
	# They must not ask, make no databases and start no services.
	local package
	for package in keystone glance-common glance-api placement-common placement-api nova-common nova-api; do
		printf '%s %s/configure_db boolean false\n%s %s/register-endpoint boolean false\n' \
			"$package" "${package%%-*}" "$package" "${package%%-*}"
	done | debconf-set-selections
	local policy=/usr/sbin/policy-rc.d made=""
	if [ ! -e $policy ]; then
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod 755 $policy
		made=1
	fi
	local status=0
	DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 -o DPkg::Options::=--force-unsafe-io \
		install -y -q --no-install-recommends "${packages[@]}" </dev/null || status=$?
	[ -z "$made" ] || rm -f $policy
	return $status
}

# once STAMP COMMAND...: runs the command if it has not yet succeeded here.
once() {
	local stamp=$dir/.done-$1
	shift
	[ -e "$stamp" ] || { "$@" && touch "$stamp"; }
}

prepare_keystone() {
	local manage=(keystone-manage --config-file "$dir/keystone/keystone.conf")
	"${manage[@]}" db_sync &&
		"${manage[@]}" bootstrap --bootstrap-password "$password" --bootstrap-region-id $region \
			--bootstrap-public-url "$keystone" --bootstrap-internal-url "$keystone" --bootstrap-admin-url "$keystone" &&
		wal "$dir/db/keystone.sqlite"
}

prepare_glance() {
	glance-manage --config-file "$dir/glance/glance-api.conf" db_sync && wal "$dir/db/glance.sqlite"
}

run_keystone() {
	OS_KEYSTONE_CONFIG_DIR=$dir/keystone OS_KEYSTONE_CONFIG_FILES=keystone.conf \
		start keystone uwsgi_python3 --ini "$dir/keystone/uwsgi.ini"
}

run_glance() { start glance glance-api --config-file "$dir/glance/glance-api.conf"; }

seed() { KEYSTONE=$keystone PASSWORD=$password REGION=$region $python "$here/seed.py" "$@"; }

missing() {
	local programs=(keystone-manage glance-manage uwsgi_python3 openstack curl flock) program status=0
	[ "$nova" = off ] || programs+=(nova-manage placement-api libvirtd virsh qemu-img genisoimage)
	for program in "${programs[@]}"; do
		command -v "$program" >/dev/null || { say "there is no $program" && status=1; }
	done
	return $status
}

up() {
	missing || die "run OPENSTACK_NOVA=$nova $0 install"
	write_config
	# The databases do not depend on each other.
	local keystone_db glance_db nova_db
	once keystone prepare_keystone >>"$dir/log/prepare-keystone.log" 2>&1 &
	keystone_db=$!
	once glance prepare_glance >>"$dir/log/prepare-glance.log" 2>&1 &
	glance_db=$!
	if [ "$nova" != off ]; then
		once nova prepare_nova >>"$dir/log/prepare-nova.log" 2>&1 &
		nova_db=$!
		alive libvirtd || run_libvirtd
	fi
	prepared keystone $keystone_db
	alive keystone || run_keystone
	prepared glance $glance_db
	alive glance || run_glance
	local endpoints=("image=glance=$glance")
	if [ "$nova" != off ]; then
		alive placement || run_placement
		endpoints+=("placement=placement=$placement" "compute=nova=$compute/v2.1" "network=neutron=$neutron")
	fi
	answers keystone "$keystone"
	once "seed-$nova" seed services "${endpoints[@]}"
	answers glance "$glance/healthcheck"
	if [ "$nova" != off ]; then
		prepared nova $nova_db
		up_nova
	fi
	say "up, in $dir"
	print_env
}

prepared() { # name pid
	wait "$2" && return
	tail -n 20 "$dir/log/prepare-$1.log" >&2
	die "the database of $1 was not made"
}

down() {
	[ -d "$dir/run" ] || return 0
	stop nova
	stop_guests
	local service
	for service in libvirtd placement glance keystone; do
		stop $service
	done
}

restart() {
	case ${1:-} in keystone | glance | placement | nova) ;; *) die "restart what? keystone, glance, placement or nova" ;; esac
	stop "$1"
	write_config
	"run_$1"
	case $1 in
	keystone) answers keystone "$keystone" ;;
	glance) answers glance "$glance/healthcheck" ;;
	placement) answers placement "$placement/" ;;
	nova) up_nova ;;
	esac
}

status() {
	local service any="" failed=0
	for service in keystone glance placement nova libvirtd; do
		[ -e "$dir/run/$service.pid" ] || continue
		any=1
		if alive $service; then
			echo "$service up pid=$(cat "$dir/run/$service.pid")"
		else
			echo "$service DOWN"
			failed=1
		fi
	done
	[ -n "$any" ] || { echo down && return 3; }
	return $failed
}

print_env() { cat "$dir/env"; }

case $nova in off | libvirt) ;; *) die "OPENSTACK_NOVA is off or libvirt, not $nova" ;; esac
case ${1:-} in
install) install_packages ;;
missing) missing ;;
up) up ;;
down) down ;;
restart) restart "${2:-}" ;;
status) status ;;
env) print_env ;;
destroy)
	down
	rm -rf "$dir"
	;;
*)
	sed -n '2,18s/^# \{0,1\}//p' "$0"
	exit 2
	;;
esac
