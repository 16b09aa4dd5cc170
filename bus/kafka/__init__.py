"""Kafka: everything that knows librdkafka.

client            the settings with which every client starts
topics            the topics: their names, partitions and configuration
cloudevents       a message's envelope: CloudEvents attributes in the headers
reader            reads topics outside any group, to their end
sender            sends single messages and confirms that Kafka has them
kafka_errors      what Kafka's errors mean to who writes: wait, or a person must act
transactions      publishes events in transactions
connection_watch  notices a broken connection, after which no transaction is begun
offsets           where partitions begin and end, and what a group has committed
known_ids         which ids other sources have published
retention         how long history is kept, and what that costs
reachability      whether there is a way into the cluster, and else why not
overview          the topics and the consumers' lag
asyncapi          the topics described as an AsyncAPI document
"""
