"""Replay: delivers a part of the history to a product again, beside the live consumer.

engine             runs a replay: read, filter, translate, deliver, record progress
window             which offsets of the topics a replay reads
selection          which records of the window it delivers
history            reads the messages of a window, in the order of time or of dependency
latest             finds each record's current state, also while new events arrive
record_filter      filters and decodes the messages that were read
presence           detects whether the process of a replay is still alive
replay_log         the topic that records each replay: who, what, when, why, and the progress
dry_run            reports what a replay would do
json_lines_folder  writes the rows of a product that takes requests to a folder instead
product_rows       holds a product's rows and finds how two states differ
compare            compares two translations, or a product with the topics

A replay never takes a product back in time: see `bus.replay.latest`.
"""
