"""Stand-ins for Kafka, for tests that need no server.

clock     a clock that moves only when the code waits
broker    topics, partitions, groups and their offsets, in memory
consumer  what `confluent_kafka.Consumer` does, on that broker
producer  what `confluent_kafka.Producer` does, on that broker
admin     what `confluent_kafka.admin.AdminClient` does, on that broker
product   a product and its delivery, which a test can break
harness   runs the bus on these; only the harness names the bus's own modules
"""
