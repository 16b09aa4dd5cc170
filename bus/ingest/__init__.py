"""Turn what a source reads into events.

pipeline    the steps in order, for extracts and polls
report      what came of them, for a person and for --json
workspace   the DuckDB database of one run: its tables, which step makes each, which steps read it
row_hashes  skips rows whose source text has not changed since they were last published
coercion    converts text to the standard's types
grades      converts grade levels to one spelling
integrity   checks and converts rows, and checks references between records
snapshot    the cache of what a source last published, filled from the topics
diff        finds what is new, changed or withdrawn
guard       stops a mass withdrawal
record_difference  what a dry run would change, record by record
fault_group groups faults that have one cause
ownership   finds out to which source an id belongs
opt_outs    publishes the opt-outs that a person enters, and reads those of all sources
quarantine  the topic with the faults of the input
columns     maps the fields of a kind to DuckDB columns
drop_folder watches a folder and publishes each extract that arrives
polling     polls a system at intervals
streaming   publishes the changes that a system streams, batch by batch
position    the topic with the position at which a polled or streaming source continues
"""
