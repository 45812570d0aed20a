//! What of a request and of an answer passes: a path below the agent's root, and the headers listed
//! here. Both are made anew, so what is not known is left behind; hop-by-hop headers (RFC 9110,
//! 7.6.1) and all that could carry credentials are among it.

use poem::http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

use crate::edge::Arrival;
use crate::error::{Problem, Result};
use crate::request_id::X_REQUEST_ID;

/// What a client may ask of an answer.
const OF_REQUESTS: [HeaderName; 7] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::RANGE,
    header::USER_AGENT,
];
/// What an answer may say of itself. Its length is told apart, from the framing.
const OF_ANSWERS: [HeaderName; 9] = [
    header::ACCEPT_RANGES,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::ETAG,
    header::LAST_MODIFIED,
    header::RETRY_AFTER,
    header::VARY,
];
const LONGEST_PATH: usize = 2048;
const PREFIX: &str = "/agent";

/// The path and query to ask the agent for.
///
/// # Errors
/// It could mean another host, or a place outside the agent's root, to somebody who reads it: what
/// is plain is passed, what is not is refused.
pub(super) fn path_for_agent(uri: &Uri) -> Result<String> {
    let refused = |detail: &str| Problem::invalid("path", detail);
    if uri.authority().is_some() || uri.scheme().is_some() {
        return Err(refused("Ask for the path alone: the agent is the only host behind /agent."));
    }
    let path = uri.path().strip_prefix(PREFIX).unwrap_or_default();
    let path = if path.is_empty() { "/" } else { path };
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let is_below = path == "/" || segments(path).all(|segment| !["", ".", ".."].contains(&segment));
    if !path.starts_with('/') || !is_plain(path.as_bytes()) || !is_below {
        return Err(refused("The path behind /agent must be plain: no empty, . or .. parts, no encoded / . \\ or %."));
    }
    if path.len() + query.len() > LONGEST_PATH || !query.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(refused("The path and query behind /agent must be at most 2048 visible ASCII characters."));
    }
    Ok(format!("{path}{query}"))
}

/// The parts of a path between slashes; one slash may end it.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').map(|path| path.strip_suffix('/').unwrap_or(path)).unwrap_or_default().split('/')
}

/// Characters of a path (RFC 3986, 3.3), of which none hides what the path means.
fn is_plain(path: &[u8]) -> bool {
    let hidden = |byte: u8| byte.is_ascii_control() || b"/\\.%".contains(&byte);
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        rest = match first {
            b'%' => {
                let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
                let digits = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
                match digits.map(|digits| u8::from_str_radix(digits, 16)) {
                    Some(Ok(byte)) if !hidden(byte) => &after[2..],
                    _ => return false,
                }
            }
            byte if byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(byte) => after,
            _ => return false,
        };
    }
    true
}

/// The headers among `known` that pass: not those that `Connection` names, which are the hop's.
fn passing(from: &HeaderMap, known: &[HeaderName]) -> HeaderMap {
    let named = from.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let named: Vec<String> = named.flat_map(|value| value.split(',')).map(|name| name.trim().to_lowercase()).collect();
    let mut to = HeaderMap::new();
    for name in known.iter().filter(|name| !named.iter().any(|named| named == name.as_str())) {
        for value in from.get_all(name) {
            to.append(name, value.clone());
        }
    }
    to
}

/// The headers of the request to the agent.
pub(super) fn request_headers(from: &HeaderMap, arrival: &Arrival, authority: &HeaderValue) -> HeaderMap {
    let mut to = passing(from, &OF_REQUESTS);
    to.insert(header::HOST, authority.clone());
    to.insert(header::VIA, HeaderValue::from_static("1.1 limen"));
    let origin = arrival.origin.and_then(|origin| HeaderValue::from_str(&origin.to_string()).ok());
    let facts = [
        ("x-forwarded-for", origin),
        ("x-forwarded-proto", Some(HeaderValue::from_static(if arrival.https { "https" } else { "http" }))),
        ("x-forwarded-host", from.get(header::HOST).cloned()),
        (X_REQUEST_ID.as_str(), HeaderValue::from_str(&arrival.request_id).ok()),
    ];
    for (name, value) in facts.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        to.insert(HeaderName::from_static(name), value);
    }
    to
}

/// The headers of the answer to the client.
pub(super) fn answer_headers(from: &HeaderMap) -> HeaderMap {
    let mut to = passing(from, &OF_ANSWERS);
    // It may be for this caller alone.
    to.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_path_passes_and_no_other() {
        for (path, passed) in [
            ("/agent", "/"),
            ("/agent/", "/"),
            ("/agent?x=//y", "/?x=//y"),
            ("/agent/metrics", "/metrics"),
            ("/agent/a/b/?q=%2f..&r=a%00b", "/a/b/?q=%2f..&r=a%00b"),
            ("/agent/a..b/.c/d%20e/%EC%9D%B4", "/a..b/.c/d%20e/%EC%9D%B4"),
            ("/agent/http:a@b", "/http:a@b"),
        ] {
            assert_eq!(path_for_agent(&path.parse().expect("a path")).ok().as_deref(), Some(passed), "{path}");
        }
        let long = format!("/agent/{}", "a".repeat(3000));
        for path in [
            "/agent//evil.example/x",
            "/agent/a//b",
            "/agent//",
            "/agent/a//",
            "/agent/..",
            "/agent/../api/vms",
            "/agent/a/./b",
            "/agent/.",
            "/agent/%2e%2e/api",
            "/agent/.%2E/api",
            "/agent/a%2fb",
            "/agent/a%5Cb",
            "/agent/a%252e",
            "/agent/a%0d%0aHost:x",
            "/agent/a%00",
            "/agent/a%",
            "/agent/a%2",
            "/agent/a%zz",
            "/agent/a%+1",
            "/agent/{a}",
            "/agentx",
            "http://evil.example/agent/metrics",
            &long,
        ] {
            let refused = path_for_agent(&path.parse().expect("a path")).expect_err(path);
            assert_eq!(refused.code(), "invalid", "{path}");
        }
    }
}
