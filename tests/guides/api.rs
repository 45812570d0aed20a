//! The API guide, run from its first line to its last.

use limen_support::server::ADMIN_PASSWORD;
use limen_support::site::{Database, Site};

use super::markdown::Document;
use super::shell;

#[test]
fn every_command_of_the_api_guide_works() {
    let site = Site::start(Database::Sqlite);
    let guide = Document::read("docs/en/api-guide.md");
    let blocks: Vec<_> = guide.blocks.iter().filter(|block| block.language == "bash").collect();
    assert!(blocks.len() > 10, "blocks are missed");
    let mut script = "set -euo pipefail\n".to_owned();
    for block in blocks {
        script += &format!("echo '== {}'\n{}", block.under.last().expect("a heading"), block.text);
    }
    let script = script.replace("http://localhost:18443", &site.server.url()).replace("your_password", ADMIN_PASSWORD);
    let output = shell(&script);
    assert!(output.success(), "{output:?}");
    let said = |heading: &str| {
        let heading = format!("{heading}\n");
        let parts = output.stdout.split("== ").filter_map(|part| part.strip_prefix(&heading));
        parts.flat_map(str::lines).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(said("Power"), ["succeeded", "succeeded"]);
    assert_eq!(said("Change a VM"), ["succeeded"]);
    let made = said("Make a VM");
    assert_eq!((made[0].as_str(), made[1].as_str()), ("web-1", "shut_off"));
    assert_eq!(made[2], made[3], "a key names one operation");
    assert_eq!(said("Errors")[0], "invalid");
    assert!(said("Events").iter().any(|line| line.starts_with("id:")), "{output:?}");
    assert!(said("Consoles")[1].starts_with("/vnc/"));
    assert_eq!(said("Delete, and log out")[0], "succeeded");
}
