//! Users, owners, sessions and tokens.

use std::sync::Arc;

use super::fixture::{Fixture, inserted, refused, session, token, user};
use crate::context::Role;
use crate::error::ErrorKind;
use crate::model::{Fact, OwnerId, OwnerRecord, Quota, SessionId, UserId};
use crate::secret::Secret;
use crate::store::{Expect, Row, Store};

fn row(user: &crate::model::User, hash: Option<&str>, expect: Expect) -> Row {
    Row::User { user: Box::new(user.clone()), password_hash: hash.map(Secret::new), expect }
}

/// A login name is unique; so is an owner's name.
pub async fn names_of_users_and_owners_are_unique(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let same = user("ada", fixture.owner);
    refused(fixture.write(vec![row(&same, None, Expect::Absent)]).await, ErrorKind::AlreadyExists);
    let owner = OwnerRecord {
        id: OwnerId::generate(),
        kind: "user".to_owned(),
        name: "ada".to_owned(),
        quota: Quota::default(),
    };
    refused(fixture.write(vec![Row::Owner(owner)]).await, ErrorKind::AlreadyExists);
    let orphan = user("bob", OwnerId::generate());
    refused(fixture.write(vec![row(&orphan, None, Expect::Absent)]).await, ErrorKind::Conflict);
}

/// A password hash is kept until a new one comes, is found by login name, and is in no event.
pub async fn a_password_hash_is_kept_until_a_new_one_comes(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let hash = async |name| {
        let found = fixture.store.password_hash(name).await.expect("look-up");
        found.map(|(id, hash)| (id, hash.expose().to_owned()))
    };
    assert_eq!(hash("ada").await, Some((fixture.user.id, "$argon2id$ada".to_owned())));
    assert_eq!(hash("nobody").await, None);
    fixture.write(vec![row(&fixture.user, None, Expect::Version(1))]).await.expect("no new hash");
    assert_eq!(hash("ada").await, Some((fixture.user.id, "$argon2id$ada".to_owned())));
    fixture.write(vec![row(&fixture.user, Some("$argon2id$new"), Expect::Version(2))]).await.expect("a new hash");
    assert_eq!(hash("ada").await, Some((fixture.user.id, "$argon2id$new".to_owned())));
    refused(fixture.write(vec![row(&fixture.user, None, Expect::Version(2))]).await, ErrorKind::Conflict);
    let without = user("robot", fixture.owner);
    fixture.write(vec![row(&without, None, Expect::Absent)]).await.expect("a user without a password");
    assert_eq!(hash("robot").await, None);
    let events = serde_json::to_string(&fixture.events().await).expect("json");
    assert!(!events.contains("argon2id"));
}

/// A user goes with all sessions, each with its event; then the owner may go.
pub async fn a_user_goes_with_the_sessions(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let sessions = [session(fixture.user.id), session(fixture.user.id)];
    fixture.write(sessions.iter().cloned().map(Row::Session).collect()).await.expect("sessions");
    refused(fixture.write(vec![Row::OwnerGone(fixture.owner)]).await, ErrorKind::Conflict);
    let before = fixture.last().await;
    let rows = vec![Row::OwnerGone(fixture.owner), Row::UserGone(fixture.user.id)];
    fixture.write(rows.clone()).await.expect("both go");
    let facts: Vec<_> =
        fixture.events().await.into_iter().filter(|event| event.number > before).map(|event| event.fact).collect();
    assert_eq!(facts.len(), 4);
    for session in &sessions {
        assert!(facts[..2].contains(&Fact::SessionGone { id: session.id }));
    }
    assert_eq!(facts[2..], [Fact::UserGone { id: fixture.user.id }, Fact::OwnerGone { id: fixture.owner }]);
    let snapshot = fixture.store.snapshot().await.expect("snapshot");
    assert!(snapshot.users.is_empty() && snapshot.sessions.is_empty() && snapshot.owners.is_empty());
    assert_eq!(fixture.write(rows).await.expect("no such row is a success").event, snapshot.event);
    assert!(fixture.store.password_hash("ada").await.expect("look-up").is_none());
}

/// An owner that owns a VM stays.
pub async fn an_owner_of_a_vm_stays(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let vm = fixture.vm("web");
    fixture.write(vec![inserted(&vm), Row::UserGone(fixture.user.id)]).await.expect("the user goes");
    refused(fixture.write(vec![Row::OwnerGone(fixture.owner)]).await, ErrorKind::Conflict);
    fixture.write(vec![Row::OwnerGone(fixture.owner), Row::VmGone(vm.id)]).await.expect("with its last VM");
}

/// A session ends alone, or with all others of its user but one.
pub async fn sessions_end_alone_or_together(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let sessions: Vec<_> = (0..4).map(|_| session(fixture.user.id)).collect();
    fixture.write(sessions.iter().cloned().map(Row::Session).collect()).await.expect("sessions");
    let live = async || {
        let mut live: Vec<SessionId> =
            fixture.store.snapshot().await.expect("snapshot").sessions.iter().map(|session| session.id).collect();
        live.sort_unstable();
        live
    };
    fixture.write(vec![Row::SessionGone(sessions[0].id)]).await.expect("one ends");
    assert_eq!(live().await.len(), 3);
    let keep = Row::SessionsGone { user: fixture.user.id, keep: Some(sessions[2].id) };
    fixture.write(vec![keep]).await.expect("all but one");
    assert_eq!(live().await, [sessions[2].id]);
    fixture.write(vec![Row::SessionsGone { user: fixture.user.id, keep: None }]).await.expect("all");
    assert!(live().await.is_empty());
    let gone = fixture.events().await.iter().filter(|event| matches!(event.fact, Fact::SessionGone { .. })).count();
    assert_eq!(gone, 4);
}

/// A disabled user, or one that is not there, gets no session.
pub async fn a_disabled_user_gets_no_session(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    refused(fixture.write(vec![Row::Session(session(UserId::generate()))]).await, ErrorKind::Conflict);
    let mut disabled = fixture.user.clone();
    disabled.disabled = true;
    let rows = vec![row(&disabled, None, Expect::Version(1)), Row::SessionsGone { user: fixture.user.id, keep: None }];
    fixture.write(rows).await.expect("disabled");
    refused(fixture.write(vec![Row::Session(session(fixture.user.id))]).await, ErrorKind::Conflict);
}

/// A token's name is unique among its user's, its hash in the whole Store.
pub async fn names_and_hashes_of_tokens_are_unique(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let first = token(fixture.user.id, "ci");
    fixture.write(vec![Row::Token(Box::new(first.clone()))]).await.expect("a token");
    let same_name = token(fixture.user.id, "ci");
    refused(fixture.write(vec![Row::Token(Box::new(same_name))]).await, ErrorKind::AlreadyExists);
    let mut same_hash = token(fixture.user.id, "other");
    same_hash.hash.clone_from(&first.hash);
    refused(fixture.write(vec![Row::Token(Box::new(same_hash))]).await, ErrorKind::AlreadyExists);
    let owner = OwnerRecord {
        id: OwnerId::generate(),
        kind: "user".to_owned(),
        name: "bob".to_owned(),
        quota: Quota::default(),
    };
    let bob = user("bob", owner.id);
    fixture.write(vec![Row::Owner(owner), row(&bob, None, Expect::Absent)]).await.expect("another user");
    let second = token(bob.id, "ci");
    fixture.write(vec![Row::Token(Box::new(second.clone()))]).await.expect("the name is another user's");
    let snapshot = fixture.store.snapshot().await.expect("snapshot");
    assert_eq!(snapshot.tokens, [first, second.clone()]);
    assert_eq!(fixture.events().await.last().map(|event| event.fact.clone()), Some(Fact::Token { record: second }));
}

/// A token goes alone, or with its user, each time with its event; a disabled user gets none.
pub async fn tokens_go_alone_or_with_their_user(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let tokens = ["a", "b", "c"].map(|name| token(fixture.user.id, name));
    let rows = tokens.iter().cloned().map(|record| Row::Token(Box::new(record))).collect();
    fixture.write(rows).await.expect("tokens");
    fixture.write(vec![Row::TokenGone(tokens[0].token.id)]).await.expect("one goes");
    let last = fixture.last().await;
    fixture.write(vec![Row::TokenGone(tokens[0].token.id)]).await.expect("no such row is a success");
    assert_eq!(fixture.last().await, last);
    let mut disabled = fixture.user.clone();
    disabled.disabled = true;
    fixture.write(vec![row(&disabled, None, Expect::Version(1))]).await.expect("disabled");
    let late = Row::Token(Box::new(token(fixture.user.id, "late")));
    refused(fixture.write(vec![late]).await, ErrorKind::Conflict);
    refused(fixture.write(vec![Row::Token(Box::new(token(UserId::generate(), "orphan")))]).await, ErrorKind::Conflict);
    assert_eq!(fixture.store.snapshot().await.expect("snapshot").tokens.len(), 2);
    fixture.write(vec![Row::UserGone(fixture.user.id)]).await.expect("the user goes");
    assert!(fixture.store.snapshot().await.expect("snapshot").tokens.is_empty());
    let gone = fixture.events().await.iter().filter(|event| matches!(event.fact, Fact::TokenGone { .. })).count();
    assert_eq!(gone, 3);
}

/// An enabled admin stays, whoever demotes, disables or removes whom at once.
pub async fn the_last_enabled_admin_stays(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let mut admins = [user("first", fixture.owner), user("second", fixture.owner)];
    for admin in &mut admins {
        admin.role = Role::Admin;
        fixture.write(vec![row(admin, None, Expect::Absent)]).await.expect("an admin");
    }
    for round in 0..20_i64 {
        // Each leaves the other one, and together they leave none.
        let mut changes = admins.clone();
        match round % 3 {
            0 => changes[0].role = Role::User,
            1 => changes[0].disabled = true,
            _ => (changes[0].role, changes[0].disabled) = (Role::Viewer, true),
        }
        changes[1].role = Role::Operator;
        let version = |index: usize| Expect::Version(admins[index].version);
        let writes = [row(&changes[0], None, version(0)), row(&changes[1], None, version(1))];
        let [one, two] = writes.map(|row| {
            let fixture = fixture.clone();
            tokio::spawn(async move { fixture.write(vec![row]).await })
        });
        let results = [one.await.expect("joined"), two.await.expect("joined")];
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "round {round}: {results:?}");
        for (index, result) in results.into_iter().enumerate() {
            match result {
                Ok(_) => {
                    admins[index].version += 2;
                    let back = row(&admins[index], None, Expect::Version(admins[index].version - 1));
                    fixture.write(vec![back]).await.expect("an admin again");
                }
                refusal => drop(refused(refusal, ErrorKind::Conflict)),
            }
        }
    }
    fixture.write(vec![Row::UserGone(admins[0].id)]).await.expect("one of two goes");
    refused(fixture.write(vec![Row::UserGone(admins[1].id)]).await, ErrorKind::Conflict);
}
