"""Sends ten records and reads them back in a group, with asyncio."""

import asyncio

from kbroker.aio import Consumer, Producer


async def main() -> None:
    async with Producer() as producer:
        for number in range(10):
            await producer.send("async-greetings", f"hello {number}".encode())
        await producer.flush()
    async with Consumer(
        "async-greetings", group="async-example", auto_offset_reset="earliest", consumer_timeout_ms=10_000
    ) as consumer:
        count = 0
        async for record in consumer:
            print(record.partition, record.offset, record.value.decode())
            count += 1
            if count == 10:
                break


asyncio.run(main())
