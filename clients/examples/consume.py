"""Prints the topic `greetings` from its beginning and ends when nothing came for a second."""

from kbroker import Consumer

with Consumer("greetings", auto_offset_reset="earliest", consumer_timeout_ms=1000) as consumer:
    for record in consumer:
        print(record.partition, record.offset, record.key, record.value.decode())
    print(f"read through {consumer.transport}")
