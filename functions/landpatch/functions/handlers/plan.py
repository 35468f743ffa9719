"""Lambda ``plan``: scenes that have arrived become jobs, and executions of the state machine."""

import os
from dataclasses import asdict
from functools import cache
from typing import Any

from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from landpatch.functions.admission import Admission, Outcome, Settings
from landpatch.functions.arrivals import arrivals
from landpatch.functions.engines.aws import StateMachine

logger, tracer = Logger(), Tracer()
metrics = Metrics(namespace=os.environ.get("POWERTOOLS_METRICS_NAMESPACE", "landpatch"))
processor = BatchProcessor(event_type=EventType.SQS, raise_on_entire_batch_failure=False)


@cache
def _admission() -> Admission:
    return Admission(Settings.from_environment(), StateMachine.open(os.environ.get("LANDPATCH_STATE_MACHINE")))


def _told(outcome: Outcome) -> dict[str, Any]:
    metrics.add_metric("ScenesPlanned", MetricUnit.Count, len(outcome.planned))
    metrics.add_metric("ScenesWaiting", MetricUnit.Count, len(outcome.waiting))
    metrics.add_metric("ScenesRefused", MetricUnit.Count, len(outcome.refused))
    logger.info("admitted", extra=asdict(outcome))
    return asdict(outcome)


@tracer.capture_method(capture_response=False)
def _admit(message: object) -> dict[str, Any]:
    arrived = arrivals(message)
    metrics.add_metric("ScenesArrived", MetricUnit.Count, len(arrived.items) + len(arrived.pairs))
    return _told(_admission().admit(arrived))


def _admit_record(record: SQSRecord) -> dict[str, Any]:
    try:
        return _admit(record.json_body)
    except Exception:
        # The batch goes on; the message comes again, and goes to the dead-letter queue in the end.
        metrics.add_metric("MessagesFailed", MetricUnit.Count, 1)
        logger.exception("a message failed", message_id=record.message_id)
        raise


@logger.inject_lambda_context
@tracer.capture_lambda_handler(capture_response=False)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> Any:
    """An SQS batch of messages, one such message by itself, or ``{"waiting": true}`` to look again at what waits."""
    if event.get("waiting"):
        return _told(_admission().look_again())
    if "Records" in event and event["Records"][0].get("eventSource") == "aws:sqs":
        return process_partial_response(
            event=event, record_handler=_admit_record, processor=processor, context=context
        )
    return _admit(event)
