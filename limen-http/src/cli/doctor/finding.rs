//! What doctor can find: each kind has a name that stays, and a weight.

use serde::Serialize;

/// How heavy a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Weight {
    /// LIMEN does not work so, or not safely.
    Error,
    /// It works, and something of it is slow, or not there.
    Warning,
}

macro_rules! kinds {
    ($($kind:ident = $name:literal, $weight:ident, $means:literal;)+) => {
        /// What doctor can find.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Kind { $(#[doc = $means] $kind,)+ }

        impl Kind {
            #[cfg(test)]
            pub(super) const ALL: &'static [Kind] = &[$(Kind::$kind,)+];

            /// Its name.
            pub(super) const fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name,)+ }
            }

            /// Its weight.
            pub(super) const fn weight(self) -> Weight {
                match self { $(Kind::$kind => Weight::$weight,)+ }
            }

            #[cfg(test)]
            pub(super) const fn means(self) -> &'static str {
                match self { $(Kind::$kind => $means,)+ }
            }
        }
    };
}

kinds! {
    SettingRefused = "setting_refused", Error, "A setting has a value that LIMEN cannot use.";
    SecretFileOpen = "secret_file_open", Error, "Others may read or change the file of a secret.";
    OriginMalformed = "origin_malformed", Error, "`ALLOWED_ORIGINS` names what no browser ever sends.";
    JwtSecretWeak = "jwt_secret_weak", Error, "The secret that signs tokens is short, or stands in some example.";
    JwtSecretMissing = "jwt_secret_missing", Error, "Servers that share a PostgreSQL need a `JWT_SECRET`, and there is none.";
    AddressAbsent = "address_absent", Error, "`BIND_ADDRESS` is no address of this machine.";
    PortTaken = "port_taken", Error, "Another program has the server's port.";
    DataDirHung = "data_dir_hung", Error, "The file system of the data directory does not answer.";
    DataDirReadOnly = "data_dir_read_only", Error, "The file system of the data directory is read-only.";
    DataDirRefused = "data_dir_refused", Error, "The user of LIMEN may not write to the data directory.";
    DataOpen = "data_open", Error, "Others may look into the data directory, or read its secrets.";
    SpaceLow = "space_low", Warning, "Less space is free than a new VM must leave.";
    ProgramAbsent = "program_absent", Warning, "A program that some command needs is not installed.";
    AgentAway = "agent_away", Warning, "No limen-agent answers at `AGENT_URL`.";
    DatabaseAway = "database_away", Error, "Nobody answers at the database's address.";
    DatabaseHung = "database_hung", Error, "The database takes connections and does not answer.";
    DatabaseUser = "database_user", Error, "The database refuses the user or the password.";
    DatabaseMissing = "database_missing", Error, "The database server has no such database.";
    DatabaseTls = "database_tls", Error, "The database does not speak TLS, and `sslmode` wants it.";
    DatabaseFull = "database_full", Error, "The database takes no more connections.";
    DatabaseDenied = "database_denied", Error, "The database lets LIMEN in, and not to its tables.";
    DatabaseUnusable = "database_unusable", Error, "The database cannot be read.";
    SchemaNewer = "schema_newer", Error, "A newer LIMEN has written to the database.";
    ClockDiffers = "clock_differs", Warning, "This machine's clock and another's differ by more than 5 s.";
    LibvirtAbsent = "libvirt_absent", Error, "libvirt is not installed.";
    LibvirtAway = "libvirt_away", Error, "libvirt's daemon does not run.";
    LibvirtRefused = "libvirt_refused", Error, "The user of LIMEN may not talk to libvirt.";
    LibvirtHung = "libvirt_hung", Error, "libvirt's daemon takes connections and does not answer.";
    LibvirtFailed = "libvirt_failed", Error, "libvirt's daemon answers with an error.";
    QemuAbsent = "qemu_absent", Error, "QEMU is not installed: no guest can run.";
    KvmAbsent = "kvm_absent", Warning, "The CPU can virtualize, and `/dev/kvm` is not there.";
    KvmClosed = "kvm_closed", Warning, "QEMU's user cannot open `/dev/kvm`.";
    KvmNoCpu = "kvm_no_cpu", Warning, "The CPU shows neither `vmx` nor `svm`: guests are emulated, many times slower.";
    FirewallClosed = "firewall_closed", Warning, "The firewall drops what comes to the server's port.";
    ProxyAway = "proxy_away", Error, "Nobody answers at `--url`.";
    ProxyCertificate = "proxy_certificate", Error, "The certificate at `--url` is not trusted, or not for this name.";
    ProxyUpstream = "proxy_upstream", Error, "What answers at `--url` does not reach LIMEN.";
    ProxyUpgrade = "proxy_upgrade", Error, "The proxy drops `Upgrade`: no console opens through it.";
    ProxyScheme = "proxy_scheme", Warning, "LIMEN does not hear from the proxy that clients speak https: no HSTS is sent.";
}

/// Something that is wrong, and what mends it.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    #[serde(rename = "id", serialize_with = "name_of")]
    pub(super) kind: Kind,
    weight: Weight,
    /// A sentence.
    pub(super) message: String,
    /// The command for bash, as root, that mends it.
    pub(super) command: String,
}

fn name_of<S: serde::Serializer>(kind: &Kind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.name())
}

/// What a look brought: findings, and otherwise a line on what is there.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) findings: Vec<Finding>,
    pub(super) looked: Vec<(&'static str, String)>,
}

impl Report {
    pub(super) fn find(&mut self, kind: Kind, message: impl Into<String>, command: impl Into<String>) {
        let (message, command) = (message.into(), command.into());
        self.findings.push(Finding { kind, weight: kind.weight(), message, command });
    }

    /// Notes what was looked at and is good.
    pub(super) fn good(&mut self, what: &'static str, detail: impl Into<String>) {
        self.looked.push((what, detail.into()));
    }

    pub(super) fn found(kind: Kind, message: impl Into<String>, command: impl Into<String>) -> Self {
        let mut report = Self::default();
        report.find(kind, message, command);
        report
    }

    pub(super) fn add(&mut self, other: Report) {
        self.findings.extend(other.findings);
        self.looked.extend(other.looked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_every_finding_with_its_meaning() {
        let document = include_str!("../../../../docs/doctor.md");
        for kind in Kind::ALL {
            let weight = match kind.weight() {
                Weight::Error => "error",
                Weight::Warning => "warning",
            };
            let row = format!("| `{}` | {weight} | {} |", kind.name(), kind.means());
            assert!(document.contains(&row), "docs/doctor.md has no row {row}");
        }
        let rows = document.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows, Kind::ALL.len(), "docs/doctor.md has rows of findings that there are not");
    }
}
