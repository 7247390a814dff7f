"""Every attack of the survey's Table 1 against every defense of its Table 2, on digits and on pictures of 32 pixels.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_grid [CASES]  # or: make table-2

A case is a network, pictures, a start and draws with seeds of their own, the same for all defenses. ``alone``: the
attack as Table 1 has it, with fewer iterations, and without a word of the defense: local steps are taken for one
gradient, and the Bayesian attack supposes a little noise whatever there is. ``told``: searches that know the label and
the defense. ``control``: one thing changed, where the chapter says why a cell is what it is. ``guess``: the mean of
public pictures. A client has one example, and four where the defense is a sum over clients, mixes examples, or is the
batch itself; GradDisagg sees sums over two of four clients, and CAFE a pool of ten examples. GIAS has faces of 25
pixels, GradDisagg, CAFE and COPA gray photographs. Of Paillier and BatchCrypt the sums are there without the ciphers,
which do not change a bit of them. A batch that comes back as one picture is compared with each of its examples. With
dropout the client computes in training mode.

``ran`` identifies the attack, defense, network, data, knowledge and client of a row: a row that has changed is measured
again. PSNR is in dB, cut to 0 to 99. What the file holds is kept, case by case. Seven minutes a case on two cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gilearn import arena, attacks, defenses, federated, generators, metrics, survey
from gilearn.attacks import bayesian, labels, masks
from gilearn.attacks.iteration.optimizers import Adam, WarmupCosine
from gilearn.federated import Aggregation, LocalSteps, Observation
from tools import grid_victims as victims
from tools.record_homomorphic import InTheOpen
from tools.recording import known, record
from tools.table_2_defenses import defense, opened

NAME, COMMAND = "grid", "python -m tools.record_grid"
FOLDER = Path(__file__).resolve().parents[1] / "_build" / "grid"
ROWS = ("none", *(row.name for row in survey.TABLE_2))
LOCAL = LocalSteps(steps=10, lr=0.01)
NETWORKS = {
    victims.lenet: "LeNet without strides (pictures: one wide convolution)",
    victims.normalized: "ConvNet with batch normalization, adapted to public pictures",
    victims.convolutional: "ConvNet without normalization",
    victims.perceptron: "perceptron with 32 hidden neurons",
    victims.loop_net: "vertical network of four parties",
    victims.single: "one convolution, one fully connected layer",
    victims.cnn6: "R-GAP's CNN6",
    victims.wanting: "two convolutions, the second with too few filters",
}
"""What the attacks' victims are, in words."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How an attack is run on one kind of pictures.

    Args:
        attack: What runs.
        victim: Returns a network for a form and a seed.
        kind: Of the pictures.
        declare: What the attacker is told beyond what was shared; nothing of the defense.
        mode: Of the client.
        changes: What is changed of the preset, in words.
        deficient: Where the network of deficient rank comes from, if not from ``victim``.
        how: What adds the clients' gradients, in place of the row's aggregation.
    """

    attack: Callable[..., Any]
    victim: functools.partial[nn.Module] = field(repr=False)
    kind: str
    declare: tuple[str, ...] = ()
    mode: str = "inference"
    changes: str = "-"
    deficient: Callable[..., nn.Module] | None = field(default=None, repr=False)
    how: Aggregation | None = None


def preset(row: str, **changes: Any) -> Any:
    return survey.implementation(survey.find(row)).replace(**changes)


def single(model: nn.Module, x: Tensor, y: Tensor, *, local: LocalSteps | None = None, **told: Any) -> Observation:
    """What one client shares. An attacker who does not know of local steps takes their mean for a gradient."""
    if local is None or "defense" in told["declare"]:
        return federated.observe(model, x, y, local=local, **told)
    seen = federated.observe(model, x, y, local=local, **told)
    scale = 1 / (local.lr * local.steps)
    return seen.replace(local=None, shared=tuple(None if g is None else scale * g for g in seen.shared))


def clients_of(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Four clients with the same number of examples."""
    return list(zip(x.chunk(4), y.chunk(4), strict=True))


def summed(model: nn.Module, x: Tensor, y: Tensor, *, how: Aggregation, **told: Any) -> federated.Aggregate:
    """The mean of four clients' gradients, behind an aggregation."""
    step = LocalSteps(steps=1, lr=1.0)
    (one,) = federated.fedavg(model, clients_of(x, y), step, num_rounds=1, aggregation=how, **told)
    return one.aggregate().replace(local=None)  # a step of length 1 is the gradient


def many(
    model: nn.Module, x: Tensor, y: Tensor, *, how: Any = "mean", local: LocalSteps | None = None, **told: Any
) -> federated.AggregatedRounds:
    """GradDisagg's view: sixteen rounds of one model, two of four clients in each, and how often each took part."""
    rounds = federated.fedavg(
        model, clients_of(x, y), local or LocalSteps(steps=1, lr=1.0), num_rounds=16, per_round=2, server_lr=0.0,
        aggregation=how, defense=told["defense"], declare=[n for n in told["declare"] if n != "defense"],
        seed=told["seed"],
    )  # fmt: skip
    scale = 1.0 if local is None else 1 / (local.lr * local.steps)
    seen = federated.AggregatedRounds.of(list(rounds), declare=["participation"], window=4)
    parts = (
        one.replace(local=None, shared=tuple(None if g is None else scale * g for g in one.shared))
        for one in seen.parts
    )
    return seen.replace(parts=tuple(parts))


def apart(seen: federated.AggregatedRounds, *, seed: int, then: attacks.Attack) -> attacks.Reconstruction:
    """GradDisagg, and a search on every client's own gradient."""
    alone = attacks.GradDisagg(seen, time_limit=30.0)
    found = [then(one, seed=seed + k) for k, one in enumerate(alone.observations)]
    first = found[0]
    kinds = None if first.labels is None else torch.cat([one.labels for one in found if one.labels is not None])
    seconds = alone.seconds + sum(one.seconds for one in found)
    return attacks.Reconstruction(
        inputs=torch.cat([one.inputs for one in found]), labels=kinds, residual=alone.residual, seconds=seconds,
        attack=repr(then),
    )  # fmt: skip


def pooled(
    model: nn.Module, x: Tensor, y: Tensor, *, how: Any = None, local: LocalSteps | None = None, **told: Any
) -> federated.Several:
    """CAFE's view: twenty rounds of a vertical federation over a pool, four examples in each."""
    if how is not None:
        raise ValueError("how: got a protected sum over clients, and the parties of a vertical federation share none")
    if local is not None:
        raise ValueError("local: got local steps, and a vertical federation shares every step")
    rounds = federated.vertical_rounds(model, x, y, batch_size=4, num_rounds=20, **told)
    return federated.Several(parts=tuple(rounds), size=len(x))


def read(seen: Observation, *, seed: int, then: attacks.Attack) -> attacks.Reconstruction:
    """Put the dropout layer into the model, read its mask off the classifier's gradient, and search with it."""
    dropping = seen.replace(model=defenses.Dropout(p=0.5).insert(seen.model))
    return then(dropping.replace(knowledge={**seen.knowledge, "masks": masks.read(dropping)}), seed=seed)


def repeated(seen: Observation, *, seed: int, then: attacks.Attack) -> attacks.Reconstruction:
    """A closed form that makes one picture of a batch: it stands for every example."""
    found = then(seen, seed=seed)
    return dataclasses.replace(found, inputs=found.inputs.expand(seen.batch_size, *found.inputs.shape[1:]))


def on(kind: str) -> dict[str, Setting]:
    """Return the settings of the attacks of Table 1 on digits, or on pictures of 32 pixels."""
    digits = kind == "digits"
    gray, faces = ("digits", "digits") if digits else ("gray", "faces")
    photo = "digits" if digits else "photos"
    steps = 6 if digits else 16
    lbfgs = {"victim": functools.partial(victims.lenet, photo), "kind": photo}
    short = f"{steps} of 300 iterations, one start"
    norm = {"victim": functools.partial(victims.normalized, photo), "kind": photo}
    told = {"declare": ("labels",)}
    plain = functools.partial(victims.convolutional, photo)
    supposed = attacks.Bayesian.search.replace(iterations=80)
    inversion = preset("GradInversion", iterations=60, restarts=2, parallel=2)
    weak = tuple(term.replace(weight=1e-3 * term.weight) for term in inversion.regularizers)
    gias = attacks.GIAS(generator=generators.trained(faces), shape=(16 if digits else 32,))
    falling = Adam(lr=0.1, schedule=WarmupCosine(warmup=10))
    idlg = preset("iDLG", iterations=steps, restarts=1)
    return {
        "DLG": Setting(attack=preset("DLG", iterations=steps, restarts=1), changes=short, **lbfgs),
        "iDLG": Setting(attack=idlg, changes=short, **lbfgs),
        "CPL": Setting(attack=preset("CPL", iterations=steps, restarts=1), changes=short, **lbfgs),
        "InvGrad": Setting(
            attack=preset("InvGrad", iterations=100), changes="100 of 4,800 iterations", **norm, **told
        ),
        "SAPAG": Setting(attack=preset("SAPAG", iterations=100), changes="100 of 400 iterations", **norm, **told),
        "GradInversion": Setting(
            attack=inversion.replace(regularizers=weak),
            changes="60 of 20,000 iterations, two of eight starts, its terms at a thousandth", **norm,
        ),
        "GradDisagg": Setting(
            attack=functools.partial(apart, then=idlg.replace(iterations=6)), kind=gray,
            victim=functools.partial(victims.perceptron, gray), changes="then iDLG with 6 of 300 iterations, one start",
        ),
        "GradAttack": Setting(
            attack=preset("GradAttack", iterations=100), changes="100 of 4,800 iterations", mode="training", **norm
        ),
        "Bayesian": Setting(
            attack=attacks.Bayesian.replace(search=supposed, likelihood=bayesian.Normal(std=1e-3)), victim=plain,
            kind=photo, changes="80 of 400 iterations; noise of .001 is supposed", **told,
        ),
        "CAFE": Setting(
            attack=attacks.CAFE.replace(
                matching=attacks.CAFE.matching.replace(iterations=45, optimizer=falling)
            ),
            victim=functools.partial(victims.loop_net, gray), kind=gray, declare=("rows",),
            changes="45 of 20,000 iterations at a higher, falling rate",
        ),
        "GIAS": Setting(
            attack=gias.replace(search=gias.search.replace(iterations=40), refine=gias.refine.replace(iterations=40)),
            victim=functools.partial(victims.convolutional, faces), kind=faces,
            changes="40 of 1,000 and 40 of 5,000 iterations", **told,
        ),
        "PPDL-AHE": Setting(
            attack=functools.partial(repeated, then=attacks.PPDL_AHE), kind=photo,
            victim=functools.partial(victims.perceptron, photo),
        ),
        "PPDL-SPN": Setting(
            attack=functools.partial(repeated, then=attacks.PPDL_SPN), kind=photo,
            victim=functools.partial(victims.single, photo),
        ),
        "R-GAP": Setting(
            attack=preset("R-GAP", exact_rank_up_to=0), victim=functools.partial(victims.cnn6, photo), kind=photo,
            changes="ranks bounded, not measured",
            deficient=functools.partial(victims.wanting, photo) if digits else None,
        ),
        "COPA": Setting(
            attack=preset("COPA", exact_rank_up_to=0), victim=functools.partial(victims.wanting, gray), kind=gray,
            changes="ranks bounded, not measured",
        ),
    }  # fmt: skip


SETTINGS = {kind: on(kind) for kind in ("digits", "pictures")}


def knowing(kind: str) -> dict[str, Setting]:
    """Return searches that know the label and the defense, by the rows that they are for."""
    photo, steps = ("digits", 12) if kind == "digits" else ("photos", 20)
    search = attacks.iDLG.replace(labels=labels.Declared(), iterations=steps, restarts=1)
    base = {"kind": photo, "declare": ("labels", "defense"), "victim": functools.partial(victims.lenet, photo)}
    matched = Setting(attack=search, changes="matching through the simulated defense", **base)
    likely = Setting(
        attack=attacks.Bayesian.replace(search=attacks.Bayesian.search.replace(iterations=150)),
        changes="the likelihood of the declared noise, total variation", **base,
    )  # fmt: skip
    smooth = Setting(attack=preset("InvGrad", iterations=200), changes="InvGrad through the simulated defense", **base)
    return {
        "Depth and batches": matched,
        "Local iterations": matched,
        "Dropout": Setting(attack=functools.partial(read, then=search), changes="the mask is read", **base),
        "Soteria": Setting(attack=attacks.Bypass(attack=search), changes="the pruned tensor is left out", **base),
        "Gradient pruning": matched,
        "PowerSGD": matched,
        "LDP-Fed": smooth,
        "NbAFL": smooth,
        "H-FL": Setting(attack=attacks.Bypass(attack=search), changes="the noisy tensors are left out", **base),
        "Fed-CDP": smooth,
        "Iterative privacy bounds": likely,
        "Adversary instantiation": likely,
    }


TOLD = {kind: knowing(kind) for kind in ("digits", "pictures")}


def controls(kind: str) -> Iterator[tuple[str, str, Setting]]:
    """Yield attacks of which one thing is changed, with the rows that they are for.

    The search of ``told`` that knows the label and not the defense; SAPAG and InvGrad with each other's distance;
    DLG and InvGrad on BatchCrypt's sums, with the clipping alone and with the rounding alone.
    """
    told, own = TOLD[kind], SETTINGS[kind]
    blind = dataclasses.replace(told["Local iterations"], declare=("labels",))
    for row in ("none", "Local iterations", "Dropout", "Soteria", "Gradient pruning", "PowerSGD", "H-FL"):
        yield "search, not told", row, blind
    if kind != "digits":
        return
    for name, other in (("SAPAG", "InvGrad"), ("InvGrad", "SAPAG")):
        attack = own[name].attack.replace(distance=own[other].attack.distance)
        for row in ("none", "Soteria", "H-FL"):
            yield f"{name}, distance of {other}", row, dataclasses.replace(own[name], attack=attack)
    for name in ("DLG", "InvGrad"):
        for arm in ("clip", "round"):
            alone = dataclasses.replace(own[name], how=InTheOpen(bits=8, arm=arm))
            yield f"{name}, {arm} alone", "BatchCrypt", alone


@dataclass(frozen=True, kw_only=True)
class Line:
    """One attack against one row, on one kind of pictures: a grid of the arena with as many cells as seeds."""

    part: str
    pictures: str
    attack: str
    row: str
    setting: Setting

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.part, self.pictures, self.attack, self.row

    def grid(self, seed: int) -> arena.Grid:
        own, row = self.setting, self.row
        victim = own.deficient if row == "Rank analysis" and own.deficient else own.victim
        form = {"Rank analysis": "deficient", "Fewer parameters": "few"}.get(row, "plain")
        local = LOCAL if row == "Local iterations" else None
        protects = own.how or opened(row)
        mode = "training" if row == "Dropout" else own.mode
        client: dict[str, Any] = {"mode": mode}
        if self.attack == "GradDisagg":
            several = protects or "mean"
            client["observe"], batch = functools.partial(many, how=several, local=local), 4
        elif self.attack == "CAFE":
            client["observe"], batch = functools.partial(pooled, how=protects, local=local), 10
        elif protects is not None:
            client["observe"], batch = functools.partial(summed, how=protects), 4
        else:
            client["observe"] = functools.partial(single, local=local)
            batch = 4 if row in ("MixUp", "InstaHide", "Depth and batches") else 1
        if self.attack == "GradDisagg" and row in ("MixUp", "InstaHide", "Depth and batches"):
            batch = 16
        return arena.Grid(
            attacks={self.attack: own.attack},
            victims={form: functools.partial(victim, form)},
            data={own.kind: functools.partial(victims.pictures, own.kind)},
            defenses={row: defense(row, 2 if own.kind == "digits" else 4 if own.kind != "faces" else 5)},
            knowledge={", ".join(own.declare) or "nothing": own.declare},
            clients={mode: client},
            batches=(batch,),
            seeds=(seed,),
        )

    @functools.cached_property
    def ran(self) -> str:
        """A checksum of all that determines the line, but for the seed and the versions."""
        (cell,) = self.grid(0).cells()
        texts = {axis: text for axis, text in cell.texts.items() if axis != "seed"}
        return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:12]


def lines() -> Iterator[Line]:
    """Every line of the record, in order."""
    for pictures, settings in SETTINGS.items():
        for attack, setting in settings.items():
            for row in ROWS:
                yield Line(part="alone", pictures=pictures, attack=attack, row=row, setting=setting)
        for row, setting in TOLD[pictures].items():
            yield Line(part="told", pictures=pictures, attack="search", row=row, setting=setting)
        for attack, row, setting in controls(pictures):
            yield Line(part="control", pictures=pictures, attack=attack, row=row, setting=setting)


def digests() -> dict[tuple[str, str, str, str], str]:
    """Return what identifies every line as it would run today, by part, pictures, attack and row."""
    return {line.key: line.ran for line in lines()}


def guessed(setting: Setting, seed: int) -> float:
    """The PSNR of the mean picture, against the first example of the case."""
    x, y = victims.pictures(setting.kind, seed)
    row = int(torch.randperm(len(x), generator=torch.Generator().manual_seed(seed + 3_000_000))[0])
    return round(float(metrics.psnr(victims.guess(setting.kind, int(y[row]))[None], x[row : row + 1])), 2)


def result(row: dict[str, Any]) -> tuple[float | None, str, str | None]:
    if row["status"] != "done":
        return None, row["status"], row["reason"]
    return clipped(float(row["psnr"])), "done", None


def clipped(value: float) -> float:
    """Return a PSNR in dB from 0 to 99."""
    return 0.0 if math.isnan(value) else round(min(99.0, max(0.0, value)), 1)


def run(number: int, *, workers: int = 2) -> None:
    """Measure what is missing of so many cases, and keep it after every case."""
    planned = {line.key: line for line in lines()}
    kept: dict[Any, dict[str, Any]] = {}
    for cell in known(NAME, {"cells": []})["cells"]:
        key = (cell["part"], cell["pictures"], cell["attack"], cell["row"])
        if key in planned and planned[key].ran == cell["ran"]:
            kept[key] = cell | {"psnr": [None if value is None else clipped(value) for value in cell["psnr"]]}
    for seed in range(number):
        missing = [line for key, line in planned.items() if len(kept.get(key, {"psnr": ()})["psnr"]) <= seed]
        if not missing:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = arena.run(*(line.grid(seed) for line in missing), folder=FOLDER, workers=workers)
        for line, row in zip(missing, table.to_dict("records"), strict=True):
            names = dict(zip(("part", "pictures", "attack", "row"), line.key, strict=True))
            cell = kept.setdefault(line.key, {**names, "psnr": [], "status": [], "reason": None, "ran": line.ran})
            value, status, reason = result(row)
            cell["psnr"].append(value)
            cell["status"].append(status)
            cell["reason"] = cell["reason"] or reason
        write([kept[key] for key in planned if key in kept])
        print(f"case {seed}: {len(missing)} cells", flush=True)
    if kept:  # words about the attacks may have changed
        write([kept[key] for key in planned if key in kept])


def write(cells: list[dict[str, Any]]) -> None:
    number = max(len(cell["psnr"]) for cell in cells)
    guesses = [
        {"attack": attack, "pictures": pictures, "psnr": [guessed(setting, seed) for seed in range(number)]}
        for pictures, settings in SETTINGS.items()
        for attack, setting in {**settings, "search": TOLD[pictures]["Soteria"]}.items()
    ]
    told = {
        pictures: {
            attack: {
                "kind": one.kind,
                "network": NETWORKS[one.victim.func],
                "told": ", ".join(one.declare) or "-",
                "mode": one.mode,
                "changes": one.changes,
            }
            for attack, one in settings.items()
        }
        for pictures, settings in SETTINGS.items()
    }
    record(NAME, COMMAND, {"cells": cells, "guess": guesses, "attacks": told})


if __name__ == "__main__":
    from tools.record_grid import run as run_cases  # a partial's text names the module, not the script

    arguments = argparse.ArgumentParser(description="Run every attack of Table 1 against every defense of Table 2.")
    arguments.add_argument("cases", type=int, nargs="?", default=10, help="how many cases a cell; by default ten")
    run_cases(arguments.parse_args().cases)
