-- The embedded store. One writer at a time (sqlite_lock.py), so counters are kept beside what they
-- count and written with it. Ids are integers: unix ms << 20 | sequence.
--
-- Where a delivery is: in its queue's log after the topic's cursor, or in exactly one of
-- claims, again, waiting, delayed, dead. Nowhere: ended (or never meant for that topic).
-- A push with delay is marked in the log (due_ms); its deliveries begin in delayed.
--
--   fresh = 1   its topic has not taken it: never claimed, not ended
--   aside = 1   the log has dropped its body; the copy is in table aside until the delivery ends
--   key         '' without one; expires_ms: 0 without ttl

CREATE TABLE queues (
    qid               INTEGER PRIMARY KEY,
    name              TEXT NOT NULL UNIQUE,
    retention_ms      INTEGER NOT NULL,
    retention_bytes   INTEGER NOT NULL,
    max_backlog       INTEGER NOT NULL DEFAULT 0,   -- 0: no bound
    max_backlog_bytes INTEGER NOT NULL DEFAULT 0,
    dedupe_window_ms  INTEGER NOT NULL DEFAULT 0,
    last_id           INTEGER NOT NULL DEFAULT 0,   -- never goes back, whatever the clock does
    pushed            INTEGER NOT NULL DEFAULT 0,   -- jobs since the queue was made
    pushed_bytes      INTEGER NOT NULL DEFAULT 0,   -- their bodies
    plain             INTEGER NOT NULL DEFAULT 0,   -- of the pushed, those without delay
    trimmed           INTEGER NOT NULL DEFAULT 0,   -- of the pushed, no longer in the log
    trimmed_bytes     INTEGER NOT NULL DEFAULT 0
) STRICT;

-- AUTOINCREMENT: a tid is never another topic's later; processes remember them.
CREATE TABLE topics (
    tid               INTEGER PRIMARY KEY AUTOINCREMENT,
    qid               INTEGER NOT NULL REFERENCES queues,
    name              TEXT NOT NULL,
    dead_keep_ms      INTEGER NOT NULL DEFAULT 0,   -- 0: no bound
    dead_max          INTEGER NOT NULL DEFAULT 0,
    paused_ms         INTEGER NOT NULL DEFAULT 0,   -- since when; 0: it is not
    since             INTEGER NOT NULL DEFAULT 0,   -- its jobs are those with an id above
    born              INTEGER NOT NULL DEFAULT 0,   -- last id of the queue when it was made ..
    born_ms           INTEGER NOT NULL DEFAULT 0,   -- .. and when that was
    cursor            INTEGER NOT NULL,             -- id of the last log entry passed
    passed            INTEGER NOT NULL,             -- entries passed, as queues.plain counts them
    holes             INTEGER NOT NULL DEFAULT 0,   -- entries after the cursor that are in cancelled
    taken             INTEGER NOT NULL,             -- jobs taken, as queues.pushed counts them
    taken_bytes       INTEGER NOT NULL,
    again             INTEGER NOT NULL DEFAULT 0,
    waiting           INTEGER NOT NULL DEFAULT 0,
    running           INTEGER NOT NULL DEFAULT 0,
    delayed           INTEGER NOT NULL DEFAULT 0,
    dead              INTEGER NOT NULL DEFAULT 0,
    done_total        INTEGER NOT NULL DEFAULT 0,
    failed_total      INTEGER NOT NULL DEFAULT 0,
    dead_total        INTEGER NOT NULL DEFAULT 0,
    redelivered_total INTEGER NOT NULL DEFAULT 0,
    cancelled_total   INTEGER NOT NULL DEFAULT 0,
    expired_total     INTEGER NOT NULL DEFAULT 0,
    forgotten_total   INTEGER NOT NULL DEFAULT 0,
    sample            INTEGER NOT NULL DEFAULT 0,   -- not 0: a shadow, holds nothing up (sqlite_shadows.py)
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
    forgiven    INTEGER NOT NULL,
    redelivered INTEGER NOT NULL,
    first_ms    INTEGER NOT NULL,
    aside       INTEGER NOT NULL,
    expires_ms  INTEGER NOT NULL,
    key         TEXT NOT NULL,
    PRIMARY KEY (oid, tid, id)
) STRICT, WITHOUT ROWID;

-- Ready, because it came back or became due; read before the log, so that order returns.
CREATE TABLE again (
    tid         INTEGER NOT NULL,
    id          INTEGER NOT NULL,
    attempts    INTEGER NOT NULL,
    crashes     INTEGER NOT NULL,
    forgiven    INTEGER NOT NULL,
    redelivered INTEGER NOT NULL,
    first_ms    INTEGER NOT NULL,
    aside       INTEGER NOT NULL,
    expires_ms  INTEGER NOT NULL,
    key         TEXT NOT NULL,
    fresh       INTEGER NOT NULL,
    PRIMARY KEY (tid, id)
) STRICT, WITHOUT ROWID;

-- Ready, but another delivery holds its key: left when that one has ended, by who ends it.
CREATE TABLE waiting (
    tid         INTEGER NOT NULL,
    id          INTEGER NOT NULL,
    attempts    INTEGER NOT NULL,
    crashes     INTEGER NOT NULL,
    forgiven    INTEGER NOT NULL,
    redelivered INTEGER NOT NULL,
    first_ms    INTEGER NOT NULL,
    aside       INTEGER NOT NULL,
    expires_ms  INTEGER NOT NULL,
    key         TEXT NOT NULL,
    fresh       INTEGER NOT NULL,
    PRIMARY KEY (tid, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX waiting_key ON waiting (tid, key, id);

CREATE TABLE delayed (
    tid         INTEGER NOT NULL,
    id          INTEGER NOT NULL,
    attempts    INTEGER NOT NULL,
    crashes     INTEGER NOT NULL,
    forgiven    INTEGER NOT NULL,
    redelivered INTEGER NOT NULL,
    first_ms    INTEGER NOT NULL,
    aside       INTEGER NOT NULL,
    expires_ms  INTEGER NOT NULL,
    key         TEXT NOT NULL,
    fresh       INTEGER NOT NULL,
    due_ms      INTEGER NOT NULL,
    PRIMARY KEY (tid, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX delayed_due ON delayed (tid, due_ms);

CREATE TABLE dead (
    tid         INTEGER NOT NULL,
    id          INTEGER NOT NULL,
    attempts    INTEGER NOT NULL,
    crashes     INTEGER NOT NULL,
    forgiven    INTEGER NOT NULL,
    redelivered INTEGER NOT NULL,
    first_ms    INTEGER NOT NULL,
    aside       INTEGER NOT NULL,
    expires_ms  INTEGER NOT NULL,
    key         TEXT NOT NULL,
    at_ms       INTEGER NOT NULL,
    reason      TEXT NOT NULL,
    error       TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    PRIMARY KEY (tid, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX dead_at ON dead (tid, at_ms, id);
CREATE INDEX dead_group ON dead (tid, fingerprint, at_ms, id);

-- What is known of all dead letters of one fingerprint, also of those that are gone.
CREATE TABLE dead_groups (
    tid         INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,
    count       INTEGER NOT NULL,   -- there now
    total       INTEGER NOT NULL,
    first_ms    INTEGER NOT NULL,
    last_ms     INTEGER NOT NULL,
    PRIMARY KEY (tid, fingerprint)
) STRICT, WITHOUT ROWID;
CREATE INDEX dead_groups_count ON dead_groups (tid, count);

-- Who holds a key of a topic. holder 0: nobody, the key rests until rest_ms.
CREATE TABLE keys (
    tid     INTEGER NOT NULL,
    key     TEXT NOT NULL,
    holder  INTEGER NOT NULL,
    rest_ms INTEGER NOT NULL,
    PRIMARY KEY (tid, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX keys_rest ON keys (rest_ms) WHERE holder = 0;

-- Log entries after the cursor that were cancelled; claims pass over them.
CREATE TABLE cancelled (
    tid INTEGER NOT NULL,
    id  INTEGER NOT NULL,
    PRIMARY KEY (tid, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE dedupe (
    qid   INTEGER NOT NULL,
    key   TEXT NOT NULL,
    id    INTEGER NOT NULL,         -- of the first push with it
    at_ms INTEGER NOT NULL,         -- when that was
    PRIMARY KEY (qid, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX dedupe_at ON dedupe (qid, at_ms);

CREATE TABLE aside (
    tid          INTEGER NOT NULL,
    id           INTEGER NOT NULL,
    body         BLOB NOT NULL,
    traceparent  TEXT,
    content_type TEXT,
    expires_ms   INTEGER,
    key          TEXT,
    PRIMARY KEY (tid, id)
) STRICT;

-- One row. check() moves checks to see that the file can be written; catalog moves when a topic is
-- made or removed, for processes that remember numbers of names.
CREATE TABLE pulse (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    checks  INTEGER NOT NULL,
    catalog INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO pulse (one, checks) VALUES (1, 0);
