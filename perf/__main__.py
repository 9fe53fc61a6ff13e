"""`python -m perf`: every figure, in under three minutes; with --full also those that take longer."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from kbroker.testing import Broker
from perf import (
    beside_bulk,
    calibration,
    consume,
    full,
    group_recovery,
    groups,
    host,
    kafka,
    latency,
    produce,
    report,
    startup,
)
from perf.cost import wait_until_idle
from perf.figure import Figure

TOUCHED_BYTES = 4 << 30
LATENCY_S = 6.0
KAFKA_LATENCY_S = 4.0
KAFKA_IDLE_S = 5.0
KAFKA_PARKED_S = 65.0
IDLE_S = 6.0
BESIDE_BULK_S = 4.0
Measure = Callable[[], list[Figure]]


def with_broker(measure: Callable[[Broker], list[Figure]]) -> Measure:
    """A measurement that wants an idle broker of one worker to itself; deleted topics give their pages back at once."""

    def run() -> list[Figure]:
        with Broker(workers=1, log_segment_delete_delay_ms=0, listeners="PLAINTEXT://127.0.0.1:0") as broker:
            wait_until_idle(broker)
            return measure(broker)

    return run


def with_group_broker() -> list[Figure]:
    """What members see of groups that begin to balance at once."""
    settings = {"group.initial.rebalance.delay.ms": 0, "group.consumer.heartbeat.interval.ms": 500}
    with Broker(settings, workers=1, listeners="PLAINTEXT://127.0.0.1:0") as broker:
        return groups.groups(broker) + group_recovery.recovery(broker)


GROUPS: dict[str, Measure] = {
    "calibration": calibration.calibrate,
    "produce": with_broker(produce.produce),
    "consume": with_broker(consume.consume),
    "latency": with_broker(lambda broker: latency.latency(broker, LATENCY_S)),
    "kafka": with_broker(kafka.throughput),
    "kafka latency": with_broker(lambda broker: kafka.latency(broker, KAFKA_LATENCY_S)),
    "kafka idle": with_broker(lambda broker: kafka.idle(broker, KAFKA_IDLE_S)),
    "groups": with_group_broker,
    "group offsets": groups.replay,
    "beside bulk": lambda: beside_bulk.beside_bulk(BESIDE_BULK_S),
    "worker death": with_broker(startup.worker_death),
    "start": startup.start,
    "idle": lambda: startup.idle(IDLE_S),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m perf", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=GROUPS, help="measure only these groups")
    parser.add_argument(
        "--full", action="store_true", help="also what takes minutes: a restart with 20 GB in the log, long polls"
    )
    parser.add_argument("--save", metavar="NAME", help="write perf/results/NAME.json")
    arguments = parser.parse_args()

    facts = host.facts()
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    wanted = {title: measure for title, measure in GROUPS.items() if not arguments.only or title in arguments.only}
    if arguments.full:
        wanted["full restart"] = full.full_restart
        wanted["kafka parked"] = with_broker(lambda broker: kafka.idle(broker, KAFKA_PARKED_S))
    host.touch_memory(TOUCHED_BYTES)
    groups: dict[str, list[Figure]] = {}
    for title, measure in wanted.items():
        groups[title] = measure()
        report.show(title, groups[title])
    if arguments.save:
        path = report.write(arguments.save, " ".join(["python -m perf", *sys.argv[1:]]), facts, groups)
        print(f"written to {path.relative_to(report.RESULTS.parent.parent)}")


if __name__ == "__main__":
    main()
