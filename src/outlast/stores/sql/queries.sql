-- Every query of the SQLite store.  Each has a name and a sentence; `queries.py` loads them.

-- ── streams ──────────────────────────────────────────────────────────────────────────────────

-- stream_head --
-- Where a stream is: its number and its fence.
SELECT number, fence FROM streams WHERE name = ?;

-- stream_holder --
-- The process that claimed a stream last.
SELECT holder FROM streams WHERE name = ?;

-- last_stream --
-- The highest number a stream has.
SELECT coalesce(max(number), 0) FROM streams;

-- streams_named --
-- The streams whose names begin with a text; those before it in the index are not read.
SELECT name FROM streams WHERE name >= ?1 AND substr(name, 1, length(?1)) = ?1 ORDER BY name;

-- insert_stream --
-- A new stream, claimed by nobody.
INSERT INTO streams (number, name) VALUES (?, ?);

-- raise_fence --
-- Make a process the stream's driver.
UPDATE streams SET fence = ?, holder = ? WHERE number = ?;

-- raise_run_fence --
-- The run's row repeats the fence.
UPDATE runs SET fence = ? WHERE number = ?;

-- ── events ───────────────────────────────────────────────────────────────────────────────────

-- last_event --
-- The seq and hash the next event of a stream follows; the ids of a stream lie between two bounds.
SELECT seq, hash FROM events WHERE id > ? AND id < ? ORDER BY id DESC LIMIT 1;

-- last_position --
-- The position of the store's latest event.
SELECT coalesce(max(position), 0) FROM event_bodies;

-- insert_event --
-- One record, without its body.
INSERT INTO events
    (id, stream, seq, position, at, epoch, type, meta, commitment, prev, hash)
VALUES (?1 << 24 | ?3, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11);

-- insert_body --
-- The body of a record, and the salt of its commitment.
INSERT INTO event_bodies (position, stream, seq, salt, body) VALUES (?, ?, ?, ?, ?);

-- first_event --
-- What the first record of a stream says about its writer.
SELECT type, meta FROM events WHERE id = ?;

-- read_stream --
-- Records of one stream in order.
SELECT e.seq, e.position, e.at, e.epoch, b.body
FROM events AS e LEFT JOIN event_bodies AS b ON b.position = e.position
WHERE e.id > ? AND e.id < ? ORDER BY e.id LIMIT ?;

-- read_store --
-- Records of every stream in commit order.
SELECT b.position, b.stream, b.seq, e.at, e.epoch, b.body
FROM event_bodies AS b
LEFT JOIN streams AS s ON s.name = b.stream
LEFT JOIN events AS e ON e.id = (s.number << 24 | b.seq)
WHERE b.position > ? ORDER BY b.position LIMIT ?;

-- read_proofs --
-- The chain of one stream, with what is left of the bodies.
SELECT e.stream, e.seq, e.position, e.at, e.epoch, e.type, e.meta, e.commitment, e.prev, e.hash,
       b.salt, b.body
FROM events AS e LEFT JOIN event_bodies AS b ON b.position = e.position
WHERE e.id > ? AND e.id < ? ORDER BY e.id LIMIT ?;

-- ── runs ─────────────────────────────────────────────────────────────────────────────────────

-- upsert_run --
-- The whole row of a run.
INSERT INTO runs
    (number, id, next_seq, fence, updated_at, cost_nano, in_doubt_nano, tokens, turns, status,
     phase, agent, version, created_at, wake_at, degraded, tenant, parent, root, rejections, why,
     answer)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (number) DO UPDATE SET
    next_seq = excluded.next_seq, fence = excluded.fence, updated_at = excluded.updated_at,
    cost_nano = excluded.cost_nano, in_doubt_nano = excluded.in_doubt_nano,
    tokens = excluded.tokens, turns = excluded.turns, status = excluded.status, phase = excluded.phase, agent = excluded.agent,
    version = excluded.version, created_at = excluded.created_at, wake_at = excluded.wake_at,
    degraded = excluded.degraded, tenant = excluded.tenant, parent = excluded.parent,
    root = excluded.root, rejections = excluded.rejections, why = excluded.why,
    answer = excluded.answer;

-- advance_run --
-- What changes with nearly every append, and is in no index.
UPDATE runs SET next_seq = ?, updated_at = ?, cost_nano = ?, in_doubt_nano = ?, tokens = ?,
       turns = ?
WHERE number = ?;

-- touch_run --
-- What an outside event changes of the run's row.
UPDATE runs SET next_seq = ?, updated_at = ? WHERE number = ?;

-- next_seq --
-- Where the run's row says its stream is.
SELECT next_seq FROM runs WHERE number = ?;

-- run --
-- One run's row.
SELECT id, agent, version, status, phase, answer, cost_nano, in_doubt_nano, tokens, turns,
       created_at, updated_at, wake_at, why, degraded, tenant, parent, root, rejections,
       next_seq, fence
FROM runs WHERE id = ?;

-- runs --
-- Every run's row, newest first.
SELECT id, agent, version, status, phase, answer, cost_nano, in_doubt_nano, tokens, turns,
       created_at, updated_at, wake_at, why, degraded, tenant, parent, root, rejections,
       next_seq, fence
FROM runs ORDER BY number DESC LIMIT ?;

-- runs_of_status --
-- The rows of the runs in a status, newest first.
SELECT id, agent, version, status, phase, answer, cost_nano, in_doubt_nano, tokens, turns,
       created_at, updated_at, wake_at, why, degraded, tenant, parent, root, rejections,
       next_seq, fence
FROM runs WHERE status = ? ORDER BY number DESC LIMIT ?;

-- runs_of_agent --
-- The rows of an agent's runs, newest first.
SELECT id, agent, version, status, phase, answer, cost_nano, in_doubt_nano, tokens, turns,
       created_at, updated_at, wake_at, why, degraded, tenant, parent, root, rejections,
       next_seq, fence
FROM runs WHERE agent = ? ORDER BY number DESC LIMIT ?;

-- runs_of_status_and_agent --
-- The rows of an agent's runs in a status, newest first.
SELECT id, agent, version, status, phase, answer, cost_nano, in_doubt_nano, tokens, turns,
       created_at, updated_at, wake_at, why, degraded, tenant, parent, root, rejections,
       next_seq, fence
FROM runs WHERE status = ? AND agent = ? ORDER BY number DESC LIMIT ?;

-- statuses --
-- How many runs are in each status, counted in their index.
SELECT status, count(*) FROM runs GROUP BY status;

-- statuses_of_agent --
-- How many of an agent's runs are in each status.
SELECT status, count(*) FROM runs WHERE agent = ? GROUP BY status;

-- updated --
-- The runs that were written to since a moment; an index of it would be written to as often.
SELECT id FROM runs WHERE updated_at >= ? ORDER BY number DESC;

-- updated_of_agent --
-- The same of one agent.
SELECT id FROM runs WHERE updated_at >= ? AND agent = ? ORDER BY number DESC;

-- runs_below --
-- The rows of all runs below a run, parents before their children.
WITH RECURSIVE below (id, depth) AS (
    SELECT id, 1 FROM runs WHERE parent = ? AND parent <> ''
    UNION ALL
    SELECT runs.id, depth + 1 FROM below JOIN runs ON runs.parent = below.id AND runs.parent <> ''
)
SELECT runs.id, agent, version, status, phase, answer, cost_nano, in_doubt_nano, tokens, turns,
       created_at, updated_at, wake_at, why, degraded, tenant, parent, root, rejections,
       next_seq, fence
FROM below CROSS JOIN runs ON runs.id = below.id ORDER BY depth, number;

-- grown --
-- Which runs of a JSON object of ids and seqs have records beyond those.
SELECT runs.id FROM json_each(?) AS known JOIN runs ON runs.id = known.key
WHERE runs.next_seq - 1 > known.value;

-- due --
-- Rows of roots that wait to be driven, oldest first, of each tenant so many.
-- Tenants and trees with queued runs are found by leaps: of each, one entry of its index is read.
WITH RECURSIVE
tenants (tenant) AS (
    SELECT min(tenant) FROM runs INDEXED BY roots_queued WHERE root = id AND status = 'queued'
    UNION ALL
    SELECT (
        SELECT min(tenant) FROM runs INDEXED BY roots_queued
        WHERE root = id AND status = 'queued' AND tenant > tenants.tenant
    ) FROM tenants WHERE tenant IS NOT NULL
),
queued_below (root) AS (
    SELECT min(root) FROM runs INDEXED BY children_queued WHERE root <> id AND status = 'queued'
    UNION ALL
    SELECT (
        SELECT min(root) FROM runs INDEXED BY children_queued
        WHERE root <> id AND status = 'queued' AND root > queued_below.root
    ) FROM queued_below WHERE root IS NOT NULL
),
trees (root) AS (
    SELECT root FROM queued_below
    UNION
    SELECT root FROM runs INDEXED BY children_by_wake
    WHERE root <> id AND status IN ('parked', 'waiting') AND wake_at <= ?1
),
due (number, tenant) AS (
    SELECT runs.number, runs.tenant FROM tenants CROSS JOIN runs ON runs.number IN (
        SELECT number FROM runs INDEXED BY roots_queued
        WHERE root = id AND status = 'queued' AND tenant = tenants.tenant
        ORDER BY number LIMIT ?2
    )
    UNION
    SELECT number, tenant FROM runs INDEXED BY roots_by_wake
    WHERE root = id AND status IN ('parked', 'waiting') AND wake_at <= ?1
    UNION
    SELECT runs.number, runs.tenant FROM trees CROSS JOIN runs ON runs.id = trees.root
    WHERE runs.root = runs.id AND runs.status IN ('parked', 'waiting')
),
placed (number, place) AS (
    SELECT number, row_number() OVER (PARTITION BY tenant ORDER BY number) FROM due
)
SELECT id, agent, version, status, phase, answer, cost_nano, in_doubt_nano, tokens, turns,
       created_at, updated_at, wake_at, why, degraded, tenant, parent, root, rejections,
       next_seq, fence
FROM runs WHERE number IN (SELECT number FROM placed WHERE place <= ?2) ORDER BY number;

-- next_wake --
-- When the first of the runs that sleep beyond a moment wakes.
SELECT min(wake_at) FROM (
    SELECT min(wake_at) AS wake_at FROM runs INDEXED BY roots_by_wake
    WHERE root = id AND status IN ('parked', 'waiting') AND wake_at > ?1
    UNION ALL
    SELECT min(wake_at) FROM runs INDEXED BY children_by_wake
    WHERE root <> id AND status IN ('parked', 'waiting') AND wake_at > ?1
);

-- running --
-- Rows of roots that are driven, or were left by whoever drove them, oldest first.
SELECT id, agent, version, status, phase, answer, cost_nano, in_doubt_nano, tokens, turns,
       created_at, updated_at, wake_at, why, degraded, tenant, parent, root, rejections,
       next_seq, fence
FROM runs WHERE status = 'running' AND root = id ORDER BY number;

-- stream_numbers --
-- The numbers of a JSON list of streams.
SELECT name, number FROM streams WHERE name IN (SELECT value FROM json_each(?));

-- ── leases ───────────────────────────────────────────────────────────────────────────────────

-- drop_leases --
-- A worker has no lease but those of a JSON list of numbers.
DELETE FROM leases WHERE worker = ? AND number NOT IN (SELECT value FROM json_each(?));

-- beat --
-- Every lease of a worker is one beat further.
UPDATE leases SET beats = beats + 1 WHERE worker = ?;

-- lease --
-- A worker has the lease of a stream, whoever had it.
INSERT INTO leases (number, worker, beats) VALUES (?, ?, 1)
ON CONFLICT (number) DO UPDATE SET worker = excluded.worker, beats = beats + 1;

-- unlease --
-- Nobody has the lease of a stream.
DELETE FROM leases WHERE number = ?;

-- leases --
-- Every lease, oldest stream first.
SELECT name, worker, beats FROM leases JOIN streams USING (number) ORDER BY number;

-- ── money ────────────────────────────────────────────────────────────────────────────────────

-- balance --
-- What a scope has spent, and what calls in flight hold of it.
SELECT settled, in_doubt, held FROM ledger WHERE scope = ? AND window = ? AND unit = ?;

-- balances_since --
-- The same of each window of one kind, from one on.
SELECT window, settled, in_doubt, held FROM ledger
WHERE scope = ? AND window >= ? AND window < ? AND unit = ?;

-- set_balance --
-- A scope's line in the ledger.
INSERT INTO ledger (scope, window, unit, settled, in_doubt, held) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (scope, window, unit) DO UPDATE SET
    settled = excluded.settled, in_doubt = excluded.in_doubt, held = excluded.held;

-- number --
-- A number that all processes share.
SELECT value FROM numbers WHERE name = ?;

-- set_number --
-- The same after it was moved.
INSERT INTO numbers (name, value) VALUES (?, ?)
ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- holds --
-- What one call holds or is in doubt at, and where.
SELECT unit, scope, window, amount, in_doubt FROM holds WHERE call_id = ?;

-- holders --
-- The calls in flight that hold something of a scope; those of the moment, so there are few.
SELECT DISTINCT call_id FROM holds WHERE scope = ? AND NOT in_doubt ORDER BY call_id;

-- insert_hold --
-- What one call holds of one scope, or is in doubt at.
INSERT INTO holds (call_id, unit, scope, window, amount, in_doubt) VALUES (?, ?, ?, ?, ?, ?);

-- delete_holds --
-- A call that holds nothing any more, or something else.
DELETE FROM holds WHERE call_id = ?;

-- post --
-- One line of the hourly roll-up; lines with the same key are added up.
INSERT INTO costs_hourly
    (hour, agent, version, tenant, model, tool, calls, calls_in_doubt, calls_failed, input_tokens,
     cache_read_tokens, cache_write_tokens, output_tokens, settled_nano, in_doubt_nano,
     search_nano, loops_nano, missed_nano, rejected_nano, lost_nano)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (hour, agent, version, tenant, model, tool) DO UPDATE SET
    calls = calls + excluded.calls,
    calls_in_doubt = calls_in_doubt + excluded.calls_in_doubt,
    calls_failed = calls_failed + excluded.calls_failed,
    input_tokens = input_tokens + excluded.input_tokens,
    cache_read_tokens = cache_read_tokens + excluded.cache_read_tokens,
    cache_write_tokens = cache_write_tokens + excluded.cache_write_tokens,
    output_tokens = output_tokens + excluded.output_tokens,
    settled_nano = settled_nano + excluded.settled_nano,
    in_doubt_nano = in_doubt_nano + excluded.in_doubt_nano,
    search_nano = search_nano + excluded.search_nano,
    loops_nano = loops_nano + excluded.loops_nano,
    missed_nano = missed_nano + excluded.missed_nano,
    rejected_nano = rejected_nano + excluded.rejected_nano,
    lost_nano = lost_nano + excluded.lost_nano;

-- rollup --
-- The hourly roll-up, oldest hour first.
SELECT hour, agent, version, tenant, model, tool, calls, calls_in_doubt, calls_failed,
       input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, settled_nano,
       in_doubt_nano, search_nano, loops_nano, missed_nano, rejected_nano, lost_nano
FROM costs_hourly ORDER BY hour, agent, version, tenant, model, tool;

-- ── blobs ────────────────────────────────────────────────────────────────────────────────────

-- has_blob --
-- Whether a blob is stored.
SELECT 1 FROM blobs WHERE sha256 = ?;

-- insert_blob --
-- Content, once, under its hash.
INSERT INTO blobs (sha256, data) VALUES (?, ?) ON CONFLICT DO NOTHING;

-- blob --
-- The content stored under a hash.
SELECT data FROM blobs WHERE sha256 = ?;
