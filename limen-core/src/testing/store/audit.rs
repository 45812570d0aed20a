//! The audit: what is added to it, and how it is read.

use std::sync::Arc;

use time::{Duration, OffsetDateTime};

use super::fixture::{audit, now};
use crate::context::Action;
use crate::model::{ActorRef, AuditOutcome, AuditQuery, AuditRecord, PageRequest, UserId};
use crate::store::{Change, PRUNED_AT_ONCE, Retention, Store};

/// All that fits a query, read in pages of two.
async fn read(store: &dyn Store, query: &AuditQuery) -> Vec<AuditRecord> {
    let mut read = Vec::new();
    let mut request = PageRequest::first(2).expect("a page");
    loop {
        let page = store.audit(query, request).await.expect("a page");
        read.extend(page.items);
        let Some(cursor) = page.next_cursor else { return read };
        request = request.with_cursor(&cursor).expect("a cursor");
    }
}

/// Audit records are kept whole and read newest first, page by page.
pub async fn the_audit_is_read_newest_first(store: Arc<dyn Store>) {
    let mut records: Vec<_> = (0..5).map(|number| audit(&format!("vm:{number}"))).collect();
    records[3].count = 7;
    records[3].last_at = Some(now());
    let change = Change { audit: records.clone(), ..Change::default() };
    let committed = store.commit(change).await.expect("audit");
    assert_eq!(committed.event, 0, "an audit record is no event");
    let mut read = read(&*store, &AuditQuery::default()).await;
    read.reverse();
    assert_eq!(read, records);
    assert!(read.iter().all(|record| record.at <= OffsetDateTime::now_utc()));
}

/// The audit is read by every part of a record, alone and together, and by time to the microsecond.
pub async fn the_audit_is_filtered(store: Arc<dyn Store>) {
    const START: OffsetDateTime = OffsetDateTime::UNIX_EPOCH.saturating_add(Duration::days(20_000));
    let ada = UserId::generate();
    let record = |number: i64, label: &str, user, action, resource: &str, outcome| {
        let at = START + Duration::milliseconds(500 * number) + Duration::microseconds(number);
        AuditRecord {
            id: AuditRecord::id_at(at),
            at,
            actor: ActorRef { label: label.to_owned(), user },
            request_id: format!("request-{}", number / 2),
            action,
            outcome,
            ..audit(resource)
        }
    };
    use Action::{CreateVm, DeleteUser, DeleteVm};
    use AuditOutcome::{Accepted, Cancelled, Failed, Refused, Succeeded};
    let records = [
        record(0, "user:ada", Some(ada), CreateVm, "vm:1", Accepted),
        record(1, "user:ada", Some(ada), CreateVm, "vm:1", Failed),
        record(2, "token:ada/x", Some(ada), CreateVm, "vm:2", Accepted),
        record(3, "local", None, CreateVm, "vm:2", Succeeded),
        record(4, "user:bob", Some(UserId::generate()), DeleteVm, "vm", Refused),
        record(5, "local", None, DeleteUser, "user:1", Succeeded),
        record(6, "user:ada", Some(ada), DeleteVm, "vm:1", Cancelled),
    ];
    let change = Change { audit: records.to_vec(), ..Change::default() };
    store.commit(change).await.expect("audit");
    let all = AuditQuery::default;
    let text = |text: &str| Some(text.to_owned());
    let cases: [(AuditQuery, &[usize]); 23] = [
        (all(), &[0, 1, 2, 3, 4, 5, 6]),
        (AuditQuery { actor: text("user:ada"), ..all() }, &[0, 1, 6]),
        (AuditQuery { actor: text("user:ad"), ..all() }, &[]),
        (AuditQuery { user: Some(ada), ..all() }, &[0, 1, 2, 6]),
        (AuditQuery { action: Some(CreateVm), ..all() }, &[0, 1, 2, 3]),
        (AuditQuery { action: Some(Action::ListVms), ..all() }, &[]),
        (AuditQuery { resource: text("vm"), ..all() }, &[0, 1, 2, 3, 4, 6]),
        (AuditQuery { resource: text("vm:1"), ..all() }, &[0, 1, 6]),
        (AuditQuery { resource: text("user"), ..all() }, &[5]),
        (AuditQuery { resource: text("vm:%"), ..all() }, &[]),
        (AuditQuery { actor: text("a\0b"), ..all() }, &[]),
        (AuditQuery { outcome: Some(Accepted), ..all() }, &[0, 2]),
        (AuditQuery { outcome: Some(Succeeded), ..all() }, &[3, 5]),
        (AuditQuery { outcome: Some(Failed), ..all() }, &[1]),
        (AuditQuery { outcome: Some(Cancelled), ..all() }, &[6]),
        (AuditQuery { outcome: Some(Refused), ..all() }, &[4]),
        (AuditQuery { request_id: text("request-1"), ..all() }, &[2, 3]),
        (AuditQuery { from: Some(records[2].at), ..all() }, &[2, 3, 4, 5, 6]),
        (AuditQuery { from: Some(records[2].at + Duration::MICROSECOND), ..all() }, &[3, 4, 5, 6]),
        (AuditQuery { to: Some(records[5].at), ..all() }, &[0, 1, 2, 3, 4]),
        (
            AuditQuery { from: Some(records[1].at), to: Some(records[3].at + Duration::MICROSECOND), ..all() },
            &[1, 2, 3],
        ),
        (AuditQuery { user: Some(ada), resource: text("vm"), outcome: Some(Accepted), ..all() }, &[0, 2]),
        (AuditQuery { to: Some(OffsetDateTime::UNIX_EPOCH - Duration::DAY), ..all() }, &[]),
    ];
    for (query, expected) in cases {
        let expected: Vec<_> = expected.iter().rev().map(|index| &records[*index]).collect();
        assert_eq!(read(&*store, &query).await.iter().collect::<Vec<_>>(), expected, "{query:?}");
    }
}

/// Old records go, the oldest first and in bounded parts; a younger one than 30 days stays whatever
/// is asked, by the clock of the Store and not by the one that is told.
pub async fn the_audit_stays_for_its_time(store: Arc<dyn Store>) {
    let days = |days: i64| {
        let at = now() - Duration::days(days);
        AuditRecord { id: AuditRecord::id_at(at), at, ..audit("vm:1") }
    };
    let old = PRUNED_AT_ONCE as i64 + 10;
    let mut records: Vec<_> = (0..old).map(|number| days(2000 - number / 2)).collect();
    records.extend([399, 31, 29, 0].map(days));
    store.commit(Change { audit: records.clone(), ..Change::default() }).await.expect("audit");
    let prune = async |days: u64| -> u64 {
        let audit = std::time::Duration::from_secs(days * 24 * 3600);
        store.prune(&Retention { audit, ..Retention::default() }, now()).await.expect("prune")["audit"]
    };
    let left = async || -> Vec<AuditRecord> {
        let mut left = read(&*store, &AuditQuery::default()).await;
        left.reverse();
        left
    };
    assert_eq!(prune(3000).await, 0);
    assert_eq!(prune(400).await, PRUNED_AT_ONCE);
    assert_eq!(left().await, records[PRUNED_AT_ONCE as usize..]);
    assert_eq!((prune(400).await, prune(400).await), (10, 0));
    assert_eq!(prune(0).await, 2);
    assert_eq!(left().await, records[records.len() - 2..]);
    // Also when the clock has jumped by years.
    let gone = store.prune(&Retention::default(), now() + Duration::days(4000)).await.expect("prune");
    assert_eq!((gone["audit"], left().await.len()), (0, 2));
}
