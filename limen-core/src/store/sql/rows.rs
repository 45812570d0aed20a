//! The rows of a change: each checks what it must be before, writes it, and tells the fact.

use uuid::Uuid;

use super::driver::{Tx, args};
use super::failure::Outcome;
use super::value::{document, micros, name};
use super::{images, quota, vms};
use crate::context::Role;
use crate::error::{Error, ErrorKind};
use crate::model::{
    Fact, HostId, HostRecord, HostVm, OwnerId, OwnerRecord, SessionId, SessionRecord, TicketRecord, TokenId,
    TokenRecord, User, UserId, VmId,
};
use crate::secret::Secret;
use crate::store::{Change, Expect, Row};

/// Where a row comes in a change.
pub(super) fn order(row: &Row) -> (u8, Uuid, Uuid) {
    match row {
        Row::VolumeGone(id) => (0, id.0, Uuid::nil()),
        Row::StatusGone { host, vm } => (1, host.0, vm.0),
        Row::VmGone(id) => (2, id.0, Uuid::nil()),
        Row::ImageGone(id) => (3, id.0, Uuid::nil()),
        Row::SessionGone(id) => (4, id.0, Uuid::nil()),
        Row::TokenGone(id) => (4, id.0, Uuid::nil()),
        Row::SessionsGone { user, .. } => (5, user.0, Uuid::nil()),
        Row::TicketUsed(_) => (4, Uuid::nil(), Uuid::nil()),
        Row::UserGone(id) => (6, id.0, Uuid::nil()),
        Row::OwnerGone(id) => (7, id.0, Uuid::nil()),
        Row::Owner(record) => (8, record.id.0, Uuid::nil()),
        Row::OwnerQuota { owner, .. } => (8, owner.0, Uuid::nil()),
        Row::User { user, .. } => (9, user.id.0, Uuid::nil()),
        Row::Session(record) => (10, record.id.0, Uuid::nil()),
        Row::Token(record) => (10, record.token.id.0, Uuid::nil()),
        Row::Ticket(record) => (10, record.user.0, Uuid::nil()),
        Row::Host { record, .. } => (11, record.id.0, Uuid::nil()),
        Row::Image { image, .. } => (12, image.id.0, Uuid::nil()),
        Row::Vm { record, .. } => (13, record.id.0, Uuid::nil()),
        Row::Status { host, seen } => (14, host.0, seen.id.0),
        Row::Volume(record) => (15, record.id.0, Uuid::nil()),
    }
}

/// Writes `rows`, those of `change` in their [`order`].
pub(super) async fn write(tx: &mut Tx, rows: &[&Row], change: &Change, facts: &mut Vec<Fact>) -> Outcome<()> {
    // Images that rows need are locked before the first VM, after the images that are written.
    let first_vm = rows.partition_point(|row| order(row).0 < 13);
    let (before, after) = rows.split_at(first_vm);
    for row in before {
        match row {
            Row::VolumeGone(id) => {
                tx.execute("DELETE FROM volumes WHERE id = $1", args![*id]).await?;
            }
            Row::StatusGone { host, vm } => status_gone(tx, *host, *vm, facts).await?,
            Row::VmGone(id) => vms::gone(tx, *id, facts).await?,
            Row::ImageGone(id) => images::gone(tx, *id, facts).await?,
            Row::SessionGone(id) => session_gone(tx, *id, facts).await?,
            Row::SessionsGone { user, keep } => sessions_gone(tx, *user, *keep, facts).await?,
            Row::TokenGone(id) => token_gone(tx, *id, facts).await?,
            Row::TicketUsed(hash) => ticket_used(tx, hash).await?,
            Row::UserGone(id) => user_gone(tx, *id, facts).await?,
            Row::OwnerGone(id) => owner_gone(tx, *id, facts).await?,
            Row::Owner(record) => facts.push(owner(tx, record).await?),
            Row::OwnerQuota { owner, quota } => facts.push(quota::limit(tx, *owner, quota).await?),
            Row::User { user, password_hash, expect } => {
                facts.push(self::user(tx, user, password_hash.as_ref(), *expect).await?);
            }
            Row::Session(record) => facts.push(session(tx, record).await?),
            Row::Token(record) => facts.push(token(tx, record).await?),
            Row::Ticket(record) => ticket(tx, record).await?,
            Row::Host { record, expect } => facts.push(host(tx, record, *expect).await?),
            Row::Image { image, expect } => facts.push(images::write(tx, image, *expect).await?),
            Row::Vm { .. } | Row::Status { .. } | Row::Volume(_) => {}
        }
    }
    quota::reserve(tx, after, change.memory_limit).await?;
    if let Some(limit) = change.space_limit {
        quota::refuse_without_space(tx, after, limit).await?;
    }
    let ready = images::lock_needed(tx, after).await?;
    vms::drop_changed_macs(tx, after).await?;
    for row in after {
        match row {
            Row::Vm { record, expect } => facts.push(vms::write(tx, record, *expect, &ready).await?),
            Row::Status { host, seen } => facts.extend(status(tx, *host, seen).await?),
            Row::Volume(record) => images::volume(tx, record, &ready).await?,
            _ => {}
        }
    }
    Ok(())
}

/// The refusal of a row whose version is another one.
pub(super) fn changed(noun: &str) -> Error {
    Error::new(ErrorKind::Conflict, format!("The {noun} was changed in the meantime, or is gone."))
}

async fn owner(tx: &mut Tx, record: &OwnerRecord) -> Outcome<Fact> {
    let sql = "INSERT INTO owners (id, kind, name, document, limit_vms, limit_vcpus, limit_memory_mib, limit_disk_gib, \
               limit_snapshots) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    let mut args = args![record.id, &record.kind, &record.name, document(record)?];
    args.extend(record.quota.limits().map(Into::into));
    let written = tx.execute(sql, args).await;
    written.map_err(|failure| failure.named("There is an owner of this name already.", ""))?;
    Ok(Fact::Owner { record: record.clone() })
}

async fn owner_gone(tx: &mut Tx, id: OwnerId, facts: &mut Vec<Fact>) -> Outcome<()> {
    let written = tx.execute("DELETE FROM owners WHERE id = $1", args![id]).await;
    let owns = "The owner still has VMs or users.";
    if written.map_err(|failure| failure.named("", owns))? > 0 {
        facts.push(Fact::OwnerGone { id });
    }
    Ok(())
}

async fn user(tx: &mut Tx, user: &User, password_hash: Option<&Secret>, expect: Expect) -> Outcome<Fact> {
    let mut user = user.clone();
    if let Expect::Version(version) = expect {
        user.version = version + 1;
    }
    if expect != Expect::Absent && (user.role != Role::Admin || user.disabled) {
        refuse_last_admin(tx, user.id).await?;
    }
    let hash = password_hash.map(|hash| hash.expose().to_owned());
    let mut args = args![
        user.id,
        &user.name,
        user.role.as_str(),
        user.disabled,
        user.owner,
        hash,
        user.version,
        micros(user.created_at),
        document(&user)?,
    ];
    let sql = match expect {
        Expect::Absent => {
            "INSERT INTO users (id, name, role, disabled, owner_id, password_hash, version, created_at, document) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
        }
        Expect::Version(version) => {
            args.push(version.into());
            "UPDATE users SET name = $2, role = $3, disabled = $4, owner_id = $5, \
             password_hash = COALESCE($6, password_hash), version = $7, created_at = $8, document = $9 \
             WHERE id = $1 AND version = $10"
        }
    };
    let written = tx.execute(sql, args).await;
    let taken = "There is a user of this name already.";
    if written.map_err(|failure| failure.named(taken, "There is no such owner."))? == 0 {
        return Err(changed("user").into());
    }
    Ok(Fact::User { user })
}

async fn user_gone(tx: &mut Tx, id: UserId, facts: &mut Vec<Fact>) -> Outcome<()> {
    refuse_last_admin(tx, id).await?;
    sessions_gone(tx, id, None, facts).await?;
    for line in tx.all("DELETE FROM tokens WHERE user_id = $1 RETURNING id", args![id]).await? {
        facts.push(Fact::TokenGone { id: line.id(0)? });
    }
    if tx.execute("DELETE FROM users WHERE id = $1", args![id]).await? > 0 {
        facts.push(Fact::UserGone { id });
    }
    Ok(())
}

/// Refuses to take the last enabled admin away. Locks all of them: of two changes that each leave
/// the other's admin, the second one waits for the first and sees what it did.
async fn refuse_last_admin(tx: &mut Tx, id: UserId) -> Outcome<()> {
    let sql = "UPDATE users SET disabled = disabled WHERE role = 'admin' AND disabled = 0 RETURNING id";
    let admins = tx.all(sql, args![]).await?;
    if let [last] = &admins[..]
        && last.id::<UserId>(0)? == id
    {
        return Err(Error::new(ErrorKind::Conflict, "There must be an enabled admin; make another one first.").into());
    }
    Ok(())
}

/// Locks the user: a login and a disabling at the same time leave no session behind.
async fn lock_enabled(tx: &mut Tx, user: UserId) -> Outcome<()> {
    let sql = "UPDATE users SET disabled = disabled WHERE id = $1 AND disabled = 0";
    if tx.execute(sql, args![user]).await? == 0 {
        return Err(Error::new(ErrorKind::Conflict, "The user is disabled or gone.").into());
    }
    Ok(())
}

async fn token(tx: &mut Tx, record: &TokenRecord) -> Outcome<Fact> {
    let token = &record.token;
    lock_enabled(tx, token.user).await?;
    let sql = "INSERT INTO tokens (id, user_id, name, hash, created_at, expires_at, document) \
               VALUES ($1, $2, $3, $4, $5, $6, $7)";
    let args = args![
        token.id,
        token.user,
        &token.name,
        &record.hash,
        micros(token.created_at),
        token.expires_at.map(micros),
        document(record)?,
    ];
    tx.execute(sql, args).await.map_err(|failure| failure.named("There is a token of this name already.", ""))?;
    Ok(Fact::Token { record: record.clone() })
}

async fn token_gone(tx: &mut Tx, id: TokenId, facts: &mut Vec<Fact>) -> Outcome<()> {
    if tx.execute("DELETE FROM tokens WHERE id = $1", args![id]).await? > 0 {
        facts.push(Fact::TokenGone { id });
    }
    Ok(())
}

async fn ticket(tx: &mut Tx, record: &TicketRecord) -> Outcome<()> {
    let sql = "INSERT INTO tickets (hash, user_id, expires_at, document) VALUES ($1, $2, $3, $4)";
    let args = args![&record.hash, record.user, micros(record.expires_at), document(record)?];
    let written = tx.execute(sql, args).await;
    written.map_err(|failure| failure.named("There is such a console ticket already.", "The user is gone."))?;
    Ok(())
}

async fn ticket_used(tx: &mut Tx, hash: &str) -> Outcome<()> {
    if tx.execute("DELETE FROM tickets WHERE hash = $1", args![hash]).await? == 0 {
        return Err(Error::new(ErrorKind::Conflict, "The console ticket was used already.").into());
    }
    Ok(())
}

async fn session(tx: &mut Tx, record: &SessionRecord) -> Outcome<Fact> {
    lock_enabled(tx, record.user).await?;
    let sql = "INSERT INTO sessions (id, user_id, created_at, expires_at, document) VALUES ($1, $2, $3, $4, $5)";
    let args = args![record.id, record.user, micros(record.created_at), micros(record.expires_at), document(record)?];
    tx.execute(sql, args).await.map_err(|failure| failure.named("There is such a session already.", ""))?;
    Ok(Fact::Session { record: record.clone() })
}

async fn session_gone(tx: &mut Tx, id: SessionId, facts: &mut Vec<Fact>) -> Outcome<()> {
    if tx.execute("DELETE FROM sessions WHERE id = $1", args![id]).await? > 0 {
        facts.push(Fact::SessionGone { id });
    }
    Ok(())
}

async fn sessions_gone(tx: &mut Tx, user: UserId, keep: Option<SessionId>, facts: &mut Vec<Fact>) -> Outcome<()> {
    let keep = keep.map(|id| id.to_string()).unwrap_or_default();
    let sql = "DELETE FROM sessions WHERE user_id = $1 AND id <> $2 RETURNING id";
    for line in tx.all(sql, args![user, keep]).await? {
        facts.push(Fact::SessionGone { id: line.id(0)? });
    }
    Ok(())
}

async fn host(tx: &mut Tx, record: &HostRecord, expect: Expect) -> Outcome<Fact> {
    let mut record = record.clone();
    if let Expect::Version(version) = expect {
        record.version = version + 1;
    }
    let mut args = args![record.id, &record.name, &record.uri, record.version, document(&record)?];
    let sql = match expect {
        Expect::Absent => "INSERT INTO hosts (id, name, uri, version, document) VALUES ($1, $2, $3, $4, $5)",
        Expect::Version(version) => {
            args.push(version.into());
            "UPDATE hosts SET name = $2, uri = $3, version = $4, document = $5 WHERE id = $1 AND version = $6"
        }
    };
    let written = tx.execute(sql, args).await;
    if written.map_err(|failure| failure.named("There is a host of this name already.", ""))? == 0 {
        return Err(changed("host").into());
    }
    Ok(Fact::Host { record })
}

/// No fact where the host shows the VM as before.
async fn status(tx: &mut Tx, host: HostId, seen: &HostVm) -> Outcome<Option<Fact>> {
    // A first revision is the number of the next event: it is higher than every one that the same
    // VM had before it was gone from this host.
    let sql = "INSERT INTO statuses (host_id, vm_id, owner_id, state, revision, document) \
               VALUES ($1, $2, (SELECT owner_id FROM vms WHERE id = $2), $3, \
                       (SELECT value + 1 FROM event_counter), $4) \
               ON CONFLICT (host_id, vm_id) DO UPDATE \
               SET owner_id = COALESCE(excluded.owner_id, statuses.owner_id), state = excluded.state, \
                   revision = statuses.revision + 1, document = excluded.document \
               WHERE statuses.document <> excluded.document RETURNING revision, owner_id";
    let line = tx.first(sql, args![host, seen.id, name(&seen.state)?, document(seen)?]).await;
    match line.map_err(|failure| failure.named("", "There is no such host."))? {
        Some(line) => {
            let (revision, owner) = (line.int(0)?, line.id_or_none(1)?);
            Ok(Some(Fact::Status { host, seen: seen.clone(), revision, owner }))
        }
        None => Ok(None),
    }
}

async fn status_gone(tx: &mut Tx, host: HostId, vm: VmId, facts: &mut Vec<Fact>) -> Outcome<()> {
    let sql = "DELETE FROM statuses WHERE host_id = $1 AND vm_id = $2 \
               RETURNING COALESCE(owner_id, (SELECT owner_id FROM vms WHERE id = $2))";
    if let Some(line) = tx.first(sql, args![host, vm]).await? {
        facts.push(Fact::StatusGone { host, id: vm, owner: line.id_or_none(0)? });
    }
    Ok(())
}
