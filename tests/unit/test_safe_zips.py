"""SAFE products in the zips that they were downloaded as: read in place, and refused where hostile."""

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from landpatch.catalog.errors import InvalidItem, LandpatchError, UnreadableAsset
from landpatch.catalog.safe import is_safe, safe_item, split_zip_href
from landpatch.catalog.scenes import optical_scene
from landpatch.functions.optical import OpticalReader
from landpatch.functions.raster import gdal_path, open_raster
from landpatch.functions.sources import read_scene
from small_safe import Safe, read_patches
from small_scenes import SmallScene


def packed(root: Path, target: Path, method: int = zipfile.ZIP_DEFLATED, top: str | None = None) -> Path:
    """The product ``root`` as a zip, in the folder ``top`` (by default its own name)."""
    with zipfile.ZipFile(target, "w", method) as archive:
        for path in sorted(root.rglob("*")):
            archive.write(path, Path(root.name if top is None else top) / path.relative_to(root))
    return target


def add(archive: Path, name: str, content: bytes = b"x", **fields: int) -> None:
    """Add a member under a name that zipfile itself would make harmless."""
    with zipfile.ZipFile(archive, "a") as opened:
        member = zipfile.ZipInfo("x" * len(name))
        opened.writestr(member, content)
    data = archive.read_bytes().replace(b"x" * len(name), name.encode())
    archive.write_bytes(data)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
@pytest.mark.parametrize("driver", ["JP2OpenJPEG", "GTiff"])
def test_patches_of_a_zip_are_those_of_its_folder(tmp_path: Path, method: int, driver: str) -> None:
    small = SmallScene(nx=2, ny=1)
    safe = Safe(baseline="02.14", offsets=None)
    root = safe.write(tmp_path, small, driver=driver)
    archive = packed(root, tmp_path / f"{root.name}.zip", method)
    before = archive.read_bytes(), sorted(tmp_path.iterdir())
    unpacked, zipped = read_patches(root, small), read_patches(archive, small)
    assert sorted(unpacked) == sorted(zipped)
    for name, planes in unpacked.items():
        np.testing.assert_array_equal(zipped[name], planes)
    assert (archive.read_bytes(), sorted(tmp_path.iterdir())) == before  # nothing was unpacked


@pytest.mark.parametrize("level", ["1C", "2A"])
@pytest.mark.parametrize("top", [None, "", "renamed"], ids=["as-downloaded", "bare", "renamed"])
def test_the_item_differs_in_nothing_but_hrefs(tmp_path: Path, level: str, top: str | None) -> None:
    root = Safe(level).write(tmp_path)
    archive = packed(root, tmp_path / "download.zip", top=top)
    folder, zipped = safe_item(root), read_scene(str(archive))
    assert is_safe(archive)
    inside = f"{root.name if top is None else top}/".lstrip("/")
    for name, asset in folder["assets"].items():
        relative = Path(asset["href"]).relative_to(root)
        assert split_zip_href(zipped["assets"][name].pop("href")) == (archive, f"{inside}{relative}")
        asset.pop("href")
    assert zipped == folder


def test_names_that_an_href_must_quote(tmp_path: Path) -> None:
    small = SmallScene(nx=1, ny=1)
    folder = tmp_path / "100% #1?!" / "déjà vu"
    folder.mkdir(parents=True)
    root = Safe(baseline="02.14", offsets=None).write(tmp_path, small)
    archive = packed(root, folder / "a b.zip", top="été & #2.SAFE")
    np.testing.assert_array_equal(read_patches(archive, small)["B02"][0, 0], small.bands["B02"])


def test_one_that_is_missing(tmp_path: Path) -> None:
    for name in ("no.zip", "no.SAFE.ZIP"):
        with pytest.raises(UnreadableAsset, match=f"{tmp_path}/{name} cannot be read as a zip"):
            read_scene(str(tmp_path / name))
    with pytest.raises(InvalidItem, match="download the zip first"):
        read_scene("https://127.0.0.1:9/S2A.SAFE.zip")


def test_a_truncated_zip(tmp_path: Path) -> None:
    archive = packed(Safe().write(tmp_path), tmp_path / "a.zip")
    archive.write_bytes(archive.read_bytes()[:-500])
    assert not is_safe(archive)
    with pytest.raises(UnreadableAsset, match=f"{archive} cannot be read as a zip .*fetch the product again"):
        safe_item(archive)


def test_damage_within_a_member(tmp_path: Path) -> None:
    root = Safe(baseline="02.14", offsets=None).write(tmp_path, small := SmallScene(nx=1, ny=1))
    for pattern, kind in (("MTD_MSIL2A.xml", InvalidItem), ("_B02_10m.jp2", UnreadableAsset)):
        archive = packed(root, tmp_path / "a.zip")
        with zipfile.ZipFile(archive) as opened:
            member = next(entry for entry in opened.infolist() if entry.filename.endswith(pattern))
        data = bytearray(archive.read_bytes())
        middle = member.header_offset + 60 + len(member.filename) + member.compress_size // 2
        data[middle : middle + 40] = bytes(40)
        archive.write_bytes(data)
        with pytest.raises(kind, match=pattern):
            read_patches(archive, small)


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd.jp2",
        "/etc/passwd.jp2",
        "S2/./B02.jp2",
        "S2//B02.jp2",
        "..\\B02.jp2",
        "C:/B02.jp2",
        "a{b}.jp2",
    ],
)
def test_members_that_lead_out_of_the_product(tmp_path: Path, name: str) -> None:
    archive = packed(Safe().write(tmp_path), tmp_path / "a.zip")
    add(archive, name)
    with pytest.raises(InvalidItem, match=f"{archive}: member .* does not lie inside the product"):
        safe_item(archive)


def test_a_member_that_is_there_twice(tmp_path: Path) -> None:
    root = Safe().write(tmp_path)
    archive = packed(root, tmp_path / "a.zip")
    add(archive, f"{root.name}/MTD_MSIL2A.xml", b"<a/>")
    with pytest.raises(InvalidItem, match=r"MTD_MSIL2A\.xml' is there twice"):
        safe_item(archive)


def test_bombs(tmp_path: Path) -> None:
    root = Safe().write(tmp_path)
    metadata = root / "MTD_MSIL2A.xml"
    metadata.write_text(metadata.read_text() + " " * 2**27)
    archive = packed(root, tmp_path / "a.zip")
    assert archive.stat().st_size < 2**20
    with pytest.raises(InvalidItem, match=r"MTD_MSIL2A.xml would unpack to 134,21\d,\d{3} bytes"):
        safe_item(archive)
    # A member that claims a size which no band has: in the central directory, which is what readers believe.
    archive = packed(Safe("1C").write(tmp_path), tmp_path / "b.zip")
    data = bytearray(archive.read_bytes())
    entry = data.rindex(b"_B02.jp2")
    entry = data.rindex(b"PK\1\2", 0, entry)
    data[entry + 24 : entry + 28] = struct.pack("<I", 3 * 2**30)
    archive.write_bytes(data)
    with pytest.raises(InvalidItem, match=r"_B02.jp2' would unpack to 3,221,225,472 bytes"):
        safe_item(archive)


def test_an_encrypted_zip(tmp_path: Path) -> None:
    archive = packed(Safe().write(tmp_path), tmp_path / "a.zip")
    data = bytearray(archive.read_bytes())
    entry = data.rindex(b"PK\1\2")
    data[entry + 8] |= 1
    archive.write_bytes(data)
    with pytest.raises(InvalidItem, match="is encrypted"):
        safe_item(archive)


def test_a_method_that_gdal_does_not_know(tmp_path: Path) -> None:
    archive = packed(Safe().write(tmp_path), tmp_path / "a.zip", zipfile.ZIP_LZMA)
    with pytest.raises(InvalidItem, match="is packed by method 14; unpack it"):
        safe_item(archive)


def test_not_one_product(tmp_path: Path) -> None:
    first = Safe().write(tmp_path)
    archive = packed(first, tmp_path / "a.zip")
    second = Safe(baseline="05.10").write(tmp_path)
    with zipfile.ZipFile(archive, "a") as opened:
        opened.write(second / "MTD_MSIL2A.xml", f"{second.name}/MTD_MSIL2A.xml")
    with pytest.raises(InvalidItem, match=f"{archive}: 2 products in it"):
        safe_item(archive)
    outer = tmp_path / "outer.zip"
    with zipfile.ZipFile(outer, "w") as opened:
        opened.write(archive, "inner.SAFE.zip")
    with pytest.raises(InvalidItem, match=r"0 products in it .*another zip, inner.SAFE.zip: unpack that first"):
        safe_item(outer)


def test_several_granules_in_a_zip(tmp_path: Path) -> None:
    root = Safe().write(tmp_path)
    granule = next((root / "GRANULE").iterdir()).with_name("L2A_T33UVP_A010315_20170613T101322")
    granule.mkdir()
    (granule / "MTD_TL.xml").write_text(Safe().granule_xml())
    with pytest.raises(InvalidItem, match=r"a.zip: 2 granules \(GRANULE/\*/MTD_TL.xml\)"):
        safe_item(packed(root, tmp_path / "a.zip"))


def test_hrefs_that_name_no_member(tmp_path: Path) -> None:
    """GIVEN hrefs from a catalogue, WHEN they try more than a member of a local zip, THEN GDAL never sees them."""
    archive = packed(Safe().write(tmp_path), tmp_path / "a.zip")
    for href in (
        f"zip://{archive}",
        f"zip://{archive}!/",
        f"zip://{archive}!/../a.jp2",
        f"zip://{archive}!/%2e%2e/a.jp2",
        f"zip://{archive}!//etc/a.jp2",
        f"zip://{archive}!/a%7D/b.jp2",
        f"zip://{archive}!/a%00.jp2",
        f"zip://{archive}!/a.jp2?x",
        f"zip://host{archive}!/a.jp2",
        f"zip://{tmp_path}/missing.zip!/a.jp2",
        f"zip://{tmp_path}!/a.jp2",
        "zip:a.zip!/a.jp2",
        "zip:///vsicurl/http%3A//127.0.0.1%3A9/a.zip!/a.jp2",
        "zip:///vsizip/a.zip!/a.jp2",
    ):
        with pytest.raises(InvalidItem, match="href"):
            gdal_path(href)
    assert gdal_path(f"zip://{archive}!/a%20b.jp2") == f"/vsizip/{{{archive}}}/a b.jp2"
    with pytest.raises(UnreadableAsset, match=r"missing\.jp2"):
        open_raster(f"zip://{archive}!/missing.jp2")


def test_a_zip_replaced_by_another_file(tmp_path: Path) -> None:
    small = SmallScene(nx=1, ny=1)
    root = Safe(baseline="02.14", offsets=None).write(tmp_path, small)
    archive = packed(root, tmp_path / "a.zip")
    scene = optical_scene(safe_item(archive))
    archive.write_bytes(b"no longer a zip")
    with pytest.raises(LandpatchError, match=r"a\.zip"):
        OpticalReader(scene, None)  # type: ignore[arg-type]
