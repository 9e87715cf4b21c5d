-- The embedded store. One writer at a time (sqlite_lock.py), so counters are kept beside what they
-- count and written with it. Ids are integers: unix ms << 20 | sequence.
--
-- Where a delivery is: in its queue's log after the topic's cursor, or in exactly one of
-- claims, again, delayed, dead. Nowhere: done (or never meant for that topic).
-- aside = 1: the log has dropped its body; the copy is in table aside until the delivery ends.

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

-- One life of a node. Fenced: nothing it asks for is done any more.
CREATE TABLE boots (
    boot   TEXT PRIMARY KEY,
    node   TEXT NOT NULL,
    beat   INTEGER NOT NULL,
    fenced INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- One life of a process, with the answer to its last append (a repeated call gets it again).
-- AUTOINCREMENT: an oid is never another owner's later.
CREATE TABLE owners (
    oid    INTEGER PRIMARY KEY AUTOINCREMENT,
    name   TEXT NOT NULL UNIQUE,
    boot   TEXT NOT NULL,
    batch  INTEGER NOT NULL DEFAULT 0,
    answer TEXT NOT NULL DEFAULT ''
) STRICT;

-- The key is the compare-and-set: a claim is ended by who holds it, by nobody else.
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

-- Ready, because it came back; read before the log, so that order returns.
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
CREATE INDEX delayed_due ON delayed (tid, due_ms);

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
CREATE INDEX dead_at ON dead (tid, at_ms);

CREATE TABLE aside (
    tid          INTEGER NOT NULL,
    id           INTEGER NOT NULL,
    body         BLOB NOT NULL,
    traceparent  TEXT,
    content_type TEXT,
    PRIMARY KEY (tid, id)
) STRICT;

-- One row; check() moves it to see that the file can be written.
CREATE TABLE pulse (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    checks  INTEGER NOT NULL
) STRICT;
INSERT INTO pulse VALUES (1, 0);
