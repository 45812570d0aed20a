//! Settings that the server would refuse.

use super::finding::{Kind, Report};
use super::place::{Place, drop_in, quoted};
use crate::config::{ConfigError, CoreArgs, CoreConfig, HttpArgs, HttpConfig, StoreChoice};

/// The installation's settings, judged; none when one of them is refused.
pub(super) fn core(place: &Place, args: &CoreArgs) -> (Option<CoreConfig>, Report) {
    match args.judge() {
        Ok(config) => (Some(config), Report::default()),
        Err(error) => (None, refused(place, args, &error)),
    }
}

/// The server's settings, judged as far as possible: one that is refused is found, and the others
/// are judged without it.
pub(super) fn server(
    place: &Place,
    core: &CoreArgs,
    args: &HttpArgs,
    store: Option<&StoreChoice>,
) -> (Option<HttpConfig>, Report) {
    let (mut args, mut report) = (args.clone(), Report::default());
    let config = loop {
        match args.judge() {
            Ok(config) => break config,
            Err(error) => {
                let name = error.setting();
                let found = match name {
                    "ALLOWED_ORIGINS" => origins(place, args.origins_given().unwrap_or_default(), &error),
                    "JWT_SECRET" | "JWT_SECRET_PREVIOUS" => secret(place, name, args.file_of(name), &error),
                    _ => refused(place, core, &error),
                };
                report.add(found);
                if !args.forget(name) {
                    return (None, report);
                }
            }
        }
    };
    let shared = matches!(store, Some(StoreChoice::Postgres(_)));
    if shared && config.jwt_secret.is_none() && report.findings.is_empty() {
        let message = "JWT_SECRET is not set; all servers that share a PostgreSQL need the same.";
        report.find(Kind::JwtSecretMissing, message, fresh_secret(place, "JWT_SECRET", None));
    }
    (Some(config), report)
}

fn refused(place: &Place, core: &CoreArgs, error: &ConfigError) -> Report {
    let sentence = error.to_string();
    // A file that others may read is named with the command that closes it.
    if let Some(command) = sentence.split('`').nth(1).filter(|command| command.starts_with("chmod 600 ")) {
        let path = command.trim_start_matches("chmod 600 ");
        return Report::found(Kind::SecretFileOpen, &sentence, format!("chmod 600 {}", quoted(path)));
    }
    let name = error.setting();
    let command = match core.twin(name) {
        // Two settings that disagree: the second goes.
        Some(twin) => place.unset(twin),
        None => place.unset(name),
    };
    Report::found(Kind::SettingRefused, sentence, command)
}

fn origins(place: &Place, given: &str, error: &ConfigError) -> Report {
    let mended: Vec<String> = given.split(',').filter_map(|part| as_browsers_write(part.trim())).collect();
    let command = match mended.is_empty() {
        true => place.unset("ALLOWED_ORIGINS"),
        false => place.set("ALLOWED_ORIGINS", &quoted(&mended.join(","))),
    };
    Report::found(Kind::OriginMalformed, error.to_string(), command)
}

/// What a browser would send for a page at this address; none where that cannot be told.
fn as_browsers_write(text: &str) -> Option<String> {
    if text == "null" {
        return None;
    }
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let url = reqwest::Url::parse(&with_scheme).ok()?;
    let origin = url.origin();
    let written = origin.ascii_serialization();
    (origin.is_tuple() && crate::config::Origins::parse("ALLOWED_ORIGINS", &written).is_ok()).then_some(written)
}

fn secret(place: &Place, name: &str, file: Option<&str>, error: &ConfigError) -> Report {
    let command = match (name, file) {
        ("JWT_SECRET_PREVIOUS", None) => place.unset(name),
        _ => fresh_secret(place, name, file),
    };
    Report::found(Kind::JwtSecretWeak, error.to_string(), command)
}

/// The command that makes a secret; never one that shows it.
fn fresh_secret(place: &Place, name: &str, file: Option<&str>) -> String {
    match file {
        Some(file) => format!("openssl rand -hex 32 > {}", quoted(file)),
        None if place.service => {
            let conf = drop_in(name);
            format!(
                "(umask 077; openssl rand -hex 32 > /etc/limen/jwt-secret) && printf '[Service]\\n\
                 UnsetEnvironment={name}\\nLoadCredential=jwt-secret:/etc/limen/jwt-secret\\n\
                 Environment={name}_FILE=%%d/jwt-secret\\n' > {conf} && systemctl daemon-reload && \
                 systemctl restart limen.service"
            )
        }
        None => format!("export {name}=\"$(openssl rand -hex 32)\""),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_address_becomes_the_origin_that_a_browser_sends() {
        for (given, sent) in [
            ("https://www.Example.org/app/", Some("https://www.example.org")),
            ("www.example.org", Some("https://www.example.org")),
            ("http://example.org:80", Some("http://example.org")),
            ("https://user@example.org:8443/", Some("https://example.org:8443")),
            ("*", None),
            ("null", None),
            ("ftp://example.org", None),
        ] {
            assert_eq!(super::as_browsers_write(given).as_deref(), sent, "{given}");
        }
    }
}
