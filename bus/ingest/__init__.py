"""The way in: from what a source reads to events.

pipeline    the steps in their order, for extracts and polls
workspace   the DuckDB database of one run: which tables there are, who makes and reads each
row_hashes  skips rows whose source text has not changed since they were last published
coercion    from text to the standard's types
grades      grade levels in one spelling
integrity   checks and converts rows, and what records say of each other
snapshot    what a source last published: a cache of the topics
diff        what is new, changed or gone
guard       stops before a mass withdrawal
record_difference  what would change, record by record, for a dry run
fault_group faults of one cause as one
ownership   which source owns an id
quarantine  the topic of what was wrong with the input
columns     the fields of a kind as columns of DuckDB
drop_folder watches a folder, and takes each extract that arrives
polling     asks a system again and again
streaming   publishes what a system streams, batch by batch
position    where a polled or streaming source goes on: a topic
"""
