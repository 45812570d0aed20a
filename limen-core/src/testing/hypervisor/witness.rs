//! Promises about the witness: what a host remembers of the Store.

use super::{Fixture, done, refused};
use crate::error::ErrorKind;
use crate::hypervisor::Hypervisor;
use crate::model::{InstallId, Witness};

fn witness(install: InstallId, epoch: i64, event: i64) -> Witness {
    Witness { install, epoch, event, at: 1_790_000_000_000_000 + event }
}

/// Whether there are witnesses; where there are none, both calls say so.
async fn has_witness(hypervisor: &dyn Hypervisor) -> bool {
    if hypervisor.capability().witness {
        return true;
    }
    let install = InstallId::generate();
    refused(hypervisor.read_witness(install).await, ErrorKind::Unsupported, "read_witness");
    refused(hypervisor.write_witness(&witness(install, 1, 1)).await, ErrorKind::Unsupported, "write_witness");
    false
}

async fn read(hypervisor: &dyn Hypervisor, install: InstallId) -> Option<Witness> {
    done(hypervisor.read_witness(install).await, "read_witness")
}

async fn write(hypervisor: &dyn Hypervisor, witness: &Witness) {
    done(hypervisor.write_witness(witness).await, "write_witness");
}

/// There is none before the first; what was written is read back whole, as often as it is asked for
/// and written.
pub async fn witness_is_kept_or_unsupported(hypervisor: &dyn Hypervisor, _: &Fixture) {
    if !has_witness(hypervisor).await {
        return;
    }
    let install = InstallId::generate();
    assert_eq!(read(hypervisor, install).await, None);
    let large = Witness { install, epoch: 1 << 40, event: i64::MAX - 1, at: i64::MAX };
    for witness in [witness(install, 1, 0), witness(install, 1, 17), large] {
        for _ in 0..2 {
            write(hypervisor, &witness).await;
            assert_eq!(read(hypervisor, install).await, Some(witness));
        }
    }
}

/// An older witness, by epoch and then by event, changes nothing, also when many come at once.
pub async fn witness_only_gets_newer(hypervisor: &dyn Hypervisor, _: &Fixture) {
    if !has_witness(hypervisor).await {
        return;
    }
    let install = InstallId::generate();
    write(hypervisor, &witness(install, 2, 50)).await;
    for (epoch, event) in [(2, 49), (1, 99), (2, 0)] {
        write(hypervisor, &witness(install, epoch, event)).await;
        assert_eq!(read(hypervisor, install).await, Some(witness(install, 2, 50)));
    }
    write(hypervisor, &witness(install, 3, 1)).await;
    assert_eq!(read(hypervisor, install).await, Some(witness(install, 3, 1)));
    let all = [7, 3, 9, 5, 8].map(|event| witness(install, 3, event));
    for outcome in futures_util::future::join_all(all.iter().map(|one| hypervisor.write_witness(one))).await {
        done(outcome, "write_witness at once");
    }
    assert_eq!(read(hypervisor, install).await, Some(witness(install, 3, 9)));
    // Those at once may not have seen each other: what is left of them goes with the next one.
    write(hypervisor, &witness(install, 3, 10)).await;
    assert_eq!(read(hypervisor, install).await, Some(witness(install, 3, 10)));
}

/// Each installation has its own.
pub async fn witness_is_an_installations_own(hypervisor: &dyn Hypervisor, _: &Fixture) {
    if !has_witness(hypervisor).await {
        return;
    }
    let (one, other) = (InstallId::generate(), InstallId::generate());
    write(hypervisor, &witness(one, 1, 5)).await;
    assert_eq!(read(hypervisor, other).await, None);
    write(hypervisor, &witness(other, 1, 9)).await;
    assert_eq!(read(hypervisor, one).await, Some(witness(one, 1, 5)));
    assert_eq!(read(hypervisor, other).await, Some(witness(other, 1, 9)));
}

/// A witness is not among the volumes.
pub async fn witness_is_no_volume(hypervisor: &dyn Hypervisor, _: &Fixture) {
    if !has_witness(hypervisor).await || !hypervisor.capability().volumes {
        return;
    }
    let before = done(hypervisor.list_volumes().await, "list_volumes").len();
    write(hypervisor, &witness(InstallId::generate(), 1, 5)).await;
    assert_eq!(done(hypervisor.list_volumes().await, "list_volumes").len(), before);
}
