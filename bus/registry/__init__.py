"""The schema registry: schemas, and records as bytes.

subjects         looks up, checks and registers the standard's schemas
registry_client  creates the registry's client, and turns its errors into the bus's own
codec            converts one record to Avro bytes and back, in the Confluent frame
batch_codec      converts whole batches to Avro and back, as columns
"""
