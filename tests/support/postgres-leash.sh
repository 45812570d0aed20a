#!/bin/sh
# Takes down a private PostgreSQL and its files ($1: its directory) once the
# test that owns it is gone.
base=$1
cat >/dev/null

# A process that waits to be collected has no command line any more.
alive() { grep -qas postgres "/proc/$1/cmdline"; }
{
    read -r pid
    for _ in 2 3 4 5 6; do read -r _; done
    read -r _ segment
} <"$base/data/postmaster.pid"
if [ -n "$pid" ] && alive "$pid"; then
    kill -CONT "$pid"
    kill -QUIT "$pid"
    for _ in $(seq 50); do
        alive "$pid" || break
        sleep 0.1
    done
    kill -9 "$pid" 2>/dev/null
fi
# What a killed postmaster leaves.
[ -n "$segment" ] && ipcrm -m "$segment" 2>/dev/null
rm -rf --one-file-system "$base"
