//! Images, and the volumes that are copies of them or lie over them.

use std::collections::BTreeSet;

use super::driver::{Tx, args};
use super::failure::Outcome;
use super::rows::changed;
use super::value::{document, micros, name};
use crate::error::{Error, ErrorKind};
use crate::model::{EventNumber, Fact, Image, ImageId, ImagePhase, VolumeRecord};
use crate::store::{Expect, Row};

pub(super) async fn write(tx: &mut Tx, image: &Image, expect: Expect) -> Outcome<Fact> {
    let mut image = image.clone();
    if let Expect::Version(version) = expect {
        image.version = version + 1;
    }
    let mut args = args![
        image.id,
        &image.name,
        image.format.as_str(),
        name(&image.phase)?,
        image.version,
        micros(image.created_at),
        document(&image)?,
    ];
    let sql = match expect {
        Expect::Absent => {
            "INSERT INTO images (id, name, format, phase, version, created_at, document) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)"
        }
        Expect::Version(version) => {
            args.push(version.into());
            "UPDATE images SET name = $2, format = $3, phase = $4, version = $5, created_at = $6, document = $7 \
             WHERE id = $1 AND version = $8"
        }
    };
    let written = tx.execute(sql, args).await;
    if written.map_err(|failure| failure.named("There is an image of this name already.", ""))? == 0 {
        return Err(changed("image").into());
    }
    if image.phase == ImagePhase::Deleting {
        let sql = "SELECT 1 FROM vm_images WHERE image_id = $1 LIMIT 1";
        if tx.first(sql, args![image.id]).await?.is_some() {
            return Err(Error::new(ErrorKind::Conflict, "A VM needs this image.").into());
        }
    }
    Ok(Fact::Image { image })
}

pub(super) async fn gone(tx: &mut Tx, id: ImageId, facts: &mut Vec<Fact>) -> Outcome<()> {
    let written = tx.execute("DELETE FROM images WHERE id = $1", args![id]).await;
    if written.map_err(|failure| failure.named("", "A VM needs this image."))? > 0 {
        facts.push(Fact::ImageGone { id });
    }
    Ok(())
}

/// The images, among those that a change needs, that are ready; they stay so until its end.
#[derive(Debug)]
pub(super) struct Ready(BTreeSet<ImageId>);

impl Ready {
    /// Refuses an image that is not ready.
    pub(super) fn require(&self, image: ImageId) -> Outcome<()> {
        if self.0.contains(&image) {
            return Ok(());
        }
        let message = "An image that this needs is not ready: it is still being added, or is being deleted.";
        Err(Error::new(ErrorKind::Conflict, message).with_context("image", image).into())
    }
}

/// Locks the images that VMs and volumes of a change need, in the order of their ids.
pub(super) async fn lock_needed(tx: &mut Tx, rows: &[&Row]) -> Outcome<Ready> {
    let mut needed = BTreeSet::new();
    for row in rows {
        match row {
            Row::Vm { record, .. } => needed.extend(record.spec.needs()),
            Row::Volume(record) => needed.extend(record.image),
            _ => {}
        }
    }
    let mut ready = BTreeSet::new();
    for id in needed {
        let sql = "UPDATE images SET phase = phase WHERE id = $1 RETURNING phase";
        if let Some(line) = tx.first(sql, args![id]).await?
            && line.text(0)? == name(&ImagePhase::Ready)?
        {
            ready.insert(id);
        }
    }
    Ok(Ready(ready))
}

/// Inserts or replaces a volume's row.
pub(super) async fn volume(tx: &mut Tx, record: &VolumeRecord, ready: &Ready) -> Outcome<()> {
    let args = args![
        record.id,
        record.host,
        record.vm,
        record.image,
        record.format.as_str(),
        document(record)?,
        i64::try_from(record.capacity_bytes).unwrap_or(i64::MAX),
        record.filled,
    ];
    let update = "UPDATE volumes SET host_id = $2, vm_id = $3, image_id = $4, format = $5, document = $6, \
                  capacity_bytes = $7, filled = $8 WHERE id = $1";
    let dangling = "The volume's host or image is not there.";
    let written = tx.execute(update, args.clone()).await;
    if written.map_err(|failure| failure.named("", dangling))? > 0 {
        return Ok(());
    }
    if let Some(image) = record.image {
        ready.require(image)?;
    }
    let insert = "INSERT INTO volumes (id, host_id, vm_id, image_id, format, document, capacity_bytes, filled, event) \
                  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0)";
    let written = tx.execute(insert, args).await;
    written.map_err(|failure| failure.named("There is such a volume already.", dangling))?;
    // A volume of no recorded operation has no maker to remember.
    let maker = "INSERT INTO volume_makers (volume_id, operation_id) SELECT $1, id FROM operations WHERE id = $2 \
                 ON CONFLICT (volume_id) DO UPDATE SET operation_id = excluded.operation_id";
    tx.execute(maker, args![record.id, record.created_by]).await?;
    Ok(())
}

/// Writes down when the volumes among `rows` were written: with the log's number `event`.
pub(super) async fn date(tx: &mut Tx, rows: &[&Row], event: EventNumber) -> Outcome<()> {
    for row in rows {
        if let Row::Volume(record) = row {
            tx.execute("UPDATE volumes SET event = $2 WHERE id = $1", args![record.id, event]).await?;
        }
    }
    Ok(())
}
