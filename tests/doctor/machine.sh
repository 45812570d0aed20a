#!/bin/bash
# Makes a machine of the tests' into one that LIMEN serves on, and is well: libvirt, PostgreSQL,
# nginx with https, the agent; LIMEN's settings are in $base/env. $1 is a directory for all of it,
# $2 the program limen, $3 limen-agent. Beside them stands $base/bin, before the system's programs:
# the service manager and the package manager of this machine.
set -euo pipefail
base=$1 limen=$2 agent=$3
pg=$(dirname "$(printf "%s\n" /usr/lib/postgresql/*/bin/initdb | sort -V | tail -1)")
mkdir -p "$base"/{bin,data,conf,log,pg,empty}
chmod 755 "$base"
chmod 711 "$base/data"
cp "$limen" "$base/bin/limen"
cp "$agent" "$base/bin/limen-agent"
cp "$(dirname "$0")/late.py" "$base/conf/late.py"

useradd --no-create-home --home-dir "$base/data" --shell /bin/bash limen
usermod -aG libvirt limen
chown limen: "$base/data"
cat >/etc/libvirt/libvirtd.conf <<'CONF'
unix_sock_group = "libvirt"
unix_sock_rw_perms = "0770"
auth_unix_rw = "none"
CONF

# As udev has it where QEMU is installed.
if [[ -e /dev/kvm ]]; then
    chgrp kvm /dev/kvm
    chmod 660 /dev/kvm
fi

mkdir -p /run/postgresql
chown -R postgres: "$base/pg" /run/postgresql
runuser -u postgres -- tee "$base/pg/password" <<<secret >/dev/null
runuser -u postgres -- "$pg/initdb" -D "$base/pg/data" -A scram-sha-256 --auth-local=trust --no-sync \
    --pwfile="$base/pg/password" >/dev/null
{
    echo "unix_socket_directories = '/run/postgresql'"
    echo "fsync = off"
} >>"$base/pg/data/postgresql.conf"

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE \
    -keyout "$base/conf/key.pem" -out "$base/conf/cert.pem" 2>/dev/null
cat "$base/conf/cert.pem" >>/etc/ssl/certs/ca-certificates.crt
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE \
    -keyout "$base/conf/unknown-key.pem" -out "$base/conf/unknown.pem" 2>/dev/null
cat >/etc/nginx/nginx.conf <<CONF
pid $base/nginx.pid;
error_log $base/log/nginx;
events {}
http {
    access_log off;
    server {
        listen 127.0.0.1:8443 ssl;
        server_name localhost;
        ssl_certificate $base/conf/served.pem;
        ssl_certificate_key $base/conf/served-key.pem;
        location / {
            proxy_pass http://127.0.0.1:18443;
            proxy_http_version 1.1;
            proxy_set_header Upgrade \$http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_set_header X-Forwarded-Proto \$scheme;
        }
    }
}
CONF
cp "$base/conf/cert.pem" "$base/conf/served.pem"
cp "$base/conf/key.pem" "$base/conf/served-key.pem"
cp /etc/nginx/nginx.conf "$base/conf/nginx.conf"
printf 'processor : 0\nflags : fpu vmx\n' >"$base/conf/cpu-with"
printf 'processor : 0\nflags : fpu\n' >"$base/conf/cpu-without"

cat >"$base/env" <<ENV
PATH=$base/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
HYPERVISOR_URI=qemu:///system
VIRT_TYPE=qemu
LIMEN_DATA_DIR=$base/data
DB_HOST=localhost
DB_USER=limen
DB_NAME=limen
DB_PASSWORD="it's a secret"
JWT_SECRET=$(openssl rand -hex 32)
ADMIN_PASSWORD='correct horse battery staple'
ENV
cp "$base/env" "$base/conf/env"

# start|stop|restart of this machine's services, as root.
cat >"$base/bin/systemctl" <<SHIM
#!/bin/bash
set -u
exec >>"$base/log/systemctl" 2>&1 </dev/null
verb=\$1 service=\${2%.service}
stop() {
    case \$service in
    postgresql) runuser -u postgres -- $pg/pg_ctl -D $base/pg/data -m immediate stop ;;
    *) pkill -KILL -F "$base/\$service.pid" ;;
    esac
    true
}
start() {
    case \$service in
    postgresql) runuser -u postgres -- $pg/pg_ctl -D $base/pg/data -l $base/pg/log -w start ;;
    libvirtd)
        libvirtd --daemon --pid-file "$base/libvirtd.pid"
        until virsh -c qemu:///system version; do sleep 0.1; done
        ;;
    nginx) nginx ;;
    limen)
        (
            set -a
            . "$base/env"
            exec setsid limen serve
        ) &
        echo \$! >"$base/limen.pid"
        until curl -sf http://127.0.0.1:18443/api/health/live; do sleep 0.1; done
        ;;
    limen-agent)
        setsid limen-agent &
        echo \$! >"$base/limen-agent.pid"
        until curl -sf http://127.0.0.1:9000/health; do sleep 0.1; done
        ;;
    esac
}
case \$verb in
stop) stop ;;
start) start ;;
restart) stop && start ;;
esac
SHIM
# A package comes as what it covers is uncovered: the programs of this machine are the system's own.
cat >"$base/bin/apt-get" <<SHIM
#!/bin/bash
case "\$*" in
"install -y postgresql-client") umount /usr/bin/pg_dump ;;
"install -y qemu-system-x86") umount /usr/bin/qemu-system-x86_64 ;;
"install -y libvirt-daemon-system qemu-system-x86") umount /usr/sbin/libvirtd && systemctl start libvirtd ;;
"install -y --only-upgrade limen") psql -q -U postgres -d limen -c 'DELETE FROM schema_migrations WHERE version > 100' ;;
*) exit 100 ;;
esac
SHIM
# What the module and udev do, where doctor sees it.
cat >"$base/bin/modprobe" <<SHIM
#!/bin/bash
[[ \$* == kvm_intel ]] && mknod -m 660 "$base/dev/kvm" c 10 232 && chgrp kvm "$base/dev/kvm"
SHIM
cat >"$base/bin/certbot" <<SHIM
#!/bin/bash
[[ \$* == "certonly --nginx -d localhost" ]] || exit 1
cp "$base/conf/cert.pem" "$base/conf/served.pem" && cp "$base/conf/key.pem" "$base/conf/served-key.pem" && nginx -s reload
SHIM
cat >"$base/bin/timedatectl" <<SHIM
#!/bin/bash
[[ \$* == "set-ntp true" ]] && rm "$base/conf/late"
SHIM
chmod 755 "$base"/bin/*

PATH=$base/bin:$PATH
systemctl start postgresql
psql -q -U postgres -c "CREATE ROLE limen LOGIN PASSWORD 'it''s a secret'" -c "CREATE DATABASE limen OWNER limen"
systemctl start libvirtd
systemctl start limen-agent
systemctl start limen
systemctl start nginx
