#!/bin/bash
# Reads the output of go test -v. Shows packages, failures and skipped tests with
# their reasons, and at the end how many tests there were.
exec awk '
{ fflush() }
/^ *--- PASS/ { pass++; next }
/^ *--- SKIP/ { skip++; print; show = 2; next }
/^ *--- FAIL/ { fail++; print; failed = 1; next }
/^(ok|FAIL|panic:|---|\?|WARNING: DATA RACE)/ { print; failed = ($1 == "panic:" || $1 == "WARNING:"); held = 0; next }
/^=== (RUN|NAME|PAUSE|CONT)/ { next }
/^(PASS|coverage:)/ { next }
{ print }
END { printf "%d tests passed, %d failed, %d skipped\n", pass, fail, skip }
'
