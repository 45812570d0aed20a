//! Quotas: what an owner may have, reserved before the first step and given back once.

use std::collections::BTreeSet;
use std::time::Duration;

use limen_core::hypervisor::sim::{Fault, Method, On};
use limen_core::model::{CreateVm, OperationState, Quota, UpdateQuota, UpdateVm, Usage, VmId};
use limen_core::service::{CreateUser, HostReserve, UpdateUser};
use limen_core::{Actor, Context, ErrorKind, Limen, Role, Secret};
use limen_support::world::{Script, World, bare, blank, ended, succeeded};

use crate::{Db, Rig, ctx, eventually, kind, rig};

const PASSWORD: &str = "a long password";

/// A user with these limits, logged in.
async fn limited(limen: &Limen, name: &str, quota: Quota) -> Context {
    let password = Secret::new(PASSWORD);
    let user =
        CreateUser { name: name.to_owned(), password: password.clone(), role: Role::User, disabled: false, quota };
    limen.create_user(&ctx(), user).await.expect("a user");
    let (_, session) = limen.login(&Context::new(Actor::Anonymous), name, &password).await.expect("a login");
    Context::new(limen.authenticate(session.id).await.expect("a session"))
}

/// Whether this is the long form.
fn is_full() -> bool {
    std::env::var_os("LIMEN_CAMPAIGN").is_some_and(|form| form == "full")
}

async fn used(limen: &Limen, owner: &Context) -> Usage {
    limen.get_quota(owner).await.expect("a quota").used
}

async fn delete(limen: &Limen, owner: &Context, id: VmId) {
    succeeded(limen, limen.delete_vm(owner, id, None).await).await;
}

pub(crate) async fn campaign_of_parallel_creates_never_passes_a_quota(on: Db) {
    const LIMIT: usize = 5;
    let rounds = if is_full() { 100 } else { 20 };
    let Rig { limen, world, _postgres, .. } = rig(on).await;
    let quota = Quota { vms: Some(5), memory_mib: Some(64 * 7), disk_gib: Some(5), ..Quota::default() };
    let owner = limited(&limen, "ann", quota).await;
    for round in 0..rounds {
        let mut tasks = tokio::task::JoinSet::new();
        for index in 0..50 {
            let (limen, owner) = (limen.clone(), owner.clone());
            tasks.spawn(async move { limen.create_vm(&owner, blank(&format!("vm-{index}"))).await });
        }
        let mut made = Vec::new();
        for answer in tasks.join_all().await {
            match answer {
                Ok(operation) => made.push(operation),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::QuotaExceeded, "round {round}: {error:?}");
                    let figures = error.quota().expect("figures");
                    assert_eq!((figures.limit, figures.used), (5, 5), "round {round}: {figures:?}");
                }
            }
        }
        assert_eq!(made.len(), LIMIT, "round {round}");
        let mut vms = Vec::new();
        for operation in made {
            vms.push(succeeded(&limen, Ok(operation)).await.vm_id.expect("a VM"));
        }
        let all = Usage { vms: 5, vcpus: 5, memory_mib: 5 * 64, disk_gib: 5, snapshots: 0 };
        assert_eq!(used(&limen, &owner).await, all, "round {round}");
        for id in vms {
            delete(&limen, &owner, id).await;
        }
        assert_eq!(used(&limen, &owner).await, Usage::default(), "round {round}");
    }
    world.agrees(&limen, "a race for a quota").await;
    println!("{rounds} rounds of 50 creates at once, quota {LIMIT}: exactly {LIMIT} each");
}

pub(crate) async fn campaign_of_deletes_and_failures_leaves_a_quota_exact(on: Db) {
    const LIMIT: i64 = 5;
    let turns = if is_full() { 20 } else { 2 };
    let Rig { limen, sim, world, _postgres, .. } = rig(on).await;
    let owner = limited(&limen, "ann", Quota { vms: Some(LIMIT), ..Quota::default() }).await;
    for nth in (2..40).step_by(5) {
        sim.inject(On::method(Method::CreateVolume).nth(nth), Fault::NoSpace);
        sim.inject(On::method(Method::CreateDefinition).nth(nth), Fault::Fails(ErrorKind::Internal));
    }
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..50 {
        let (limen, owner) = (limen.clone(), owner.clone());
        tasks.spawn(async move {
            let (mut refused, mut failed, mut deleted) = (0, 0, 0);
            for turn in 0..turns {
                let operation = loop {
                    assert!(used(&limen, &owner).await.vms <= LIMIT);
                    match limen.create_vm(&owner, blank(&format!("vm-{index}-{turn}"))).await {
                        Ok(operation) => break ended(&limen, &operation).await,
                        Err(error) => assert_eq!(error.kind(), ErrorKind::QuotaExceeded, "{error:?}"),
                    }
                    refused += 1;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                };
                if operation.state == OperationState::Failed {
                    failed += 1;
                } else if turn + 1 < turns || index % 25 > 0 {
                    delete(&limen, &owner, operation.vm_id.expect("a VM")).await;
                    deleted += 1;
                }
            }
            (refused, failed, deleted)
        });
    }
    let outcomes = tasks.join_all().await.into_iter();
    let (refused, failed, deleted) = outcomes.fold((0, 0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1, sum.2 + one.2));
    let counted = format!("{refused} refused, {failed} failed, {deleted} deleted");
    assert!(refused > 0 && failed > 4 && deleted > 50, "{counted}");
    sim.clear_faults();
    world.agrees(&limen, "creates, deletes and failures").await;
    // What is left of the quota is to be had, and no more.
    let left = LIMIT - used(&limen, &owner).await.vms;
    for index in 0..left {
        succeeded(&limen, limen.create_vm(&owner, bare(&format!("left-{index}"))).await).await;
    }
    assert_eq!(kind(limen.create_vm(&owner, bare("one-more")).await), ErrorKind::QuotaExceeded);
    world.agrees(&limen, "all of it").await;
    println!("{counted}; the sum is exact");
}

pub(crate) async fn an_update_reserves_what_it_raises_a_vm_to(on: Db) {
    let Rig { limen, sim, world, _postgres, .. } = rig(on).await;
    let quota = Quota { vcpus: Some(4), memory_mib: Some(256), ..Quota::default() };
    let owner = limited(&limen, "ann", quota).await;
    let id = succeeded(&limen, limen.create_vm(&owner, bare("one")).await).await.vm_id.expect("a VM");
    let other = succeeded(&limen, limen.create_vm(&owner, bare("two")).await).await.vm_id.expect("a VM");
    let to = |vcpus, memory_mib| UpdateVm { vcpus, memory_mib, ..UpdateVm::default() };
    let refused = limen.update_vm(&owner, id, to(Some(4), None), None).await.expect_err("too many vCPUs");
    assert_eq!(refused.kind(), ErrorKind::QuotaExceeded);
    assert_eq!(refused.quota().map(|figures| (figures.resource.as_str(), figures.used)), Some(("vcpus", 2)));

    // While it is at work, the more of before and after is reserved.
    sim.inject(On::method(Method::ChangeDefinition), Fault::Hangs(None));
    let update = limen.update_vm(&owner, id, to(Some(3), Some(32)), None).await.expect("it is recorded");
    assert_eq!((used(&limen, &owner).await.vcpus, used(&limen, &owner).await.memory_mib), (4, 128));
    assert_eq!(kind(limen.create_vm(&owner, bare("three")).await), ErrorKind::QuotaExceeded);
    sim.release();
    succeeded(&limen, Ok(update)).await;
    assert_eq!((used(&limen, &owner).await.vcpus, used(&limen, &owner).await.memory_mib), (4, 96));

    // One that fails gives it back.
    sim.inject(On::method(Method::ChangeDefinition), Fault::NoSpace);
    let failing = limen.update_vm(&owner, other, to(None, Some(128)), None).await.expect("it is recorded");
    assert_eq!(ended(&limen, &failing).await.state, OperationState::Failed);
    assert_eq!(used(&limen, &owner).await.memory_mib, 96);
    world.agrees(&limen, "updates").await;

    // One that raises is for the version that it names, as any other.
    let etag = limen.get_vm(&owner, other).await.expect("the VM").etag;
    let version = etag.split('.').next().and_then(|version| version.parse::<i64>().ok()).expect("a version");
    let raise = |expected| limen.update_vm(&owner, other, to(None, Some(80)), Some(expected));
    assert_eq!(kind(raise(version - 1).await), ErrorKind::PreconditionFailed);
    succeeded(&limen, raise(version).await).await;
    succeeded(&limen, limen.update_vm(&owner, other, to(None, Some(64)), None).await).await;
    succeeded(&limen, limen.update_vm(&owner, id, to(Some(1), None), None).await).await;
    succeeded(&limen, limen.create_vm(&owner, bare("three")).await).await;
    assert_eq!(used(&limen, &owner).await, Usage { vms: 3, vcpus: 3, memory_mib: 160, ..Usage::default() });
    world.agrees(&limen, "updates").await;
}

pub(crate) async fn a_limit_is_changed_alone_and_shown(on: Db) {
    let Rig { limen, _postgres, .. } = rig(on).await;
    let owner = limited(&limen, "ann", Quota { vms: Some(1), vcpus: Some(3), ..Quota::default() }).await;
    let id = owner.actor().user_id().expect("a user");
    let first = succeeded(&limen, limen.create_vm(&owner, bare("one")).await).await.vm_id.expect("a VM");
    assert_eq!(kind(limen.create_vm(&owner, bare("two")).await), ErrorKind::QuotaExceeded);
    let change = |quota| UpdateUser { quota, ..UpdateUser::default() };
    let more = UpdateQuota { vms: Some(Some(2)), vcpus: Some(None), ..UpdateQuota::default() };
    let user = limen.update_user(&ctx(), id, change(more)).await.expect("changed");
    let quota = Quota { vms: Some(2), ..Quota::default() };
    assert_eq!((user.quota, user.user.id), (quota, id));
    assert_eq!(limen.get_user(&ctx(), id).await.expect("the user").quota, quota);
    assert_eq!(limen.get_me(&owner).await.expect("oneself").quota, quota);
    assert_eq!(limen.get_quota(&owner).await.expect("a quota").limits, quota);
    succeeded(&limen, limen.create_vm(&owner, CreateVm { vcpus: 8, ..bare("two") }).await).await;
    let less = UpdateQuota { vms: Some(Some(0)), ..UpdateQuota::default() };
    limen.update_user(&ctx(), id, change(less)).await.expect("less than there is");
    assert_eq!(used(&limen, &owner).await.vms, 2, "what is there stays");
    let rename = UpdateVm { name: Some("new".to_owned()), ..UpdateVm::default() };
    succeeded(&limen, limen.update_vm(&owner, first, rename, None).await).await;
    let absurd = UpdateQuota { disk_gib: Some(Some(-1)), ..UpdateQuota::default() };
    let refused = limen.update_user(&ctx(), id, change(absurd)).await.expect_err("a limit of less than nothing");
    assert_eq!((refused.kind(), refused.field()), (ErrorKind::Invalid, Some("quota.disk_gib")));
}

pub(crate) async fn a_host_keeps_its_reserve(on: Db) {
    let Rig { limen, mut world, _postgres, .. } = rig(on).await;
    let info = limen.list_hosts(&ctx()).await.expect("hosts")[0].info.clone().expect("what the host has");
    limen.crash().await;
    // Room for three VMs of 64 MiB, and for one disk of 1 GiB.
    let memory_overcommit = Some(3.5 * 64.0 / info.memory_mib as f64);
    let free_bytes = info.free_bytes - (3 << 29);
    world.reserve = HostReserve { memory_overcommit, free_bytes };
    let limen = world.limen(Script::new(Vec::new())).await;
    eventually("the host is up", || async { limen.list_hosts(&ctx()).await.expect("hosts")[0].info.is_some() }).await;
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..20 {
        let limen = limen.clone();
        tasks.spawn(async move { limen.create_vm(&ctx(), bare(&format!("vm-{index}"))).await });
    }
    let (made, refused): (Vec<_>, Vec<_>) = tasks.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!(made.len(), 3);
    let kinds: BTreeSet<_> = refused.into_iter().map(|answer| kind(answer).code()).collect();
    assert_eq!(kinds, BTreeSet::from(["no_space"]));
    let mut ids = Vec::new();
    for operation in made {
        ids.push(succeeded(&limen, operation).await.vm_id.expect("a VM"));
    }
    let more = UpdateVm { memory_mib: Some(128), ..UpdateVm::default() };
    assert_eq!(kind(limen.update_vm(&ctx(), ids[0], more, None).await), ErrorKind::NoSpace);
    delete(&limen, &ctx(), ids[0]).await;
    let mut large = blank("large");
    large.disks[0].size_gib = Some(2);
    assert_eq!(kind(limen.create_vm(&ctx(), large).await), ErrorKind::NoSpace);
    succeeded(&limen, limen.create_vm(&ctx(), blank("small")).await).await;
    world.agrees(&limen, "a host's reserve").await;
}

/// A process on `world` that has heard of its host.
async fn reached(world: &World) -> Limen {
    let limen = world.limen(Script::new(Vec::new())).await;
    eventually("the host is up", || async { limen.list_hosts(&ctx()).await.expect("hosts")[0].info.is_some() }).await;
    limen
}

pub(crate) async fn campaign_of_parallel_creates_never_passes_the_space_of_a_host(on: Db) {
    const ROOM: usize = 5;
    let rounds = if is_full() { 100 } else { 10 };
    let Rig { limen, sim, mut world, _postgres } = rig(on).await;
    let info = limen.list_hosts(&ctx()).await.expect("hosts")[0].info.clone().expect("what the host has");
    limen.crash().await;
    // The host tells once what is free, and when it is connected to again.
    world.timings.info = Duration::from_secs(3600);
    world.reserve = HostReserve { memory_overcommit: None, free_bytes: info.free_bytes - (11 << 29) };
    let limen = reached(&world).await;
    let create = async |name: &str| limen.create_vm(&ctx(), blank(name)).await;
    for round in 0..rounds {
        let mut tasks = tokio::task::JoinSet::new();
        for index in 0..50 {
            let limen = limen.clone();
            tasks.spawn(async move { limen.create_vm(&ctx(), blank(&format!("vm-{index}"))).await });
        }
        let (made, refused): (Vec<_>, Vec<_>) = tasks.join_all().await.into_iter().partition(Result::is_ok);
        assert_eq!(made.len(), ROOM, "round {round}");
        let kinds: BTreeSet<_> = refused.into_iter().map(|answer| kind(answer).code()).collect();
        assert_eq!(kinds, BTreeSet::from(["no_space"]), "round {round}");
        let mut vms = Vec::new();
        for operation in made {
            vms.push(succeeded(&limen, operation).await.vm_id.expect("a VM"));
        }
        assert_eq!(kind(create("one-more").await), ErrorKind::NoSpace, "round {round}");
        delete(&limen, &ctx(), vms.remove(0)).await;
        vms.push(succeeded(&limen, create("in-its-place").await).await.vm_id.expect("a VM"));
        if round + 1 == rounds {
            // Grown disks are promises no more once the host tells what they have really taken.
            let asked = sim.calls_of(Method::HostInfo);
            sim.disconnect();
            sim.reconnect();
            eventually("it tells", || async { sim.calls_of(Method::HostInfo) > asked }).await;
            eventually("there is room", || async {
                let made = limen.create_vm(&ctx(), blank("room")).await;
                made.is_ok() || !matches!(kind(made), ErrorKind::NoSpace)
            })
            .await;
        }
        for id in vms {
            delete(&limen, &ctx(), id).await;
        }
    }
    world.agrees(&limen, "a race for space").await;
    println!("{rounds} rounds of 50 creates at once, room for {ROOM}: exactly {ROOM} each");
}

pub(crate) async fn nobody_knows_what_an_unreached_host_has_room_for(on: Db) {
    let Rig { limen, sim, mut world, _postgres } = rig(on).await;
    limen.crash().await;
    sim.disconnect();
    world.timings.show = Duration::from_secs(1);
    let limen = world.limen(Script::new(Vec::new())).await;
    let refused = limen.create_vm(&ctx(), bare("blind")).await.expect_err("who knows");
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert!(refused.retry_after().is_some() && refused.to_string().contains("room"), "{refused:?}");
    // One that is reached while the caller waits is asked.
    let waiting = {
        let limen = limen.clone();
        tokio::spawn(async move { limen.create_vm(&ctx(), bare("seen")).await })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    sim.reconnect();
    succeeded(&limen, waiting.await.expect("no panic")).await;
    world.agrees(&limen, "a host that came late").await;
}
