"""SAFE folders, built after ESA's product specification, as items and as scenes that are read."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from rasterio import warp

from landpatch.catalog.errors import InvalidItem
from landpatch.catalog.safe import is_safe, safe_item
from landpatch.catalog.scenes import optical_scene, scene_id, sensing_time
from landpatch.catalog.schemas import validate_item
from landpatch.functions.sources import read_scene
from small_safe import PASSED, Safe, read_patches
from small_scenes import RESOLUTIONS, ULX, ULY, SmallScene


@pytest.mark.parametrize(
    ("safe", "added"),
    [
        (Safe(), 1000),
        (Safe(baseline="02.14", offsets=None), 0),
        (Safe("1C", "05.11"), 1000),
        (Safe("1C", "02.05", offsets=None), 0),
        # sen2cor run by hand: no baseline, so its own metadata alone say whether 1000 was added.
        (Safe(baseline="99.99"), 1000),
        (Safe(baseline="99.99", offsets=None), 0),
    ],
    ids=["L2A-0511", "L2A-0214", "L1C-0511", "L1C-0205", "by-hand-0400", "by-hand-0205"],
)
def test_a_product_is_read_with_its_own_offset(tmp_path: Path, safe: Safe, added: int) -> None:
    small = SmallScene(nx=2, ny=1)
    wanted = {name: pixels.copy() for name, pixels in small.bands.items()}
    for pixels in small.bands.values():
        pixels += added
    root = safe.write(tmp_path, small)
    item = read_scene(str(root))
    scene = optical_scene(item)
    assert scene.offset.present is (added > 0)
    assert str(scene.scene) == safe.uri[:-21]
    assert scene.scene.level == f"MSIL{safe.level}"
    assert (scene.scl is None) is (safe.level == "1C")
    found = read_patches(root, small)
    assert sorted(found) == sorted(RESOLUTIONS)
    for name, planes in found.items():
        px = planes.shape[-1]
        whole = planes[0].transpose(1, 0, 2).reshape(px, small.nx * px)
        np.testing.assert_array_equal(whole, wanted[name])


def test_geotiffs_in_place_of_jpeg_2000(tmp_path: Path) -> None:
    small = SmallScene(nx=1, ny=1)
    root = Safe(baseline="02.14", offsets=None).write(tmp_path, small, driver="GTiff")
    np.testing.assert_array_equal(read_patches(root, small)["B11"][0, 0], small.bands["B11"])


def test_the_item(tmp_path: Path) -> None:
    root = Safe().write(tmp_path)
    item = safe_item(root)
    validate_item(item)
    assert json.loads(json.dumps(item)) == item
    assert item["id"] == root.name.removesuffix(".SAFE")
    assert str(scene_id(item)) == root.name[:44]
    assert sensing_time(item).isoformat() == "2017-06-13T10:13:22.456000+00:00"
    assert item["properties"]["platform"] == "sentinel-2a"
    granule = next((root / "GRANULE").iterdir())
    for name, resolution in {**RESOLUTIONS, "SCL": 20}.items():
        expected = granule / f"IMG_DATA/R{resolution}m/T33UUP_20170613T101031_{name}_{resolution}m.jp2"
        assert Path(item["assets"].pop(name)["href"]) == expected
    assert item["assets"] == {}  # no true colour, no AOT, no coarser copies
    # The tile is 109.8 km wide; its corner is known from the published grid. Degrees by GDAL, not by pyproj.
    left, right, bottom, top = ULX, ULX + 109_800, ULY - 109_800, ULY
    corners = warp.transform("EPSG:32633", "EPSG:4326", [left, right, right, left], [bottom, bottom, top, top])
    ring = np.array(item["geometry"]["coordinates"][0])
    np.testing.assert_allclose(ring[:-1], np.transpose(corners), rtol=0, atol=1e-9)
    np.testing.assert_array_equal(item["bbox"], [*ring.min(axis=0), *ring.max(axis=0)])
    assert (ring[0] == ring[-1]).all()
    x, y = ring[:-1].T
    assert (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() > 0  # counter-clockwise, as GeoJSON wants


def test_hrefs_are_absolute_whatever_the_folder_was_called_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Safe().write(tmp_path)
    monkeypatch.chdir(tmp_path)
    expected = safe_item(root)
    assert safe_item(Path(root.name)) == expected
    assert read_scene(root.name) == expected
    assert read_scene(f"file://{root}") == expected


def test_a_renamed_folder_goes_by_the_name_in_its_metadata(tmp_path: Path) -> None:
    root = Safe().write(tmp_path)
    moved = root.rename(tmp_path / "my scene")
    item = safe_item(moved)
    assert item["id"] == root.name.removesuffix(".SAFE")
    assert str(tmp_path / "my scene") in item["assets"]["B02"]["href"]


def test_products_of_2017_call_their_name_product_uri_2a(tmp_path: Path) -> None:
    root = Safe(baseline="02.05", offsets=None, uri_element="PRODUCT_URI_2A").write(tmp_path)
    assert safe_item(root)["id"] == root.name.removesuffix(".SAFE")


def test_without_a_name_in_its_metadata_the_folder_s_counts(tmp_path: Path) -> None:
    root = Safe(uri_element="OTHER").write(tmp_path)
    assert safe_item(root)["id"] == root.name.removesuffix(".SAFE")


def test_a_name_that_is_no_product_s(tmp_path: Path) -> None:
    root = Safe(product="S2A_OPER_PRD_MSIL1C_PDMC_20160101T000000_R022.SAFE").write(tmp_path)
    with pytest.raises(InvalidItem, match=r"MTD_MSIL2A.xml: its product name cannot be used: 'S2A_OPER_PRD"):
        safe_item(root)


@pytest.mark.parametrize("flags", [False, True], ids=["quality_check", "flag-elements"])
@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({}, ()),
        ({"GEOMETRIC_QUALITY": "FAILED"}, ("geometric",)),
        ({"SENSOR_QUALITY": "failed", "RADIOMETRIC_QUALITY": "FAILED"}, ("radiometric", "sensor")),
        ({"GENERAL_QUALITY": " FAILED "}, ("general",)),
        ({"FORMAT_CORRECTNESS": "FAILED"}, ()),  # of the files, not of the pixels; BigEarthNet does not ask for it
    ],
)
def test_quality_inspections(tmp_path: Path, flags: bool, change: dict[str, str], failed: tuple[str, ...]) -> None:
    root = Safe(quality={**PASSED, **change}, flags=flags).write(tmp_path)
    assert optical_scene(safe_item(root)).failed_quality == failed


def test_an_inspection_that_failed_in_the_granule_has_failed(tmp_path: Path) -> None:
    root = Safe().write(tmp_path)
    granule = next(root.glob("GRANULE/*/MTD_TL.xml"))
    check = '<quality_check checkType="GENERAL_QUALITY">FAILED</quality_check></n1:General_Info>'
    granule.write_text(granule.read_text().replace("</n1:General_Info>", check))
    assert optical_scene(safe_item(root)).failed_quality == ("general",)
    product = root / "MTD_MSIL2A.xml"
    product.write_text(product.read_text().replace('"GENERAL_QUALITY">PASSED', '"GENERAL_QUALITY">FAILED'))
    granule.write_text(granule.read_text().replace("FAILED", "PASSED"))
    assert optical_scene(safe_item(root)).failed_quality == ("general",)


def test_no_inspections_are_no_failure(tmp_path: Path) -> None:
    assert optical_scene(safe_item(Safe(quality={}).write(tmp_path))).failed_quality == ()


@pytest.mark.parametrize(
    ("offsets", "says"),
    [
        ({0: "-1000", 1: "0"}, r"bands have different offsets \(\[-1000\.0, 0\.0\]\)"),
        ({0: "-500"}, "an offset of -500"),
        ({0: "none"}, "one of its offsets is no number"),
        ({0: ""}, "one of its offsets is no number"),
    ],
)
def test_offsets_that_cannot_be_used(tmp_path: Path, offsets: dict[int, str], says: str) -> None:
    root = Safe(offsets=offsets).write(tmp_path)
    with pytest.raises(InvalidItem, match=f"{root}/MTD_MSIL2A.xml: {says}"):
        safe_item(root)


@pytest.mark.parametrize("which", ["MTD_MSIL2A.xml", "GRANULE/*/MTD_TL.xml"])
@pytest.mark.parametrize("content", [b"", b"<a><b></a>", b"\xff\xfe\x00", b"<n1:a/>"])
def test_broken_xml(tmp_path: Path, which: str, content: bytes) -> None:
    root = Safe().write(tmp_path)
    file = next(root.glob(which))
    file.write_bytes(content)
    with pytest.raises(InvalidItem, match=f"{file} cannot be read as XML") as caught:
        safe_item(root)
    assert isinstance(caught.value.__cause__, ElementTree.ParseError)


def test_an_entity_bomb_is_refused(tmp_path: Path) -> None:
    root = Safe().write(tmp_path)
    entities = '<!ENTITY e0 "boom">' + "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 20}">' for n in range(8))
    (root / "MTD_MSIL2A.xml").write_text(f'<?xml version="1.0"?><!DOCTYPE a [{entities}]><a>&e8;</a>')
    with pytest.raises(InvalidItem, match="cannot be read as XML"):
        safe_item(root)


@pytest.mark.parametrize("granules", [0, 2])
def test_not_one_granule(tmp_path: Path, granules: int) -> None:
    root = Safe().write(tmp_path)
    granule = next((root / "GRANULE").iterdir())
    if granules:
        second = granule.with_name("L2A_T33UVP_A010315_20170613T101322")
        second.mkdir()
        (second / "MTD_TL.xml").write_text(Safe().granule_xml())
    else:
        (granule / "MTD_TL.xml").unlink()
    with pytest.raises(InvalidItem, match=rf"{root}: {granules} granules \(GRANULE/\*/MTD_TL.xml\)"):
        safe_item(root)


def test_a_missing_band_is_named(tmp_path: Path) -> None:
    root = Safe().write(tmp_path)
    next(root.glob("GRANULE/*/IMG_DATA/R20m/*_B8A_20m.jp2")).unlink()
    with pytest.raises(InvalidItem, match=rf"item {root.name[:-5]}: .* band\(s\) B8A$"):
        optical_scene(safe_item(root))


def test_what_is_a_safe_folder(tmp_path: Path) -> None:
    assert not is_safe(tmp_path)
    assert is_safe(Safe("1C").write(tmp_path))
    assert is_safe(Safe("2A").write(tmp_path))
    (tmp_path / "MTD_MSIL1C.xml").write_text("<a/>")
    assert not is_safe(tmp_path / "MTD_MSIL1C.xml")
    empty = tmp_path / "empty.SAFE"
    empty.mkdir()
    with pytest.raises(InvalidItem, match=f"{empty}: no MTD_MSIL2A.xml or MTD_MSIL1C.xml"):
        safe_item(empty)


def test_real_granule_metadata(tmp_path: Path, shared_data: Path) -> None:
    """GIVEN a real MTD_TL.xml of baseline 05.10, WHEN it stands in a product, THEN its sensing time is read."""
    real = shared_data / "stac-items/earth-search-v1/S2A_12RWT_20240106_0_L2A/granule_metadata.xml"
    product = "S2A_MSIL2A_20240106T180721_N0510_R041_T12RWT_20240106T205550.SAFE"
    root = Safe(baseline="05.10", product=product).write(tmp_path)
    next(root.glob("GRANULE/*/MTD_TL.xml")).write_bytes(real.read_bytes())
    item = safe_item(root)
    assert item["properties"]["datetime"] == "2024-01-06T18:06:01.022523Z"
    assert optical_scene(item).failed_quality == ()
