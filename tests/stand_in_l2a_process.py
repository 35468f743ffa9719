"""A stand-in for sen2cor's ``L2A_Process``, which no test can have: its command line and words, a product like its.

It corrects nothing: the L2A bands are the L1C pixels, the scene classification is vegetation. As a program it does
what its ``BEHAVIOUR`` (environment) says; ``write_stand_in`` makes an executable of that name for tests.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

BEHAVIOURS = (
    "succeed",
    "fail",  # with a traceback's last line and exit code 1
    "fail-quietly",  # says so, but exits with 0
    "die",  # by a signal
    "hang",  # for ever, in a process of its own, as sen2cor's workers are
    "nothing",  # claims success without a product
    "no-bands",
    "garbage",  # files that are no images
    "other-tile",
    "bad-quality",
)


def write_stand_in(folder: Path, behaviour: str = "succeed", version: str = "02.12.03") -> Path:
    """An executable ``L2A_Process`` in ``folder``: a shell script that starts Python, as the real one is.

    It counts its runs in ``runs`` beside itself; one that hangs leaves the number of its process in ``pid``.
    """
    assert behaviour in BEHAVIOURS
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "L2A_Process"
    program.write_text(
        f"#!/bin/sh\nexport BEHAVIOUR={behaviour} VERSION={version} NOTES={shlex.quote(str(folder))}\n"
        f'{shlex.quote(sys.executable)} {shlex.quote(__file__)} "$@"\n'
    )
    program.chmod(0o755)
    return program


def main() -> int:
    """Parse the command line as sen2cor does, and behave."""
    parser = argparse.ArgumentParser(
        description=f"Sentinel-2 Level 2A Processor (Sen2Cor). Version: {os.environ['VERSION']}, created: "
        "2022.05.23, supporting Level-1C product version 14.2 - 14.9."
    )
    parser.add_argument("input_dir")
    parser.add_argument("--resolution", type=int, choices=[10, 20, 60])
    parser.add_argument("--output_dir")
    options = parser.parse_args()
    notes, behaviour = Path(os.environ["NOTES"]), os.environ["BEHAVIOUR"]
    with (notes / "runs").open("a") as runs:
        runs.write(" ".join(sys.argv[1:]) + "\n")
    source = Path(options.input_dir)
    lacking = [
        str(parent / name)
        for pattern, name in (("DATASTRIP/*", "QI_DATA"), ("GRANULE/*", "AUX_DATA"))
        for parent in source.glob(pattern)
        if not (parent / name).is_dir()
    ]
    if lacking or not re.fullmatch(r"S2._MSIL1C.*\.SAFE", source.name):
        return say_end(f"no such folder or no product name: {lacking or source.name}", failed=True)
    say(0.0, "L2A_Tables: start import, elapsed time[s]: 0.1, total: 0:00:00.1")
    if behaviour == "fail":
        print("IOError: cannot open AUX_ECMWFT", file=sys.stderr, flush=True)
        say_end("", failed=True)
        return 1
    if behaviour == "fail-quietly":
        return say_end("", failed=True)
    if behaviour == "die":
        os.kill(os.getpid(), 11)
    if behaviour == "hang":
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as worker:
            (notes / "pid").write_text(str(worker.pid))
            time.sleep(600)
    if behaviour != "nothing":
        write_product(source, Path(options.output_dir), behaviour)
    say(55.5, "L2A_Process: half way, elapsed time[s]: 0.2, total: 0:00:00.3")
    return say_end("", failed=False)


def say(percent: float, text: str) -> None:
    """A line of progress in sen2cor's form."""
    print(f"Progress[%]: {percent:03.2f} : PID-{os.getpid()}, {text}", flush=True)


def say_end(text: str, *, failed: bool) -> int:
    """The last line; exit code 0 in any case, as some versions have it."""
    if text:
        print(text, flush=True)
    how = "with at least one error" if failed else "successfully"
    print(f"Progress[%]: 100.00 : Application terminated {how}.", flush=True)
    return 0


def write_product(source: Path, out: Path, behaviour: str) -> None:
    """The L2A tree of a small L1C product: the same pixels, baseline N9999, the offset of the L1C product."""
    import rasterio

    from small_safe import PASSED, Safe
    from small_scenes import RESOLUTIONS

    metadata = (source / "MTD_MSIL1C.xml").read_text()
    tile = "T33UVP" if behaviour == "other-tile" else "T33UUP"
    safe = Safe(
        "2A",
        baseline="99.99",
        offsets=dict.fromkeys(range(13), "-1000") if "RADIO_ADD_OFFSET" in metadata else None,
        quality={**PASSED, "GENERAL_QUALITY": "FAILED"} if behaviour == "bad-quality" else PASSED,
        product=re.sub(r"_MSIL1C_(\w{15})_N\d{4}_(R\d{3})_T\w{5}_.*", rf"_MSIL2A_\1_N9999_\2_{tile}", source.name)
        + "_20240901T120000.SAFE",
    )
    root = safe.write(out)
    if behaviour == "no-bands":
        for file in root.glob("GRANULE/*/IMG_DATA/R20m/*B8A*"):
            file.unlink()
    if behaviour in ("no-bands", "garbage"):
        return
    for name, resolution in RESOLUTIONS.items():
        band = next(source.glob(f"GRANULE/*/IMG_DATA/*_{name}.jp2"))
        target = next(root.glob(f"GRANULE/*/IMG_DATA/R{resolution}m/*_{name}_{resolution}m.jp2"))
        shutil.copyfile(band, target)
    with rasterio.open(next(source.glob("GRANULE/*/IMG_DATA/*_B05.jp2"))) as band:
        pixels, profile = band.read(1) * 0 + 4, band.profile
    profile.update(dtype="uint8", QUALITY="100", REVERSIBLE="YES", nodata=None)
    with rasterio.open(next(root.glob("GRANULE/*/IMG_DATA/R20m/*_SCL_20m.jp2")), "w", **profile) as target:
        target.write(pixels.astype("uint8"), 1)


if __name__ == "__main__":
    sys.exit(main())
