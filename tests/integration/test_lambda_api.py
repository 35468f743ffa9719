"""The API as an AWS Lambda function: events as a Function URL and API Gateway send them, datasets on S3."""

import base64
import gzip
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlencode

import brotli
import pytest

from catalogue_items import COLLECTION, made_up, write_catalogue
from landpatch.catalog.errors import InvalidParameter
from landpatch.catalog.store import COLLECTION as COLLECTION_FILE
from landpatch.catalog.store import ITEMS, Storage
from landpatch.functions.handlers import api
from s3_server import serve_s3
from small_dataset import Patch, write_dataset

COUNT = 1200
HOST = "abcdefghij.lambda-url.eu-central-1.on.aws"
LIMIT = 6_291_556
"""Bytes of a response, as AWS counts them: the JSON that the function returns (Lambda quotas)."""


@pytest.fixture(scope="module")
def datasets(event_loop: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    local = tmp_path_factory.mktemp("lambda")
    write_catalogue(local, made_up(COUNT))
    with pytest.MonkeyPatch.context() as patch, serve_s3(patch, "catalogue"):
        write_dataset(Storage.open("s3://catalogue/small"), [Patch(26, 57), Patch(27, 55)])
        for name in (ITEMS, COLLECTION_FILE):
            Storage.open("s3://catalogue/europe").put(name, (local / name).read_bytes())
        patch.setenv("LANDPATCH_DATASET", "s3://catalogue/europe, s3://catalogue/small")
        api._adapter.cache_clear()
        yield
    api._adapter.cache_clear()


def by_url(path: str, query: str = "", body: Any = None, **headers: str) -> dict[str, Any]:
    """Event of a Function URL, and of an HTTP API with the stage $default (payload format 2.0)."""
    method = "GET" if body is None else "POST"
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": {
            "host": HOST,
            "accept": "*/*",
            "x-forwarded-proto": "https",
            "x-forwarded-port": "443",
            "x-forwarded-for": "203.0.113.7",
            "content-type": "application/json",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        },
        "queryStringParameters": dict(parse_qsl(query)),
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "abcdefghij",
            "domainName": HOST,
            "domainPrefix": "abcdefghij",
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "203.0.113.7",
                "userAgent": "curl/8.5.0",
            },
            "requestId": "2f5d3a0e-6c6c-4a0a-8e0e-0a5b6a1f5f3b",
            "routeKey": "$default",
            "stage": "$default",
            "time": "28/Nov/2026:01:26:13 +0000",
            "timeEpoch": 1795829173000,
        },
        # What has no text content type comes in base64.
        **({} if body is None else {"body": base64.b64encode(json.dumps(body).encode()).decode()}),
        "isBase64Encoded": body is not None,
    }


def by_http_api(path: str, query: str = "") -> dict[str, Any]:
    """Event of an HTTP API with a stage of its own: its path has the stage."""
    event = by_url(f"/prod{path}", query)
    event["requestContext"]["stage"] = "prod"
    return event


def by_rest_api(path: str, query: str = "") -> dict[str, Any]:
    """Event of a REST API (payload format 1.0)."""
    pairs = parse_qsl(query)
    headers = {"Host": HOST, "X-Forwarded-Proto": "https", "X-Forwarded-Port": "443", "Accept": "*/*"}
    return {
        "version": "1.0",
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": "GET",
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": dict(pairs) or None,
        "multiValueQueryStringParameters": {name: [value] for name, value in pairs} or None,
        "pathParameters": {"proxy": path.lstrip("/")},
        "stageVariables": None,
        "requestContext": {
            "resourcePath": "/{proxy+}",
            "httpMethod": "GET",
            "path": f"/prod{path}",
            "stage": "prod",
            "identity": {"sourceIp": "203.0.113.7", "userAgent": "curl/8.5.0"},
            "requestId": "2f5d3a0e-6c6c-4a0a-8e0e-0a5b6a1f5f3b",
        },
        "body": None,
        "isBase64Encoded": False,
    }


def ask(event: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body, once AWS has taken the answer: as JSON, and not too large."""
    answer = json.dumps(api.handler(event, None))
    assert len(answer.encode()) < LIMIT
    taken = json.loads(answer)
    body = taken.get("body", "")
    content = base64.b64decode(body) if taken["isBase64Encoded"] else body.encode()
    return taken["statusCode"], taken["headers"], content


def found(event: dict[str, Any]) -> dict[str, Any]:
    status, headers, content = ask(event)
    assert status == 200, content
    assert headers["content-type"] == "application/geo+json"
    document: dict[str, Any] = json.loads(content)
    return document


def unsigned(item: dict[str, Any]) -> dict[str, Any]:
    """Without what changes every second."""
    assets = {key: {**asset, "href": asset["href"].partition("?")[0]} for key, asset in item["assets"].items()}
    return {**item, "assets": assets}


def test_search_by_get_and_post_and_an_item(datasets: None) -> None:
    text = "landpatch:split='train' AND a_contains(landpatch:labels,'Pastures')"
    query = urlencode({"filter": text, "collections": COLLECTION, "limit": 5})
    got = found(by_url("/search", query))
    labels = {"op": "a_contains", "args": [{"property": "landpatch:labels"}, ["Pastures"]]}
    split = {"op": "=", "args": [{"property": "landpatch:split"}, "train"]}
    body = {"filter": {"op": "and", "args": [split, labels]}, "collections": [COLLECTION], "limit": 5}
    posted = found(by_url("/search", body=body))
    assert [unsigned(item) for item in got["features"]] == [unsigned(item) for item in posted["features"]]
    assert got["numberMatched"] == posted["numberMatched"] > 5
    item = got["features"][0]
    place = f"/collections/{COLLECTION}/items/{item['id']}"
    assert unsigned(json.loads(ask(by_url(place))[2])) == unsigned(item)
    (own,) = (link["href"] for link in item["links"] if link["rel"] == "self")
    assert own == f"https://{HOST}{place}"


def test_the_answer_is_text_or_compressed_as_the_client_takes_it(datasets: None) -> None:
    plain = ask(by_url("/search", "limit=20&fields=-assets"))
    assert not api.handler(by_url("/search", "limit=20&fields=-assets"), None)["isBase64Encoded"]
    for name, decompress in (("gzip", gzip.decompress), ("br", brotli.decompress)):
        status, headers, content = ask(by_url("/search", "limit=20&fields=-assets", accept_encoding=name))
        assert (status, headers["content-encoding"]) == (200, name)
        assert len(content) < len(plain[2]) / 4
        assert decompress(content) == plain[2]


def test_pages_too_large_for_lambda_become_smaller_ones(datasets: None) -> None:
    ids: list[str] = []
    query, pages = urlencode({"limit": 1000, "collections": COLLECTION}), 0
    while True:
        page = found(by_url("/search", query))
        ids += [item["id"] for item in page["features"]]
        pages += 1
        following = [link["href"] for link in page["links"] if link["rel"] == "next"]
        if not following:
            break
        query = following[0].partition("?")[2]
    assert pages > 2  # two of 1,000 would not have fitted
    assert len(ids) == len(set(ids)) == COUNT


@pytest.mark.parametrize("event", [by_http_api, by_rest_api])
def test_links_have_the_gateway_s_stage(datasets: None, event: Any) -> None:
    landing = json.loads(ask(event("/"))[2])
    links = {link["href"] for link in landing["links"]}
    assert f"https://{HOST}/prod/search" in links
    assert not [href for href in links if not href.startswith(f"https://{HOST}/prod/")]
    page = found(event("/search", "limit=2"))
    (following,) = (link["href"] for link in page["links"] if link["rel"] == "next")
    assert following.startswith(f"https://{HOST}/prod/search?")
    assert ask(event(f"/collections/{COLLECTION}"))[0] == 200


def test_files_come_from_s3(datasets: None, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = found(by_url("/search", "collections=small&limit=1"))["features"][0]["assets"]["S2_10m"]
    with urllib.request.urlopen(asset["href"]) as answer:
        data = answer.read()
    assert len(data) == asset["file:size"]
    collection = json.loads(ask(by_url("/collections/small"))[2])
    href = collection["assets"]["items"]["href"]
    status, headers, _ = ask(by_url(href.removeprefix(f"https://{HOST}")))
    assert status == 307
    with urllib.request.urlopen(headers["location"]) as answer:
        assert answer.read(4) == b"PAR1"
    assert ask(by_url("/assets/small/jobs/x.json"))[0] == 404
    monkeypatch.setenv("LANDPATCH_ASSETS", "served")
    api._adapter.cache_clear()
    try:
        asset = found(by_url("/search", "collections=small&limit=1"))["features"][0]["assets"]["S2_10m"]
        status, headers, content = ask(by_url(asset["href"].removeprefix(f"https://{HOST}"), range="bytes=0-99"))
        assert (status, headers["content-type"].partition(";")[0], content) == (206, "image/tiff", data[:100])
    finally:
        api._adapter.cache_clear()


def test_errors_are_answers(datasets: None) -> None:
    for event, status in (
        (by_url(f"/collections/{COLLECTION}/items/none"), 404),
        (by_url("/nowhere"), 404),
        (by_url("/search", "bbox=1,2,3"), 400),
        (by_url("/search", "filter=a%20%3D%20("), 400),
        (by_url("/search", body={"limit": "many"}), 400),
    ):
        got, headers, content = ask(event)
        assert (got, headers["content-type"]) == (status, "application/json")
        assert set(json.loads(content)) == {"code", "description"}


def test_the_environment_has_to_name_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    api._adapter.cache_clear()
    monkeypatch.delenv("LANDPATCH_DATASET", raising=False)
    with pytest.raises(InvalidParameter, match="LANDPATCH_DATASET names no dataset"):
        api.handler(by_url("/"), None)
    monkeypatch.setenv("LANDPATCH_DATASET", "s3://bucket/europe")
    monkeypatch.setenv("LANDPATCH_ASSETS", "copied")
    with pytest.raises(InvalidParameter, match="LANDPATCH_ASSETS is presigned or served, not 'copied'"):
        api.handler(by_url("/"), None)
