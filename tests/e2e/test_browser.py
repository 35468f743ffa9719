"""STAC Browser itself, as `landpatch serve` offers it, driven in Chromium as a person would.

Patches are of one colour each, so that what is on the screen can be told from its pixels.
"""

import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Locator, Page, Response, expect, sync_playwright

from landpatch.catalog.bands import REFERENCE_MAP, S2_10M
from landpatch.catalog.browser import cached_browser
from small_dataset import Patch, write_dataset

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SECONDS = 60_000  # a machine that is shared, and WebGL without a graphics card
REFLECTANCE = {"B02": 400, "B03": 1600, "B04": 800, "B08": 3000}
TRUE_COLOUR = (102, 204, 51)  # of 255, with 2000 as the brightest
PASTURES = (230, 230, 77)  # CORINE 231


@dataclass(frozen=True)
class PlainPatch(Patch):
    """Of one colour, and pastures everywhere."""

    def pixels(self) -> dict[str, NDArray[Any]]:
        planes = super().pixels()
        for index, name in enumerate(S2_10M.planes):
            planes[S2_10M.key][index] = REFLECTANCE[name]
        if self.labelled:
            planes[REFERENCE_MAP.key][:] = 231
        return planes


# Where train and validation meet; every third patch has no labels.
PATCHES = [PlainPatch(x, y, labelled=(x + y) % 3 != 0) for x in range(9, 15) for y in range(12, 15)]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The dataset, and its items' id, split and labels."""
    folder = tmp_path_factory.mktemp("dataset")
    dataset = write_dataset(str(folder), PATCHES)
    return folder, dataset.table(["id", "landpatch:split", "landpatch:labels"]).to_pylist()


@pytest.fixture(scope="module")
def address(rows: tuple[Path, Any], component: Callable[[str, object], None]) -> Iterator[str]:
    component("STAC Browser (`make browser`)", cached_browser())
    command = [sys.executable, "-m", "landpatch.functions", "serve", str(rows[0]), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        said = server.stderr.readline()
        found = re.search(r"http://\S+/", said)
        assert found, said + server.stderr.read()
        try:
            yield found.group()
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def page(address: str, component: Callable[[str, object], None]) -> Iterator[Page]:
    component("Chromium", CHROMIUM)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = chromium.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(SECONDS)
        expect.set_options(timeout=SECONDS)
        outside: list[str] = []
        page.on("request", lambda request: outside.append(request.url) if _leaves(request.url, address) else None)
        yield page
        chromium.close()
    assert outside == [], "the page asked other hosts"


def _leaves(url: str, address: str) -> bool:
    return not url.startswith((address, "data:", "blob:"))


def _colour_in_the_middle(element: Locator) -> NDArray[np.float64]:
    """Mean colour of the middle of what is seen of an element, (red, green, blue)."""
    pixels = np.asarray(Image.open(io.BytesIO(element.screenshot())).convert("RGB"), np.float64)
    height, width, _ = pixels.shape
    middle = pixels[height * 45 // 100 : height * 55 // 100, width * 45 // 100 : width * 55 // 100]
    return middle.reshape(-1, 3).mean(axis=0)


def _wait_for_colour(page: Page, element: Locator, colour: tuple[int, int, int]) -> None:
    for _ in range(SECONDS // 500):
        if np.abs(_colour_in_the_middle(element) - colour).max() < 4:
            return
        page.wait_for_timeout(500)
    assert np.abs(_colour_in_the_middle(element) - colour).max() < 4


def test_it_opens_with_the_collection_and_its_patches(page: Page, address: str) -> None:
    page.goto(address)
    expect(page).to_have_url(re.compile("/browser/#/collections/small"))
    expect(page.get_by_role("heading", name="Land-cover patches of Sentinel-1 and Sentinel-2")).to_be_visible()
    expect(page.locator(".items header")).to_contain_text(str(len(PATCHES)))
    # The map of all patches together: drawn by the server, nothing from outside.
    with page.expect_response(re.compile(r"/tiles/true_colour/\d+/\d+/\d+\.png")) as answered:
        page.reload()
    assert answered.value.ok


def test_its_form_finds_patches_by_split_and_label(page: Page, address: str, rows: tuple[Any, Any]) -> None:
    page.get_by_role("link", name="Search").or_(page.get_by_role("button", name="Search")).first.click()
    page.get_by_role("tab", name="Search for Items").click()
    form = page.locator(".tab-pane.active form.filter")
    for name in ("landpatch:split", "landpatch:label"):
        form.locator(".queryables > button").click()
        form.locator(".queryables .dropdown-item").filter(has=page.get_by_text(name, exact=True)).click()
    filters = form.locator(".queryable-row")
    expect(filters).to_have_count(2)
    choices = filters.nth(0).locator("select.value option").all_inner_texts()
    assert set(choices) == {row["landpatch:split"] for row in rows[1]}
    filters.nth(0).locator("select.value").select_option("train")
    filters.nth(1).locator("select.value").select_option("Pastures")
    form.get_by_role("button", name="Submit").click()

    expected = {
        row["id"] for row in rows[1] if row["landpatch:split"] == "train" and "Pastures" in row["landpatch:labels"]
    }
    assert 0 < len(expected) < len(rows[1])
    results = page.locator("main.search .right")
    expect(results.locator(".items header")).to_contain_text(str(len(expected)))
    cards = results.locator(".item-card")
    expect(cards).to_have_count(min(len(expected), 10))
    assert set(cards.locator(".card-title").all_inner_texts()) <= expected

    card = cards.first
    for word in ("train", "Pastures", "Arable land"):
        expect(card.get_by_text(word, exact=True)).to_be_visible()
    thumbnail = card.locator("img.thumbnail")
    thumbnail.scroll_into_view_if_needed()
    expect(thumbnail).to_have_attribute("src", re.compile(r"/previews/small/.*/true_colour\.png$"))
    _wait_for_colour(page, thumbnail, TRUE_COLOUR)

    # Footprints: orange outlines on the map of the results.
    on_map = results.locator("#search-map canvas").first
    on_map.scroll_into_view_if_needed()
    for _ in range(SECONDS // 500):
        pixels = np.asarray(Image.open(io.BytesIO(on_map.screenshot())).convert("RGB"), np.int64)
        orange = (pixels[..., 0] > 220) & (abs(pixels[..., 1] - 150) < 40) & (pixels[..., 2] < 90)
        if orange.sum() > 200:
            break
        page.wait_for_timeout(500)
    assert orange.sum() > 200


def test_an_item_opens_with_its_cog_on_the_map(page: Page, address: str) -> None:
    # Without the server's own picture of all patches: what is seen is the file itself.
    page.route("**/tiles/**", lambda route: route.abort())
    page.goto(f"{address}browser/#/collections/small/items/{PATCHES[1].id}")

    def part_of_the_cog(answer: Response) -> bool:
        return answer.url.endswith("_S2_10m.tif") and answer.status == 206

    with page.expect_response(part_of_the_cog):
        page.reload()
    expect(page.get_by_role("heading", name=PATCHES[1].id)).to_be_visible()
    on_map = page.locator(".maps-preview .map, .maps-preview .ol-viewport").first
    _wait_for_colour(page, on_map, TRUE_COLOUR)


def test_the_reference_map_is_shown_in_its_official_colours(page: Page) -> None:
    asset = page.locator(".asset", has_text="Reference map: land-cover codes")
    asset.get_by_role("button").first.click()
    asset.get_by_role("button", name="Show on map").click()
    on_map = page.locator(".maps-preview .map, .maps-preview .ol-viewport").first
    on_map.scroll_into_view_if_needed()
    _wait_for_colour(page, on_map, PASTURES)
    expect(page.get_by_role("link", name="Legend of the reference map")).to_have_attribute(
        "href", re.compile(r"/legend\.svg$")
    )


def test_all_pictures_of_a_patch_are_together(page: Page) -> None:
    page.get_by_role("tab", name="Thumbnails").click()
    pictures = page.locator(".previews img.thumbnail")
    expect(pictures).to_have_count(4)
    shown = [Path(source.get_attribute("src") or "").name for source in pictures.all()]
    assert shown == ["true_colour.png", "false_colour.png", "s1_composite.png", "reference_map.png"]
    for picture in pictures.all():
        picture.scroll_into_view_if_needed()
        page.wait_for_function("image => image.complete && image.naturalWidth === 240", arg=picture.element_handle())
