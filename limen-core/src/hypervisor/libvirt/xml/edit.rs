//! Changes of a definition that leave every other byte as it is.
//!
//! The text is never written anew: the DOM only tells the byte ranges of what changes, and those
//! are replaced from the last to the first.

use std::io::Cursor;
use std::ops::Range;

use quick_xml::Writer;
use quick_xml::events::BytesText;
use roxmltree::{Document, Node};

use super::read::{self, mark_element};
use super::write::label;
use super::{NAMESPACE, check_text, child, parse};
use crate::error::{Error, Result};
use crate::hypervisor::DefinitionChange;
use crate::hypervisor::libvirt::error::{conflict, unexpected};
use crate::secret::Secret;

/// The definition with `change` made; none when it shows that already.
pub(crate) fn apply(text: &str, change: &DefinitionChange) -> Result<Option<String>> {
    let facts = read::definition(text)?;
    let document = parse(text)?;
    let root = document.root_element();
    let mut edits = Edits::default();
    if let Some(title) = change.title.as_ref().filter(|title| facts.title.as_ref() != Some(title)) {
        check_text("name", title)?;
        let element = element("title", &[], title)?;
        match child(root, "title") {
            Some(old) => edits.replace(old.range(), element),
            None => edits.insert_after(child(root, "uuid"), element)?,
        }
    }
    if let Some(labels) = change.labels.as_ref().filter(|labels| facts.labels != **labels) {
        let own = mark_element(root).ok_or_else(|| conflict("The VM was not made by LIMEN."))?;
        let mut xml = Writer::new(Cursor::new(Vec::new()));
        for (key, value) in labels {
            check_text("labels", key)?;
            check_text("labels", value)?;
            label(&mut xml, key, value).map_err(Error::internal)?;
        }
        let labels = String::from_utf8(xml.into_inner().into_inner()).map_err(Error::internal)?;
        relabel(text, own, labels, &mut edits)?;
    }
    if let Some(vcpus) = change.vcpus.filter(|vcpus| facts.vcpus != *vcpus) {
        let old = child(root, "vcpu").ok_or_else(|| unexpected("a definition without vcpu"))?;
        let kept: Vec<_> = old.attributes().filter(|attribute| attribute.name() != "current").collect();
        let kept: Vec<_> = kept.iter().map(|attribute| (attribute.name(), attribute.value())).collect();
        edits.replace(old.range(), element("vcpu", &kept, &vcpus.to_string())?);
    }
    if let Some(memory) = change.memory_mib.filter(|memory| facts.memory_mib != *memory) {
        for name in ["memory", "currentMemory"] {
            let Some(old) = child(root, name) else { continue };
            let kept = old.attributes().filter(|attribute| attribute.name() != "unit");
            let mut kept: Vec<_> = kept.map(|attribute| (attribute.name(), attribute.value())).collect();
            kept.push(("unit", "MiB"));
            edits.replace(old.range(), element(name, &kept, &memory.to_string())?);
        }
    }
    if edits.0.is_empty() { Ok(None) } else { edits.made_in(text).map(Some) }
}

/// The live screen with another password, for `virDomainUpdateDeviceFlags`: all else must be as it is.
pub(crate) fn screen(text: &str, password: &Secret, valid_to: &str) -> Result<String> {
    let document = parse(text)?;
    let screen = read::vnc(document.root_element()).ok_or_else(|| unexpected("a screen that has gone"))?;
    let kept = screen.attributes().filter(|attribute| !attribute.name().starts_with("passwd"));
    let mut attributes: Vec<_> = kept.map(|attribute| (attribute.name(), attribute.value())).collect();
    attributes.extend([("passwd", password.expose()), ("passwdValidTo", valid_to)]);
    let inner: String = screen.children().filter(Node::is_element).map(|child| &text[child.range()]).collect();
    let mut xml = Writer::new(Cursor::new(Vec::new()));
    xml.create_element("graphics")
        .with_attributes(attributes)
        .write_text_content(BytesText::from_escaped(inner))
        .map_err(Error::internal)?;
    String::from_utf8(xml.into_inner().into_inner()).map_err(Error::internal)
}

#[derive(Default)]
struct Edits(Vec<(Range<usize>, String)>);

impl Edits {
    fn replace(&mut self, range: Range<usize>, with: String) {
        self.0.push((range, with));
    }

    fn insert_after(&mut self, node: Option<Node<'_, '_>>, text: String) -> Result<()> {
        let end = node.ok_or_else(|| unexpected("a definition without uuid"))?.range().end;
        self.0.push((end..end, text));
        Ok(())
    }

    fn made_in(mut self, text: &str) -> Result<String> {
        self.0.sort_by_key(|(range, _)| std::cmp::Reverse(range.start));
        let mut edited = text.to_owned();
        for (range, with) in self.0 {
            edited.replace_range(range, &with);
        }
        // What comes out must be one well-formed document, or nothing is sent.
        Document::parse(&edited).map_err(|error| unexpected("an edit broke the definition").with_source(error))?;
        Ok(edited)
    }
}

/// Puts `labels` in the place of those in LIMEN's element.
fn relabel(text: &str, own: Node<'_, '_>, labels: String, edits: &mut Edits) -> Result<()> {
    for old in own.children().filter(|node| node.has_tag_name((NAMESPACE, "label"))) {
        edits.replace(old.range(), String::new());
    }
    let whole = &text[own.range()];
    let prefix = whole.trim_start_matches('<').split([':', ' ', '>', '/']).next().unwrap_or_default();
    if prefix != "limen" {
        return Err(conflict("The VM's mark was rewritten outside LIMEN."));
    }
    if whole.ends_with("/>") {
        let slash = own.range().end - 2;
        edits.replace(slash..own.range().end, [">", &labels, "</limen:vm>"].concat());
    } else {
        let close = whole.rfind("</").ok_or_else(|| unexpected("an element without an end"))?;
        let place = own.range().start + close;
        edits.replace(place..place, labels);
    }
    Ok(())
}

fn element(name: &str, attributes: &[(&str, &str)], text: &str) -> Result<String> {
    let mut xml = Writer::new(Cursor::new(Vec::new()));
    xml.create_element(name)
        .with_attributes(attributes.iter().copied())
        .write_text_content(BytesText::new(text))
        .map_err(Error::internal)?;
    String::from_utf8(xml.into_inner().into_inner()).map_err(Error::internal)
}
