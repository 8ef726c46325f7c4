-- The journal and everything that is written in one transaction with it.
--
-- What later versions need is here from the first, because it could not be added to journals that
-- exist: the chain's columns, bodies apart from events, the store-wide position.

CREATE TABLE streams (
    number INTEGER PRIMARY KEY,
    name   TEXT    NOT NULL UNIQUE,
    fence  INTEGER NOT NULL DEFAULT 0,  -- the epoch of the driver that claimed it last
    holder INTEGER NOT NULL DEFAULT 0   -- that driver's process, for a message
) STRICT;

-- The key packs the stream's number and seq, so (stream, seq) is unique and in order without a
-- second index, and two drivers can never both write the same seq.
CREATE TABLE events (
    id         INTEGER PRIMARY KEY,  -- stream number << 24 | seq
    stream     TEXT    NOT NULL,
    seq        INTEGER NOT NULL,
    position   INTEGER NOT NULL,
    at         INTEGER NOT NULL,     -- nanoseconds since the epoch
    epoch      INTEGER NOT NULL,
    type       TEXT    NOT NULL,
    meta       BLOB    NOT NULL,     -- JSON of the fields that outlive an erasure, or empty
    commitment BLOB    NOT NULL,     -- SHA-256 of salt and body
    prev       BLOB    NOT NULL,
    hash       BLOB    NOT NULL,
    tag        BLOB
) STRICT;

-- The key is the store-wide position, so this is also the index in commit order, and every append
-- goes to the end of the table.  An erasure empties salt and body and keeps the row.
CREATE TABLE event_bodies (
    position INTEGER PRIMARY KEY,
    stream   TEXT    NOT NULL,
    seq      INTEGER NOT NULL,
    salt     BLOB,
    body     BLOB
) STRICT;

CREATE TABLE blobs (
    sha256 BLOB PRIMARY KEY,
    data   BLOB NOT NULL
) STRICT;

-- The columns every append changes are in no index, and the long ones come last.
CREATE TABLE runs (
    number     INTEGER PRIMARY KEY,  -- the number of its stream, so also the order of creation
    id         TEXT    NOT NULL UNIQUE,
    next_seq   INTEGER NOT NULL,
    fence      INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    cost_nano  INTEGER NOT NULL,
    tokens     INTEGER NOT NULL,
    turns      INTEGER NOT NULL,
    status     TEXT    NOT NULL,
    phase      TEXT    NOT NULL,
    agent      TEXT    NOT NULL,
    version    TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    wake_at    INTEGER,
    degraded   INTEGER NOT NULL,
    tenant     TEXT    NOT NULL,
    parent     TEXT    NOT NULL,
    root       TEXT    NOT NULL,
    why        TEXT    NOT NULL,
    answer     TEXT
) STRICT;

CREATE INDEX runs_by_status ON runs (status);
CREATE INDEX runs_by_agent ON runs (agent);
CREATE INDEX runs_by_wake ON runs (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX runs_by_parent ON runs (parent) WHERE parent <> '';

CREATE TABLE ledger (
    scope    TEXT    NOT NULL,
    window   TEXT    NOT NULL,
    unit     TEXT    NOT NULL,
    settled  INTEGER NOT NULL,
    in_doubt INTEGER NOT NULL,
    held     INTEGER NOT NULL,
    PRIMARY KEY (scope, window, unit)
) STRICT, WITHOUT ROWID;

CREATE TABLE holds (
    call_id TEXT    NOT NULL,
    unit    TEXT    NOT NULL,
    scope   TEXT    NOT NULL,
    window  TEXT    NOT NULL,
    amount  INTEGER NOT NULL,
    PRIMARY KEY (call_id, unit, scope, window)
) STRICT, WITHOUT ROWID;

CREATE TABLE costs_hourly (
    hour               INTEGER NOT NULL,
    agent              TEXT    NOT NULL,
    version            TEXT    NOT NULL,
    tenant             TEXT    NOT NULL,
    model              TEXT    NOT NULL,
    tool               TEXT    NOT NULL DEFAULT '',
    calls              INTEGER NOT NULL,
    calls_in_doubt     INTEGER NOT NULL,
    calls_failed       INTEGER NOT NULL,
    input_tokens       INTEGER NOT NULL,
    cache_read_tokens  INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    output_tokens      INTEGER NOT NULL,
    settled_nano       INTEGER NOT NULL,
    in_doubt_nano      INTEGER NOT NULL,
    PRIMARY KEY (hour, agent, version, tenant, model, tool)
) STRICT, WITHOUT ROWID;

-- How far each reader of the whole store has come.
CREATE TABLE cursors (
    name       TEXT    PRIMARY KEY,
    position   INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
