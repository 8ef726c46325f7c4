-- What is wasted, what is in doubt, and what it takes to settle that later.

-- A hold of a call in doubt stays, so that its amount can be settled once somebody knows it.
ALTER TABLE holds ADD COLUMN in_doubt INTEGER NOT NULL DEFAULT 0;

ALTER TABLE runs ADD COLUMN in_doubt_nano INTEGER NOT NULL DEFAULT 0;

-- `meta` outlives an erasure, so this counts what the bodies may not tell any more.
UPDATE runs SET in_doubt_nano = (
    SELECT coalesce(sum(json_extract(CAST(meta AS TEXT), '$.cost_nano')), 0) FROM events
    WHERE id > runs.number << 24 AND id < (runs.number + 1) << 24
      AND type = 'model_call_in_doubt'
);

-- Parts of what is settled: no sum of a line.
ALTER TABLE costs_hourly ADD COLUMN search_nano INTEGER NOT NULL DEFAULT 0;
ALTER TABLE costs_hourly ADD COLUMN loops_nano INTEGER NOT NULL DEFAULT 0;
ALTER TABLE costs_hourly ADD COLUMN missed_nano INTEGER NOT NULL DEFAULT 0;
ALTER TABLE costs_hourly ADD COLUMN rejected_nano INTEGER NOT NULL DEFAULT 0;
ALTER TABLE costs_hourly ADD COLUMN lost_nano INTEGER NOT NULL DEFAULT 0;
