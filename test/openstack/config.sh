# Configuration of keystone and glance, and what nova's shares with it.
# shellcheck shell=bash disable=SC2154

# auth USER: the options of a section by which a service logs in.
auth() {
	cat <<-END
		auth_type = password
		auth_url = $keystone
		www_authenticate_uri = $keystone
		username = $1
		password = $password
		project_name = service
		user_domain_name = Default
		project_domain_name = Default
		region_name = $region
	END
}

# database NAME: the options of a [database] section.
database() {
	printf 'connection = sqlite:///%s/db/%s.sqlite\nsqlite_synchronous = false\n' "$dir" "$1"
}

# wal FILE...: readers must not block the writer ("database is locked" otherwise).
wal() {
	$python -c 'import sqlite3, sys
for path in sys.argv[1:]: sqlite3.connect(path).execute("PRAGMA journal_mode=WAL").fetchone()' "$@"
}

# fernet_key: 32 random bytes in base64 for URLs.
fernet_key() { head -c 32 /dev/urandom | base64 -w0 | tr '+/' '-_'; }

# uwsgi_ini NAME PORT FILE: one process with one thread, for connections of SQLite
# must not change threads, nor wait for each other.
uwsgi_ini() {
	cat >"$dir/$1/uwsgi.ini" <<-END
		[uwsgi]
		plugins = python3
		http-socket = $host:$2
		wsgi-file = $3
		master = true
		lazy-apps = true
		processes = 1
		threads = 1
		listen = 64
		buffer-size = 65535
		die-on-term = true
		no-orphans = true
		rem-header = Content-Length
	END
}

# Debian's /etc/*/policy.d/*.yaml are comments alone, and are parsed again for every
# request (0.5 to 1 s each): hence an empty policy.d in all configurations.
write_config() {
	mkdir -p "$dir"/{policy.d,keystone/fernet-keys,keystone/credential-keys,glance,log,run,db,images,staging,tasks}
	chmod 700 "$dir" "$dir"/keystone/*-keys
	local keys i
	for keys in fernet-keys credential-keys; do
		for i in 0 1; do
			[ -s "$dir/keystone/$keys/$i" ] || fernet_key >"$dir/keystone/$keys/$i"
		done
	done
	write_keystone
	write_glance
	write_clouds
	[ "$nova" = off ] || write_nova
}

write_keystone() {
	cat >"$dir/keystone/keystone.conf" <<-END
		[DEFAULT]
		use_stderr = true
		default_log_levels = keystone.common.password_hashing=ERROR
		[database]
		$(database keystone)
		[fernet_tokens]
		key_repository = $dir/keystone/fernet-keys
		[fernet_receipts]
		key_repository = $dir/keystone/fernet-keys
		[credential]
		key_repository = $dir/keystone/credential-keys
		[token]
		expiration = $token_seconds
		[identity]
		password_hash_rounds = 4
		[cache]
		enabled = true
		backend = dogpile.cache.memory
		[oslo_policy]
		policy_dirs = $dir/policy.d
	END
	uwsgi_ini keystone "$base" /usr/bin/keystone-wsgi-public
}

# allowed_ports = [] with brackets: glance would otherwise refuse to import from here.
# Roles mean what they say with enforce_secure_rbac: without it a reader may upload.
write_glance() {
	cat >"$dir/glance/glance-api.conf" <<-END
		[DEFAULT]
		bind_host = $host
		bind_port = $((base + 1))
		workers = 0
		log_file = $dir/log/glance.log
		enabled_backends = local:file
		enabled_import_methods = [glance-direct,web-download]
		show_image_direct_url = false
		user_storage_quota = $quota
		enforce_secure_rbac = true
		[database]
		$(database glance)
		[glance_store]
		default_backend = local
		[local]
		filesystem_store_datadir = $dir/images
		[os_glance_staging_store]
		filesystem_store_datadir = $dir/staging
		[os_glance_tasks_store]
		filesystem_store_datadir = $dir/tasks
		[import_filtering_opts]
		allowed_hosts = [127.0.0.1]
		allowed_ports = []
		[keystone_authtoken]
		$(auth glance)
		[paste_deploy]
		flavor = keystone
		config_file = /etc/glance/glance-api-paste.ini
		[oslo_concurrency]
		lock_path = $dir/run
		[oslo_policy]
		policy_dirs = $dir/policy.d
		enforce_new_defaults = true
		[oslo_messaging_notifications]
		driver = noop
	END
}

write_clouds() {
	local cloud
	{
		echo "clouds:"
		for cloud in a b admin; do
			cat <<-END
				  $cloud:
				    region_name: $region
				    auth: {auth_url: "$keystone", username: $cloud, password: "$password", project_name: $cloud, user_domain_name: Default, project_domain_name: Default}
			END
		done
	} >"$dir/clouds.yaml"
	chmod 600 "$dir/clouds.yaml"
	cat >"$dir/env" <<-END
		export OS_CLIENT_CONFIG_FILE=$dir/clouds.yaml
		export OPENSTACK_KEYSTONE=$keystone
		export OPENSTACK_GLANCE=$glance
		export OPENSTACK_COMPUTE=$compute/v2.1
	END
}
