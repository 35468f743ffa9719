"""Does reading keep up with training? Samples a second, wall clock, on the GPU where there is one (PyTorch).

    training.py FOLDER [--patches N] [--batch N] [--seconds S] [--model resnet50 | resnet18]

Makes, in FOLDER, an LMDB of N patches of invented pixels (305 kB each), unless it is there. Then trains a ResNet
(torchvision) on ten bands and radar, 19 labels, mixed precision, as BigEarthNet v2.0's recipe has it (20 m bands
brought to 10 m on the device), fed in four ways: from one batch that stays on the device (what the model alone can
do); ``Samples`` read in this process by a thread, a batch ahead; ``Samples`` through a DataLoader without workers;
and ``safetensors.load`` of single samples through a DataLoader with as many workers as cores, as people write it.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
import torch
import torchvision
from torch.utils.data import DataLoader, Dataset, default_convert

from landpatch.catalog.bands import PATCH_ASSETS, REFERENCE_MAP, S1
from landpatch.catalog.nomenclature import clc2018
from landpatch.catalog.samples import Samples

BANDS = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "VV", "VH")
SCENE, RADAR = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP", "S1B_IW_GRDH_1SDV_20170612T165809_33UUP"
Batch = dict[str, torch.Tensor]


def write_lmdb(folder: Path, count: int) -> None:
    """Patches of noise, with the keys, the layout and the table of an export."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(1)
    kinds = [
        {
            name: random.integers(1, 4000, (asset.pixels, asset.pixels)).astype(asset.dtype)
            for asset in PATCH_ASSETS
            if asset is not REFERENCE_MAP and (asset is S1) is radar
            for name in asset.planes
        }
        for radar in (True, False)
    ]
    blobs = [safetensors.numpy.save(tensors) for tensors in kinds]
    places = [(copy, x, y) for copy in range(-(-count // 91**2)) for x in range(91) for y in range(91)][:count]
    ids = [f"{SCENE.replace('2017', str(2017 + copy), 1)}_{x:02d}_{y:02d}" for copy, x, y in places]
    names = [f"{RADAR.replace('2017', str(2017 + copy), 1)}_{x}_{y}" for copy, x, y in places]
    with lmdb.open(str(folder), map_size=count * 320_000 + 2**24, sync=False) as environment:
        for keys, blob in ((names, blobs[0]), (ids, blobs[1])):
            for first in range(0, count, 500):
                with environment.begin(write=True) as transaction:
                    for key in sorted(keys[first : first + 500]):
                        transaction.put(key.encode(), blob)
    labels = [[clc2018().classes[number % 19]] for number in range(count)]
    columns = {"patch_id": ids, "labels": labels, "split": ["train"] * count, "s1_name": names}
    pq.write_table(pa.table(columns), folder / "metadata.parquet")


class Loaded(Dataset[dict[str, Any]]):
    """One sample at a time, as public readers of the LMDB have it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._environment = folder, None
        table = pq.read_table(folder / "metadata.parquet")
        self.keys = list(zip(table["patch_id"].to_pylist(), table["s1_name"].to_pylist(), strict=True))
        self.assets = {asset.key: [p for p in asset.planes if p in BANDS] for asset in PATCH_ASSETS}

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self._environment is None:
            self._environment: Any = lmdb.open(str(self.folder), readonly=True, lock=False, readahead=False)
        with self._environment.begin() as transaction:
            tensors: dict[str, Any] = {}
            for key in self.keys[index]:
                tensors |= safetensors.numpy.load(transaction.get(key.encode()))
        sample = {name: np.stack([tensors[p] for p in planes]) for name, planes in self.assets.items() if planes}
        return {**sample, "labels": np.zeros(19, np.float32)}


def on_device(batch: Batch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Input (n, 12, 120, 120) and labels: sent at native size, brought to 10 m there."""
    sent = {name: values.to(device, non_blocking=True) for name, values in batch.items() if name != "index"}
    coarse = torch.nn.functional.interpolate(sent["S2_20m"].float(), size=(120, 120))
    pixels = torch.cat([sent["S2_10m"].float() / 3000, coarse / 3000, sent["S1"] / 20 + 1], 1)
    return pixels.contiguous(memory_format=torch.channels_last), sent["labels"]


def ahead(samples: Samples, size: int, pin: bool) -> Iterator[Batch]:
    """Batches in random order for ever, each read by a thread while the one before is trained on."""

    def empty() -> tuple[dict[str, Any], Batch]:
        batch = default_convert(samples.read(range(size)))
        tensors = {name: values.pin_memory() if pin else values for name, values in batch.items()}
        return {name: values.numpy() for name, values in tensors.items()}, tensors

    random = np.random.default_rng(2)
    with ThreadPoolExecutor(1) as pool:
        waiting = None
        # Three: one is read, one waits, one is on its way to the device.
        for arrays, tensors in cycle([empty(), empty(), empty()]):
            coming = pool.submit(samples.read, random.choice(len(samples), size, replace=False), arrays), tensors
            if waiting is not None:
                waiting[0].result()
                yield waiting[1]
            waiting = coming


def for_ever(loader: DataLoader[Any]) -> Iterator[Batch]:
    """A loader's batches, over and over."""
    while True:
        yield from loader


def rate(batches: Iterator[Batch], step: Callable[[Batch], None], size: int, seconds: float) -> float:
    """Samples a second over some seconds, after five steps to warm up."""
    for _ in range(5):
        step(next(batches))
    synchronise()
    begun, steps = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        step(next(batches))
        steps += 1
    synchronise()
    return steps * size / (time.perf_counter() - begun)


def synchronise() -> None:
    """Wait for the GPU, if any."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    """Train in each way and print."""
    parser = argparse.ArgumentParser(description="Samples a second while training.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--patches", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--model", default="resnet50")
    options = parser.parse_args()
    ours, theirs = options.folder / "ours.lmdb", options.folder / "theirs.lmdb"  # LMDB opens a file once a process
    for folder in (ours, theirs):
        if not folder.exists():
            write_lmdb(folder, options.patches)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    model = getattr(torchvision.models, options.model)(num_classes=19)
    model.conv1 = torch.nn.Conv2d(12, 64, 7, stride=2, padding=3, bias=False)
    model = model.to(device, memory_format=torch.channels_last)
    optimiser, loss_of = torch.optim.AdamW(model.parameters(), lr=1e-3), torch.nn.BCEWithLogitsLoss()

    def step(batch: Batch) -> None:
        pixels, labels = on_device(batch, device)
        with torch.autocast(device.type, torch.bfloat16):
            loss = loss_of(model(pixels), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    samples, pin = Samples(ours, bands=BANDS), device.type == "cuda"
    resident = {
        name: values.to(device) for name, values in default_convert(samples.read(range(options.batch))).items()
    }
    usual = {"batch_size": options.batch, "shuffle": True, "drop_last": True, "pin_memory": pin}
    workers = os.cpu_count() or 1
    ways: dict[str, Iterator[Batch]] = {
        "the model alone, one batch on the device": iter(lambda: resident, None),
        "Samples, read a batch ahead by a thread": ahead(samples, options.batch, pin),
        "Samples in a DataLoader, no workers": for_ever(
            DataLoader(samples, collate_fn=default_convert, num_workers=0, **usual)
        ),
        f"safetensors.load in a DataLoader, {workers} workers": for_ever(
            DataLoader(Loaded(theirs), num_workers=workers, persistent_workers=True, **usual)
        ),
    }
    name = torch.cuda.get_device_name() if pin else "the CPU"
    print(f"{options.model}, batches of {options.batch}, {len(BANDS)} bands, {options.patches} patches, {name}")
    alone = 0.0
    for title, batches in ways.items():
        reached = rate(batches, step, options.batch, options.seconds)
        alone = alone or reached
        print(f"{title:52}{reached:10,.0f} samples/s {reached / alone:7.0%}", flush=True)


if __name__ == "__main__":
    main()
