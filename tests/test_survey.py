"""The survey's tables: every cell in place, every implementation real, every citation in the bibliography."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gilearn import survey

ROOT = Path(__file__).resolve().parents[1]
KEYS = set(re.findall(r"^@\w+\{([^,]+),", (ROOT / "book" / "references.bib").read_text(), re.MULTILINE))
ROWS = (*survey.TABLE_1, *survey.TABLE_2)


def test_table_1_has_the_survey_s_rows():
    iteration = [row.name for row in survey.TABLE_1 if row.paradigm == "iteration"]
    recursion = [row.name for row in survey.TABLE_1 if row.paradigm == "recursion"]
    assert iteration == [
        "DLG", "iDLG", "CPL", "InvGrad", "SAPAG", "GradInversion", "GradDisagg", "GradAttack", "Bayesian", "CAFE",
        "GIAS",
    ]  # fmt: skip
    assert recursion == ["PPDL-AHE", "PPDL-SPN", "R-GAP", "COPA"]


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("DLG", ("Gaussian", False, "64x64", "LeNet", False, "8", "L-BFGS")),
        ("iDLG", ("Uniform", True, "32x32", "LeNet", False, "1", "L-BFGS")),
        ("CPL", ("Geometric", False, "128x128", "LeNet", False, "8", "L-BFGS")),
        ("InvGrad", ("Gaussian", True, "224x224", "ResNet", True, "8 (100)", "Adam")),
        ("SAPAG", ("Constant", False, "224x224", "ResNet", True, "8", "AdamW")),
        ("GradInversion", ("Gaussian", True, "224x224", "ResNet", True, "48", "Adam")),
        ("GradDisagg", ("Gaussian", False, "32x32", "MLP", False, "32 (128)", "L-BFGS")),
        ("GradAttack", ("Gaussian", True, "224x224", "ResNet", True, "128", "Adam")),
        ("Bayesian", ("Gaussian", False, "32x32", "ConvNet", True, "1 (32)", "Adam")),
        ("CAFE", ("Uniform", False, "32x32", "Loop-Net", False, "100", "SGD")),
        ("GIAS", ("Latent", False, "64x64", "ResNet", True, "4", "Adam")),
        ("PPDL-AHE", ("N/A", False, "20x20", "MLP", False, "1", "-")),
        ("PPDL-SPN", ("N/A", False, "32x32", "ConvNet", False, "8", "-")),
        ("R-GAP", ("N/A", False, "32x32", "ConvNet", False, "1", "-")),
        ("COPA", ("N/A", False, "32x32", "ConvNet", False, "1", "-")),
    ],
)
def test_cells_are_the_survey_s(name, cells):
    row = survey.find(name)
    assert cells == (
        row.distribution, row.extracts_labels, row.resolution, row.network, row.compares_states, row.batch_size,
        row.optimizer or "-",
    )  # fmt: skip


def test_names_are_unique():
    names = [row.name for row in ROWS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(row):
    assert row.citation in KEYS
    if row.implementation is None:
        with pytest.raises(NotImplementedError, match="is not implemented yet"):
            survey.implementation(row)
    else:
        assert callable(survey.implementation(row))


def test_a_written_chapter_has_its_implementation():
    written = {path.relative_to(ROOT / "book").with_suffix("").as_posix() for path in (ROOT / "book").rglob("*.md")}
    for row in survey.TABLE_1:
        if row.chapter in written:
            assert row.implementation, f"{row.name} has a chapter and no implementation"


def test_data_frames():
    table = survey.table_1()
    assert len(table) == 15
    assert table.loc["DLG", "implementation"] == "gilearn.attacks.DLG"
    table = survey.table_2()
    assert set(table["perspective"]) == {"data", "model", "gradients"}
    assert len(table) == 26


def test_unknown_row():
    with pytest.raises(ValueError, match="name: got 'XLG', wanted one of DLG"):
        survey.find("XLG")
