#!/bin/bash
# Runs every FuzzXxx of the tree, one after the other, and stops at a finding.
# Each gets FUZZTIME (5m). The memory of the process that runs the target is
# bounded: a parser that believes a size in foreign bytes dies of it.
set -euo pipefail
cd "$(dirname "$0")/.."
GO=${GO:-go}
FUZZTIME=${FUZZTIME:-5m}
FUZZ=${FUZZ:-.} # of the targets only those that this expression finds
export GOMEMLIMIT=${GOMEMLIMIT:-192MiB}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

grep -rnoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sed -E 's|^\./([^:]*/)?[^/:]*:[0-9]+:func (.*)$|./\1 \2|' | sort -u | grep -E "$FUZZ" >"$tmp/targets"
echo "$(wc -l <"$tmp/targets") fuzz targets, $FUZZTIME each"
while read -r package target; do
	echo "== $package $target"
	$GO test -c -o "$tmp/fuzz.test" "$package"
	# The test binary fuzzes itself, so that the limit is on it and not on the
	# compiler. Anonymous memory alone is counted (ulimit -d): Go reserves far
	# more addresses than it uses.
	(
		cd "$package"
		ulimit -d 262144
		"$tmp/fuzz.test" -test.run '^$' -test.fuzz "^$target\$" -test.fuzztime "$FUZZTIME" \
			-test.fuzzminimizetime 10x -test.parallel "${FUZZPARALLEL:-2}" -test.timeout 0 \
			-test.fuzzcachedir "$tmp/cache"
	) </dev/null
done <"$tmp/targets"
