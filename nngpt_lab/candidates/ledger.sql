-- The ledger's tables and views, version 2. Statements end with two semicolons, as triggers hold single ones;
-- ":statuses" and ":static" stand for the names of nngpt_lab.candidates.outcome.Status.

-- What a protocol hash stands for.
CREATE TABLE protocols (
    hash TEXT PRIMARY KEY CHECK (hash <> ''),
    record TEXT NOT NULL CHECK (json_valid(record)),
    added TEXT NOT NULL -- UTC, ISO 8601, like all times here
) STRICT;;

-- Each code once. The hash is the SHA-256 of its UTF-8 text.
CREATE TABLE codes (
    hash TEXT PRIMARY KEY CHECK (length(hash) = 64),
    code TEXT NOT NULL
) STRICT;;

-- Every text that a model wrote (or that stands in for one), as it came, and what the checks before evaluation said.
CREATE TABLE samples (
    run TEXT NOT NULL CHECK (run <> ''),
    position INTEGER NOT NULL CHECK (position >= 0),
    status TEXT NOT NULL CHECK (status IN (:static)),
    kind TEXT NOT NULL,
    code_hash TEXT NOT NULL REFERENCES codes (hash), -- of the empty text when there was no code
    parent TEXT, -- code hash of what it was derived from; need not be in the ledger
    prompt_hash TEXT NOT NULL,
    sampling_seed INTEGER,
    source TEXT NOT NULL, -- where in the text the code was found
    message TEXT NOT NULL,
    text TEXT NOT NULL,
    drawn TEXT NOT NULL,
    PRIMARY KEY (run, position)
) STRICT;;

-- One row per code, protocol and seed. A failure has a status and no score.
CREATE TABLE evaluations (
    code_hash TEXT NOT NULL REFERENCES codes (hash),
    protocol_hash TEXT NOT NULL REFERENCES protocols (hash),
    seed INTEGER NOT NULL,
    kind TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN (:statuses) AND status <> 'duplicate'), -- duplicate of what? a run's matter
    score REAL CHECK ((score IS NULL) = (status <> 'ok') AND (score IS NULL OR score BETWEEN 0 AND 1)),
    parameters INTEGER, -- as the child counted them
    device TEXT NOT NULL,
    total_seconds REAL, -- wall clock, as the parent measured it
    seconds TEXT NOT NULL CHECK (json_valid(seconds)), -- by stage
    message TEXT NOT NULL,
    traceback TEXT NOT NULL,
    isolation TEXT NOT NULL CHECK (json_valid(isolation)),
    finished TEXT NOT NULL,
    PRIMARY KEY (code_hash, protocol_hash, seed)
) STRICT;;

-- Evaluations that were taken out again, whole, because the machine and not the code had decided how they ended.
CREATE TABLE dropped (
    code_hash TEXT NOT NULL,
    protocol_hash TEXT NOT NULL,
    seed INTEGER NOT NULL,
    finished TEXT NOT NULL,
    evaluation TEXT NOT NULL CHECK (json_valid(evaluation)), -- the row as it was
    reason TEXT NOT NULL,
    PRIMARY KEY (code_hash, protocol_hash, seed, finished)
) STRICT;;

CREATE INDEX samples_by_code ON samples (code_hash);;
CREATE INDEX evaluations_by_protocol ON evaluations (protocol_hash, seed);;

-- Append-only, whoever writes. INSERT OR REPLACE deletes without asking the triggers on DELETE, hence the third kind.
CREATE TRIGGER protocols_update BEFORE UPDATE ON protocols BEGIN SELECT RAISE(ABORT, 'a ledger is append-only'); END;;
CREATE TRIGGER protocols_delete BEFORE DELETE ON protocols BEGIN SELECT RAISE(ABORT, 'a ledger is append-only'); END;;
CREATE TRIGGER protocols_insert BEFORE INSERT ON protocols
    WHEN EXISTS (SELECT 1 FROM protocols WHERE hash = NEW.hash)
    BEGIN SELECT RAISE(ABORT, 'a ledger is append-only: the first row wins'); END;;
CREATE TRIGGER codes_update BEFORE UPDATE ON codes BEGIN SELECT RAISE(ABORT, 'a ledger is append-only'); END;;
CREATE TRIGGER codes_delete BEFORE DELETE ON codes BEGIN SELECT RAISE(ABORT, 'a ledger is append-only'); END;;
CREATE TRIGGER codes_insert BEFORE INSERT ON codes
    WHEN EXISTS (SELECT 1 FROM codes WHERE hash = NEW.hash)
    BEGIN SELECT RAISE(ABORT, 'a ledger is append-only: the first row wins'); END;;
CREATE TRIGGER samples_update BEFORE UPDATE ON samples BEGIN SELECT RAISE(ABORT, 'a ledger is append-only'); END;;
CREATE TRIGGER samples_delete BEFORE DELETE ON samples BEGIN SELECT RAISE(ABORT, 'a ledger is append-only'); END;;
CREATE TRIGGER samples_insert BEFORE INSERT ON samples
    WHEN EXISTS (SELECT 1 FROM samples WHERE run = NEW.run AND position = NEW.position)
    BEGIN SELECT RAISE(ABORT, 'a ledger is append-only: the first row wins'); END;;
CREATE TRIGGER evaluations_update BEFORE UPDATE ON evaluations
    BEGIN SELECT RAISE(ABORT, 'a ledger is append-only'); END;;
CREATE TRIGGER evaluations_delete BEFORE DELETE ON evaluations
    WHEN NOT EXISTS (
        SELECT 1 FROM dropped
        WHERE code_hash = OLD.code_hash AND protocol_hash = OLD.protocol_hash AND seed = OLD.seed
            AND finished = OLD.finished
    )
    BEGIN SELECT RAISE(ABORT, 'a ledger is append-only: what is dropped is kept in the table of that name'); END;;
CREATE TRIGGER dropped_update BEFORE UPDATE ON dropped BEGIN SELECT RAISE(ABORT, 'a ledger is append-only'); END;;
CREATE TRIGGER dropped_delete BEFORE DELETE ON dropped BEGIN SELECT RAISE(ABORT, 'a ledger is append-only'); END;;
CREATE TRIGGER evaluations_insert BEFORE INSERT ON evaluations
    WHEN EXISTS (
        SELECT 1 FROM evaluations
        WHERE code_hash = NEW.code_hash AND protocol_hash = NEW.protocol_hash AND seed = NEW.seed
    )
    BEGIN SELECT RAISE(ABORT, 'a ledger is append-only: the first row wins'); END;;

-- How much of a run could be used. Valid: it holds code that keeps the contract, new or not. Kept: valid and new.
CREATE VIEW validity AS
SELECT run, count(*) AS samples,
    sum(status = 'ok') AS ok, sum(status = 'no_code') AS no_code, sum(status = 'syntax') AS syntax,
    sum(status = 'contract') AS contract, sum(status = 'duplicate') AS duplicate,
    avg(status IN ('ok', 'duplicate')) AS valid_share, avg(status = 'ok') AS kept_share
FROM samples GROUP BY run;;

CREATE VIEW sample_statuses AS
SELECT run, status, count(*) AS samples, 1.0 * count(*) / sum(count(*)) OVER (PARTITION BY run) AS share
FROM samples GROUP BY run, status;;

-- Each sample with every evaluation of its code; one row without an evaluation if there is none.
CREATE VIEW sample_outcomes AS
SELECT samples.run, samples.position, samples.code_hash, samples.status AS sample_status,
    evaluations.protocol_hash, evaluations.seed, evaluations.status, evaluations.score, evaluations.total_seconds
FROM samples LEFT JOIN evaluations ON evaluations.code_hash = samples.code_hash AND evaluations.kind = samples.kind;;

-- Replicates of one code under one protocol: `scored` seeds have a score, `failed` do not. The mean, the standard
-- deviation (n - 1; null for a single score) and the range are over those that have one.
CREATE VIEW scores AS
WITH means AS (
    SELECT protocol_hash, code_hash, avg(score) AS mean, count(score) AS scored, count(*) AS evaluations,
        min(score) AS lowest, max(score) AS highest
    FROM evaluations GROUP BY protocol_hash, code_hash
)
SELECT protocol_hash, code_hash, scored, evaluations - scored AS failed, mean,
    CASE WHEN scored > 1 THEN sqrt((
        SELECT sum((e.score - means.mean) * (e.score - means.mean)) FROM evaluations AS e
        WHERE e.protocol_hash = means.protocol_hash AND e.code_hash = means.code_hash
    ) / (scored - 1)) END AS sd,
    lowest, highest
FROM means;;

-- The best codes of a protocol by mean score, from rank 1. A best of many is an optimistic estimate of its own score.
CREATE VIEW best AS
SELECT protocol_hash, rank() OVER (PARTITION BY protocol_hash ORDER BY mean DESC) AS rank, code_hash, mean, sd, scored,
    failed
FROM scores WHERE scored > 0;;

CREATE VIEW statuses AS
SELECT protocol_hash, status, count(*) AS evaluations,
    1.0 * count(*) / sum(count(*)) OVER (PARTITION BY protocol_hash) AS share
FROM evaluations GROUP BY protocol_hash, status;;

-- Where the time goes, in wall-clock seconds of each stage (`total` is the whole).
CREATE VIEW times AS
SELECT protocol_hash, status, stage.key AS stage, count(*) AS evaluations, sum(stage.value) AS total_seconds,
    avg(stage.value) AS mean_seconds, max(stage.value) AS longest_seconds
FROM evaluations, json_each(evaluations.seconds) AS stage GROUP BY protocol_hash, status, stage.key;;
