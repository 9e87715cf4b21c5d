-- Format 1 to 2, second half: nothing had options then. taken_bytes and trimmed_bytes come from the
-- logs, one by one (sqlite_migrate.py).
INSERT INTO queues (qid, name, retention_ms, retention_bytes, last_id, pushed, pushed_bytes, plain, trimmed)
    SELECT qid, name, retention_ms, retention_bytes, last_id, pushed, pushed_bytes, pushed, trimmed FROM old_queues;
INSERT INTO topics (tid, qid, name, born, cursor, passed, taken, taken_bytes, again, running, delayed, dead,
                    done_total, failed_total, dead_total, redelivered_total)
    SELECT tid, qid, t.name, q.last_id, cursor, taken, taken, 0, again, running, delayed, dead,
           done_total, failed_total, dead_total, redelivered_total FROM old_topics t JOIN old_queues q USING (qid);
INSERT INTO boots SELECT * FROM old_boots;
-- Whoever pushed last with format 1 is gone, and asks for no answer again.
INSERT INTO owners SELECT oid, name, boot, batch, '' FROM old_owners;
UPDATE sqlite_sequence SET seq = coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'old_owners'), 0)
    WHERE name = 'owners';
INSERT INTO claims SELECT oid, tid, id, attempts, crashes, 0, redelivered, first_ms, aside, 0, '' FROM old_claims;
INSERT INTO again SELECT tid, id, attempts, crashes, 0, redelivered, first_ms, aside, 0, '', 0 FROM old_again;
INSERT INTO delayed
    SELECT tid, id, attempts, crashes, 0, redelivered, first_ms, aside, 0, '', 0, due_ms FROM old_delayed;
INSERT INTO dead
    SELECT tid, id, attempts, crashes, 0, redelivered, first_ms, aside, 0, '', at_ms, reason, error, '' FROM old_dead;
INSERT INTO dead_groups
    SELECT tid, '', count(*), count(*), min(at_ms), max(at_ms) FROM old_dead GROUP BY tid;
INSERT INTO aside SELECT tid, id, body, traceparent, content_type, NULL, NULL FROM old_aside;
DROP TABLE old_claims;
DROP TABLE old_again;
DROP TABLE old_delayed;
DROP TABLE old_dead;
DROP TABLE old_aside;
DROP TABLE old_owners;
DROP TABLE old_boots;
DROP TABLE old_topics;
DROP TABLE old_queues;
