//! What LIMEN remembers.
//!
//! Every method is one transaction. Every change goes through [`Store::commit`], which also writes
//! the events: each row in a [`Change`] that callers can see becomes one numbered event, so no
//! change can be forgotten by the log. The number counter is the last row a transaction locks,
//! which makes numbers dense and ordered as commits are.
//!
//! Locks are taken in one order: owner, host, image, VM, operation, counter.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::error::Result;
use crate::model::{
    AuditQuery, AuditRecord, Event, EventNumber, HostId, HostRecord, HostVm, Image, ImageId, InstallId, Journal,
    Operation, OperationId, OwnerId, OwnerRecord, Page, PageRequest, Quota, Restore, SessionId, SessionRecord,
    TicketRecord, TokenId, TokenRecord, Usage, User, UserId, VmId, VmRecord, VolumeId, VolumeRecord, Witness,
};
use crate::secret::Secret;

#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub mod examine;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sql;
#[cfg(feature = "sqlite")]
pub mod sqlite;

/// How a pool of database connections behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSettings {
    /// Connections at most.
    pub max_open: u32,
    /// A connection that is released while so many are idle is closed.
    pub max_idle: u32,
    /// A connection is not used for longer than this.
    pub max_lifetime: Duration,
    /// An idle connection is closed after this.
    pub max_idle_time: Duration,
    /// How long a call waits for a connection.
    pub acquire_timeout: Duration,
}

impl Default for PoolSettings {
    /// 100 open, 10 idle, 1 hour, 10 minutes, 5 seconds.
    fn default() -> Self {
        Self {
            max_open: 100,
            max_idle: 10,
            max_lifetime: Duration::from_secs(3600),
            max_idle_time: Duration::from_secs(600),
            acquire_timeout: Duration::from_secs(5),
        }
    }
}

/// What an installation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Install {
    /// The installation: made at the Store's first start, never changed.
    pub id: InstallId,
    /// The Store's epoch: rises each time that it is found to be restored.
    pub epoch: i64,
}

/// Proof of owning a host: every write on behalf of it carries this and is refused when it is old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    /// The host.
    pub host: HostId,
    /// Rises with each change of the owner.
    pub value: i64,
}

/// A host's lease, as the Store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The fence that goes with it.
    pub fence: Fence,
    /// The process that holds it; none when it was released.
    pub holder: Option<String>,
    /// Rises with each renewal: a contender that sees it stand still takes over.
    pub beat: i64,
    /// When the holder last observed the host in full, so that every process can tell.
    pub observed_at: Option<OffsetDateTime>,
}

/// An operation with what the runner keeps of it.
#[derive(Debug, Clone, PartialEq)]
pub struct OperationRow {
    /// What callers see.
    pub operation: Operation,
    /// What the runner needs.
    pub journal: Journal,
}

/// What a row must be for a change to go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// There is no such row: an insert. Else [`AlreadyExists`](crate::ErrorKind::AlreadyExists).
    Absent,
    /// The row has this version; the new one has the next. Else
    /// [`Conflict`](crate::ErrorKind::Conflict).
    Version(i64),
}

/// One row that a change writes.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Row {
    /// A VM's record. Its name is unique per owner, each of its MACs in the whole Store: else
    /// [`AlreadyExists`](crate::ErrorKind::AlreadyExists). Every image that its spec needs (see
    /// [`VmSpec::needs`](crate::model::VmSpec::needs)) must be
    /// [`Ready`](crate::model::ImagePhase::Ready) when it is inserted: else
    /// [`Conflict`](crate::ErrorKind::Conflict).
    ///
    /// What it comes to ([`Usage::of`]) counts for its owner from here on, exactly for as long as
    /// the record is there. A figure that rises past the owner's limit is
    /// [`QuotaExceeded`](crate::ErrorKind::QuotaExceeded) with the figures, also among any number
    /// of changes at once.
    Vm {
        /// The record as it shall be.
        record: Box<VmRecord>,
        /// What it must be before.
        expect: Expect,
    },
    /// A VM's record and MACs go. No such row is a success.
    VmGone(VmId),
    /// What a host shows of a VM. The Store gives it the next revision.
    Status {
        /// The host.
        host: HostId,
        /// What it shows.
        seen: Box<HostVm>,
    },
    /// A host shows a VM no more. No such row is a success.
    StatusGone {
        /// The host.
        host: HostId,
        /// The VM.
        vm: VmId,
    },
    /// A volume, inserted or replaced. No event. With an image: the image must be
    /// [`Ready`](crate::model::ImagePhase::Ready) when the row is first inserted, else
    /// [`Conflict`](crate::ErrorKind::Conflict).
    Volume(VolumeRecord),
    /// A volume goes. No event. No such row is a success.
    VolumeGone(VolumeId),
    /// An image. Its name is unique. To set it
    /// [`Deleting`](crate::model::ImagePhase::Deleting), no VM's spec may need it: else
    /// [`Conflict`](crate::ErrorKind::Conflict).
    Image {
        /// The image as it shall be.
        image: Box<Image>,
        /// What it must be before.
        expect: Expect,
    },
    /// An image goes, with its volume rows. No such row is a success.
    ImageGone(ImageId),
    /// A host.
    Host {
        /// The record as it shall be.
        record: Box<HostRecord>,
        /// What it must be before.
        expect: Expect,
    },
    /// An owner, inserted: else [`AlreadyExists`](crate::ErrorKind::AlreadyExists).
    Owner(OwnerRecord),
    /// An owner's limits are from now on these; what is in use stays, also past a limit. No such
    /// owner is [`NotFound`](crate::ErrorKind::NotFound).
    OwnerQuota {
        /// The owner.
        owner: OwnerId,
        /// The limits.
        quota: Quota,
    },
    /// An owner goes; it must own no VM: else [`Conflict`](crate::ErrorKind::Conflict).
    OwnerGone(OwnerId),
    /// A user. The name is unique. One enabled admin stays: a change that would take the role of
    /// admin or the flag from the last one is a [`Conflict`](crate::ErrorKind::Conflict), also
    /// where several such changes race.
    User {
        /// The user as it shall be.
        user: Box<User>,
        /// A new password hash (PHC string); none keeps the one that is there.
        password_hash: Option<Secret>,
        /// What it must be before.
        expect: Expect,
    },
    /// A user goes, with all sessions and tokens (each with its event). The last enabled admin
    /// stays: else [`Conflict`](crate::ErrorKind::Conflict).
    UserGone(UserId),
    /// A session begins. Its user must be there and not disabled: else
    /// [`Conflict`](crate::ErrorKind::Conflict).
    Session(SessionRecord),
    /// A session ends. No such row is a success.
    SessionGone(SessionId),
    /// All sessions of a user end, but for one.
    SessionsGone {
        /// The user.
        user: UserId,
        /// The session that stays.
        keep: Option<SessionId>,
    },
    /// An API token, inserted. Its name is unique among its user's, its hash in the whole Store:
    /// else [`AlreadyExists`](crate::ErrorKind::AlreadyExists). Its user must be there and not
    /// disabled: else [`Conflict`](crate::ErrorKind::Conflict).
    Token(Box<TokenRecord>),
    /// An API token goes. No such row is a success.
    TokenGone(TokenId),
    /// A console ticket, inserted. No event. Its hash is unique in the whole Store: else
    /// [`AlreadyExists`](crate::ErrorKind::AlreadyExists). Its user must be there: else
    /// [`Conflict`](crate::ErrorKind::Conflict).
    Ticket(Box<TicketRecord>),
    /// The console ticket of this hash is used. No event. It must be there: else
    /// [`Conflict`](crate::ErrorKind::Conflict), for all but one of those who use it at once.
    TicketUsed(String),
}

/// How a change writes its operation.
#[derive(Debug, Clone)]
pub enum OperationWrite {
    /// A new operation, with the locks that it holds until it is finished.
    Insert {
        /// The operation.
        row: Box<OperationRow>,
        /// What it locks: `vm:<id>`, `image:<id>`. One that another operation holds is
        /// [`Busy`](crate::ErrorKind::Busy) with that operation's id.
        locks: Vec<String>,
        /// Takes a lock over from an operation whose journal says `waiting`, and asks that one to cancel.
        preempt: bool,
    },
    /// A known operation as it shall be. A finished state releases the locks that it holds. The
    /// `cancel_requested` in the Store is kept when it is set. A finished operation is not changed:
    /// [`Conflict`](crate::ErrorKind::Conflict), but for one that goes from finished to `undoing`
    /// (a late effect was found).
    Update(Box<OperationRow>),
    /// A held operation as it shall be; a finished state releases the locks that it holds. One that
    /// is not held, or not any more, is a [`Conflict`](crate::ErrorKind::Conflict).
    Settle(Box<OperationRow>),
    /// Sets `cancel_requested`; no effect on a finished operation.
    RequestCancel(OperationId),
}

/// An idempotency key and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// Who and what: the user and the method.
    pub scope: String,
    /// The client's key.
    pub key: String,
    /// A digest of the request.
    pub digest: String,
}

/// What [`Store::commit`] writes, all of it or nothing.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// Proof of owning the host on whose behalf this is written: an old one is
    /// [`Conflict`](crate::ErrorKind::Conflict) and nothing is written.
    pub fence: Option<Fence>,
    /// The operation, written with the rest. All events bear its id.
    pub operation: Option<OperationWrite>,
    /// Remembers the operation under this key for 24 hours. A key that is there already wins: see
    /// [`Committed::repeated`].
    pub idempotency: Option<IdempotencyKey>,
    /// The rows, written in the fixed lock order whatever their order here.
    pub rows: Vec<Row>,
    /// Audit records. None is ever changed again, and none removed before its time.
    pub audit: Vec<AuditRecord>,
    /// How much memory the VMs of a host may have together: rows that raise the sum past it are
    /// [`NoSpace`](crate::ErrorKind::NoSpace).
    pub memory_limit: Option<MemoryLimit>,
    /// How much space the host had for disks when it last told: volumes of VMs among the rows that
    /// are more than that, with those that it could not know of yet, are
    /// [`NoSpace`](crate::ErrorKind::NoSpace).
    pub space_limit: Option<SpaceLimit>,
}

/// How much memory the VMs of a host may have together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimit {
    /// The host.
    pub host: HostId,
    /// The limit in MiB.
    pub mib: i64,
}

/// How much space a host had for the disks of VMs at a moment.
///
/// What was free then is compared with the volumes of VMs, fully grown, that are new in the change,
/// that are not filled yet, or that were filled after that moment: exactly, among any number of
/// changes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceLimit {
    /// The host.
    pub host: HostId,
    /// What it had for new disks, in bytes.
    pub bytes: i64,
    /// The moment: an event that was in the log before the host told.
    pub as_of: EventNumber,
}

/// What became of a [`Change`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The last event's number: this change's, or the log's when it made none.
    pub event: EventNumber,
    /// The operation that the idempotency key stood for already; nothing was written. A key with
    /// another digest is [`Conflict`](crate::ErrorKind::Conflict) instead.
    pub repeated: Option<OperationId>,
}

/// Everything that the inventory holds, and the number of the last event in it. One read.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The last event.
    pub event: EventNumber,
    /// VMs.
    pub vms: Vec<VmRecord>,
    /// What hosts show: host, VM, revision.
    pub statuses: Vec<(HostId, HostVm, i64)>,
    /// Operations that are not finished.
    pub operations: Vec<Operation>,
    /// Images.
    pub images: Vec<Image>,
    /// Hosts.
    pub hosts: Vec<HostRecord>,
    /// Owners.
    pub owners: Vec<OwnerRecord>,
    /// What counts for each owner: the sum of [`Usage::of`] over the owner's VMs.
    pub used: BTreeMap<OwnerId, Usage>,
    /// The memory of the VMs of each host together, in MiB.
    pub host_memory_mib: BTreeMap<HostId, i64>,
    /// Users.
    pub users: Vec<User>,
    /// Sessions.
    pub sessions: Vec<SessionRecord>,
    /// API tokens.
    pub tokens: Vec<TokenRecord>,
    /// The restores that were noticed, oldest first.
    pub restores: Vec<Restore>,
}

/// A part of the log.
#[derive(Debug, Clone, Default)]
pub struct EventBatch {
    /// The events, in order and without gap.
    pub events: Vec<Event>,
    /// The oldest number that the log still has; 1 where nothing was removed yet.
    pub oldest: EventNumber,
}

/// Which operations of the history.
#[derive(Debug, Clone, Default)]
pub struct OperationQuery {
    /// Only those of these owners.
    pub owners: Option<Vec<OwnerId>>,
    /// Only those about this VM.
    pub vm: Option<VmId>,
    /// Which part; newest first.
    pub page: PageRequest,
}

/// What is kept how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Events, 30 days.
    pub events: Duration,
    /// Finished operations, 90 days; never less than 30.
    pub operations: Duration,
    /// Idempotency keys, 24 hours; never less.
    pub keys: Duration,
    /// Audit records, 400 days; never less than 30.
    pub audit: Duration,
    /// Sessions and API tokens that have ended by themselves, 24 hours after their end.
    pub ended: Duration,
}

impl Retention {
    /// Finished operations tell late effects from foreign things for this long: 30 days.
    pub const LEAST_OPERATIONS: Duration = Duration::from_secs(30 * 24 * 3600);
    /// A key stands for its request for this long: 24 hours.
    pub const LEAST_KEYS: Duration = Duration::from_secs(24 * 3600);
    /// The Store refuses to remove a younger audit record, whoever asks: 30 days.
    pub const LEAST_AUDIT: Duration = Duration::from_secs(30 * 24 * 3600);
}

/// How many rows of one table a call of [`Store::prune`] removes at most: where it did, there may be
/// more.
pub const PRUNED_AT_ONCE: u64 = 1000;

impl Default for Retention {
    fn default() -> Self {
        const DAY: u64 = 24 * 3600;
        Self {
            events: Duration::from_secs(30 * DAY),
            operations: Duration::from_secs(90 * DAY),
            keys: Duration::from_secs(DAY),
            audit: Duration::from_secs(400 * DAY),
            ended: Duration::from_secs(DAY),
        }
    }
}

/// What LIMEN remembers.
///
/// Common to all methods: each is one transaction, atomic and durable when it returns; a database
/// that cannot be reached or is overloaded answers [`Unavailable`](crate::ErrorKind::Unavailable)
/// (serialization failures and deadlocks are retried inside first), and so does every change of a
/// database that a newer program has upgraded; a full disk answers
/// [`NoSpace`](crate::ErrorKind::NoSpace).
#[async_trait]
pub trait Store: Debug + Send + Sync + 'static {
    /// Which installation this is, and its epoch now.
    async fn install(&self) -> Result<Install>;

    /// How far this Store has got: what a host is to remember of it.
    async fn witness(&self) -> Result<Witness>;

    /// Holds this Store against what a host remembers of it. None where it is the Store that the
    /// host knows, as far as it got then or further: also one that was moved, or one of which this
    /// very loss was noticed before. Of a witness of another installation nothing is told: none.
    ///
    /// Else the Store was restored from a copy of before, and everything of the time that was lost
    /// is taken account of at once: a new epoch begins, the numbers of events go on beyond any that
    /// the host can know of, every session ends, every lease is free under a fence that nobody
    /// holds, and every unfinished operation is [`Held`](crate::model::OperationState::Held). `host`
    /// names the host, `audit` is the record of it.
    ///
    /// Of several calls at once with the same witness, one notices and the others are told none.
    async fn judge(&self, witness: &Witness, host: &str, audit: AuditRecord) -> Result<Option<Restore>>;

    /// Writes `change`, all of it or nothing. Where the answer of a commit was lost, the operation
    /// id or idempotency key in it tells whether it went through; a change with neither answers
    /// [`Unavailable`](crate::ErrorKind::Unavailable) and may have.
    async fn commit(&self, change: Change) -> Result<Committed>;

    /// Everything that the inventory holds, as of one event.
    async fn snapshot(&self) -> Result<Snapshot>;

    /// At most `limit` events after number `after`.
    async fn events_after(&self, after: EventNumber, limit: u32) -> Result<EventBatch>;

    /// Returns when the log may have grown past number `after`, by this process or another: at
    /// once when it is known to have, at the latest after `at_most`. Only a hint; any number of
    /// callers may wait.
    async fn changed(&self, after: EventNumber, at_most: Duration);

    /// One operation.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound).
    async fn operation(&self, id: OperationId) -> Result<OperationRow>;

    /// A page of the history of operations, newest first.
    async fn operations(&self, query: &OperationQuery) -> Result<Page<Operation>>;

    /// The operations of a host that are not finished, oldest first.
    async fn unfinished(&self, host: HostId) -> Result<Vec<OperationRow>>;

    /// The operation that inserted the row of this volume, also after the row is gone, for as long
    /// as that operation is kept: for telling a late effect from a foreign volume.
    async fn volume_maker(&self, volume: VolumeId) -> Result<Option<OperationId>>;

    /// Every lock that is held, with the operation that holds it, in the order of resources: `vm:<id>`,
    /// `image:<id>`.
    async fn locks(&self) -> Result<Vec<(String, OperationId)>>;

    /// The volumes of a host.
    async fn volumes(&self, host: HostId) -> Result<Vec<VolumeRecord>>;

    /// What an idempotency key stands for: the digest of its request, and the operation.
    async fn remembered(&self, scope: &str, key: &str) -> Result<Option<(String, OperationId)>>;

    /// A page of what fits `query` in the audit, newest first.
    async fn audit(&self, query: &AuditQuery, page: PageRequest) -> Result<Page<AuditRecord>>;

    /// The console ticket of this hash, where it was not used yet; also one that has expired, until
    /// it is pruned.
    async fn ticket(&self, hash: &str) -> Result<Option<TicketRecord>>;

    /// A user's password hash by login name.
    async fn password_hash(&self, name: &str) -> Result<Option<(UserId, Secret)>>;

    /// The host's lease as it is; made on first use, released.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound): there is no such host.
    async fn lease(&self, host: HostId) -> Result<Lease>;

    /// Every lease that there is, by host; a host that no process ever looked after has none.
    async fn leases(&self) -> Result<Vec<Lease>>;

    /// Takes the lease over by compare-and-set: none when it is no longer exactly `seen`.
    async fn take_lease(&self, seen: &Lease, holder: &str) -> Result<Option<Lease>>;

    /// Renews a lease: the same with the next beat and this `observed_at`, or none when it is no
    /// longer the caller's.
    async fn renew_lease(&self, lease: &Lease, observed_at: Option<OffsetDateTime>) -> Result<Option<Lease>>;

    /// Gives a lease back, so that the next owner need not wait. No effect when it is not the caller's.
    async fn release_lease(&self, lease: &Lease) -> Result<()>;

    /// Removes what is older than `retention` as of `now` (a session or token that goes has its
    /// event), and console tickets that have expired, at most [`PRUNED_AT_ONCE`] rows of a table; answers how many rows went, by table.
    async fn prune(&self, retention: &Retention, now: OffsetDateTime) -> Result<BTreeMap<String, u64>>;

    /// Answers when the database does, and takes this program's changes.
    async fn ping(&self) -> Result<()>;

    /// Ends all connections. Idempotent.
    async fn close(&self);
}
