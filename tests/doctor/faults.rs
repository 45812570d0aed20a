//! The faults of a machine that LIMEN serves on, each as bash that makes it.

use crate::{Fault, fault};

pub(crate) const ALL: &[Fault<'_>] = &[
    // Settings.
    fault("setting_refused", "export DB_MAX_OPEN_CONNS=0"),
    fault("setting_refused", "export LIBVIRT_URI=qemu:///other"),
    fault("setting_refused", "export TRUSTED_PROXIES=localhost"),
    fault("setting_refused", "export TOKEN_EXPIRY_HOURS=many"),
    fault("secret_file_open", "echo $JWT_SECRET >$base/key; chmod 644 $base/key; unset JWT_SECRET; export JWT_SECRET_FILE=$base/key"),
    fault("secret_file_open", "echo $DB_PASSWORD >$base/key; chmod 640 $base/key; unset DB_PASSWORD; export DB_PASSWORD_FILE=$base/key"),
    fault("origin_malformed", "export ALLOWED_ORIGINS='https://Www.Example.org/app, example.net'"),
    fault("origin_malformed", "export ALLOWED_ORIGINS='*'"),
    fault("jwt_secret_weak", "export JWT_SECRET=short"),
    fault("jwt_secret_weak", "(umask 077; echo changeme-changeme-changeme-changeme >$base/weak); unset JWT_SECRET; export JWT_SECRET_FILE=$base/weak"),
    fault("jwt_secret_missing", "unset JWT_SECRET"),
    // The machine.
    fault("address_absent", "export BIND_ADDRESS=192.0.2.77"),
    fault("port_taken", "export PORT=18500; python3 -m http.server 18500 >/dev/null 2>&1 & echo $! >$base/other.pid; sleep 1; true")
        .cleared_by("kill $(cat $base/other.pid)"),
    fault("port_taken", "kill -STOP $(cat $base/limen.pid)"),
    fault("data_dir_read_only", "mkdir $base/fs; mount -t tmpfs -o mode=711 tmpfs $base/fs; mount -o remount,ro $base/fs; export LIMEN_DATA_DIR=$base/fs")
        .cleared_by("umount $base/fs; rmdir $base/fs"),
    fault("data_dir_refused", "chown root: $base/data").seen_by("limen"),
    fault("data_dir_refused", "rm -f $base/data/limen.db; touch $base/data/limen.db; chmod 600 $base/data/limen.db")
        .seen_by("limen")
        .cleared_by("rm $base/data/limen.db"),
    fault("data_open", "chmod 755 $base/data"),
    fault("data_open", "echo secret >$base/data/jwt-secret; chmod 644 $base/data/jwt-secret").cleared_by("rm $base/data/jwt-secret"),
    fault("space_low", "mkdir $base/fs; mount -t tmpfs -o mode=711,size=64M tmpfs $base/fs; export LIMEN_VMS_DIR=$base/fs")
        .cleared_by("umount $base/fs; rmdir $base/fs"),
    fault("space_low", "export FREE_SPACE_GIB=65000"),
    fault("program_absent", "mount --bind /dev/null /usr/bin/pg_dump"),
    fault("qemu_absent", "mount --bind /dev/null /usr/bin/qemu-system-x86_64"),
    fault("agent_away", "systemctl stop limen-agent"),
    fault("agent_away", "kill -STOP $(cat $base/limen-agent.pid)"),
    // The database.
    fault("database_away", "systemctl stop postgresql"),
    fault("database_hung", "kill -STOP $(head -1 $base/pg/data/postmaster.pid)"),
    fault("database_user", "psql -qU postgres -c \"ALTER ROLE limen PASSWORD 'another'\""),
    fault("database_user", "psql -qU postgres -c 'ALTER ROLE limen RENAME TO gone'; export DB_NAME=postgres")
        .cleared_by("psql -qU postgres -c 'DROP ROLE limen' -c 'ALTER ROLE gone RENAME TO limen' -c \"ALTER ROLE limen PASSWORD 'it''s a secret'\""),
    fault("database_user", "(umask 077; echo \"$DB_PASSWORD\" >$base/password); unset DB_PASSWORD; export DB_PASSWORD_FILE=$base/password
        psql -qU postgres -c \"ALTER ROLE limen PASSWORD 'another'\""),
    fault("database_user", "unset DB_HOST DB_USER DB_NAME DB_PASSWORD; export DATABASE_URL='postgres://limen:it%27s%20a%20secret@localhost/limen'
        psql -qU postgres -c \"ALTER ROLE limen PASSWORD 'another'\""),
    fault("database_missing", "export DB_NAME=other"),
    fault("database_tls", "unset DB_HOST DB_USER DB_NAME DB_PASSWORD; export DATABASE_URL='postgres://limen:it%27s%20a%20secret@localhost/limen?sslmode=require'"),
    fault("database_full", "psql -qU postgres -c 'ALTER SYSTEM SET max_connections = 5'; systemctl stop limen; systemctl restart postgresql
        for i in 1 2 3 4; do (psql -qU limen -d limen -c 'SELECT pg_sleep(60)' &>/dev/null &); sleep 0.3; done")
        .cleared_by("systemctl start limen"),
    fault("database_denied", "psql -qU postgres -d limen -c 'ALTER TABLE schema_migrations OWNER TO postgres' -c 'REVOKE ALL ON schema_migrations FROM limen'"),
    fault("database_unusable", "unset DB_HOST DB_USER DB_NAME DB_PASSWORD; (umask 077; head -c 65536 /dev/urandom >$base/data/limen.db)")
        .cleared_by("rm -f $base/data/limen.db*"),
    fault("schema_newer", "psql -qU postgres -d limen -c \"INSERT INTO schema_migrations (version, name, applied_at) SELECT 999, 'of tomorrow', applied_at FROM schema_migrations LIMIT 1\""),
    // libvirt and KVM.
    fault("libvirt_away", "systemctl stop libvirtd"),
    fault("libvirt_refused", "gpasswd -d limen libvirt").seen_by("limen"),
    fault("libvirt_hung", "kill -STOP $(cat $base/libvirtd.pid)"),
    // Its settings were wrong when it was started, and no longer are.
    fault("libvirt_failed", "systemctl stop libvirtd; cp /etc/libvirt/libvirtd.conf $base/conf/; sed -i s/none/sasl/ /etc/libvirt/libvirtd.conf
        libvirtd --daemon --pid-file $base/libvirtd.pid; sleep 1; cp $base/conf/libvirtd.conf /etc/libvirt/"),
    fault("libvirt_absent", "systemctl stop libvirtd; mount --bind /dev/null /usr/sbin/libvirtd"),
    fault("kvm_no_cpu", "unset VIRT_TYPE").shown("mount --bind $base/conf/cpu-without /proc/cpuinfo;"),
    // A machine without the device gets one, in a /dev of its own.
    fault("kvm_closed", "unset VIRT_TYPE; if [[ -e /dev/kvm ]]; then chmod 600 /dev/kvm; else
        mkdir $base/dev; cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty $base/dev
        mknod -m 600 $base/dev/kvm c 10 232; mount --bind $base/dev /dev; fi")
        .shown("mount --bind $base/conf/cpu-with /proc/cpuinfo;")
        .cleared_by("[[ ! -d $base/dev ]] || { umount /dev && rm -r $base/dev; }"),
    fault("kvm_absent", "unset VIRT_TYPE; mkdir $base/dev; cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty $base/dev")
        .shown("mount --bind $base/conf/cpu-with /proc/cpuinfo; mount --bind $base/dev /dev;")
        .cleared_by("rm -r $base/dev"),
    // What clients meet.
    fault("firewall_closed", "iptables -A INPUT -i lo -j ACCEPT; iptables -P INPUT DROP").cleared_by("iptables -P INPUT ACCEPT; iptables -F"),
    fault("clock_differs", "touch $base/conf/late; python3 $base/conf/late.py $base/conf/late >/dev/null 2>&1 & echo $! >$base/late.pid; sleep 1; true")
        .with("--url http://127.0.0.1:8081")
        .cleared_by("kill $(cat $base/late.pid)"),
    fault("proxy_away", "pkill -KILL -F $base/nginx.pid; pkill -KILL nginx; true").with("--url https://localhost:8443"),
    fault("proxy_certificate", "cp $base/conf/unknown.pem $base/conf/served.pem; cp $base/conf/unknown-key.pem $base/conf/served-key.pem; nginx -s reload; sleep 1")
        .with("--url https://localhost:8443"),
    fault("proxy_upstream", "systemctl stop limen").with("--url https://localhost:8443"),
    fault("proxy_upgrade", "sed -i '/Upgrade/d; /upgrade/d; /http_version/d' /etc/nginx/nginx.conf; nginx -s reload; sleep 1")
        .with("--url https://localhost:8443")
        .cleared_by("cp $base/conf/nginx.conf /etc/nginx/; nginx -s reload; sleep 1"),
    fault("proxy_scheme", "sed -i '/Forwarded-Proto/d' /etc/nginx/nginx.conf; nginx -s reload; sleep 1")
        .with("--url https://localhost:8443")
        .cleared_by("cp $base/conf/nginx.conf /etc/nginx/; nginx -s reload; sleep 1"),
];
