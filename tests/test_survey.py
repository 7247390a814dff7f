"""The survey's tables: every cell in place, every implementation real, every citation in the bibliography."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gilearn import data, survey
from tools.record_table_1 import SETTINGS, preset

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


@pytest.mark.parametrize("row", survey.TABLE_1, ids=lambda row: row.name)
def test_every_attack_of_table_1_has_implementation_chapter_and_number(row):
    assert row.implementation
    assert (ROOT / "book" / f"{row.chapter}.md").is_file()
    result = survey.table_1(results=True).loc[row.name]
    assert result.cases >= 10
    assert result.low <= result.psnr <= result.high
    assert result.seconds > 0
    assert result.ours_network
    assert result.told


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: f"{setting.row}, {setting.part}")
def test_the_record_of_table_1_is_of_today_s_presets(setting):
    """A changed preset makes the record stale: ``make table-1`` measures the row again."""
    recorded = survey.measured().set_index(["row", "part"])
    assert recorded.index.is_unique
    assert len(recorded) == len(SETTINGS)
    row = recorded.loc[setting.row, setting.part]
    assert row.preset == preset(setting.row)
    assert row.ran == repr(setting.attack)
    assert (row.told, row.batch, row["mode"]) == (setting.told, setting.batch, setting.mode)


def test_table_1_joins_each_row_s_own_setting():
    joined, own = survey.table_1(results=True), survey.measured().query("part == 'row'").set_index("row")
    shared = ["pixels", "network", "batch", "changes"]
    for name in joined.index:
        for ours, column in zip([f"ours_{one}" for one in shared], shared, strict=True):
            assert joined.loc[name, ours] == own.loc[name, column]
        assert joined.loc[name, "psnr"] == own.loc[name, "psnr"]
        assert joined.loc[name, "network"] == survey.find(name).network


def test_the_survey_s_mark_t_has_two_training_states():
    states = survey.measured().groupby("row").part.agg(set)
    for row in survey.TABLE_1:
        assert ("trained" in states[row.name]) == row.compares_states


def test_results_that_are_not_of_this_table(monkeypatch):
    rows = data.recorded("table-1")["result"]
    monkeypatch.setattr(data, "recorded", lambda name: {"result": [row for row in rows if row["row"] != "DLG"]})
    with pytest.raises(ValueError, match="results: the record and Table 1 differ in DLG; make table-1 records them"):
        survey.table_1(results=True)


def test_results_need_the_repository(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "__file__", str(tmp_path / "gilearn" / "data.py"))
    with pytest.raises(FileNotFoundError, match="no record 'table-1'; records are in data/recorded of the repository"):
        survey.table_1(results=True)
    assert len(survey.table_1()) == 15


def test_unknown_row():
    with pytest.raises(ValueError, match="name: got 'XLG', wanted one of DLG"):
        survey.find("XLG")
