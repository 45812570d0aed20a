-- The schema of an installation's first day, for SQLite and PostgreSQL alike.
--
-- Ids are UUIDs as lower-case text. Times are microseconds since 1970, UTC. Truth values are 0 or 1.
-- A `document` is the record as JSON and the whole of it; the columns beside it are what is looked
-- up, what is unique and what refers to other rows, and repeat what the document says.

CREATE TABLE install (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    id TEXT NOT NULL,
    epoch BIGINT NOT NULL
);

-- The number of the last event. Every transaction that makes events locks this row last.
CREATE TABLE event_counter (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    value BIGINT NOT NULL
);
INSERT INTO event_counter (one, value) VALUES (1, 0);

-- One row for each time that this Store was found to be older than a host knew it; never removed.
CREATE TABLE restores (
    epoch BIGINT PRIMARY KEY,
    noticed_at BIGINT NOT NULL,
    document TEXT NOT NULL
);

CREATE TABLE owners (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    name TEXT NOT NULL UNIQUE,
    -- NULL is unlimited. What is used is the sum over the owner's VMs, written with their rows.
    limit_vms BIGINT,
    limit_vcpus BIGINT,
    limit_memory_mib BIGINT,
    limit_disk_gib BIGINT,
    limit_snapshots BIGINT,
    used_vms BIGINT NOT NULL DEFAULT 0,
    used_vcpus BIGINT NOT NULL DEFAULT 0,
    used_memory_mib BIGINT NOT NULL DEFAULT 0,
    used_disk_gib BIGINT NOT NULL DEFAULT 0,
    used_snapshots BIGINT NOT NULL DEFAULT 0,
    document TEXT NOT NULL
);

CREATE TABLE users (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    role TEXT NOT NULL,
    disabled BIGINT NOT NULL,
    owner_id TEXT NOT NULL REFERENCES owners (id),
    password_hash TEXT,
    version BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    document TEXT NOT NULL
);
CREATE INDEX users_owner ON users (owner_id);

CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    document TEXT NOT NULL
);
CREATE INDEX sessions_user ON sessions (user_id);
CREATE INDEX sessions_expiry ON sessions (expires_at);

CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    -- A digest; the token itself is shown once and kept nowhere.
    hash TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    document TEXT NOT NULL,
    UNIQUE (user_id, name)
);
CREATE INDEX tokens_expiry ON tokens (expires_at);

-- Each is good for half a minute and one use: the use deletes the row.
CREATE TABLE tickets (
    -- A digest; the ticket itself is shown once and kept nowhere.
    hash TEXT PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    expires_at BIGINT NOT NULL,
    document TEXT NOT NULL
);
CREATE INDEX tickets_user ON tickets (user_id);
CREATE INDEX tickets_expiry ON tickets (expires_at);

CREATE TABLE hosts (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    uri TEXT NOT NULL,
    version BIGINT NOT NULL,
    -- The sum over the host's VMs, written with their rows.
    used_memory_mib BIGINT NOT NULL DEFAULT 0,
    document TEXT NOT NULL
);

-- One process at a time owns a host; every write on the host's behalf carries the fence.
CREATE TABLE leases (
    host_id TEXT PRIMARY KEY REFERENCES hosts (id) ON DELETE CASCADE,
    fence BIGINT NOT NULL,
    holder TEXT,
    beat BIGINT NOT NULL,
    observed_at BIGINT
);

CREATE TABLE images (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    format TEXT NOT NULL,
    phase TEXT NOT NULL,
    version BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    document TEXT NOT NULL
);

CREATE TABLE vms (
    id TEXT PRIMARY KEY,
    owner_id TEXT NOT NULL REFERENCES owners (id),
    host_id TEXT NOT NULL REFERENCES hosts (id),
    name TEXT NOT NULL,
    phase TEXT NOT NULL,
    version BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    document TEXT NOT NULL,
    UNIQUE (owner_id, name)
);
CREATE INDEX vms_host ON vms (host_id);

CREATE TABLE macs (
    mac TEXT PRIMARY KEY,
    vm_id TEXT NOT NULL REFERENCES vms (id) ON DELETE CASCADE
);
CREATE INDEX macs_vm ON macs (vm_id);

-- The images that a VM cannot be without: the ISO in its drive, those under linked disks.
CREATE TABLE vm_images (
    vm_id TEXT NOT NULL REFERENCES vms (id) ON DELETE CASCADE,
    image_id TEXT NOT NULL REFERENCES images (id),
    PRIMARY KEY (vm_id, image_id)
);
CREATE INDEX vm_images_image ON vm_images (image_id);

-- What hosts show, VMs that LIMEN did not make among it: so there is no reference to vms.
CREATE TABLE statuses (
    host_id TEXT NOT NULL REFERENCES hosts (id) ON DELETE CASCADE,
    vm_id TEXT NOT NULL,
    -- Of the VM's record, also after that is gone; NULL where there never was one.
    owner_id TEXT,
    state TEXT NOT NULL,
    revision BIGINT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (host_id, vm_id)
);

CREATE TABLE operations (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    kind_version BIGINT NOT NULL,
    state TEXT NOT NULL,
    finished BIGINT NOT NULL,
    waiting BIGINT NOT NULL,
    cancel_requested BIGINT NOT NULL,
    host_id TEXT NOT NULL REFERENCES hosts (id),
    -- History: what these name may be gone.
    vm_id TEXT,
    image_id TEXT,
    owner_id TEXT,
    actor TEXT NOT NULL,
    request_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    finished_at BIGINT,
    document TEXT NOT NULL,
    journal TEXT NOT NULL
);
CREATE INDEX operations_unfinished ON operations (host_id, id) WHERE finished = 0;
CREATE INDEX operations_vm ON operations (vm_id, id);
CREATE INDEX operations_owner ON operations (owner_id, id);
CREATE INDEX operations_finished ON operations (finished_at) WHERE finished = 1;

CREATE TABLE operation_locks (
    resource TEXT PRIMARY KEY,
    operation_id TEXT NOT NULL REFERENCES operations (id) ON DELETE CASCADE
);
CREATE INDEX operation_locks_operation ON operation_locks (operation_id);

CREATE TABLE idempotency_keys (
    scope TEXT NOT NULL,
    key TEXT NOT NULL,
    digest TEXT NOT NULL,
    operation_id TEXT NOT NULL REFERENCES operations (id) ON DELETE CASCADE,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (scope, key)
);
CREATE INDEX idempotency_keys_operation ON idempotency_keys (operation_id);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);

-- The row outlives its VM's: it goes after the volume itself does. So there is no reference to vms.
CREATE TABLE volumes (
    id TEXT PRIMARY KEY,
    host_id TEXT NOT NULL REFERENCES hosts (id),
    vm_id TEXT,
    image_id TEXT REFERENCES images (id) ON DELETE CASCADE,
    format TEXT NOT NULL,
    capacity_bytes BIGINT NOT NULL,
    filled BIGINT NOT NULL,
    -- The log's last number when the row was last written: tells what a host cannot have told of yet.
    event BIGINT NOT NULL,
    document TEXT NOT NULL
);
CREATE INDEX volumes_host ON volumes (host_id, filled, event);
CREATE INDEX volumes_image ON volumes (image_id);

-- Which operation inserted a volume's row; kept after the row, for as long as the operation is.
CREATE TABLE volume_makers (
    volume_id TEXT PRIMARY KEY,
    operation_id TEXT NOT NULL REFERENCES operations (id) ON DELETE CASCADE
);
CREATE INDEX volume_makers_operation ON volume_makers (operation_id);

CREATE TABLE events (
    number BIGINT PRIMARY KEY,
    created_at BIGINT NOT NULL,
    operation_id TEXT,
    kind TEXT NOT NULL,
    document TEXT NOT NULL
);

-- Ids are ordered by created_at. Every filter of the list has an index that gives its order.
CREATE TABLE audit (
    id TEXT PRIMARY KEY,
    created_at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    user_id TEXT,
    request_id TEXT NOT NULL,
    action TEXT NOT NULL,
    -- What stands before the colon of a resource: `vm` of `vm:<id>`.
    kind TEXT NOT NULL,
    resource TEXT NOT NULL,
    outcome TEXT NOT NULL,
    operation_id TEXT,
    document TEXT NOT NULL
);
CREATE INDEX audit_actor ON audit (actor, id);
CREATE INDEX audit_user ON audit (user_id, id);
CREATE INDEX audit_request ON audit (request_id, id);
CREATE INDEX audit_action ON audit (action, id);
CREATE INDEX audit_kind ON audit (kind, id);
CREATE INDEX audit_resource ON audit (resource, id);
-- Most records are of what was accepted and done: these are found without an index.
CREATE INDEX audit_outcome ON audit (outcome, id) WHERE outcome <> 'accepted' AND outcome <> 'succeeded';
