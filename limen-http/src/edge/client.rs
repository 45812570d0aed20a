//! Who a request comes from, and how: the peer, or whom a proxy of ours speaks for.

use std::net::IpAddr;

use poem::http::HeaderMap;

use crate::config::Proxies;

/// More hops than this are a forgery, or a loop.
const MOST_HOPS: usize = 32;

/// The other end of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Client {
    /// None where the request came over no network.
    pub(super) address: Option<IpAddr>,
    /// Whether a proxy of ours says that the client came by https.
    pub(super) https: bool,
}

impl Client {
    /// `X-Forwarded-For` and `X-Forwarded-Proto` count from a trusted peer alone. Proxies add to the
    /// former at its right end, so the client is the right-most hop that is no proxy of ours: what
    /// stands left of it is the client's own word.
    pub(super) fn of(peer: Option<IpAddr>, headers: &HeaderMap, proxies: &Proxies) -> Self {
        let Some(peer) = peer.map(|peer| peer.to_canonical()) else { return Self { address: None, https: false } };
        if !proxies.trust(peer) {
            return Self { address: Some(peer), https: false };
        }
        let mut address = peer;
        for hop in hops(headers, "x-forwarded-for").take(MOST_HOPS) {
            // Who cannot be told from what a proxy says is taken for the proxy.
            let Some(hop) = hop.and_then(read_hop) else { break };
            address = hop;
            if !proxies.trust(hop) {
                break;
            }
        }
        let https =
            hops(headers, "x-forwarded-proto").next().flatten().is_some_and(|p| p.eq_ignore_ascii_case("https"));
        Self { address: Some(address), https }
    }
}

/// The values of a list header from right to left; none for one that is no text.
fn hops<'a>(headers: &'a HeaderMap, name: &'static str) -> impl Iterator<Item = Option<&'a str>> {
    let values: Vec<_> = headers.get_all(name).iter().collect();
    values.into_iter().rev().flat_map(|value| {
        let text = value.to_str().ok();
        let count = text.is_none().then_some(None);
        count.into_iter().chain(text.into_iter().flat_map(|text| text.rsplit(',').map(|part| Some(part.trim()))))
    })
}

/// An address, as proxies write it: also with a port, and an IPv6 one in brackets.
fn read_hop(text: &str) -> Option<IpAddr> {
    let without_port = || match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map(|(address, _)| address),
        None => text.split_once(':').map(|(address, _)| address),
    };
    let address = text.parse::<IpAddr>().ok().or_else(|| without_port()?.parse().ok())?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, headers: &[(&'static str, &str)]) -> (String, bool) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().expect("a value"));
        }
        let client = Client::of(peer.parse().ok(), &map, &Proxies::default());
        (client.address.expect("an address").to_string(), client.https)
    }

    #[test]
    fn only_a_trusted_proxy_speaks_for_others() {
        let forged = [("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", "https")];
        assert_eq!(client("10.0.0.1", &forged), ("10.0.0.1".to_owned(), false));
        assert_eq!(client("127.0.0.1", &forged), ("192.0.2.1".to_owned(), true));
        assert_eq!(client("::ffff:127.0.0.1", &forged), ("192.0.2.1".to_owned(), true));
        assert_eq!(client("127.0.0.1", &[]), ("127.0.0.1".to_owned(), false));
        assert_eq!(client("127.0.0.1", &[("x-real-ip", "192.0.2.1")]), ("127.0.0.1".to_owned(), false));
    }

    #[test]
    fn the_client_is_the_right_most_hop_that_is_no_proxy() {
        let of = |value: &str| client("127.0.0.1", &[("x-forwarded-for", value)]).0;
        assert_eq!(of("6.6.6.6, 192.0.2.1"), "192.0.2.1");
        assert_eq!(of("6.6.6.6, 192.0.2.1, 127.0.0.9"), "192.0.2.1");
        assert_eq!(of("6.6.6.6,127.0.0.8,127.0.0.9"), "6.6.6.6");
        assert_eq!(of("192.0.2.1:4711"), "192.0.2.1");
        assert_eq!(of("[2001:db8::1]:4711"), "2001:db8::1");
        assert_eq!(of("2001:db8::1"), "2001:db8::1");
        assert_eq!(of("::ffff:192.0.2.1"), "192.0.2.1");
        for garbage in ["", "unknown", "6.6.6.6, _hidden", "6.6.6.6,", "6.6.6.6, 300.1.1.1", "6.6.6.6, [::1"] {
            assert_eq!(of(garbage), "127.0.0.1", "{garbage}");
        }
        let two = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "192.0.2.1, 127.0.0.2")];
        assert_eq!(client("127.0.0.1", &two).0, "192.0.2.1");
        assert_eq!(of(&"127.0.0.1,".repeat(10_000)), "127.0.0.1");
    }

    #[test]
    fn the_last_word_about_https_counts() {
        let https = |values: &[&str]| {
            let headers: Vec<_> = values.iter().map(|value| ("x-forwarded-proto", *value)).collect();
            client("127.0.0.1", &headers).1
        };
        assert!(https(&["HTTPS"]) && https(&["http, https"]) && https(&["http", "https"]));
        assert!(!https(&["https, http"]) && !https(&["https", "http"]) && !https(&["httpsx"]) && !https(&[""]));
    }
}
