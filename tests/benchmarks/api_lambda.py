"""What the API costs as a Lambda function: cold start (import, first answer), answers after it, memory.

    api_lambda.py DATASET [STARTS]

DATASET is a folder or ``s3://bucket/prefix``. Each start is a process of its own, Python's bytecode there as in a
package; "without pandas" hides it, as a package leaves it out: pyarrow imports it for nothing wherever it finds it.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any


def event(query: str) -> dict[str, Any]:
    """A search as a Function URL sends it."""
    http = {"method": "GET", "path": "/search", "sourceIp": "203.0.113.7"}
    return {
        "version": "2.0",
        "rawPath": "/search",
        "rawQueryString": query,
        "headers": {"host": "x.lambda-url.eu-central-1.on.aws", "x-forwarded-proto": "https"},
        "requestContext": {"http": http, "stage": "$default"},
        "isBase64Encoded": False,
    }


class _Hidden:
    """A package as if it were not installed."""

    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] == self._name:
            raise ModuleNotFoundError(name)


def one_start(hide: str) -> None:
    """In a process of its own: seconds of everything, as JSON."""
    if hide:
        sys.meta_path.insert(0, _Hidden(hide))
    marks = {}

    def timed(name: str, work: Any) -> Any:
        begun = time.perf_counter()
        result = work()
        marks[name] = time.perf_counter() - begun
        return result

    def load() -> Any:
        from landpatch.functions.handlers import api

        return api

    api = timed("import", load)
    for name, query in (
        ("first answer (10 items)", "limit=10"),
        ("the same again", "limit=10"),
        ("split and label, 10 items", "limit=10&filter=a_contains(landpatch:labels,'Pastures')"),
        ("1,000 items, as many as fit", "limit=1000"),
    ):
        answer = timed(name, lambda query=query: api.handler(event(query), None))
        assert answer["statusCode"] == 200, answer
    marks["memory, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(json.dumps(marks))


def main(dataset: str, starts: int) -> None:
    """Starts with and without pandas in turns; medians."""
    environment = {**os.environ, "LANDPATCH_DATASET": dataset}
    if "://" not in dataset:
        environment["LANDPATCH_ASSETS"] = "served"
    found: dict[str, list[dict[str, float]]] = {"": [], "pandas": []}
    for _ in range(starts):
        for hide, marks in found.items():
            command = [sys.executable, __file__, "--start", hide]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            marks.append(json.loads(done.stdout))
    print(f"{dataset}, median of {starts} starts; load {os.getloadavg()[0]:.1f}")
    print(f"{'seconds':<32}{'':>12}{'without pandas':>18}")
    for name in found[""][0]:
        columns = [statistics.median(mark[name] for mark in marks) for marks in found.values()]
        print(f"{name:<32}{columns[0]:>12.2f}{columns[1]:>18.2f}")


if __name__ == "__main__":
    if sys.argv[1] == "--start":
        one_start(sys.argv[2])
    else:
        main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5)
