"""What is asked of AWS, by the IAM action and resource that it needs: moto shows every request."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from moto.moto_api import recorder

Asked = set[tuple[str, str]]

_ARN = {
    "AWSStepFunctions.StartExecution": ("states:StartExecution", "stateMachineArn"),
    "AWSStepFunctions.DescribeExecution": ("states:DescribeExecution", "executionArn"),
}


@contextmanager
def recorded(found: Asked) -> Iterator[None]:
    """Adds (action, ARN) of every request to moto's servers in this process to ``found``."""

    def record(request: Any, body: bytes | None = None) -> None:
        text = (request.get_data() if body is None else body).decode("latin-1")
        found.update(_needed(request.method, request.raw_url, request.headers.get("X-Amz-Target"), text))

    with pytest.MonkeyPatch.context() as patch:
        # What moto calls with each request. Its own recording writes a file, in which threads write over each other.
        patch.setattr(recorder, "_record_request", record)
        yield


def _needed(method: str, url: str, target: str | None, body: str) -> Iterator[tuple[str, str]]:
    if target in _ARN:
        action, key = _ARN[target]
        yield action, json.loads(body)[key]
    elif target == "AWSEvents.PutEvents":
        for event in json.loads(body)["Entries"]:
            yield "events:PutEvents", f"arn:aws:events:eu-central-1:123456789012:event-bus/{event['EventBusName']}"
    elif target:
        yield target, ""  # no role grants that
    else:
        yield from _needed_of_s3(method, url, body)


def _needed_of_s3(method: str, url: str, body: str) -> Iterator[tuple[str, str]]:
    address = urlsplit(url)
    query = parse_qs(address.query, keep_blank_values=True)
    bucket, _, key = unquote(address.path).lstrip("/").partition("/")
    arn = f"arn:aws:s3:::{bucket}"
    if method == "POST" and "delete" in query:
        for name in re.findall("<Key>(.*?)</Key>", body):
            yield "s3:DeleteObject", f"{arn}/{name}"
    elif not key:
        yield ("s3:ListBucket" if method in ("GET", "HEAD") else f"{method} bucket"), arn
    elif method == "DELETE":
        yield ("s3:AbortMultipartUpload" if "uploadId" in query else "s3:DeleteObject"), f"{arn}/{key}"
    else:
        yield ("s3:GetObject" if method in ("GET", "HEAD") else "s3:PutObject"), f"{arn}/{key}"
