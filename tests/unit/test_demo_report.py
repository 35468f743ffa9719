"""The page about a dataset: it says what the dataset holds, shows its pixels, and needs nothing but itself."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from landpatch.catalog.errors import LandpatchError, StorageError
from landpatch.catalog.nomenclature import clc2018
from landpatch.catalog.store import Dataset, Storage
from landpatch.functions.building import ScenePair, build
from landpatch.functions.demo.pictures import calmed, mosaic, shrunk, true_colour
from landpatch.functions.demo.report import write_report
from landpatch.functions.jobs import Parameters
from landpatch.functions.sources import read_scene
from small_dataset import Patch, write_dataset
from small_scenes import SmallScene

# x <= 12 or y <= 12: train; 13..22: validation; 23..68: test (BigEarthNet v2.0).
PATCHES = [
    *(Patch(x, 40) for x in range(11, 13)),
    *(Patch(x, 40, flags=(False, x == 15)) for x in range(13, 16)),
    *(Patch(x, 41, radar=None) for x in range(23, 27)),
]
VOID = {"meta", "img", "br", "hr", "link", "input"}
# HTML lets these end without being closed.
OPTIONAL = {"li", "p", "dt", "dd", "tr", "td", "th", "thead", "tbody", "tfoot"}


class Page(HTMLParser):
    """What a browser would find: elements with their attributes, the text, and whether tags are balanced."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text("utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID and tag not in OPTIONAL:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in OPTIONAL:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def images(self, start: str) -> list[NDArray[np.uint8]]:
        """The pictures whose alternative text begins so, decoded."""
        found = []
        for tag, attributes in self.elements:
            if tag == "img" and (attributes["alt"] or "").startswith(start):
                data = (attributes["src"] or "").removeprefix("data:image/png;base64,")
                found.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(data, validate=True))).convert("RGB")))
        return found


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(str(tmp_path_factory.mktemp("dataset")), PATCHES)


@pytest.fixture(scope="module")
def page(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Page:
    path = tmp_path_factory.mktemp("page") / "deep" / "index.html"
    assert write_report(dataset, path, title="<Fields & forests>", pictures=4) == path
    return Page(path)


def test_the_page_loads_nothing_from_anywhere(page: Page) -> None:
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "data", "poster", "action"):
                assert value is not None
                assert value.startswith("data:image/png;base64,")
    style = page.source.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "://" not in page.source
    policy = next(a["content"] for t, a in page.elements if t == "meta" and a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_the_page_is_well_formed_and_text_is_escaped(page: Page) -> None:
    assert page.open == []
    assert "<Fields & forests>" in page.text
    assert "<Fields" not in page.source


def test_counts_are_those_of_the_dataset(page: Page) -> None:
    facts = dict(re.findall(r"<div><dt>([^<]*)</dt><dd>([^<]*)</dd>", page.source))
    assert facts["patches of 1200 m"] == "9"
    assert facts["patches with Sentinel-1"] == "5"
    assert facts["of 19 classes, 2.0 a patch"] == "2"
    rows = {
        re.sub("<[^>]*>", "", row.split("<td", 1)[0]): re.findall(r"<td class=n>([^<]*)", row)
        for row in re.findall(r"<tr><th scope=row>(.*?)(?=<tr>|</tbody>|</tfoot>)", page.source)
    }
    # In all, train, validation, test.
    assert rows["Arable land"] == rows["Pastures"] == rows["All patches"] == ["9", "2", "3", "4"]
    assert "Vineyards" not in page.text
    assert "Marine waters" in page.text.split("Not in this dataset:")[1]


def test_the_split_map_has_one_cell_a_position(page: Page) -> None:
    drawing = page.source.split('aria-label="Split of each patch">')[1].split("</svg>")[0]
    cells = {kind: path.count("M") for kind, path in re.findall(r'<path class="(\w+)" d="([^"]*)"', drawing)}
    # Columns 11 to 26 in rows 40 and 41, of which 9 are patches.
    assert cells == {"train": 2, "validation": 3, "test": 4, "hollow": 2 * 16 - 9}


def test_pictures_show_the_pixels_of_the_patches(dataset: Dataset, page: Page) -> None:
    shown = re.findall(r"<p class=ids>(\S+?)(?:<br>|</p>)", page.source)
    assert len(shown) == 4
    by_id = {patch.id: patch for patch in PATCHES}
    patches = [by_id[patch_id] for patch_id in shown]
    assert {patch.x <= 12 for patch in patches} == {True, False}, "more than one split is shown"
    colours = {code.code: code.colour for code in clc2018().codes}
    for patch, picture, true in zip(
        patches, page.images("Reference map of S2A"), page.images("True colour of S2A"), strict=True
    ):
        codes = patch.pixels()["reference_map"][0]
        for code in (211, 231):
            assert (picture[codes == code] == colours[code]).all()
        assert picture[codes == 999].std() == 0
        np.testing.assert_array_equal(true, true_colour(patch.pixels()["S2_10m"]))
    assert len(page.images("Sentinel-1 of S2A")) == sum(patch.radar is not None for patch in patches)


def test_a_patch_without_radar_and_labels_has_one_picture(tmp_path: Path) -> None:
    bare = write_dataset(str(tmp_path / "dataset"), [Patch(30, 40, radar=None, labelled=False)])
    page = Page(write_report(bare, tmp_path / "index.html"))
    assert (
        len(page.images("True colour of S2A")),
        len(page.images("Sentinel-1")),
        len(page.images("Reference")),
    ) == (
        1,
        0,
        0,
    )
    assert "Classes" not in page.text


def test_the_same_dataset_gives_the_same_page(dataset: Dataset, tmp_path: Path) -> None:
    one, two = (write_report(dataset, tmp_path / name) for name in ("one.html", "two.html"))
    assert one.read_bytes() == two.read_bytes()


def test_what_was_dropped_is_told_apart_from_what_lies_outside_the_scene(tmp_path: Path) -> None:
    scene = SmallScene(properties={"description": "A <small> scene."})
    scene.bands["B09"][3, 5] = 0  # the upper left patch
    pair = ScenePair(read_scene(str(scene.write(tmp_path / "scene"))))
    parameters = replace(Parameters(), require_s1=False)
    build([pair], tmp_path / "dataset", labels=None, parameters=parameters, workers=1)
    page = Page(write_report(Dataset.open(tmp_path / "dataset"), tmp_path / "index.html"))
    rows = re.findall(r"</i>(Kept|No data)<td class=n>([^<]*)<td class=n>([^<]*)<", page.source)
    assert rows == [("Kept", "5", "83 %"), ("No data", "1", "17 %")]
    assert "8\u202f275 positions" in page.text  # 91 x 91 - 3 x 2
    assert "A <small> scene." in page.text
    assert scene.scene in page.text


def test_a_dataset_without_a_patch_says_so(tmp_path: Path) -> None:
    scene = SmallScene(nx=1, ny=1)
    scene.bands["B02"][:] = 0
    pair = ScenePair(read_scene(str(scene.write(tmp_path / "scene"))))
    parameters = replace(Parameters(), require_s1=False)
    build([pair], tmp_path / "dataset", labels=None, parameters=parameters, workers=1)
    page = Page(write_report(Dataset.open(tmp_path / "dataset"), tmp_path / "index.html"))
    assert "No patch was kept" in page.text


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    dataset = write_dataset(str(tmp_path / "dataset"), PATCHES[:1])
    href = next(path for path in dataset.storage.list("patches") if path.endswith("_S2_10m.tif"))
    Storage.open(dataset.storage.url).put(href, b"II*\0 truncated")
    with pytest.raises(LandpatchError, match=re.escape(href)):
        write_report(dataset, tmp_path / "index.html")


def test_an_unwritable_page_is_a_storage_error(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be opened as storage"):
        write_report(dataset, tmp_path / "file" / "index.html")


def test_true_colour_rises_with_reflectance_and_keeps_grey_grey() -> None:
    planes = np.repeat(np.linspace(0, 10_000, 120, dtype=np.uint16)[None, None, :], 4, axis=0)
    picture = true_colour(planes).astype(int)
    assert picture[0, 0].tolist() == [0, 0, 0]
    assert picture[0, -1].tolist() == [255, 255, 255]
    assert (np.diff(picture[0, :, 1]) >= 0).all()
    assert (picture[..., 0] == picture[..., 2]).all()
    red = np.zeros((3, 1, 1), np.uint16)
    red[2] = 2000  # B04 is the third plane
    assert true_colour(red)[0, 0].argmax() == 0


def test_averaging_is_done_in_power() -> None:
    planes = np.full((2, 3, 3), -20.0, np.float32)
    planes[:, 1, 1] = 0.0
    # Eight pixels of 0.01 and one of 1.
    assert calmed(planes)[0, 1, 1] == pytest.approx(10 * np.log10(1.08 / 9), abs=1e-4)
    np.testing.assert_array_equal(shrunk(np.arange(16.0).reshape(1, 4, 4), 2)[0], [[2.5, 4.5], [10.5, 12.5]])


def test_a_mosaic_is_clear_where_there_is_no_patch() -> None:
    picture = np.full((2, 2, 3), 7, np.uint8)
    whole = mosaic({(5, 9): picture}, range(4, 6), range(9, 11), 2)
    assert whole.shape == (4, 4, 4)
    np.testing.assert_array_equal(whole[:2, 2:], np.concatenate([picture, np.full((2, 2, 1), 255)], axis=2))
    assert whole[..., 3].sum() == 4 * 255
