//! Tickets for consoles.

use std::sync::Arc;

use super::fixture::{Fixture, now, refused};
use crate::error::ErrorKind;
use crate::model::{ConsoleKind, SessionId, TicketHolder, TicketRecord, UserId, VmId};
use crate::store::{Retention, Row, Store};

fn ticket(user: UserId, hash: &str) -> TicketRecord {
    TicketRecord {
        hash: hash.repeat(64),
        user,
        holder: TicketHolder::Session(SessionId::generate()),
        vm: VmId::generate(),
        kind: ConsoleKind::Serial,
        event: 7,
        expires_at: now() + time::Duration::seconds(30),
    }
}

fn made(ticket: &TicketRecord) -> Row {
    Row::Ticket(Box::new(ticket.clone()))
}

fn used(ticket: &TicketRecord) -> Row {
    Row::TicketUsed(ticket.hash.clone())
}

/// A ticket is read back as it was written, is used once, and is in no event.
pub async fn a_ticket_is_used_once(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let (one, other) = (ticket(fixture.user.id, "a"), ticket(fixture.user.id, "b"));
    let before = fixture.last().await;
    fixture.write(vec![made(&one), made(&other)]).await.expect("tickets");
    refused(fixture.write(vec![made(&one)]).await, ErrorKind::AlreadyExists);
    refused(fixture.write(vec![made(&ticket(UserId::generate(), "c"))]).await, ErrorKind::Conflict);
    let known = async |ticket: &TicketRecord| fixture.store.ticket(&ticket.hash).await.expect("look-up");
    assert_eq!(known(&one).await.as_ref(), Some(&one));
    fixture.write(vec![used(&one)]).await.expect("used");
    refused(fixture.write(vec![used(&one)]).await, ErrorKind::Conflict);
    refused(fixture.write(vec![used(&other), used(&one)]).await, ErrorKind::Conflict);
    assert_eq!((known(&one).await, known(&other).await), (None, Some(other)), "all of a change or nothing");
    assert_eq!(fixture.last().await, before);
}

/// Of many who use a ticket at once, one does.
pub async fn a_ticket_is_used_once_in_parallel(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    for _ in 0..10 {
        let ticket = ticket(fixture.user.id, "a");
        fixture.write(vec![made(&ticket)]).await.expect("a ticket");
        let uses: Vec<_> = (0..8)
            .map(|_| {
                let (fixture, row) = (fixture.clone(), used(&ticket));
                tokio::spawn(async move { fixture.write(vec![row]).await })
            })
            .collect();
        let mut through = 0;
        for outcome in uses {
            match outcome.await.expect("joined") {
                Ok(_) => through += 1,
                refusal => drop(refused(refusal, ErrorKind::Conflict)),
            }
        }
        assert_eq!(through, 1);
    }
}

/// A ticket goes with its user, and once it has expired.
pub async fn tickets_go_with_their_user_or_their_time(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let (short, mut long) = (ticket(fixture.user.id, "a"), ticket(fixture.user.id, "b"));
    long.expires_at += time::Duration::HOUR;
    fixture.write(vec![made(&short), made(&long)]).await.expect("tickets");
    let gone = fixture.store.prune(&Retention::default(), short.expires_at).await.expect("prune");
    assert_eq!((gone["tickets"], gone.values().sum::<u64>()), (1, 1));
    assert_eq!(fixture.store.ticket(&short.hash).await.expect("look-up"), None);
    assert!(fixture.store.ticket(&long.hash).await.expect("look-up").is_some());
    fixture.write(vec![Row::UserGone(fixture.user.id)]).await.expect("the user goes");
    assert_eq!(fixture.store.ticket(&long.hash).await.expect("look-up"), None);
}
