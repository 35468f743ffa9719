import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from landpatch.catalog.errors import InvalidItem, UnreadableAsset
from landpatch.functions.raster import gdal_environment, gdal_path, open_raster
from small_scenes import write_raster
from small_server import serve

PLACE = Affine(10, 0, 300000, 0, -10, 5400000)
PIXELS = np.random.default_rng(3).integers(0, 10_000, (300, 200)).astype(np.uint16)


@pytest.fixture
def cog(tmp_path: Path) -> Path:
    path = tmp_path / "bucket/a b%20c.tif"
    path.parent.mkdir()
    write_raster(path, PIXELS, PLACE)
    return path


# --- hrefs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("href", "path"),
    [
        ("/data/B02.tif", "/data/B02.tif"),
        ("/data/a b%20c.tif", "/data/a b%20c.tif"),  # a path is no URL: nothing is decoded
        ("file:///data/a%20b.tif", "/data/a b.tif"),
        ("https://e.org/B02.tif", "/vsicurl/https://e.org/B02.tif"),
        ("http://e.org/a%20b.tif?sig=x%2Fy", "/vsicurl/http://e.org/a%20b.tif?sig=x%2Fy"),
        ("s3://bucket/prefix/B02.jp2", "/vsis3/bucket/prefix/B02.jp2"),
        ("s3://bucket/a%20b.tif", "/vsis3/bucket/a b.tif"),
    ],
)
def test_what_gdal_opens(href: str, path: str) -> None:
    assert gdal_path(href) == path


def test_a_relative_path_is_one_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert gdal_path("B02.tif") == f"{tmp_path}/B02.tif"
    # A driver's own syntax becomes an ordinary file name.
    assert gdal_path("GTIFF_DIR:1:/data/B02.tif") == f"{tmp_path}/GTIFF_DIR:1:/data/B02.tif"


@pytest.mark.parametrize(
    "href",
    [
        "/vsicurl/http://e.org/x.tif",
        "/vsimem/x.tif",
        "/vsizip//data/x.zip/x.tif",
        "///vsizip//data/x.zip/x.tif",
        "/./vsimem/x.tif",
        "file:///vsimem/x.tif",
        "file:///./vsimem/x.tif",
        "file:///%76simem/x.tif",
        "/data/a\0b.tif",
    ],
)
def test_virtual_file_systems_are_refused(href: str) -> None:
    with pytest.raises(InvalidItem, match="names a GDAL virtual file system"):
        open_raster(href)


def test_nor_are_they_reached_from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    with pytest.raises(InvalidItem, match="names a GDAL virtual file system"):
        open_raster("vsimem/x.tif")


@pytest.mark.parametrize(
    "href", ["ftp://e.org/x.tif", "gs://b/x.tif", "vrt:///data/x.tif", "s3:///x.tif", "http:///x.tif", "http://[x"]
)
def test_other_schemes_are_refused(href: str) -> None:
    with pytest.raises(InvalidItem, match="href"):
        open_raster(href)


@given(st.text(max_size=12), st.sampled_from(["", "/", "//", "///", "/./", "file://", "file:///", "./", "../"]))
def test_no_text_leads_into_a_virtual_file_system(text: str, start: str) -> None:
    """GDAL knows them by how a name begins; only the two that belong to http(s) and s3 may come out."""
    for href in (start + text, f"{start}vsi{text}"):
        try:
            path = gdal_path(href)
        except InvalidItem:
            continue
        assert not path.startswith("/vsi")
        assert path.startswith("/")


# --- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["path", "file"])
def test_a_local_file_with_blanks_and_percent_signs(cog: Path, form: str) -> None:
    href = str(cog) if form == "path" else f"file://{cog.parent}/a%20b%2520c.tif"
    with open_raster(href) as dataset:
        np.testing.assert_array_equal(dataset.read(1), PIXELS)


def test_jpeg_2000(tmp_path: Path) -> None:
    write_raster(tmp_path / "B02.JP2", PIXELS, PLACE, driver="JP2OpenJPEG")
    with open_raster(str(tmp_path / "B02.JP2")) as dataset:
        assert dataset.driver == "JP2OpenJPEG"
        np.testing.assert_array_equal(dataset.read(1), PIXELS)


def test_http(cog: Path) -> None:
    with serve(cog.parent) as server, gdal_environment():
        href = f"{server.url}/a%20b%2520c.tif?sig=x%2Fy"
        with open_raster(href) as dataset:
            np.testing.assert_array_equal(dataset.read(1), PIXELS)
        with pytest.raises(UnreadableAsset, match=f"{server.url}/none.tif cannot be opened"):
            open_raster(f"{server.url}/none.tif")
    assert {path for _, path, _ in server.requests} == {"/a%20b%2520c.tif?sig=x%2Fy", "/none.tif"}
    assert all(wanted for method, _, wanted in server.requests if method == "GET")


def test_s3_of_one_s_own(cog: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN AWS_ENDPOINT_URL, which every AWS tool knows, THEN GDAL reads s3:// there too, path style."""
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
    with serve(cog.parents[1]) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        with gdal_environment(), open_raster("s3://bucket/a%20b%2520c.tif") as dataset:
            np.testing.assert_array_equal(dataset.read(1, window=((0, 10), (0, 200))), PIXELS[:10])
    assert {path for _, path, _ in server.requests} == {"/bucket/a%20b%2520c.tif"}
    assert all(wanted for method, _, wanted in server.requests if method == "GET")  # ranges, never the whole


def test_the_user_s_own_gdal_settings_win(monkeypatch: pytest.MonkeyPatch) -> None:
    with gdal_environment():
        ours = rasterio.env.getenv()
    assert ours["GDAL_DISABLE_READDIR_ON_OPEN"] == "EMPTY_DIR"
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "9")
    with gdal_environment():
        assert "GDAL_HTTP_MAX_RETRY" not in rasterio.env.getenv()
    assert ours["GDAL_HTTP_MAX_RETRY"] == 5


VRT = """<VRTDataset rasterXSize="200" rasterYSize="300"><SRS>EPSG:32633</SRS>
<GeoTransform>300000, 10, 0, 5400000, 0, -10</GeoTransform><VRTRasterBand dataType="UInt16" band="1"><SimpleSource>
<SourceFilename relativeToVRT="0">{}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>
</VRTDataset>"""


@pytest.mark.parametrize("name", ["x.vrt", "x.tif", "x.jp2", "x"])
def test_only_geotiff_and_jpeg_2000_are_let_near_a_file(cog: Path, tmp_path: Path, name: str) -> None:
    """A VRT in a scene could read any file of this machine, or make it talk to any other."""
    path = tmp_path / name
    path.write_text(VRT.format(cog))
    with rasterio.open(path) as dataset:  # GDAL itself would
        assert dataset.read(1).any()
    with pytest.raises(UnreadableAsset, match=f"{path} cannot be opened as GeoTIFF or JPEG 2000"):
        open_raster(str(path))


def test_a_vrt_as_href(cog: Path) -> None:
    with pytest.raises((UnreadableAsset, InvalidItem)):
        open_raster(VRT.format(cog))


@pytest.mark.parametrize("content", [b"", b"II*\0", b"<html>404</html>", os.urandom(200)])
@pytest.mark.parametrize("ending", ["tif", "jp2"])
def test_what_is_no_raster(tmp_path: Path, content: bytes, ending: str) -> None:
    path = tmp_path / f"B02.{ending}"
    path.write_bytes(content)
    with pytest.raises(UnreadableAsset, match=f"{path} cannot be opened .*; is it there, complete and readable"):
        open_raster(str(path))


def test_what_is_not_there(tmp_path: Path) -> None:
    for href in (f"{tmp_path}/none.tif", str(tmp_path)):
        with pytest.raises(UnreadableAsset, match=f"{href} cannot be opened"):
            open_raster(href)
