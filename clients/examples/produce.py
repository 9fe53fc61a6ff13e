"""Sends ten records to the topic `greetings` and prints where they were put. The broker: KBROKER_SERVER."""

from kbroker import Producer

with Producer() as producer:
    futures = [producer.send("greetings", value=f"hello {n}".encode(), key=b"en") for n in range(10)]
    for future in futures:
        where = future.get(timeout=10)
        print(f"{where.topic}-{where.partition} offset {where.offset}")
