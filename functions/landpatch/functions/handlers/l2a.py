"""The container job ``l2a``: L1C products on S3 become L2A products, with the sen2cor that is in the image.

    python -m landpatch.functions.handlers.l2a s3://bucket/L1C.zip ...

``LANDPATCH_L2A_PRODUCTS`` and ``LANDPATCH_INBOX`` (s3:// both) say where products and their items go to.
"""

import os
import sys

from aws_lambda_powertools import Logger

from landpatch.catalog.errors import LandpatchError
from landpatch.functions.l2a_remote import correct_remote

logger = Logger(service="l2a")


def main(sources: list[str]) -> int:
    """Correct all that can be; the exit code of the last error, 0 where there was none."""
    code = 0
    for source in sources:
        try:
            item = correct_remote(source, os.environ["LANDPATCH_L2A_PRODUCTS"], os.environ["LANDPATCH_INBOX"])
            logger.info("corrected", source=source, item=item)
        except LandpatchError as error:
            logger.error("not corrected", source=source, error=str(error), error_class=type(error).__name__)
            code = error.exit_code
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
