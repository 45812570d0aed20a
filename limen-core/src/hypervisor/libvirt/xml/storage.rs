//! Pools and volumes as XML.

use std::io::Cursor;

use quick_xml::Writer;
use quick_xml::events::BytesText;

use super::check_text;
use super::write::{empty, text};
use crate::error::{Error, Result};
use crate::hypervisor::VolumeSpec;

/// A pool of files in a directory.
pub(crate) fn pool(name: &str, directory: &str) -> Result<String> {
    check_text("pool", directory)?;
    let mut xml = Writer::new(Cursor::new(Vec::new()));
    xml.create_element("pool")
        .with_attribute(("type", "dir"))
        .write_inner_content(|xml| {
            text(xml, "name", name)?;
            xml.create_element("target").write_inner_content(|xml| {
                text(xml, "path", directory)?;
                // QEMU's user passes through and sees no list of names.
                xml.create_element("permissions").write_inner_content(|xml| text(xml, "mode", "0711"))?;
                Ok(())
            })?;
            Ok(())
        })
        .map_err(Error::internal)?;
    String::from_utf8(xml.into_inner().into_inner()).map_err(Error::internal)
}

/// An empty file: its name is all there is to it.
pub(crate) fn name_only(name: &str) -> Result<String> {
    check_text("volume", name)?;
    let mut xml = Writer::new(Cursor::new(Vec::new()));
    xml.create_element("volume")
        .write_inner_content(|xml| {
            text(xml, "name", name)?;
            text(xml, "capacity", "0")?;
            xml.create_element("target").write_inner_content(|xml| {
                empty(xml, "format", &[("type", "raw")])?;
                xml.create_element("permissions").write_inner_content(|xml| text(xml, "mode", "0600"))?;
                Ok(())
            })?;
            Ok(())
        })
        .map_err(Error::internal)?;
    String::from_utf8(xml.into_inner().into_inner()).map_err(Error::internal)
}

/// A volume, with its format stated and that of its backing volume, given by path.
pub(crate) fn volume(name: &str, spec: &VolumeSpec, backing: Option<&str>) -> Result<String> {
    let mut xml = Writer::new(Cursor::new(Vec::new()));
    xml.create_element("volume")
        .write_inner_content(|xml| {
            text(xml, "name", name)?;
            let bytes = xml.create_element("capacity").with_attribute(("unit", "bytes"));
            bytes.write_text_content(BytesText::new(&spec.capacity_bytes.to_string()))?;
            // None is taken before it is written to.
            xml.create_element("allocation")
                .with_attribute(("unit", "bytes"))
                .write_text_content(BytesText::new("0"))?;
            xml.create_element("target").write_inner_content(|xml| {
                empty(xml, "format", &[("type", spec.format.as_str())])?;
                xml.create_element("permissions").write_inner_content(|xml| text(xml, "mode", "0600"))?;
                Ok(())
            })?;
            if let (Some(path), Some(volume)) = (backing, spec.backing) {
                xml.create_element("backingStore").write_inner_content(|xml| {
                    text(xml, "path", path)?;
                    empty(xml, "format", &[("type", volume.format.as_str())])
                })?;
            }
            Ok(())
        })
        .map_err(Error::internal)?;
    String::from_utf8(xml.into_inner().into_inner()).map_err(Error::internal)
}
