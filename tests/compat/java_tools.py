"""Apache Kafka's own command-line tools, run from its published jars.

Maven fetches the jars once per machine into `$XDG_CACHE_HOME/kbroker-tests`. Where Java, Maven or the registry is
missing, `find_tools` says which.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

VERSION: Final = "4.3.1"
"""The newest 4.x whose tools were all published (kafka-tools 4.4.0 was not)."""
FETCH_S: Final = 200
RUN_S: Final = 60

_POM: Final = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>local</groupId> <artifactId>jars</artifactId> <version>1</version> <packaging>pom</packaging>
  <dependencies>
    {dependencies}
    <dependency>
      <groupId>org.slf4j</groupId> <artifactId>slf4j-simple</artifactId> <version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
"""
_DEPENDENCY: Final = f"""\
    <dependency>
      <groupId>org.apache.kafka</groupId> <artifactId>{{artifact}}</artifactId> <version>{VERSION}</version>
      <exclusions>
        <exclusion> <groupId>org.apache.kafka</groupId> <artifactId>{{without}}</artifactId> </exclusion>
      </exclusions>
    </dependency>
"""
_COPY: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"

_TOOLS: Final = "org.apache.kafka.tools."
_CLASSES: Final = {
    "kafka-topics": _TOOLS + "TopicCommand",
    "kafka-configs": "kafka.admin.ConfigCommand",
    "kafka-console-producer": _TOOLS + "ConsoleProducer",
    "kafka-console-consumer": _TOOLS + "consumer.ConsoleConsumer",
    "kafka-get-offsets": _TOOLS + "GetOffsetShell",
    "kafka-log-dirs": _TOOLS + "LogDirsCommand",
    "kafka-delete-records": _TOOLS + "DeleteRecordsCommand",
    "kafka-producer-perf-test": _TOOLS + "ProducerPerformance",
    "kafka-consumer-perf-test": _TOOLS + "ConsumerPerformance",
    "kafka-verifiable-producer": _TOOLS + "VerifiableProducer",
    "kafka-consumer-groups": _TOOLS + "consumer.group.ConsumerGroupCommand",
    "kafka-groups": _TOOLS + "GroupsCommand",
    "kafka-transactions": _TOOLS + "TransactionsCommand",
    "kafka-acls": _TOOLS + "AclCommand",
    "kafka-dump-log": _TOOLS + "DumpLogSegments",
    "kafka-storage": "kafka.tools.StorageTool",
    "kafka-server-start": "kafka.Kafka",
}


class ToolsMissing(Exception):
    """Why Apache Kafka's programs cannot run on this machine."""


class Ran(NamedTuple):
    """What a program said, and how it ended."""

    code: int
    out: str
    err: str


class JavaTools:
    """Runs the programs that lie in `bin/` of a Kafka distribution, by the same names."""

    def __init__(self, jars: Path) -> None:
        self._jars = jars

    def command(self, tool: str, *arguments: str) -> list[str]:
        """The command line of a tool."""
        return java_command([self._jars], _CLASSES[tool], *arguments)

    def try_to(self, tool: str, *arguments: str, stdin: str = "", timeout_s: float = RUN_S) -> Ran:
        """Run a tool to its end, whatever that is. Raises AssertionError when it does not end."""
        command = self.command(tool, *arguments)
        try:
            done = subprocess.run(command, check=False, input=stdin, capture_output=True, text=True, timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"{tool} {arguments} did not end within {timeout_s} s: {error.stdout!r}") from None
        return Ran(done.returncode, done.stdout, done.stderr)

    def run(self, tool: str, *arguments: str, stdin: str = "", timeout_s: float = RUN_S) -> str:
        """What a tool prints. Raises AssertionError, with all it said, when it fails."""
        ran = self.try_to(tool, *arguments, stdin=stdin, timeout_s=timeout_s)
        assert ran.code == 0, f"{tool} {' '.join(arguments)} ended with {ran.code}:\n{ran.out}\n{ran.err}"
        return ran.out


@functools.cache
def find_tools() -> JavaTools:
    """The tools, fetched when this machine has none yet. Raises ToolsMissing saying why there are none."""
    return JavaTools(find_jars(f"apache-kafka-{VERSION}", {"kafka_2.13": "none", "kafka-tools": "connect-runtime"}))


def java_command(class_path: Iterable[Path], main_class: str, *arguments: str) -> list[str]:
    """The command line that runs a class; `class_path`: folders of jars and of classes. A JVM that lives for a second
    is best left without its second compiler."""
    java = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto", "-Xmx512m"]
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
    places = os.pathsep.join(place for folder in class_path for place in (str(folder), f"{folder}/*"))
    return [*java, quiet, "-cp", places, main_class, *arguments]


def find_jars(name: str, artifacts: dict[str, str]) -> Path:
    """The folder of that name with the jars of Apache Kafka's `artifacts` and all that they need, but each without one;
    fetched when this machine has none yet. Raises ToolsMissing saying why there are none."""
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            raise ToolsMissing(f"Apache Kafka's programs need {program}, which is not installed")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kbroker-tests"
    jars = home / name
    home.mkdir(parents=True, exist_ok=True)
    with _locked(home / "lock"):
        if not jars.exists():
            _fetch(jars, artifacts)
    return jars


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process of a test run fetches, the others wait."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(jars: Path, artifacts: dict[str, str]) -> None:
    wanted = [_DEPENDENCY.format(artifact=artifact, without=without) for artifact, without in artifacts.items()]
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=jars.parent) as folder:
        (Path(folder) / "pom.xml").write_text(_POM.format(dependencies="".join(wanted)))
        copied = Path(folder) / "jars"
        command = ["mvn", "-B", "-q", _COPY, "-DincludeScope=runtime", f"-DoutputDirectory={copied}"]
        try:
            done = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True, timeout=FETCH_S)
        except subprocess.TimeoutExpired:
            raise ToolsMissing(f"Maven did not fetch Apache Kafka's jars within {FETCH_S} s") from None
        if done.returncode:
            said = next((line for line in done.stdout.splitlines() if "[ERROR]" in line), done.stderr)
            raise ToolsMissing(f"Maven could not fetch Apache Kafka's jars: {said:.500}")
        copied.rename(jars)
