"""Catalogues that mean harm, and those of other people: nothing is written outside, nothing is reached inside."""

import gzip
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landpatch.catalog.errors import (
    InvalidDataset,
    InvalidItem,
    InvalidParameter,
    LandpatchError,
    SourceError,
    StorageError,
    UnreadableAsset,
)
from landpatch.catalog.exports.lmdb import export_lmdb
from landpatch.catalog.items import items
from landpatch.catalog.placing import ITEM_FILE, PlainPlaces, safe_name
from landpatch.catalog.reach import Nearness, Reach, RefusedHref, nearness
from landpatch.catalog.schemas import validate_collection
from landpatch.catalog.selection import Question
from landpatch.catalog.store import Dataset
from landpatch.catalog.subset import download
from landpatch.catalog.transfer import Expected, Manners, Parts, Transfer
from small_catalogue import Catalogue, serve_catalogue
from small_dataset import Patch, write_dataset

BRISK = Manners(first_wait=0.005, tries=4, largest=2**20)
HERE = Reach(Nearness.MACHINE)

Answer = tuple[int, dict[str, str], bytes]


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler], Answer | None]) -> Iterator[str]:
    """A server that answers what the test says; None: the test has written the answer itself."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            found = answer(self)
            if found is None:
                self.close_connection = True
                return
            status, headers, body = found
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing on the test's output."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that has had enough is no news."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(str(tmp_path_factory.mktemp("pair")), [Patch(3, 3), Patch(4, 3)])


@pytest.fixture
def transfer() -> Iterator[Transfer]:
    made = Transfer(HERE, BRISK)
    yield made
    made.close()


def everything(place: Path) -> list[str]:
    return sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if not path.is_dir())


# --- items --------------------------------------------------------------------------------------------------------


def _with(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda item: {**item, **changes}


def _property(name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda item: {**item, "properties": {**item["properties"], name: value}}


def _asset(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda item: {
        **item,
        "assets": {**item["assets"], "S2_10m": {**item["assets"]["S2_10m"], **changes}},
    }


HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "id leads up": _with(id="../../../../outside"),
    "id is absolute": _with(id="/tmp/outside"),
    "id ends in a line": lambda item: {**item, "id": item["id"] + "\n"},
    "id holds NUL": lambda item: {**item, "id": item["id"] + "\0"},
    "id is a number": _with(id=7),
    "scene leads up": _property("landpatch:scene", "../../../x"),
    "tile leads up": _property("landpatch:tile", "../.."),
    "radar leads up": _property("landpatch:s1_name", "../../../S1"),
    "split is another": _property("landpatch:split", "../x"),
    "labels are no list": _property("landpatch:labels", {"a": 1}),
    "numbers are text": _property("landpatch:unlabelled", "many"),
    "time is none": _property("start_datetime", "yesterday"),
    "code is text": _property("proj:code", "EPSG:../../x"),
    "no geometry": _with(geometry={"type": "Nonsense"}),
    "bbox of text": _with(bbox=["-180", "-90", "180", "90"]),
    "no assets": _with(assets=None),
    "asset is text": lambda item: {**item, "assets": {**item["assets"], "S2_10m": "x"}},
    "no checksum": _asset(**{"file:checksum": None}),
    "bare checksum": _asset(**{"file:checksum": "ab" * 32}),
    "size is negative": _asset(**{"file:size": -1}),
    "no href": _asset(href=None),
    "links are text": _with(links="x"),
    "is a list": lambda _: [1, 2],
    "is nothing": lambda _: None,
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_item_is_refused_and_the_others_come(
    pair: Dataset, tmp_path: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    with _serving(pair) as catalogue:
        catalogue.documents[0] = change(catalogue.documents[0])
        outcome = download(catalogue.url, tmp_path / "a/b/c/out", assets=["S2_10m", "S1"], manners=BRISK)
    assert (outcome.items, outcome.fetched, outcome.problems) == (1, 2, {})
    assert len(outcome.refused) == 1
    assert Dataset.open(tmp_path / "a/b/c/out").table(["id"]).column("id").to_pylist() == [Patch(4, 3).id]
    assert all(path.startswith("a/b/c/out/") for path in everything(tmp_path))


@contextmanager
def _serving(dataset: Dataset) -> Iterator[Catalogue]:
    with serve_catalogue(dataset) as catalogue:
        catalogue.unsigned = True
        for item in catalogue.documents:
            for asset in item["assets"].values():
                asset["href"] = f"{catalogue.url}/files/{asset['href']}"
        yield catalogue


@pytest.mark.parametrize(
    "href",
    ["file:///etc/passwd", "/etc/passwd", "ftp://127.0.0.1/x", "gopher://x", "data:image/tiff;base64,SUkq", "http://",
     "http://[::1", "//127.0.0.1:1/x", "\x00", "http://127.0.0.1:0/\r\nX: y"],
)  # fmt: skip
def test_hrefs_that_are_not_fetched(pair: Dataset, tmp_path: Path, href: str) -> None:
    with _serving(pair) as catalogue:
        catalogue.documents[0]["assets"]["S2_10m"]["href"] = href
        outcome = download(catalogue.url, tmp_path / "out", assets=["S2_10m"], manners=BRISK)
    assert outcome.fetched == 1
    assert len(outcome.problems) == 1
    assert Dataset.open(tmp_path / "out").table(["id"]).num_rows == 1


def test_a_folder_as_catalogue_leads_nowhere_outside_it(pair: Dataset, tmp_path: Path) -> None:
    (tmp_path / "secret.tif").write_bytes(b"secret")
    transfer = Transfer(Reach(), BRISK, source=pair.storage)
    for href in ("../secret.tif", "patches/../../secret.tif", str(tmp_path / "secret.tif"), ""):
        with pytest.raises(LandpatchError):
            transfer.read(href, Expected())
    with answering(lambda _: (200, {}, b"inside")) as url:
        with pytest.raises(RefusedHref, match="--trust"):
            transfer.read(f"{url}/x", Expected())
        trusting = Transfer(Reach(trusted=frozenset({"127.0.0.1"})), BRISK)
        assert trusting.read(f"{url}/x", Expected()) == b"inside"
        trusting.close()
    transfer.close()


def test_a_hostile_collection_gives_no_more_than_words(pair: Dataset, tmp_path: Path) -> None:
    with _serving(pair) as catalogue:
        links = [
            7,
            {"rel": "license"},
            {"rel": "license", "href": "https://a.example/l"},
            {"rel": "item", "href": "x"},
        ]
        catalogue.collection |= {"links": links, "stac_extensions": {"a": 1}, "license": "CC-BY-4.0"}
        download(catalogue.url, tmp_path / "out", assets=["S1"], manners=BRISK)
        catalogue.collection |= {"landpatch:nomenclature": {"codes": "../../x"}}
        with pytest.raises(InvalidItem, match="nomenclature is damaged"):
            download(catalogue.url, tmp_path / "other", assets=["S1"], manners=BRISK)
    collection = Dataset.open(tmp_path / "out").collection()
    validate_collection(collection)
    assert collection["license"] == "CC-BY-4.0"
    assert [link["rel"] for link in collection["links"]] == ["root", "license", "derived_from"]


def test_links_in_the_target_are_not_followed(pair: Dataset, tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with _serving(pair) as catalogue:
        download(catalogue.url, out, assets=["S2_10m"], manners=BRISK)
        (one, other) = sorted(out.glob("patches/*/*/*/*.tif"))
        content = one.read_bytes()
        (elsewhere / "mine").write_text("mine")
        one.unlink()
        one.symlink_to(elsewhere / "mine")
        other.unlink()
        other.parent.rmdir()
        other.parent.symlink_to(elsewhere, target_is_directory=True)
        outcome = download(catalogue.url, out, assets=["S2_10m"], manners=BRISK)
    assert "no folder, or a link" in next(iter(outcome.problems.values()))
    assert everything(elsewhere) == ["mine"]
    assert (elsewhere / "mine").read_text() == "mine"
    assert not one.is_symlink()
    assert one.read_bytes() == content


# --- servers ------------------------------------------------------------------------------------------------------


def test_redirects_are_checked_at_every_hop(transfer: Transfer) -> None:
    hops = iter(range(100))

    def answer(request: BaseHTTPRequestHandler) -> Answer:
        targets = {
            "/file": "file:///etc/passwd",
            "/meta": "http://169.254.169.254/latest/meta-data",
            "/ring": f"/ring?{next(hops)}",
            "/good": "/end",
        }
        path = request.path.partition("?")[0]
        return (302, {"Location": targets[path]}, b"") if path in targets else (200, {}, b"end")

    with answering(answer) as url:
        assert transfer.read(f"{url}/good", Expected()) == b"end"
        with pytest.raises(RefusedHref, match="file://"):
            transfer.read(f"{url}/file", Expected())
        with pytest.raises(UnreadableAsset, match="more than 5 redirects"):
            transfer.read(f"{url}/ring", Expected())
    with pytest.raises(RefusedHref, match="from https to http"):
        transfer._redirected("https://a.example/x", "http://a.example/x")


def test_what_is_near_is_out_of_reach_of_what_is_far() -> None:
    """The address that a connection has got counts: here of a name that leads to this machine."""
    with answering(lambda _: pytest.fail("a request came through")) as url:  # type: ignore[arg-type]
        public = Transfer(Reach(Nearness.INTERNET), BRISK)
        for host in ("127.0.0.1", "localhost"):
            with pytest.raises(RefusedHref, match="on this machine"):
                public.read(url.replace("127.0.0.1", host), Expected())
        public.close()
    assert Reach.of("http://localhost:1/").nearest is Nearness.MACHINE
    assert Reach.of("s3://bucket/x").nearest is Nearness.INTERNET


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", Nearness.INTERNET), ("2606:4700::1111", Nearness.INTERNET), ("10.1.2.3", Nearness.NETWORK),
        ("192.168.0.1", Nearness.NETWORK), ("172.31.0.1", Nearness.NETWORK), ("100.64.0.1", Nearness.NETWORK),
        ("fd00::1", Nearness.NETWORK), ("127.9.9.9", Nearness.MACHINE), ("::1", Nearness.MACHINE),
        ("::ffff:127.0.0.1", Nearness.MACHINE), ("64:ff9b::7f00:1", Nearness.MACHINE),
        ("2002:7f00:1::", Nearness.MACHINE), ("169.254.169.254", Nearness.FORBIDDEN),
        ("::ffff:169.254.169.254", Nearness.FORBIDDEN), ("fe80::1%eth0", Nearness.FORBIDDEN),
        ("0.0.0.0", Nearness.FORBIDDEN), ("224.0.0.1", Nearness.FORBIDDEN), ("255.255.255.255", Nearness.FORBIDDEN),
    ],
)  # fmt: skip
def test_nearness(address: str, expected: Nearness) -> None:
    assert nearness(address) is expected


def test_endless_and_oversized_bodies_end(transfer: Transfer, tmp_path: Path) -> None:
    def answer(request: BaseHTTPRequestHandler) -> Answer | None:
        if request.path == "/declared":
            return 200, {}, bytes(2**20 + 1)
        if request.path == "/bomb":
            return 200, {"Content-Encoding": "gzip"}, gzip.compress(bytes(10**7))
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        while True:
            request.wfile.write(b"10000\r\n" + bytes(2**16) + b"\r\n")

    with answering(answer) as url:
        for path, message in (("endless", "goes on after"), ("declared", "the limit is"), ("bomb", "sends gzip")):
            with pytest.raises(UnreadableAsset, match=message):
                transfer.read(f"{url}/{path}", Expected())
        with pytest.raises(UnreadableAsset, match="the limit is"):
            transfer.read(f"{url}/endless", Expected(size=2**30))
        with pytest.raises(UnreadableAsset, match="more than the 5,000 bytes"):
            transfer.read(f"{url}/endless", Expected(size=5000))
        with pytest.raises(UnreadableAsset, match="sends more than"):
            transfer.document(f"{url}/endless", largest=10**6)


def test_a_page_instead_of_a_picture(transfer: Transfer) -> None:
    with answering(lambda _: (200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>Log in</html>")) as url:
        for expected in (
            Expected(media="image/tiff; application=geotiff"),
            Expected(),
            Expected(checksum="1220" + "0" * 64),
        ):
            with pytest.raises(UnreadableAsset, match="HTML page"):
                transfer.read(url, expected)


def test_a_server_that_asks_for_patience_gets_it_within_reason() -> None:
    transfer = Transfer(HERE, Manners(first_wait=0.005, patience=5))
    waits = {"/soon": ["1"], "/garbage": ["soon"], "/past": ["Thu, 01 Jan 1970 00:00:00 GMT"], "/late": ["86400"] * 9}

    def answer(request: BaseHTTPRequestHandler) -> Answer:
        left = waits[request.path]
        return (429, {"Retry-After": left.pop()}, b"") if left else (200, {}, b"here")

    with answering(answer) as url:
        begun = time.monotonic()
        assert transfer.read(f"{url}/soon", Expected()) == b"here"
        assert time.monotonic() - begun >= 1
        assert transfer.read(f"{url}/garbage", Expected()) == b"here"
        assert transfer.read(f"{url}/past", Expected()) == b"here"
        with pytest.raises(UnreadableAsset, match="come back in 86,400 s"):
            transfer.read(f"{url}/late", Expected())
    transfer.close()


def test_a_part_goes_on_only_with_the_same_file(transfer: Transfer, tmp_path: Path) -> None:
    """Killed in the middle; on the next run the server has another file under another tag."""
    state = {"content": b"II*\0" + bytes(1000), "tag": '"a"'}
    seen: list[tuple[str | None, str | None]] = []

    def answer(request: BaseHTTPRequestHandler) -> Answer | None:
        wanted, condition = request.headers.get("Range"), request.headers.get("If-Range")
        seen.append((wanted, condition))
        body = state["content"]
        if wanted and condition == state["tag"]:
            first = int(wanted.removeprefix("bytes=").rstrip("-"))
            span = f"bytes {first}-{len(body) - 1}/{len(body)}"
            return 206, {"ETag": state["tag"], "Content-Range": span}, body[first:]
        return 200, {"ETag": state["tag"], "Content-Length": str(len(body))}, body[: 600 if len(seen) == 1 else None]

    (tmp_path / "parts").mkdir()
    impatient = Transfer(HERE, Manners(tries=1))
    with answering(lambda request: _closing(request, answer)) as url:
        for tag, content in (('"a"', state["content"]), ('"b"', b"II*\0" + bytes(range(250)) * 4)):
            seen.clear()
            with pytest.raises(UnreadableAsset, match="600"):
                impatient.fetch(url, tmp_path / "x", Parts(tmp_path / "parts"), Expected())
            state.update(content=content, tag=tag)
            transfer.fetch(url, tmp_path / "x", Parts(tmp_path / "parts"), Expected())
            assert seen[1] == ("bytes=600-", '"a"')
            assert (tmp_path / "x").read_bytes() == content
            state.update(tag='"a"')
    impatient.close()
    assert everything(tmp_path) == ["x"]


def _closing(request: BaseHTTPRequestHandler, answer: Callable[[BaseHTTPRequestHandler], Any]) -> Any:
    request.close_connection = True
    return answer(request)


def test_a_full_disk_is_told(pair: Dataset, tmp_path: Path, component: Callable[[str, object], None]) -> None:
    full = Path("/dev/full")
    component("/dev/full", full.exists())
    (tmp_path / "parts").mkdir()
    parts = Parts(tmp_path / "parts")
    with parts.open("x") as part:
        part.restart(None)
        os.close(part._handle)
        part._handle = os.open(full, os.O_WRONLY)
        with pytest.raises(StorageError, match="disk is full"):
            part.write(b"x")


def test_a_catalogue_that_never_ends_is_left(pair: Dataset, tmp_path: Path) -> None:
    with serve_catalogue(pair, page=1) as catalogue:
        catalogue.endless = True
        with pytest.raises(SourceError, match="leads back to a page that was read before"):
            download(catalogue.url, tmp_path / "out", manners=BRISK)
        assert len(catalogue.asked) < 5


def test_an_empty_page_is_not_the_end(pair: Dataset, tmp_path: Path) -> None:
    with serve_catalogue(pair, page=1) as catalogue:
        catalogue.gap = True
        assert download(catalogue.url, tmp_path / "out", manners=BRISK).items == 2


def test_less_than_was_announced_is_an_error(pair: Dataset, tmp_path: Path) -> None:
    with serve_catalogue(pair) as catalogue:
        catalogue.announced = 3
        with pytest.raises(SourceError, match="announces 3 items, but its 1 pages held 2"):
            download(catalogue.url, tmp_path / "out", manners=BRISK)


# --- items of others ----------------------------------------------------------------------------------------------


@given(st.text(max_size=300))
def test_any_text_becomes_a_harmless_name(text: str) -> None:
    name = safe_name(text)
    assert 0 < len(name) < 160
    assert name == Path(name).name
    assert not name.startswith(".")
    assert not name.endswith((".", " "))
    assert name.isascii()
    assert name.isprintable()
    assert name.partition(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt9"}


@given(st.lists(st.text(max_size=12), min_size=1, max_size=8, unique=True))
def test_no_two_items_share_a_folder_in_any_case(names: list[str]) -> None:
    places = PlainPlaces()
    named = [name for name in names if name]
    folders = []
    for name in named:
        assets = {"a": {"href": "x/B04.TIF"}, "b": {"href": "y/b04.tif"}, "c": {"href": f"z/{ITEM_FILE}"}}
        folder, paths = places.files({"id": name, "properties": {}, "assets": assets}, ["a", "b", "c"])
        folders.append(folder.casefold())
        assert len({path.casefold() for path in (*paths.values(), f"{folder}/{ITEM_FILE}")}) == 4
    assert len(set(folders)) == len(named)


def test_items_that_are_no_patches_come_as_they_are(pair: Dataset, tmp_path: Path) -> None:
    import pystac

    with _serving(pair) as catalogue:
        for number, name in enumerate(("S2_33UUP", "../../s2_33uup")):
            old = catalogue.documents[number]
            assets = {
                "red": {"href": old["assets"]["S2_10m"]["href"], "type": "image/tiff"},
                "doc": {"href": "x/y.pdf"},
            }
            catalogue.documents[number] = {
                **{key: old[key] for key in ("type", "stac_version", "geometry", "bbox")},
                "id": name,
                "collection": "sentinel-2-l2a",
                "properties": {"datetime": "2017-06-13T10:10:31Z"},
                "links": [{"rel": "self", "href": f"{catalogue.url}/items/{number}"}],
                "assets": assets,
            }
        with pytest.raises(InvalidParameter, match="doc, red"):
            download(catalogue.url, tmp_path / "out", manners=BRISK)
        for fetched in (2, 0):
            outcome = download(catalogue.url, tmp_path / "out", assets=["red"], manners=BRISK)
            assert (outcome.items, outcome.fetched, outcome.problems) == (2, fetched, {})
    found = list(pystac.Catalog.from_file(str(tmp_path / "out/catalog.json")).get_items())
    assert sorted(item.id for item in found) == ["../../s2_33uup", "S2_33UUP"]
    for item in found:
        asset = Path(item.assets["red"].get_absolute_href() or "")
        assert asset.read_bytes()[:2] == b"II"
    assert {path.split("/")[0] for path in everything(tmp_path / "out")} == {
        ".download",
        "catalog.json",
        "sentinel-2-l2a",
    }


# --- questions ----------------------------------------------------------------------------------------------------


def test_quotes_in_a_label_are_its_own(tmp_path: Path) -> None:
    question = Question.of(filter="a = 'it''s'", labels=["x') OR ('1'='1"], country="Côte d'Ivoire")
    expression = question.expression()
    assert json.loads(json.dumps(expression))["args"][2]["args"][1] == ["x') OR ('1'='1"]
    assert expression is not None
    assert expression["args"][1]["args"][1] == "Côte d'Ivoire"


@pytest.mark.parametrize(
    "words",
    [{"bbox": "1,2,3"}, {"bbox": [0, 5, 1, 4]}, {"bbox": "a,b,c,d"}, {"datetime": "June"}, {"filter": "a = "},
     {"filter": '{"op": 1}'}, {"maximum": 0}],
)  # fmt: skip
def test_words_that_make_no_sense(words: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter):
        Question.of(**words)


def test_where_and_when(pair: Dataset, tmp_path: Path) -> None:
    west, south, east, north = next(iter(items(pair.table())))["bbox"]
    folder = str(pair.storage.folder)
    for number, (words, count) in enumerate(
        [
            ({"bbox": (west, south, west + 0.001, north)}, 1),
            ({"bbox": (179, south, east, north)}, 2),
            ({"datetime": "2017-06-13"}, 2),
            ({"datetime": "2017-06", "collections": ["small"], "ids": [Patch(4, 3).id]}, 1),
            ({"filter": "landpatch:x > 3 AND landpatch:country IS NULL"}, 1),
        ]
    ):
        question = Question.of(**words)  # type: ignore[arg-type]
        place = tmp_path / str(number)
        assert download(folder, place, question, assets=["reference_map"], manners=BRISK).items == count
    for words in ({"datetime": "2018"}, {"country": "Austria"}, {"ids": ["x"]}, {"collections": ["other"]}):
        with pytest.raises(InvalidParameter, match="nothing in"):
            download(folder, tmp_path / "none", Question.of(**words))  # type: ignore[arg-type]
    with pytest.raises(InvalidParameter, match="no property split"):
        download(folder, tmp_path / "none", Question.of(filter="split = 'train'"))


def test_an_lmdb_of_a_dataset_without_some_bands_is_refused(pair: Dataset, tmp_path: Path) -> None:
    download(str(pair.storage.folder), tmp_path / "out", assets=["S2_10m"], manners=BRISK)
    with pytest.raises(InvalidDataset, match="S2_20m"):
        export_lmdb(Dataset.open(tmp_path / "out"), tmp_path / "out.lmdb")
