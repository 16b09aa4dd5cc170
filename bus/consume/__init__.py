"""Delivers events to a product.

worker            the main loop of a consumer
worker_state      the state of that loop: stop request, heartbeat, unsettled work, batch in hand
membership        handles partitions that the group assigns or revokes
assignment        the partitions of this instance, and which of them are paused
gate              decides which partitions are read now
backlog           the records that were read and not yet delivered
feed              what one consumer reads: the district's topics, or those of an agreement
buffer            the messages that were read and not yet ordered; decodes them
dependency_order  referenced records before the records that refer to them
delivered_index   which records have been delivered
delivered_file    the file that keeps that index between two runs
group_progress    what all instances of a consumer have delivered
equivalents       decides which of several equivalent records the product gets
active_index    the active records of each group of equivalent records
unique_values     decides which record gets a value that only one may have at the product
claim_index       which records claim such a value, and which record has it
cache_database    the DuckDB files of these indexes
translation       runs a product's translation over many records
deliverer         delivers a batch and writes its dead letters, for the worker and for replays
retries           tries again, with backoff, what the product cannot take now
deadletters       the topic with a product's dead letters
"""
