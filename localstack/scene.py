"""``make localstack``: LocalStack with the stack on it, and one scene of the demo world sent through it.

``scene.py up`` leaves it running in .cache/localstack, ``scene.py down`` ends it.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import local_aws
import local_stack
from landpatch.functions.demo.world import make_world

FOLDER = local_aws.CHECKOUT / ".cache/localstack"
PATIENCE_SECONDS = 600
"""A scene takes about half a minute; functions start slowly on a busy machine."""


def up() -> None:
    """Start, deploy, feed a scene, show what became of it."""
    aws = local_aws.running(FOLDER)
    if aws is None:
        print("Starting LocalStack")
        aws = local_aws.start(FOLDER)
        print("Deploying infra/template.yaml")
        stack = local_stack.deploy(aws)
    else:
        print("LocalStack runs already")
        stack = local_stack.deployed(aws)
    print("Making a scene and putting it into the inbox")
    feed(stack)
    environment = {**os.environ, **stack.environment}
    status = [sys.executable, "-m", "landpatch.functions", "status", stack.outputs["Dataset"]]
    subprocess.run(status, env=environment, check=True)
    settings = "\n".join(f"  export {name}={value}" for name, value in stack.environment.items())
    outputs = "\n".join(f"  {name:20} {value}" for name, value in sorted(stack.outputs.items()))
    print(f"\nThe stack's outputs:\n{outputs}\n\nTo look further (aws is .venv-localstack/bin/aws):\n{settings}")
    print(f"  landpatch status {stack.outputs['Dataset']} --log\n  landpatch serve {stack.outputs['Dataset']}")
    print(f"  aws s3 ls --recursive {stack.outputs['Dataset']}/")
    print(f"What the functions wrote: {aws.folder / 'lambda'}\nThe end of it: make localstack-down")


def feed(stack: local_stack.LocalStack) -> None:
    """Put the demo world's first pair into the inbox, and wait for its catalogue."""
    s3 = stack.client("s3")
    bucket, prefix = stack.outputs["Dataset"].removeprefix("s3://").split("/", 1)
    world = make_world(FOLDER / "world")
    optical, radars = world.scenes[0]
    scene, *pairs = [_uploaded(s3, bucket, path) for path in (optical, *radars)]
    scene["links"] = [{"rel": "landpatch:pair", "href": f"#{pair['id']}"} for pair in pairs]
    listed = {"type": "FeatureCollection", "features": [scene, *pairs]}
    s3.put_object(Bucket=stack.outputs["InboxBucket"], Key="scenes.json", Body=json.dumps(listed))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while "Contents" not in s3.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/items.parquet"):
        if time.monotonic() > deadline:
            sys.exit(f"No catalogue after {PATIENCE_SECONDS} s; the functions' logs are in {FOLDER / 'lambda'}")
        time.sleep(1)


def down() -> None:
    """End it."""
    aws = local_aws.running(FOLDER)
    if aws is None:
        print("LocalStack does not run")
    else:
        aws.stop()


def _uploaded(s3: Any, bucket: str, path: Path) -> dict[str, Any]:
    """An item, its files in the bucket."""
    item: dict[str, Any] = json.loads(path.read_text())
    for asset in item["assets"].values():
        file = path.parent / asset["href"]
        key = f"scenes-in/{item['id']}/{file.name}"
        s3.upload_file(str(file), bucket, key)
        asset["href"] = f"s3://{bucket}/{key}"
    return item


if __name__ == "__main__":
    {"up": up, "down": down}[sys.argv[1]]()
