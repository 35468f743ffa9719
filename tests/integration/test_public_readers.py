"""What others wrote to read BigEarthNet v2.0 reads what landpatch exports.

ConfigILM's LMDB reader runs as published, in a process of its own, with the py-lmdb that it asks for; its heavy
imports (torch, transformers) are empty modules, because its reader touches neither. TorchGeo cannot be imported
without torch: its dataset's rules are written out here, from its source.
"""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pandas as pd
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.windows import Window

from landpatch.catalog.bands import OPTICAL_ASSETS, PATCH_ASSETS
from landpatch.catalog.exports.folders import export_folders
from landpatch.catalog.exports.lmdb import export_lmdb
from small_dataset import RADAR, SCENE, Patch, write_dataset

CHECKOUT = Path(__file__).resolve().parents[2]
# As it was before the tests were cut off from the network: this one installation may go out.
ENVIRONMENT = dict(os.environ)
CONFIGILM = "0.7.1"
PACKAGES = (f"configilm=={CONFIGILM}", "lmdb>=1.4,<2")  # the range that this ConfigILM declares

TABLES = ("metadata.parquet", "metadata_for_patches_with_snow_cloud_or_shadow.parquet")
PATCHES = [
    Patch(2, 9),
    Patch(30, 31),
    Patch(20, 20),
    Patch(40, 41, flags=(True, False)),
    Patch(41, 40, flags=(False, True)),
]
PLANES = {asset.key: asset.planes for asset in PATCH_ASSETS}


def bands_of(patch: Patch) -> dict[str, NDArray[Any]]:
    pixels = patch.pixels()
    return {name: plane for key in pixels for name, plane in zip(PLANES[key], pixels[key], strict=True)}


# --- ConfigILM ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def configilm(component: Callable[[str, object], None]) -> Path:
    """A folder with ConfigILM and its py-lmdb, kept under .cache for the next run."""
    folder = CHECKOUT / ".cache" / f"configilm-{CONFIGILM}-{sys.version_info.major}.{sys.version_info.minor}"
    if not (folder / "complete").exists():
        # Without dependencies, and on any Python: the wheel says < 3.12, its reader runs on newer ones too.
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-requires-python"]
        done = subprocess.run(
            [*command, "--upgrade", "--target", str(folder), *PACKAGES],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            print(done.stderr)
        component(f"ConfigILM {CONFIGILM} from PyPI", done.returncode == 0)
        (folder / "complete").touch()
    return folder


READER = """
    import json, sys, types

    class Absent(types.ModuleType):
        # Annotations name torch.Tensor; anything else that is asked of it is an error.
        Tensor = BertTokenizer = object

    for name in ("torch", "torch.nn", "torch.nn.functional", "transformers"):
        sys.modules[name] = Absent(name)

    import lmdb
    import numpy as np
    from configilm.extra.BENv2_utils import BENv2LDMBReader

    folder, clean, flagged, bands, out = sys.argv[1:]
    reader = BENv2LDMBReader(folder, clean, flagged, bands=bands)
    labels, pixels = {}, {}
    for patch in reader.lbls:
        planes, labels[patch] = reader[patch]
        labels[patch] = list(labels[patch])
        pixels |= {f"{patch}/{band}": plane for band, plane in planes.items()}
    np.savez(out, **pixels)
    keys = [sorted(reader.S1_keys()), sorted(reader.S2_keys())]
    print(json.dumps({"lmdb": lmdb.__version__, "labels": labels, "keys": keys}))
"""


@pytest.mark.parametrize(
    ("bands", "expected"),
    [
        ("S1", ["VV", "VH"]),
        ("S2", ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]),
        ("S1_10m_20m", ["VV", "VH", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"]),
    ],
)
def test_configilm_reads_every_patch(configilm: Path, tmp_path: Path, bands: str, expected: list[str]) -> None:
    export_lmdb(write_dataset(str(tmp_path / "dataset"), PATCHES), tmp_path / "out.lmdb")
    tables = [str(tmp_path / "out.lmdb" / name) for name in TABLES]
    out = tmp_path / "pixels.npz"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(READER), str(tmp_path / "out.lmdb"), *tables, bands, str(out)],
        env={**os.environ, "PYTHONPATH": str(configilm)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["lmdb"].startswith("1.")
    assert found["labels"] == {patch.id: ["Arable land", "Pastures"] for patch in PATCHES}
    maps = {f"{patch.id}_reference_map" for patch in PATCHES}
    assert found["keys"] == [
        sorted(patch.s1_name for patch in PATCHES),
        sorted({patch.id for patch in PATCHES} | maps),
    ]
    with np.load(out) as pixels:
        assert set(pixels.files) == {f"{patch.id}/{band}" for patch in PATCHES for band in expected}
        for patch in PATCHES:
            for band, plane in bands_of(patch).items():
                if band in expected:
                    read = pixels[f"{patch.id}/{band}"]
                    assert read.dtype == plane.dtype
                    np.testing.assert_array_equal(read, plane)


class PublishedPatch(Patch):
    """One of the published patches in the shared scene, as it lies there."""

    folder: Path

    def pixels(self) -> dict[str, NDArray[Any]]:
        planes: dict[str, NDArray[Any]] = {}
        for asset in OPTICAL_ASSETS:
            planes[asset.key] = np.stack([self._window(f"{SCENE}/{band}", asset.pixels) for band in asset.planes])
        planes["S1"] = np.stack([self._window(f"{RADAR}/{band}", 120) for band in ("vv", "vh")])
        return planes

    def _window(self, name: str, size: int) -> NDArray[Any]:
        with rasterio.open(self.folder / f"{name}.tif") as source:
            window: NDArray[Any] = source.read(1, window=Window(self.x * size, self.y * size, size, size))
            return window


def test_values_are_those_of_the_authors_own_lmdb(
    configilm: Path, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ConfigILM ships a piece of the published LMDB, with all patches of the shared scene in it."""
    monkeypatch.setattr(PublishedPatch, "folder", shared_data / "scene-33uup", raising=False)
    names = json.loads((shared_data / "scene-33uup" / "patches.json").read_text())[SCENE]
    patches = [PublishedPatch(*map(int, name.split("_")[-2:]), labelled=False) for name in names]
    export_lmdb(write_dataset(str(tmp_path / "dataset"), patches), tmp_path / "out.lmdb")

    published = configilm / "configilm" / "extra" / "mock_data" / "BENv2" / "BigEarthNet-V2-LMDB"
    with (
        lmdb.open(str(published), readonly=True, lock=False) as theirs,
        lmdb.open(str(tmp_path / "out.lmdb"), readonly=True, lock=False) as ours,
        theirs.begin() as expected,
        ours.begin() as found,
    ):
        values = list(found.cursor())
        assert len(values) == 2 * 14
        for key, value in values:
            assert value == expected.get(key), key


# --- TorchGeo -------------------------------------------------------------------------------------------------------

# torchgeo 0.8.1, datasets/bigearthnet.py, class BigEarthNetV2.
TORCHGEO_PLACES = ("BigEarthNet-S1", "BigEarthNet-S2", "Reference_Maps", "metadata.parquet")
TORCHGEO_SPLITS = {"train": "train", "val": "validation", "test": "test"}


def torchgeo_paths(root: Path, row: Any, sensor: str) -> list[Path]:
    """``_load_image``: every TIFF of the patch's folder, in the order of ``sort_sentinel2_bands``."""
    patch = row["s1_name" if sensor == "s1" else "patch_id"]
    scene = "_".join(patch.split("_")[: -3 if sensor == "s1" else -2])
    folder = root / ("BigEarthNet-S1" if sensor == "s1" else "BigEarthNet-S2") / scene / patch
    return sorted(folder.glob("*.tif"), key=lambda path: path.stem.split("_")[-1].replace("B8A", "B08A"))


def test_torchgeo_finds_its_tree(tmp_path: Path) -> None:
    export_folders(write_dataset(str(tmp_path / "dataset"), PATCHES), tmp_path / "tree")
    root = tmp_path / "tree"
    assert all((root / name).exists() for name in TORCHGEO_PLACES)  # _verify: nothing to download
    metadata = pd.read_parquet(root / "metadata.parquet")
    assert sorted(metadata["split"]) == sorted(TORCHGEO_SPLITS.values())  # a patch of each here
    known = {patch.id: patch for patch in PATCHES}
    for _, row in metadata.iterrows():
        bands = bands_of(known[row["patch_id"]])
        for sensor, order in (
            ("s1", ["VH", "VV"]),
            ("s2", ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]),
        ):
            paths = torchgeo_paths(root, row, sensor)
            assert [path.stem.split("_")[-1] for path in paths] == order
            for path, band in zip(paths, order, strict=True):
                with rasterio.open(path) as source:
                    image = source.read(
                        indexes=1, out_shape=(120, 120), out_dtype="int32", resampling=Resampling.bilinear
                    )
                if bands[band].shape == (120, 120):  # the others are resampled; decibels become integers there
                    assert np.abs(image - bands[band]).max() <= (0 if sensor == "s2" else 0.5)
        scene = "_".join(row["patch_id"].split("_")[:-2])
        name = row["patch_id"]
        with rasterio.open(root / "Reference_Maps" / scene / name / f"{name}_reference_map.tif") as source:
            np.testing.assert_array_equal(source.read(out_dtype="int32")[0], bands["Data"])
        assert list(row["labels"]) == ["Arable land", "Pastures"]
