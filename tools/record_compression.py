"""Compressors in one unit, bits an entry: what each attacker recovers, and what accuracy is left.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_compression

``privacy``: the PSNR in dB, at most 99, of one digit out of the gradient of the task's untrained network; four digits
for each of six networks. ``search`` matches the gradient as if it were whole; ``search, told`` knows the defense: the
mask or the projection is declared, of signs the agreement is maximized. The distance (l1 or cosine; of signs the
temperature) and the learning rate of each are the best of six or nine on six other digits. Searches of many digits run
as one batch, with the ingredients of the engine: Adam, InvGrad's decay, the box, the best iterate. ``InvGrad`` is the
preset with 300 iterations. ``divide`` is the closed form, ``survivors`` divides where weight and bias survived, ``dark
pixels`` fills a mean picture in where the signs say that a pixel is not dark, ``learned`` is fitted to the digits from
number 900 on, by ridge regression or a ``network`` of one hidden layer on 200 principal components; ``guess`` has the
label, these digits' mean and no gradient. ``batch``: the mean PSNR of four digits out of PowerSGD's factors of their
gradient, a network for each batch, l1 at the best of three rates on two other batches. ``utility``: test accuracy of
five seeds at the best of three rates on the validation examples of another seed, and the bits an entry of what is
uploaded. What the file already holds is kept; remove the file to measure all of it again.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from gilearn import attacks, data, defenses, federated, metrics
from gilearn.attacks import distances, optimizers
from gilearn.defenses import Mask, PowerSGD, Projection, Pruning, Quantization, Signs, utility
from tools.record_defenses import SEARCH, survivors
from tools.recording import resume

COMMAND = "python -m tools.record_compression"
CASES, VALIDATION, RATES, SEEDS, STEPS = range(24), range(24, 30), (0.03, 0.1, 0.3), range(5), 200
TASK = utility.TASKS["digits"]
X, Y = data.digits()


def random_mask(share: float, seed: int) -> Mask:
    generator = torch.Generator().manual_seed(seed)
    shapes = [p.shape for p in TASK.build(0).parameters()]
    return Mask(masks=tuple(torch.rand(shape, generator=generator) >= share for shape in shapes))


DEFENSES: dict[str, Any] = {
    "none": None,
    "pruning .5": Pruning(share=0.5),
    "pruning .9": Pruning(share=0.9),
    "pruning .98": Pruning(share=0.98),
    "pruning .99": Pruning(share=0.99),
    "random mask .9": functools.partial(random_mask, 0.9),
    "random mask .99": functools.partial(random_mask, 0.99),
    "PowerSGD 1": PowerSGD(rank=1),
    "signs": Signs(),
    "rounding 1": Quantization(levels=1),
    "rounding 7": Quantization(levels=7),
}
TRAINED: dict[str, Any] = {
    "none": None,
    "signs, feedback": Signs(feedback=True),
    "PowerSGD 1, feedback": PowerSGD(rank=1),
    "pruning .98, feedback": Pruning(share=0.98, feedback=True),
    "pruning .98": Pruning(share=0.98),
    "signs": Signs(),
    "rounding 1": Quantization(levels=1),
    "PowerSGD 1": PowerSGD(rank=1, feedback=False),
    "pruning .9, feedback": Pruning(share=0.9, feedback=True),
    "pruning .9": Pruning(share=0.9),
    "rounding 7": Quantization(levels=7),
    "pruning .99, feedback": Pruning(share=0.99, feedback=True),
    "pruning .99": Pruning(share=0.99),
}


def defense_of(name: str, k: int) -> Any:
    found = DEFENSES[name]
    return found(k) if isinstance(found, functools.partial) else found


def observed(name: str, k: int, *knows: str) -> federated.Observation:
    model = TASK.build(k // 4)
    own = {"defense": defense_of(name, k), "declare": ["labels", *knows], "seed": k}
    return federated.observe(model, X[k : k + 1], Y[k : k + 1], **own)


def settings(name: str, attacker: str) -> list[tuple[Any, float]]:
    kinds: list[Any] = [distances.Manhattan(), distances.Cosine()]
    if name == "signs" and attacker == "search, told":
        kinds = [distances.SignAgreement(temperature=t) for t in (0.0, 0.3, 1.0)]
    return [(kind, rate) for kind in kinds for rate in RATES]


def searched(name: str, told: bool, kind: Any, rates: list[float], cases: list[int]) -> list[float]:
    """Search several cases at once, each at its rate: 200 steps of Adam in the box, decayed as InvGrad's."""
    views = [observed(name, k, "defense") for k in cases]
    knows = told and not name.startswith("signs")
    extras = [_extra(view.known("defense") if knows else None) for view in views]
    stacks = [torch.stack(own) for own in zip(*(view.model.parameters() for view in views), strict=True)]
    weights = [stack.detach() for stack in stacks]
    shared = [torch.stack([t for t in own if t is not None]) for own in zip(*(v.shared for v in views), strict=True)]
    lefts = [torch.stack(own) for own in zip(*extras, strict=True)]
    x = torch.stack([torch.randn(64, generator=torch.Generator().manual_seed(k)) for k in cases])

    def distance(x: Tensor, y: Tensor, weights: Any, shared: Any, lefts: Any) -> Tensor:
        def loss(weights: Any) -> Tensor:
            hidden = F.relu(F.linear(x[None], weights[0], weights[1]))
            return F.cross_entropy(F.linear(hidden, weights[2], weights[3]), y[None])

        simulated = torch.func.grad(loss)(weights)
        return kind([_left(g, left) for g, left in zip(simulated, lefts, strict=True)], shared)  # type: ignore[no-any-return]

    each = torch.func.vmap(torch.func.grad_and_value(distance))
    best, least = x.clone(), torch.full((len(cases),), math.inf)
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    for step in range(STEPS):
        slope, value = each(x, Y[cases], weights, shared, lefts)
        better = value < least
        best[better], least[better] = x[better], value[better]
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope.square()
        size = torch.tensor(rates)[:, None] * 0.1 ** sum(step >= part * STEPS / 8 for part in (3, 5, 7))
        x = x - size * first / (1 - 0.9 ** (step + 1)) / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
        x = x.clamp(0, 1)
    return [min(99.0, metrics.psnr(best[j].view(1, 1, 8, 8).clamp(0, 1), X[k : k + 1])) for j, k in enumerate(cases)]


def _extra(known: Any) -> list[Tensor]:
    """Return what is multiplied, entry by entry, or the matrix that projects; ones where nothing is known."""
    shapes = [p.shape for p in TASK.build(0).parameters()]
    if isinstance(known, Mask):
        return [torch.ones(shape) if m is None else m.float() for m, shape in zip(known.masks, shapes, strict=True)]
    if isinstance(known, Projection):
        pairs = zip(known.bases, shapes, strict=True)
        return [torch.ones(shape) if basis is None else (basis @ basis.T)[:, :, None] for basis, shape in pairs]
    return [torch.ones(shape) for shape in shapes]


def _left(gradient: Tensor, left: Tensor) -> Tensor:
    return left[:, :, 0] @ gradient if left.ndim == 3 else gradient * left


@functools.cache
def search(name: str, attacker: str) -> tuple[list[float], str, float]:
    """Choose distance and rate on other digits; search all cases with them."""
    told, scores = attacker == "search, told", {}
    for kind in dict.fromkeys(kind for kind, _ in settings(name, attacker)):
        grid = [(rate, k) for rate in RATES for k in VALIDATION]
        found = searched(name, told, kind, [rate for rate, _ in grid], [k for _, k in grid])
        for rate in RATES:
            scores[kind, rate] = sum(v for v, (r, _) in zip(found, grid, strict=True) if r == rate)
    kind, rate = max(scores, key=lambda one: scores[one])
    return searched(name, told, kind, [rate] * len(CASES), list(CASES)), repr(kind), rate


def dark_pixels(seen: federated.Observation, mean: Tensor) -> Tensor:
    """Fill the class's mean in where a row of negative deltas has a negative sign: there the pixel is not zero."""
    weights, biases = (t for t in seen.shared[:2] if t is not None)
    lit = (weights[biases < 0] < 0).double().mean(0) > 0.5
    return (lit.view(seen.input_shape) * mean).float()


@functools.cache
def learned(name: str, network: int, deep: bool) -> Any:
    attack = attacks.LearnedInversion(
        inputs=X[900:], labels=Y[900:], defense=defense_of(name, 0) or federated.Defense()
    )
    if deep:
        perceptron = MLPRegressor(hidden_layer_sizes=(200,), alpha=1.0, early_stopping=True, random_state=0)
        steps = (StandardScaler(), PCA(200, random_state=0), StandardScaler(), perceptron)
        attack = attack.replace(regressor=make_pipeline(*steps))
    return attack.fitted(observed(name, 4 * network), seed=network)


def privacy(name: str, attacker: str, k: int) -> dict[str, Any]:
    kin = X[900:][Y[900:] == Y[k]]
    extra: dict[str, Any] = {}
    if attacker.startswith("search"):
        values, kind, rate = search(name, attacker)
        value, extra = values[k], {"distance": kind, "rate": rate}
    else:
        seen = observed(name, k)
        if attacker == "divide":
            found = attacks.PPDL_AHE(seen).inputs
        elif attacker == "survivors":
            found = survivors(seen)
        elif attacker.startswith("learned"):
            found = learned(name, k // 4, attacker == "learned, network")(seen)[0]
        elif attacker == "InvGrad":
            found = attacks.InvGrad.replace(iterations=300)(seen, seed=k).inputs
        elif attacker == "dark pixels":
            found = dark_pixels(seen, (kin.sum(0) / (kin > 0).sum(0).clamp_min(1)))
        else:
            found = kin.mean(0, keepdim=True)
        value = float(metrics.psnr(found.float().view(1, *seen.input_shape), X[k : k + 1]))
    return {"psnr": round(min(99.0, value), 1)} | extra


def matched(rank: int, told: bool, k: int, rate: float) -> float:
    rows = slice(4 * k, 4 * k + 4)
    knows = ["labels", "defense"] if told else ["labels"]
    seen = federated.observe(TASK.build(k), X[rows], Y[rows], defense=PowerSGD(rank=rank), declare=knows, seed=k)
    optimizer = optimizers.Adam(lr=rate, schedule=optimizers.StepDecay())
    return float(metrics.psnr(SEARCH.replace(optimizer=optimizer, iterations=300)(seen, seed=k).inputs, X[rows]))


@functools.cache
def best_rate(rank: int, told: bool) -> float:
    return max(RATES, key=lambda rate: sum(min(99.0, matched(rank, told, k, rate)) for k in (12, 13)))


def batch(rank: int, told: bool, k: int) -> dict[str, Any]:
    rate = best_rate(rank, told)
    return {"psnr": round(min(99.0, matched(rank, told, k, rate)), 1), "rate": rate}


def cost(name: str) -> dict[str, Any]:
    training = utility.tuned(TASK, rates=(0.3, 1.0, 3.0), seeds=(5,), defense=TRAINED[name])
    found = utility.measure(training, seeds=SEEDS, defense=TRAINED[name])
    entries = sum(p.numel() for p in TASK.build(0).parameters()) * training.rounds
    return {
        "rate": training.local.lr,
        "accuracy": found["accuracy"].round(4).tolist(),
        "seconds": round(float(found["seconds"].median()), 2),
        "bits": round(float(found["megabytes"].mean()) * 8e6 / entries, 3),
    }


def bits(name: str) -> dict[str, Any]:
    defense = defense_of(name, 0) or federated.Defense()
    return {"bits": round(defenses.per_entry(defense, observed(name, 0).shared), 3)}


def ladder(name: str) -> list[str]:
    if name == "none":
        return ["guess", "search", "divide", "learned"]
    if name.startswith("pruning"):
        return ["search", "search, told", "divide", "survivors", "learned"]
    if name.startswith("random"):
        return ["search, told", "survivors"]
    if name.startswith("PowerSGD"):
        return ["search", "search, told", "divide"]
    if name == "signs":
        return ["search", "search, told", "dark pixels", "learned", "learned, network", "InvGrad"]
    return ["search", "divide", "learned"]


def plan() -> Iterator[tuple[dict[str, Any], Any]]:
    for name in DEFENSES:
        yield {"part": "bits", "defense": name}, functools.partial(bits, name)
    slow = [(name, attacker) for name in DEFENSES for attacker in ladder(name)]
    for name, attacker in sorted(slow, key=lambda one: "search" in one[1] or one[1] == "InvGrad"):
        for k in CASES:
            key = {"part": "privacy", "defense": name, "attacker": attacker, "case": k}
            yield key, functools.partial(privacy, name, attacker, k)
    for rank in (1, 2, 4):
        for told in (False, True):
            for k in range(12):
                key = {"part": "batch", "rank": rank, "told": told, "case": k}
                yield key, functools.partial(batch, rank, told, k)
    for name in TRAINED:
        yield {"part": "utility", "defense": name}, functools.partial(cost, name)


def main() -> None:
    resume("compression", COMMAND, plan())


if __name__ == "__main__":
    main()
