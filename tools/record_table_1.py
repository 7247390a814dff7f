"""The survey's Table 1, run: fifteen attacks, each on a setting of ours as near to its row as seconds on a CPU allow.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_table_1  # or: make table-1

A case is a network, pictures and a start, with seeds of their own. A row has one setting of its own. Some have a second
one with another batch; where the survey marks that training states are compared, there is one on a network that was
trained, on other windows of the photographs or on other digits. Attacks are the package's presets; what is changed of
them, mostly fewer iterations, is in ``changes``. Ten minutes on one core. Cases are kept one by one in
``data/recorded/table-1-cases.json``: a stopped run goes on, and a case whose attack has changed is measured again.
``table-1.json`` has a row for every setting, and is what ``survey.table_1(results=True)`` reads.
"""

from __future__ import annotations

import functools
import hashlib
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gilearn import arena, attacks, data, defenses, federated, generators, metrics, models, survey
from gilearn.attacks.iteration.optimizers import Adam, WarmupCosine
from tools.record_batch_norm import train, windows
from tools.record_honest_evaluation import pictures, victim
from tools.recording import record, resume

NAME, COMMAND = "table-1", "python -m tools.record_table_1"
FOUND = 30.0
"""A picture counts as found from this PSNR on, in dB: its root mean square error is 3 % of the range, or less."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting of a row.

    Args:
        row: The survey's name.
        part: ``"row"``, the row's own; ``"batch"``, a larger batch; ``"trained"``, a trained network.
        changes: What is changed of the preset, in words.
        attack: What runs.
        pixels: Of the pictures, in words.
        network: In words.
        victim: Returns a network for a seed.
        data: Returns pictures for a fold.
        batch: Examples whose mean gradient is shared.
        told: What the attacker is told beyond what was shared, in words.
        declare: Likewise, as ``federated.observe`` takes it.
        mode: Of the client.
        defense: Of the client.
        seeds: How many cases.
        run: What runs a case in place of the arena: more than one client's observation is needed.
    """

    row: str
    part: str = "row"
    attack: Any
    changes: str = "-"
    pixels: str
    network: str
    victim: Callable[..., nn.Module] = field(repr=False)
    data: Any = field(repr=False)
    batch: int = 1
    told: str = "-"
    declare: tuple[str, ...] = ()
    mode: str = "inference"
    defense: Any = None
    seeds: int = 10
    run: Callable[..., dict[str, Any]] | None = field(default=None, repr=False)

    @property
    def key(self) -> dict[str, Any]:
        ran = hashlib.sha256(repr(self.attack).encode()).hexdigest()[:12]
        return {"row": self.row, "part": self.part, "ran": ran}


def preset(row: str) -> str:
    """Return the row's implementation with all its defaults, as it is today: a record of another is stale."""
    found = survey.implementation(survey.find(row))
    if isinstance(found, type):  # GIAS, which wants a generator
        defaults = {f.name: f.default for f in found.__dataclass_fields__.values() if f.name in ("search", "refine")}
        return f"{found.__name__}({', '.join(f'{name}={value!r}' for name, value in defaults.items())})"
    return repr(found)


def photos(size: int, gray: bool = False) -> Callable[..., tuple[Tensor, Tensor]]:
    return functools.partial(_photos, size, gray)


def _photos(size: int, gray: bool, fold: int) -> tuple[Tensor, Tensor]:
    x, y = data.photos(size, fold=fold)
    return (x.mean(dim=1, keepdim=True) if gray else x), y


def digits(fold: int) -> tuple[Tensor, Tensor]:
    """Held out: the generator has not seen them, nor has a trained network."""
    return generators.held_out("digits", 100, fold=fold)


def patches(fold: int) -> tuple[Tensor, Tensor]:
    return data.faces(100, size=20, fold=fold)


@functools.cache
def plain(state: str, seed: int) -> nn.Module:
    """A ConvNet for photographs of 16 pixels, as it was drawn or trained on their windows."""
    net = models.convnet(size=16, widths=(16, 32, 32), seed=seed)
    if state == "trained":
        train(net, *windows(0), seed=seed)
    return net


@functools.cache
def of_digits(state: str, seed: int) -> nn.Module:
    """A ConvNet for digits, as it was drawn or trained on those that the generator was trained on."""
    net = models.convnet(1, size=8, widths=(16, 32, 32), seed=seed)
    if state == "trained":
        train(net, *(values[:320] for values in generators.training("digits")), seed=seed)
    return net


def single(seed: int) -> nn.Module:
    """One convolution, fully connected layers on top: PPDL-SPN reads the first layer alone."""
    return models.convnet(size=32, widths=(16,), strides=(2,), activation="sigmoid", seed=seed)


def wanting(seed: int) -> nn.Module:
    """Two convolutions, of which the second has too few filters: COPA's case."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 12, 3, 1, 1, bias=False),
            nn.LeakyReLU(0.2),
            nn.Conv2d(12, 6, 3, 2, 1, bias=False),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(6 * 4 * 4, 10, bias=False),
        )


def vertical(setting: Setting, seed: int) -> dict[str, Any]:
    """CAFE: a pool of 40 digits, batches of 10, 44 rounds whose rows are known."""
    x, y = (values[: setting.batch] for values in digits(seed))
    net = setting.victim(seed=seed)
    rounds = federated.vertical_rounds(net, x, y, batch_size=10, num_rounds=44, seed=seed, declare=["rows"])
    return scored(setting.attack(federated.Several(parts=tuple(rounds), size=len(x)), seed=seed), x, y)


def disaggregated(setting: Setting, seed: int) -> dict[str, Any]:
    """GradDisagg: sums over five of ten clients, forty rounds of one model; then iDLG on the first client alone."""
    x, y = setting.data(fold=seed)
    x = x.double()
    clients = [(x[k : k + 1], y[k : k + 1]) for k in range(len(x))]
    step = federated.LocalSteps(steps=1, lr=1.0)
    net = setting.victim(seed=seed).double()
    rounds = federated.fedavg(net, clients, step, num_rounds=40, per_round=5, server_lr=0.0, seed=seed)
    seen = federated.AggregatedRounds.of(list(rounds), declare=["participation"], window=5)
    one = survey.implementation(survey.find(setting.row))(seen).observations[0]
    return scored(setting.attack(one, seed=seed), *clients[0])


def mixture(setting: Setting, seed: int) -> dict[str, Any]:
    """A batch that comes back as one picture, which is compared with each."""
    x, y = (values[: setting.batch] for values in setting.data(fold=seed))
    result = setting.attack(federated.observe(setting.victim(seed=seed), x, y), seed=seed)
    psnr = metrics.psnr(result.inputs.expand_as(x), x)
    return {"status": "done", "psnr": psnr, "residual": result.residual}


def scored(result: attacks.Reconstruction, x: Tensor, y: Tensor) -> dict[str, Any]:
    return {
        "status": "done",
        "psnr": metrics.psnr(result.inputs, x),
        "labels": None if result.labels is None else metrics.label_accuracy(result.labels, y),
        "residual": result.residual,
    }


def single_client(setting: Setting, seed: int) -> dict[str, Any]:
    """A cell of the arena."""
    grid = arena.Grid(
        attacks={setting.row: setting.attack},
        victims={setting.network: setting.victim},
        data={setting.pixels: setting.data},
        defenses={"the setting's": setting.defense},
        knowledge={setting.told: setting.declare},
        clients={setting.mode: {"mode": setting.mode}},
        batches=(setting.batch,),
        seeds=(seed,),
    )
    (row,) = arena.run(grid).to_dict("records")
    return {name: row[name] for name in ("status", "reason", "psnr", "labels", "residual") if row[name] == row[name]}


def measure(setting: Setting, seed: int) -> dict[str, Any]:
    setting.victim(seed=seed)  # training is the client's time, not the attack's
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        row = (setting.run or single_client)(setting, seed)
    rounded = {"psnr": 2, "labels": 3, "residual": 8}
    row = {name: round(v, rounded[name]) if name in rounded else v for name, v in row.items() if v is not None}
    return row | {"seconds": round(time.process_time() - began, 2)}


def shortened(row: str, **changes: Any) -> Any:
    return survey.implementation(survey.find(row)).replace(**changes)


SHORT = 200
INVGRAD, SAPAG, GRADATTACK = (shortened(row, iterations=SHORT) for row in ("InvGrad", "SAPAG", "GradAttack"))
GRADINVERSION = shortened("GradInversion", iterations=40, restarts=2, parallel=2)
NOISE = defenses.GaussianNoise(std=1e-3)
CAFE = shortened(
    "CAFE",
    matching=attacks.CAFE.matching.replace(iterations=60, optimizer=Adam(lr=0.1, schedule=WarmupCosine(warmup=10))),
)
GIAS = attacks.GIAS(generator=generators.trained("digits"), shape=(16,))
GIAS = GIAS.replace(search=GIAS.search.replace(iterations=60), refine=GIAS.refine.replace(iterations=60))

_resnet = {"pixels": "16x16", "data": pictures}
_untrained = _resnet | {"network": "ResNet of one block", "victim": functools.partial(victim, "skip", "calibrated")}
_trained = _resnet | {
    "part": "trained",
    "network": "ResNet of one block, trained",
    "victim": functools.partial(victim, "skip", "trained"),
}
_labels = {"told": "labels", "declare": ("labels",)}
_lenet = {"pixels": "16x16", "network": "LeNet, no strides", "data": photos(16)}
_lenet |= {"victim": functools.partial(models.lenet, size=16, strides=(1, 1, 1))}
_invgrad = {"row": "InvGrad", "attack": INVGRAD, "changes": "200 of 4,800 iterations"} | _labels
_sapag = {"row": "SAPAG", "attack": SAPAG, "changes": "200 of 400 iterations"} | _labels
_gradattack = {"row": "GradAttack", "attack": GRADATTACK, "changes": "200 of 4,800 iterations", "mode": "training"}
_gradinv = {"row": "GradInversion", "attack": GRADINVERSION, "changes": "40 of 20,000 iterations, 2 of 8 starts"}
_bayesian = {
    "row": "Bayesian",
    "attack": attacks.Bayesian.replace(search=attacks.Bayesian.search.replace(iterations=150)),
}
_bayesian |= {"changes": "150 of 400 iterations", "told": "labels, noise", "declare": ("labels", "defense")}
_bayesian |= {"defense": NOISE, "pixels": "16x16", "data": pictures}
_gias = {"row": "GIAS", "attack": GIAS, "changes": "60 of 1,000 and 60 of 5,000 iterations", "pixels": "8x8"}
_gias |= {"data": digits, "batch": 4, "told": "labels, generator", "declare": ("labels",)}
_spn = {"row": "PPDL-SPN", "attack": attacks.PPDL_SPN, "pixels": "32x32", "network": "ConvNet of one convolution"}
_spn |= {"victim": single, "data": photos(32)}

SETTINGS: tuple[Setting, ...] = (
    Setting(row="DLG", attack=shortened("DLG", iterations=12, restarts=1), pixels="8x8", network="LeNet, no strides",
            changes="12 of 300 iterations, 1 of 3 starts", data=digits, batch=4,
            victim=functools.partial(models.lenet, 1, size=8, strides=(1, 1, 1))),
    Setting(row="iDLG", attack=shortened("iDLG", iterations=8, restarts=1), **_lenet,
            changes="8 of 300 iterations, 1 of 3 starts"),
    Setting(row="CPL", attack=shortened("CPL", iterations=6), changes="6 of 300 iterations", **_lenet),
    Setting(row="CPL", part="batch", attack=shortened("CPL", iterations=6), changes="6 of 300 iterations", **_lenet,
            batch=8),
    Setting(**_invgrad, **_untrained, batch=4),
    Setting(**_invgrad, **_trained, batch=4),
    Setting(**_sapag, **_untrained, batch=4),
    Setting(**_sapag, **_trained, batch=4),
    Setting(**_gradinv, **_untrained, batch=4),
    Setting(**_gradinv, **_trained, batch=4),
    Setting(row="GradDisagg", attack=attacks.iDLG.replace(iterations=8), told="participation", pixels="32x32",
            changes="iDLG, 8 of 300 iterations, on one client", network="MLP of 32 neurons", data=photos(32),
            victim=functools.partial(models.mlp, 3072, (32,)), run=disaggregated),
    Setting(**_gradattack, **_untrained, batch=4),
    Setting(**_gradattack, **_trained, batch=4),
    Setting(**_bayesian, network="ConvNet", victim=functools.partial(plain, "untrained")),
    Setting(**_bayesian, part="batch", network="ConvNet", victim=functools.partial(plain, "untrained"), batch=4),
    Setting(**_bayesian, part="trained", network="ConvNet, trained", victim=functools.partial(plain, "trained")),
    Setting(row="CAFE", attack=CAFE, changes="60 of 20,000 iterations at a higher, falling rate", pixels="8x8",
            network="Loop-Net", data=digits, told="rows of each batch", run=vertical, batch=40,
            victim=functools.partial(models.loop_net, (1, 8, 8), widths=(24,), hidden=(16, 8))),
    Setting(**_gias, network="ConvNet", victim=functools.partial(of_digits, "untrained")),
    Setting(**_gias, part="trained", network="ConvNet, trained", victim=functools.partial(of_digits, "trained")),
    Setting(row="PPDL-AHE", attack=attacks.PPDL_AHE, pixels="20x20", network="MLP", data=patches, seeds=24,
            victim=functools.partial(models.mlp, 400, (64,), 2)),
    Setting(**_spn),
    Setting(**_spn, part="batch", batch=8, run=mixture),
    Setting(row="R-GAP", attack=attacks.RGAP.replace(exact_rank_up_to=0), changes="ranks bounded, not measured",
            pixels="32x32", network="ConvNet (CNN6)", data=photos(32),
            victim=functools.partial(models.cnn6, num_classes=10)),
    Setting(row="COPA", attack=attacks.COPA.replace(exact_rank_up_to=0, tolerance=1e-10),
            changes="ranks bounded, tolerance 1e-10", pixels="8x8", network="ConvNet, rank deficient", data=photos(8),
            victim=wanting),
)  # fmt: skip


def plan() -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """Every row's own setting first, case by case."""
    for own in (True, False):
        for seed in range(max(setting.seeds for setting in SETTINGS)):
            for setting in SETTINGS:
                if (setting.part == "row") == own and seed < setting.seeds:
                    yield setting.key | {"seed": seed}, functools.partial(measure, setting, seed)


def summary(setting: Setting, cases: list[dict[str, Any]]) -> dict[str, Any]:
    """A row of ``table-1.json``: the setting, and what came out over its cases."""
    told = asdict(setting)
    keep = ("row", "part", "pixels", "network", "batch", "told", "mode", "changes")
    row = {name: told[name] for name in keep} | {"preset": preset(setting.row), "ran": repr(setting.attack)}
    own = [case for case in cases if setting.key.items() <= case.items()]
    done = [case["psnr"] for case in own if case["status"] == "done"]
    row |= {"cases": len(own), "refused": sum(case["status"] == "refused" for case in own)}
    if not done:
        return row | {"reason": own[0]["reason"]}
    mean, share = (
        metrics.interval(done),
        metrics.success_rate(case["status"] == "done" and case["psnr"] >= FOUND for case in own),
    )
    row |= {"psnr": mean.estimate, "low": mean.low, "high": mean.high, "least": min(done), "most": max(done)}
    row |= {"found": share.estimate, "found_low": share.low, "found_high": share.high}
    known_labels = [case["labels"] for case in own if "labels" in case]
    row |= {"labels": float(np.mean(known_labels))} if known_labels else {}
    row |= {"seconds": float(np.median([case["seconds"] for case in own]))}
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()}


def main() -> None:
    cases = resume(f"{NAME}-cases", COMMAND, plan(), hidden=("ran",))
    record(NAME, COMMAND, [summary(setting, cases) for setting in SETTINGS])


if __name__ == "__main__":
    from tools.record_table_1 import main as run_main  # a partial's repr names the module, not the script

    run_main()
