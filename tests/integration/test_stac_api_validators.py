"""The API as other people see it: stac-api-validator, stac-check, schemathesis on the OpenAPI document."""

import json
import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from click.testing import CliRunner

from api_server import running
from catalogue_items import COLLECTION, made_up, write_catalogue
from landpatch.catalog.api import Settings, create_app
from landpatch.catalog.schemas import _shipped, validate_collection, validate_item

CLASSES = (
    "core",
    "collections",
    "features",
    "item-search",
    "filter",
    "item-search#sort",
    "item-search#fields",
    "features#sort",
    "features#fields",
)
PLACE = {"type": "Polygon", "coordinates": [[[12, 47.5], [15, 47.5], [15, 49], [12, 49], [12, 47.5]]]}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("catalogue")
    write_catalogue(folder, made_up(150))
    with running(create_app([folder], Settings(cache=None))) as address:
        yield address


@pytest.fixture
def schemas_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Schemas that a validator wants from the network come from those that ship."""
    send = requests.adapters.HTTPAdapter.send

    def answer(self: Any, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        if (request.url or "").startswith("http://127.0.0.1"):
            return send(self, request, **options)
        response = requests.Response()
        response.status_code, response.url, response.request = 200, request.url or "", request
        response._content = json.dumps(_shipped(request.url or "")).encode()
        response.headers["Content-Type"] = "application/json"
        return response

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", answer)


@pytest.mark.filterwarnings("ignore")  # of the validator's own code
def test_stac_api_validator(api: str, schemas_at_hand: None) -> None:
    from stac_api_validator.__main__ import main

    arguments = ["--root-url", api, "--collection", COLLECTION, "--geometry", json.dumps(PLACE)]
    arguments += [part for name in CLASSES for part in ("--conformance", name)]
    arguments += ["--fields-nested-property", "properties.landpatch:split", "--log-level", "ERROR"]
    result = CliRunner().invoke(main, arguments)
    assert "Errors:" in result.output or result.exit_code == 0, result.output
    errors = result.output.partition("Errors:")[2]
    found = [line for line in errors.splitlines() if line.startswith("- ")]
    # Its own fault: where it tries the two directions of a sort by POST, it sends "collections" as a text, and the
    # specification (STAC API 1.0.0, Item Search) wants a list. Every server that checks its input answers 400.
    own = re.compile(r'Sort Ext\] : POST .*"collections": "bigearthnet-v2"} had unexpected status code 400')
    assert [line for line in found if not own.search(line)] == []
    assert len(found) == 2


@pytest.mark.filterwarnings("ignore")  # of the validator's own code
@pytest.mark.parametrize("path", ["", f"collections/{COLLECTION}", f"collections/{COLLECTION}/items/{{item}}"])
def test_stac_check(api: str, schemas_at_hand: None, path: str) -> None:
    """stac-check, and stac-validator inside it: the core schemas, those of all extensions, and good practice."""
    from stac_check.lint import Linter

    found = get(f"{api}search?limit=150")["features"]
    for item in found[::50]:
        address = api + path.format(item=item["id"])
        assert get(address)["stac_version"] == "1.1.0"
        checked = Linter(address)
        assert checked.valid_stac, (checked.error_type, checked.error_msg)
        own = {*item["stac_extensions"]} if "items/" in path else set()
        assert own <= set(checked.schema)


def get(address: str) -> Any:
    with urllib.request.urlopen(address) as answer:
        return json.load(answer)


def test_items_and_collections_are_valid_stac(api: str) -> None:
    found = get(f"{api}search?limit=300")["features"]
    assert len(found) == 150
    for item in found[::30]:
        validate_item(item)
    assert get(f"{api}collections/{COLLECTION}/items/{found[0]['id']}") == found[0]
    validate_collection(get(f"{api}collections/{COLLECTION}"))


@pytest.mark.filterwarnings("ignore")  # of schemathesis' own code
def test_no_request_that_the_openapi_document_allows_breaks_the_server(api: str) -> None:
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings

    schema = schemathesis.openapi.from_url(f"{api}api")
    operations = [operation.ok() for operation in schema.get_all_operations()]
    assert len(operations) >= 15

    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(
            max_examples=6,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def ask(case: Any) -> None:
            answer = case.call(base_url=api, timeout=30)
            assert answer.status_code < 500, (case.as_curl_command(), answer.text)
            if answer.status_code >= 400 and answer.status_code != 405:
                error = answer.json()
                assert set(error) == {"code", "description"}
                assert "Traceback" not in error["description"]

        ask()
