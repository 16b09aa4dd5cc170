"""The way out: from events to a product.

worker            the loop that every consumer runs in
assignment        the partitions of this instance, and which of them are read now
buffer            what was read and not yet delivered
dependency_order  references before referrers
delivered_index   which records have been delivered
group_progress    what all instances of a consumer have delivered
equivalents       records that are one thing to a product
translation       runs a product's translation over many records
deliverer         translates, buries, hands over: for the worker and for replays
retries           tries again, with backoff, what the product cannot take now
deadletters       the topic of what a product cannot take
"""
