-- What workers look for: runs to be driven, when the next one wakes, and who drives what.
--
-- Each run that sleeps is in one of two indexes, so that neither has to be sorted out from the other
-- in the table: workers start with roots, and come to their children by the roots' ids.

DROP INDEX runs_by_wake;

CREATE INDEX roots_by_wake ON runs (wake_at, tenant)
    WHERE root = id AND status IN ('parked', 'waiting') AND wake_at IS NOT NULL;
CREATE INDEX children_by_wake ON runs (wake_at, root)
    WHERE root <> id AND status IN ('parked', 'waiting') AND wake_at IS NOT NULL;
CREATE INDEX roots_queued ON runs (tenant) WHERE root = id AND status = 'queued';
CREATE INDEX children_queued ON runs (root) WHERE root <> id AND status = 'queued';

-- No time is in it: of two workers' clocks one may be minutes ahead.
CREATE TABLE leases (
    number INTEGER PRIMARY KEY,  -- of the stream
    worker TEXT    NOT NULL,
    beats  INTEGER NOT NULL
) STRICT;
