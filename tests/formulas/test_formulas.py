"""The table of formulas: an ingredient computes, on random tensors, what its reference computes from scratch."""

from __future__ import annotations

import importlib
import inspect

import pytest
import torch

from formulas import defenses, distances, heads, initialization, labels, metrics, optimizers, regularizers
from formulas.rows import assert_same

TABLES = [defenses, distances, heads, initialization, labels, metrics, optimizers, regularizers]


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
