"""The way out: from events to a product.

worker            the loop that every consumer runs in
worker_state      what the loop knows about itself: to be ended, alive, unsettled, a batch in hand
membership        partitions come and go
assignment        the partitions of this instance, and which of them are read now
gate              says which of them are read now, by what is behind and what waits
backlog           what was read and not yet delivered: the next batch, and what waits
buffer            what was read and not yet ordered; decodes it
dependency_order  references before referrers
delivered_index   which records have been delivered
delivered_file    which of them an earlier run has delivered: a file of the group
group_progress    what all instances of a consumer have delivered
equivalents       which of several records that are one thing to a product it is told
standing_index    what stands of such records
unique_values     which record is told a value that only one may have at the product
claim_index       which record wants such a value, and which has it
cache_database    DuckDB files of these indexes, which may be lost
translation       runs a product's translation over many records
deliverer         delivers a batch, and writes its dead letters: for the worker and for replays
retries           tries again, with backoff, what the product cannot take now
deadletters       the topic of what a product cannot take
"""
