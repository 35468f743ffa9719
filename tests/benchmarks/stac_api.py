"""The STAC API over HTTP on a catalogue of BigEarthNet v2.0's size: latency, paging to the end, 32 clients, memory.

    stac_api.py DATASET [--everything]
    stac_api.py DATASET --at URL,URL

DATASET comes from tests/catalogue_items.py. The server is a process of its own (`landpatch serve`); one client on one
connection, each query asked with other values every time, answers read whole. ``--everything`` also pages through the
whole catalogue. Bars on an idle machine: bbox, id and pages of 100 at p95 <= 50 ms, everything else <= 150 ms, memory
<= 1 GB, start <= 3 s; how busy the machine was is printed beside. ``--at`` asks servers that run already, one after
the other, e.g. ours, pgstac's (docs/scaling.md) and stac-fastapi-geoparquet's; what one refuses is said.
"""

import http.client
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import pyarrow.parquet as pq

from landpatch.catalog.nomenclature import clc2018

ROUNDS = 40
COLLECTION = "bigearthnet-v2"


class Client:
    """One connection that stays open."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def get(self, path: str, **parameters: Any) -> bytes:
        """An answer, read whole."""
        self._connection.request("GET", f"{path}?{urlencode(parameters)}" if parameters else path)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path} {parameters}: {answer.status} {content[:300]!r}")
        return content


class Server:
    """`landpatch serve` as a process of its own."""

    def __init__(self, dataset: Path, cache: Path) -> None:
        command = [sys.executable, "-m", "landpatch.functions", "serve", str(dataset), "--port", "0"]
        begun = time.perf_counter()
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, "XDG_CACHE_HOME": str(cache)}
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        address = re.search(r"http://[^/]+:(\d+)/", line)
        if address is None:
            raise SystemExit(f"the server did not start: {line}{self.process.stderr.read()}")
        self.port = int(address[1])
        try:
            Client(self.port).get("/search", limit=1)
        except BaseException:
            self.stop()
            raise
        self.start = time.perf_counter() - begun

    def memory(self) -> dict[str, float]:
        """Resident and peak, MB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        values = {line.split(":")[0]: line.split(":")[1] for line in lines}
        return {name: int(values[name].split()[0]) / 1000 for name in ("VmRSS", "RssAnon", "VmHWM")}

    def cpu(self) -> float:
        """CPU seconds so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """End it, and wait."""
        self.process.terminate()
        self.process.wait()


def queries(dataset: Path) -> dict[str, tuple[float, Callable[[random.Random], tuple[str, dict[str, Any]]]]]:
    """Name: bar (ms at p95), and what is asked."""
    table = pq.read_table(dataset / "items.parquet", columns=["id", "bbox"])
    ids = table.column("id").to_pylist()
    box = table.column("bbox").combine_chunks()
    west, south = box.field("xmin").to_pylist(), box.field("ymin").to_pylist()
    labels = clc2018().classes

    def place(draw: random.Random) -> tuple[float, float]:
        number = draw.randrange(len(ids))
        return west[number], south[number]

    def bbox(draw: random.Random) -> tuple[str, dict[str, Any]]:
        x, y = place(draw)
        return "/search", {"bbox": f"{x},{y},{x + 0.2},{y + 0.1}", "limit": 10}

    def triangle(draw: random.Random) -> tuple[str, dict[str, Any]]:
        x, y = place(draw)
        ring = [[x, y], [x + 0.5, y], [x, y + 0.4], [x, y]]
        return "/search", {"intersects": json.dumps({"type": "Polygon", "coordinates": [ring]}), "limit": 10}

    def labelled(draw: random.Random) -> tuple[str, dict[str, Any]]:
        split = draw.choice(("train", "test", "validation"))
        text = f"landpatch:split='{split}' AND a_contains(landpatch:labels,'{draw.choice(labels)}')"
        return "/search", {"filter": f"{text} AND landpatch:x <= {draw.randrange(20, 90)}", "limit": 10}

    # Of the published dataset nothing is known about clouds.
    clouds = pq.read_table(dataset / "items.parquet", columns=["eo:cloud_cover"])["eo:cloud_cover"]
    sorted_by = "landpatch:s1_gap_hours" if clouds.null_count == len(clouds) else "eo:cloud_cover"

    def ordered(draw: random.Random) -> tuple[str, dict[str, Any]]:
        return "/search", {
            "sortby": draw.choice((sorted_by, f"-{sorted_by}")),
            "limit": 100,
            "filter": f"landpatch:x >= {draw.randrange(0, 40)}",
        }

    def counted(draw: random.Random) -> tuple[str, dict[str, Any]]:
        return "/aggregate", {"aggregations": "total_count", "filter": f"eo:cloud_cover < {draw.uniform(0, 100):.3f}"}

    def aggregated(draw: random.Random) -> tuple[str, dict[str, Any]]:
        name = draw.choice(("label_frequency", "tile_frequency", "datetime_frequency", "country_frequency"))
        return "/aggregate", {"aggregations": name, "filter": f"landpatch:x >= {draw.randrange(60)}"}

    return {
        "bbox, 10": (50, bbox),
        "item by id": (50, lambda draw: (f"/collections/{COLLECTION}/items/{quote(draw.choice(ids))}", {})),
        "page of 100": (
            50,
            lambda draw: ("/search", {"limit": 100, "filter": f"landpatch:x >= {draw.randrange(9)}"}),
        ),
        "intersects, 10": (150, triangle),
        "split + label, 10": (150, labelled),
        "sorted, 100": (150, ordered),
        "count of a filter": (150, counted),
        "aggregation": (150, aggregated),
    }


def measure(server: Server, asked: dict[str, Any]) -> None:
    """Latency of each query, one client, other values every time."""
    client = Client(server.port)
    print(f"{'query':22} {'p50':>7} {'p95':>7} {'bar':>5}   CPU ms a query (server)")
    for name, (bar, make) in asked.items():
        draw = random.Random(name)
        times = []
        cpu = server.cpu()
        for _ in range(ROUNDS):
            path, parameters = make(draw)
            begun = time.perf_counter()
            client.get(path, **parameters)
            times.append((time.perf_counter() - begun) * 1000)
        spent = (server.cpu() - cpu) * 1000 / ROUNDS
        times.sort()
        print(f"{name:22} {times[ROUNDS // 2]:7.1f} {times[int(ROUNDS * 0.95)]:7.1f} {bar:5.0f}   {spent:.1f}")


def many(port: int, asked: dict[str, Any], clients: int = 32, seconds: float = 10) -> None:
    """Mixed queries of many clients at once."""
    done: list[float] = []
    failed: list[str] = []
    until = time.perf_counter() + seconds

    def work(number: int) -> None:
        client, draw = Client(port), random.Random(number)
        while time.perf_counter() < until:
            path, parameters = draw.choice(list(asked.values()))[1](draw)
            begun = time.perf_counter()
            try:
                client.get(path, **parameters)
            except (SystemExit, OSError, http.client.HTTPException) as error:
                failed.append(f"{type(error).__name__}: {error}")
                client = Client(port)
            else:
                done.append((time.perf_counter() - begun) * 1000)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done.sort()
    print(
        f"{clients} clients, mixed: {len(done) / seconds:.0f} answers/s, p50 {done[len(done) // 2]:.0f} ms, "
        f"p95 {done[int(len(done) * 0.95)]:.0f} ms, errors: {len(failed)} {failed[:1]}"
    )


def page_through(server: Server, expected: list[str]) -> None:
    """Every item once, by pystac-client, in pages of 1,000."""
    import pystac_client

    begun, cpu = time.perf_counter(), server.cpu()
    search = pystac_client.Client.open(f"http://127.0.0.1:{server.port}/").search(limit=1000)
    got = [item["id"] for item in search.items_as_dicts()]
    print(
        f"paged to the end, 1,000 a page: {len(got):,} items, {time.perf_counter() - begun:.0f} s, "
        f"server {server.cpu() - cpu:.0f} CPU s; nothing lost or doubled: {got == expected}"
    )


def measure_at(address: str, asked: dict[str, Any], ids: list[str]) -> None:
    """Latency of what a server that runs already answers of the queries; and 32 clients."""
    port = int(re.findall(r":(\d+)", address)[0])
    client = Client(port)
    answered = {}
    print(f"{address:28} {'p50':>7} {'p95':>7}")
    for name, (bar, make) in {**asked, **deep_pages(client, ids)}.items():
        draw = random.Random(name)
        times = []
        try:
            path, parameters = make(draw)
            client.get(path, **parameters)  # warm
            for _ in range(ROUNDS):
                path, parameters = make(draw)
                begun = time.perf_counter()
                client.get(path, **parameters)
                times.append((time.perf_counter() - begun) * 1000)
        except SystemExit as error:
            print(f"{name:28} refused: {str(error)[:150]}", flush=True)
            client = Client(port)
            continue
        answered[name] = (bar, make)
        times.sort()
        print(f"{name:28} {times[ROUNDS // 2]:7.1f} {times[int(ROUNDS * 0.95)]:7.1f}", flush=True)
    many(port, answered)


def deep_pages(client: Client, ids: list[str]) -> dict[str, Any]:
    """One more of the queries, in each server's own words (offset, pgstac's token, ours): pages from anywhere."""
    page = json.loads(client.get("/search", limit=100))
    href = next(link["href"] for link in page["links"] if link["rel"] == "next")
    following = dict(parse_qsl(urlsplit(href).query))
    last = page["features"][-1]["id"]

    def ask(draw: random.Random) -> tuple[str, dict[str, Any]]:
        from landpatch.catalog.api.pages import token_after
        from landpatch.catalog.search import Hit

        if "offset" in following:
            return "/search", {"limit": 100, "offset": draw.randrange(len(ids))}
        token, item = following["token"], draw.choice(ids)
        if last.encode().hex() in token:
            token = token.replace(last.encode().hex(), item.encode().hex())
        else:
            token = token_after(COLLECTION, Hit(0, item, ()), ())
        return "/search", {"limit": 100, "token": token}

    return {"deep page of 100": (50, ask)}


def main(dataset: str, *options: str) -> None:
    """Measure and print."""
    folder = Path(dataset)
    asked = queries(folder)
    ids = pq.read_table(folder / "items.parquet", columns=["id"])["id"].to_pylist()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    if "--at" in options:
        for address in options[options.index("--at") + 1].split(","):
            measure_at(address, asked, ids)
        return
    with tempfile.TemporaryDirectory(prefix="landpatch-bench-") as cache:
        place = Path(os.environ.get("LANDPATCH_BENCH_CACHE", cache))
        if not (place / "landpatch").is_dir():
            server = Server(folder, place)
            print(f"first start {server.start:.1f} s ({server.cpu():.1f} CPU s); {server.memory()}")
            while not list((place / "landpatch").glob("*.bodies")):
                time.sleep(1)
            print(f"body file written, {server.cpu():.0f} CPU s")
            server.stop()
        size = {path.suffix: round(path.stat().st_size / 1e6) for path in (place / "landpatch").glob("*")}
        server = Server(folder, place)
        print(f"start {server.start:.1f} s ({server.cpu():.1f} CPU s); MB in the cache: {size}; {server.memory()}")
        try:
            asked |= deep_pages(Client(server.port), ids)
            measure(server, asked)
            many(server.port, asked)
            if "--everything" in options:
                page_through(server, sorted(ids))
            print(f"memory afterwards, MB: {server.memory()}")
        finally:
            server.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
