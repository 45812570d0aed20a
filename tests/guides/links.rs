//! Links.

use std::path::{Component, Path, PathBuf};

use limen_support::project_dir;

use super::markdown::Document;

/// The path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => assert!(plain.pop(), "{} leaves the project", path.display()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

/// What is wrong with one link of a document.
fn wrong(documents: &[Document], document: &Document, link: &str) -> Option<String> {
    if link.starts_with("https://") {
        return None;
    }
    let told = |what: &str| Some(format!("{}: {link}: {what}", document.path.display()));
    if link.contains("://") {
        return told("no encrypted address");
    }
    let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
    let directory = document.path.parent().unwrap_or(Path::new(""));
    let path = if path.is_empty() { document.path.clone() } else { plain(&directory.join(path)) };
    if !project_dir().join(&path).exists() {
        return told("no such file");
    }
    let anchor = anchor?;
    let Some(target) = documents.iter().find(|document| document.path == path) else { return told("no document") };
    if target.anchors().contains(anchor) { None } else { told("no such heading") }
}

#[test]
fn every_link_leads_somewhere() {
    let documents = Document::all();
    let links: Vec<(&Document, String)> =
        documents.iter().flat_map(|document| document.links().into_iter().map(move |link| (document, link))).collect();
    assert!(links.len() > 150, "links are missed: {}", links.len());
    let wrong: Vec<String> = links.iter().filter_map(|(document, link)| wrong(&documents, document, link)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_document_is_linked_from_the_readme_or_a_home() {
    let documents = Document::all();
    let mut reached: Vec<PathBuf> = vec!["README.md".into()];
    let mut next = 0;
    while let Some(path) = reached.get(next).cloned() {
        next += 1;
        let Some(document) = documents.iter().find(|document| document.path == path) else { continue };
        for link in document.links().iter().filter(|link| !link.contains("://")) {
            let link = link.split('#').next().unwrap_or_default();
            let to = plain(&path.parent().unwrap_or(Path::new("")).join(link));
            if !reached.contains(&to) {
                reached.push(to);
            }
        }
    }
    let lost: Vec<_> = documents.iter().map(|document| &document.path).filter(|path| !reached.contains(path)).collect();
    assert!(lost.is_empty(), "nothing leads to {lost:?}");
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let documents = Document::all();
    let home = documents.iter().find(|document| document.path.ends_with("en/home.md")).expect("a home");
    for link in ["nowhere.md", "faq.md#nothing", "#nothing", "http://example.org", "../../Cargo.toml#workspace"] {
        assert!(wrong(&documents, home, link).is_some(), "{link}");
    }
    for link in
        ["faq.md", "operations-guide.md#verification", "../ko/operations-guide.md#검증-시나리오", "https://example.org"]
    {
        assert_eq!(wrong(&documents, home, link), None);
    }
}
