"""Train a small multi-label model in PyTorch on an LMDB export: a few steps, to see the parts in their places.

landpatch export lmdb europe/ europe.lmdb
pip install torch
python docs/gallery/train.py europe.lmdb loss.png
"""

import sys

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.utils.data import DataLoader, default_convert

from landpatch.catalog import Samples, clc2018

lmdb, picture = sys.argv[1:]
torch.manual_seed(1)

# Bands and classes in an order that we choose, by name: the ten bands of BigEarthNet's recipe, and radar.
bands = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "VV", "VH")
classes = clc2018().classes
train, held_out = (Samples(lmdb, bands=bands, classes=classes, split=split) for split in ("train", "validation"))
print(len(train), "patches to train on,", len(held_out), "held out;", train.bands)

# Whole batches are read at once, in this process: workers would cost more than they do.
loader = DataLoader(train, batch_size=32, shuffle=True, drop_last=True, collate_fn=default_convert)


def pixels(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """(n, 12, 120, 120): bands of 20 m brought to 10 m here, in the batch, on whatever device it is."""
    coarse = nn.functional.interpolate(batch["S2_20m"].float(), size=(120, 120))
    return torch.cat([batch["S2_10m"].float() / 3000, coarse / 3000, batch["S1"] / 20 + 1], 1)


layers: list[nn.Module] = []
for before, after in ((len(bands), 16), (16, 32), (32, 64)):
    layers += [nn.Conv2d(before, after, 3, stride=3), nn.BatchNorm2d(after), nn.ReLU()]
model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, len(classes)))
optimiser, loss_of = torch.optim.AdamW(model.parameters(), lr=3e-3), nn.BCEWithLogitsLoss()
losses: list[float] = []
while len(losses) < 20:
    for batch in loader:
        loss = loss_of(model(pixels(batch)), batch["labels"])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
print(f"loss {losses[0]:.3f} at first, {losses[-1]:.3f} at last")

model.eval()
with torch.no_grad():
    batch = default_convert(held_out.read(range(len(held_out))))
    print(f"held out: {loss_of(model(pixels(batch)), batch['labels']):.3f}")

plt.figure(figsize=(7, 3.5), layout="constrained")
plt.plot(losses)
plt.gca().set(xlabel="step", ylabel="binary cross-entropy")
plt.savefig(picture, dpi=80)
