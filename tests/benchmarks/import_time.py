"""What each function in the cloud imports at its cold start, and how long that takes.

    import_time.py [HANDLER ...]

The least of five processes, bytecode there as in an image; then the packages that take most of it, by
``python -X importtime`` (which slows imports down itself: look at their shares).
"""

import re
import subprocess
import sys
from collections import Counter

HANDLERS = ("plan", "tile", "index", "api")


def main(handlers: list[str]) -> None:
    """Print a line for each handler and its packages below."""
    for handler in handlers or HANDLERS:
        module = f"landpatch.functions.handlers.{handler}"
        timed = f"import time; t = time.process_time(); import {module}; print(time.process_time() - t)"
        seconds = min(float(_python("-c", timed).stdout) for _ in range(5))
        spent, modules = Counter[str](), 0
        trace = _python("-X", "importtime", "-c", f"import {module}").stderr
        for own, name in re.findall(r"^import time: +(\d+) \| +\d+ \| +(\S+)$", trace, re.MULTILINE):
            spent[name.partition(".")[0]] += int(own)
            modules += 1
        print(f"{handler}: {1000 * seconds:.0f} ms of CPU, {modules} modules")
        for package, microseconds in spent.most_common(8):
            print(f"    {microseconds / spent.total():4.0%}  {package}")


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
