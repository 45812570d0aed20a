//! libvirt's XML: written by a serializer, read by a DOM, changed by byte ranges.

pub(super) mod capabilities;
pub(super) mod edit;
pub(super) mod read;
pub(super) mod storage;
pub(super) mod write;

use roxmltree::{Document, Node};

use super::error::unexpected;
use crate::error::{Error, Result};

/// The namespace of LIMEN's mark.
pub(super) const NAMESPACE: &str = "urn:limen:1";

/// Parses what libvirt answered.
pub(super) fn parse(text: &str) -> Result<Document<'_>> {
    Document::parse(text).map_err(|error| unexpected("libvirt's XML cannot be read").with_context("xml", error))
}

/// The first child element of that name.
pub(super) fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|child| child.tag_name().name() == name && child.tag_name().namespace().is_none())
}

/// The element at the end of a path of names.
pub(super) fn at<'a, 'input>(node: Node<'a, 'input>, path: &[&str]) -> Option<Node<'a, 'input>> {
    path.iter().try_fold(node, |node, name| child(node, name))
}

/// Refuses text that XML 1.0 cannot carry, NUL among it.
pub(super) fn check_text(field: &str, text: &str) -> Result<()> {
    let carried =
        |c: char| !matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}');
    if text.chars().all(carried) {
        Ok(())
    } else {
        Err(Error::invalid(field, "It must not contain control characters."))
    }
}
