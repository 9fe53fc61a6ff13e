"""What is installed from a built wheel, and from an sdist's wheel, in a fresh environment."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow
SHIPPED = ("kbroker", "workers", "clients", "pyproject.toml", "README.md", "LICENSE")

APPLICATION = """
import clients, workers
assert clients.OWNER == workers.OWNER == "the application", (clients, workers)

from kbroker import Admin, Consumer, ConsumerRecord, Producer, TopicPartition
import kbroker.clients, kbroker.workers

assert kbroker.clients is not clients and kbroker.workers is not workers
assert Producer.__module__.startswith("kbroker."), Producer
print(kbroker.__file__)
"""


def run(*command: object, cwd: Path) -> str:
    arguments = [str(part) for part in command]
    done = subprocess.run(arguments, cwd=cwd, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist and the wheel that was built from it (and so from the files that sdist holds)."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    source.mkdir()
    for name in SHIPPED:
        path = ROOT / name
        if path.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, source / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(path, source / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", source, cwd=folder)
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"kbroker/py.typed", "kbroker/workers/__init__.py", "kbroker/clients/__init__.py"} <= names
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"kbroker"}
    assert [name for name in names if "example" in name or name.split("/")[-1].startswith("test_")] == []
    in_tree = {
        str(path.relative_to(ROOT))
        for folder in ("kbroker", "kbroker/workers", "kbroker/clients")
        for path in (ROOT / folder).rglob("*.py")
        if "examples" not in path.parts
    }
    assert in_tree == {name for name in names if name.endswith(".py")}


def test_the_sdist_holds_what_a_wheel_is_built_from(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "kbroker/py.typed", "kbroker/workers/__init__.py"} <= names


@pytest.fixture(scope="module")
def fresh_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment that holds kbroker from the wheel; its dependencies are those of this run."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    run(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python),
        *("install", "--quiet", "--no-deps", "--no-index", wheel),
        cwd=folder.parent,
    )
    libraries = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    (libraries / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_an_application_with_clients_and_workers_of_its_own_can_use_kbroker(fresh_python: Path, tmp_path: Path) -> None:
    for name in ("clients", "workers"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text('OWNER = "the application"\n')
    (tmp_path / "application.py").write_text(APPLICATION)
    where = run(fresh_python, "application.py", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(fresh_python.parent.parent)


def test_the_command_is_installed(fresh_python: Path, tmp_path: Path) -> None:
    assert run(fresh_python.parent / "kbroker", "--version", cwd=tmp_path).startswith("kbroker 0.")
    assert "serve" in run(fresh_python, "-m", "kbroker", "--help", cwd=tmp_path)


def test_type_checkers_see_the_types(fresh_python: Path, tmp_path: Path) -> None:
    """`py.typed` counts: without it mypy calls kbroker untyped and reveals Any."""
    (tmp_path / "typed.py").write_text("from kbroker import Producer\nreveal_type(Producer.flush)\n")
    out = run(
        *(sys.executable, "-m", "mypy", "--python-executable", fresh_python, "--cache-dir", tmp_path / "cache"),
        *("--follow-imports", "silent", "typed.py"),
        cwd=tmp_path,
    )
    assert "kbroker.clients.producer.Producer" in out
