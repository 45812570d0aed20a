//! The Store on a database: one SQL text for SQLite and PostgreSQL.
//!
//! One text holds on both because a transaction that writes is the only writer of a SQLite file
//! (`BEGIN IMMEDIATE`), and on PostgreSQL locks rows by writing them, in one order; integers are
//! BIGINT, ids are text, lists are ordered by id. What has no common word is in [`driver`],
//! [`migrate`] and [`wake`].

mod audit;
mod commit;
mod driver;
mod failure;
mod images;
mod lease;
mod log;
mod migrate;
mod operations;
mod prune;
mod quota;
mod read;
mod restore;
mod rows;
mod value;
mod vms;
mod wake;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use rand::RngExt as _;
use time::OffsetDateTime;

use self::commit::Written;
use self::driver::Tx;
use self::failure::Outcome;
use self::prune::Prune;
use super::{Change, Committed, EventBatch, Install, Lease, OperationQuery, OperationRow, Retention, Snapshot, Store};
use crate::error::Result;
use crate::model::{
    AuditQuery, AuditRecord, EventNumber, HostId, Operation, OperationId, Page, PageRequest, Restore, TicketRecord,
    UserId, VolumeId, VolumeRecord, Witness,
};
use crate::secret::Secret;

pub(super) use self::driver::{Pool, PoolCell, pool_options};
pub(super) use self::failure::Failure;
pub(super) use self::wake::{Watch, grown};

/// A [`Store`] on SQLite or PostgreSQL.
pub struct SqlStore {
    pool: Arc<Pool>,
    wake: wake::Wake,
}

impl fmt::Debug for SqlStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlStore").field("pool", &self.pool).finish_non_exhaustive()
    }
}

/// What is done in a transaction that may be tried again: so it takes all it needs by reference.
type Work<A, T> = for<'t> fn(&'t mut Tx, &'t A) -> BoxFuture<'t, Outcome<T>>;

/// How one try went.
enum Try<T> {
    Done(T),
    /// It was not done.
    Failed(Failure),
    /// COMMIT was sent and not answered.
    Unanswered(T, Failure),
}

/// The newest schema that this program knows.
pub(super) fn newest_schema() -> i64 {
    migrate::newest()
}

impl SqlStore {
    /// A Store on a database that is brought to this program's schema.
    pub(super) async fn start(pool: Arc<Pool>, watch: Watch) -> Result<Self> {
        migrate::run(&pool).await?;
        Self::of(pool, watch).await
    }

    /// A Store on a database that is taken as it is.
    pub(super) async fn look(pool: Arc<Pool>, watch: Watch) -> Result<Self> {
        read(&pool, &(), |tx, ()| Box::pin(migrate::look(tx))).await?;
        Self::of(pool, watch).await
    }

    async fn of(pool: Arc<Pool>, watch: Watch) -> Result<Self> {
        let last = read(&pool, &(), |tx, ()| Box::pin(log::last(tx))).await?;
        let wake = wake::Wake::start(watch, last);
        Ok(Self { pool, wake })
    }

    async fn write<A: Sync, T: Send + Sync>(&self, argument: &A, work: Work<A, T>) -> Result<T> {
        write(&self.pool, argument, work, None).await
    }

    async fn read<A: Sync, T: Send>(&self, argument: &A, work: Work<A, T>) -> Result<T> {
        read(&self.pool, argument, work).await
    }
}

/// Tells whether the work of a transaction whose COMMIT was not answered is there.
type Landed<T> = for<'t> fn(&'t mut Tx, &'t T) -> BoxFuture<'t, Outcome<bool>>;

/// Whether a transaction writes under any schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    /// Only under one that this program knows.
    Known,
    /// Under any: it brings the schema about.
    Anyhow,
}

async fn write<A: Sync, T: Send + Sync>(
    pool: &Pool,
    argument: &A,
    work: Work<A, T>,
    landed: Option<Landed<T>>,
) -> Result<T> {
    write_begun(pool, Begin::Known, argument, work, landed).await
}

async fn write_begun<A: Sync, T: Send + Sync>(
    pool: &Pool,
    begin: Begin,
    argument: &A,
    work: Work<A, T>,
    landed: Option<Landed<T>>,
) -> Result<T> {
    let started = Instant::now();
    let mut renewed = false;
    loop {
        let failure = match try_write(pool, begin, argument, work).await {
            Try::Done(value) => return Ok(value),
            Try::Unanswered(value, failure) => {
                let Some(landed) = landed else { return Err(failure.into_error()) };
                pool.refresh().await;
                // Where even this cannot be told, the caller learns that the Store is away.
                match read_write(pool, &value, landed).await {
                    Ok(true) => return Ok(value),
                    Ok(false) if started.elapsed() < pool.patience() => continue,
                    Ok(false) | Err(_) => return Err(failure.into_error()),
                }
            }
            Try::Failed(failure) => failure,
        };
        if failure.is_transient() && started.elapsed() < pool.patience() {
            let pause = rand::rng().random_range(2..20);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        } else if failure.is_dead() && !renewed {
            renewed = true;
            pool.refresh().await;
        } else {
            return Err(failure.into_error());
        }
    }
}

async fn try_write<A: Sync, T: Send>(pool: &Pool, begin: Begin, argument: &A, work: Work<A, T>) -> Try<T> {
    let mut tx = match pool.begin_write().await {
        Ok(tx) => tx,
        Err(failure) => return Try::Failed(failure),
    };
    let work = async {
        if begin == Begin::Known {
            migrate::refuse_newer(&mut tx).await?;
        }
        work(&mut tx, argument).await
    };
    match work.await {
        Ok(value) => match tx.commit().await {
            Ok(()) => Try::Done(value),
            Err(failure) if failure.is_unanswered() => Try::Unanswered(value, failure),
            Err(failure) => Try::Failed(failure),
        },
        Err(failure) => {
            tx.rollback().await;
            Try::Failed(failure)
        }
    }
}

/// Asks in a transaction that may lock, and keeps nothing of it.
async fn read_write<T: Sync>(pool: &Pool, value: &T, ask: Landed<T>) -> Outcome<bool> {
    let mut tx = pool.begin_write().await?;
    let answer = ask(&mut tx, value).await;
    tx.rollback().await;
    answer
}

async fn read<A: Sync, T: Send>(pool: &Pool, argument: &A, work: Work<A, T>) -> Result<T> {
    let mut renewed = false;
    loop {
        let answer = match pool.begin_read().await {
            Ok(mut tx) => {
                let answer = work(&mut tx, argument).await;
                tx.rollback().await;
                answer
            }
            Err(failure) => Err(failure),
        };
        match answer {
            Ok(value) => return Ok(value),
            Err(failure) if (failure.is_dead() || failure.is_transient()) && !renewed => {
                renewed = true;
                pool.refresh().await;
            }
            Err(failure) => return Err(failure.into_error()),
        }
    }
}

#[async_trait]
impl Store for SqlStore {
    async fn install(&self) -> Result<Install> {
        self.read(&(), |tx, ()| Box::pin(migrate::install(tx))).await
    }

    async fn witness(&self) -> Result<Witness> {
        self.read(&(), |tx, ()| Box::pin(restore::witness(tx))).await
    }

    async fn judge(&self, witness: &Witness, host: &str, audit: AuditRecord) -> Result<Option<Restore>> {
        let case = (*witness, host.to_owned(), audit);
        let landed: Landed<restore::Judged> = |tx, judged| Box::pin(log::landed(tx, &judged.logged));
        let work: Work<restore::Case, restore::Judged> = |tx, case| Box::pin(restore::judge(tx, case));
        let judged = write(&self.pool, &case, work, Some(landed)).await?;
        self.wake.grown(judged.logged.last);
        Ok(judged.restore)
    }

    async fn commit(&self, change: Change) -> Result<Committed> {
        let landed: Landed<Written> = |tx, written| {
            Box::pin(async move {
                match written {
                    Written::Change(logged) => log::landed(tx, logged).await,
                    Written::Repeated(_) => Ok(true),
                }
            })
        };
        let work: Work<Change, Written> = |tx, change| Box::pin(commit::write(tx, change));
        match write(&self.pool, &change, work, Some(landed)).await? {
            Written::Change(logged) => {
                self.wake.grown(logged.last);
                Ok(Committed { event: logged.last, repeated: None })
            }
            Written::Repeated(operation) => {
                let event = self.read(&(), |tx, ()| Box::pin(log::last(tx))).await?;
                Ok(Committed { event, repeated: Some(operation) })
            }
        }
    }

    async fn snapshot(&self) -> Result<Snapshot> {
        self.read(&(), |tx, ()| Box::pin(read::snapshot(tx))).await
    }

    async fn events_after(&self, after: EventNumber, limit: u32) -> Result<EventBatch> {
        self.read(&(after, limit), |tx, (after, limit)| Box::pin(log::after(tx, *after, *limit))).await
    }

    async fn changed(&self, after: EventNumber, at_most: Duration) {
        self.wake.changed(after, at_most).await;
    }

    async fn operation(&self, id: OperationId) -> Result<OperationRow> {
        self.read(&id, |tx, id| Box::pin(operations::get(tx, *id))).await
    }

    async fn operations(&self, query: &OperationQuery) -> Result<Page<Operation>> {
        self.read(query, |tx, query| Box::pin(operations::page(tx, query))).await
    }

    async fn unfinished(&self, host: HostId) -> Result<Vec<OperationRow>> {
        self.read(&host, |tx, host| Box::pin(operations::unfinished(tx, *host))).await
    }

    async fn volume_maker(&self, volume: VolumeId) -> Result<Option<OperationId>> {
        self.read(&volume, |tx, volume| Box::pin(operations::volume_maker(tx, *volume))).await
    }

    async fn locks(&self) -> Result<Vec<(String, OperationId)>> {
        self.read(&(), |tx, ()| Box::pin(operations::locks(tx))).await
    }

    async fn volumes(&self, host: HostId) -> Result<Vec<VolumeRecord>> {
        self.read(&host, |tx, host| Box::pin(read::volumes(tx, *host))).await
    }

    async fn remembered(&self, scope: &str, key: &str) -> Result<Option<(String, OperationId)>> {
        let asked = (scope.to_owned(), key.to_owned());
        self.read(&asked, |tx, (scope, key)| Box::pin(operations::remembered(tx, scope, key))).await
    }

    async fn audit(&self, query: &AuditQuery, page: PageRequest) -> Result<Page<AuditRecord>> {
        let asked = (query.clone(), page);
        self.read(&asked, |tx, (query, page)| Box::pin(audit::page(tx, query, *page))).await
    }

    async fn ticket(&self, hash: &str) -> Result<Option<TicketRecord>> {
        self.read(&hash.to_owned(), |tx, hash| Box::pin(read::ticket(tx, hash))).await
    }

    async fn password_hash(&self, name: &str) -> Result<Option<(UserId, Secret)>> {
        self.read(&name.to_owned(), |tx, name| Box::pin(read::password_hash(tx, name))).await
    }

    async fn lease(&self, host: HostId) -> Result<Lease> {
        // A contender looks often: it writes only where there is nothing to see.
        match self.read(&host, |tx, host| Box::pin(lease::get(tx, *host))).await? {
            Some(lease) => Ok(lease),
            None => self.write(&host, |tx, host| Box::pin(lease::make(tx, *host))).await,
        }
    }

    async fn leases(&self) -> Result<Vec<Lease>> {
        self.read(&(), |tx, ()| Box::pin(lease::all(tx))).await
    }

    async fn take_lease(&self, seen: &Lease, holder: &str) -> Result<Option<Lease>> {
        let taken = (seen.clone(), holder.to_owned());
        self.write(&taken, |tx, (seen, holder)| Box::pin(lease::take(tx, seen, holder))).await
    }

    async fn renew_lease(&self, lease: &Lease, observed_at: Option<OffsetDateTime>) -> Result<Option<Lease>> {
        let renewed = (lease.clone(), observed_at);
        self.write(&renewed, |tx, (held, observed_at)| Box::pin(lease::renew(tx, held, *observed_at))).await
    }

    async fn release_lease(&self, lease: &Lease) -> Result<()> {
        self.write(lease, |tx, held| Box::pin(lease::release(tx, held))).await
    }

    async fn prune(&self, retention: &Retention, now: OffsetDateTime) -> Result<BTreeMap<String, u64>> {
        let what = Prune { retention: *retention, now };
        let pruned = self.write(&what, |tx, what| Box::pin(prune::prune(tx, what))).await?;
        self.wake.grown(pruned.last);
        Ok(pruned.rows)
    }

    async fn ping(&self) -> Result<()> {
        self.read(&(), |tx, ()| Box::pin(migrate::refuse_newer(tx))).await
    }

    async fn close(&self) {
        self.wake.stop();
        self.pool.close().await;
    }
}
