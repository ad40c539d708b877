#!/bin/bash
# Runs every FuzzXxx of the tree, one after the other, and stops at a finding.
# Each gets FUZZTIME (5m), each input ten seconds (disktest.Within) and the process
# 256 MiB: a parser that believes a size in foreign bytes is found out.
set -euo pipefail
cd "$(dirname "$0")/.."
GO=${GO:-go}
FUZZTIME=${FUZZTIME:-5m}
FUZZ=${FUZZ:-.} # of the targets only those that this expression finds
# Soft, and far below the hard limit: the garbage of the fuzzing engine itself must
# not be what meets it.
export GOMEMLIMIT=${GOMEMLIMIT:-96MiB}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

grep -rnoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sed -E 's|^\./([^:]*/)?[^/:]*:[0-9]+:func (.*)$|./\1 \2|' | sort -u | grep -E "$FUZZ" >"$tmp/targets"
echo "$(wc -l <"$tmp/targets") fuzz targets, $FUZZTIME each"
while read -r package target; do
	echo "== $package $target"
	$GO test -c -fuzz "^$target\$" -o "$tmp/fuzz.test" "$package"
	# Memory that is asked for and never touched does not count as used; 1 GiB of
	# it ends the process. The test binary runs by itself, so that this does not
	# bind the compiler.
	(
		cd "$package"
		ulimit -d 1048576
		"$tmp/fuzz.test" -test.run '^$' -test.fuzz "^$target\$" -test.fuzztime "$FUZZTIME" \
			-test.fuzzminimizetime 10x -test.parallel "${FUZZPARALLEL:-2}" -test.timeout 0 \
			-test.fuzzcachedir "$tmp/cache"
	) </dev/null
done <"$tmp/targets"
