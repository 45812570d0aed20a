//! Promises about definitions: made, changed, shown, removed.

use super::{Fixture, TestVm, blank, done, nic, reachable, refused};
use crate::error::ErrorKind;
use crate::hypervisor::{DefinitionChange, Hypervisor, Mark};
use crate::model::{Firmware, MIB, Nic, OperationId, PowerAction, VmId, VmState, VolumeFormat};
use uuid::Uuid;

/// `create_definition` makes a VM that is off, bears the mark and shows the hardware asked for.
pub async fn create_defines_a_vm_powered_off(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    let mut vm = TestVm::new(hypervisor, fixture, "create");
    vm.definition.spec.vcpus = 2;
    vm.definition.spec.nics = vec![nic(fixture), nic(fixture)];
    vm.definition.labels.insert("tier".to_owned(), "web".to_owned());
    if hypervisor.capability().volumes {
        for format in [VolumeFormat::Qcow2, VolumeFormat::Raw] {
            let volume = blank(hypervisor, format, 16 * MIB).await;
            vm.attach(volume, 16 * MIB);
        }
    }
    vm.define().await;
    let seen = vm.get().await;
    assert_eq!(seen.id, vm.id());
    assert_eq!(seen.name, vm.definition.domain_name());
    assert_eq!(seen.mark, Some(vm.definition.mark));
    assert_eq!(seen.state, VmState::ShutOff);
    assert_eq!((seen.vcpus, seen.memory_mib), (2, fixture.memory_mib));
    assert!(!seen.autostart && !seen.definition_hash.is_empty(), "{seen:?}");
    vm.bring(VmState::Running).await;
    vm.clean().await;
}

/// What `read_definition` tells is defined again by `restore_definition`, to the hash, and over no other VM.
pub async fn definition_that_was_read_is_restored(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    let mut vm = TestVm::new(hypervisor, fixture, "restore");
    vm.definition.spec.nics = vec![nic(fixture)];
    vm.definition.labels.insert("tier".to_owned(), "web".to_owned());
    vm.define().await;
    let (before, text) = (vm.get().await, done(hypervisor.read_definition(vm.id()).await, "read a definition"));
    vm.bring(VmState::Running).await;
    done(hypervisor.restore_definition(vm.id(), &text).await, "restore what is there");
    assert_eq!(vm.get().await.state, VmState::Running, "what is there is left as it is");
    done(hypervisor.remove_definition(vm.id()).await, "remove");
    let unknown = hypervisor.read_definition(vm.id()).await;
    refused(unknown, ErrorKind::NotFound, "a VM that is not there");
    done(hypervisor.restore_definition(vm.id(), &text).await, "restore");
    let after = vm.get().await;
    assert_eq!((after.mark, after.name, after.definition_hash), (before.mark, before.name, before.definition_hash));
    assert_eq!(after.state, VmState::ShutOff);
    for (wrong, what) in [("", "nothing"), ("<x/>", "another document")] {
        refused(hypervisor.restore_definition(vm.id(), wrong).await, ErrorKind::Invalid, what);
    }
    refused(hypervisor.restore_definition(VmId::generate(), &text).await, ErrorKind::Invalid, "another VM's");
    vm.clean().await;
}

/// `create_definition` again with the same mark is a success and leaves the VM as it is.
pub async fn create_again_with_the_same_mark_is_a_success(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    let vm = TestVm::defined(hypervisor, fixture, "again").await;
    vm.define().await;
    vm.bring(VmState::Running).await;
    let before = vm.get().await;
    vm.define().await;
    let after = vm.get().await;
    assert_eq!((after.state, after.definition_hash), (VmState::Running, before.definition_hash));
    vm.clean().await;
}

/// `create_definition` with the id of a VM that bears another mark is refused; the VM stays as it is.
pub async fn create_with_another_mark_is_refused_and_changes_nothing(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    let vm = TestVm::defined(hypervisor, fixture, "marked").await;
    vm.bring(VmState::Running).await;
    let before = vm.get().await;
    let mut other = vm.definition.clone();
    other.mark = Mark { operation: OperationId::generate(), ..other.mark };
    other.spec.vcpus = 3;
    refused(hypervisor.create_definition(&other).await, ErrorKind::AlreadyExists, "another mark");
    let after = vm.get().await;
    assert_eq!((after.mark, after.state, after.vcpus), (before.mark, before.state, before.vcpus));
    assert_eq!(after.definition_hash, before.definition_hash);
    vm.clean().await;
}

/// `create_definition` under the name of another VM is refused; that VM stays as it is.
pub async fn create_under_a_taken_name_is_refused_and_changes_nothing(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    let vm = TestVm::defined(hypervisor, fixture, "name").await;
    let before = vm.get().await;
    // Only the last 12 digits of an id are part of the name.
    let mut bytes = *vm.id().0.as_bytes();
    bytes[0] ^= 0xff;
    let mut other = TestVm::new(hypervisor, fixture, "name");
    other.definition.id = VmId(Uuid::from_bytes(bytes));
    assert_eq!(other.definition.domain_name(), vm.definition.domain_name());
    let created = hypervisor.create_definition(&other.definition).await;
    refused(created, ErrorKind::AlreadyExists, "a taken name");
    refused(hypervisor.get(other.id()).await, ErrorKind::NotFound, "the refused one");
    assert_eq!(vm.get().await, before);
    vm.clean().await;
}

/// `create_definition` called several times at once makes one VM, and every call is a success.
pub async fn create_at_the_same_time_makes_one(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    let vm = TestVm::new(hypervisor, fixture, "parallel");
    let calls = (0..4).map(|_| hypervisor.create_definition(&vm.definition));
    for result in futures_util::future::join_all(calls).await {
        done(result, "create_definition in parallel");
    }
    let listed = done(hypervisor.list().await, "list");
    assert_eq!(listed.iter().filter(|seen| seen.id == vm.id()).count(), 1);
    vm.clean().await;
}

/// A VM on a network that is not there is refused at its creation or at its start, never run.
pub async fn create_on_a_missing_network_never_runs(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    let mut vm = TestVm::new(hypervisor, fixture, "no-network");
    vm.definition.spec.nics = vec![Nic { network: format!("{}-not-there", fixture.prefix), ..nic(fixture) }];
    match hypervisor.create_definition(&vm.definition).await {
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
            refused(hypervisor.get(vm.id()).await, ErrorKind::NotFound, "nothing is left of it");
        }
        Ok(()) => {
            let started = hypervisor.change_power(vm.id(), PowerAction::Start).await;
            assert!(started.is_err(), "it was started without its network");
            assert_eq!(vm.get().await.state, VmState::ShutOff);
        }
    }
    vm.clean().await;
}

/// UEFI firmware is given, or answered with unsupported and nothing is left.
pub async fn create_with_uefi_is_done_or_unsupported(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    let mut vm = TestVm::new(hypervisor, fixture, "uefi");
    vm.definition.spec.firmware = Firmware::Uefi;
    let created = hypervisor.create_definition(&vm.definition).await;
    if hypervisor.capability().uefi {
        done(created, "UEFI");
        vm.bring(VmState::Running).await;
    } else {
        refused(created, ErrorKind::Unsupported, "UEFI");
        refused(hypervisor.get(vm.id()).await, ErrorKind::NotFound, "nothing is left of it");
    }
    vm.clean().await;
}

/// Autostart is kept from the creation on and changed both ways, or answered with unsupported.
pub async fn autostart_is_kept_or_unsupported(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    let mut vm = TestVm::new(hypervisor, fixture, "autostart");
    vm.definition.autostart = true;
    let created = hypervisor.create_definition(&vm.definition).await;
    if !hypervisor.capability().autostart {
        return refused(created, ErrorKind::Unsupported, "autostart");
    }
    done(created, "autostart");
    assert!(vm.get().await.autostart);
    for autostart in [false, true, true] {
        let hash = vm.get().await.definition_hash;
        let change = DefinitionChange { autostart: Some(autostart), ..DefinitionChange::default() };
        done(hypervisor.change_definition(vm.id(), &hash, &change).await, "change_definition");
        assert_eq!(vm.get().await.autostart, autostart);
    }
    vm.clean().await;
}

/// Labels and titles of any text are kept as text: they break nothing and nothing breaks them.
pub async fn names_and_labels_are_kept_from_harm(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    let mut vm = TestVm::new(hypervisor, fixture, "text");
    for (n, text) in ["한국어 설명", "<&>\"' ]]>", "../../etc", "--help", "  two  spaces  "].iter().enumerate() {
        vm.definition.labels.insert(format!("label-{n}"), (*text).to_owned());
    }
    vm.define().await;
    let before = vm.get().await;
    assert_eq!((before.mark, before.name), (Some(vm.definition.mark), vm.definition.domain_name()));
    if hypervisor.capability().change_definition {
        let same = DefinitionChange { labels: Some(vm.definition.labels.clone()), ..DefinitionChange::default() };
        let hash = done(hypervisor.change_definition(vm.id(), "of another time", &same).await, "the same labels");
        assert_eq!(hash, before.definition_hash, "the labels came back as they went in");
        let title = DefinitionChange { title: Some("이름 <&> ]]>".to_owned()), ..DefinitionChange::default() };
        done(hypervisor.change_definition(vm.id(), &hash, &title).await, "a title");
        assert_eq!(vm.get().await.mark, Some(vm.definition.mark));
    }
    vm.clean().await;
}

/// `change_definition` shows in the definition, and answers its new hash.
pub async fn change_shows_in_the_definition(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    let vm = TestVm::defined(hypervisor, fixture, "change").await;
    let before = vm.get().await;
    let memory_mib = fixture.memory_mib + 32;
    let change = DefinitionChange { vcpus: Some(2), memory_mib: Some(memory_mib), ..DefinitionChange::default() };
    let changed = hypervisor.change_definition(vm.id(), &before.definition_hash, &change).await;
    if hypervisor.capability().change_definition {
        let hash = done(changed, "change_definition");
        let after = vm.get().await;
        assert_ne!(hash, before.definition_hash);
        assert_eq!((after.vcpus, after.memory_mib, &after.definition_hash), (2, memory_mib, &hash));
        assert_eq!((after.mark, after.name), (before.mark, before.name));
        let nothing = hypervisor.change_definition(vm.id(), &hash, &DefinitionChange::default()).await;
        assert_eq!(done(nothing, "an empty change"), hash);
        vm.bring(VmState::Running).await;
    } else {
        refused(changed, ErrorKind::Unsupported, "change_definition");
        assert_eq!(vm.get().await, before);
    }
    vm.clean().await;
}

/// `change_definition` to what is there already is a success, whatever the hash.
pub async fn change_again_is_a_success(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    let vm = TestVm::defined(hypervisor, fixture, "change-again").await;
    let before = vm.get().await.definition_hash;
    let change = DefinitionChange {
        title: Some("renamed".to_owned()),
        labels: Some([("a".to_owned(), "b".to_owned())].into()),
        vcpus: Some(2),
        ..DefinitionChange::default()
    };
    if !hypervisor.capability().change_definition {
        let changed = hypervisor.change_definition(vm.id(), &before, &change).await;
        refused(changed, ErrorKind::Unsupported, "change_definition");
        return vm.clean().await;
    }
    let hash = done(hypervisor.change_definition(vm.id(), &before, &change).await, "change_definition");
    for expected in [before.as_str(), hash.as_str(), ""] {
        let again = done(hypervisor.change_definition(vm.id(), expected, &change).await, "the same again");
        assert_eq!(again, hash);
    }
    vm.clean().await;
}

/// `change_definition` of a definition that is another by now is refused; nothing is changed.
pub async fn change_after_an_edit_is_refused_and_changes_nothing(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    let vm = TestVm::defined(hypervisor, fixture, "conflict").await;
    let old = vm.get().await.definition_hash;
    let edit = DefinitionChange { vcpus: Some(2), ..DefinitionChange::default() };
    let late = DefinitionChange { vcpus: Some(3), autostart: Some(true), ..DefinitionChange::default() };
    let edited = hypervisor.change_definition(vm.id(), &old, &edit).await;
    if hypervisor.capability().change_definition {
        done(edited, "an edit");
        let before = vm.get().await;
        let changed = hypervisor.change_definition(vm.id(), &old, &late).await;
        refused(changed, ErrorKind::Conflict, "a change after an edit");
        assert_eq!(vm.get().await, before);
    } else {
        refused(edited, ErrorKind::Unsupported, "change_definition");
    }
    vm.clean().await;
}

/// `change_definition` of a running VM leaves the guest running and shows what its next boot has.
pub async fn change_of_a_running_vm_waits_for_its_next_boot(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    let vm = TestVm::defined(hypervisor, fixture, "change-running").await;
    vm.bring(VmState::Running).await;
    let hash = vm.get().await.definition_hash;
    let change = DefinitionChange { vcpus: Some(2), ..DefinitionChange::default() };
    let changed = hypervisor.change_definition(vm.id(), &hash, &change).await;
    if hypervisor.capability().change_definition {
        let hash = done(changed, "change_definition");
        let after = vm.get().await;
        assert_eq!((after.state, after.vcpus, after.definition_hash), (VmState::Running, 2, hash.clone()));
        vm.power(PowerAction::PowerOff).await;
        let off = vm.get().await;
        assert_eq!((off.vcpus, off.definition_hash), (2, hash));
    } else {
        refused(changed, ErrorKind::Unsupported, "change_definition");
    }
    vm.clean().await;
}

/// `change_definition` of a VM that is not there is not found.
pub async fn change_of_an_unknown_vm_is_not_found(hypervisor: &dyn Hypervisor, _: &Fixture) {
    let change = DefinitionChange { vcpus: Some(2), ..DefinitionChange::default() };
    let kind = if hypervisor.capability().change_definition { ErrorKind::NotFound } else { ErrorKind::Unsupported };
    refused(hypervisor.change_definition(VmId::generate(), "", &change).await, kind, "change_definition");
}

/// The hash of a definition stays the same through every state and every look.
pub async fn definition_hash_stays_while_the_definition_does(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    let vm = TestVm::defined(hypervisor, fixture, "hash").await;
    let hash = vm.get().await.definition_hash;
    for state in reachable(hypervisor) {
        vm.bring(state).await;
        assert_eq!(vm.get().await.definition_hash, hash, "{state:?}");
        let listed = done(hypervisor.list().await, "list");
        let seen = listed.into_iter().find(|seen| seen.id == vm.id());
        assert_eq!(seen.map(|seen| seen.definition_hash), Some(hash.clone()), "{state:?}");
    }
    vm.clean().await;
}

/// `remove_definition` takes a VM away from every state, with its saved memory.
pub async fn remove_takes_a_vm_from_every_state(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    for state in reachable(hypervisor) {
        let vm = TestVm::defined(hypervisor, fixture, "remove").await;
        vm.bring(state).await;
        done(hypervisor.remove_definition(vm.id()).await, "remove_definition");
        refused(hypervisor.get(vm.id()).await, ErrorKind::NotFound, "get after it was removed");
        let listed = done(hypervisor.list().await, "list");
        assert!(listed.iter().all(|seen| seen.id != vm.id()), "{state:?}: it is still listed");
        // The same id can be used again, and nothing of before comes back with it.
        vm.define().await;
        assert_eq!(vm.get().await.state, VmState::ShutOff, "after {state:?}");
        vm.clean().await;
    }
}

/// `remove_definition` of a VM that is not there is a success.
pub async fn remove_again_is_a_success(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    let vm = TestVm::defined(hypervisor, fixture, "remove-again").await;
    let id = vm.id();
    vm.clean().await;
    done(hypervisor.remove_definition(id).await, "remove_definition again");
    done(hypervisor.remove_definition(VmId::generate()).await, "remove_definition of an unknown VM");
}

/// `remove_definition` leaves the VM's volumes.
pub async fn remove_leaves_the_volumes(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    let vm = TestVm::bootable(hypervisor, fixture, "keep-volumes").await;
    done(hypervisor.remove_definition(vm.id()).await, "remove_definition");
    if hypervisor.capability().volumes {
        let volumes = done(hypervisor.list_volumes().await, "list_volumes");
        for disk in &vm.definition.spec.disks {
            assert!(volumes.iter().any(|seen| seen.volume.id == disk.volume), "{volumes:?}");
        }
    }
    vm.clean().await;
}

/// `get` of a VM that is not there is not found.
pub async fn get_of_an_unknown_vm_is_not_found(hypervisor: &dyn Hypervisor, _: &Fixture) {
    refused(hypervisor.get(VmId::generate()).await, ErrorKind::NotFound, "get");
}

/// `list` shows every VM once, as `get` shows it.
pub async fn list_shows_what_get_shows(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    let mut vms = Vec::new();
    for state in reachable(hypervisor) {
        let vm = TestVm::defined(hypervisor, fixture, "list").await;
        vm.bring(state).await;
        vms.push(vm);
    }
    let listed = done(hypervisor.list().await, "list");
    for vm in vms {
        let mut of_it: Vec<_> = listed.iter().filter(|seen| seen.id == vm.id()).cloned().collect();
        let mut got = vm.get().await;
        // An address may be learned between the two looks.
        got.addresses.clear();
        of_it.iter_mut().for_each(|seen| seen.addresses.clear());
        assert_eq!(of_it, [got]);
        vm.clean().await;
    }
}
