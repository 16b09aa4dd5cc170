"""The benchmarks of `bus bench`, which measure the speed of the bus on this machine.

Everything that a user has enabled stays enabled: transactions, signatures, traces, metrics, order
and commits.
"""
