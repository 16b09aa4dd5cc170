"""`bus bench`: how fast it is, measured on the machine at hand with everything on.

Nothing is switched off for a measurement that a user would have on: transactions, signatures,
traces, metrics, order, commits.
"""
