"""What a block's last attempt had to say: the notes of its ledger entry, and its lines in CloudWatch."""

from collections.abc import Iterator
from typing import Any

from landpatch.functions.engines.aws import aws_client, explained
from landpatch.functions.jobs import Entry

_LINES = 200  # of one attempt; a block that succeeds writes a handful


def log_lines(entry: Entry, client: Any = None) -> Iterator[str]:
    """The notes, then the log lines of the invocation. Raises CloudError, MissingComponent."""
    yield from entry.notes
    if entry.log is None:
        return
    client = client or aws_client("logs")
    with explained(f"give the log of {entry.scene} {entry.block}"):
        pages = client.get_paginator("filter_log_events").paginate(
            logGroupName=entry.log.group,
            logStreamNames=[entry.log.stream],
            filterPattern=f'"{entry.log.request}"',
            PaginationConfig={"MaxItems": _LINES},
        )
        for page in pages:
            yield from (str(event["message"]).rstrip() for event in page["events"])
