"""Patch files: what every TIFF reader finds in them, and what landpatch's own reader does with any bytes."""

import logging
import re
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import tifffile
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_array_equal
from rasterio.io import MemoryFile
from rio_cogeo.cogeo import cog_validate

from landpatch.catalog.bands import OPTICAL_ASSETS, PATCH_ASSETS, REFERENCE_MAP, S1, S2_10M, S2_60M, PatchAsset
from landpatch.catalog.cogs import CogEncoder, read_planes
from landpatch.catalog.errors import InvalidParameter, UnreadableAsset

KINDS = [*product(PATCH_ASSETS, ("deflate", "zstd"))]
KIND_IDS = [f"{asset.key}-{compression}" for asset, compression in KINDS]
CORNER = (399_960, 5_320_800)
HEADER = 1000  # bytes: more than any header has


def same_bits(found, expected):
    """Equal in every bit: NaNs with their payloads, and the two zeros."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    word = f"u{expected.dtype.itemsize}"
    assert_array_equal(np.ascontiguousarray(found).view(word), np.ascontiguousarray(expected).view(word))


def noisy_planes(asset, seed=0):
    """Planes that look like a sensor's: smooth, with noise in their last digits."""
    random = np.random.default_rng(seed)
    row, column = np.mgrid[: asset.pixels, : asset.pixels] / asset.pixels
    planes = []
    for _ in asset.planes:
        surface = np.sin(9 * random.random() * row + 5) + np.cos(7 * random.random() * column)
        planes.append(surface + 0.05 * random.standard_normal(surface.shape))
    scale, offset = (3, -12) if asset.dtype == "float32" else (700, 1800)
    return (np.stack(planes) * scale + offset).astype(asset.dtype)


def placed(asset, corner):
    """Pixel to metres, north up, from the upper-left corner."""
    return Affine(asset.resolution, 0, corner[0], 0, -asset.resolution, corner[1])


def as_gdal_writes_it(planes, asset, epsg, corner, compression):
    """The same planes through rasterio's own writer."""
    profile = {
        "driver": "GTiff",
        "dtype": asset.dtype,
        "count": len(asset.planes),
        "height": asset.pixels,
        "width": asset.pixels,
        "crs": f"EPSG:{epsg}",
        "transform": placed(asset, corner),
        "nodata": asset.nodata,
        "compress": compression,
        "predictor": 3 if asset.dtype == "float32" else 2,
        "interleave": "band",
        "blockysize": asset.pixels,
    }
    with MemoryFile() as memory:
        with memory.open(**profile) as dataset:
            dataset.write(planes)
            dataset.descriptions = asset.planes
        return bytes(memory.getbuffer())


@st.composite
def assets(draw):
    """The five kinds of file, and kinds that nobody uses, down to a single pixel a plane."""
    if draw(st.booleans()):
        return draw(st.sampled_from(PATCH_ASSETS))
    count = draw(st.integers(1, 8))
    names = draw(st.lists(st.text("ABCab019_ <&>\"'é", min_size=1, max_size=9), min_size=count, max_size=count))
    return PatchAsset(
        "other",
        "_other",
        tuple(name.strip() or "-" for name in names),
        draw(st.sampled_from(["uint16", "float32"])),
        draw(st.sampled_from([10, 20, 60, 48, 80, 240, 400, 1200])),
        draw(st.sampled_from([None, 0, 7, 65535])),
    )


@st.composite
def patches(draw):
    """An asset and planes for it: chosen values that repeat (extremes, NaN, infinities), or noise in every bit."""
    asset = draw(assets())
    shape = (len(asset.planes), asset.pixels, asset.pixels)
    dtype = np.dtype(asset.dtype)
    if draw(st.booleans()):
        values = draw(hnp.arrays(dtype, st.integers(1, 40), elements=hnp.from_dtype(dtype)))
        planes = np.resize(values, shape)
    else:
        random = np.random.default_rng(draw(st.integers(0, 2**32)))
        planes = np.frombuffer(random.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)
    return asset, planes


zones = st.builds(lambda hemisphere, zone: hemisphere + zone, st.sampled_from([32600, 32700]), st.integers(1, 60))
# Corners of Sentinel-2 patches: multiples of 60 m east and north.
corners = st.tuples(st.integers(0, 18_000).map(lambda n: n * 60), st.integers(0, 166_000).map(lambda n: n * 60))
compressions = st.sampled_from(["deflate", "zstd"])


class TestWhatReadersFind:
    @given(patches(), zones, corners, compressions)
    @settings(max_examples=60)
    def test_gdal_reads_what_its_own_writer_would_have_stored(self, patch, epsg, corner, compression):
        asset, planes = patch
        ours = CogEncoder(asset, epsg, compression).encode(planes, *corner)
        theirs = as_gdal_writes_it(planes, asset, epsg, corner, compression)
        with MemoryFile(ours) as memory, memory.open() as found:
            with MemoryFile(theirs) as other, other.open() as expected:
                assert found.profile == expected.profile
                assert found.descriptions == expected.descriptions == asset.planes
                assert found.nodatavals == expected.nodatavals
                assert found.colorinterp == expected.colorinterp
                assert found.mask_flag_enums == expected.mask_flag_enums
                assert found.tags() == expected.tags()
                assert found.tags(ns="IMAGE_STRUCTURE") == {
                    **expected.tags(ns="IMAGE_STRUCTURE"),
                    "LAYOUT": "COG",
                }
                assert found.crs.to_wkt() == expected.crs.to_wkt()
                assert found.crs.to_epsg() == epsg
                same_bits(found.read(), expected.read())
            same_bits(found.read(), planes)
            assert found.transform == placed(asset, corner)

    @given(patches(), zones, corners, compressions)
    @settings(max_examples=60)
    def test_tifffile_reads_what_gdal_would_have_stored(self, patch, epsg, corner, compression):
        asset, planes = patch
        ours = CogEncoder(asset, epsg, compression).encode(planes, *corner)
        theirs = as_gdal_writes_it(planes, asset, epsg, corner, compression)
        with tifffile.TiffFile(BytesIO(ours)) as found, tifffile.TiffFile(BytesIO(theirs)) as expected:
            assert len(found.pages) == 1
            page, reference = found.pages[0], expected.pages[0]
            same_bits(page.asarray().reshape(planes.shape), planes)
            assert page.geotiff_tags == reference.geotiff_tags
            assert page.geotiff_tags["ProjectedCSTypeGeoKey"] == epsg
            assert page.nodata == reference.nodata
            assert page.axes == reference.axes
            assert found.gdal_metadata == expected.gdal_metadata
            assert found.gdal_structural_metadata == {
                "LAYOUT": "IFDS_BEFORE_DATA",
                "INTERLEAVE": "BAND",
                "BLOCK_ORDER": "ROW_MAJOR",
                "BLOCK_LEADER": "SIZE_AS_UINT4",
                "BLOCK_TRAILER": "LAST_4_BYTES_REPEATED",
                "KNOWN_INCOMPATIBLE_EDITION": "NO",
            }
            # The order and type of what both write; only tables that lie elsewhere differ.
            elsewhere = {"StripOffsets", "StripByteCounts", "GeoAsciiParamsTag"}
            assert [tag.name for tag in page.tags] == [tag.name for tag in reference.tags]
            for tag in page.tags:
                if tag.name not in elsewhere:
                    assert (tag.name, tag.value) == (tag.name, reference.tags[tag.name].value)

    @pytest.mark.parametrize(("asset", "compression"), KINDS, ids=KIND_IDS)
    @pytest.mark.parametrize("epsg", [32601, 32760])
    def test_every_kind_is_a_valid_cog(self, asset, compression, epsg, tmp_path, caplog):
        path = tmp_path / "patch.tif"
        path.write_bytes(CogEncoder(asset, epsg, compression).encode(noisy_planes(asset), *CORNER))
        valid, errors, warnings = cog_validate(path, strict=True, quiet=True)
        assert (valid, errors, warnings) == (True, [], [])
        with rasterio.open(path) as dataset:
            dataset.read()
        # GDAL's warnings come as log records.
        assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []

    @pytest.mark.parametrize(("asset", "compression"), KINDS, ids=KIND_IDS)
    def test_the_file_is_laid_out_as_its_ghost_area_says(self, asset, compression):
        # The rules of GDAL's validate_cloud_optimized_geotiff.py, which wheels do not ship; no byte is left over.
        planes = noisy_planes(asset)
        data = CogEncoder(asset, 32633, compression).encode(planes, *CORNER)
        ghost = re.match(rb"GDAL_STRUCTURAL_METADATA_SIZE=(\d{6}) bytes\n", data[8:])
        end = 8 + ghost.end() + int(ghost[1])
        assert data[:end].endswith(b"\nKNOWN_INCOMPATIBLE_EDITION=NO\n ")
        with tifffile.TiffFile(BytesIO(data)) as tiff:
            page = tiff.pages[0]
            assert page.offset == end + end % 2
            header_ends = max(tag.valueoffset + tag.valuebytecount for tag in page.tags)
            spans = [*zip(page.dataoffsets, page.databytecounts, strict=True)]
        at = header_ends + header_ends % 2
        assert len(spans) == len(asset.planes)
        for offset, count in spans:
            assert offset == at + 4
            assert data[at:offset] == count.to_bytes(4, "little")
            assert data[offset + count : offset + count + 4] == data[offset + count - 4 : offset + count]
            if compression == "deflate":
                assert len(zlib.decompress(data[offset : offset + count])) == planes[0].nbytes
            at = offset + count + 4
        assert at == len(data)

    @pytest.mark.parametrize(("asset", "compression"), KINDS, ids=KIND_IDS)
    def test_files_of_smooth_planes_are_smaller_than_their_pixels(self, asset, compression):
        planes = noisy_planes(asset)
        data = CogEncoder(asset, 32633, compression).encode(planes, *CORNER)
        assert len(data) < 0.95 * planes.nbytes + HEADER


class TestEncoder:
    @given(patches(), zones, corners, compressions)
    def test_planes_come_back(self, patch, epsg, corner, compression):
        asset, planes = patch
        before = planes.tobytes()
        found = read_planes(CogEncoder(asset, epsg, compression).encode(planes, *corner), asset)
        same_bits(found, planes)
        assert found.flags.c_contiguous
        assert found.flags.writeable
        assert planes.tobytes() == before

    @given(patches(), compressions)
    def test_a_view_of_a_larger_array_gives_the_same_bytes(self, patch, compression):
        asset, planes = patch
        encoder = CogEncoder(asset, 32721, compression)
        count, size = len(asset.planes), asset.pixels
        strip = np.ones((count, size + 3, 3 * size), asset.dtype)
        view = strip[:, 2 : size + 2, size : 2 * size]
        view[:] = planes
        cubes = np.ascontiguousarray(np.moveaxis(planes, 0, -1))
        expected = encoder.encode(planes, *CORNER)
        assert encoder.encode(view, *CORNER) == expected
        assert encoder.encode(np.moveaxis(cubes, -1, 0), *CORNER) == expected

    @pytest.mark.parametrize(("asset", "compression"), KINDS, ids=KIND_IDS)
    def test_threads_may_share_an_encoder(self, asset, compression):
        inputs = [noisy_planes(asset, seed) for seed in range(24)]
        expected = [
            CogEncoder(asset, 32633, compression).encode(planes, 60 * at, 1200 * at)
            for at, planes in enumerate(inputs)
        ]
        assert len(set(expected)) == len(inputs)
        shared = CogEncoder(asset, 32633, compression)
        with ThreadPoolExecutor(8) as pool:
            for _ in range(3):
                corners = [(60 * at, 1200 * at) for at in range(len(inputs))]
                found = [*pool.map(lambda planes, corner: shared.encode(planes, *corner), inputs, corners)]
                assert found == expected
            for planes, back in zip(inputs, pool.map(lambda data: read_planes(data, asset), expected), strict=True):
                same_bits(back, planes)

    @pytest.mark.parametrize(
        ("planes", "told"),
        [
            (np.zeros((2, 20, 21), np.uint16), "2 x 20 x 21 of uint16"),
            (np.zeros((3, 20, 20), np.uint16), "3 x 20 x 20 of uint16"),
            (np.zeros((20, 20), np.uint16), "20 x 20 of uint16"),
            (np.zeros((2, 20, 20), np.int16), "2 x 20 x 20 of int16"),
            (np.zeros((2, 20, 20), np.float32), "2 x 20 x 20 of float32"),
            (np.zeros((2, 20, 20), ">u2"), "2 x 20 x 20 of >u2"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_other_planes_are_refused(self, planes, told):
        message = f"S2_60m takes 2 x 20 x 20 of uint16, not {told}"
        with pytest.raises(InvalidParameter, match=re.escape(message)):
            CogEncoder(S2_60M, 32633).encode(planes, *CORNER)

    @pytest.mark.parametrize("epsg", [32600, 32661, 32700, 32761, 4326, 3035, 25833, 132633])
    def test_only_utm_zones_of_wgs_84(self, epsg):
        with pytest.raises(InvalidParameter, match=f"EPSG:{epsg} is no UTM zone"):
            CogEncoder(S2_60M, epsg)

    def test_unknown_compression_and_dtype_are_refused(self):
        with pytest.raises(InvalidParameter, match="'lzw' is unknown"):
            CogEncoder(S2_60M, 32633, "lzw")
        with pytest.raises(InvalidParameter, match="float64 planes"):
            CogEncoder(replace(S1, dtype="float64"), 32633)


class TestReadingOtherFiles:
    @given(patches(), compressions)
    @settings(max_examples=30)
    def test_a_tiff_that_gdal_wrote(self, patch, compression):
        asset, planes = patch
        same_bits(read_planes(as_gdal_writes_it(planes, asset, 32633, CORNER, compression), asset), planes)

    @pytest.mark.parametrize("asset", PATCH_ASSETS, ids=lambda asset: asset.key)
    def test_a_cog_that_gdal_wrote(self, asset):
        planes = noisy_planes(asset)
        with MemoryFile(as_gdal_writes_it(planes, asset, 32633, CORNER, "deflate")) as memory, MemoryFile() as copy:
            rasterio.shutil.copy(memory.name, copy.name, driver="COG", compress="deflate", predictor="yes")
            data = bytes(copy.getbuffer())
        assert data[8:].startswith(b"GDAL_STRUCTURAL_METADATA_SIZE=")
        assert_array_equal(read_planes(data, asset), planes)

    @pytest.mark.parametrize(
        "layout",
        [
            {"compression": None},
            {"compression": "lzw", "byteorder": ">"},
            {"compression": "zlib", "tile": (32, 32), "bigtiff": True},
            {"planarconfig": "contig"},
        ],
    )
    @pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
    def test_a_tiff_of_another_layout(self, layout):
        planes = noisy_planes(S2_10M)
        pixels = planes
        if layout.get("planarconfig") == "contig":
            pixels = np.moveaxis(planes, 0, -1)
        layout = {"planarconfig": "separate", **layout}
        bigtiff, byteorder = layout.pop("bigtiff", False), layout.pop("byteorder", "<")
        memory = BytesIO()
        with tifffile.TiffWriter(memory, bigtiff=bigtiff, byteorder=byteorder) as tiff:
            tiff.write(pixels, photometric="minisblack", **layout)
        assert_array_equal(read_planes(memory.getvalue(), S2_10M), planes)

    @pytest.mark.parametrize(
        "planes", [noisy_planes(S2_60M, 1), np.zeros((2, 20, 20), np.uint16)], ids=["noise", "0"]
    )
    def test_a_file_whose_pixels_gdal_replaced(self, planes, tmp_path):
        path = tmp_path / "patch.tif"
        path.write_bytes(CogEncoder(S2_60M, 32633).encode(noisy_planes(S2_60M), *CORNER))
        with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
            dataset.write(planes)
        assert_array_equal(read_planes(path.read_bytes(), S2_60M), planes)

    def test_a_file_whose_metadata_gdal_replaced(self, tmp_path):
        path = tmp_path / "patch.tif"
        planes = noisy_planes(S2_60M)
        path.write_bytes(CogEncoder(S2_60M, 32633).encode(planes, *CORNER))
        with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
            dataset.update_tags(remark="edited")
        assert b"KNOWN_INCOMPATIBLE_EDITION=YES\n" in path.read_bytes()  # GDAL found its ghost area and marked it
        assert_array_equal(read_planes(path.read_bytes(), S2_60M), planes)

    def test_another_shape_or_dtype_is_refused(self):
        planes = noisy_planes(S2_60M)
        foreign = as_gdal_writes_it(planes, S2_60M, 32633, CORNER, "deflate")
        with pytest.raises(
            UnreadableAsset, match="holds 2 x 20 x 20 of uint16 where S1 has 2 x 120 x 120 of float32"
        ):
            read_planes(foreign, S1)
        other = replace(S2_60M, dtype="float32")
        with pytest.raises(
            UnreadableAsset, match="holds 2 x 20 x 20 of uint16 where S2_60m has 2 x 20 x 20 of float"
        ):
            read_planes(foreign, other)

    @pytest.mark.parametrize(("asset", "other"), [(a, b) for a in PATCH_ASSETS for b in PATCH_ASSETS if a != b])
    def test_the_file_of_another_asset_is_refused(self, asset, other):
        data = CogEncoder(asset, 32633).encode(noisy_planes(asset), *CORNER)
        with pytest.raises(UnreadableAsset, match=f"file of another asset: .* for {other.key} "):
            read_planes(data, other)

    @pytest.mark.parametrize("data", [b"", b"II", b"not a picture", b"\x89PNG\r\n\x1a\n" + bytes(99)])
    def test_what_is_no_tiff_is_refused(self, data):
        with pytest.raises(UnreadableAsset, match="not a TIFF" if data else "empty"):
            read_planes(data, S2_60M)

    @pytest.mark.parametrize("data", [b"II*\0", b"II*\0\x08\0\0\0", b"MM\0*" + bytes(40), b"II+\0" + bytes(40)])
    def test_a_tiff_that_is_none_is_refused(self, data):
        with pytest.raises(UnreadableAsset, match="GDAL cannot read it as a TIFF"):
            read_planes(data, S2_60M)


SMALL = [
    (S2_60M, noisy_planes(S2_60M)),
    (replace(S1, resolution=60), noisy_planes(replace(S1, resolution=60))),
    (replace(REFERENCE_MAP, resolution=60), np.full((1, 20, 20), 312, np.uint16)),
]
small_files = st.builds(
    lambda kind, compression: (*kind, CogEncoder(kind[0], 32633, compression).encode(kind[1], *CORNER)),
    st.sampled_from(SMALL),
    compressions,
)


def read_or_refuse(data, asset, planes):
    """The planes themselves or UnreadableAsset: anything else is wrong."""
    try:
        found = read_planes(data, asset)
    except UnreadableAsset:
        return
    same_bits(found, planes)


# rasterio logs GDAL's messages as text, also where they quote damaged bytes, and warns of damaged georeferencing.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
class TestDamage:
    @pytest.mark.parametrize("compression", ["deflate", "zstd"])
    @pytest.mark.parametrize(("asset", "planes"), SMALL, ids=lambda value: getattr(value, "key", ""))
    def test_no_truncated_file_is_read(self, asset, planes, compression):
        data = CogEncoder(asset, 32633, compression).encode(planes, *CORNER)
        for length in range(len(data)):
            with pytest.raises(UnreadableAsset):
                read_planes(data[:length], asset)

    def test_a_truncated_file_says_where_it_ends(self):
        data = CogEncoder(S1, 32633).encode(noisy_planes(S1), *CORNER)
        cut, size = len(data) - 10, len(data)
        with pytest.raises(UnreadableAsset, match=f"truncated or .* plane VH .* end at byte {size} of {cut}"):
            read_planes(data[:cut], S1)
        with pytest.raises(UnreadableAsset, match=r"damaged: S1 plane VV .* of 20000"):
            read_planes(data[:20_000], S1)
        with pytest.raises(UnreadableAsset, match="truncated, damaged"):
            read_planes(data[:300], S1)

    def test_a_damaged_strip_is_named(self):
        data = bytearray(CogEncoder(S2_10M, 32633).encode(noisy_planes(S2_10M), *CORNER))
        with tifffile.TiffFile(BytesIO(bytes(data))) as tiff:
            third = tiff.pages[0].dataoffsets[2]
        data[third + 5000] ^= 0x10
        with pytest.raises(UnreadableAsset, match="damaged: S2_10m plane B04 does not decompress"):
            read_planes(bytes(data), S2_10M)

    def test_one_plane_is_never_read_in_anothers_place(self):
        # Streams of equal planes have equal lengths, so a wrong offset can point at a whole one.
        planes = np.stack([np.full((20, 20), value, np.uint16) for value in (3, 4)])
        data = bytearray(CogEncoder(S2_60M, 32633).encode(planes, *CORNER))
        with tifffile.TiffFile(BytesIO(bytes(data))) as tiff:
            page = tiff.pages[0]
            assert page.databytecounts[0] == page.databytecounts[1]
            offsets_at = page.tags["StripOffsets"].valueoffset
        data[offsets_at : offsets_at + 4] = data[offsets_at + 4 : offsets_at + 8]
        with pytest.raises(UnreadableAsset, match="planes of S2_60m overlap"):
            read_planes(bytes(data), S2_60M)

    @given(small_files, st.data())
    @settings(max_examples=400)
    def test_a_flipped_bit_is_noticed_or_harmless(self, kind, draw):
        asset, planes, data = kind
        header = 300  # most of what a bit can do is done in the header
        at = draw.draw(st.integers(0, header - 1) | st.integers(0, len(data) - 1))
        damaged = bytearray(data)
        damaged[at] ^= 1 << draw.draw(st.integers(0, 7))
        read_or_refuse(bytes(damaged), asset, planes)

    @given(small_files, st.data())
    @settings(max_examples=200)
    def test_garbage_inside_is_noticed_or_harmless(self, kind, draw):
        asset, planes, data = kind
        start = draw.draw(st.integers(110, len(data) - 1))
        garbage = draw.draw(st.binary(min_size=1, max_size=40))[: len(data) - start]
        read_or_refuse(data[:start] + garbage + data[start + len(garbage) :], asset, planes)

    @given(st.binary(max_size=400), st.booleans())
    def test_arbitrary_bytes_are_refused(self, junk, with_beginning):
        beginning = CogEncoder(S2_60M, 32633).encode(SMALL[0][1], *CORNER)[: 106 if with_beginning else 4]
        with pytest.raises(UnreadableAsset):
            read_planes(beginning + junk, S2_60M)

    @pytest.mark.parametrize("compression", ["deflate", "zstd"])
    def test_bytes_behind_the_last_strip_do_no_harm(self, compression):
        data = CogEncoder(S2_60M, 32633, compression).encode(SMALL[0][1], *CORNER)
        same_bits(read_planes(data + b"more", S2_60M), SMALL[0][1])


def published_bands(folder: Path, names):
    """One published band file a name, stacked, with the place that they share."""
    bands, places = [], set()
    for name in names:
        (path,) = folder.glob(f"*/*_{name}.tif*")
        with rasterio.open(path) as dataset:
            bands.append(dataset.read(1))
            places.add((dataset.crs.to_epsg(), dataset.transform))
    ((epsg, transform),) = places
    return np.stack(bands), epsg, transform


class TestPublishedPatches:
    @pytest.mark.parametrize("compression", ["deflate", "zstd"])
    @pytest.mark.parametrize("asset", [*OPTICAL_ASSETS, S1], ids=lambda asset: asset.key)
    def test_pixels_and_place_survive(self, shared_data, asset, compression):
        folder = shared_data / "bigearthnet-v2" / "patches" / ("S1" if asset is S1 else "S2")
        planes, epsg, transform = published_bands(folder, asset.planes)
        assert planes.shape == (len(asset.planes), asset.pixels, asset.pixels)
        data = CogEncoder(asset, epsg, compression).encode(planes, transform.c, transform.f)
        same_bits(read_planes(data, asset), planes)
        assert len(data) < 0.9 * planes.nbytes + HEADER
        with MemoryFile(data) as memory, memory.open() as dataset:
            assert (dataset.crs.to_epsg(), dataset.transform) == (epsg, transform)
            same_bits(dataset.read(), planes)

    @pytest.mark.parametrize("asset", [*OPTICAL_ASSETS, S1], ids=lambda asset: asset.key)
    def test_their_own_files_are_read_one_band_at_a_time(self, shared_data, asset):
        folder = shared_data / "bigearthnet-v2" / "patches" / ("S1" if asset is S1 else "S2")
        planes, _, _ = published_bands(folder, asset.planes)
        for name, plane in zip(asset.planes, planes, strict=True):
            (path,) = folder.glob(f"*/*_{name}.tif*")
            same_bits(read_planes(path.read_bytes(), replace(asset, planes=(name,))), plane[None])
