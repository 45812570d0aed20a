//! Whose LIMEN doctor looks at: the one that its own settings describe, or the service of the
//! machine; and how a setting of it is changed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The variable by which doctor, called anew with the settings of the service, knows of it: the
/// user, and the groups that the unit adds.
const OF_SERVICE: &str = "LIMEN_DOCTOR_SERVICE";

/// Whose LIMEN it is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The user that the server runs as.
    pub(super) user: String,
    uid: u32,
    /// The ids of the user's groups.
    groups: Vec<u32>,
    /// It is the service `limen.service`.
    pub(super) service: bool,
}

impl Place {
    /// The place of this process.
    pub(super) fn here() -> Self {
        let service = std::env::var(OF_SERVICE).ok();
        let (user, added) = match service.as_deref().map(|text| text.split_once(' ').unwrap_or((text, ""))) {
            Some((user, added)) => (Some(user.to_owned()), added.split_whitespace().map(str::to_owned).collect()),
            None => (None, Vec::new()),
        };
        let own = rustix::process::geteuid().as_raw();
        let (user, uid, group) = match user {
            Some(user) => match account(|name, _| name == user) {
                Some((_, uid, group)) => (user, uid, Some(group)),
                None => (user, u32::MAX, None),
            },
            None => match account(|_, uid| uid == own) {
                Some((name, uid, group)) => (name, uid, Some(group)),
                None => (own.to_string(), own, None),
            },
        };
        let mut groups = groups_of(&user, &added);
        groups.extend(group);
        if service.is_none() {
            groups.push(rustix::process::getegid().as_raw());
        }
        Self { user, uid, groups, service: service.is_some() }
    }

    /// Whether the user may do to a file of this metadata what `wanted` (4 read, 2 write, 1 search)
    /// says, from its mode; a read-only file system is another matter.
    pub(super) fn may(&self, found: &fs::Metadata, wanted: u32) -> bool {
        let shift = match () {
            () if self.uid == 0 => return true,
            () if found.uid() == self.uid => 6,
            () if self.groups.contains(&found.gid()) => 3,
            () => 0,
        };
        (found.mode() >> shift) & wanted == wanted
    }

    /// The command that gives a setting a value: `value` as bash reads it.
    pub(super) fn set(&self, name: &str, value: &str) -> String {
        if self.service {
            let file = drop_in(name);
            format!(
                "printf '[Service]\\nEnvironment=\"%s=%s\"\\n' {name} {value} > {file} && \
                 systemctl daemon-reload && systemctl restart limen.service"
            )
        } else {
            format!("export {name}={value}")
        }
    }

    /// The command that takes a setting back to its default.
    pub(super) fn unset(&self, name: &str) -> String {
        if self.service {
            let file = drop_in(name);
            format!(
                "printf '[Service]\\nUnsetEnvironment=%s\\n' {name} > {file} && \
                 systemctl daemon-reload && systemctl restart limen.service"
            )
        } else {
            format!("unset {name}")
        }
    }
}

/// The drop-in of the service for one setting: the last in order, so that it wins.
pub(super) fn drop_in(name: &str) -> String {
    format!("/etc/systemd/system/limen.service.d/zz-{}.conf", name.to_lowercase())
}

/// `text` as one word of bash.
pub(super) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// The first account that fits: name, id, and id of its own group.
fn account(fits: impl Fn(&str, u32) -> bool) -> Option<(String, u32, u32)> {
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    accounts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let (name, uid, gid) = (*fields.first()?, fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
        fits(name, uid).then(|| (name.to_owned(), uid, gid))
    })
}

/// The ids of the groups that `user` is a member of, and of those named in `added`.
fn groups_of(user: &str, added: &[String]) -> Vec<u32> {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let ids = groups.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let member = fields.get(3)?.split(',').any(|name| name == user) || added.iter().any(|name| name == fields[0]);
        member.then(|| fields[2].parse().ok())?
    });
    ids.collect()
}

/// The name of a group.
pub(super) fn group_name(gid: u32) -> String {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let name = groups.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2)?.parse::<u32>().ok()? == gid).then(|| fields[0].to_owned())
    });
    name.unwrap_or_else(|| gid.to_string())
}

/// Where a program is, of those that a shell would find, those of root's included.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let places = path.split(':').chain(["/usr/sbin", "/sbin"]).filter(|_| !path.is_empty());
    places.map(|place| Path::new(place).join(name)).find(|path| path.is_file())
}

/// The settings of the machine's service, for doctor to be called anew with them: none where there
/// is no such service, or where it was called so already.
pub(super) fn service_settings() -> Option<BTreeMap<OsString, OsString>> {
    if std::env::var_os(OF_SERVICE).is_some() || !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let told = |arguments: &[&str]| {
        let output = Command::new("systemctl").args(arguments).output().ok()?;
        String::from_utf8(output.stdout).ok()
    };
    let properties = "LoadState,User,SupplementaryGroups,Environment,UnsetEnvironment";
    let shown = told(&["show", "limen.service", "--property", properties])?;
    // What `show` prints of credentials is for programs that speak D-Bus.
    let unit = told(&["cat", "limen.service"])?;
    let property = |name: &str| {
        let line = shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_default().to_owned()
    };
    if property("LoadState") != "loaded" {
        return None;
    }
    let credentials = unit.lines().filter_map(|line| line.trim().strip_prefix("LoadCredential="));
    let credentials: BTreeMap<&str, &str> = credentials.filter_map(|pair| pair.split_once(':')).collect();
    let unset = property("UnsetEnvironment");
    let mut settings = BTreeMap::new();
    for assignment in words(&property("Environment")) {
        let Some((name, value)) = assignment.split_once('=') else { continue };
        if unset.split_whitespace().any(|unset| unset == name) {
            continue;
        }
        // The server reads copies of root's files; what is to be mended are those files.
        let copied = value.strip_prefix("/run/credentials/limen.service/");
        let value = copied.and_then(|name| credentials.get(name).copied()).unwrap_or(value);
        settings.insert(name.into(), value.into());
    }
    let user = format!("{} {}", property("User"), property("SupplementaryGroups"));
    settings.insert(OF_SERVICE.into(), user.into());
    Some(settings)
}

/// The words of a line in which one with blanks stands in quotes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '"' => quote = !quote,
            ' ' if !quote => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    #[test]
    fn words_and_quotes_are_those_of_systemd_and_of_bash() {
        assert_eq!(super::words(r#"A=1 "B=two words" C="#), ["A=1", "B=two words", "C="]);
        assert_eq!(super::quoted("/a/b-c.d"), "/a/b-c.d");
        assert_eq!(super::quoted("it's $x"), r"'it'\''s $x'");
        assert_eq!(super::quoted(""), "''");
    }
}
