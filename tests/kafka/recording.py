"""A proxy between Kafka clients and a broker that keeps the requests that pass; and the tool that writes golden/.

    python -m tests.kafka.recording

lets every client that is installed here make its tour through such a proxy and keeps one frame, the smallest, of each
API and version.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial

from kbroker.kafka.apis import BY_KEY
from kbroker.testing import Broker

from .golden_frames import FOLDER

WORKERS = 2
FRAME_BYTES_MAX = 2_000
"""Larger ones are not kept: what matters is their head."""
_HEAD = struct.Struct(">ihh")


class RecordingProxy:
    """Passes on what comes to its listeners, one for each node, and keeps the clients' frames."""

    def __init__(self, nodes: int) -> None:
        self.frames: list[bytes] = []
        self.listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(nodes)]
        self.ports = [listener.getsockname()[1] for listener in self.listeners]

    def serve(self, targets: list[int]) -> None:
        """Begin to pass on: listener i to port `targets[i]`."""
        for listener, port in zip(self.listeners, targets, strict=True):
            threading.Thread(target=self._accept, args=(listener, port), daemon=True).start()

    def close(self) -> None:
        for listener in self.listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _accept(self, listener: socket.socket, port: int) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = listener.accept()
                broker = socket.create_connection(("127.0.0.1", port))
                threading.Thread(target=self._pass_on, args=(client, broker, self._keep), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(broker, client, None), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, keep: Callable[[bytes], bytes] | None) -> None:
        rest = b""
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
                if keep is not None:
                    rest = keep(rest + data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _keep(self, data: bytes) -> bytes:
        """Keep the whole frames; returns what is left."""
        while len(data) >= 4 and len(data) >= 4 + (size := int.from_bytes(data[:4], "big")):
            self.frames.append(data[: 4 + size])
            data = data[4 + size :]
        return data


@contextlib.contextmanager
def recorded_broker() -> Iterator[tuple[Broker, RecordingProxy]]:
    """A broker whose clients are told the proxy's addresses only."""
    proxy = RecordingProxy(WORKERS + 1)
    settings = {"advertised.host": "127.0.0.1", "advertised.ports": ",".join(map(str, proxy.ports))}
    try:
        with Broker(settings, workers=WORKERS) as broker:
            listeners = broker.status()["listeners"]
            proxy.serve([int(listeners[f"kafka-{node}"].rpartition(":")[2]) for node in range(WORKERS + 1)])
            yield broker, proxy
    finally:
        proxy.close()


def smallest(frames: list[bytes]) -> list[bytes]:
    """One frame of each API and version that we know, in that order."""
    found: dict[tuple[int, int], bytes] = {}
    for frame in frames:
        _, api_key, version = _HEAD.unpack_from(frame)
        kept = found.get((api_key, version))
        if api_key in BY_KEY and len(frame) <= FRAME_BYTES_MAX and (kept is None or len(frame) < len(kept)):
            found[api_key, version] = frame
    return [found[key] for key in sorted(found)]


def write(client: str, frames: list[bytes]) -> None:
    """The client's file in golden/, in place of those of its other versions."""
    name, _, _ = client.rpartition("-")
    for old in FOLDER.glob(f"{name}-[0-9]*.frames"):
        old.unlink()
    lines = [f"# {client}"]
    for frame in smallest(frames):
        _, api_key, version = _HEAD.unpack_from(frame)
        lines.append(f"request {frame.hex()}  # {BY_KEY[api_key].name} v{version}")
    (FOLDER / f"{client}.frames").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{client}: {len(lines) - 1} frames of {len(frames)}")


def tours() -> Iterator[tuple[str, Callable[[Broker], None]]]:
    """Name with version, and tour, of each client that can be had here."""
    from tests.compat.tours import TOURS

    for name, tour in TOURS.items():
        yield f"{name}-{importlib.metadata.version(name)}", partial(_python_tour, tour)
    if kcat := shutil.which("kcat"):
        version = subprocess.run([kcat, "-V"], capture_output=True, text=True, check=True).stdout
        yield f"kcat-{version.split('Version ')[1].split()[0]}", partial(_kcat_tour, kcat)
    if npm := shutil.which("npm"):
        from tests.compat.test_node import PACKAGES

        for program, package in PACKAGES.items():
            client = package.removeprefix("@").replace("/", "-").replace("@", "-")
            yield client, partial(_node_tour, npm, program, package)


def _python_tour(tour: Callable[[Broker, str], None], broker: Broker) -> None:
    tour(broker, "t")


def _kcat_tour(kcat: str, broker: Broker) -> None:
    for arguments, given in (
        (["-P", "-t", "t", "-K", ":"], "k:v\n"),
        (["-L"], ""),
        (["-C", "-t", "t", "-e"], ""),
        (["-Q", "-t", "t:0:1000"], ""),
        (["-G", "members", "-X", "auto.offset.reset=earliest", "-c", "1", "t"], ""),
    ):
        subprocess.run([kcat, "-q", "-b", broker.bootstrap_servers, *arguments], input=given, text=True, check=True)


def _node_tour(npm: str, program: str, package: str, broker: Broker) -> None:
    from tests.compat.test_node import PROGRAMS

    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([npm, "install", "--silent", "--prefix", folder, package], check=True)
        shutil.copy(PROGRAMS / program, folder)
        subprocess.run(["node", program, broker.bootstrap_servers, "t"], cwd=folder, check=True)


def main() -> int:
    for client, tour in tours():
        with recorded_broker() as (broker, proxy):
            tour(broker)
            write(client, proxy.frames)
    return 0


if __name__ == "__main__":
    sys.exit(main())
