"""LocalStack on this machine, without Docker: start it, reach it, end it.

Everything that it keeps lies in one folder: ``localstack.log``, its temporary files, and ``lambda/<function>/*.log``,
what the functions wrote. Nothing outlives it but the logs.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

CHECKOUT = Path(__file__).resolve().parents[1]
PYTHON = CHECKOUT / ".venv-localstack/bin/python"
REGION = "eu-central-1"
START_SECONDS = 120
"""LocalStack takes about 5 s; far more on a busy machine."""


class LocalStackFailed(RuntimeError):
    """LocalStack did not start; the message has the end of its log."""


@dataclass(frozen=True, slots=True)
class LocalAws:
    """A running LocalStack: its process, its address, and the folder with all that it writes."""

    pid: int
    endpoint: str
    folder: Path
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False, compare=False)
    """Where this Python started it."""

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in order to take this LocalStack for AWS."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
        }

    def client(self, service: str) -> Any:
        """boto3's client of one service."""
        import boto3

        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name=REGION,
        )

    def logs(self, function: str) -> str:
        """All that the processes of a function wrote."""
        return "".join(path.read_text() for path in sorted((self.folder / "lambda" / function).glob("*.log")))

    def pids(self, function: str) -> list[int]:
        """The processes of a function that live, idle ones among them."""
        return [int(path.read_text()) for path in sorted((self.folder / "lambda" / function).glob("*.pid"))]

    def stop(self) -> None:
        """End LocalStack and its functions."""
        end(self.folder)
        if self.process:
            self.process.wait()


def start(folder: Path, port: int | None = None) -> LocalAws:
    """Start LocalStack at ``port``, or at a free one where none is given or it is taken. What runs from ``folder``
    is ended, and the folder emptied. Raises LocalStackFailed.
    """
    end(folder)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "tmp").mkdir(parents=True)
    port = _free_port(port or 0)
    log = folder / "localstack.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [PYTHON, "-m", "localstack.runtime.main"],
            cwd=folder,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(CHECKOUT / "localstack"),
                "TMPDIR": str(folder / "tmp"),
                "FILESYSTEM_ROOT": str(folder / "tmp"),
                "XDG_CACHE_HOME": str(folder / "tmp"),
                "GATEWAY_LISTEN": f"127.0.0.1:{port}",
                # Its subdomains, such as those of function URLs, are this machine's too.
                "LOCALSTACK_HOST": f"localhost:{port}",
                "DNS_ADDRESS": "0",
                # Nothing is sent or fetched.
                "DISABLE_EVENTS": "1",
                "SKIP_SSL_CERT_DOWNLOAD": "1",
                "LAMBDA_RUNTIME_EXECUTOR": "process",
                # A function imports for seconds, on a busy machine for tens of seconds.
                "LAMBDA_RUNTIME_ENVIRONMENT_TIMEOUT": "120",
                "LANDPATCH_LAMBDA_LOGS": str(folder / "lambda"),
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    running = LocalAws(process.pid, f"http://127.0.0.1:{port}", folder, process)
    (folder / "running.json").write_text(json.dumps({"pid": running.pid, "endpoint": running.endpoint}))
    deadline = time.monotonic() + START_SECONDS
    while not _healthy(running.endpoint):
        if process.poll() is not None or time.monotonic() > deadline:
            running.stop()
            raise LocalStackFailed(f"LocalStack did not start; its log ({log}) ends:\n{log.read_text()[-3000:]}")
        time.sleep(0.2)
    return running


def running(folder: Path) -> LocalAws | None:
    """The LocalStack that ``start`` left in a folder, if it still answers."""
    try:
        state = json.loads((folder / "running.json").read_text())
    except FileNotFoundError:
        return None
    there = LocalAws(state["pid"], state["endpoint"], folder)
    return there if _healthy(there.endpoint) else None


def end(folder: Path) -> int:
    """End all that runs from a folder: LocalStack, and functions that it left behind where it was killed itself.

    The number of processes that there were.
    """
    found = processes(folder)
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(found, timeout=10)
    for process in {*alive, *processes(folder)}:  # LocalStack may have started one more meanwhile
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=10)
    shutil.rmtree(folder / "tmp", ignore_errors=True)
    (folder / "running.json").unlink(missing_ok=True)
    return len(found)


def processes(folder: Path) -> list[psutil.Process]:
    """LocalStack and its functions: all whose temporary files lie in the folder."""
    tmp = str(folder / "tmp")
    return [
        process
        for process in psutil.process_iter(["environ"])
        if (process.info["environ"] or {}).get("TMPDIR", "").startswith(tmp)
    ]


def _free_port(wanted: int) -> int:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was just given back is free
        try:
            listener.bind(("127.0.0.1", wanted))
        except OSError:
            listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _healthy(endpoint: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{endpoint}/_localstack/health", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False
