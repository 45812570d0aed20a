//! The firewall of this machine: whether what comes to the server's port is let in.
//!
//! Rules of ufw and of iptables are all seen by `iptables -S`; firewalld and nftables are asked by
//! their own programs. Only root is told any of it.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::finding::{Kind, Report};
use super::place::program;
use crate::config::HttpConfig;

const PATIENCE: Duration = Duration::from_secs(4);

pub(super) async fn look(http: &HttpConfig) -> Report {
    let mut report = Report::default();
    let port = http.bind.port();
    if http.bind.ip().is_loopback() || !rustix::process::geteuid().is_root() {
        return report;
    }
    if said("firewall-cmd", &["--state"]).await.is_some_and(|state| state.trim() == "running") {
        match said("firewall-cmd", &[&format!("--query-port={port}/tcp")]).await {
            Some(answer) if answer.trim() == "yes" => report.good("firewall", "firewalld lets the port in"),
            _ => {
                let command = format!("firewall-cmd --permanent --add-port={port}/tcp && firewall-cmd --reload");
                report.find(Kind::FirewallClosed, closed("firewalld", port), command);
            }
        }
        return report;
    }
    let rules = said("iptables", &["-S"]).await.unwrap_or_default();
    if !admits(&rules, port) {
        let ufw = rules.contains("ufw-user-input") && program("ufw").is_some();
        let (who, command) = match ufw {
            true => ("ufw", format!("ufw allow {port}/tcp")),
            false => ("iptables", format!("iptables -I INPUT -p tcp --dport {port} -j ACCEPT")),
        };
        report.find(Kind::FirewallClosed, closed(who, port), command);
        return report;
    }
    let rules = said("nft", &["-j", "list", "ruleset"]).await.unwrap_or_default();
    match nft_chain_that_drops(&rules, port) {
        Some(chain) => {
            let command = format!("nft insert rule {chain} tcp dport {port} accept");
            report.find(Kind::FirewallClosed, closed("nftables", port), command);
        }
        None => report.good("firewall", format!("nothing keeps port {port} closed")),
    }
    report
}

fn closed(who: &str, port: u16) -> String {
    format!("The firewall ({who}) drops what comes to port {port}: nobody on another machine reaches LIMEN.")
}

/// What a program prints; none where it is not there, fails, or hangs.
async fn said(name: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program(name)?);
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether rules as `iptables -S` prints them let a TCP port in. Dropped is what chain INPUT drops by
/// its policy, or by a rule without conditions; let in before is what a rule accepts by the port, in
/// INPUT itself or in a chain of ufw's or others' that INPUT may ask.
fn admits(rules: &str, port: u16) -> bool {
    let drops_all = |line: &&str| {
        let end = line.trim_start_matches("-A INPUT ");
        end.starts_with("-j DROP") || end.starts_with("-j REJECT")
    };
    let input = || rules.lines().filter(|line| line.starts_with("-A INPUT "));
    let drops = rules.lines().any(|line| line == "-P INPUT DROP") || input().any(|line| drops_all(&line));
    let by_port = |line: &str| line.ends_with("-j ACCEPT") && !line.contains("-p udp") && names(line, port);
    let asked = rules.lines().filter(|line| {
        let built_in = ["-A INPUT ", "-A OUTPUT ", "-A FORWARD "].iter().any(|chain| line.starts_with(chain));
        line.starts_with("-A ") && !built_in
    });
    let before = input().take_while(|line| !drops_all(line));
    !drops || before.chain(asked).any(|line| line == "-A INPUT -j ACCEPT" || by_port(line))
}

/// Whether a rule names the port.
fn names(rule: &str, port: u16) -> bool {
    let mut words = rule.split_whitespace();
    let ports = words.find(|word| *word == "--dport" || *word == "--dports").and_then(|_| words.next());
    ports.unwrap_or_default().split(',').any(|part| match part.split_once(':') {
        Some((from, to)) => {
            from.parse().is_ok_and(|from: u16| from <= port) && to.parse().is_ok_and(|to: u16| port <= to)
        }
        None => part.parse() == Ok(port),
    })
}

/// The first chain of nftables' own that drops what comes in by its policy and has no rule for the
/// port, as `family table chain`. Tables that iptables keeps are not its own.
fn nft_chain_that_drops(rules: &str, port: u16) -> Option<String> {
    let rules: serde_json::Value = serde_json::from_str(rules).ok()?;
    let items = rules["nftables"].as_array()?;
    let accepts = items.iter().filter_map(|item| item.get("rule")).any(|rule| {
        let parts = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
        let by_port = parts.iter().any(|part| {
            let right = &part["match"]["right"];
            part["match"]["left"]["payload"]["field"] == "dport"
                && (right == port || right["set"].as_array().is_some_and(|set| set.iter().any(|one| one == port)))
        });
        by_port && parts.iter().any(|part| part.get("accept").is_some())
    });
    let chain = items.iter().filter_map(|item| item.get("chain")).find(|chain| {
        let by_iptables = chain["name"] == "INPUT" && chain["table"] == "filter";
        chain["hook"] == "input" && chain["policy"] == "drop" && !by_iptables
    })?;
    let text = |name: &str| chain[name].as_str().unwrap_or_default().to_owned();
    (!accepts).then(|| format!("{} {} {}", text("family"), text("table"), text("name")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_as_the_kernel_applies_them() {
        for (rules, admitted) in [
            ("", true),
            ("-P INPUT ACCEPT\n-A INPUT -p tcp --dport 22 -j ACCEPT", true),
            ("-P INPUT DROP\n-A INPUT -i lo -j ACCEPT", false),
            ("-P INPUT DROP\n-A INPUT -p tcp -m tcp --dport 18443 -j ACCEPT", true),
            ("-P INPUT DROP\n-A INPUT -p tcp -m multiport --dports 22,18000:18999 -j ACCEPT", true),
            ("-P INPUT DROP\n-A INPUT -p tcp -m tcp --dport 1844 -j ACCEPT", false),
            ("-P INPUT ACCEPT\n-A INPUT -j REJECT --reject-with icmp-port-unreachable", false),
            ("-P INPUT DROP\n-A INPUT -j ACCEPT", true),
            ("-P INPUT DROP\n-A INPUT -p udp -m udp --dport 18443 -j ACCEPT", false),
            ("-A INPUT -p tcp --dport 22 -j ACCEPT\n-A INPUT -j DROP\n-A INPUT -p tcp --dport 18443 -j ACCEPT", false),
            ("-P INPUT DROP\n-A OUTPUT -p tcp -m tcp --dport 18443 -j ACCEPT", false),
            (
                "-P INPUT DROP\n-A INPUT -j ufw-user-input\n-A ufw-user-input -p tcp -m tcp --dport 18443 -j ACCEPT",
                true,
            ),
        ] {
            assert_eq!(admits(rules, 18443), admitted, "{rules}");
        }
        let chain = r#"{"chain":{"family":"inet","table":"mine","name":"in","hook":"input","policy":"drop"}}"#;
        let rule = |end: &str| {
            let left = r#""left":{"payload":{"protocol":"tcp","field":"dport"}}"#;
            format!(r#"{{"nftables":[{chain},{{"rule":{{"expr":[{{"match":{{{left},"right":18443}}}},{end}]}}}}]}}"#)
        };
        assert_eq!(
            nft_chain_that_drops(&format!(r#"{{"nftables":[{chain}]}}"#), 18443).as_deref(),
            Some("inet mine in")
        );
        assert_eq!(nft_chain_that_drops(&rule(r#"{"accept":null}"#), 18443), None);
        assert!(nft_chain_that_drops(&rule(r#"{"drop":null}"#), 18443).is_some());
    }
}
