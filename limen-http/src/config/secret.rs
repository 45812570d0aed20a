//! Secrets: each as a value, or in a file that nobody else can read.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;

use clap::Args;

use super::value::given;
use super::{Result, refuse};

/// The file of the secret that every command may need.
#[derive(Args, Clone, Default)]
pub(super) struct CoreSecretFiles {
    /// A file with DB_PASSWORD that nobody else can read
    #[arg(
        long,
        env = "DB_PASSWORD_FILE",
        value_name = "FILE",
        global = true,
        hide_env_values = true,
        hide_short_help = true
    )]
    pub(super) db_password_file: Option<String>,
}

/// The files of the server's secrets.
#[derive(Args, Clone, Default)]
pub(super) struct ServerSecretFiles {
    /// A file with JWT_SECRET that nobody else can read
    #[arg(long, env = "JWT_SECRET_FILE", value_name = "FILE", hide_env_values = true)]
    pub(super) jwt_secret_file: Option<String>,
    /// A file with JWT_SECRET_PREVIOUS that nobody else can read
    #[arg(long, env = "JWT_SECRET_PREVIOUS_FILE", value_name = "FILE", hide_env_values = true)]
    pub(super) jwt_secret_previous_file: Option<String>,
    /// A file with ADMIN_PASSWORD that nobody else can read
    #[arg(long, env = "ADMIN_PASSWORD_FILE", value_name = "FILE", hide_env_values = true)]
    pub(super) admin_password_file: Option<String>,
}

/// The most that a secret may have.
const LONGEST: u64 = 4096;

/// The secret of variable `name`: `value`, or what the file that `NAME_FILE` names holds, without
/// the line break at its end.
///
/// # Errors
/// Both are given; the file is not there, is open to others, is empty, or holds no text of at most
/// 4 KiB. No sentence repeats what is in it.
pub(super) fn secret(name: &str, value: Option<&String>, file: Option<&String>) -> Result<Option<String>> {
    let name_of_file = format!("{name}_FILE");
    let value = given(name, value)?;
    let Some(path) = given(&name_of_file, file)? else { return Ok(value.map(str::to_owned)) };
    if value.is_some() {
        return refuse(format!("{name} and {name_of_file} are both set; set one of them."));
    }
    if !path.starts_with('/') {
        return refuse(format!("{name_of_file} must be an absolute path, not {path:?}."));
    }
    let cannot = |error: std::io::Error| format!("{name_of_file}: {path} cannot be read: {}.", error.kind());
    // Looked at before it is opened: opening a pipe would wait for its other end.
    let found = fs::metadata(path).or_else(|error| refuse(cannot(error)))?;
    if !found.is_file() {
        return refuse(format!("{name_of_file}: {path} is no file."));
    }
    if found.mode() & 0o077 != 0 {
        return refuse(format!("{name_of_file}: others may read or change {path}; `chmod 600 {path}` mends it."));
    }
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_string(&mut text));
    if let Err(error) = read {
        return refuse(cannot(error));
    }
    if text.len() as u64 > LONGEST {
        return refuse(format!("{name_of_file}: {path} has more than {LONGEST} bytes."));
    }
    let text = text.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text)).unwrap_or(&text);
    if text.is_empty() || text.contains(['\0', '\n']) {
        return refuse(format!("{name_of_file}: {path} must hold the secret on one line."));
    }
    Ok(Some(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_in_a_file_of_ones_own_is_taken_and_in_any_other_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        let named = path.to_str().expect("text").to_owned();
        let read = |content: &[u8], mode: u32| {
            fs::remove_file(&path).ok();
            fs::write(&path, content).expect("written");
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("a mode");
            secret("DB_PASSWORD", None, Some(&named))
        };
        for (content, mode) in [("s3cret", 0o600), ("s3cret\n", 0o400), ("s3cret\r\n", 0o600)] {
            assert_eq!(read(content.as_bytes(), mode), Ok(Some("s3cret".to_owned())), "{content:?}");
        }
        assert_eq!(read(b" s3cret ", 0o600), Ok(Some(" s3cret ".to_owned())), "blanks belong to it");
        let long = vec![b's'; 4097];
        for (content, mode) in [
            (&b"s3cret"[..], 0o640),
            (b"s3cret", 0o604),
            (b"s3cret", 0o620),
            (b"s3cret\nmore", 0o600),
            (b"", 0o600),
            (b"\n", 0o600),
            (b"s3\0cret", 0o600),
            (b"s3cret\xff", 0o600),
            (&long, 0o600),
        ] {
            let sentence = read(content, mode).expect_err("refused").to_string();
            assert!(sentence.starts_with("DB_PASSWORD_FILE") && !sentence.contains("s3"), "{sentence}");
        }
        read(b"s3cret", 0o600).expect("taken");
        for file in ["", "relative", "/nowhere/at/all", directory.path().to_str().expect("text"), "/dev/null"] {
            let sentence = secret("DB_PASSWORD", None, Some(&file.to_owned())).expect_err(file).to_string();
            assert!(sentence.starts_with("DB_PASSWORD_FILE"), "{sentence}");
        }
        let both = secret("DB_PASSWORD", Some(&"other".to_owned()), Some(&named));
        assert!(both.expect_err("two").to_string().starts_with("DB_PASSWORD and DB_PASSWORD_FILE"));
        assert_eq!(secret("DB_PASSWORD", Some(&"other".to_owned()), None), Ok(Some("other".to_owned())));
        assert_eq!(secret("DB_PASSWORD", None, None), Ok(None));
    }
}
