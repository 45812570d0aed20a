//! The table of promises names chapters and tests that there are.

use limen_support::project_dir;

use super::markdown::Document;

/// What is wrong with what a cell names.
fn wrong(named: &str) -> Option<String> {
    let (path, test) = named.split_once("::").map_or((named, None), |(path, test)| (path, Some(test)));
    let Ok(text) = std::fs::read_to_string(project_dir().join(path)) else {
        return Some(format!("there is no {path}"));
    };
    let test = test?;
    let there = text.contains(&format!("fn {test}("));
    (!there).then(|| format!("there is no {test} in {path}"))
}

#[test]
fn every_promise_has_a_test_that_there_is() {
    let promises = Document::read("docs/promises.md");
    let rows: Vec<&String> =
        promises.prose.iter().filter(|line| line.starts_with("| ") && !line.starts_with("| promise")).collect();
    assert!(rows.len() > 40, "rows are missed: {}", rows.len());
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let [_, held] = cells[..] else { panic!("two cells: {row}") };
        let named: Vec<&str> = held.split('`').skip(1).step_by(2).filter(|code| code.contains('/')).collect();
        assert!(!named.is_empty(), "nothing holds it: {row}");
        let wrong: Vec<String> = named.into_iter().filter_map(wrong).collect();
        assert!(wrong.is_empty(), "{row}: {wrong:?}");
    }
    assert!(wrong("tests/nothing.rs").is_some() && wrong("tests/rig.rs::nothing").is_some());
}

#[test]
fn every_chapter_of_the_guide_has_its_promises() {
    let promises = Document::read("docs/promises.md");
    let guide = Document::read("docs/en/operations-guide.md");
    let chapters: Vec<&str> = guide.prose.iter().filter_map(|line| line.strip_prefix("## ")).collect();
    assert!(chapters.len() > 8);
    for chapter in chapters.iter().filter(|chapter| !["Contents", "Addresses", "See also"].contains(chapter)) {
        assert!(promises.headings.iter().any(|heading| heading == chapter), "nothing is promised in {chapter:?}");
    }
    let korean = Document::read("docs/ko/operations-guide.md");
    assert_eq!(korean.headings.len(), guide.headings.len(), "the languages have the same chapters");
    let code = |document: &Document| {
        let shown = document.blocks.iter().filter(|block| block.language != "text");
        shown
            .flat_map(|block| block.text.lines())
            .map(|line| line.split('#').next().unwrap_or_default().trim_end().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(code(&korean), code(&guide), "the languages show the same commands");
}
