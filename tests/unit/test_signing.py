"""Signed reading against a token service and a storage on this machine, over HTTP.

Blob storage is reached as a browser behind a proxy reaches it: ``http_proxy`` stands for the outside world.
"""

import json
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import rasterio

from landpatch.catalog.errors import InvalidItem, MissingComponent, UnreadableAsset
from landpatch.catalog.signing import signed_href, signed_hrefs, unsigned, unsigned_href, without_secrets
from landpatch.functions.raster import gdal_environment, open_raster
from landpatch.functions.sar import ElevationModel
from landpatch.functions.sar_grd.annotation import read_annotation
from landpatch.functions.sar_grd.elevation import Elevation
from landpatch.functions.sources import read_scene
from small_grd import GRID, SmallGrd, write_dem

BLOB = "http://scenes.blob.core.windows.net/s2/B02.tif"
SIGNED = f"{BLOB}?st=2026-01-01&se=2026-01-02&sp=rl&sv=2024-05-04&sr=c&sig=abc%2Bdef%3D"


class Azure:
    """A token service (``/token/ACCOUNT/CONTAINER``) and, as proxy, the storage that its tokens open."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.given: list[str] = []
        self.life = timedelta(hours=1)
        self.status = 200
        self.file = b""

    def answer(self, address: str) -> tuple[int, bytes]:
        parts = urlsplit(address)
        if not parts.netloc:
            self.asked.append(parts.path)
            if self.status != 200:
                return self.status, b"{}"
            self.given.append(f"secret{len(self.given)}")
            expiry = f"{datetime.now(UTC) + self.life:%Y-%m-%dT%H:%M:%SZ}"
            return 200, json.dumps({"msft:expiry": expiry, "token": f"se=1&sp=rl&sig={self.given[-1]}"}).encode()
        signature = parse_qs(parts.query).get("sig", ["none"])[0]
        return (200, self.file) if signature in self.given else (403, b"no signature")


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Azure]:
    from planetary_computer import sas
    from planetary_computer.settings import Settings

    state = Azure()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, content = state.answer(self.path)
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            extra = {}
            if status == 200 and wanted:
                first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
                extra["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
                status, content = 206, content[first : last + 1]
            self.send_response(status)
            for name, value in {**extra, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content if self.command == "GET" else b"")

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            """Nothing on the test's output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    here = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("PC_SDK_SAS_URL", f"{here}/token")
    monkeypatch.setenv("GDAL_HTTP_PROXY", here)
    monkeypatch.setenv("http_proxy", here)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(urllib.request, "_opener", None)  # it keeps the proxies of its first use
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    Settings.get.cache_clear()
    sas.TOKEN_CACHE.clear()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()
    Settings.get.cache_clear()
    sas.TOKEN_CACHE.clear()


def test_a_band_is_opened_with_a_token_and_known_without(azure: Azure, tmp_path: Path) -> None:
    profile = {"driver": "GTiff", "width": 4, "height": 3, "count": 1, "dtype": "uint16", "crs": "EPSG:32633"}
    pixels = np.arange(12, dtype=np.uint16).reshape(1, 3, 4)
    with rasterio.open(tmp_path / "B02.tif", "w", **profile, transform=rasterio.Affine(10, 0, 0, 0, -10, 0)) as file:
        file.write(pixels)
    azure.file = (tmp_path / "B02.tif").read_bytes()
    with gdal_environment():
        with open_raster(BLOB) as dataset:
            np.testing.assert_array_equal(dataset.read(), pixels)
        azure.given.clear()  # the storage takes no token any more
        with pytest.raises(UnreadableAsset, match=r"/s2/B03\.tif cannot be opened.*403") as refused:
            open_raster(BLOB.replace("B02", "B03"))
    assert "secret" not in str(refused.value)
    assert azure.asked == ["/token/scenes/s2"]


def test_metadata_and_elevation_of_grd_are_read_with_a_token(azure: Azure, tmp_path: Path) -> None:
    annotation = BLOB.replace("s2/B02.tif", "s1-grd/annotation/iw-vv.xml")
    azure.file = SmallGrd(shape=(9, 9)).annotation().encode()
    assert read_annotation(annotation).shape == (9, 9)
    # The elevation model's items name files of another container.
    dem = {"type": "Feature", "id": "dem", "assets": {"data": {"href": BLOB.replace("s2/B02", "dem/N48")}}}
    (tmp_path / "dem.json").write_text(json.dumps({"type": "FeatureCollection", "features": [dem]}))
    azure.file = write_dem(tmp_path / "dem.tif", pixel=90).read_bytes()
    with gdal_environment():
        Elevation(ElevationModel(str(tmp_path / "dem.json")), GRID).close()
    assert azure.asked == ["/token/scenes/s1-grd", "/token/scenes/dem"]
    azure.given.clear()  # the storage takes no token any more
    with pytest.raises(UnreadableAsset, match=r"s1-grd/annotation/iw-vv\.xml cannot be read: .*403") as refused:
        read_annotation(annotation)
    with pytest.raises(UnreadableAsset, match=r"sig=\.\.\. cannot be read"):
        read_annotation(f"{annotation}?sp=rl&sig=secret9")
    azure.status = 401
    with pytest.raises(UnreadableAsset, match=r"gives no token for scenes/other .*run the same command again later"):
        read_annotation(annotation.replace("s1-grd", "other"))
    assert "secret" not in str(refused.value)


def test_a_token_is_used_again_until_shortly_before_its_end(azure: Azure) -> None:
    first = signed_href(BLOB)
    assert first == f"{BLOB}?se=1&sp=rl&sig=secret0"
    assert signed_href(BLOB) == first
    assert signed_href(BLOB.replace("/s2/", "/s1/")).endswith("sig=secret1")
    assert azure.asked == ["/token/scenes/s2", "/token/scenes/s1"]
    azure.life = timedelta(minutes=10)
    assert signed_href("https://other.blob.core.windows.net/a/b.tif").endswith("sig=secret2")
    # Ten minutes may not last to the end of a block: a new one.
    assert signed_href("https://other.blob.core.windows.net/a/b.tif").endswith("sig=secret3")


def test_what_needs_no_signature(azure: Azure) -> None:
    for href in (
        "/data/B02.tif",
        "s3://bucket/B02.tif",
        "https://data.invalid/B02.tif",
        "https://blob.core.windows.net.evil.invalid/a/b.tif",
        "https://ai4edatasetspublicassets.blob.core.windows.net/assets/x.png",
        SIGNED,
    ):
        assert signed_href(href) == href
    assert azure.asked == []
    azure.status = 404  # not one of the Planetary Computer's containers: public, or the reading says otherwise
    assert signed_href(BLOB) == BLOB
    with pytest.raises(InvalidItem, match="is no path and no URL"):
        signed_href("http://[x/a.tif")


def test_no_token_to_be_had(azure: Azure) -> None:
    azure.status = 401
    with pytest.raises(UnreadableAsset, match=r"gives no token for scenes/s2 .*run the same command again later"):
        signed_href(BLOB)


def test_signatures_are_never_stored(azure: Azure, tmp_path: Path) -> None:
    item = {"type": "Feature", "id": "x", "assets": {"blue": {"href": SIGNED, "title": "Blue"}, "odd": "text"}}
    assert unsigned(item)["assets"] == {"blue": {"href": BLOB, "title": "Blue"}, "odd": "text"}
    assert item["assets"]["blue"]["href"] == SIGNED, "the item itself stays as it is"
    assert signed_hrefs(unsigned(item))["assets"]["blue"]["href"] == f"{BLOB}?se=1&sp=rl&sig=secret0"
    assert unsigned_href(f"{BLOB}?snapshot=2026&sig=x&se=1") == f"{BLOB}?snapshot=2026"
    other = "https://data.invalid/a.tif?sig=x"
    assert unsigned_href(other) == other
    assert unsigned({"id": "x"}) == {"id": "x"}
    (tmp_path / "item.json").write_text(json.dumps({**item, "assets": {"blue": {"href": SIGNED}}}))
    assert read_scene(str(tmp_path / "item.json"))["assets"]["blue"]["href"] == BLOB
    assert without_secrets(f"'/vsicurl/{SIGNED}' not found") == (
        f"'/vsicurl/{BLOB}?st=2026-01-01&se=2026-01-02&sp=rl&sv=2024-05-04&sr=c&sig=...' not found"
    )


def test_without_the_package() -> None:
    program = (
        "import sys; sys.modules['planetary_computer'] = None\n"
        "from landpatch.catalog.errors import MissingComponent\n"
        "from landpatch.catalog.signing import signed_href\n"
        "assert signed_href('/data/a.tif') == '/data/a.tif'\n"
        f"try: signed_href({BLOB!r})\n"
        "except MissingComponent as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'landpatch[planetary-computer]'" in done.stdout
    assert MissingComponent.exit_code == 12
