# Placement, nova and libvirt of openstack.sh.
# shellcheck shell=bash disable=SC2154

write_nova() {
	mkdir -p "$dir"/{placement,nova,instances} "$dir"/libvirt/{etc/qemu,lib,run,cache,log}
	cat >"$dir/placement/placement.conf" <<-END
		[DEFAULT]
		log_file = $dir/log/placement.log
		[placement_database]
		$(database placement)
		sync_on_startup = true
		[api]
		auth_strategy = keystone
		[keystone_authtoken]
		$(auth placement)
		[oslo_policy]
		policy_dirs = $dir/policy.d
	END
	uwsgi_ini placement $((base + 2)) /usr/bin/placement-api
	write_nova_conf
	write_libvirt
}

# fake:// is a message bus within one process, see allinone.py. virt_type qemu is
# emulation: it works on machines whose /dev/kvm does not.
write_nova_conf() {
	cat >"$dir/nova/nova.conf" <<-END
		[DEFAULT]
		log_file = $dir/log/nova.log
		default_log_levels = oslo.messaging=ERROR,oslo_messaging=ERROR,keystonemiddleware=ERROR,sqlalchemy=WARN,urllib3=WARN,os_vif=WARN
		state_path = $dir/nova
		instances_path = $dir/instances
		my_ip = $host
		host = testhost
		osapi_compute_listen = $host
		osapi_compute_listen_port = $((base + 3))
		transport_url = fake:///
		compute_driver = libvirt.LibvirtDriver
		vif_plugging_is_fatal = false
		heal_instance_info_cache_interval = -1
		shutdown_timeout = 2
		[api_database]
		$(database nova_api)
		[database]
		$(database nova)
		[keystone_authtoken]
		$(auth nova)
		[service_user]
		send_service_user_token = true
		$(auth nova)
		[placement]
		$(auth nova)
		[neutron]
		$(auth nova)
		endpoint_override = $neutron
		[glance]
		region_name = $region
		[vnc]
		enabled = false
		[spice]
		enabled = false
		[oslo_concurrency]
		lock_path = $dir/run
		[oslo_policy]
		policy_dirs = $dir/policy.d
		[oslo_messaging_notifications]
		driver = noop
		[wsgi]
		api_paste_config = /etc/nova/api-paste.ini
		[libvirt]
		virt_type = qemu
		cpu_mode = none
		images_type = qcow2
		inject_partition = -2
		connection_uri = $(libvirt_uri)
	END
}

# No virtlogd, no cgroups, no mount namespace for each guest, no AppArmor; guests run
# as root. libvirtd runs in a mount namespace where its folders are ours.
write_libvirt() {
	cat >"$dir/libvirt/etc/libvirtd.conf" <<-END
		listen_tls = 0
		listen_tcp = 0
		unix_sock_rw_perms = "0700"
		auth_unix_ro = "none"
		auth_unix_rw = "none"
	END
	cat >"$dir/libvirt/etc/qemu.conf" <<-END
		user = "root"
		group = "root"
		dynamic_ownership = 0
		remember_owner = 0
		security_driver = "none"
		stdio_handler = "file"
		cgroup_controllers = []
		namespaces = []
	END
	cat >"$dir/libvirt/run.sh" <<-END
		set -e
		mkdir -p /etc/libvirt /var/lib/libvirt /run/libvirt /var/cache/libvirt /var/log/libvirt
		mount --bind $dir/libvirt/etc /etc/libvirt
		mount --bind $dir/libvirt/lib /var/lib/libvirt
		mount --bind $dir/libvirt/run /run/libvirt
		mount --bind $dir/libvirt/cache /var/cache/libvirt
		mount --bind $dir/libvirt/log /var/log/libvirt
		exec libvirtd --pid-file $dir/libvirt/run/libvirtd.pid
	END
}

libvirt_uri() { echo "qemu+unix:///system?socket=$dir/libvirt/run/libvirt-sock"; }

prepare_nova() {
	$python "$here/prepare_nova.py" "$dir/nova/nova.conf" "sqlite:///$dir/db/nova_cell0.sqlite" && wal "$dir"/db/nova*.sqlite
}

run_libvirtd() { start libvirtd unshare -m --propagation private bash "$dir/libvirt/run.sh"; }

run_placement() {
	OS_PLACEMENT_CONFIG_DIR=$dir/placement start placement uwsgi_python3 --ini "$dir/placement/uwsgi.ini"
}

run_nova() {
	NEUTRON_PORT=$((base + 4)) start nova "$python" "$here/allinone.py" --config-file "$dir/nova/nova.conf"
}

guests() { virsh -q -c "$(libvirt_uri)" "$@"; }

# up_nova starts nova when all that it needs answers, and waits for its hypervisor.
up_nova() {
	answers placement "$placement/"
	local i
	for ((i = 0; i < patience * 2; i++)); do
		! guests version >/dev/null 2>&1 || break
		alive libvirtd || die "libvirtd ended while it was starting: $(tail -n 3 "$dir/log/libvirtd.out")"
		sleep 0.5
	done
	guests version >/dev/null || die "libvirtd does not answer"
	alive nova || run_nova
	answers nova "$compute/"
	seed nova "$compute/v2.1" "$patience"
}

# stop_guests ends the guests, which outlive libvirtd.
stop_guests() {
	local guest
	alive libvirtd || return 0
	for guest in $(guests list --name 2>/dev/null); do
		guests destroy "$guest" >/dev/null || true
	done
}
