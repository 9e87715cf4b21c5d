-- Format 1 to 2, first half: what format 1 had makes room. schema.sql comes next, then after_2.sql.
DROP INDEX delayed_due;
DROP INDEX dead_at;
ALTER TABLE queues RENAME TO old_queues;
ALTER TABLE topics RENAME TO old_topics;
ALTER TABLE boots RENAME TO old_boots;
ALTER TABLE owners RENAME TO old_owners;
ALTER TABLE claims RENAME TO old_claims;
ALTER TABLE again RENAME TO old_again;
ALTER TABLE delayed RENAME TO old_delayed;
ALTER TABLE dead RENAME TO old_dead;
ALTER TABLE aside RENAME TO old_aside;
DROP TABLE pulse;
