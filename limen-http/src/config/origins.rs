//! Which web pages of other origins may use the API from a browser.

use super::{Result, refuse};

/// The origins of `ALLOWED_ORIGINS`: each exactly as a browser sends it. Empty allows none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Origins(Vec<Box<str>>);

impl Origins {
    /// Whether a page of this `Origin` is one of them: compared whole, byte by byte.
    pub(crate) fn allows(&self, origin: &str) -> bool {
        self.0.iter().any(|allowed| **allowed == *origin)
    }

    /// Reads a list like `https://www.example.org,https://example.org:8443`.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self> {
        let mut origins = Vec::new();
        for part in text.split(',').map(str::trim) {
            if let Err(why) = judge(part) {
                return refuse(format!(
                    "{name}: {part:?} is no origin: {why}; an origin is like https://www.example.org or \
                     http://localhost:5173, several are separated by commas."
                ));
            }
            origins.push(part.into());
        }
        Ok(Self(origins))
    }
}

/// An origin as the HTML standard writes it: what is written otherwise would never match.
fn judge(origin: &str) -> std::result::Result<(), &'static str> {
    let (default_port, rest) = match origin.split_once("://") {
        Some(("https", rest)) => ("443", rest),
        Some(("http", rest)) => ("80", rest),
        _ => return Err("it must begin with https:// or http://"),
    };
    // A bracket ends an IPv6 address: the port comes after it.
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    if !is_host(host) {
        return Err("after the scheme stands a host in lower case, without a path, a user or a wildcard");
    }
    match port {
        Some(port) if port == default_port => Err("browsers leave the scheme's own port out"),
        Some(port) if port.starts_with('0') || port.parse::<u16>().is_err() => {
            Err("the port is a number from 1 to 65535")
        }
        _ => Ok(()),
    }
}

fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        // As browsers write it: shortened, in lower case.
        return address.parse::<std::net::Ipv6Addr>().is_ok_and(|parsed| parsed.to_string() == address);
    }
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
    };
    host.len() <= 253 && host.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_taken_as_browsers_write_them_and_no_other_way() {
        let good =
            "https://www.darc.kr, https://darc.kr,http://localhost:5173,https://[2001:db8::1]:8443,http://10.0.0.1";
        let origins = Origins::parse("ALLOWED_ORIGINS", good).expect("origins");
        for origin in good.split(',').map(str::trim) {
            assert!(origins.allows(origin), "{origin}");
        }
        for other in ["", "null", "https://www.darc.kr:8443", "http://www.darc.kr", "https://WWW.darc.kr", "darc.kr"] {
            assert!(!origins.allows(other), "{other}");
        }
        assert!(!Origins::default().allows("https://www.darc.kr"));
        for bad in [
            "*",
            "null",
            "darc.kr",
            "ftp://darc.kr",
            "HTTPS://darc.kr",
            "https://",
            "https://Darc.kr",
            "https://darc.kr/",
            "https://darc.kr/app",
            "https://darc.kr.",
            "https://*.darc.kr",
            "https://user@darc.kr",
            "https://darc.kr:443",
            "http://darc.kr:80",
            "https://darc.kr:",
            "https://darc.kr:0",
            "https://darc.kr:08",
            "https://darc.kr:65536",
            "https://darc.kr:x",
            "https://[::1",
            "https://[2001:DB8::1]",
            "https://dar c.kr",
            "https://darc.kr,,https://a.kr",
            "https://darc.kr,",
        ] {
            let sentence = Origins::parse("ALLOWED_ORIGINS", bad).expect_err(bad).to_string();
            assert!(sentence.starts_with("ALLOWED_ORIGINS: ") && sentence.ends_with('.'), "{bad}: {sentence}");
        }
    }
}
