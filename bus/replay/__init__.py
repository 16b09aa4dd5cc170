"""Replay: history sent again to a product, beside its live consumer.

engine             the run: read, choose, translate, deliver, note how far it is
window             which part of the topics, from when to when
selection          which records of it
history            the messages of a window, in the order of time or of dependency
latest             which of them are a record's latest state, also while new ones come
record_filter      from what was read to what is replayed of it
presence           whether the process that runs a replay still lives
replay_log         who replays what, when and why, and how far it is: a topic
dry_run            what a run would do
json_lines_folder  a folder in the place of a product that is told by requests
product_rows       what a product has, as rows, and how two such states differ
compare            an old and a new translation, or the topics and what a product has

Never back in time: see `bus.replay.latest`.
"""
