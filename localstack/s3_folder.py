"""Where LocalStack keeps S3's objects: it says /tmp/localstack-s3-storage, and leaves folders there."""

import tempfile
from pathlib import Path

from localstack.runtime import hooks


@hooks.on_infra_start()
def among_its_other_temporary_files() -> None:
    """Run by LocalStack when it starts."""
    from localstack.services.s3 import provider

    provider.DEFAULT_S3_TMP_DIR = str(Path(tempfile.gettempdir()) / "s3")
