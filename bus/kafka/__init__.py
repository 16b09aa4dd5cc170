"""The Kafka client code: everything that depends on librdkafka.

client            the settings that every Kafka client shares
topics            topic names, partitions and configuration
cloudevents       the envelope of a message: CloudEvents attributes in its headers
reader            reads topics to their end, outside any consumer group
sender            sends single messages and confirms that Kafka has stored them
kafka_errors      turns Kafka's errors into the bus's own
transactions      publishes events in transactions
connection_watch  detects broken connections, after which a producer begins no transaction
offsets           where partitions begin and end, and what a consumer group has committed
late_groups       which consumer groups may have missed a deletion in a vendor's topics
known_ids         which ids other sources have published
retention         how long topics keep history, and how much disk that takes
reachability      whether the cluster can be reached, and the likely cause if not
audit             records who looked at personal data, and why
removal           finds and deletes topics and consumer groups under some names
overview          the topics and the lag of each consumer group
access            users, access rules and quotas
asyncapi          the topics as an AsyncAPI document
"""
