//! Promises about volumes: files of bytes in LIMEN's pool.

use std::io::Cursor;
use std::time::Duration;

use tokio::io::AsyncReadExt;

use super::{Fixture, blank, done, refused, write};
use crate::error::ErrorKind;
use crate::hypervisor::{HostVolume, Hypervisor, VolumeRef, VolumeSpec};
use crate::model::{GIB, MIB, VolumeFormat, VolumeId};

const FORMATS: [VolumeFormat; 2] = [VolumeFormat::Qcow2, VolumeFormat::Raw];

/// Whether there are volumes; where there are none, every call says so.
async fn has_volumes(hypervisor: &dyn Hypervisor) -> bool {
    if hypervisor.capability().volumes {
        return true;
    }
    let volume = VolumeRef { id: VolumeId::generate(), format: VolumeFormat::Raw };
    let spec = VolumeSpec { id: volume.id, format: volume.format, capacity_bytes: MIB, backing: None };
    let bytes = Box::new(Cursor::new(vec![1]));
    refused(hypervisor.create_volume(&spec).await, ErrorKind::Unsupported, "create_volume");
    refused(hypervisor.write_volume(volume, bytes, 1).await, ErrorKind::Unsupported, "write_volume");
    refused(hypervisor.read_volume(volume).await, ErrorKind::Unsupported, "read_volume");
    refused(hypervisor.resize_volume(volume, MIB).await, ErrorKind::Unsupported, "resize_volume");
    refused(hypervisor.remove_volume(volume).await, ErrorKind::Unsupported, "remove_volume");
    refused(hypervisor.list_volumes().await, ErrorKind::Unsupported, "list_volumes");
    false
}

async fn find(hypervisor: &dyn Hypervisor, volume: VolumeRef) -> Option<HostVolume> {
    let all = done(hypervisor.list_volumes().await, "list_volumes");
    let mut of_it = all.into_iter().filter(|seen| seen.volume == volume);
    let first = of_it.next();
    assert!(of_it.next().is_none(), "{volume:?} is listed twice");
    first
}

async fn capacity(hypervisor: &dyn Hypervisor, volume: VolumeRef) -> Option<u64> {
    find(hypervisor, volume).await.map(|seen| seen.capacity_bytes)
}

async fn read(hypervisor: &dyn Hypervisor, volume: VolumeRef) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut source = done(hypervisor.read_volume(volume).await, "read_volume");
    done(source.read_to_end(&mut bytes).await.map_err(crate::Error::internal), "reading");
    bytes
}

async fn remove(hypervisor: &dyn Hypervisor, volume: VolumeRef) {
    done(hypervisor.remove_volume(volume).await, "remove_volume");
}

/// Bytes that show where they belong.
fn pattern(length: usize, salt: u8) -> Vec<u8> {
    (0..length).map(|at| (at / 251) as u8 ^ (at as u8) ^ salt).collect()
}

/// `create_volume` is listed with its capacity; again, also with another one, it leaves it as it is.
pub async fn volume_creation_is_idempotent(hypervisor: &dyn Hypervisor, _: &Fixture) {
    if !has_volumes(hypervisor).await {
        return;
    }
    for format in FORMATS {
        let volume = blank(hypervisor, format, 3 * MIB).await;
        assert_eq!(capacity(hypervisor, volume).await, Some(3 * MIB), "{format:?}");
        let larger = VolumeSpec { id: volume.id, format, capacity_bytes: 9 * MIB, backing: None };
        done(hypervisor.create_volume(&larger).await, "create_volume again");
        assert_eq!(capacity(hypervisor, volume).await, Some(3 * MIB), "{format:?}");
        remove(hypervisor, volume).await;
    }
}

/// A new volume takes next to no space, and a raw one reads as zeros.
pub async fn volume_is_blank_and_sparse(hypervisor: &dyn Hypervisor, _: &Fixture) {
    if !has_volumes(hypervisor).await {
        return;
    }
    for format in FORMATS {
        let volume = blank(hypervisor, format, 8 * GIB).await;
        let seen = find(hypervisor, volume).await;
        assert!(seen.is_some_and(|seen| seen.allocation_bytes < 16 * MIB), "{seen:?}");
        remove(hypervisor, volume).await;
    }
    let volume = blank(hypervisor, VolumeFormat::Raw, MIB).await;
    assert!(read(hypervisor, volume).await == vec![0; MIB as usize], "a new raw volume is not blank");
    remove(hypervisor, volume).await;
}

/// `read_volume` gives back what `write_volume` was given, and zeros up to a raw volume's end.
pub async fn volume_reads_back_what_was_written(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    if !has_volumes(hypervisor).await {
        return;
    }
    // Odd lengths, the fixture's own image, and more than any buffer on the way.
    for bytes in [pattern(1, 7), pattern(777_777, 1), fixture.image.clone(), pattern(9 * MIB as usize + 13, 2)] {
        let size = (bytes.len() as u64).next_multiple_of(MIB);
        let volume = blank(hypervisor, VolumeFormat::Raw, size).await;
        write(hypervisor, volume, bytes.clone()).await;
        let back = read(hypervisor, volume).await;
        assert_eq!(back.len() as u64, size, "the length of a raw volume's file");
        assert!(back.starts_with(&bytes), "{} bytes came back changed", bytes.len());
        assert!(back[bytes.len()..].iter().all(|byte| *byte == 0), "something behind the bytes written");
        remove(hypervisor, volume).await;
    }
}

/// `write_volume` again starts over from the volume's start.
pub async fn volume_written_again_starts_over(hypervisor: &dyn Hypervisor, _: &Fixture) {
    if !has_volumes(hypervisor).await {
        return;
    }
    let volume = blank(hypervisor, VolumeFormat::Raw, MIB).await;
    write(hypervisor, volume, pattern(MIB as usize, 3)).await;
    let second = pattern(MIB as usize, 4);
    write(hypervisor, volume, second.clone()).await;
    assert!(read(hypervisor, volume).await == second, "the second write is not what is there");
    remove(hypervisor, volume).await;
}

/// `write_volume` from a source that ends early is invalid, and can be done again.
pub async fn volume_refuses_a_short_source(hypervisor: &dyn Hypervisor, _: &Fixture) {
    if !has_volumes(hypervisor).await {
        return;
    }
    let volume = blank(hypervisor, VolumeFormat::Raw, MIB).await;
    for had in [0, 100_000] {
        let short = Box::new(Cursor::new(pattern(had, 5)));
        refused(hypervisor.write_volume(volume, short, 100_001).await, ErrorKind::Invalid, "a short source");
    }
    let whole = pattern(100_001, 6);
    write(hypervisor, volume, whole.clone()).await;
    assert!(read(hypervisor, volume).await.starts_with(&whole), "what was written after it");
    remove(hypervisor, volume).await;
}

/// `write_volume` that is dropped stops; the volume can be written again and removed.
pub async fn volume_write_can_be_dropped(hypervisor: &dyn Hypervisor, _: &Fixture) {
    if !has_volumes(hypervisor).await {
        return;
    }
    let volume = blank(hypervisor, VolumeFormat::Raw, MIB).await;
    let (source, keep) = tokio::io::duplex(64);
    let write_on = hypervisor.write_volume(volume, Box::new(source), MIB);
    let ended = tokio::time::timeout(Duration::from_millis(200), write_on).await;
    assert!(ended.is_err(), "a write without bytes came to an end: {ended:?}");
    drop(keep);
    let bytes = pattern(MIB as usize, 8);
    write(hypervisor, volume, bytes.clone()).await;
    assert!(read(hypervisor, volume).await == bytes, "the dropped write wrote on");
    remove(hypervisor, volume).await;
}

/// `resize_volume` makes a volume larger, never smaller, and again is a success.
pub async fn volume_only_grows(hypervisor: &dyn Hypervisor, _: &Fixture) {
    if !has_volumes(hypervisor).await {
        return;
    }
    for format in FORMATS {
        let volume = blank(hypervisor, format, 2 * MIB).await;
        if format == VolumeFormat::Raw {
            write(hypervisor, volume, pattern(2 * MIB as usize, 9)).await;
        }
        for (asked, then) in [(4 * MIB, 4 * MIB), (4 * MIB, 4 * MIB), (3 * MIB, 4 * MIB), (5 * MIB, 5 * MIB)] {
            done(hypervisor.resize_volume(volume, asked).await, "resize_volume");
            assert_eq!(capacity(hypervisor, volume).await, Some(then), "{format:?} to {asked}");
        }
        if format == VolumeFormat::Raw {
            let back = read(hypervisor, volume).await;
            assert_eq!(back.len() as u64, 5 * MIB);
            assert!(back.starts_with(&pattern(2 * MIB as usize, 9)), "growing changed its bytes");
        }
        remove(hypervisor, volume).await;
    }
}

/// A volume over another is copy-on-write and may be larger, or is answered with unsupported; one
/// over a volume that is not there is refused and not made.
pub async fn volume_over_another_is_copy_on_write(hypervisor: &dyn Hypervisor, _: &Fixture) {
    if !has_volumes(hypervisor).await {
        return;
    }
    for format in FORMATS {
        let base = blank(hypervisor, format, 4 * MIB).await;
        let mut spec = VolumeSpec {
            id: VolumeId::generate(),
            format: VolumeFormat::Qcow2,
            capacity_bytes: 6 * MIB,
            backing: Some(base),
        };
        let volume = VolumeRef { id: spec.id, format: spec.format };
        let created = hypervisor.create_volume(&spec).await;
        if hypervisor.capability().linked_volumes {
            done(created, "create_volume over another");
            done(hypervisor.create_volume(&spec).await, "create_volume over another again");
            let seen = find(hypervisor, volume).await;
            assert!(
                seen.is_some_and(|seen| seen.capacity_bytes == 6 * MIB && seen.allocation_bytes < 2 * MIB),
                "{seen:?}"
            );
            assert_eq!(capacity(hypervisor, base).await, Some(4 * MIB));
            remove(hypervisor, volume).await;
            spec.id = VolumeId::generate();
            spec.backing = Some(VolumeRef { id: VolumeId::generate(), format });
            assert!(hypervisor.create_volume(&spec).await.is_err(), "a volume over nothing");
            assert_eq!(find(hypervisor, VolumeRef { id: spec.id, format: spec.format }).await, None);
        } else {
            refused(created, ErrorKind::Unsupported, "create_volume over another");
        }
        remove(hypervisor, base).await;
    }
}

/// `remove_volume` again is a success; the volume is listed no more, and its id can be used again.
pub async fn volume_removal_is_idempotent(hypervisor: &dyn Hypervisor, _: &Fixture) {
    if !has_volumes(hypervisor).await {
        return;
    }
    let volume = blank(hypervisor, VolumeFormat::Raw, MIB).await;
    write(hypervisor, volume, pattern(1000, 1)).await;
    remove(hypervisor, volume).await;
    assert_eq!(find(hypervisor, volume).await, None);
    remove(hypervisor, volume).await;
    let spec = VolumeSpec { id: volume.id, format: volume.format, capacity_bytes: MIB, backing: None };
    done(hypervisor.create_volume(&spec).await, "create_volume after remove_volume");
    assert!(read(hypervisor, volume).await.iter().all(|byte| *byte == 0), "old bytes came back");
    remove(hypervisor, volume).await;
}

/// A volume that is not there is not found by write, read and resize.
pub async fn volume_that_is_unknown_is_not_found(hypervisor: &dyn Hypervisor, _: &Fixture) {
    if !has_volumes(hypervisor).await {
        return;
    }
    for format in FORMATS {
        let volume = VolumeRef { id: VolumeId::generate(), format };
        let bytes = Box::new(Cursor::new(vec![1; 1000]));
        refused(hypervisor.write_volume(volume, bytes, 1000).await, ErrorKind::NotFound, "write_volume");
        refused(hypervisor.read_volume(volume).await, ErrorKind::NotFound, "read_volume");
        refused(hypervisor.resize_volume(volume, MIB).await, ErrorKind::NotFound, "resize_volume");
    }
}
