#!/bin/sh
# Takes down an nginx and its files ($1: its directory) once the test that owns
# it is gone.
base=$1
cat >/dev/null
pid=$(cat "$base/pid" 2>/dev/null)
[ -n "$pid" ] && grep -qsF "$base" "/proc/$pid/cmdline" && kill -9 "$pid"
rm -rf --one-file-system "$base"
