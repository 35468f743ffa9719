"""Lambda functions of LocalStack as processes of this machine: no Docker.

A plugin of LocalStack (``LAMBDA_RUNTIME_EXECUTOR=process``, this folder on PYTHONPATH), which runs in LocalStack's
own environment. It speaks AWS's Lambda Runtime API to ``awslambdaric``, the client that runs Python functions on AWS,
and keeps what AWS promises: a process answers one invocation at a time and is used again while it is warm, it is
killed at its time-out or when it takes more than its memory, and it sees its own environment and no other.

A package runs on a bare interpreter with nothing but itself and what AWS's runtime has (awslambdaric, boto3). A
package that holds a file INTERPRETER stands for a container image: the file names the interpreter of the environment
that would be in the image.

Not as on AWS: the file system is the machine's (TMPDIR is the function's own), a process may use all CPUs, and roles
grant everything.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
from localstack import config
from localstack.services.lambda_.invocation.executor_endpoint import StatusErrorException
from localstack.services.lambda_.invocation.lambda_models import FunctionVersion, InvocationResult
from localstack.services.lambda_.invocation.plugins import RuntimeExecutorPlugin
from localstack.services.lambda_.invocation.runtime_executor import RuntimeExecutor

API = "/2018-06-01/runtime"
LOOK_SECONDS = 0.05
"""How often a running process is asked for its memory, and whether it lives."""

LOGS = Path(os.environ.get("LANDPATCH_LAMBDA_LOGS", Path(tempfile.gettempdir()) / "landpatch-lambda"))
"""``<function>/<environment>.log``: all that a process wrote; ``.pid`` beside it: its process, while it lives."""

RUNTIME = (
    "awslambdaric", "runtime_client*", "simplejson", "snapshot_restore_py*",
    "boto3", "botocore", "s3transfer", "jmespath", "dateutil", "six.py", "urllib3",
)  # fmt: skip
"""What AWS's Python runtime has besides the standard library, as it lies in this environment."""


class ProcessExecutorPlugin(RuntimeExecutorPlugin):
    """Where LocalStack finds the executor."""

    name = "process"

    def load(self, *_: Any, **__: Any) -> type[RuntimeExecutor]:
        """The executor's class."""
        return ProcessExecutor


class _RuntimeApi(ThreadingHTTPServer):
    """The Runtime API of one process: hands it invocations, takes its answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _RuntimeApiHandler)
        self.changed = threading.Condition()
        self.asked = False  # the process has asked for its first invocation: it is initialised
        self.init_error: bytes | None = None
        self.waiting: tuple[dict[str, str], bytes] | None = None
        self.answer: tuple[bytes, bool] | None = None  # the body, and whether it is an error
        self.closed = False

    def close(self) -> None:
        """No more invocations."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        self.shutdown()
        self.server_close()


class _RuntimeApiHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _RuntimeApi

    def do_GET(self) -> None:
        with self.server.changed:
            self.server.asked = True
            self.server.changed.notify_all()
            self.server.changed.wait_for(lambda: self.server.waiting is not None or self.server.closed)
            if self.server.waiting is None:
                self.close_connection = True
                return
            headers, body = self.server.waiting
            self.server.waiting = None
        self._reply(200, body, headers)

    def do_POST(self) -> None:
        body = self._body()
        with self.server.changed:
            if self.path == f"{API}/init/error":
                self.server.init_error = body
            else:
                self.server.answer = (body, self.path.endswith("/error"))
            self.server.changed.notify_all()
        self._reply(202, b"", {})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing: LocalStack's log is about functions, not about how they are reached."""


class ProcessExecutor(RuntimeExecutor):
    """One execution environment of a function: its process, started again where it has died."""

    def __init__(self, id: str, function_version: FunctionVersion) -> None:
        super().__init__(id, function_version)
        settings = function_version.config
        self.timeout, self.memory = settings.timeout, settings.memory_size * 2**20
        self.log = LOGS / function_version.id.function_name / f"{id}.log"
        self.environment: dict[str, str] = {}
        self.api: _RuntimeApi | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.folder: str | None = None
        self.reported = 0  # bytes of the log that went into results
        self.peak = 0
        self.init_seconds: float | None = None  # of a cold start, until it is reported

    def start(self, env_vars: dict[str, Any]) -> None:
        """Start the process; back when it is initialised. Raises StatusErrorException where it cannot be."""
        self.environment = {name: str(value) for name, value in env_vars.items() if value is not None}
        self._launch()

    def stop(self) -> None:
        """End the process."""
        self._kill()

    def invoke(self, payload: dict[str, str]) -> InvocationResult:
        """The function's answer, or the error that AWS gives where it was killed or died."""
        if self.process is None or self.process.poll() is not None:
            self._launch()
        request, began = payload["invoke-id"], time.monotonic()
        self._write(f"START RequestId: {request} Version: {self.function_version.id.qualifier}")
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": request,
            "Lambda-Runtime-Deadline-Ms": str(int((time.time() + self.timeout) * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": payload["invoked-function-arn"],
            "Lambda-Runtime-Trace-Id": payload["trace-id"],
        }
        body, failed = self._converse(request, headers, payload["payload"].encode(), began)
        self._report(request, time.monotonic() - began)
        return InvocationResult(request, body, is_error=failed, logs=self._new_log())

    def get_address(self) -> str:
        """Of the process: this machine."""
        return "127.0.0.1"

    def get_endpoint_from_executor(self) -> str:
        """LocalStack as the process sees it: this machine."""
        return "127.0.0.1"

    def get_runtime_endpoint(self) -> str:
        """Where LocalStack's own runtime would report; ours has an API of its own."""
        return f"http://127.0.0.1:{config.GATEWAY_LISTEN[0].port}/_localstack_lambda/{self.id}"

    def get_logs(self) -> str:
        """All that the process wrote."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @classmethod
    def prepare_version(cls, function_version: FunctionVersion) -> None:
        """Unpack the code."""
        function_version.config.code.prepare_for_execution()

    @classmethod
    def cleanup_version(cls, function_version: FunctionVersion) -> None:
        """Nothing: LocalStack removes the unpacked code."""

    def _launch(self) -> None:
        self._kill()
        began = time.monotonic()
        self.api = _RuntimeApi()
        threading.Thread(target=self.api.serve_forever, args=(LOOK_SECONDS,), daemon=True).start()
        self.folder = tempfile.mkdtemp(prefix="lambda-")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        code = Path(self.function_version.config.code.get_unzipped_code_location())
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                _command(code, self.environment["_HANDLER"]),
                cwd=code,
                env=self.environment
                | {
                    "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self.api.server_address[1]}",
                    "LAMBDA_TASK_ROOT": str(code),
                    "HOME": "/nonexistent",  # as on AWS: there is no home to write to
                    "LANG": "en_US.UTF-8",
                    "PATH": os.defpath,
                    "TMPDIR": self.folder,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.log.with_suffix(".pid").write_text(str(self.process.pid))
        self.peak = 0
        while True:
            with self.api.changed:
                self.api.changed.wait(LOOK_SECONDS)
                if self.api.asked:
                    break
                error = self.api.init_error
            if error is None and self.process.poll() is not None:
                error = _error("Runtime.ExitError", f"Error: Runtime exited: {_end(self.process)}")
            if error is not None:
                self._kill()
                raise StatusErrorException("the function's code could not be loaded", payload=error)
        self.init_seconds = time.monotonic() - began

    def _converse(self, request: str, headers: dict[str, str], event: bytes, began: float) -> tuple[bytes, bool]:
        assert self.api is not None
        assert self.process is not None
        api, process = self.api, self.process
        with api.changed:
            api.answer = None
            api.waiting = (headers, event)
            api.changed.notify_all()
        while True:
            with api.changed:
                api.changed.wait_for(lambda: api.answer is not None, LOOK_SECONDS)
                if api.answer is not None:
                    return api.answer
            # Looked at before the memory: a process that is gone uses none.
            ended = process.poll() is not None
            self.peak = max(self.peak, _memory(process.pid))
            if ended:
                kind, why = "Runtime.ExitError", f"Runtime exited with error: {_end(process)}"
            elif self.peak > self.memory:
                kind, why = "Runtime.OutOfMemory", "Runtime exited with error: signal: killed"
            elif time.monotonic() - began > self.timeout:
                kind, why = "Sandbox.Timedout", f"Task timed out after {self.timeout:.2f} seconds"
            else:
                continue
            self._kill()
            self._write(f"{kind}: {why}")
            return _error(kind, f"RequestId: {request} Error: {why}"), True

    def _kill(self) -> None:
        if self.process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in psutil.Process(self.process.pid).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
            self.process.kill()
            self.process.wait()
            self.log.with_suffix(".pid").unlink(missing_ok=True)
            self.process = None
        if self.api is not None:
            self.api.close()
            self.api = None
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None

    def _report(self, request: str, seconds: float) -> None:
        settings = self.function_version.config
        line = (
            f"REPORT RequestId: {request}\tDuration: {seconds * 1000:.2f} ms\t"
            f"Memory Size: {settings.memory_size} MB\tMax Memory Used: {self.peak >> 20} MB"
        )
        if self.init_seconds is not None:
            line += f"\tInit Duration: {self.init_seconds * 1000:.2f} ms"
        self.init_seconds = None
        self._write(f"END RequestId: {request}")
        self._write(line)

    def _write(self, line: str) -> None:
        with self.log.open("a") as log:
            log.write(f"{line}\n")

    def _new_log(self) -> str:
        with self.log.open("rb") as log:
            log.seek(self.reported)
            text = log.read()
        self.reported += len(text)
        return text.decode(errors="replace")


def _command(code: Path, handler: str) -> list[str]:
    image = code / "INTERPRETER"
    if image.exists():
        start = [image.read_text().strip(), "-I"]
    else:  # -S: without whatever is installed here
        start = [getattr(sys, "_base_executable", sys.executable), "-I", "-S"]
    return [*start, "-c", _RUN, str(code), str(_runtime_folder()), handler]


_RUN = """
import runpy, sys
code, runtime = sys.argv[1:3]
del sys.argv[1:3]
sys.path.insert(0, code)
sys.path.append(runtime)
runpy.run_module("awslambdaric", run_name="__main__", alter_sys=True)
"""


def _runtime_folder() -> Path:
    """A folder that holds what AWS's runtime has, and no more of LocalStack's environment."""
    folder = LOGS / ".runtime"
    packages = Path(psutil.__file__).parents[1]
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in RUNTIME:
        for source in packages.glob(pattern):
            with contextlib.suppress(FileExistsError):
                (folder / source.name).symlink_to(source)
    return folder


def _memory(pid: int) -> int:
    """Bytes that a process and its children hold."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += one.memory_info().rss
    return total


def _end(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    return f"signal: {-code}" if code is not None and code < 0 else f"exit status {code}"


def _error(kind: str, message: str) -> bytes:
    return json.dumps({"errorType": kind, "errorMessage": message}).encode()
