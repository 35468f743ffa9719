"""pgstac behind stac-fastapi-pgstac, as docs/scaling.md has it, on this machine: a PostgreSQL cluster of its own in a
folder, filled from ``landpatch export ndjson``, and the API as a process of its own.

    pgstac_server.py EXPORT FOLDER [QUERYABLES]

serves an export until it is interrupted. The programs are Debian's postgresql-15-postgis-3, and .venv-pgstac, which
``requirements/separate pgstac`` makes.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
PROGRAMS = CHECKOUT / ".venv-pgstac" / "bin"
POSTGRES = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), default=None)
INDEXED = ("landpatch:split", "landpatch:labels", "landpatch:s1_gap_hours", "eo:cloud_cover")
# As PostgreSQL's wiki has it for an SSD and 4 GB; durability is no matter of tests and benchmarks.
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "1GB",
    "effective_cache_size": "3GB",
    "work_mem": "64MB",
    "maintenance_work_mem": "512MB",
    "random_page_cost": "1.1",
    "fsync": "off",
}


def missing() -> str | None:
    """What of the programs is not there."""
    if POSTGRES is None or not (POSTGRES / "initdb").exists():
        return "PostgreSQL (Debian: postgresql-15-postgis-3)"
    if not list(Path("/usr/share/postgresql").glob(f"{POSTGRES.parent.name}/extension/postgis.control")):
        return "PostGIS (Debian: postgresql-15-postgis-3)"
    if not (PROGRAMS / "pypgstac").exists():
        return "pgstac (requirements/separate pgstac)"
    return None


@contextmanager
def database(folder: Path) -> Iterator[dict[str, str]]:
    """A cluster in ``folder``, new or as it was left, with pgstac in it; yields the environment that leads to it."""
    port = _free_port()
    environment = {
        **os.environ,
        "PGHOST": "127.0.0.1",
        "PGPORT": str(port),
        "PGUSER": "postgres",
        "PGPASSWORD": "any",  # the API wants one; the cluster trusts whoever is on this machine
        "PGDATABASE": "pgstac",
    }
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data"
    new = not data.exists()
    # PostgreSQL refuses to run as root.
    owner: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
    if owner:
        _open_to(folder, "postgres")
    if new:
        initdb = (
            "initdb",
            "-D",
            str(data),
            "-A",
            "trust",
            "-U",
            "postgres",
            "--no-sync",
            "-E",
            "UTF8",
            "--no-locale",
        )
        _run(initdb, environment, cwd="/", **owner)
    assert POSTGRES is not None
    options = [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]
    with (folder / "log").open("ab") as log:
        server = subprocess.Popen(
            [POSTGRES / "postgres", "-D", str(data), "-p", str(port), *options],
            stdout=log,
            stderr=log,
            cwd="/",
            **owner,
        )
    try:
        _run(("pg_isready", "-q"), environment, until=60)
        if new:
            _run(("createdb", "pgstac"), environment)
        _run(("pypgstac", "migrate"), environment)
        yield environment
    finally:
        server.send_signal(signal.SIGINT)  # "fast": without waiting for whoever is still connected
        server.wait()


def load(export: Path, environment: dict[str, str], queryables: Path | None = None) -> None:
    """Bring an export into the database; what is there already stays."""
    for table, name in (("collections", "collection.json"), ("items", "items.ndjson")):
        _run(("pypgstac", "load", table, str(export / name), "--method", "insert_ignore"), environment)
    if queryables is not None:
        fields = "[" + ",".join(f'"{name}"' for name in INDEXED) + "]"
        _run(("pypgstac", "load_queryables", str(queryables), "--index_fields", fields), environment)
        _run(("psql", "-qc", "ANALYZE"), environment)


@contextmanager
def api(environment: dict[str, str]) -> Iterator[str]:
    """stac-fastapi-pgstac over the database, at an address which ends with ``/``."""
    port = _free_port()
    command = [
        PROGRAMS / "uvicorn",
        "stac_fastapi.pgstac.app:create_app",
        "--factory",
        "--port",
        str(port),
        "--log-level",
        "warning",
    ]
    server = subprocess.Popen(command, env={**environment, "USE_API_HYDRATE": "true"})
    address = f"http://127.0.0.1:{port}/"
    try:
        _wait(server, port)
        with urllib.request.urlopen(address, timeout=60) as answer:
            answer.read()
        yield address
    finally:
        server.terminate()
        server.wait()


def _run(command: Sequence[str], environment: dict[str, str], *, until: float = 0, **options: Any) -> None:
    """Run a program; again and again for ``until`` seconds where it fails."""
    name, *words = command
    end = time.monotonic() + until
    assert POSTGRES is not None
    program = next(folder / name for folder in (POSTGRES, PROGRAMS) if (folder / name).exists())
    while True:
        done = subprocess.run([program, *words], env=environment, capture_output=True, text=True, **options)
        if done.returncode == 0:
            return
        if time.monotonic() > end:
            raise RuntimeError(f"{name} failed: {done.stdout}{done.stderr}")
        time.sleep(0.1)


def _open_to(folder: Path, user: str) -> None:
    """``folder`` becomes the user's; those above, which pytest keeps to itself, can be passed through."""
    shutil.chown(folder, user)
    for above in folder.resolve().parents:
        if above.stat().st_uid == os.getuid() and not above.stat().st_mode & 1:
            above.chmod(above.stat().st_mode | 0o11)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(server: subprocess.Popen[Any], port: int, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while server.poll() is None and time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"{server.args!r} does not answer at port {port}")


def main(export: str, folder: str, queryables: str = "") -> None:
    """Load, serve, say where."""
    with database(Path(folder)) as environment:
        begun = time.perf_counter()
        load(Path(export), environment, Path(queryables) if queryables else None)
        print(f"loaded in {time.perf_counter() - begun:.0f} s", flush=True)
        with api(environment) as address:
            print(address, "database at port", environment["PGPORT"], flush=True)
            while True:
                time.sleep(3600)


if __name__ == "__main__":
    main(*sys.argv[1:])
