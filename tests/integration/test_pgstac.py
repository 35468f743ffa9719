"""docs/scaling.md: the same catalogue in pgstac finds the same items as the API over the parquet."""

import json
import random
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

import pgstac_server
from api_server import running
from catalogue_items import COLLECTION, made_up, write_catalogue
from demo_build import Landpatch
from landpatch.catalog.api import Settings, create_app

COUNT = 800


class Both:
    """The addresses of our API and of pgstac's, over one dataset."""

    def __init__(self, ours: str, theirs: str) -> None:
        self.ours, self.theirs = ours, theirs

    def found(self, **parameters: Any) -> list[str]:
        """The ids that both find, paged to the end; they must agree, and say no id twice."""
        ours, theirs = (sorted(_ids(address, parameters)) for address in (self.ours, self.theirs))
        assert len(set(ours)) == len(ours)
        assert theirs == ours
        return ours


def _answer(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=60) as answer:
        return json.load(answer)


def _ids(address: str, parameters: dict[str, Any]) -> Iterator[str]:
    following: str | None = f"{address}search?{urlencode(parameters)}"
    while following:
        page = _answer(following)
        yield from (item["id"] for item in page["features"])
        following = next((link["href"] for link in page["links"] if link["rel"] == "next"), None)


@pytest.fixture(scope="module")
def both(
    tmp_path_factory: pytest.TempPathFactory, component: Callable[[str, object], None], landpatch: Landpatch
) -> Iterator[Both]:
    lacking = pgstac_server.missing()
    component(lacking or "pgstac", lacking is None)
    folder = tmp_path_factory.mktemp("pgstac")
    write_catalogue(folder / "dataset", made_up(COUNT))
    with (
        running(create_app([folder / "dataset"], Settings(cache=None, access_log=False))) as ours,
        pgstac_server.database(folder / "cluster") as environment,
    ):
        landpatch(
            "export", "ndjson", folder / "dataset", folder / "export", "--files-at", f"{ours}assets/{COLLECTION}"
        )
        queryables = folder / "queryables.json"
        queryables.write_text(json.dumps(_answer(f"{ours}collections/{COLLECTION}/queryables")))
        pgstac_server.load(folder / "export", environment, queryables)
        pgstac_server.load(folder / "export", environment)  # a second time changes nothing
        with pgstac_server.api(environment) as theirs:
            yield Both(ours, theirs)


def test_paged_to_the_end_both_have_every_item_once(both: Both) -> None:
    assert both.found(limit=300) == sorted(row["patch_id"] for row in made_up(COUNT))


def test_the_same_items_in_a_box(both: Both) -> None:
    found = both.found(bbox="12,47.9,12.6,48.4", limit=100)
    assert 20 < len(found) < COUNT / 2


def test_the_same_items_of_a_split_with_a_label(both: Both) -> None:
    condition = "\"landpatch:split\"='train' AND a_contains(\"landpatch:labels\",'Pastures')"
    found = both.found(filter=condition, limit=200)
    assert 0 < len(found) < COUNT / 2


def test_the_same_items_by_id(both: Both) -> None:
    wanted = sorted(random.Random(1).sample([row["patch_id"] for row in made_up(COUNT)], 7))
    assert both.found(ids=",".join(wanted)) == wanted


def test_an_item_is_the_same_but_for_its_links(both: Both) -> None:
    item = made_up(1)[0]["patch_id"]
    ours, theirs = (
        _answer(f"{address}collections/{COLLECTION}/items/{item}") for address in (both.ours, both.theirs)
    )
    del ours["links"], theirs["links"]
    assert theirs == ours
