#!/usr/bin/env bash
# What is tried inside the Debian of booted.sh, as root, after it has booted. The
# commands of the operations guide are run as they stand there, with host name,
# paths and dates of this machine. Each check is one line, `ok` or `not ok`.
# The shells that are started here see to the rest themselves.
# shellcheck disable=SC2016,SC2001
set -u
export LC_ALL=C.UTF-8 PAGER=cat SYSTEMD_PAGER=cat HOME=/root
cd /root || exit 1
count=0

# check WHAT COMMAND...: a line of the outcome; where it is bad, all that was said.
check() {
    local what=$1 said
    shift
    count=$((count + 1))
    if said=$("$@" 2>&1 </dev/null); then
        echo "ok $count - $what"
    else
        echo "not ok $count - $what"
        sed 's/^/#   /' <<<"$said" | tail -n 40
    fi
}
# says WHAT WANTED COMMAND LINE: the command is run by a shell, as an operator does, and its output has WANTED.
says() {
    local what=$1 wanted=$2 line=$3
    check "$what: $line" has "$wanted" "$line"
}
has() {
    local said code=0
    said=$(bash -c "$2" 2>&1 </dev/null) || code=$?
    printf '%s\n(exit code %s)\n' "$said" "$code"
    grep -qE -- "$1" <<<"$said"
}
# until_so SECONDS COMMAND LINE: it comes to hold within so many seconds.
until_so() {
    local end=$((SECONDS + $1))
    until bash -c "$2" >/dev/null 2>&1 </dev/null; do
        ((SECONDS < end)) || { echo "not so after $1 s: $2"; bash -c "$2"; journalctl -u limen.service -n 30 --no-pager; return 1; }
        sleep 0.3
    done
}
pid() { systemctl show -p MainPID --value limen.service; }

echo "# the package"
check "the package installs" bash -c 'dpkg -i /mnt/limen_*.deb'
check "nothing was started" bash -c '! systemctl is-active limen.service && ! systemctl is-enabled limen.service'
check "user and directories" bash -c 'getent passwd limen && stat -c "%U %a" /var/lib/limen | grep -x "limen 711" && stat -c "%U %a" /etc/limen | grep -x "root 700"'
check "journald's settings" bash -c 'grep -x SystemMaxUse=1G /etc/systemd/journald.conf.d/limen.conf && grep -x MaxRetentionSec=14day /etc/systemd/journald.conf.d/limen.conf && grep -x SystemKeepFree=100M /etc/systemd/journald.conf.d/limen.conf && grep -x Compress=yes /etc/systemd/journald.conf.d/limen.conf'
check "the unit's exposure is 1.5 at most" systemd-analyze security --threshold=15 --no-pager limen.service

echo "# chapter 2: the service, with the embedded database"
systemctl enable limen.service
check "start" systemctl start limen.service
says "state" 'active \(running\)' 'sudo systemctl status limen.service'
check "enabled" systemctl is-enabled limen.service
check "health" until_so 30 'curl -fsS http://localhost:18443/api/health | grep -q "\"status\":\"ok\""'
password=$(cat /var/lib/limen/initial-admin-password)
login() {
    token=$(curl -sS -X POST http://localhost:18443/api/auth/login -H "Content-Type: application/json" \
        -d "{\"username\":\"admin\",\"password\":\"$password\"}" | jq -r .access_token)
    export token
}
login
says "login, list" '"items"' 'curl -sS http://localhost:18443/api/vms -H "Authorization: Bearer $token"'

echo "# a VM through the hardened unit"
create='{"name":"in-unit","vcpus":1,"memory_mib":128,"start":true,"disks":[{"size_gib":1}]}'
# A host that boots by emulation takes its time until it has told what it can do.
check "the host is reached" until_so 180 'curl -fsS http://localhost:18443/api/hosts -H "Authorization: Bearer $token" | grep -q "\"state\":\"up\""'
check "a VM is made and runs" has '"state":"succeeded"' "curl -sS -m 110 -X POST http://localhost:18443/api/vms -H 'Prefer: wait=50' -H 'Authorization: Bearer $token' -H 'Content-Type: application/json' -d '$create'"
says "libvirt has it" running 'virsh list --all'
uuid=$(virsh list --uuid | head -1)
export uuid
says "its disk is LIMEN's" /var/lib/limen/vms 'virsh domblklist $uuid'

before=$(pid)
kill -9 "$before"
check "a killed server is started again" until_so 60 'curl -fsS http://localhost:18443/api/health && [ "$(systemctl show -p MainPID --value limen.service)" != '"$before"' ]'
before=$(pid)
kill -STOP "$before"
check "a server that hangs is ended by the watchdog" until_so 120 'curl -fsS -m 2 http://localhost:18443/api/health && [ "$(systemctl show -p MainPID --value limen.service)" != '"$before"' ]'
says "the journal tells of the watchdog" 'atchdog' 'journalctl -u limen.service'
login
check "stop" sudo systemctl stop limen.service
check "guests go on while it is stopped" bash -c 'virsh domstate $uuid | grep -x running'
check "start again" bash -c 'systemctl start limen.service && systemctl restart limen.service'
check "it shows the guest" until_so 30 'curl -fsS http://localhost:18443/api/vms -H "Authorization: Bearer $token" | grep -q "\"state\":\"running\""'
for word in stop start restart; do
    check "limen-control.sh $word" /usr/lib/limen/scripts/limen-control.sh "$word"
done
says "limen-control.sh status" 'active|runs' '/usr/lib/limen/scripts/limen-control.sh status'
says "of the agent too" "host agent, figures" '/usr/lib/limen/scripts/limen-control.sh status'

echo "# chapter 2: the log"
says "the log as it comes" answers 'timeout 3 sudo journalctl -u limen.service -f'
says "the last lines" 'LIMEN|limen' 'sudo journalctl -u limen.service -n 100'
says "of a time" 'limen' 'sudo journalctl -u limen.service --since "-1h" --until "now"'
curl -sS http://localhost:18443/api/vms >/dev/null
check "a refusal is a warning and no error" bash -c '
    sleep 1; journalctl -u limen.service -p warning | grep -q "request refused" && ! journalctl -u limen.service -p err | grep -q "request refused"'
check "404 is no warning" bash -c '
    curl -sS http://localhost:18443/api/nothing-here >/dev/null; sleep 1
    journalctl -u limen.service -p info | grep -q nothing-here && ! journalctl -u limen.service -p warning | grep -q nothing-here'

echo "# chapter 3: CORS, PostgreSQL, secrets"
# The server has its own database and its own secret now; PostgreSQL is empty.
curl -sS -m 60 -X DELETE "http://localhost:18443/api/vms/$uuid" -H 'Prefer: wait=50' -H "Authorization: Bearer $token" >/dev/null
systemctl stop limen.service
sudo -u postgres psql -qc "ALTER USER postgres PASSWORD 'of the machine'" -c 'CREATE DATABASE limen'
(umask 077; head -c 32 /dev/urandom | base64 >/etc/limen/jwt-secret; echo 'of the machine' >/etc/limen/db-password)
cat >/etc/systemd/system/limen.service.d/settings.conf <<'SETTINGS'
[Service]
Environment=ALLOWED_ORIGINS=https://www.darc.kr,https://darc.kr
Environment=DB_HOST=localhost DB_USER=postgres DB_NAME=limen
Environment=DB_PASSWORD_FILE=%d/db-password JWT_SECRET_FILE=%d/jwt-secret
LoadCredential=db-password:/etc/limen/db-password
LoadCredential=jwt-secret:/etc/limen/jwt-secret
SETTINGS
systemctl daemon-reload
check "start on PostgreSQL" systemctl start limen.service
says "origins" 'https://www.darc.kr,https://darc.kr' 'sudo systemctl show limen.service | grep ALLOWED_ORIGINS'
check "no secret is shown" bash -c '! systemctl show limen.service | grep -q "of the machine"'
says "an origin that is allowed" 'access-control-allow-origin: https://www.darc.kr' \
    'curl -H "Origin: https://www.darc.kr" -H "Access-Control-Request-Method: GET" -X OPTIONS http://localhost:18443/api/vms -v'
curl -sS -H 'Origin: https://evil.example' http://localhost:18443/api/health >/dev/null
says "a refused origin is in the log" 'https://evil.example' 'sleep 1; sudo journalctl -u limen.service | grep -i cors'
says "headers" 'x-content-type-options: nosniff' 'curl -sI http://localhost:18443/api/health | grep -i "x-content-type-options\|x-frame-options\|strict-transport-security"'
says "nobody is let in" '401' 'curl -sS -o /dev/null -w "%{http_code}" http://localhost:18443/api/vms'

echo "# chapter 4: metrics"
says "metrics" '^vm_total' 'curl -sS http://localhost:18443/api/metrics'
check "the agent runs with the server" until_so 20 'systemctl is-active limen-agent.service'
says "the agent's figures" 'cpu' 'curl -sS http://localhost:18443/agent/metrics'
check "the agent's exposure is 1.5 at most" systemd-analyze security --threshold=15 --no-pager limen-agent.service
check "the agent is stopped with the server" bash -c 'systemctl stop limen.service; ! systemctl is-active limen-agent.service'
check "and started with it" bash -c 'systemctl start limen.service; sleep 2; systemctl is-active limen-agent.service'

echo "# chapter 6: when something is wrong"
says "ports" 18443 "sudo netstat -tulpn | grep -E '18443|9000'"
says "rights" 'rwxr-xr-x' 'ls -la /usr/bin/limen'
says "the last lines" limen 'sudo journalctl -u limen.service -n 50'
says "PostgreSQL" 'active' 'sudo systemctl status postgresql'
export PGPASSWORD='of the machine'
says "a connection" 'events' "psql -h localhost -U postgres -d limen -c '\\dt'"
says "its settings" 'DB_HOST=localhost' 'sudo systemctl show limen.service | grep -i db'
says "libvirt" 'active' 'sudo systemctl status libvirtd'
check "virsh" virsh list --all
says "space" '%' 'df -h /var/lib/limen'
says "group" libvirt 'id limen | grep libvirt; systemctl show limen.service -p SupplementaryGroups'
says "firewall" 'inactive|active' 'sudo ufw status'
# finds ID: doctor, as the operator calls it, finds this of the service; what it prints mends it.
finds() {
    local found command
    found=$(limen doctor --json)
    command=$(jq -r --arg id "$1" '.findings[] | select(.id == $id).command' <<<"$found")
    check "doctor finds $1" test -n "$command"
    check "and mends it: $command" bash -c "$command"
    check "$1 is gone" until_so 20 "! limen doctor --json | grep -F '\"$1\"'"
}
check "doctor looks at the service, and finds nothing that keeps it from working" limen doctor
check "doctor reads the settings of the service" bash -c 'limen doctor | grep "PostgreSQL at localhost"'
systemctl stop libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket libvirtd.service
finds libvirt_away
systemctl stop postgresql
until_so 20 '! pgrep -x postgres'
finds database_away
systemctl stop limen-agent
finds agent_away
sed -i 's#^Environment=ALLOWED_ORIGINS=https://www.darc.kr#&/#' /etc/systemd/system/limen.service.d/settings.conf
systemctl daemon-reload
finds origin_malformed
rm /etc/systemd/system/limen.service.d/zz-allowed_origins.conf
sed -i 's#^Environment=ALLOWED_ORIGINS=https://www.darc.kr/#Environment=ALLOWED_ORIGINS=https://www.darc.kr#' /etc/systemd/system/limen.service.d/settings.conf
chmod 644 /etc/limen/jwt-secret
finds secret_file_open
chown root: /var/lib/limen
finds data_dir_refused
systemctl daemon-reload
systemctl restart limen.service
check "the server is well again" until_so 20 'curl -fsS http://localhost:18443/api/health'

echo "# chapter 7: backup and restore"
check "all" bash -c 'pg_dump -h localhost -U postgres -d limen -F c -f limen_backup_$(date +%Y%m%d).dump && test -s limen_backup_$(date +%Y%m%d).dump'
check "the schema" bash -c 'pg_dump -h localhost -U postgres -d limen -s -f limen_schema_$(date +%Y%m%d).sql && grep -q "CREATE TABLE" limen_schema_$(date +%Y%m%d).sql'
check "VMs" bash -c 'tar -czf vm_backup_$(date +%Y%m%d).tar.gz /var/lib/limen/vms'
check "images" bash -c 'tar -czf iso_backup_$(date +%Y%m%d).tar.gz /var/lib/limen/images'
systemctl stop limen.service
check "put back" bash -c 'pg_restore -h localhost -U postgres -d limen -c limen_backup_$(date +%Y%m%d).dump'
check "and served" bash -c 'systemctl start limen.service && curl -fsS http://localhost:18443/api/health'
if limen backup --help >/dev/null 2>&1; then
    mkdir -m 700 /backup
    chown limen /backup
    check "the timer is there and not enabled" bash -c 'systemctl cat limen-backup.timer && ! systemctl is-enabled limen-backup.timer'
    check "the backup's service does its work" bash -c 'systemctl start limen-backup.service && journalctl -u limen-backup.service'
fi

echo "# the end"
check "the package is removed" dpkg -r limen
check "no server is left" bash -c '! pgrep -x limen && ! pgrep -x limen-agent && ! test -e /usr/bin/limen && ! test -e /usr/bin/limen-agent'
check "settings are kept" test -e /etc/systemd/system/limen.service.d/settings.conf
check "it comes back" bash -c 'dpkg -i /mnt/limen_*.deb && systemctl start limen.service'
mkdir -p /var/lib/limen/vms
echo disk >/var/lib/limen/vms/kept
check "the package is purged" dpkg -P limen
check "no unit is left" bash -c '! systemctl cat limen.service && ! find /etc/systemd /usr/lib/systemd -name "limen*" | grep .'
check "no user is left" bash -c '! getent passwd limen && ! getent group limen'
check "no secret is left" bash -c '! test -e /etc/limen'
check "disks are kept" grep -x disk /var/lib/limen/vms/kept
echo "1..$count"
