"""The registry: schemas, and records as bytes.

subjects         looks up, checks and registers the standard's schemas
registry_client  the client of the registry, and its failures in our terms
codec            one record to Avro bytes and back, in the Confluent frame
batch_codec      whole batches to Avro and back, as columns
"""
