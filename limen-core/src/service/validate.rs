//! The limits of every value that comes from outside, in one place.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::model::{CreateDisk, CreateVm, DiskMode, Quota, UpdateVm};

pub(super) const MAX_VCPUS: u32 = 512;
pub(super) const MIN_MEMORY_MIB: u64 = 16;
pub(super) const MAX_MEMORY_MIB: u64 = 16 * 1024 * 1024;
pub(super) const MAX_DISK_GIB: u64 = 64 * 1024;
const MAX_LIMIT: i64 = 1_000_000_000_000;
const MAX_DISKS: usize = 16;
const MAX_NICS: usize = 16;
const MAX_LABELS: usize = 64;
const MAX_DESCRIPTION: usize = 4096;

/// A name of a VM, image or user: it is also a host name, a file name and an argument without surprises.
pub(super) fn name(field: &str, name: &str) -> Result<()> {
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if !first || !rest || name.len() > 63 {
        let text =
            format!("{field} must be 1 to 63 letters, digits, '.', '_' or '-', and begin with a letter or digit.");
        return Err(Error::invalid(field, text));
    }
    if Uuid::try_parse(name).is_ok() {
        return Err(Error::invalid(field, format!("{field} must not look like a UUID.")));
    }
    Ok(())
}

/// Whether a text has nothing in it that XML 1.0 or a database cannot hold.
fn is_text(text: &str, lines: bool) -> bool {
    text.chars().all(|c| match c {
        '\n' | '\t' => lines,
        '\u{FFFE}' | '\u{FFFF}' => false,
        c => !c.is_control(),
    })
}

/// Limits of an owner.
pub(super) fn quota(quota: &Quota) -> Result<()> {
    for (resource, limit) in Quota::RESOURCES.into_iter().zip(quota.limits()) {
        if limit.is_some_and(|limit| !(0..=MAX_LIMIT).contains(&limit)) {
            let text = "A limit must be 0 to 1,000,000,000,000, or null for none.";
            return Err(Error::invalid(format!("quota.{resource}"), text));
        }
    }
    Ok(())
}

fn description(text: &str) -> Result<()> {
    if text.len() > MAX_DESCRIPTION {
        return Err(Error::invalid("description", "description must be at most 4096 bytes of UTF-8."));
    }
    if !is_text(text, true) {
        return Err(Error::invalid("description", "description must hold no control characters but tab and newline."));
    }
    Ok(())
}

fn labels(labels: &BTreeMap<String, String>) -> Result<()> {
    if labels.len() > MAX_LABELS {
        return Err(Error::invalid("labels", "There may be at most 64 labels."));
    }
    for (key, value) in labels {
        if key.is_empty() || key.len() > 63 || key.contains('=') || !is_text(key, false) {
            let text = "A label's key must be 1 to 63 bytes of UTF-8 without '=' and control characters.";
            return Err(Error::invalid("labels", text));
        }
        if value.len() > 255 || !is_text(value, false) {
            let text = "A label's value must be at most 255 bytes of UTF-8 without control characters.";
            return Err(Error::invalid("labels", text));
        }
    }
    Ok(())
}

fn vcpus(vcpus: u32) -> Result<()> {
    if (1..=MAX_VCPUS).contains(&vcpus) {
        return Ok(());
    }
    Err(Error::invalid("vcpus", format!("vcpus must be from 1 to {MAX_VCPUS}.")))
}

fn memory(memory_mib: u64) -> Result<()> {
    if (MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&memory_mib) {
        return Ok(());
    }
    Err(Error::invalid("memory_mib", format!("memory_mib must be from {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB}.")))
}

fn disk(index: usize, disk: &CreateDisk) -> Result<()> {
    let field = |name: &str| format!("disks[{index}].{name}");
    if disk.size_gib.is_none() && disk.image.is_none() {
        let text = "A disk needs a size_gib (blank) or an image to be filled from.";
        return Err(Error::invalid(format!("disks[{index}]"), text));
    }
    if disk.size_gib.is_some_and(|size| !(1..=MAX_DISK_GIB).contains(&size)) {
        return Err(Error::invalid(field("size_gib"), format!("size_gib must be from 1 to {MAX_DISK_GIB}.")));
    }
    if disk.image.is_none() && disk.mode.is_some_and(|mode| mode == DiskMode::Linked) {
        return Err(Error::invalid(field("mode"), "Only a disk that is filled from an image has a mode."));
    }
    if disk.image.is_some() && disk.format.is_some() {
        return Err(Error::invalid(field("format"), "A disk that is filled from an image has the image's format."));
    }
    Ok(())
}

/// Everything about a create that needs no look at what is there.
pub(super) fn create_vm(create: &CreateVm) -> Result<()> {
    name("name", &create.name)?;
    description(&create.description)?;
    labels(&create.labels)?;
    vcpus(create.vcpus)?;
    memory(create.memory_mib)?;
    if create.disks.len() > MAX_DISKS {
        return Err(Error::invalid("disks", "A VM may have at most 16 disks."));
    }
    if create.networks.len() > MAX_NICS {
        return Err(Error::invalid("networks", "A VM may have at most 16 NICs."));
    }
    create.disks.iter().enumerate().try_for_each(|(index, one)| disk(index, one))
}

/// Everything about an update that needs no look at what is there.
pub(super) fn update_vm(update: &UpdateVm) -> Result<()> {
    if *update == UpdateVm::default() {
        return Err(Error::invalid("body", "An update needs at least one field to change."));
    }
    update.name.as_deref().map_or(Ok(()), |text| name("name", text))?;
    update.description.as_deref().map_or(Ok(()), description)?;
    update.labels.as_ref().map_or(Ok(()), labels)?;
    update.vcpus.map_or(Ok(()), vcpus)?;
    update.memory_mib.map_or(Ok(()), memory)
}

/// A guest's time to obey, in seconds.
pub(super) fn timeout_s(timeout_s: u32) -> Result<()> {
    if (1..=3600).contains(&timeout_s) {
        return Ok(());
    }
    Err(Error::invalid("timeout_s", "timeout_s must be from 1 to 3600."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_surprise_are_refused() {
        for bad in [
            "",
            ".",
            "..",
            "--help",
            "-a",
            "a b",
            "a/b",
            "a\0b",
            "a\nb",
            "<a>",
            "a&b",
            "]]>",
            "é",
            "이름",
            "0190e5b0-4a9c-7e4e-9c58-8f3b5a1c2d3e",
            "0190e5b04a9c7e4e9c588f3b5a1c2d3e",
            &"a".repeat(64),
            &"x".repeat(300),
        ] {
            assert_eq!(
                name("name", bad).map_err(|e| e.field().map(str::to_owned)),
                Err(Some("name".into())),
                "{bad:?}"
            );
        }
        for good in ["a", "0", "web-1.example_x", &"a".repeat(63)] {
            assert!(name("name", good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn texts_in_any_script_are_kept_and_control_characters_refused() {
        assert!(description("웹 서버 <&> ]]> \u{2028}\nsecond line").is_ok());
        for bad in ["a\0", "\u{1b}[31m", "\u{FFFE}", "\u{85}"] {
            assert!(description(bad).is_err(), "{bad:?}");
        }
        assert!(labels(&BTreeMap::from([("환경".to_owned(), "운영".to_owned())])).is_ok());
        assert!(labels(&BTreeMap::from([("a=b".to_owned(), String::new())])).is_err());
    }
}
