"""What blocks have cost, by what their ledger entries say they used, and what a build will cost.

Prices are list prices of a region (``data/prices.csv``). Counted are Lambda's time and requests, the requests to the
dataset's own bucket and Step Functions' transitions of each block; not counted are the small functions and the run
around the blocks (a hundredth of a cent a scene), attempts that were killed before they could write what they used,
and transfer out of AWS.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files

from landpatch.catalog.bands import read_table
from landpatch.catalog.errors import InvalidParameter
from landpatch.catalog.names import TILE_PATCHES, SceneId
from landpatch.catalog.traffic import Traffic
from landpatch.functions.jobs import Entry, State, Usage

DEFAULT_REGION = "eu-central-1"


@cache
def prices(region: str) -> Mapping[str, float]:
    """USD a unit, by what is paid for. Raises InvalidParameter for a region that is not in the table."""
    rows = read_table(_text("prices.csv"))
    found = {row["what"]: float(row["usd"]) for row in rows if row["region"] == region}
    if not found:
        known = sorted({row["region"] for row in rows})
        raise InvalidParameter(f"there are no prices for the region {region!r}, only for {', '.join(known)}")
    return found


@cache
def _tile_usage() -> Mapping[str, float]:
    return {row["what"]: float(row["value"]) for row in read_table(_text("tile_usage.csv"))}


def _text(name: str) -> str:
    return files("landpatch.functions").joinpath(f"data/{name}").read_text("utf-8")


@dataclass(frozen=True, slots=True)
class Cost:
    """USD: ``compute`` is Lambda, ``requests`` S3's and Step Functions', ``storage`` a month of what was written."""

    usage: Usage = field(default_factory=Usage)
    patches: int = 0
    compute: float = 0.0
    requests: float = 0.0
    storage: float = 0.0

    @property
    def total(self) -> float:
        """Once, without storage."""
        return self.compute + self.requests

    @property
    def a_patch(self) -> float | None:
        """``total`` by patch; None where there is none."""
        return self.total / self.patches if self.patches else None


def cost(usage: Usage, patches: int, region: str = DEFAULT_REGION) -> Cost:
    """What an amount of use costs. Raises InvalidParameter."""
    price, asked = prices(region), usage.traffic
    calls = usage.attempts if usage.gb_seconds else 0
    return Cost(
        usage,
        patches,
        usage.gb_seconds * price["lambda"] + calls * price["invocation"],
        (asked.writes + asked.lists) * price["write"] + asked.reads * price["read"] + calls * price["workflow"],
        asked.bytes_written / 1e9 * price["storage"],
    )


def measured(entries: Iterable[Entry], region: str = DEFAULT_REGION) -> dict[str, Cost]:
    """What the blocks of each tile have cost till now, by tile. Raises InvalidParameter."""
    used: dict[str, Usage] = defaultdict(Usage)
    patches: dict[str, int] = defaultdict(int)
    for entry in entries:
        tile = SceneId.parse(entry.scene).tile
        used[tile] += entry.usage
        patches[tile] += entry.kept
    return {tile: cost(used[tile], patches[tile], region) for tile in sorted(used)}


@dataclass(frozen=True, slots=True)
class Estimate:
    """What blocks will cost, and the sentences that say from what this was reckoned."""

    cost: Cost
    assumptions: tuple[str, ...]


def estimate(rows: int, blocks: int, done: Iterable[Entry] = (), region: str = DEFAULT_REGION) -> Estimate:
    """What ``blocks`` blocks with together ``rows`` patch rows (91 a tile) will cost.

    Reckoned from the blocks of the same dataset that functions have done, where there are any, else from
    ``data/tile_usage.csv``. Raises InvalidParameter.
    """
    known = [entry for entry in done if entry.state is State.SUCCEEDED and entry.usage.gb_seconds]
    if known:
        used, patches = Usage(), 0
        for entry in known:
            used += entry.usage
            patches += entry.kept
        share = rows / sum(_rows(entry.block) for entry in known)
        said = f"as the {len(known)} block(s) that functions have done in this dataset, by patch row"
    else:
        tile = _tile_usage()
        share = rows / TILE_PATCHES
        patches = int(tile["patches"])
        objects = int(patches * tile["objects_a_patch"])
        asked = Traffic(
            int(tile["reads"]), objects, int(tile["lists"]), bytes_written=int(patches * tile["bytes_a_patch"])
        )
        used = Usage(gb_seconds=tile["cpu_seconds"] * tile["gb_per_cpu"], traffic=asked)
        said = (
            f"a whole tile takes {tile['cpu_seconds']:.0f} CPU seconds at {tile['gb_per_cpu']:g} GB a vCPU, none of "
            f"its {patches:,} patches is dropped, {tile['objects_a_patch']:.0f} objects a patch, and no block is "
            "tried twice"
        )
    scaled = replace(
        used,
        attempts=blocks,
        gb_seconds=used.gb_seconds * share,
        traffic=Traffic(
            *(
                round(number * share)
                for number in (
                    used.traffic.reads,
                    used.traffic.writes,
                    used.traffic.lists,
                    used.traffic.bytes_read,
                    used.traffic.bytes_written,
                )
            )
        ),
    )
    return Estimate(
        cost(scaled, round(patches * share), region),
        (said, f"list prices of {region} in data/prices.csv; scenes are read from the region where they lie"),
    )


def _rows(block: str) -> int:
    first, last = block.removeprefix("rows-").split("-")
    return int(last) - int(first) + 1
