"""Lambda ``tile``: one block of a scene, from its files to patches."""

import os
import time
from dataclasses import asdict
from typing import Any

from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.metrics import MetricUnit, single_metric
from aws_lambda_powertools.utilities.typing import LambdaContext

from landpatch.functions.blocks import BlockFailed, BlockInvalid, BlockOutOfTime, Invocation, run_block
from landpatch.functions.jobs import Entry, LogPlace, State

__all__ = ["BlockFailed", "BlockInvalid", "BlockOutOfTime", "handler"]

logger, tracer = Logger(), Tracer()
metrics = Metrics(namespace=os.environ.get("POWERTOOLS_METRICS_NAMESPACE", "landpatch"))


def _invocation(event: dict[str, Any], context: LambdaContext) -> Invocation:
    return Invocation(
        seconds_left=lambda: context.get_remaining_time_in_millis() / 1000,
        memory=int(context.memory_limit_in_mb),
        begun=time.perf_counter(),
        log=LogPlace(context.log_group_name, context.log_stream_name, context.aws_request_id),
        owner=event.get("plan"),
    )


def _told(entry: Entry) -> None:
    metrics.add_metric(f"Blocks{entry.state.value.capitalize()}", MetricUnit.Count, 1)
    metrics.add_metric("PatchesKept", MetricUnit.Count, entry.kept)
    metrics.add_metric("BytesWritten", MetricUnit.Bytes, entry.bytes_written)
    metrics.add_metric("BytesRead", MetricUnit.Bytes, entry.usage.traffic.bytes_read)
    metrics.add_metric("GBSeconds", MetricUnit.Count, entry.usage.gb_seconds)
    for reason, count in entry.dropped.items():
        with single_metric("PatchesDropped", MetricUnit.Count, count, namespace=metrics.namespace) as metric:
            metric.add_dimension("service", metrics.service or "landpatch")
            metric.add_dimension("reason", reason)
    logger.info("block ended", extra={"entry": asdict(entry)})


@logger.inject_lambda_context
@tracer.capture_lambda_handler(capture_response=False)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """``{"dataset", "scene", "block", "plan"}``; answers with the block's state and counts.

    Raises BlockFailed, BlockOutOfTime (to be tried again), BlockInvalid (not to be), by which the state machine knows
    what to do.
    """
    logger.append_keys(scene=event["scene"], block=event["block"])
    metrics.add_metric("BlocksAsked", MetricUnit.Count, 1)
    entry = run_block(event["dataset"], event["scene"], event["block"], _invocation(event, context), ended=_told)
    return {
        "scene": entry.scene,
        "block": entry.block,
        "state": entry.state if entry.state is not State.CLAIMED else State.PROCESSING,
        "kept": entry.kept,
        "dropped": entry.dropped,
        "seconds": entry.seconds,
    }
