//! The few rows that every behaviour starts from, and values to write.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use serde_json::json;
use time::OffsetDateTime;

use crate::context::{Action, Role};
use crate::error::{Error, ErrorKind, Result};
use crate::hypervisor::HostVm;
use crate::model::{
    ActorRef, AuditOutcome, AuditRecord, Event, Firmware, HostId, HostRecord, Image, ImageFormat, ImageId, ImagePhase,
    Journal, Nic, Operation, OperationId, OperationKind, OperationState, OwnerId, OwnerRecord, Progress, Quota,
    SessionId, SessionRecord, Token, TokenId, TokenRecord, User, UserId, VmId, VmPhase, VmRecord, VmSpec, VmState,
    VolumeFormat, VolumeId, VolumeRecord,
};
use crate::secret::Secret;
use crate::store::{Change, Committed, Expect, OperationRow, OperationWrite, Row, Store};

/// A Store with one host, and one user with an owner.
#[derive(Debug, Clone)]
pub struct Fixture {
    /// The Store.
    pub store: Arc<dyn Store>,
    /// The host.
    pub host: HostId,
    /// The owner.
    pub owner: OwnerId,
    /// The user, whose owner it is.
    pub user: User,
}

/// A time that every database keeps exactly.
pub(super) fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(now.microsecond() * 1000).unwrap_or(now)
}

/// The error of a call that must be refused as `kind`.
///
/// # Panics
/// When it was not.
#[track_caller]
pub fn refused<T: Debug>(result: Result<T>, kind: ErrorKind) -> Error {
    let error = result.expect_err("this must be refused");
    assert_eq!(error.kind(), kind, "{error:?}");
    error
}

impl Fixture {
    /// Writes the first rows into a fresh Store.
    ///
    /// # Panics
    /// When the Store refuses them.
    pub async fn new(store: Arc<dyn Store>) -> Self {
        let host = HostRecord {
            id: HostId::generate(),
            name: "host".to_owned(),
            uri: "sim:///".to_owned(),
            labels: BTreeMap::new(),
            version: 1,
        };
        let owner = OwnerRecord {
            id: OwnerId::generate(),
            kind: "user".to_owned(),
            name: "ada".to_owned(),
            quota: Quota::default(),
        };
        let user = user("ada", owner.id);
        let change = Change {
            rows: vec![
                Row::User {
                    user: Box::new(user.clone()),
                    password_hash: Some(Secret::new("$argon2id$ada")),
                    expect: Expect::Absent,
                },
                Row::Host { record: Box::new(host.clone()), expect: Expect::Absent },
                Row::Owner(owner.clone()),
            ],
            ..Change::default()
        };
        store.commit(change).await.expect("a fresh store takes host, owner and user");
        Self { store, host: host.id, owner: owner.id, user }
    }

    /// Writes rows.
    pub async fn write(&self, rows: Vec<Row>) -> Result<Committed> {
        self.store.commit(Change { rows, ..Change::default() }).await
    }

    /// Writes a new VM.
    pub async fn insert_vm(&self, record: &VmRecord) -> Result<Committed> {
        self.write(vec![inserted(record)]).await
    }

    /// A VM of the fixture's owner on its host.
    #[must_use]
    pub fn vm(&self, name: &str) -> VmRecord {
        VmRecord {
            id: VmId::generate(),
            owner: self.owner,
            host: self.host,
            name: name.to_owned(),
            description: String::new(),
            labels: BTreeMap::new(),
            spec: VmSpec {
                vcpus: 1,
                memory_mib: 128,
                firmware: Firmware::Bios,
                disks: Vec::new(),
                iso: None,
                nics: Vec::new(),
            },
            raised: None,
            phase: VmPhase::Creating,
            autostart: false,
            created_by: OperationId::generate(),
            version: 1,
            created_at: now(),
            updated_at: now(),
        }
    }

    /// An operation about `vm`, queued.
    #[must_use]
    pub fn operation(&self, kind: OperationKind, vm: VmId) -> OperationRow {
        let operation = Operation {
            id: OperationId::generate(),
            kind,
            state: OperationState::Queued,
            host: self.host,
            vm_id: Some(vm),
            image_id: None,
            owner: Some(self.owner),
            actor: ActorRef { label: "user:ada".to_owned(), user: Some(self.user.id) },
            request_id: "request".to_owned(),
            step: None,
            progress: Progress::default(),
            cancel_requested: false,
            error: None,
            created_at: now(),
            finished_at: None,
        };
        let plan = json!({"name": "web"});
        let journal = Journal {
            kind_version: 1,
            plan,
            steps: Vec::new(),
            waiting: false,
            moved_at: None,
            held: None,
            resumed: false,
        };
        OperationRow { operation, journal }
    }

    /// Writes a new operation that locks its VM.
    pub async fn begin(&self, row: &OperationRow, preempt: bool) -> Result<Committed> {
        self.store.commit(Change { operation: Some(begun(row, preempt)), ..Change::default() }).await
    }

    /// Writes an operation as it is now.
    pub async fn update(&self, row: &OperationRow) -> Result<Committed> {
        let operation = Some(OperationWrite::Update(Box::new(row.clone())));
        self.store.commit(Change { operation, ..Change::default() }).await
    }

    /// What a host shows of a VM.
    #[must_use]
    pub fn seen(&self, vm: VmId, state: VmState) -> HostVm {
        HostVm {
            id: vm,
            name: "web-0123456789ab".to_owned(),
            mark: None,
            state,
            reason: None,
            autostart: false,
            vcpus: 1,
            memory_mib: 128,
            definition_hash: "hash".to_owned(),
            addresses: Vec::new(),
        }
    }

    /// What the fixture's host shows of a VM, as a row.
    #[must_use]
    pub fn status(&self, vm: VmId, state: VmState) -> Row {
        Row::Status { host: self.host, seen: Box::new(self.seen(vm, state)) }
    }

    /// A volume on the fixture's host.
    #[must_use]
    pub fn volume(&self, vm: Option<VmId>, image: Option<ImageId>, created_by: OperationId) -> VolumeRecord {
        VolumeRecord {
            id: VolumeId::generate(),
            host: self.host,
            format: VolumeFormat::Qcow2,
            capacity_bytes: 1 << 30,
            vm,
            image,
            filled: false,
            created_by,
        }
    }

    /// Every event of the log, read in small parts.
    ///
    /// # Panics
    /// When the log has a gap.
    pub async fn events(&self) -> Vec<Event> {
        let mut events: Vec<Event> = Vec::new();
        loop {
            let after = events.last().map_or(0, |event| event.number);
            let batch = self.store.events_after(after, 7).await.expect("the log can be read");
            if batch.events.is_empty() {
                return events;
            }
            for event in batch.events {
                assert_eq!(event.number, events.last().map_or(0, |event| event.number) + 1, "the log has a gap");
                events.push(event);
            }
        }
    }

    /// The number of the last event.
    pub async fn last(&self) -> i64 {
        self.store.snapshot().await.expect("the store can be read").event
    }
}

/// A user of `owner`.
pub(super) fn user(name: &str, owner: OwnerId) -> User {
    User {
        id: UserId::generate(),
        name: name.to_owned(),
        role: Role::User,
        disabled: false,
        owner,
        version: 1,
        created_at: now(),
    }
}

/// A session of `user` that lasts an hour.
pub(super) fn session(user: UserId) -> SessionRecord {
    let created_at = now();
    SessionRecord { id: SessionId::generate(), user, created_at, expires_at: created_at + time::Duration::HOUR }
}

/// An API token of `user` that lasts an hour.
pub(super) fn token(user: UserId, name: &str) -> TokenRecord {
    let (id, created_at) = (TokenId::generate(), now());
    let expires_at = Some(created_at + time::Duration::HOUR);
    let token = Token { id, user, name: name.to_owned(), role: Role::User, vm: None, created_at, expires_at };
    TokenRecord { token, hash: id.0.simple().to_string().repeat(2) }
}

/// An image that can be used.
pub(super) fn image(name: &str) -> Image {
    Image {
        id: ImageId::generate(),
        name: name.to_owned(),
        format: ImageFormat::Qcow2,
        size_bytes: 1 << 20,
        capacity_bytes: 1 << 30,
        sha256: "00".repeat(32),
        phase: ImagePhase::Ready,
        version: 1,
        created_at: now(),
    }
}

/// An audit record.
pub(super) fn audit(resource: &str) -> AuditRecord {
    let at = now();
    AuditRecord {
        id: AuditRecord::id_at(at),
        at,
        count: 1,
        last_at: None,
        actor: ActorRef { label: "local".to_owned(), user: None },
        origin: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        request_id: "request".to_owned(),
        action: Action::CreateVm,
        resource: resource.to_owned(),
        outcome: AuditOutcome::Accepted,
        operation: None,
        detail: None,
    }
}

/// The insert of a VM.
pub(super) fn inserted(record: &VmRecord) -> Row {
    Row::Vm { record: Box::new(record.clone()), expect: Expect::Absent }
}

/// The change of a VM that has `version` in the Store.
pub(super) fn updated(record: &VmRecord, version: i64) -> Row {
    Row::Vm { record: Box::new(record.clone()), expect: Expect::Version(version) }
}

/// The insert of an operation that locks its VM.
pub(super) fn begun(row: &OperationRow, preempt: bool) -> OperationWrite {
    let locks = row.operation.vm_id.iter().map(|vm| format!("vm:{vm}")).collect();
    OperationWrite::Insert { row: Box::new(row.clone()), locks, preempt }
}

/// An operation that has ended.
pub(super) fn ended(row: &OperationRow, state: OperationState) -> OperationRow {
    let mut row = row.clone();
    row.operation.state = state;
    row.operation.finished_at = Some(now());
    row
}

/// A NIC.
pub(super) fn nic(mac: &str) -> Nic {
    Nic { mac: mac.to_owned(), network: "limen".to_owned() }
}
