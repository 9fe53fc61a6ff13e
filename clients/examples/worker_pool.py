"""A pool of workers: processes of one group share a topic's jobs. Kill one with -9, and the others take over its part.

    python worker_pool.py jobs --workers 3 --commit after-work

Every job is handled at least once. With `--commit after-work` an offset is committed only when the jobs before it are
done; with `--commit automatic` the consumer does it, when it is asked for more jobs. Ctrl-C ends the pool in order.
"""

import argparse
import multiprocessing
import os
import signal

from kbroker import Consumer, ConsumerRecord


def handle(job: ConsumerRecord) -> None:
    """The work itself."""
    # One write for the whole line: the workers share their output.
    print(f"{os.getpid()} {job.partition} {job.offset} {job.value.decode()}\n", end="", flush=True)


def work(topic: str, group: str, after_work: bool) -> None:
    """One worker, until it is told to end."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # raises KeyboardInterrupt here
    try:
        with Consumer(
            topic, group=group, auto_offset_reset="earliest", enable_auto_commit=not after_work, max_poll_records=20
        ) as consumer:
            while True:
                for jobs in consumer.poll(timeout_ms=1_000).values():
                    for job in jobs:
                        handle(job)
                if after_work:
                    consumer.commit()
    except KeyboardInterrupt:
        pass  # the consumer has left its group, so its partitions have gone to the others at once


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("topic")
    arguments.add_argument("--group", default="worker-pool")
    arguments.add_argument("--workers", type=int, default=3)
    arguments.add_argument("--commit", choices=("after-work", "automatic"), default="after-work")
    chosen = arguments.parse_args()

    start = multiprocessing.get_context("spawn").Process
    how = (chosen.topic, chosen.group, chosen.commit == "after-work")
    workers = [start(target=work, args=how) for _ in range(chosen.workers)]
    for worker in workers:
        worker.start()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for worker in workers:
            worker.join()
    except KeyboardInterrupt:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()


if __name__ == "__main__":
    main()
