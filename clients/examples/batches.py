"""Counts the records and bytes of the topic `greetings` by whole batches: nothing is decoded."""

from kbroker import Consumer

with Consumer("greetings", auto_offset_reset="earliest") as consumer:
    ends = consumer.end_offsets(consumer.assignment())
    records = size_bytes = 0
    while any(consumer.position(partition) < end for partition, end in ends.items()):
        for batch in consumer.poll_batches(timeout_ms=1000):
            records += batch.record_count
            size_bytes += batch.size_bytes
    print(f"{records} records, {size_bytes} bytes")
