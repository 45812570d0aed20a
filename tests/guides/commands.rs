//! Commands of `limen` that a document names are there, with the flags that it names.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use limen_support::process;
use limen_support::server::binary;

use super::markdown::Document;

/// What `limen WORDS --help` says.
struct Help(BTreeMap<String, String>);

impl Help {
    fn of(&mut self, words: &[&str]) -> String {
        let key = words.join(" ");
        let said = self.0.entry(key).or_insert_with(|| {
            let output = process::run(Command::new(binary()).args(words).arg("--help"), Duration::from_secs(20));
            assert!(output.success(), "limen {words:?} --help: {output:?}");
            output.stdout
        });
        said.clone()
    }

    /// The commands below one.
    fn commands(&mut self, words: &[&str]) -> Vec<String> {
        let said = self.of(words);
        let list = said.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        list.filter(|line| line.starts_with("  ") && !line.starts_with("   "))
            .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
            .collect()
    }
}

/// The commands in a text: what follows the word `limen`, up to the end of the command.
fn commands(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split(" #").next().unwrap_or_default();
        for command in line.split(['|', ';', '&', '(', ')']) {
            let mut words = command.split_whitespace().skip_while(|word| {
                ["$", "#", "sudo"].contains(word) || word.contains('=') || ["timeout", "3"].contains(word)
            });
            if words.next().is_some_and(|word| word == "limen" || word == "/usr/bin/limen") {
                found.push(words.map(str::to_owned).collect());
            }
        }
    }
    found
}

/// What is wrong with a command.
fn wrong(help: &mut Help, command: &[String]) -> Option<String> {
    let (mut flags, mut words) = (Vec::new(), Vec::<&str>::new());
    for word in command {
        if word.starts_with(['<', '>', '…', '"', '\'']) {
            break;
        }
        if let Some(flag) = word.strip_prefix("--") {
            flags.push(flag.split('=').next().unwrap_or_default());
            continue;
        }
        let below = help.commands(&words);
        if below.is_empty() {
            continue;
        }
        if !below.iter().any(|known| known == word) {
            return Some(format!("there is no `{word}` in `limen {}`", words.join(" ")));
        }
        words.push(word);
    }
    let said = help.of(&words);
    let unknown =
        flags.into_iter().find(|flag| !flag.is_empty() && *flag != "help" && !said.contains(&format!("--{flag}")));
    unknown.map(|flag| format!("`limen {}` has no --{flag}", words.join(" ")))
}

#[test]
fn every_command_that_a_document_names_is_there() {
    let mut help = Help(BTreeMap::new());
    let (mut count, mut errors) = (0, Vec::new());
    // The API guide names a function of its own so; the changelog tells of what was.
    let kept = |document: &Document| {
        !["docs/en/api-guide.md", "CHANGELOG.md"].iter().any(|path| document.path.ends_with(path))
    };
    for document in Document::all().into_iter().filter(kept) {
        let blocks = document.blocks.iter().filter(|block| ["bash", "console", "sh"].contains(&&*block.language));
        let texts = document.code().into_iter().chain(blocks.map(|block| block.text.as_str()));
        for command in texts.flat_map(commands) {
            count += 1;
            errors.extend(wrong(&mut help, &command).map(|why| format!("{}: {why}", document.path.display())));
        }
    }
    assert!(errors.is_empty(), "{errors:#?}");
    assert!(count > 50, "commands are missed: {count}");
}

#[test]
fn a_command_that_is_not_there_is_found() {
    let mut help = Help(BTreeMap::new());
    let mut told = |text: &str| commands(text).iter().find_map(|command| wrong(&mut help, command));
    assert!(told("sudo limen nothing").is_some());
    assert!(told("$ limen --local vm nothing --json").is_some());
    assert!(told("limen vm list --nothing").is_some());
    assert_eq!(told("limen --local vm list --json"), None);
}
