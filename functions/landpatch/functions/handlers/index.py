"""Lambda ``index``: the catalogue is brought up to date with what blocks have written, and the world is told."""

import os
from functools import cache
from typing import Any

from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from landpatch.functions.publishing import EventBus, index

logger, tracer = Logger(), Tracer()
metrics = Metrics(namespace=os.environ.get("POWERTOOLS_METRICS_NAMESPACE", "landpatch"))


@cache
def _bus() -> EventBus:
    return EventBus.open(os.environ.get("LANDPATCH_EVENT_BUS") or "default")


@logger.inject_lambda_context
@tracer.capture_lambda_handler(capture_response=False)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:  # noqa: ARG001 - Lambda gives it
    """``{"dataset", "plan"}`` after a plan; ``{}``, by the clock: closes the blocks of lost workers everywhere."""
    dataset = event.get("dataset") or os.environ["LANDPATCH_DATASET"]
    done = index(dataset, event.get("plan"), _bus())
    metrics.add_metric("BlocksLost", MetricUnit.Count, len(done.lost))
    metrics.add_metric("BlocksFailed", MetricUnit.Count, done.failed)
    metrics.add_metric("Patches", MetricUnit.Count, done.patches)
    logger.info("indexed", extra=done.to_document())
    return done.to_document()
