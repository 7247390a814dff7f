"""The table of formulas: an ingredient computes, on random tensors, what its reference computes from scratch."""

from __future__ import annotations

import importlib
import inspect

import pytest
import torch
from torch import nn

from formulas import (
    bayesian,
    compression,
    defenses,
    disaggregation,
    distances,
    dynamic_noise,
    heads,
    initialization,
    instahide,
    label_factors,
    labels,
    metrics,
    mixing,
    optimizers,
    pixelization,
    privacy,
    regularizers,
    soteria,
    unmixing,
    vertical,
)
from formulas.rows import assert_same
from gilearn import federated
from gilearn.attacks.iteration.initialization import FromImage
from gilearn.attacks.iteration.matching import GradientMatching
from gilearn.attacks.iteration.optimizers import Adam
from gilearn.attacks.labels import Declared

TABLES = [
    bayesian,
    compression,
    defenses,
    disaggregation,
    distances,
    dynamic_noise,
    heads,
    initialization,
    instahide,
    label_factors,
    labels,
    metrics,
    mixing,
    optimizers,
    pixelization,
    privacy,
    regularizers,
    soteria,
    unmixing,
    vertical,
]


def table_of(name):
    return name.__name__.rsplit(".", 1)[-1]


def lines():
    for table in TABLES:
        for number, row in enumerate(table.ROWS):
            for case in range(len(row.cases)):
                yield pytest.param(row, case, id=f"{table_of(table)}-{row.name}-{number}-{case}")


@pytest.mark.parametrize(("row", "case"), list(lines()))
def test_an_ingredient_is_its_formula(row, case):
    computed = row.compute(row.fresh(), *row.cases[case](torch.Generator().manual_seed(case)))
    wanted = row.reference(*row.cases[case](torch.Generator().manual_seed(case)))
    assert_same(computed, wanted, row.rtol)


def refusals():
    for table in TABLES:
        for number, (call, message) in enumerate(table.REFUSALS):
            yield pytest.param(call, message, id=f"{table_of(table)}-{number}")


@pytest.mark.parametrize(("call", "message"), list(refusals()))
def test_what_has_no_value_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("table", TABLES, ids=table_of)
def test_every_public_ingredient_has_a_row(table):
    """A new ingredient fails here until a row says what it computes."""
    public = {
        name
        for module in map(importlib.import_module, table.MODULES)
        for name, value in vars(module).items()
        if not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value))
        if value.__module__ == module.__name__
    }
    assert public - {row.name for row in table.ROWS} == table.NO_FORMULA


@pytest.mark.parametrize("share", [0.9, 1.1])
def test_tolerance_is_a_share_of_the_distance_to_zero_and_ends_the_search(share):
    """Nothing moves here (lr 0), so the distance is known: a tolerance below it ends nothing, one above it all."""
    model = nn.Sequential(nn.utils.skip_init(nn.Linear, 3, 2)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    x, y = torch.tensor([[0.2, 0.4, 0.9]], dtype=torch.float64), torch.tensor([1])
    seen = federated.observe(model, x, y, declare=["labels"])
    far = [
        sum(float((a - b).square().sum()) for a, b in zip(seen.shared, gradient, strict=True))
        for gradient in (seen.simulate(x + 0.3, y, create_graph=False), [0.0, 0.0])
    ]
    attack = GradientMatching(
        initialization=FromImage(picture=x + 0.3),
        labels=Declared(),
        optimizer=Adam(lr=0.0),
        iterations=4,
        restarts=3,
        tolerance=share * far[0] / far[1],
        explained=0.0,
    )
    restarts = attack(seen).restarts
    if share > 1:
        assert [(start["stopped"], start["evaluations"]) for start in restarts] == [("tolerance", 1)]
    else:
        assert [(start["stopped"], start["evaluations"]) for start in restarts] == [("budget", 4)] * 3
    torch.testing.assert_close(
        torch.tensor([start["distance"] for start in restarts]), torch.full((len(restarts),), far[0])
    )
