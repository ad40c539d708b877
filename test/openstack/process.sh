# Processes of openstack.sh: each holds the lock of its name as long as it lives,
# so that no other process is ever taken for it.
# shellcheck shell=bash disable=SC2154

# alive NAME: is the lock held?
alive() {
	[ -e "$dir/run/$1.lock" ] && ! flock -n "$dir/run/$1.lock" true
}

# start NAME COMMAND...: in a session of its own, so that its children end with it. Who
# asks whether it is alive takes the lock for a moment.
start() {
	local name=$1
	shift
	# shellcheck disable=SC2016
	setsid bash -c 'exec 9>"$0" && flock -w 5 9 && echo $$ >"$1" && shift && exec "$@"' \
		"$dir/run/$name.lock" "$dir/run/$name.pid" "$@" </dev/null >>"$dir/log/$name.out" 2>&1 &
	local i
	for ((i = 0; i < 200; i++)); do
		alive "$name" && return
		sleep 0.05
	done
	tail -n 30 "$dir/log/$name.out" >&2
	die "$name did not start"
}

# stop NAME
stop() {
	local pid i
	if alive "$1"; then
		pid=$(cat "$dir/run/$1.pid")
		kill -TERM -- "-$pid" 2>/dev/null || true
		for ((i = 0; i < 75; i++)); do
			alive "$1" || break
			sleep 0.2
		done
		! alive "$1" || kill -KILL -- "-$pid" 2>/dev/null || true
	fi
	rm -f "$dir/run/$1.pid" "$dir/run/$1.lock"
}

# answers NAME URL: waits until it does.
answers() {
	local i
	for ((i = 0; i < patience * 5; i++)); do
		curl -s -o /dev/null --max-time 5 "$2" && return
		if ! alive "$1"; then
			tail -n 30 "$dir/log/$1.out" >&2
			die "$1 ended while it was starting"
		fi
		sleep 0.2
	done
	tail -n 30 "$dir/log/$1.out" >&2
	die "$1 does not answer at $2"
}
