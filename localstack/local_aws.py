"""LocalStack on this machine, without Docker: start it, reach it, end it.

Everything that it keeps lies in one folder: ``localstack.log``, its temporary files, and ``lambda/<function>/*.log``,
what the functions wrote. Nothing outlives it but the logs.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)
        for _ in range(100):
            if not _lives(self.pid):
                break
            time.sleep(0.1)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if self.process:
            self.process.wait()
        _lives(self.pid)
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)
        (self.folder / "running.json").unlink(missing_ok=True)


def start(folder: Path, port: int | None = None) -> LocalAws:
    """Start LocalStack; ``folder`` is emptied. Raises LocalStackFailed."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "tmp").mkdir(parents=True)
    port = port or _free_port()
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
                "LOCALSTACK_HOST": f"127.0.0.1:{port}",
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
    deadline = time.monotonic() + START_SECONDS
    while not _healthy(running.endpoint):
        if process.poll() is not None or time.monotonic() > deadline:
            running.stop()
            raise LocalStackFailed(f"LocalStack did not start; its log ({log}) ends:\n{log.read_text()[-3000:]}")
        time.sleep(0.2)
    (folder / "running.json").write_text(json.dumps({"pid": running.pid, "endpoint": running.endpoint}))
    return running


def running(folder: Path) -> LocalAws | None:
    """The LocalStack that ``start`` left in a folder, if it still answers."""
    try:
        state = json.loads((folder / "running.json").read_text())
    except FileNotFoundError:
        return None
    there = LocalAws(state["pid"], state["endpoint"], folder)
    return there if _healthy(there.endpoint) else None


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _healthy(endpoint: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{endpoint}/_localstack/health", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _lives(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):  # not ours: started by an earlier command
        os.waitpid(pid, os.WNOHANG)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
