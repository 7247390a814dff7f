"""What noise on the gradient does to R-GAP, by depth: one, two and four convolutions, and R-GAP's own CNN6.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_recursion_noise

About five minutes of one processor. Case k takes photograph k modulo 10, crop k div 10 (the fold), weights and noise of
seed k. The noise is Gaussian, of ``level`` times the root mean square of each shared tensor. The label is the one that
the network does not predict, and is declared. ``gray`` is the error of the picture's own mean colour. Networks that the
file already holds are kept; remove the file to measure all of them again.
"""

from __future__ import annotations

import warnings

import torch
from torch import nn

from gilearn import attacks, data, federated, metrics, models
from tools.recording import known, record

COMMAND = "python -m tools.record_recursion_noise"
LEVELS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
DEPTHS = {"1 convolution": 1, "2 convolutions": 2, "4 convolutions": 4, "CNN6": 6}
CASES = range(24)
ACTIVATIONS = {  # module, and a factor on the weights of its convolutions
    "identity": (nn.Identity(), 1),
    "LeakyReLU, slope 0.5": (nn.LeakyReLU(0.5), 1),
    "LeakyReLU, slope 0.2": (nn.LeakyReLU(0.2), 1),
    "tanh": (nn.Tanh(), 1),
    "tanh, weights x 3": (nn.Tanh(), 3),
}


def network(depth: int, seed: int, activation: nn.Module | None = None, factor: float = 1) -> nn.Module:
    """3x3 convolutions of 16 filters for 16 pixels, the first of stride 2, LeakyReLU, one logit; or CNN6."""
    if depth == 6:
        return models.cnn6(seed=seed).double()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for k in range(depth):
            conv = nn.Conv2d(16 if k else 3, 16, 3, stride=1 if k else 2, padding=1, bias=False)
            conv.weight.data *= factor
            layers += [conv, activation or nn.LeakyReLU(0.2)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 64, 1, bias=False)).double()


def disturbed(seen, level: float, seed: int):
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.randn(g.shape, generator=generator).double() * g.square().mean().sqrt() for g in seen.shared]
    return seen.replace(shared=tuple(g + level * n for g, n in zip(seen.shared, noise, strict=True)))


def recovered(depth: int, case: int, levels, **options) -> tuple[list[float], torch.Tensor]:
    name = data.PHOTOS[case % 10]
    x = data.photos(32 if depth == 6 else 16, names=[name], fold=case // 10)[0].double()
    model = network(depth, case, **options)
    label = (model(x).detach()[:, 0] < 0).long()
    seen = federated.observe(model, x, label, loss="logistic", declare=["labels"])
    attack = attacks.Recursion(exact_rank_up_to=0, tolerance=1e-12, iterations=2000)
    return [metrics.relative_error(attack(disturbed(seen, level, case)).inputs, x) for level in levels], x


def errors(depth: int, case: int) -> dict:
    found, x = recovered(depth, case, LEVELS)
    gray = x.mean((2, 3), keepdim=True).expand_as(x)
    return {
        "gray": float(f"{metrics.relative_error(gray, x):.3g}"),
        "errors": [float(f"{error:.3g}") for error in found],
    }


def main() -> None:
    warnings.simplefilter("ignore", attacks.RecursionWarning)
    torch.set_num_threads(1)
    result = known("recursion-noise", {"levels": list(LEVELS)})
    for name, depth in DEPTHS.items():
        if name not in result:
            result[name] = [errors(depth, case) for case in CASES]
            print(name, result[name][0], flush=True)
            record("recursion-noise", COMMAND, result)
    growth = result.setdefault("growth", {})  # errors at a noise of 1e-6, by activation, depth 1 to 4, and case
    for name, (activation, factor) in ACTIVATIONS.items():
        if name not in growth:
            options = {"activation": activation, "factor": factor}
            found = [[recovered(depth, k, [1e-6], **options)[0][0] for k in range(12)] for depth in (1, 2, 3, 4)]
            growth[name] = [[float(f"{error:.3g}") for error in row] for row in found]
            print(name, growth[name], flush=True)
            record("recursion-noise", COMMAND, result)


if __name__ == "__main__":
    main()
