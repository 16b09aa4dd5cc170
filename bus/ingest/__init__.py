"""The way in: from an extract to events.

pipeline    the steps in their order, for every source
workspace   the DuckDB database of one run: which tables there are, who makes and reads each
row_hashes  skips rows whose source text has not changed since they were last published
coercion    from text to the standard's types
integrity   checks and converts rows, and what records say of each other
snapshot    what a source last published: a cache of the topics
diff        what is new, changed or gone
ownership   which source owns an id
quarantine  the topic of what was wrong with the input
columns     the fields of a kind as columns of DuckDB
"""
