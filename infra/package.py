"""What is deployed of Python, from the hashed lock for Lambda's Linux, by size and against Lambda's limits.

    python infra/package.py [FOLDER]

Every function runs from the one image (Dockerfile): even the smallest of them, api, is more than a zip may hold, as
this shows. What is counted for a function are the packages that it imports: what it will need at least.
"""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, distributions, packages_distributions
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
PYTHON = "3.12"  # of the image: Dockerfile
HANDLERS: Mapping[str, set[str]] = {"plan": set(), "tile": set(), "index": set(), "api": {"duckdb", "cql2"}}
"""The functions, and what each imports at its first request only."""

MB = 2**20
ZIP_LIMIT, IMAGE_LIMIT = 250 * MB, 10 * 1024 * MB
"""Unzipped bytes (AWS Lambda developer guide: Lambda quotas)."""


def main(folder: Path) -> None:
    """Fill the folder, print a line for each function and one for the image; ends with a message over a limit."""
    install(folder)
    sizes = package_sizes(folder)
    print(f"{sum(sizes.values()) / MB:,.0f} MB of packages, sha256:{tree_digest(folder)}")
    for name, size in sorted(sizes.items(), key=lambda row: -row[1])[:8]:
        print(f"    {size / MB:6,.0f} MB  {name}")
    for handler, later in HANDLERS.items():
        size = sum(sizes.get(name, 0) for name in imported(handler) | later)
        said = "not more" if size <= ZIP_LIMIT else "more"
        print(f"{handler}: {size / MB:,.0f} MB at least, {said} than a zip's {ZIP_LIMIT / MB:.0f} MB")
    check_image(sizes)


def install(folder: Path) -> None:
    """The locked packages and landpatch, as the image has them. Needs the network."""
    uv = CHECKOUT / ".venv" / "bin" / "uv"
    into = ["--target", folder, "--python-version", PYTHON, "--python-platform", "x86_64-manylinux_2_28"]
    command = [uv, "pip", "install", "--quiet", "--system-certs", "--no-config", *into]
    lock = CHECKOUT / "requirements" / "runtime.txt"
    subprocess.run([*command, "--only-binary", ":all:", "--require-hashes", "--requirement", lock], check=True)
    subprocess.run([*command, "--no-deps", CHECKOUT], check=True)


def imported(handler: str) -> set[str]:
    """Packages of all that a handler imports at its start, as this environment has them."""
    program = f"import json, sys, landpatch.functions.handlers.{handler}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    packages = packages_distributions()
    tops = {name.partition(".")[0] for name in json.loads(done.stdout)}
    return {_normal(name) for top in tops for name in packages.get(top, ())}


def package_sizes(folder: Path) -> dict[str, int]:
    """Bytes of each package in a folder, without bytecode."""
    return {_normal(package.name): _size(package) for package in distributions(path=[str(folder)])}


def _size(package: Distribution) -> int:
    paths = [Path(str(file.locate())) for file in package.files or () if file.suffix != ".pyc"]
    return sum(path.stat().st_size for path in paths if path.exists())


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def tree_digest(folder: Path) -> str:
    """SHA-256 of names and contents: the same for the same lock and code. Not of what installers note down."""
    digest = hashlib.sha256()
    for path in sorted(_counted(folder)):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{content}  {path.relative_to(folder).as_posix()}\n".encode())
    return digest.hexdigest()


def _counted(folder: Path) -> Iterable[Path]:
    noted = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json", ".lock"}
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".pyc" and path.name not in noted and path.parent.name != "bin":
            yield path


def check_image(sizes: Mapping[str, int]) -> None:
    """Raises SystemExit where packages alone are more than an image may hold."""
    if sum(sizes.values()) > IMAGE_LIMIT:
        largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
        raise SystemExit(
            f"the packages are {sum(sizes.values()) / MB:,.0f} MB, and Lambda takes images of "
            f"{IMAGE_LIMIT / MB:,.0f} MB at most; the largest are {', '.join(largest)}"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else CHECKOUT / "build" / "package")
