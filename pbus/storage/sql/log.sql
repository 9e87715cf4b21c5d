-- The log of one queue; {qid} is its number. upto: bytes of all bodies of the queue up to and
-- including this one, so the size of any range is one subtraction.
CREATE TABLE IF NOT EXISTS log_{qid} (
    id           INTEGER PRIMARY KEY,
    upto         INTEGER NOT NULL,
    body         BLOB NOT NULL,
    traceparent  TEXT,
    content_type TEXT
) STRICT
