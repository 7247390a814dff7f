"""The arena: every cell runs once, whatever is killed, and what a cell is called by determines what comes out."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import random
import re
import signal
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import gilearn
from gilearn import arena, attacks, data, defenses, federated, metrics, models
from gilearn.arena import __main__ as command
from gilearn.arena import files, grid
from gilearn.attacks import Attack, Reconstruction, labels


@dataclass(frozen=True, kw_only=True)
class Guess(Attack):
    """Returns noise after a pause, and leaves a line in a log."""

    pause: float = 0.0

    def reconstruct(self, seen, *, seed, snapshots, progress, time_limit):
        if "ARENA_LOG" in os.environ:
            with open(os.environ["ARENA_LOG"], "a") as log:  # a short line is appended in one piece
                log.write(f"{seed - 2_000_000} {self.pause}\n")
        time.sleep(self.pause)
        inputs = torch.randn(seen.batch_size, *seen.input_shape, generator=torch.Generator().manual_seed(seed))
        known = torch.zeros(seen.batch_size, dtype=torch.int64)
        return Reconstruction(inputs=inputs, labels=known, residual=1.0, seconds=0.0, attack=repr(self), seed=seed)


def small(**changes):
    x = torch.rand(9, 4, generator=torch.Generator().manual_seed(0))
    given = {
        "attacks": {"guess": Guess()},
        "victims": {"mlp": partial(models.mlp, 4, (3,), 3)},
        "data": {"random": (x, torch.arange(9) % 3)},
        "seeds": (0, 1),
    }
    return arena.Grid(**(given | changes))


def one(**changes):
    (cell,) = small(**({"seeds": (0,)} | changes)).cells()
    return cell


def row(**changes):
    found = arena.run(small(**({"seeds": (0,)} | changes)))
    assert len(found) == 1
    return found.iloc[0]


def same(table, other, without=("seconds",)):
    pd.testing.assert_frame_equal(table.drop(columns=list(without)), other.drop(columns=list(without)))


# What comes out


def test_a_cell_is_what_it_would_be_by_hand():
    attack = attacks.InvGrad.replace(iterations=3)
    defense = defenses.GaussianNoise(std=1e-3)
    found = row(
        attacks={"InvGrad": attack},
        defenses={"noise": defense},
        victims={"convnet": partial(models.convnet, size=12, batch_norm=True)},
        data={"photos": partial(data.photos, 12)},
        knowledge={"labels": ["labels"]},
        clients={"inference": {"mode": "inference"}},
        batches=(2,),
        seeds=(3,),
    )
    x, y = data.photos(12, seed=3, fold=3)
    rows = torch.randperm(10, generator=torch.Generator().manual_seed(3_000_003))[:2]
    model = models.convnet(size=12, batch_norm=True, seed=3).eval()
    seen = federated.observe(model, x[rows], y[rows], declare=["labels"], defense=defense, seed=1_000_003)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    result = attack(seen, seed=2_000_003)
    torch.set_num_threads(before)
    assert found.status == "done"
    assert found.reason is None
    assert found.psnr == metrics.psnr(result.inputs, x[rows])
    assert found.ssim == metrics.ssim(result.inputs, x[rows])
    assert (found.labels, found.residual) == (1.0, result.residual)
    assert found.seconds > 0
    for part in ("InvGrad", "noise", "convnet", "photos", "labels", "inference", 2, 3):
        assert part in found.tolist()
    for part in ("iterations=3", "TotalVariation", "std=0.001", "batch_norm=True", "gilearn.data.photos", "inference"):
        assert part in found.ran


def test_the_axes_multiply_in_order_and_a_smaller_batch_is_part_of_a_larger_one():
    shapes = {}

    def attack(seen, *, seed):
        shapes[seed, seen.batch_size] = seen.known("labels").tolist()
        return Guess()(seen, seed=seed)

    found = arena.run(small(attacks={"seeing": attack}, knowledge={"labels": ["labels"]}, batches=(1, 3), seeds=(0, 5)))
    assert found[["batch", "seed"]].to_numpy().tolist() == [[1, 0], [1, 5], [3, 0], [3, 5]]
    for seed in (2_000_000, 2_000_005):
        assert shapes[seed, 3][:1] == shapes[seed, 1]
    assert list(found.columns) == [*grid.AXES, *arena.running.RESULT, "ran", "source", "cell"]


def test_an_attack_gets_an_observation_and_draws_nothing_that_the_client_drew():
    got, drawn = [], []

    @dataclass(frozen=True, kw_only=True)
    class Watched(federated.Defense):
        def shared(self, gradients, client):
            drawn.append(client.generator.initial_seed())
            return gradients

    def attack(*arguments, **options):
        got.append((arguments, options))
        return Guess()(*arguments, **options)

    x, y = torch.linspace(0, 1, 12).view(3, 4), torch.arange(3)
    arena.run(small(attacks={"spy": attack}, defenses={"watched": Watched()}, data={"mine": (x, y)}, seeds=(7,)))
    (((seen,), options),) = got
    assert isinstance(seen, federated.Observation)
    assert not seen.knowledge
    assert set(options) == {"seed"}
    assert len({*drawn, options["seed"], 7}) == 3


def test_a_seed_that_is_given_stays():
    fixed, free = (
        one(victims={"mlp": partial(models.mlp, 4, (3,), 3, **seed)}, seeds=(5,)) for seed in ({"seed": 1}, {})
    )
    built = [arena.running._built(cell.parts["victim"], 5)[1].weight for cell in (fixed, free)]
    assert torch.equal(built[0], models.mlp(4, (3,), 3, seed=1)[1].weight)
    assert torch.equal(built[1], models.mlp(4, (3,), 3, seed=5)[1].weight)


def test_networks_and_clients():
    training = []

    def attack(seen, *, seed):
        training.append((seen.model.training, seen.local))
        return Guess()(seen, seed=seed)

    model = models.mlp(4, (3,), 3).eval()
    local = federated.LocalSteps(steps=2, lr=0.1)
    clients = {"own": {}, "training": {"mode": "training"}, "steps": {"local": local, "device": "cpu"}}
    found = arena.run(small(attacks={"a": attack}, victims={"net": model}, clients=clients, seeds=(0,)))
    assert training == [(False, None), (True, None), (False, local)]
    assert set(found.status) == {"done"}
    assert not model.training


def test_a_defense_that_depends_on_the_network():
    def as_many(model):
        return defenses.GaussianNoise(std=float(sum(p.numel() for p in model.parameters())))

    known = []

    def attack(seen, *, seed):
        known.append(seen.known("defense").noise)
        return Guess()(seen, seed=seed)

    arena.run(small(attacks={"a": attack}, defenses={"d": as_many}, knowledge={"d": ["defense"]}, seeds=(0,)))
    assert known == [(("normal", 4 * 3 + 3 + 3 * 3 + 3),)]


def behind(model, x, y, *, how, **options):
    clients = [(x[k : k + 1], y[k : k + 1]) for k in range(len(x))]
    (only,) = federated.fedavg(model, clients, federated.LocalSteps(steps=1, lr=1.0), aggregation=how, **options)
    return only.aggregate()


def test_what_an_attacker_sees_of_several_clients():
    got = []

    def attack(seen, *, seed):
        got.append(seen)
        return Guess()(seen, seed=seed)

    clients = {how: {"observe": partial(behind, how=how, num_rounds=1), "mode": "inference"} for how in ("mean", "sum")}
    noise = defenses.GaussianNoise(std=1e-3)
    cells = {"attacks": {"a": attack}, "knowledge": {"l": ["labels"]}, "defenses": {"n": noise}}
    found = arena.run(small(**cells, clients=clients, batches=(3,), seeds=(2,)))
    assert found.client.tolist() == ["mean", "sum"]
    assert found.cell.nunique() == 2
    for seen, kind in zip(got, ("mean", "sum"), strict=True):
        x = torch.rand(9, 4, generator=torch.Generator().manual_seed(0))
        rows = torch.randperm(9, generator=torch.Generator().manual_seed(3_000_002))[:3]
        own = behind(
            models.mlp(4, (3,), 3, seed=2).eval(), x[rows], (torch.arange(9) % 3)[rows], how=kind, num_rounds=1,
            declare=("labels",), defense=noise, seed=1_000_002,
        )  # fmt: skip
        assert seen.counts == (1, 1, 1)
        assert seen.known("labels").tolist() == (rows % 3).tolist()
        for a, b in zip(seen.shared, own.shared, strict=True):
            assert torch.equal(a, b)


def test_observe_has_to_be_a_function():
    with pytest.raises(ValueError, match="clients.sum.observe: got 'sum', wanted a function"):
        small(clients={"sum": {"observe": "sum"}})


def test_clients_are_mappings():
    with pytest.raises(ValueError, match="clients.a: got a list, wanted a mapping of mode, device"):
        small(clients={"a": ["observe"]})
    with pytest.raises(ValueError, match="clients.a: got a int, wanted a mapping of mode, device"):
        small(clients={"a": 5})


def whole_round(model, x, y, **options):
    return next(federated.fedavg(model, [(x, y)], federated.LocalSteps(steps=1, lr=1.0), num_rounds=1, **options))


def the_batch_itself(model, x, y, **options):
    return x, y


@pytest.mark.parametrize(("observe", "got"), [(whole_round, "Round"), (the_batch_itself, "tuple")])
def test_an_attack_of_one_s_own_gets_an_observation_or_nothing(observe, got):
    """A round holds every client's observation, which is not what a server behind an aggregation has."""
    reached = []

    def attack(seen, *, seed):
        reached.append(seen)

    found = row(attacks={"a": attack}, clients={"c": {"observe": observe}})
    assert not reached
    assert (found.status, found.reason) == (
        "refused",
        f"clients.observe: returned a {got}, wanted an Observation, Aggregate, AggregatedRounds or Several",
    )


def many_rounds(model, x, y, *, declare, **options):
    clients = [(x[k : k + 1], y[k : k + 1]) for k in range(len(x))]
    how = {"local": federated.LocalSteps(steps=1, lr=1.0), "num_rounds": 4, "server_lr": 0.0, "per_round": 2}
    return federated.AggregatedRounds.of(
        list(federated.fedavg(model, clients, **how, **options)), declare=declare, window=2
    )


def vertical(model, x, y, **options):
    ran = federated.vertical_rounds(model, x, y, batch_size=2, num_rounds=3, **options)
    return federated.Several(parts=tuple(ran), size=len(x))


@pytest.mark.parametrize(
    ("observe", "declared", "kind", "net"),
    [
        (many_rounds, ("participation",), federated.AggregatedRounds, partial(models.mlp, 4, (3,), 3)),
        (vertical, ("rows",), federated.Several, partial(models.loop_net, (4,), 3, parties=2, hidden=(3,))),
    ],
    ids=["rounds", "vertical"],
)
def test_sums_of_rounds_and_pools_are_observations_too(observe, declared, kind, net):
    reached = []

    def attack(seen, *, seed):
        reached.append(seen)
        one = seen.parts[0]
        inputs = torch.zeros(3, *one.input_shape)
        return Reconstruction(inputs=inputs, labels=None, residual=1.0, seconds=0.0, attack="a", seed=seed)

    named = {"observe": partial(told, observe, declared), "mode": "inference"}
    found = row(attacks={"a": attack}, victims={"v": net}, clients={"c": named}, batches=(3,))
    assert found.status == "done", found.reason
    assert isinstance(reached[0], kind)


def told(observe, declared, model, x, y, *, declare, **options):
    return observe(model, x, y, declare=[*declare, *declared], **options)


def too_few(model, x=None, y=None, **options):
    raise ValueError("clients: got one, wanted two")


def of_some_class(name, model):
    return too_few(model)


@pytest.mark.parametrize("changes", [
    {"clients": {"c": {"observe": too_few}}},
    {"clients": {"c": {"observe": partial(too_few, how="sum")}}},
    {"defenses": {"d": too_few}},
    {"defenses": {"d": partial(of_some_class, "noise")}},
], ids=["observe", "observe with arguments", "defense", "defense with arguments"])  # fmt: skip
def test_functions_of_one_s_own_may_refuse_a_cell(changes):
    """Whoever wrote the attack: here it is the package's."""
    found = row(attacks={"iDLG": attacks.iDLG.replace(iterations=1)}, **changes)
    assert (found.status, found.reason) == ("refused", "clients: got one, wanted two")


def test_what_cannot_be_is_refused_with_its_reason():
    found = arena.run(
        small(
            attacks={
                "iDLG": attacks.iDLG.replace(iterations=1),
                "InvGrad": attacks.InvGrad.replace(iterations=1, regularizers=()),
            },
            defenses={"none": None, "clipping": defenses.ExampleClipping(norm=0.1)},
            victims={"bn": lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Sigmoid(), nn.Linear(3, 3))},
            batches=(2, 10),
            seeds=(0,),
        )
    )
    assert set(found.status) == {"refused"}
    assert found.psnr.isna().all()
    reasons = found.set_index(["attack", "defense", "batch"]).reason
    assert "iDLG's rule is for one example" in reasons["iDLG", "none", 2]
    assert "labels" in reasons["InvGrad", "none", 2]
    assert "BatchNorm1d in train mode" in reasons["InvGrad", "clipping", 2]
    assert reasons["InvGrad", "none", 10] == "batches: got 10, and the data have 9 examples"


def breaking(kind):
    def attack(seen, *, seed):
        found = Guess()(seen, seed=seed)
        if kind == "nan":
            found.inputs.fill_(torch.nan)
        if kind == "bug":
            raise RuntimeError("out of ideas")
        if kind == "numpy":
            np.zeros(2).reshape(3)  # raised in this file's frame
        if kind == "one":
            return dataclasses.replace(found, inputs=found.inputs[:1])
        if kind == "own":
            raise ValueError("seen: got this, wanted that")
        return found

    return attack


@pytest.mark.parametrize(
    ("kind", "status", "reason"),
    [
        ("nan", "failed", "ValueError: reconstruction: got NaN or infinite values, wanted finite ones"),
        ("bug", "failed", "RuntimeError: out of ideas"),
        ("numpy", "failed", "ValueError: cannot reshape array of size 2 into shape (3,)"),
        ("own", "refused", "seen: got this, wanted that"),
        (
            "one",
            "failed",
            "ValueError: reconstruction: got shape (1, 4), wanted (batch, ...) like the original's (2, 4)",
        ),
    ],
)
def test_what_fails_is_counted(kind, status, reason):
    found = row(attacks={"broken": breaking(kind)}, batches=(2,))
    assert (found.status, found.reason) == (status, reason)
    assert pd.isna(found.psnr)
    assert (found.residual == 1.0) == (kind in ("nan", "one"))


def test_warnings_are_in_the_table():
    def attack(seen, *, seed):
        import warnings

        warnings.warn("rank 3 of 4", RuntimeWarning, stacklevel=2)
        warnings.warn("rank 3 of 4", RuntimeWarning, stacklevel=2)
        return Guess()(seen, seed=seed)

    assert row(attacks={"warning": attack}).warnings == "rank 3 of 4"


def test_soft_labels_and_tables_and_tokens():
    x, y = torch.linspace(0, 1, 16).view(4, 4), torch.eye(3)[[0, 1, 2, 0]]
    found = row(data={"soft": (x, y)})
    assert found.labels in (0.0, 1.0)
    assert pd.isna(found.ssim)
    tokens = torch.randint(5, (4, 6), generator=torch.Generator().manual_seed(0))
    net = partial(lambda: nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(18, 2)))

    def attack(seen, *, seed):
        found = torch.zeros(1, 6, dtype=torch.int64)
        return Reconstruction(inputs=found, labels=None, residual=0.5, seconds=0.1, attack="zeros")

    found = row(attacks={"zeros": attack}, victims={"text": net}, data={"tokens": (tokens, torch.arange(4) % 2)})
    assert found.status == "done"
    assert found[["psnr", "ssim", "labels"]].isna().all()


def test_the_global_generator_is_seeded_for_functions_of_one_s_own():
    def victim():
        return nn.Linear(4, 3)  # from the global generator

    assert row(victims={"own": victim}).residual == row(victims={"own": victim}).residual


# What a cell is called by


def function(source):
    """A function with a source that inspect finds."""
    if source == 1:

        def victim():
            return nn.Linear(4, 3)
    else:

        def victim():
            return nn.Linear(4, 3, bias=False)

    return victim


def captured(value):
    return lambda: models.mlp(4, (value,), 3)


def mask(entry):
    return defenses.Mask(masks=(torch.full((3, 4), entry), None, None, None))


class Slope(nn.Module):
    def __init__(self, slope):
        super().__init__()
        self.linear, self.slope = models.mlp(4, (), 3), slope

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.slope


@pytest.mark.parametrize(
    ("axis", "value", "other"),
    [
        ("attacks", Guess(), Guess(pause=0.1)),
        ("attacks", attacks.DLG, attacks.DLG.replace(restarts=4)),
        (
            "attacks",
            attacks.DLG.replace(labels=labels.Fixed(torch.tensor([1]))),
            attacks.DLG.replace(labels=labels.Fixed(torch.tensor([2]))),
        ),
        ("defenses", None, defenses.GaussianNoise(std=0.1)),
        ("defenses", mask(0.0), mask(1.0)),
        ("defenses", (defenses.GaussianNoise(std=0.1), mask(0.0)), (mask(0.0), defenses.GaussianNoise(std=0.1))),
        ("victims", partial(models.mlp, 4), partial(models.mlp, 4, seed=1)),
        ("victims", models.mlp(4), models.mlp(4, seed=1)),
        ("victims", models.mlp(4), models.mlp(4).eval()),
        ("victims", Slope(1.0), Slope(2.0)),
        ("victims", function(1), function(2)),
        ("victims", captured(1), captured(2)),
        ("data", (torch.zeros(2, 4), torch.arange(2)), (torch.ones(2, 4), torch.arange(2))),
        ("data", partial(data.digits, 10), partial(data.digits, 11)),
        ("knowledge", [], ["labels"]),
        ("clients", {"mode": "inference"}, {"mode": "training"}),
        ("clients", {"local": federated.LocalSteps(steps=1, lr=0.1)}, {"local": federated.LocalSteps(steps=1, lr=0.2)}),
    ],
)
def test_what_determines_a_cell_is_in_its_digest(axis, value, other):
    digests = [one(**{axis: {name: entry}}).digest for name, entry in (("a", value), ("b", value), ("a", other))]
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_what_a_function_has_by_default_is_in_the_digest():
    """A loop that makes functions makes them of one source."""
    by_position = {str(std): lambda model, std=std: defenses.GaussianNoise(std=std) for std in (0.1, 0.2)}
    by_name = {str(std): lambda model, *, std=std: defenses.GaussianNoise(std=std) for std in (0.1, 0.2)}
    for made in (by_position, by_name):
        assert len({cell.digest for cell in small(defenses=made, seeds=(0,)).cells()}) == 2


def test_batch_seed_and_versions_are_in_the_digest(monkeypatch):
    digests = {one(batches=(b,), seeds=(s,)).digest for b in (1, 2) for s in (0, 1)}
    assert len(digests) == 4
    monkeypatch.setattr(gilearn, "__version__", "99")
    assert one().digest not in digests


def test_sets_have_no_order():
    digests = {
        one(data={"a": partial(data.photos, names=names)}).digest
        for names in ({"coffee", "china"}, {"china", "coffee"})
    }
    assert len(digests) == 1
    assert grid.described({"b", "a"}) == "{'a', 'b'}"


def test_a_value_that_nothing_describes():
    with pytest.raises(ValueError, match=r"grid: got <object object at .*, wanted a value whose fields or repr"):
        list(small(victims={"a": partial(models.mlp, 4, seed=object())}).cells())


# What is kept


def forked():
    """Processes that start at once: a server that has imported the package forks them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gilearn.arena", "gilearn.attacks", "pandas", "pytest"])
    return context


def pausing(pause=0.02, seeds=16):
    return small(attacks={f"{k}": Guess(pause=pause + k / 1e6) for k in range(4)}, seeds=range(seeds))


def working(folder, log):
    os.environ["ARENA_LOG"] = str(log)
    arena.run(pausing(), folder=folder)


def ran(log):
    return [tuple(line.split()) for line in log.read_text().splitlines()] if log.exists() else []


def key(cell):
    return str(cell.parts["seed"]), str(cell.parts["attack"].pause)


def test_killed_ten_times_nothing_is_lost_and_nothing_finished_runs_again(tmp_path):
    folder, log = tmp_path / "cells", tmp_path / "log"
    chance = random.Random(0)
    ends = []
    for _ in range(10):
        enough = len(ran(log)) + chance.randint(1, 4)
        process = forked().Process(target=working, args=(folder, log))
        process.start()
        until = time.monotonic() + 60
        while len(ran(log)) < enough and time.monotonic() < until:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.03))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it was killed on the way"
        finished = {key(cell) for cell in pausing().cells() if arena.running.read(folder, cell) is not None}
        ends.append((len(ran(log)), finished))
    assert 0 < len(ends[-1][1]) < 64
    seen = arena.table(pausing(), folder=folder)
    assert set(seen.status) == {"done", "missing"}
    last = forked().Process(target=working, args=(folder, log))
    last.start()
    last.join()
    for lines, finished in ends:
        assert not finished & set(ran(log)[lines:]), "a finished cell ran again"
    assert 64 <= len(ran(log)) <= 74
    same(arena.table(pausing(), folder=folder), arena.run(pausing(pause=0.02)))
    assert {path.suffix for path in folder.iterdir()} == {".json"}, "nothing is left lying about"


def test_two_processes_share_a_folder_and_every_cell_runs_once(tmp_path):
    folder, log = tmp_path / "cells", tmp_path / "log"
    both = [forked().Process(target=working, args=(folder, log)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert sorted(ran(log)) == sorted(key(cell) for cell in pausing().cells())
    found = arena.table(pausing(), folder=folder)
    assert set(found.status) == {"done"}


def test_half_written_files_are_ignored_and_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("ARENA_LOG", str(tmp_path / "log"))
    folder = tmp_path / "cells"
    whole = arena.run(small(), folder=folder)
    first, second = (folder / f"{cell.digest}.json" for cell in small().cells())
    text = first.read_text()
    for damaged in (text[: len(text) // 2], "", "[1]", '{"format": 0}', "\0" * 20):
        first.write_text(damaged)
        (folder / f".{first.stem}-abandoned").write_text(text[:50])
        assert arena.table(small(), folder=folder).status.tolist() == ["missing", "done"]
        before = len(ran(tmp_path / "log"))
        same(arena.run(small(), folder=folder), whole)
        assert len(ran(tmp_path / "log")) == before + 1
    assert sorted(folder.iterdir()) == sorted([first, second])


def test_one_result_serves_every_name_and_every_grid(tmp_path, monkeypatch):
    monkeypatch.setenv("ARENA_LOG", str(tmp_path / "log"))
    twice = small(attacks={"a": Guess(), "b": Guess()})
    found = arena.run(twice, small(seeds=(1, 2)), folder=tmp_path / "cells")
    assert len(found) == 6
    assert len(ran(tmp_path / "log")) == 3
    arena.run(small(), folder=tmp_path / "cells")
    assert len(ran(tmp_path / "log")) == 3


def test_another_state_of_the_package_is_told(tmp_path):
    arena.run(small(), folder=tmp_path)
    path = next(tmp_path.iterdir())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"source": "older"}))
    with pytest.warns(UserWarning, match="1 of 2 cells were run by another state of the package"):
        arena.run(small(), folder=tmp_path)


# Workers


def guessing(**changes):
    """A grid whose attacks every process can import."""
    random_start = attacks.InvGrad.replace(iterations=3, regularizers=())
    return small(
        **(
            {
                "attacks": {"InvGrad": random_start, "iDLG": attacks.iDLG.replace(iterations=1)},
                "knowledge": {"labels": ["labels"]},
                "batches": (1, 2),
            }
            | changes
        )
    )


def test_dask_returns_the_same(tmp_path):
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with (
        distributed.LocalCluster(**options) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        found = arena.run(guessing(), folder=tmp_path)
    same(found, arena.run(guessing()))
    assert found.status.tolist() == ["done"] * 4 + ["done", "done", "refused", "refused"]
    assert len(list(tmp_path.glob("*.json"))) == 8


def test_processes_return_the_same():
    same(arena.run(guessing(), workers=2), arena.run(guessing()))


def threads(seen, *, seed):
    found = Guess()(seen, seed=seed)
    object.__setattr__(found, "residual", float(torch.get_num_threads()))
    return found


def test_threads_of_one_process_return_the_same():
    before = torch.get_num_threads()
    with joblib.parallel_config(backend="threading", n_jobs=4):
        found = arena.run(guessing(attacks={"threads": threads}, seeds=range(8)))
    same(found, arena.run(guessing(attacks={"threads": threads}, seeds=range(8))))
    assert set(found.residual) == {1.0}
    assert torch.get_num_threads() == before


def test_the_progress_bar_counts_what_is_there(tmp_path, capsys):
    arena.run(small(), folder=tmp_path)
    arena.run(small(seeds=range(4)), folder=tmp_path, progress=True)
    assert "4/4" in capsys.readouterr().err


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attacks": {}}, "attacks: got {}, wanted a mapping of at least one name"),
        ({"attacks": attacks.DLG}, "attacks: got GradientMatching.*, wanted a mapping of at least one name"),
        ({"data": {1: ()}}, "data: got {1: ()}, wanted a mapping"),
        ({"attacks": {"a": Guess}}, "attacks.a: got the class Guess, wanted a value of it"),
        ({"attacks": {"a": "DLG"}}, "attacks.a: got a str, wanted something to call"),
        ({"victims": {"a": 3}}, "victims.a: got a int, wanted something to call"),
        ({"defenses": {"a": defenses.Pruning}}, "defenses.a: got the class Pruning, wanted a value of it"),
        ({"knowledge": {"a": ["lables"]}}, "knowledge.a: got 'lables', wanted one of labels"),
        ({"knowledge": {"a": "labels"}}, "knowledge.a: got the text 'labels', wanted a list of names"),
        ({"clients": {"a": {"steps": 3}}}, "clients.a: got 'steps', wanted one of mode"),
        ({"clients": {"a": {"mode": "eval"}}}, "clients.a.mode: got 'eval', wanted one of inference, training"),
        ({"batches": ()}, "batches: got (), wanted at least one whole number from 1"),
        ({"batches": (0,)}, "batches: got (0,), wanted at least one whole number from 1"),
        ({"seeds": (-1,)}, "seeds: got (-1,), wanted at least one whole number from 0"),
        ({"seeds": (0.5,)}, "seeds: got (0.5,), wanted at least one whole number from 0"),
    ],
)
def test_bad_grids(changes, message):
    message = re.escape(message).replace(re.escape(".*"), ".*")
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_bad_runs():
    with pytest.raises(ValueError, match="workers: got 0, wanted None, -1, or at least 1"):
        arena.run(small(), workers=0)
    with pytest.raises(ValueError, match=r"grids: got \[\], wanted at least one arena.Grid"):
        arena.run()
    with pytest.raises(ValueError, match=r"grids: got \['dict'\], wanted at least one arena.Grid"):
        arena.run({})


# Files and the shell

GRID = """
batches = [1, 2]
seeds = 2

[attacks]
iDLG = { use = "attacks.iDLG", iterations = 1 }
InvGrad = { use = "gilearn.attacks.InvGrad", iterations = 2, regularizers = [
    { use = "attacks.regularizers.TotalVariation", weight = 1e-3 },
], distance = { use = "attacks.distances.Manhattan" } }

[victims]
mlp = { use = "models.mlp", in_features = 64, widths = [8] }
trained = { use = "models.trained", name = "mlp-digits" }

[data]
digits = { use = "data.digits", n = 50 }

[defenses]
none = []
both = [{ use = "defenses.GaussianNoise", std = 1e-3 }, { use = "defenses.Pruning", share = 0.1 }]

[knowledge]
labels = ["labels"]

[clients]
steps = { local = { use = "federated.LocalSteps", steps = 2, lr = 0.1 } }
"""


def written(folder, text):
    path = folder / "grid.toml"
    path.write_text(text)
    return path


def test_a_file_is_the_same_grid(tmp_path):
    from_file = arena.load(written(tmp_path, GRID))
    by_hand = arena.Grid(
        attacks={
            "iDLG": attacks.iDLG.replace(iterations=1),
            "InvGrad": attacks.InvGrad.replace(
                iterations=2,
                regularizers=(attacks.regularizers.TotalVariation(weight=1e-3),),
                distance=attacks.distances.Manhattan(),
            ),
        },
        victims={
            "mlp": partial(models.mlp, in_features=64, widths=(8,)),
            "trained": partial(models.trained, name="mlp-digits"),
        },
        data={"digits": partial(data.digits, n=50)},
        defenses={"none": (), "both": (defenses.GaussianNoise(std=1e-3), defenses.Pruning(share=0.1))},
        knowledge={"labels": ("labels",)},
        clients={"steps": {"local": federated.LocalSteps(steps=2, lr=0.1)}},
        batches=(1, 2),
        seeds=(0, 1),
    )
    assert [cell.names for cell in from_file.cells()] == [cell.names for cell in by_hand.cells()]
    assert [cell.digest for cell in from_file.cells()] == [cell.digest for cell in by_hand.cells()]


START = """
[attacks]
a = "attacks.iDLG"
[victims]
a = { use = "models.mlp", in_features = 64 }
[data]
a = "data.digits"
"""
PRUNING = '[defenses]\na = { use = "defenses.Pruning", share = 2 }'


def attacking(value):
    return START.replace('"attacks.iDLG"', value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("attacks = [", "is no TOML"),
        ("atacks = 1", "grid: got 'atacks', wanted one of attacks"),
        ('[attacks]\na = "attacks.DLG"', "victims: got nothing, wanted a table of at least one name"),
        (attacking('"attacks.iDLX"'), "attacks.a.use: got 'iDLX', wanted one of .*iDLG"),
        (attacking('"iDLG"'), "attacks.a.use: got 'iDLG', wanted a name in one of gilearn's attacks"),
        (attacking("3"), "attacks.a: got a int, wanted something to call"),
        (attacking("{ use = 3 }"), "attacks.a.use: got 3, wanted a name in one of gilearn's"),
        (attacking('{ use = "attacks.iDLG", iteration = 3 }'), "attacks.a: iteration: .*no such field"),
        (attacking('{ use = "attacks.iDLG", iterations = 0 }'), "attacks.a: iterations: got 0, wanted at least 1"),
        (attacking('{ use = "attacks.GradientMatching", rate = 1 }'), r"attacks.a: got \['rate'\] .*, wanted .*: init"),
        (
            START.replace("64", "64, width = 3"),
            r"victims.a: got \['in_f.*', 'width'\] .*models.mlp takes: in_features, widths",
        ),
        (START.replace("data.digits", "data.digit"), "data.a.use: got 'digit', wanted one of .*digits"),
        (START + PRUNING, "defenses.a: share: got 2, wanted 0 to below 1"),
        (START + "[defenses]\na = [3]", None),
        (START + '[knowledge]\na = ["lables"]', "knowledge.a: got 'lables', wanted one of labels"),
        (START + '[clients]\na = { mode = "eval" }', "clients.a.mode: got 'eval', wanted one of inference"),
        ('seeds = "3"\n' + START, "seeds: got '3', wanted at least one whole number"),
        ("batches = [0]\n" + START, "batches: got .*0.*, wanted at least one whole number from 1"),
    ],
)
def test_bad_files(tmp_path, text, message, capsys):
    if message is None:  # what only a client can tell is a refused cell
        found = arena.run(arena.load(written(tmp_path, text)))
        assert found.reason.tolist() == ["defense: got a int, wanted a gilearn.federated.Defense"]
        return
    with pytest.raises(ValueError, match=message):
        arena.load(written(tmp_path, text))
    with pytest.raises(SystemExit, match="2"):
        command.main([str(written(tmp_path, text))])
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        "os.system", "builtins.eval", "gilearn.os", "data.os", "data.Path", "data.shutil.rmtree", "models.torch.load",
        "models.torch", "attacks.base", "attacks.iteration.presets.DLG", "attacks._x", "data._download", "models.nn",
        "federated.files.write", "federated.observation.os", "arena.run", "notebook.check", "attacks", "gilearn", "",
        "__import__", "attacks.labels.head.torch", "attacks.__doc__", "attacks.distances.torch", "data.json.loads",
    ],
)  # fmt: skip
def test_a_file_names_nothing_but_public_names_of_this_package(name):
    with pytest.raises(ValueError, match="^name: got '.*', wanted "):
        files.resolve(name)


def test_the_readme_s_grid(tmp_path):
    readme = Path(__file__).resolve().parents[1] / "README.md"
    (text,) = re.findall(r"```toml\n(.*?)```", readme.read_text(), flags=re.S)
    cells = list(arena.load(written(tmp_path, text)).cells())
    assert len(cells) == 2 * 2 * 2 * 2 * 10


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="grid: there is no file"):
        arena.load(tmp_path / "no.toml")


def test_the_command(tmp_path, capsys):
    path = written(tmp_path, GRID.replace("seeds = 2", "seeds = 1").replace("batches = [1, 2]", "batches = [2]"))
    command.main([str(path), "--output", str(tmp_path / "table.csv")])
    shown = capsys.readouterr().out
    assert shown.rstrip().endswith("8 cells: 4 refused, 4 done")
    assert "iDLG's rule is for one example" in shown
    assert len(pd.read_csv(tmp_path / "table.csv")) == 8
    assert len(list((tmp_path / "grid.cells").glob("*.json"))) == 8
    command.main([str(path), "--folder", str(tmp_path / "grid.cells"), "--workers", "1"])
    assert capsys.readouterr().out == shown
    with pytest.raises(SystemExit, match="0"):
        command.main(["--help"])
    assert "--workers" in capsys.readouterr().out
