//! Which peers are proxies of ours, whose word about the client counts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

use super::{Result, refuse};

/// The addresses of `TRUSTED_PROXIES`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proxies(Vec<IpNet>);

impl Default for Proxies {
    /// This machine.
    fn default() -> Self {
        let loopback = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
        Self(vec![loopback.into(), IpNet::from(IpAddr::from(Ipv6Addr::LOCALHOST))])
    }
}

impl Proxies {
    /// Whether what a peer at this address says of its client is believed.
    pub(crate) fn trust(&self, address: IpAddr) -> bool {
        self.0.iter().any(|net| net.contains(&address))
    }

    /// Reads a list like `127.0.0.1,10.1.0.0/16,2001:db8::/32`; `none` trusts nobody.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self> {
        if text == "none" {
            return Ok(Self(Vec::new()));
        }
        let mut nets = Vec::new();
        for part in text.split(',').map(str::trim) {
            let net = part.parse::<IpNet>().ok().or_else(|| part.parse::<IpAddr>().ok().map(IpNet::from));
            match net {
                Some(net) if net.addr() == net.network() => nets.push(net),
                Some(net) => {
                    return refuse(format!(
                        "{name}: {part} is an address in a net; the net itself is {}.",
                        net.trunc()
                    ));
                }
                None => {
                    return refuse(format!(
                        "{name} must be addresses and nets like 127.0.0.1,10.1.0.0/16, or none, not {part:?}."
                    ));
                }
            }
        }
        Ok(Self(nets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_addresses_and_nets() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let default = Proxies::default();
        for (address, trusted) in [("127.0.0.1", true), ("127.9.9.9", true), ("::1", true), ("10.0.0.1", false)] {
            assert_eq!(default.trust(ip(address)), trusted, "{address}");
        }
        let some = Proxies::parse("TRUSTED_PROXIES", "10.1.0.0/16, 192.0.2.7,2001:db8::/32").expect("proxies");
        for (address, trusted) in
            [("10.1.2.3", true), ("10.2.0.1", false), ("192.0.2.7", true), ("192.0.2.8", false), ("2001:db8::9", true)]
        {
            assert_eq!(some.trust(ip(address)), trusted, "{address}");
        }
        let none = Proxies::parse("TRUSTED_PROXIES", "none").expect("nobody");
        assert!(!none.trust(ip("127.0.0.1")));
        for bad in ["localhost", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.1,", "10.0.0", "*", "::1/129"] {
            let sentence = Proxies::parse("TRUSTED_PROXIES", bad).expect_err(bad).to_string();
            assert!(sentence.starts_with("TRUSTED_PROXIES") && sentence.ends_with('.'), "{sentence}");
        }
    }
}
