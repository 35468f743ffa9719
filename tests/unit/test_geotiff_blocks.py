import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.errors import RasterioIOError
from rasterio.windows import Window

from landpatch.catalog.bands import S2_60M
from landpatch.catalog.grid import TileGrid
from landpatch.catalog.scenes import BandAsset, BoaOffset, optical_scene
from landpatch.functions.geotiff_blocks import BlockReader, open_blocks
from landpatch.functions.optical import OpticalReader
from landpatch.functions.sources import read_scene
from landpatch.functions.warp import TileSampler
from small_scenes import KEYS, SmallScene

GRID = TileGrid.from_tile("33UUP")
COG = {"tiled": True, "blockxsize": 32, "blockysize": 16, "compress": "deflate", "predictor": 2}


def store(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    """A GeoTIFF whose first pixel is the tile's."""
    bands = pixels.reshape(-1, *pixels.shape[-2:])
    profile = {
        "driver": "GTiff",
        "count": len(bands),
        "height": bands.shape[1],
        "width": bands.shape[2],
        "dtype": pixels.dtype,
        "crs": f"EPSG:{GRID.epsg}",
        "transform": Affine(60, 0, GRID.ulx, 0, -60, GRID.uly),
    }
    with rasterio.open(path, "w", **{**profile, **options}) as dataset:
        dataset.write(bands)
    return path


def noise(shape: tuple[int, ...], dtype: str = "uint16", seed: int = 0) -> np.ndarray:
    """Anything that the type can hold, also the many kinds of NaN."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8).view(dtype).reshape(shape)


# --- the same pixels as GDAL's -----------------------------------------------------------------------------------


@st.composite
def layouts(draw: st.DrawFn) -> tuple[str, tuple[int, ...], dict[str, Any]]:
    dtype = draw(st.sampled_from(["uint8", "uint16", "float32"]))
    side = st.integers(1, 90)
    bands = draw(st.sampled_from([1, 1, 2]))
    predictors = [1, 2, 3] if dtype == "float32" else [1, 2]
    options = {
        "compress": "deflate",
        "predictor": draw(st.sampled_from(predictors)),
        "interleave": "band",
        "bigtiff": draw(st.sampled_from(["yes", "no"])),
    }
    blocks = st.sampled_from([16, 32, 48])
    if draw(st.booleans()):
        options |= {"tiled": True, "blockxsize": draw(blocks), "blockysize": draw(blocks)}
    else:
        options |= {"blockysize": draw(side)}
    return dtype, (bands, draw(side), draw(side)), options


@settings(max_examples=60, deadline=None)
@given(layout=layouts(), data=st.data())
def test_windows_of_plain_files(
    layout: tuple[str, tuple[int, ...], dict[str, Any]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dtype, (bands, height, width), options = layout
    pixels = noise((bands, height, width), dtype)
    path = store(tmp_path_factory.getbasetemp() / "plain.tif", pixels, **options)
    with rasterio.open(path) as dataset:
        reader = open_blocks(dataset, bands)
        assert reader is not None
        for _ in range(3):
            top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
            out = np.empty((data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))), dtype)
            reader.read(top, left, out)
            window = Window(left, top, out.shape[1], out.shape[0])
            assert out.tobytes() == dataset.read(bands, window=window).tobytes()


def test_windows_that_follow_each_other_inflate_a_block_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inflated: list[int] = []
    read = BlockReader._read
    monkeypatch.setattr(BlockReader, "_read", lambda self, index: (inflated.append(index), read(self, index))[1])
    pixels = noise((90, 100))
    with rasterio.open(store(tmp_path / "band.tif", pixels, **COG)) as dataset:
        reader = open_blocks(dataset)
        assert reader is not None
        for top in range(0, 90, 10):
            out = np.empty((10, 100), np.uint16)
            reader.read(top, 0, out)
            np.testing.assert_array_equal(out, pixels[top : top + 10])
    assert inflated == list(range(6 * 4))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return optical_scene(read_scene(str(SmallScene().write(tmp_path_factory.mktemp("scene")))))


@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize(
    "options",
    [COG, {**COG, "tiled": False}, {**COG, "compress": "zstd"}],
    ids=["tiles", "strips", "zstd"],
)
def test_a_band_as_wide_as_the_tile_is_cut(options: dict[str, Any], offset: bool, scene: Any, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 4000, (2, 1830, 1830)).astype(np.uint16)
    pixels[:, ::7, ::3] = 0
    large = {**options, "blockxsize": 512, "blockysize": 512}
    bands = {
        name: BandAsset(KEYS[name], str(store(tmp_path / f"{name}.tif", band, **large)))
        for name, band in zip(S2_60M.planes, pixels, strict=True)
    }
    given = replace(scene, bands={**scene.bands, **bands}, offset=BoaOffset(offset, "the test says so"))
    with OpticalReader(given, GRID) as reader:
        for rows in (range(3), range(3, 29), range(90, 91)):
            out = np.full((len(rows), 91, 2, 20, 20), 7, np.uint16)
            empty = reader.cut(rows, S2_60M, out)
            strip = pixels[:, rows.start * 20 : rows.stop * 20, : 91 * 20].astype(np.int64)
            if offset:
                strip = np.where(strip == 0, 0, np.maximum(strip - 1000, 1))
            expected = strip.reshape(2, len(rows), 20, 91, 20).transpose(1, 3, 0, 2, 4)
            np.testing.assert_array_equal(out, expected)
            np.testing.assert_array_equal(empty, (expected == 0).sum(axis=(2, 3, 4)))


# --- what is left to GDAL ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("uint16", {"compress": "zstd"}),
        ("uint16", {"compress": "lzw"}),
        ("uint16", {"compress": None, "predictor": None}),
        ("uint16", {"nbits": 12, "predictor": None}),
        ("uint16", {"endianness": "big"}),
        ("uint16", {"sparse_ok": True}),
        ("int16", {}),
        ("float64", {}),
        ("uint16", {"driver": "JP2OpenJPEG", "quality": 100, "reversible": "yes"}),
    ],
    ids=lambda value: str(value),
)
def test_other_files_are_left_to_gdal(dtype: str, options: dict[str, Any], tmp_path: Path) -> None:
    pixels = (noise((64, 96)) // 16).astype(dtype)
    pixels[:16, :32] = 0  # a block that sparse files leave out
    chosen = options if "driver" in options else {**COG, **options}
    path = store(tmp_path / "other.tif", pixels, **{key: value for key, value in chosen.items() if value is not None})
    with rasterio.open(path) as dataset:
        assert open_blocks(dataset) is None
        np.testing.assert_array_equal(TileSampler(dataset, GRID)._read((3, 5, 60, 90)), pixels[3:60, 5:90])


def test_pixels_of_several_samples_and_files_that_are_not_local_are_left_to_gdal(tmp_path: Path) -> None:
    path = store(tmp_path / "two.tif", noise((2, 32, 32)), **COG, interleave="pixel")
    with rasterio.open(path) as dataset:
        assert open_blocks(dataset) is None
    data = store(tmp_path / "one.tif", noise((32, 32)), **COG).read_bytes()
    with rasterio.MemoryFile(data) as memory, memory.open() as dataset:
        assert open_blocks(dataset) is None


# --- damage ------------------------------------------------------------------------------------------------------


def change_block(path: Path, block: str, change: Callable[[bytes], bytes]) -> BlockReader:
    """Change the stream of a block ("column_row") in a file; returns a reader."""
    with rasterio.open(path) as dataset:
        at, size = (int(dataset.get_tag_item(f"BLOCK_{what}_{block}", "TIFF", bidx=1)) for what in ("OFFSET", "SIZE"))
    data = bytearray(path.read_bytes())
    data[at : at + size] = change(bytes(data[at : at + size])).ljust(size, b"\0")
    path.write_bytes(data)
    with rasterio.open(path) as dataset:
        reader = open_blocks(dataset)
    assert reader is not None
    return reader


def test_a_last_strip_that_is_as_long_as_the_others(tmp_path: Path) -> None:
    """Some programs do not end it with the image."""
    path = store(tmp_path / "strips.tif", noise((20, 64)), compress="deflate", blockysize=16)
    strip = np.arange(16, dtype=np.uint16).repeat(64).reshape(16, 64)
    out = np.empty((4, 64), np.uint16)
    change_block(path, "0_1", lambda _: zlib.compress(strip)).read(16, 0, out)
    np.testing.assert_array_equal(out, strip[:4])
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(dataset.read(1)[16:], out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stream: stream[:-1] + bytes([stream[-1] ^ 1]), "does not inflate"),  # the checksum
        (lambda stream: stream[:200], "does not inflate"),
        (lambda stream: bytes(len(stream)), "does not inflate"),
        (lambda stream: zlib.compress(stream[:1000]), "inflates to 1000 bytes instead of 1024"),
    ],
)
def test_a_damaged_block_is_an_error(change: Callable[[bytes], bytes], message: str, tmp_path: Path) -> None:
    reader = change_block(store(tmp_path / "band.tif", noise((32, 64)), **COG), "1_0", change)
    reader.read(0, 0, np.empty((16, 32), np.uint16))
    with pytest.raises(RasterioIOError, match=f"block 1 at bytes .* {message}"):
        reader.read(0, 0, np.empty((16, 33), np.uint16))


def test_a_block_beyond_the_end_of_the_file_is_an_error(tmp_path: Path) -> None:
    path = store(tmp_path / "band.tif", noise((32, 64)), **COG)
    path.write_bytes(path.read_bytes()[:-100])
    with rasterio.open(path) as dataset:
        reader = open_blocks(dataset)
    assert reader is not None
    with pytest.raises(RasterioIOError, match=r"block 3 at bytes .* lies beyond the end of the file"):
        reader.read(0, 0, np.empty((32, 64), np.uint16))
