from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.windows import Window

from landpatch.catalog.bands import OPTICAL_ASSETS, S2_10M, S2_20M, S2_60M, PatchAsset
from landpatch.catalog.errors import InvalidScene, UnreadableAsset
from landpatch.catalog.grid import TileGrid
from landpatch.catalog.scenes import BandAsset, BoaOffset, OpticalScene, optical_scene
from landpatch.functions import optical
from landpatch.functions.geotiff_blocks import BlockReader, Part
from landpatch.functions.optical import OpticalReader
from landpatch.functions.sources import read_scene
from small_scenes import KEYS, RESOLUTIONS, ULX, ULY, SmallScene, write_raster

GRID = TileGrid.from_tile("33UUP")
ASSET_OF = {name: asset for asset in OPTICAL_ASSETS for name in asset.planes}


def load(path: Path) -> OpticalScene:
    return optical_scene(read_scene(str(path)))


def cut(reader: OpticalReader, rows: range, asset: PatchAsset) -> tuple[np.ndarray, np.ndarray]:
    """Patches, and which are complete."""
    out = np.full((len(rows), 91, len(asset.planes), asset.pixels, asset.pixels), 7, np.uint16)
    empty = reader.cut(rows, asset, out)
    np.testing.assert_array_equal(empty, (out == 0).sum(axis=(2, 3, 4)))  # however the offset was taken away
    return out, empty == 0


def with_band(scene: OpticalScene, name: str, path: Path) -> OpticalScene:
    return replace(scene, bands={**scene.bands, name: BandAsset(KEYS[name], str(path))})


def place(resolution: int, x: float = 10, y: float = 11) -> Affine:
    return Affine(resolution, 0, ULX + 1200 * x, 0, -resolution, ULY - 1200 * y)


@pytest.fixture(scope="module")
def small() -> SmallScene:
    return SmallScene()


@pytest.fixture(scope="module")
def scene(small: SmallScene, tmp_path_factory: pytest.TempPathFactory) -> OpticalScene:
    """Patches x 10..12, y 11..12, without offset."""
    return load(small.write(tmp_path_factory.mktemp("scene")))


# --- pixels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["GTiff", "JP2OpenJPEG"])
def test_patches_are_the_windows_that_rasterio_reads(tmp_path: Path, driver: str) -> None:
    small = SmallScene(seed=5)
    scene = load(small.write(tmp_path, driver))
    with OpticalReader(scene, GRID) as reader:
        assert reader.covered == (range(11, 13), range(10, 13))
        for rows in (range(13), range(12, 13), range(10, 15), range(11, 12)):  # however the rows are cut
            for asset in OPTICAL_ASSETS:
                patches, complete = cut(reader, rows, asset)
                for name, plane in zip(asset.planes, range(len(asset.planes)), strict=True):
                    px = asset.pixels
                    expected = np.zeros((len(rows), 91, px, px), np.uint16)
                    with rasterio.open(scene.bands[name].href) as file:
                        for y in {11, 12} & set(rows):
                            for x in (10, 11, 12):
                                window = Window((x - 10) * px, (y - 11) * px, px, px)
                                expected[y - rows.start, x] = file.read(1, window=window)
                    np.testing.assert_array_equal(patches[:, :, plane], expected)
                there = np.zeros((len(rows), 91), bool)
                there[[y - rows.start for y in (11, 12) if y in rows], 10:13] = True
                np.testing.assert_array_equal(complete, there)


@pytest.mark.parametrize("present", [True, False])
def test_the_offset_is_taken_away_in_signed_arithmetic(tmp_path: Path, present: bool) -> None:
    """GIVEN every number that a pixel can hold, THEN 0 stays nodata, 1..1000 become 1 and the rest lose 1000."""
    small = SmallScene(nx=5, ny=1)
    small.bands["B02"] = (np.arange(120 * 600) % 65536).astype(np.uint16).reshape(120, 600)
    scene = replace(load(small.write(tmp_path)), offset=BoaOffset(present, "given"))
    with OpticalReader(scene, GRID) as reader:
        patches, complete = cut(reader, range(11, 12), S2_10M)
    stored = small.bands["B02"].astype(np.int64)
    expected = np.where(stored == 0, 0, np.clip(stored - 1000, 1, 65535)) if present else stored
    found = patches[0, 10:15, 0].transpose(1, 0, 2).reshape(120, 600)
    np.testing.assert_array_equal(found, expected)
    for value, wanted in {0: 0, 1: 1, 1000: 1, 1001: 1, 1002: 2, 65535: 64535}.items() if present else ():
        assert set(found[stored == value].tolist()) == {wanted}
    holes = (stored == 0).reshape(120, 5, 120).any(axis=(0, 2))
    assert holes.sum() == 2
    np.testing.assert_array_equal(complete[0, 10:15], ~holes)


@pytest.mark.parametrize("name", list(RESOLUTIONS))
@pytest.mark.parametrize("corner", [(0, 0), (-1, -1)])
def test_one_empty_pixel_of_any_band_makes_its_patch_incomplete(
    small: SmallScene, scene: OpticalScene, tmp_path: Path, name: str, corner: tuple[int, int]
) -> None:
    pixels = small.bands[name].copy()
    px = 1200 // RESOLUTIONS[name]
    pixels[px : 2 * px, px : 2 * px][corner] = 0  # of patch x 11, y 12, at the band's own resolution
    write_raster(tmp_path / "band.tif", pixels, place(RESOLUTIONS[name]))
    holed = with_band(scene, name, tmp_path / "band.tif")
    whole = np.zeros((2, 91), bool)
    whole[:, 10:13] = True
    with OpticalReader(replace(holed, offset=BoaOffset(True, "given")), GRID) as reader:
        for asset in OPTICAL_ASSETS:
            _, complete = cut(reader, range(11, 13), asset)
            expected = whole.copy()
            expected[1, 11] = asset is not ASSET_OF[name]
            np.testing.assert_array_equal(complete, expected)


def test_a_band_that_starts_within_a_patch_leaves_it_incomplete(
    small: SmallScene, scene: OpticalScene, tmp_path: Path
) -> None:
    """GIVEN a crop that begins 60 m too late and ends 60 m too early, THEN the patches at its edges are nodata."""
    pixels = small.bands["B01"]
    write_raster(tmp_path / "B01.tif", pixels[1:-1, 1:-1], place(60, 10.05, 11.05))
    with OpticalReader(with_band(scene, "B01", tmp_path / "B01.tif"), GRID) as reader:
        assert reader.covered == (range(11, 13), range(10, 13))
        patches, complete = cut(reader, range(11, 13), S2_60M)
    assert not complete.any()
    padded = np.pad(pixels[1:-1, 1:-1], 1)
    np.testing.assert_array_equal(patches[0, 10, 0], padded[:20, :20])
    np.testing.assert_array_equal(patches[1, 12, 0], padded[20:, 40:])


def test_covered_is_what_all_bands_share(small: SmallScene, scene: OpticalScene, tmp_path: Path) -> None:
    write_raster(tmp_path / "B11.tif", small.bands["B11"][60:, :60], place(20, 10, 12))
    write_raster(tmp_path / "B12.tif", small.bands["B12"][60:, 60:], place(20, 11, 12))
    part = with_band(scene, "B11", tmp_path / "B11.tif")
    with OpticalReader(part, GRID) as reader:
        assert reader.covered == (range(12, 13), range(10, 11))
    with OpticalReader(with_band(part, "B12", tmp_path / "B12.tif"), GRID) as reader:
        rows, columns = reader.covered
        assert (len(rows), len(columns)) == (1, 0)
        _, complete = cut(reader, range(12, 13), S2_20M)
        assert not complete.any()


def test_a_file_that_is_larger_than_the_tile(small: SmallScene, scene: OpticalScene, tmp_path: Path) -> None:
    """A mosaic that begins two patches north-west of the tile: the part inside it is read."""
    pixels = np.random.default_rng(1).integers(1, 5000, (5 * 20, 14 * 20)).astype(np.uint16)
    write_raster(tmp_path / "B09.tif", pixels, place(60, -2, 9))
    with OpticalReader(with_band(scene, "B09", tmp_path / "B09.tif"), GRID) as reader:
        assert reader.covered == (range(11, 13), range(10, 12))
        patches, _ = cut(reader, range(11, 13), S2_60M)
    np.testing.assert_array_equal(patches[0, 0, 1], pixels[40:60, 40:60])
    np.testing.assert_array_equal(patches[1, 11, 1], pixels[60:80, 260:280])
    assert not patches[:, 12:, 1].any()


def test_a_whole_tile_of_10980_pixels_holds_91_patches(scene: OpticalScene, tmp_path: Path) -> None:
    path = tmp_path / "B01.tif"
    pixels = np.ones((1830, 1830), np.uint16)
    pixels[1800:], pixels[1820:], pixels[:, 1820:] = 2, 3, 4
    write_raster(path, pixels, place(60, 0, 0))
    with OpticalReader(with_band(scene, "B01", path), GRID) as reader:
        patches, complete = cut(reader, range(89, 91), S2_60M)
    assert not complete.any()  # B09 is not there
    assert (patches[0, :, 0] == 1).all()
    assert (patches[1, :, 0] == 2).all()


@pytest.mark.parametrize(("dtype", "low"), [("uint8", 1), ("int16", -5), ("uint32", 1), ("int32", -70000)])
def test_other_integers_are_clamped_never_wrapped(
    scene: OpticalScene, small: SmallScene, tmp_path: Path, dtype: str, low: int
) -> None:
    pixels = np.full((40, 60), 9, dtype)
    pixels[0, :2] = low, np.iinfo(dtype).max
    write_raster(tmp_path / "B01.tif", pixels, place(60))
    with OpticalReader(with_band(scene, "B01", tmp_path / "B01.tif"), GRID) as reader:
        patches, complete = cut(reader, range(11, 13), S2_60M)
    # A negative reflectance was seen: it is the darkest value, not nodata.
    assert patches[0, 10, 0, 0, :3].tolist() == [1, min(np.iinfo(dtype).max, 65535), 9]
    assert complete[0, 10]


@settings(max_examples=15)
@given(st.integers(0, 90), st.integers(0, 90), st.integers(1, 13), st.data())
def test_any_crop_any_strip(scene: OpticalScene, x: int, y: int, count: int, data: st.DataObject) -> None:
    """One 60 m band anywhere on the tile, read in any strip, against an array of the whole tile."""
    tile = np.zeros((1830, 1830), np.uint16)
    top, left = data.draw(st.integers(-30, 1819)), data.draw(st.integers(-30, 1819))
    height, width = data.draw(st.integers(40, 120)), data.draw(st.integers(40, 120))
    pixels = np.random.default_rng(x * 91 + y).integers(1, 9000, (height, width)).astype(np.uint16)
    rows = range(y, min(y + count, 91))
    tile[max(top, 0) : top + height, max(left, 0) : left + width] = pixels[max(-top, 0) :, max(-left, 0) :][
        : max(1830 - max(top, 0), 0), : max(1830 - max(left, 0), 0)
    ]
    with rasterio.MemoryFile() as memory:
        options = {"width": width, "height": height, "count": 1, "dtype": "uint16", "crs": "EPSG:32633"}
        with memory.open(driver="GTiff", transform=place(60, left / 20, top / 20), **options) as file:
            file.write(pixels, 1)
        with pytest.MonkeyPatch.context() as patch, memory.open() as opened:
            patch.setattr(optical, "open_raster", lambda href: opened if href == "memory" else OPEN(href))
            with OpticalReader(with_band(scene, "B01", Path("memory")), GRID) as reader:
                patches, _ = cut(reader, rows, S2_60M)
    expected = tile[rows.start * 20 : rows.stop * 20, : 91 * 20].reshape(len(rows), 20, 91, 20).swapaxes(1, 2)
    np.testing.assert_array_equal(patches[:, :, 0], expected)


OPEN = optical.open_raster


# --- the scene classification ------------------------------------------------------------------------------------


def test_the_scene_classification(tmp_path: Path) -> None:
    small = SmallScene()
    small.scl = np.random.default_rng(2).integers(0, 12, small.shape(20)).astype(np.uint8)
    scene = load(small.write(tmp_path))
    with OpticalReader(scene, GRID) as reader:
        strip = reader.scene_classification(range(10, 13))
    assert strip is not None
    expected = np.zeros((180, 91 * 60), np.uint8)
    expected[60:180, 600:780] = small.scl
    np.testing.assert_array_equal(strip, expected)
    with OpticalReader(replace(scene, scl=None), GRID) as reader:
        assert reader.scene_classification(range(10, 13)) is None


# --- scenes that do not fit the grid -----------------------------------------------------------------------------

UINT16 = np.ones((240, 360), np.uint16)


def write_other(path: Path, **changes: Any) -> None:
    """A B02 as it should be, but for ``changes`` of rasterio's profile."""
    profile = {"driver": "GTiff", "width": 360, "height": 240, "count": 1, "dtype": "uint16", "crs": "EPSG:32633"}
    profile |= {"transform": place(10), **changes}
    with rasterio.open(path, "w", **profile) as file:
        file.write(np.ones((profile["count"], 240, 360), profile["dtype"]))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"crs": "EPSG:32632"}, r"its CRS is EPSG:32632, tile 33UUP has EPSG:32633"),
        ({"crs": None}, r"its CRS is None, tile 33UUP has EPSG:32633"),
        ({"crs": "EPSG:4326", "transform": Affine(1e-4, 0, 12, 0, -1e-4, 48)}, "its CRS is EPSG:4326"),
        ({"transform": place(20)}, r"its pixels are 20 x 20 m, B02 must have 10 m, north up"),
        ({"transform": Affine(10, 0, ULX, 0, -20, ULY)}, "its pixels are 10 x 20 m"),
        ({"transform": Affine(10, 0, ULX, 0, 10, ULY - 9000)}, "north up"),
        ({"transform": place(10) @ Affine.rotation(30)}, "north up"),
        ({"transform": Affine(10, 0, ULX + 5, 0, -10, ULY)}, r"its corner \(300005, 5.4e\+06\) is not on the 10 m"),
        ({"transform": Affine(10, 0, ULX, 0, -10, ULY - 3.5)}, "is not on the 10 m grid of tile 33UUP"),
        ({"count": 2}, r"it has 2 band\(s\) of uint16, expected one band of integers"),
        ({"dtype": "float32"}, r"it has 1 band\(s\) of float32, expected one band of integers"),
        ({"dtype": "complex64"}, "expected one band of integers"),
        ({"transform": place(10, 91.5, 11)}, "it lies outside tile 33UUP"),
        ({"transform": place(10, 10, 91.5)}, "it lies outside tile 33UUP"),
        ({"transform": place(10, -3, 11)}, "it lies outside tile 33UUP"),
        ({"transform": place(10, 10, -2)}, "it lies outside tile 33UUP"),
    ],
)
def test_a_band_that_does_not_fit_is_named(
    scene: OpticalScene, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    path = tmp_path / "B02.tif"
    write_other(path, **changes)
    with pytest.raises(InvalidScene, match=rf"^item {scene.item_id}, asset blue \({path}\): .*{says}"):
        OpticalReader(with_band(scene, "B02", path), GRID)


def test_the_same_for_the_scene_classification(scene: OpticalScene, tmp_path: Path) -> None:
    write_raster(tmp_path / "SCL.tif", UINT16.astype(np.uint8), place(60))
    with pytest.raises(InvalidScene, match=r"asset scl \(.*SCL must have 20 m"):
        OpticalReader(replace(scene, scl=BandAsset("scl", str(tmp_path / "SCL.tif"))), GRID)


def test_another_tile_of_the_same_zone(scene: OpticalScene) -> None:
    with pytest.raises(InvalidScene, match="it lies outside tile 33UWP"):
        OpticalReader(scene, TileGrid.from_tile("33UWP"))


def test_the_same_crs_in_other_words(scene: OpticalScene, tmp_path: Path) -> None:
    """Some writers store a projection's parameters without its EPSG code; it is the same grid."""
    from rasterio.crs import CRS

    wkt = CRS.from_epsg(32633).to_wkt().replace(',AUTHORITY["EPSG","32633"]', "")
    assert CRS.from_wkt(wkt) == CRS.from_epsg(32633)
    write_other(tmp_path / "B02.tif", crs=wkt)
    OpticalReader(with_band(scene, "B02", tmp_path / "B02.tif"), GRID).close()


# --- files that cannot be read -----------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.4, 0.7, 0.99])
@pytest.mark.parametrize("driver", ["GTiff", "JP2OpenJPEG", "JP2OpenJPEG in tiles"])
def test_a_truncated_file_is_named(
    small: SmallScene, scene: OpticalScene, tmp_path: Path, driver: str, share: float
) -> None:
    """GIVEN a file cut off behind its header, so that it opens, THEN reading it fails and says which it is."""
    path = tmp_path / ("B02.tif" if driver == "GTiff" else "B02.jp2")
    if driver.endswith("tiles"):  # as ESA's: the file may end between two code blocks
        profile = {"driver": "JP2OpenJPEG", "width": 360, "height": 240, "count": 1, "dtype": "uint16"}
        profile |= {"crs": "EPSG:32633", "transform": place(10), "BLOCKXSIZE": 128, "BLOCKYSIZE": 128}
        with rasterio.open(path, "w", QUALITY="100", REVERSIBLE="YES", **profile) as file:
            file.write(small.bands["B02"], 1)
    else:
        write_raster(path, small.bands["B02"], place(10), driver=driver)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with rasterio.open(path) as file:
        assert (file.width, file.height) == (360, 240)
    broken = with_band(scene, "B02", path)
    with OpticalReader(broken, GRID) as reader:  # the header is whole
        with pytest.raises(UnreadableAsset, match=rf"asset blue \({path}\) cannot be decoded: .*truncated"):
            cut(reader, range(11, 13), S2_10M)
        cut(reader, range(11, 13), S2_20M)  # others are unharmed
    with OpticalReader(broken, GRID) as reader, pytest.raises(UnreadableAsset, match=r"asset blue \("):
        reader.verify_offset()


def test_corrupt_pixels_are_named(small: SmallScene, scene: OpticalScene, tmp_path: Path) -> None:
    path = tmp_path / "B05.tif"
    write_raster(path, small.bands["B05"], place(20))
    with rasterio.open(path) as file:
        place_in_file = int(file.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1))
    data = bytearray(path.read_bytes())
    data[place_in_file : place_in_file + 64] = bytes(64)
    path.write_bytes(data)
    with (
        OpticalReader(with_band(scene, "B05", path), GRID) as reader,
        pytest.raises(UnreadableAsset, match=rf"asset rededge1 \({path}\) cannot be decoded"),
    ):
        cut(reader, range(11, 13), S2_20M)


def test_a_missing_file_is_named_and_all_others_are_closed(
    scene: OpticalScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def watched(href: str) -> rasterio.DatasetReader:
        opened.append(OPEN(href))
        return opened[-1]

    monkeypatch.setattr(optical, "open_raster", watched)
    with pytest.raises(UnreadableAsset, match=f"{tmp_path}/none.tif cannot be opened"):
        OpticalReader(with_band(scene, "B12", tmp_path / "none.tif"), GRID)
    assert len(opened) == 11
    assert all(dataset.closed for dataset in opened)
    opened.clear()
    with OpticalReader(scene, GRID) as reader:
        reader.cut(range(1), S2_60M, np.empty((1, 91, 2, 20, 20), np.uint16))
        assert not any(dataset.closed for dataset in opened)
    assert len(opened) == 13
    assert all(dataset.closed for dataset in opened)


# --- how much is decoded -----------------------------------------------------------------------------------------


class Counting:
    """An open dataset that notes which pixels were read."""

    def __init__(self, dataset: rasterio.DatasetReader, pixels: list[int]) -> None:
        self._dataset, self._pixels = dataset, pixels

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    def __enter__(self) -> "Counting":
        return self

    def __exit__(self, *_: object) -> None:
        self._dataset.close()

    def read(self, band: int, window: Window, **options: Any) -> Any:
        self._pixels.append(int(window.width * window.height))
        return self._dataset.read(band, window=window, **options)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[int]]]:
    found: dict[str, list[int]] = {}
    monkeypatch.setattr(
        optical, "open_raster", lambda href: Counting(OPEN(href), found.setdefault(Path(href).stem, []))
    )
    return found


def test_a_jpeg_2000_band_is_decoded_once(tmp_path: Path, reads: dict[str, list[int]]) -> None:
    small = SmallScene()
    with OpticalReader(load(small.write(tmp_path, "JP2OpenJPEG")), GRID) as reader:
        assert reads == {name: [] for name in (*RESOLUTIONS, "SCL")}  # opening reads no pixel
        reader.verify_offset()
        for row in range(10, 14):
            for asset in OPTICAL_ASSETS:
                cut(reader, range(row, row + 1), asset)
        reader.scene_classification(range(10, 12))
        reader.scene_classification(range(12, 14))
    assert small.scl is not None
    for name, pixels in {**small.bands, "SCL": small.scl}.items():
        assert sum(reads[name]) == pixels.size


@pytest.mark.parametrize("compress", ["deflate", "zstd"])
def test_a_cog_is_read_strip_by_strip(
    compress: str, tmp_path: Path, reads: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By blocks, without GDAL, where it is deflated as usual."""
    small = SmallScene()
    scene = load(small.write(tmp_path))
    for name in S2_10M.planes:
        path = tmp_path / f"{name}-{compress}.tif"
        write_raster(path, small.bands[name], small.transform(10), nodata=0, compress=compress)
        scene = with_band(scene, name, path)
    blocks: list[int] = []
    parts = BlockReader.parts

    def counted(reader: BlockReader, top: int, left: int, height: int, width: int) -> Iterator[Part]:
        blocks.append(height * width)
        return parts(reader, top, left, height, width)

    monkeypatch.setattr(BlockReader, "parts", counted)
    with OpticalReader(scene, GRID) as reader:
        for row in range(9, 15):
            cut(reader, range(row, row + 1), S2_10M)
    by_gdal = [size for sizes in reads.values() for size in sizes]
    strips = [120 * 360] * 2 * len(S2_10M.planes)
    assert (blocks, by_gdal) == ((strips, []) if compress == "deflate" else ([], strips))


# --- the offset, checked on the pixels ---------------------------------------------------------------------------


def flat(tmp_path: Path, values: dict[str, int], scl: int | None = 4, **shape: int) -> OpticalScene:
    """Bands of 3000 everywhere, but ``values`` in one percent of some bands."""
    small = SmallScene(**shape)
    random = np.random.default_rng(4)
    for name, pixels in small.bands.items():
        pixels[...] = 3000
        if name in values:
            pixels[random.random(pixels.shape) < 0.01] = values[name]
    small.scl = None if scl is None else np.full(small.shape(20), scl, np.uint8)
    return load(small.write(tmp_path))


def verify(scene: OpticalScene, present: bool) -> str:
    with OpticalReader(replace(scene, offset=BoaOffset(present, "the baseline adds 1000")), GRID) as reader:
        return reader.verify_offset()


@pytest.mark.parametrize("name", ["B02", "B03", "B04", "B11", "B12"])
@pytest.mark.parametrize("scl", [4, None])
def test_dark_pixels_contradict_an_offset(tmp_path: Path, name: str, scl: int | None) -> None:
    scene = flat(tmp_path, {name: 690}, scl)
    assert verify(scene, present=False) == "0.1 percentile of clear pixels 690"
    with pytest.raises(InvalidScene) as caught:
        verify(scene, present=True)
    text = str(caught.value)
    assert text.startswith(f"item {scene.item_id}: its metadata says that the offset of 1000 is present")
    assert "the baseline adds 1000" in text
    assert "0.1 percentile of clear pixels 690" in text
    assert "--offset absent" in text


def test_no_dark_pixels_contradict_its_absence(tmp_path: Path) -> None:
    scene = flat(tmp_path, {"B02": 950})
    assert verify(scene, present=True) == "0.1 percentile of clear pixels 950"
    with pytest.raises(InvalidScene, match=rf"item {scene.item_id}: .* is absent .*--offset present"):
        verify(scene, present=False)


@pytest.mark.parametrize("value", [700, 949])
def test_between_the_limits_nothing_is_contradicted(tmp_path: Path, value: int) -> None:
    scene = flat(tmp_path, {"B12": value})
    assert verify(scene, present=True) == verify(scene, present=False)


def test_bands_that_are_never_dark_are_no_witnesses(tmp_path: Path) -> None:
    scene = flat(tmp_path, dict.fromkeys(("B01", "B05", "B06", "B07", "B08", "B8A", "B09"), 100))
    assert verify(scene, present=True) == "0.1 percentile of clear pixels 3000"


@pytest.mark.parametrize("scl", [0, 3, 8, 9, 10, 11])
def test_cloud_shadow_and_snow_are_no_witnesses(tmp_path: Path, scl: int) -> None:
    """Bright cloud is bright without an offset too: a scene under cloud must not be refused."""
    scene = flat(tmp_path, {"B02": 100}, scl)
    for present in (True, False):
        assert verify(scene, present) == "too few clear pixels to check the offset"


def test_a_clear_corner_of_a_cloudy_scene_is_found(tmp_path: Path) -> None:
    small = SmallScene(x0=0, y0=0, nx=30, ny=30)
    for pixels in small.bands.values():
        pixels[...] = 4000
    assert small.scl is not None
    small.scl[...] = 9
    small.scl[1320:1380, 1320:1380] = 4  # one patch, where no sample is taken: samples start every 6 patches
    small.bands["B02"][2640:2760, 2640:2760] = 300
    scene = load(small.write(tmp_path))
    assert verify(scene, present=False) == "0.1 percentile of clear pixels 300"
    with pytest.raises(InvalidScene, match="--offset absent"):
        verify(scene, present=True)


def test_too_few_pixels_decide_nothing(tmp_path: Path) -> None:
    small = SmallScene(nx=1, ny=1)
    for name, pixels in small.bands.items():
        pixels[800 // RESOLUTIONS[name] :] = 0  # 40 x 40 pixels of 20 m are left
        pixels[:, 800 // RESOLUTIONS[name] :] = 0
    scene = load(small.write(tmp_path))
    for present in (True, False):
        assert verify(scene, present) == "too few clear pixels to check the offset"


# --- real pixels -------------------------------------------------------------------------------------------------


def test_a_real_crop_in_jpeg_2000(shared_data: Path) -> None:
    """Brandenburg, L1C: 72 patches, x 25..36 and y 65..70, equal to windows that rasterio reads.

    A winter scene of 2017: B12 is down to 32 in forest shadow, so there is no offset.
    """
    name = "S2A_MSIL1C_20170216T102101_N0204_R065_T33UUU"
    folder = shared_data / "brandenburg-l1c/IMG_DATA"
    scene = optical_scene(
        {
            "id": name,
            "properties": {"datetime": "2017-02-16T10:21:01Z"},
            "assets": {
                band: {"href": str(folder / f"T33UUU_20170216T102101_{band}.jp2"), "bands": [{"name": band}]}
                for band in (*RESOLUTIONS, "B10")
            },
        }
    )
    assert scene.scene.level == "MSIL1C"
    grid = TileGrid.from_tile("33UUU")
    assert (grid.ulx, grid.uly) == (300000, 5900040)
    with OpticalReader(scene, grid) as reader:
        rows, columns = reader.covered
        assert set(range(65, 71)) <= set(rows)
        assert set(range(25, 37)) <= set(columns)
        assert reader.verify_offset() == "0.1 percentile of clear pixels 32"
        everywhere = np.ones((len(rows), 91), bool)
        for asset in OPTICAL_ASSETS:
            patches, complete = cut(reader, rows, asset)
            everywhere &= complete
            px = asset.pixels
            for plane, band in enumerate(asset.planes):
                with rasterio.open(scene.bands[band].href) as file:
                    for y in range(65, 71):
                        for x in range(25, 37):
                            left, top = 300000 + 1200 * x, 5900040 - 1200 * y
                            row, column = file.index(left + 1, top - 1)
                            expected = file.read(1, window=Window(column, row, px, px))
                            np.testing.assert_array_equal(patches[y - rows.start, x, plane], expected)
    found = [(int(x), int(y) + rows.start) for y, x in np.argwhere(everywhere)]
    holed = (32, 67)  # one pixel of its B8A is 0, which means nodata
    assert sorted([*found, holed]) == [(x, y) for x in range(25, 37) for y in range(65, 71)]


def test_a_real_tile_at_100_m_is_refused(shared_data: Path) -> None:
    path = next((shared_data / "s2-29rkh-fulltile").rglob("S2A_29RKH_20200219_0_L2A.json"))
    item = read_scene(str(path))
    for key, name in {key: name for name, key in KEYS.items()}.items():
        item["assets"][key]["href"] = str(path.parent / f"{name}.tif")
    with pytest.raises(InvalidScene, match=r"asset coastal .*its pixels are .* m, B01 must have 60 m"):
        OpticalReader(optical_scene(item), TileGrid.from_tile("29RKH"))
