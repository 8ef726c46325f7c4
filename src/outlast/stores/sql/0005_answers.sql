-- How many answers of a run were checked, and not accepted.

ALTER TABLE runs ADD COLUMN rejections INTEGER NOT NULL DEFAULT 0;
