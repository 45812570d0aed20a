#!/usr/bin/env bash
# Makes the first guest through the running server: from a medium with a nonce
# that nobody could know before, and waits until exactly that nonce comes out
# of its serial console. Called by run.sh with its settings in the environment.
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/host.sh
. "$(dirname "${BASH_SOURCE[0]}")/host.sh"
cd "$project"

api() { curl -sS --max-time 60 "$@"; }
field() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p"; }

password=${ADMIN_PASSWORD:-}
[[ -n $password ]] || password=$(<"$LIMEN_DATA_DIR/initial-admin-password")
LIMEN_TOKEN=$(printf '{"username":"%s","password":"%s"}' "$ADMIN_USER" "$password" |
    api "$LIMEN_URL/api/auth/login" --json @- | field access_token)
[[ -n $LIMEN_TOKEN ]] || die "$ADMIN_USER cannot log in with that password; the guest was not made."
export LIMEN_TOKEN

say "Making a small guest named hello"
nonce=$(od -An -N8 -tx8 /dev/urandom | tr -d ' ')
medium=$(mktemp --suffix .img)
trap 'rm -f "$medium"' EXIT
scripts/guest-image.sh --nonce "$nonce" --out "$medium"
networks=
if why=$(start_network); then
    networks=',"networks":["limen"]'
else
    say "It gets no network card: the network limen does not start ($why)"
fi
"$LIMEN" image add "$medium" --name "hello-$nonce" >/dev/null
answer=$(api "$LIMEN_URL/api/vms" -H "Authorization: Bearer $LIMEN_TOKEN" -H 'Prefer: wait=50' --json \
    '{"name":"hello","vcpus":1,"memory_mib":128,"disks":[{"image":"hello-'"$nonce"'"}],"start":true'"$networks"'}')
[[ $answer == *'"succeeded"'* ]] || die "The guest could not be made; the server answered: $answer"

say "Waiting for it to say $nonce on its serial console"
# It greets by itself, and when asked: we may have come late for the first.
greeting=$("$LIMEN" vm console hello --serial --until "LIMEN-GUEST hello nonce=$nonce " --timeout 120 \
    < <(while sleep 3; do echo hello; done) | grep -a "LIMEN-GUEST hello nonce=$nonce ") ||
    die "The guest did not greet. See for yourself: limen vm console hello --serial"
say "The guest says: ${greeting%$'\r'}"
