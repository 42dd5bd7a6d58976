-- What a client sent in a transaction, as a keyed hash: the same ID with something else is
-- another transaction. It is not known of the older ones, which are found no more.
ALTER TABLE transactions ADD COLUMN said {{blob}};
