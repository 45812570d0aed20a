#!/bin/sh
# Takes down a `limen` server and its files ($1: its directory) once the test
# that owns it is gone. The processes are known by their environment.
base=$1
cat >/dev/null
for _ in 1 2 3 4 5; do
    pids=$(grep -alsF "LIMEN_DATA_DIR=$base/" /proc/[0-9]*/environ | cut -d/ -f3)
    [ -n "$pids" ] || break
    for pid in $pids; do kill -9 "$pid"; done
    sleep 0.1
done
rm -rf --one-file-system "$base"
