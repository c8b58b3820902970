#!/bin/sh
# SPDX-License-Identifier: MIT
# Run cmocka test programs one after the other; fail if one fails or if there is none to run. Each has TEST_TIMEOUT
# seconds (120).
status=0
count=0
for test in "$@"; do
	timeout "${TEST_TIMEOUT:-120}" "$test" || { echo "FAILED: $test (status $?)" >&2; status=1; }
	count=$((count + 1))
done
if [ "$count" -eq 0 ]; then
	echo "run.sh: no test to run" >&2
	exit 1
fi
exit $status
