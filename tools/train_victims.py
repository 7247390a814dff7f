"""Train the book's trained victims and store their weights in ``data/weights``.

    OMP_WAIT_POLICY=passive python -m tools.train_victims

About two minutes on two cores. Accuracies are on pictures that were not trained on: other crops of the same
photographs, other faces, other digits.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gilearn import data, models

FOLDER = Path(__file__).resolve().parents[1] / "data" / "weights"
COMMAND = "python -m tools.train_victims"


def pictures(name: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test pictures of a data set."""
    if name == "photos":
        return data.photos(32, crops=100, seed=1), data.photos(32, crops=20, seed=2)
    x, y = data.digits() if name == "digits" else data.faces(negatives=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    cut = int(0.75 * len(x))
    return (x[order[:cut]], y[order[:cut]]), (x[order[cut:]], y[order[cut:]])


def train(model: nn.Module, x: Tensor, y: Tensor, *, epochs: int, lr: float) -> None:
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    model.eval()
    return float((model(x).argmax(1) == y).float().mean())


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    index = json.loads((FOLDER / "index.json").read_text()) if (FOLDER / "index.json").exists() else {}
    for name, (build, pictures_of, epochs, lr) in models.TRAINED.items():
        model = build()
        (x, y), held_out = pictures(pictures_of)
        train(model, x, y, epochs=epochs, lr=lr)
        path = FOLDER / f"{name}.pt"
        with tempfile.NamedTemporaryFile(dir=FOLDER, delete=False) as unfinished:
            torch.save(model.state_dict(), unfinished)
        os.replace(unfinished.name, path)
        index[name] = {
            "command": COMMAND,
            "pictures": pictures_of,
            "trained_on": len(x),
            "tested_on": len(held_out[0]),
            "accuracy": round(accuracy(model, *held_out), 3),
            "torch": torch.__version__.split("+")[0],
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        print(name, index[name]["accuracy"], path.stat().st_size, flush=True)
    (FOLDER / "index.json").write_text(json.dumps(index, indent=1) + "\n")


if __name__ == "__main__":
    main()
