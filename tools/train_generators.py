"""Train the book's generators and store them in ``data/weights``: the decoders of small variational autoencoders.

    OMP_WAIT_POLICY=passive python -m tools.train_generators

About a minute on one core. The floor is the mean PSNR of pictures that were not trained on, against what the generator
draws at their encoder's mean: an upper bound of the distance to its range.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from gilearn import generators, metrics
from gilearn.content import checksum

FOLDER = Path(__file__).resolve().parents[1] / "data" / "weights"
COMMAND = "python -m tools.train_generators"
PLANS = {"digits": (1500, 64, False), "faces": (1000, 32, True)}
"""Steps, batch, and whether the pictures are mirrored and moved: there are only 75 faces."""


def train(decoder: nn.Sequential, x: Tensor, *, steps: int, batch: int, vary: bool) -> nn.Sequential:
    """Maximize the evidence bound of a Gaussian decoder with standard deviation 0.1; return the encoder."""
    generator = torch.Generator().manual_seed(0)
    latent = decoder[0].in_features
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(x[0].numel(), 256), nn.LeakyReLU(0.2), nn.Linear(256, 2 * latent)
        )
    parameters = [*decoder.parameters(), *encoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(steps):
        pictures = x[torch.randint(len(x), (batch,), generator=generator)]
        if vary:
            pictures = varied(pictures, generator)
        mean, logarithm = encoder(pictures).chunk(2, dim=1)
        z = mean + torch.randn(mean.shape, generator=generator) * (logarithm / 2).exp()
        misfit = (decoder(z) - pictures).square().flatten(1).sum(1) / (2 * 0.1**2)
        divergence = 0.5 * (mean.square() + logarithm.exp() - 1 - logarithm).sum(1)
        optimizer.zero_grad()
        (misfit + divergence).mean().backward()
        optimizer.step()
        schedule.step()
    return encoder


def varied(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the time, move by up to a pixel, and change brightness and contrast a little."""
    flip, across, down = (int(k) for k in torch.randint(0, 6, (3,), generator=generator) % torch.tensor([2, 3, 3]))
    if flip:
        pictures = pictures.flip(-1)
    pictures = nn.functional.pad(pictures, (1, 1, 1, 1), mode="replicate")
    pictures = pictures[..., down : down + pictures.shape[-2] - 2, across : across + pictures.shape[-1] - 2]
    size = (len(pictures), 1, 1, 1)
    contrast, brightness = (torch.rand(size, generator=generator) - 0.5 for _ in range(2))
    return ((pictures - 0.5) * (1 + 0.3 * contrast) + 0.5 + 0.2 * brightness).clamp(0, 1)


def main() -> None:
    index = json.loads((FOLDER / "index.json").read_text())
    for name, (steps, batch, vary) in PLANS.items():
        decoder, (x, _), (others, _) = generators.TRAINED[name](), generators.training(name), generators.held_out(name)
        encoder = train(decoder, x, steps=steps, batch=batch, vary=vary).eval()
        decoder.eval()
        path = FOLDER / f"generator-{name}.pt"
        with tempfile.NamedTemporaryFile(dir=FOLDER, delete=False) as unfinished:
            torch.save(decoder.state_dict(), unfinished)
        os.replace(unfinished.name, path)
        with torch.no_grad():
            drawn = decoder(encoder(others).chunk(2, dim=1)[0])
        index[f"generator-{name}"] = {
            "command": COMMAND,
            "pictures": name,
            "trained_on": len(x),
            "trained_on_checksum": checksum([x]),
            "tested_on": len(others),
            "psnr": round(float(metrics.psnr(drawn, others)), 1),
            "torch": torch.__version__.split("+")[0],
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        print(name, index[f"generator-{name}"]["psnr"], path.stat().st_size, flush=True)
        (FOLDER / "index.json").write_text(json.dumps(index, indent=1) + "\n")


if __name__ == "__main__":
    main()
