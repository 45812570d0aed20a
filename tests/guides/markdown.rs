//! What the documents say, as far as a test can hold them to it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use limen_support::project_dir;

/// A fenced block.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    /// The headings that it stands under, from the outermost one.
    pub(crate) under: Vec<String>,
    pub(crate) language: String,
    pub(crate) text: String,
}

/// A document of the project.
#[derive(Debug)]
pub(crate) struct Document {
    /// In the project.
    pub(crate) path: PathBuf,
    pub(crate) headings: Vec<String>,
    pub(crate) blocks: Vec<Block>,
    /// The lines that stand in no block.
    pub(crate) prose: Vec<String>,
}

impl Document {
    pub(crate) fn read(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_owned();
        let text = std::fs::read_to_string(project_dir().join(&path))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (mut headings, mut blocks, mut prose) = (Vec::new(), Vec::<Block>::new(), Vec::new());
        let mut under: Vec<(usize, String)> = Vec::new();
        let mut fence = None;
        for line in text.lines() {
            let start = line.trim_start();
            if let Some(language) = start.strip_prefix("```") {
                fence = match fence {
                    Some(()) => None,
                    None => {
                        let under = under.iter().map(|(_, heading)| heading.clone()).collect();
                        blocks.push(Block { under, language: language.to_owned(), text: String::new() });
                        Some(())
                    }
                };
            } else if fence.is_some() {
                let block = blocks.last_mut().expect("an open block");
                block.text.push_str(line);
                block.text.push('\n');
            } else {
                let depth = line.bytes().take_while(|byte| *byte == b'#').count();
                if let Some(heading) = line.get(depth..).and_then(|rest| rest.strip_prefix(' ')).filter(|_| depth > 0) {
                    under.retain(|(above, _)| *above < depth);
                    under.push((depth, heading.to_owned()));
                    headings.push(heading.to_owned());
                }
                prose.push(line.to_owned());
            }
        }
        assert!(fence.is_none(), "{}: a block that does not end", path.display());
        Self { path, headings, blocks, prose }
    }

    /// README, docs and what else is for readers.
    pub(crate) fn all() -> Vec<Self> {
        let mut paths = vec![];
        let mut directories = vec![PathBuf::from("docs")];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(project_dir().join(&directory)).expect("read a directory") {
                let path = directory.join(entry.expect("an entry").file_name());
                if project_dir().join(&path).is_dir() {
                    directories.push(path);
                } else if path.extension().is_some_and(|extension| extension == "md") {
                    paths.push(path);
                }
            }
        }
        paths.extend(["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "NOTICE.md"].map(PathBuf::from));
        paths.sort();
        assert!(paths.len() > 20, "documents are missed: {paths:?}");
        paths.iter().map(Self::read).collect()
    }

    /// The blocks of `language` under a heading.
    pub(crate) fn blocks_under(&self, heading: &str, language: &str) -> Vec<&Block> {
        let of_it = |block: &&Block| block.language == language && block.under.iter().any(|above| above == heading);
        self.blocks.iter().filter(of_it).collect()
    }

    /// The anchors of its headings, as GitHub makes them.
    pub(crate) fn anchors(&self) -> BTreeSet<String> {
        let mut anchors = BTreeSet::new();
        for heading in &self.headings {
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            let anchor: String = kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect();
            let again = (1..).map(|n| format!("{anchor}-{n}")).find(|name| !anchors.contains(name));
            let name = if anchors.contains(&anchor) { again.unwrap_or_default() } else { anchor };
            anchors.insert(name);
        }
        anchors
    }

    /// Where its links lead.
    pub(crate) fn links(&self) -> Vec<String> {
        let mut links = Vec::new();
        for line in &self.prose {
            let mut rest = line.as_str();
            while let Some((_, after)) = rest.split_once("](") {
                let Some((link, after)) = after.split_once(')') else { break };
                links.push(link.to_owned());
                rest = after;
            }
        }
        links
    }

    /// What stands between backquotes outside of blocks.
    pub(crate) fn code(&self) -> Vec<&str> {
        self.prose.iter().flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
    }
}
