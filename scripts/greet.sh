#!/usr/bin/env bash
# Makes the first guest through the running server: from a medium with a nonce
# that nobody could know before, and waits until exactly that nonce comes out
# of its serial console. Called by run.sh with its settings in the environment.
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/host.sh
. "$(dirname "${BASH_SOURCE[0]}")/host.sh"
cd "$project"
become_member

password=${ADMIN_PASSWORD:-}
[[ -n $password ]] || password=$(<"$LIMEN_DATA_DIR/initial-admin-password")
token=$("$LIMEN" login --user "$ADMIN_USER" --password-stdin --print <<<"$password") ||
    die "$ADMIN_USER cannot log in with that password; the guest was not made."

say "Making a small guest named hello"
nonce=$(od -An -N8 -tx8 /dev/urandom | tr -d ' ')
medium=$(mktemp --suffix .img)
trap 'rm -f "$medium"' EXIT
scripts/guest-image.sh --nonce "$nonce" --out "$medium"
networks=
[[ -z ${GUEST_NETWORK:-} ]] || networks=",\"networks\":[\"$GUEST_NETWORK\"]"
chmod 644 "$medium"
image=$("${member[@]}" "$LIMEN" --json image add "$medium" --name "hello-$nonce" --format raw |
    sed -n 's/.*"id": *"\([^"]*\)".*/\1/p' | head -1)
[[ -n $image ]] || die "The guest's image could not be added; the guest was not made."
answer=$(curl -sS --max-time 60 "$LIMEN_URL/api/vms" -H "Authorization: Bearer $token" -H 'Prefer: wait=50' --json \
    '{"name":"hello","vcpus":1,"memory_mib":128,"disks":[{"image":"'"$image"'"}],"start":true'"$networks"'}')
[[ $answer == *'"succeeded"'* ]] || die "The guest could not be made; the server answered: $answer"

say "Waiting for it to say $nonce on its serial console"
# It greets by itself, and when asked: we may have come late for the first.
greeting=$(timeout 120 cat < <("${member[@]}" "$LIMEN" vm console hello --serial < <(while sleep 3; do echo hello; done) 2>/dev/null) |
    grep -am1 "LIMEN-GUEST hello nonce=$nonce ") || true
[[ -n $greeting ]] || die "The guest did not greet. See for yourself: $LIMEN vm console hello"
say "The guest says: ${greeting%$'\r'}"
