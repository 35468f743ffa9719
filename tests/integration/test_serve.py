"""`landpatch serve`: previews, map tiles and the place of STAC Browser over HTTP, and the command itself."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pystac_client import Client

from api_server import running
from demo_build import run_landpatch
from landpatch.catalog.api import Settings, create_app
from landpatch.catalog.bands import S2_10M
from landpatch.catalog.items import items
from landpatch.catalog.nomenclature import clc2018
from landpatch.catalog.renderings import RENDERINGS, picture
from landpatch.catalog.schemas import validate_item
from landpatch.catalog.service import BrowserSite, add_browser, add_previews
from landpatch.catalog.store import Dataset
from landpatch.functions.serving import _listening
from small_dataset import Patch, write_dataset

PATCHES = [Patch(10, 20), Patch(11, 20), Patch(10, 21, radar=None, labelled=False)]
HTML = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    write_dataset(str(folder), PATCHES)
    return folder


@pytest.fixture(scope="module")
def site() -> BrowserSite:
    return BrowserSite(title="Patches")


@pytest.fixture(scope="module")
def http(folder: Path, site: BrowserSite) -> Iterator[httpx.Client]:
    app = create_app([folder], Settings(cache=None, previews=True))
    add_previews(app)
    add_browser(app, site)
    with running(app) as address, httpx.Client(base_url=address, trust_env=False) as client:
        yield client


def _pixels(answer: httpx.Response) -> Any:
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(answer.content)))


def test_a_preview_is_a_picture_that_need_not_be_fetched_twice(http: httpx.Client) -> None:
    patch = PATCHES[0]
    address = f"/previews/small/{patch.id}/true_colour.png"
    answer = http.get(address, params={"size": 120})
    assert answer.headers["content-type"] == "image/png"
    assert (_pixels(answer) == picture(RENDERINGS["true_colour"], patch.pixels()[S2_10M.key])).all()
    again = http.get(address, params={"size": 120}, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == answer.headers["etag"]
    assert "max-age" in again.headers["cache-control"]
    weak = http.get(address, params={"size": 120}, headers={"If-None-Match": f'"x", W/{answer.headers["etag"]}'})
    assert weak.status_code == 304
    larger = http.get(address, headers={"If-None-Match": answer.headers["etag"]})
    assert larger.status_code == 200
    assert _pixels(larger).shape == (240, 240, 3)
    head = http.head(address)
    assert (head.status_code, head.content) == (200, b"")
    assert "content-encoding" not in answer.headers  # compressed it is already
    from_elsewhere = http.get(address, headers={"Origin": "http://localhost:3000"})
    assert from_elsewhere.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/previews/small/nothing/true_colour.png", 404, "nothing"),
        ("/previews/other/{0}/true_colour.png", 404, "other"),
        ("/previews/small/{0}/thermal.png", 404, "true_colour"),
        ("/previews/small/{2}/s1_composite.png", 404, "has no S1"),
        ("/previews/small/{2}/reference_map.tif", 404, "has no reference_map"),
        ("/previews/small/{2}/legend.svg", 404, "has no reference_map"),
        ("/previews/small/{0}/true_colour.png?size=5000", 400, "size"),
        ("/previews/small/{0}/true_colour.png?size=big", 400, "size"),
        ("/previews/other/legend.json", 404, "other"),
        ("/previews/small/..%2f..%2fetc/true_colour.png", 404, ""),
        ("/tiles/thermal/3/1/1.png", 404, "thermal"),
        ("/tiles/true_colour/3/9/1.png", 404, "3/9/1"),
        ("/tiles/true_colour/99999/1/1.png", 404, "99999"),
        ("/tiles/true_colour/a/1/1.png", 400, "zoom"),
    ],
)
def test_what_is_not_there_is_told_so(http: httpx.Client, path: str, status: int, said: str) -> None:
    answer = http.get(path.format(*(patch.id for patch in PATCHES)))
    assert answer.status_code == status, answer.text
    assert said in answer.json()["description"] or not said


def test_the_legend_as_data_and_as_a_picture(http: httpx.Client) -> None:
    entries = {entry["code"]: entry for entry in http.get("/previews/small/legend.json").json()}
    assert {code.code for code in clc2018().codes} < set(entries)
    assert entries[231] == {"code": 231, "name": "Pastures", "class": "Pastures", "colour": [230, 230, 77]}
    whole = http.get("/previews/small/legend.svg")
    assert whole.headers["content-type"] == "image/svg+xml"
    assert whole.text.count("<rect") == len(entries)
    own = http.get(f"/previews/small/{PATCHES[0].id}/legend.svg")
    assert re.findall(r">(\d+) ", own.text) == ["211", "231", "999"]


def test_items_link_to_their_preview_and_stay_valid(http: httpx.Client, folder: Path) -> None:
    found = Client.open(f"{http.base_url}").search(collections=["small"])
    seen = list(found.items_as_dicts())
    stored = {item["id"]: item for item in items(Dataset.open(folder).table())}
    assert {item["id"] for item in seen} == set(stored)
    for item in seen:
        validate_item(item)
        (link,) = (link for link in item["links"] if link["rel"] == "preview")
        assert link["type"] == "image/png"
        assert http.get(link["href"]).headers["content-type"] == "image/png"
        assert set(item["assets"]) == set(stored[item["id"]]["assets"])  # previews are none of the dataset's files


def test_a_form_s_label_is_one_of_the_patch_s_labels(http: httpx.Client) -> None:
    offered = http.get("/queryables").json()["properties"]["landpatch:label"]
    assert offered["type"] == "string"
    assert set(offered["enum"]) == {"Arable land", "Pastures"}
    labelled = {patch.id for patch in PATCHES if patch.labelled}
    bare = {patch.id for patch in PATCHES} - labelled

    def found(text: str) -> set[str]:
        answer = http.get("/search", params={"filter": text, "filter-lang": "cql2-text"})
        assert answer.status_code == 200, answer.text
        return {item["id"] for item in answer.json()["features"]}

    assert found("\"landpatch:label\" = 'Pastures'") == labelled
    assert found("\"landpatch:label\" = 'Moors'") == set()
    assert found("\"landpatch:label\" <> 'Pastures'") == bare
    for other in ("\"landpatch:label\" > 'A'", "\"landpatch:label\" LIKE 'Past%'", "\"landpatch:label\" IN ('A')"):
        refused = http.get("/search", params={"filter": other, "filter-lang": "cql2-text"})
        assert refused.status_code == 400
        assert "a_contains" in refused.json()["description"]


def test_a_map_tile_has_an_etag_of_the_dataset_s_state(http: httpx.Client) -> None:
    answer = http.get("/tiles/true_colour/0/0/0.png")
    assert _pixels(answer).shape == (256, 256, 4)
    again = http.get("/tiles/true_colour/0/0/0.png", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304


def test_previews_follow_a_dataset_that_changes(tmp_path: Path) -> None:
    write_dataset(str(tmp_path), PATCHES[:1])
    app = create_app([tmp_path], Settings(cache=None, watch_seconds=0.0, previews=True))
    add_previews(app)
    with running(app) as address, httpx.Client(base_url=address, trust_env=False) as client:
        new = f"/previews/small/{PATCHES[1].id}/true_colour.png"
        assert client.get(new).status_code == 404
        before = client.get("/tiles/true_colour/0/0/0.png").headers["etag"]
        write_dataset(str(tmp_path), PATCHES[:2])
        app.state.datasets["small"].reload()
        assert client.get(new).status_code == 200
        assert client.get("/tiles/true_colour/0/0/0.png").headers["etag"] != before


def test_people_are_led_to_stac_browser_and_programs_to_the_api(
    http: httpx.Client, site: BrowserSite, tmp_path: Path
) -> None:
    """Before it is built, when it cannot be, and when it is there."""
    led = http.get("/", headers=HTML)
    assert led.status_code == 303
    assert led.headers["location"] == "browser/#/collections/small"
    assert led.headers["vary"] == "Accept"
    for accept in ("*/*", "application/json", "application/json, text/html"):
        assert http.get("/", headers={"Accept": accept}).json()["type"] == "Catalog"

    waiting = http.get("/browser/")
    assert waiting.status_code == 503
    assert "being built" in waiting.text
    assert 'http-equiv="refresh"' in waiting.text
    site.explain("Node.js <is> missing")
    without = http.get("/browser/")
    assert without.status_code == 503
    assert "Node.js &lt;is&gt; missing" in without.text
    assert "refresh" not in without.text

    (tmp_path / "index.html").write_text("<html>here</html>")
    (tmp_path / "config.js").write_text("of the build")
    (tmp_path.parent / "secret").write_text("secret")
    site.show(tmp_path)
    assert http.get("/browser/").text == "<html>here</html>"
    assert http.get("/browser/../secret").status_code == 404
    assert http.get("/browser/%2e%2e/secret").status_code == 404
    config = http.get("/browser/config.js")
    assert config.headers["content-type"].startswith("text/javascript")
    assert '"catalogTitle": "Patches"' in config.text
    assert not re.search(r"https?://", config.text.split("Object.assign({\n    catalogUrl")[1])  # no other host


# --- the command -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_the_command_tells_one_address_and_ends_when_told(folder: Path, end: signal.Signals) -> None:
    command = [sys.executable, "-m", "landpatch.functions", "serve", str(folder), "--port", "0", "--no-browser"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        said = server.stderr.readline()
        (address,) = re.findall(r"http://\S+", said)
        assert said.startswith("3 patches: STAC API at")
        assert httpx.get(f"{address}search", trust_env=False).json()["numberMatched"] == 3
        assert httpx.get(address, headers=HTML, trust_env=False).json()["type"] == "Catalog"
        server.send_signal(end)
        rest = server.stderr.read()
        server.wait(20)
    if end is signal.SIGINT:
        assert (rest, server.returncode) == ("landpatch: stopped\n", 0)
    assert "Traceback" not in rest


def test_without_node_the_api_works_and_the_page_tells_why(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "landpatch.functions", "serve", str(folder), "--port", "0"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PATH": str(tmp_path), "PYTHONPATH": ""}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stderr is not None
        (address,) = re.findall(r"http://\S+", server.stderr.readline())
        assert "Node.js" in server.stderr.readline()
        assert "The API and previews work without it" in server.stderr.readline()
        page = httpx.get(address, headers=HTML, trust_env=False, follow_redirects=True)
        assert page.status_code == 503
        assert "nodejs.org" in page.text
        assert httpx.get(f"{address}search", trust_env=False).json()["numberMatched"] == 3
        server.send_signal(signal.SIGINT)
        assert "Traceback" not in server.stderr.read()


def test_what_is_wrong_is_told_with_the_remedy(folder: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run_landpatch("serve", folder, "--port", port, "--no-browser", check=False)
    assert result.returncode == 2
    assert f"127.0.0.1:{port}" in result.stderr
    assert "choose another --port" in result.stderr

    result = run_landpatch("serve", tmp_path / "nothing", "--no-browser", "--port", "0", check=False)
    assert result.returncode != 0
    assert "nothing" in result.stderr
    assert "Traceback" not in result.stderr


def test_without_the_extra_pip_s_command_is_told(folder: Path, tmp_path: Path) -> None:
    hidden = "import sys; sys.modules['uvicorn'] = None; from landpatch.functions.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", hidden, "serve", str(folder)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 12
    assert "pip install 'landpatch[server]'" in result.stderr
    assert result.stderr.count("\n") == 1


def test_small_answers_are_sent_at_once() -> None:
    """asyncio switches Nagle's algorithm off for sockets that say that they are TCP, and accepted ones inherit it."""
    with _listening("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP
        with socket.create_connection(listening.getsockname()), listening.accept()[0] as accepted:
            assert accepted.proto == socket.IPPROTO_TCP
