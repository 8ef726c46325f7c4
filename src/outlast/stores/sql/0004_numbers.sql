-- Numbers that all processes move on together, such as until when the turns of a rate limit are taken.

CREATE TABLE numbers (
    name  TEXT    PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
