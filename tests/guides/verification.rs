//! The chapter on verification, as it stands, against a server on a real libvirtd, with an agent.

use limen_support::agent::Agent;
use limen_support::server::{ADMIN_PASSWORD, Server};
use limen_support::site::{Database, Site};

use super::markdown::Document;
use super::shell;

#[test]
fn the_chapter_on_verification_holds_as_written() {
    let agent = Agent::start(&[]);
    let options = Server::options()
        .env("ALLOWED_ORIGINS", "https://www.example.org")
        .env("AGENT_URL", format!("http://127.0.0.1:{}", agent.port()));
    let site = Site::start_with(Database::Sqlite, options);
    for (path, chapter) in
        [("docs/ko/operations-guide.md", "검증 시나리오"), ("docs/en/operations-guide.md", "Verification")]
    {
        let guide = Document::read(path);
        let mut token = String::new();
        let mut run = |text: &str| {
            let text = text.replace("http://localhost:18443", &site.server.url());
            let output = shell(&text.replace("your_password", ADMIN_PASSWORD).replace("<token>", &token));
            assert!(output.success(), "{text}: {output:?}");
            let said = output.stdout.clone() + &output.stderr;
            if let Some((_, rest)) = said.split_once("\"access_token\":\"") {
                token = rest.split('"').next().unwrap_or_default().to_owned();
            }
            said
        };
        let blocks = guide.blocks_under(chapter, "bash");
        let expected: [&[&str]; 7] = [
            &["\"status\":\"ok\""],
            &["\"access_token\":\""],
            &["\"items\":["],
            &["cpu", "memory", "disk"],
            &["access-control-allow-origin: https://www.example.org", "204"],
            &["x-content-type-options: nosniff", "x-frame-options: DENY"],
            &["\"status\":401"],
        ];
        assert_eq!(blocks.len(), expected.len());
        for (block, expected) in blocks.iter().zip(expected) {
            let said = run(&block.text);
            for text in expected {
                assert!(said.contains(text), "{path}: {}\n{said}", block.text);
            }
        }
    }
}
