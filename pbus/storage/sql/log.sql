-- The log of one queue; {qid} is its number. upto: bytes of all bodies of the queue up to and
-- including this one, so the size of any range is one subtraction. due_ms: a push with delay, or (2^62) for
-- one topic only, whose deliveries are elsewhere. traceparent: see storage/origin.py.
CREATE TABLE IF NOT EXISTS log_{qid} (
    id           INTEGER PRIMARY KEY,
    upto         INTEGER NOT NULL,
    body         BLOB NOT NULL,
    traceparent  TEXT,
    content_type TEXT,
    due_ms       INTEGER,
    expires_ms   INTEGER,
    key          TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS log_{qid}_due ON log_{qid} (due_ms) WHERE due_ms IS NOT NULL;
