//! The steps of the operations on images.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::runner::StepContext;
use super::vms::{CreatePlan, counted, is_made_already};
use crate::error::{Error, ErrorKind, Result};
use crate::hypervisor::{VolumeRef, VolumeSpec};
use crate::model::{HostId, Image, ImageFormat, ImageId, ImagePhase, OperationId, VolumeFormat, VolumeRecord};
use crate::service::images::copy_id;
use crate::store::{Change, Expect, Row};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AddImagePlan {
    pub(crate) image: Image,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DeleteImagePlan {
    pub(crate) image: Image,
}

/// The format of an image's copy on a host.
pub(crate) const fn copy_format(format: ImageFormat) -> VolumeFormat {
    match format {
        ImageFormat::Qcow2 => VolumeFormat::Qcow2,
        ImageFormat::Raw | ImageFormat::Iso => VolumeFormat::Raw,
    }
}

/// Puts a copy of every image that the VM needs on the host, once for all VMs there. A copy
/// belongs to its image, so there is no undo.
pub(super) async fn place_images(cx: &StepContext) -> Result<Value> {
    for id in cx.plan::<CreatePlan>()?.images {
        let _turn = cx.ownership.host.placing.lock().await;
        place_image(cx, id).await?;
    }
    Ok(Value::Null)
}

async fn place_image(cx: &StepContext, id: ImageId) -> Result<()> {
    let host = cx.operation.host;
    let copy = copy_id(id, host);
    let volumes = cx.shared.store.volumes(host).await?;
    if volumes.iter().any(|volume| volume.id == copy && volume.filled) {
        return Ok(());
    }
    let image = cx.shared.inventory.image(id).ok_or_else(|| Error::not_found("image"))?;
    let record = copy_record(&image, host, cx.operation.id);
    if is_made_already(cx).await? {
        return write(cx, Row::Volume(VolumeRecord { filled: true, ..record })).await;
    }
    write(cx, Row::Volume(record.clone())).await?;
    let volume = VolumeRef { id: copy, format: record.format };
    // What an attempt before this one left may be half of it.
    cx.hypervisor().await.remove_volume(volume).await?;
    if let Err(error) = copy_image(cx, id, &record).await {
        // A part of a copy helps nobody, least of all where it filled the disk.
        if cx.hypervisor().await.remove_volume(volume).await.is_ok() {
            write(cx, Row::VolumeGone(copy)).await?;
        }
        return Err(error);
    }
    write(cx, Row::Volume(VolumeRecord { filled: true, ..record })).await
}

async fn copy_image(cx: &StepContext, id: ImageId, record: &VolumeRecord) -> Result<()> {
    let VolumeRecord { id: copy, format, capacity_bytes, .. } = *record;
    let spec = VolumeSpec { id: copy, format, capacity_bytes, backing: None };
    cx.hypervisor().await.create_volume(&spec).await?;
    let (file, length) = cx.shared.images()?.open(id).await?;
    let volume = VolumeRef { id: copy, format };
    cx.hypervisor().await.write_volume(volume, counted(cx, file, length), length).await
}

/// The row of an image's copy on a host, not filled yet.
pub(super) fn copy_record(image: &Image, host: HostId, created_by: OperationId) -> VolumeRecord {
    VolumeRecord {
        id: copy_id(image.id, host),
        host,
        format: copy_format(image.format),
        capacity_bytes: image.capacity_bytes,
        vm: None,
        image: Some(image.id),
        filled: false,
        created_by,
    }
}

async fn write(cx: &StepContext, row: Row) -> Result<()> {
    let fence = Some(cx.ownership.fence());
    cx.shared.store.commit(Change { fence, rows: vec![row], ..Change::default() }).await.map(drop)
}

pub(super) async fn store_file(cx: &StepContext) -> Result<Value> {
    let plan: AddImagePlan = cx.plan()?;
    cx.shared.images()?.keep(plan.image.id).await?;
    Ok(Value::Null)
}

/// Removes the image's file, wherever it is; the plans of both kinds have the image.
pub(super) async fn discard_file(cx: &StepContext) -> Result<Value> {
    let plan: AddImagePlan = cx.plan()?;
    cx.shared.images()?.remove(plan.image.id).await?;
    Ok(Value::Null)
}

pub(super) async fn added(cx: &StepContext) -> Result<Vec<Row>> {
    let AddImagePlan { image } = cx.plan()?;
    let expect = Expect::Version(image.version);
    let image = Image { phase: ImagePhase::Ready, version: image.version + 1, ..image };
    Ok(vec![Row::Image { image: Box::new(image), expect }])
}

pub(super) async fn gone(cx: &StepContext) -> Result<Vec<Row>> {
    let AddImagePlan { image } = cx.plan()?;
    Ok(vec![Row::ImageGone(image.id)])
}

/// Removes the image's copies from every host that has one.
pub(super) async fn remove_copies(cx: &StepContext) -> Result<Value> {
    let DeleteImagePlan { image } = cx.plan()?;
    for host in &cx.shared.hosts {
        let volumes = cx.shared.store.volumes(host.id).await?;
        for volume in volumes.iter().filter(|volume| volume.image == Some(image.id) && volume.vm.is_none()) {
            let volume = VolumeRef { id: volume.id, format: volume.format };
            cx.ownership.fresh(&cx.shared).await;
            match host.hypervisor.remove_volume(volume).await {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(Value::Null)
}
