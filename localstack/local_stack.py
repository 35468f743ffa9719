"""infra/template.yaml on a LocalStack: packaged (``aws cloudformation package``) and deployed as on AWS.

LocalStack's functions cannot be container images: a package with a file INTERPRETER stands for ours
(process_executor.py), which has the functions run in the checkout's .venv, from the checkout itself.
"""

import contextlib
import io
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_aws import CHECKOUT, PYTHON, LocalAws

NAME = "landpatch"
ARTIFACTS = "artifacts"

FUNCTIONS = CHECKOUT / ".venv/bin/python"
"""What stands for the image."""


class DeploymentFailed(RuntimeError):
    """The stack could not be made; the message says which resource, and why."""


@dataclass(frozen=True, slots=True)
class LocalStack:
    """A deployed stack: the LocalStack that it is on, and the stack's outputs."""

    aws: LocalAws
    outputs: dict[str, str]

    @property
    def endpoint(self) -> str:
        """Of all its AWS services."""
        return self.aws.endpoint

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in order to take the LocalStack for AWS."""
        return self.aws.environment

    def client(self, service: str) -> Any:
        """boto3's client of one service."""
        return self.aws.client(service)

    def logs(self, function: str) -> str:
        """All that the processes of a function wrote."""
        return self.aws.logs(function)

    def pids(self, function: str) -> list[int]:
        """The processes of a function that live, idle ones among them."""
        return self.aws.pids(function)


def deploy(
    aws: LocalAws,
    parameters: dict[str, str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LocalStack:
    """Make the stack; ``progress(done, total)`` counts resources. Raises DeploymentFailed."""
    s3 = _with_bucket(aws)
    s3.put_object(Bucket=ARTIFACTS, Key="functions.zip", Body=_stand_in())
    given = {
        "CodeBucket": ARTIFACTS,
        "CodeKey": "functions.zip",
        "PythonVersion": f"python3.{sys.version_info.minor}",
        "Tracing": "PassThrough",
        **(parameters or {}),
    }
    cloudformation = aws.client("cloudformation")
    cloudformation.create_stack(
        StackName=NAME,
        TemplateBody=_packaged(aws),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
    )
    while (stack := _described(cloudformation))["StackStatus"] == "CREATE_IN_PROGRESS":
        made = cloudformation.describe_stack_resources(StackName=NAME)["StackResources"]
        if progress:
            progress(sum(one["ResourceStatus"] == "CREATE_COMPLETE" for one in made), len(made))
        time.sleep(0.5)
    if stack["StackStatus"] != "CREATE_COMPLETE":
        raise DeploymentFailed(f"{stack['StackStatus']}\n{_failures(cloudformation)}")
    return deployed(aws)


def deployed(aws: LocalAws) -> LocalStack:
    """The stack that ``deploy`` made."""
    stack = _described(aws.client("cloudformation"))
    return LocalStack(aws, {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]})


def store(aws: LocalAws, key: str, file: Path) -> str:
    """A file into the bucket of what the stack is given; its address."""
    _with_bucket(aws).upload_file(str(file), ARTIFACTS, key)
    return f"s3://{ARTIFACTS}/{key}"


def _with_bucket(aws: LocalAws) -> Any:
    s3 = aws.client("s3")
    with contextlib.suppress(s3.exceptions.BucketAlreadyOwnedByYou):
        s3.create_bucket(Bucket=ARTIFACTS, CreateBucketConfiguration={"LocationConstraint": s3.meta.region_name})
    return s3


def _described(cloudformation: Any) -> dict[str, Any]:
    (stack,) = cloudformation.describe_stacks(StackName=NAME)["Stacks"]
    return dict(stack)


def _stand_in() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("INTERPRETER", str(FUNCTIONS))
    return buffer.getvalue()


def _packaged(aws: LocalAws) -> str:
    """The template, with what it names on disk put into the bucket, and YAML's aliases written out."""
    target = aws.folder / "packaged.yaml"
    command = ("cloudformation", "package", "--template-file", str(CHECKOUT / "infra/template.yaml"))
    done = subprocess.run(
        [PYTHON, "-m", "awscli", *command, "--s3-bucket", ARTIFACTS, "--output-template-file", str(target)],
        env={"PATH": os.environ["PATH"], **aws.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise DeploymentFailed(done.stderr)
    return target.read_text()


def _failures(cloudformation: Any) -> str:
    events = cloudformation.describe_stack_events(StackName=NAME)["StackEvents"]
    return "\n".join(
        f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason')}"
        for event in events
        if event["ResourceStatus"].endswith("FAILED")
    )
