use super::*;
use crate::authz::AllowAll;
use crate::model::{OwnerId, OwnerRecord, Quota};
use crate::store::sqlite::SqliteStore;
use crate::store::{Change, Row, Store};

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_far_behind_holds_one_part_of_the_log() {
    let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory().await.expect("a store"));
    let grow = async |batch: i32| {
        let owner = |number| {
            let name = format!("owner-{batch}-{number}");
            Row::Owner(OwnerRecord { id: OwnerId::generate(), kind: "user".to_owned(), name, quota: Quota::default() })
        };
        let rows = (0..1000).map(owner).collect();
        store.commit(Change { rows, ..Change::default() }).await.expect("committed").event
    };
    grow(0).await;
    let builder = Limen::builder().store(Arc::clone(&store)).authz(Arc::new(AllowAll));
    let limen = builder.build().await.expect("built");
    let mut events = limen.watch_events(&Context::local(), 0).await.expect("a stream");
    let mut last = 0;
    for batch in 1..=4 {
        last = grow(batch).await;
    }
    limen.wait_for_event(last, Duration::from_secs(20)).await.expect("it follows");
    assert!(limen.shared.inventory.tail(0, 1).is_none() && limen.shared.inventory.tail(last - 1, 1).is_some());
    // From the log in the Store, and then from its tail in memory.
    for number in 1..=last {
        match events.next().await {
            Some(Ok(Told::Event(event))) => assert_eq!(event.number, number),
            other => panic!("{other:?}"),
        }
        assert!(events.next.len() < BATCH as usize);
    }
    assert_eq!((events.position(), events.next.len()), (last, 0));
}
