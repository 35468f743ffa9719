"""What Lambda hands to a function beside its event, for functions that are called by tests."""

import time
from dataclasses import dataclass, field


@dataclass
class Context:
    """``timeout`` in seconds from now."""

    timeout: float = 900
    memory_limit_in_mb: str = "2048"
    function_name: str = "landpatch-test"
    invoked_function_arn: str = "arn:aws:lambda:eu-central-1:123456789012:function:landpatch-test"
    aws_request_id: str = "c6af9ac6-7b61-11e6-9a41-93e8deadbeef"
    log_group_name: str = "/aws/lambda/landpatch-test"
    log_stream_name: str = "2026/11/28/[$LATEST]0123"
    begun: float = field(default_factory=time.monotonic)

    def get_remaining_time_in_millis(self) -> int:
        return int(1000 * (self.timeout - (time.monotonic() - self.begun)))
