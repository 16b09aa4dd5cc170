"""Cases from the field: what a roster said, and what must come of it.

Each test has its input as text that a reader can see. `district` is the district that the cases
start with. `way_in` takes its days through all of `bus.ingest` without a server.
"""
