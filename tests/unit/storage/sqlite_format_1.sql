-- SQLite dump (by APSW 3.54.1.0)
-- SQLite version 3.54.1
-- Date: Mon Nov 23 09:14:34 2026
-- Tables like: (All)
-- Database: /tmp/eA/v1/pbus.db
-- User: root @ vm

-- The values of various per-database settings
PRAGMA page_size=4096;
-- PRAGMA encoding='UTF-8';
-- PRAGMA auto_vacuum=NONE;
-- PRAGMA max_page_count=4294967294;

BEGIN TRANSACTION;

-- Table  again
DROP TABLE IF EXISTS again;
CREATE TABLE again (
    tid         INTEGER NOT NULL,
    id          INTEGER NOT NULL,
    attempts    INTEGER NOT NULL,
    crashes     INTEGER NOT NULL,
    redelivered INTEGER NOT NULL,
    first_ms    INTEGER NOT NULL,
    aside       INTEGER NOT NULL,
    PRIMARY KEY (tid, id)
) STRICT, WITHOUT ROWID;
INSERT INTO again VALUES(1,1887436800000000003,0,0,1,0,1);

-- Table  aside
DROP TABLE IF EXISTS aside;
CREATE TABLE aside (
    tid          INTEGER NOT NULL,
    id           INTEGER NOT NULL,
    body         BLOB NOT NULL,
    traceparent  TEXT,
    content_type TEXT,
    PRIMARY KEY (tid, id)
) STRICT;
INSERT INTO aside VALUES(1,1887436800000000004,X'6A6F622035',NULL,NULL);
INSERT INTO aside VALUES(1,1887436800000000003,X'6A6F622034',NULL,NULL);
INSERT INTO aside VALUES(1,1887436800000000001,X'6A6F622032',NULL,'text/plain');
INSERT INTO aside VALUES(1,1887436800000000002,X'6A6F622033',NULL,NULL);

-- Table  boots
DROP TABLE IF EXISTS boots;
CREATE TABLE boots (
    boot   TEXT PRIMARY KEY,
    node   TEXT NOT NULL,
    beat   INTEGER NOT NULL,
    fenced INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
INSERT INTO boots VALUES('b1','n1',1,0);

-- Table  claims
DROP TABLE IF EXISTS claims;
CREATE TABLE claims (
    oid         INTEGER NOT NULL,
    tid         INTEGER NOT NULL,
    id          INTEGER NOT NULL,
    attempts    INTEGER NOT NULL,
    crashes     INTEGER NOT NULL,
    redelivered INTEGER NOT NULL,
    first_ms    INTEGER NOT NULL,
    aside       INTEGER NOT NULL,
    PRIMARY KEY (oid, tid, id)
) STRICT, WITHOUT ROWID;
INSERT INTO claims VALUES(1,1,1887436800000000004,0,0,0,0,1);
INSERT INTO claims VALUES(1,1,1887436800000000005,0,0,0,0,0);

-- Table  dead
DROP TABLE IF EXISTS dead;
CREATE TABLE dead (
    tid         INTEGER NOT NULL,
    id          INTEGER NOT NULL,
    attempts    INTEGER NOT NULL,
    crashes     INTEGER NOT NULL,
    redelivered INTEGER NOT NULL,
    first_ms    INTEGER NOT NULL,
    aside       INTEGER NOT NULL,
    at_ms       INTEGER NOT NULL,
    reason      TEXT NOT NULL,
    error       TEXT NOT NULL,
    PRIMARY KEY (tid, id)
) STRICT, WITHOUT ROWID;
INSERT INTO dead VALUES(1,1887436800000000002,1,1,0,1800000000000,1,1800000000000,'failed','never');
-- Triggers and indices on  dead
CREATE INDEX dead_at ON dead (tid, at_ms);

-- Table  delayed
DROP TABLE IF EXISTS delayed;
CREATE TABLE delayed (
    tid         INTEGER NOT NULL,
    id          INTEGER NOT NULL,
    attempts    INTEGER NOT NULL,
    crashes     INTEGER NOT NULL,
    redelivered INTEGER NOT NULL,
    first_ms    INTEGER NOT NULL,
    aside       INTEGER NOT NULL,
    due_ms      INTEGER NOT NULL,
    PRIMARY KEY (tid, id)
) STRICT, WITHOUT ROWID;
INSERT INTO delayed VALUES(1,1887436800000000001,1,0,0,1800000000000,1,1800000060000);
-- Triggers and indices on  delayed
CREATE INDEX delayed_due ON delayed (tid, due_ms);

-- Table  log_1
DROP TABLE IF EXISTS log_1;
CREATE TABLE log_1 (
    id           INTEGER PRIMARY KEY,
    upto         INTEGER NOT NULL,
    body         BLOB NOT NULL,
    traceparent  TEXT,
    content_type TEXT
) STRICT
;
INSERT INTO log_1 VALUES(1887436800000000005,30,X'6A6F622036',NULL,NULL);
INSERT INTO log_1 VALUES(1887436800000000006,35,X'6A6F622037',NULL,NULL);
INSERT INTO log_1 VALUES(1887436801048576000,40,X'6A6F622038',NULL,NULL);

-- Table  log_2
DROP TABLE IF EXISTS log_2;
CREATE TABLE log_2 (
    id           INTEGER PRIMARY KEY,
    upto         INTEGER NOT NULL,
    body         BLOB NOT NULL,
    traceparent  TEXT,
    content_type TEXT
) STRICT
;

-- Table  owners
DROP TABLE IF EXISTS owners;
CREATE TABLE owners (
    oid    INTEGER PRIMARY KEY AUTOINCREMENT,
    name   TEXT NOT NULL UNIQUE,
    boot   TEXT NOT NULL,
    batch  INTEGER NOT NULL DEFAULT 0,
    answer TEXT NOT NULL DEFAULT ''
) STRICT;
INSERT INTO owners VALUES(1,'n1/b1/1.1','b1',2,'gift 1887436801048576000 1 3 2');
INSERT INTO owners VALUES(2,'n1/b1/2.2','b1',0,'');

-- Table  pulse
DROP TABLE IF EXISTS pulse;
CREATE TABLE pulse (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    checks  INTEGER NOT NULL
) STRICT;
INSERT INTO pulse VALUES(1,0);

-- Table  queues
DROP TABLE IF EXISTS queues;
CREATE TABLE queues (
    qid             INTEGER PRIMARY KEY,
    name            TEXT NOT NULL UNIQUE,
    retention_ms    INTEGER NOT NULL,
    retention_bytes INTEGER NOT NULL,
    last_id         INTEGER NOT NULL DEFAULT 0,   -- never goes back, whatever the clock does
    pushed          INTEGER NOT NULL DEFAULT 0,   -- jobs since the queue was made
    pushed_bytes    INTEGER NOT NULL DEFAULT 0,   -- their bodies
    trimmed         INTEGER NOT NULL DEFAULT 0    -- of them, no longer in the log
) STRICT;
INSERT INTO queues VALUES(1,'gift',0,0,1887436801048576000,8,40,5);
INSERT INTO queues VALUES(2,'empty',60000,1000,0,0,0,0);

-- Table  topics
DROP TABLE IF EXISTS topics;
CREATE TABLE topics (
    tid               INTEGER PRIMARY KEY,
    qid               INTEGER NOT NULL REFERENCES queues,
    name              TEXT NOT NULL,
    cursor            INTEGER NOT NULL,             -- id of the last log entry taken
    taken             INTEGER NOT NULL,             -- entries up to the cursor, as queues.pushed counts them
    again             INTEGER NOT NULL DEFAULT 0,
    running           INTEGER NOT NULL DEFAULT 0,
    delayed           INTEGER NOT NULL DEFAULT 0,
    dead              INTEGER NOT NULL DEFAULT 0,
    done_total        INTEGER NOT NULL DEFAULT 0,
    failed_total      INTEGER NOT NULL DEFAULT 0,
    dead_total        INTEGER NOT NULL DEFAULT 0,
    redelivered_total INTEGER NOT NULL DEFAULT 0,
    UNIQUE (qid, name)
) STRICT;
INSERT INTO topics VALUES(1,1,'credit',1887436800000000005,6,1,2,1,1,1,2,1,0);
INSERT INTO topics VALUES(2,1,'mail',1887436800000000004,5,0,0,0,0,5,0,0,0);
INSERT INTO topics VALUES(3,2,'one',0,0,0,0,0,0,0,0,0,0);

-- For primary key autoincrements the next id to use is stored in
-- sqlite_sequence
DELETE FROM main.sqlite_sequence WHERE name='owners';
INSERT INTO main.sqlite_sequence VALUES ('owners', 2);

-- Database header
pragma user_version=1;
pragma application_id=1885500787;

COMMIT TRANSACTION;
