"""What fetching a subset costs beside plain loops over the same files, from the same server on this machine.

    download_speed.py FOLDER PATCHES REPORT

The plain loops are what `aws s3 cp --recursive` and its like do: threads that get a file and write it, with no
checksum, no part, no second try. The server runs in a process of its own; what it uses is not counted.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import obstore
import requests
from measure import cpu_seconds, write_report
from obstore.store import HTTPStore

from landpatch.catalog.placing import expected, patch_files
from landpatch.catalog.reach import Nearness, Reach
from landpatch.catalog.store import Dataset
from landpatch.catalog.subset import download
from landpatch.catalog.transfer import Manners, Parts, Transfer

sys.path.insert(0, str(Path(__file__).parents[1]))
from small_dataset import Patch, write_dataset

_THREADS = 8

_SERVER = """
import sys
from pathlib import Path
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
import socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
app = Starlette(routes=[Mount("/", StaticFiles(directory=sys.argv[1]))])
server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
server.run(sockets=[listener])
"""


def speeds(folder: Path, count: int) -> dict[str, Any]:
    """CPU seconds of the client and wall seconds, each way; the order is turned round once."""
    from landpatch.catalog.items import items

    source = folder / "source"
    if not source.exists():
        write_dataset(str(source), [Patch(x, y) for x in range(91) for y in range(91)][:count])
    files = []
    for item in items(Dataset.open(source).table()):
        found = patch_files(item, list(item["assets"]))
        files += [(path, expected(item["assets"][key])) for key, path in found.items()]
    server = subprocess.Popen([sys.executable, "-c", _SERVER, str(source)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    url = f"http://127.0.0.1:{int(server.stdout.readline())}"
    out = folder / "out"

    def threads(work: Callable[[Any], object]) -> None:
        with ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(work, files):
                pass

    def by_requests() -> None:
        session = requests.Session()
        session.trust_env = False
        session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=_THREADS))

        def one(file: Any) -> None:
            target = out / file[0]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(session.get(f"{url}/{file[0]}").content)

        threads(one)

    def by_obstore() -> None:
        store = HTTPStore.from_url(url, client_options={"allow_http": True})

        def one(file: Any) -> None:
            target = out / file[0]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(obstore.get(store, file[0]).bytes())

        threads(one)

    def by_transfer() -> None:
        transfer = Transfer(Reach(Nearness.MACHINE), Manners(per_host=_THREADS))
        (out / "parts").mkdir(parents=True)
        parts = Parts(out / "parts")

        def one(file: Any) -> None:
            target = out / file[0]
            target.parent.mkdir(parents=True, exist_ok=True)
            transfer.fetch(f"{url}/{file[0]}", target, parts, file[1])

        threads(one)
        transfer.close()

    def whole() -> None:
        download(url, out, manners=Manners(per_host=_THREADS))

    def again() -> None:
        download(url, folder / "kept", manners=Manners(per_host=_THREADS))

    ways = {"requests": by_requests, "obstore": by_obstore, "transfer": by_transfer, "download": whole}
    again()
    report: dict[str, Any] = {"files": len(files), "bytes": sum(e.size or 0 for _, e in files)}
    try:
        for order in (list(ways), list(reversed(ways))):
            for name in order:
                before, begun = cpu_seconds(), time.monotonic()
                ways[name]()
                used = report.setdefault(name, {"cpu": 0.0, "wall": 0.0})
                used["cpu"] += (cpu_seconds() - before) / 2
                used["wall"] += (time.monotonic() - begun) / 2
                shutil.rmtree(out)
        before = cpu_seconds()
        again()
        report["second run"] = {"cpu": cpu_seconds() - before}
    finally:
        server.terminate()
        server.wait()
    return report


if __name__ == "__main__":
    _, where, patches, report_file = sys.argv
    write_report(report_file, speeds(Path(where), int(patches)))
