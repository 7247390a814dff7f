"""The survey's tables: every cell in place, every implementation real, every citation in the bibliography."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import jupytext
import nbformat
import pytest

from gilearn import data, defenses, survey
from gilearn.defenses import aggregation
from tools import table_2_defenses
from tools.record_table_1 import SETTINGS, preset
from tools.table_2_defenses import STRENGTHS

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


@functools.cache
def shown_in(chapter):
    """What a reader of a chapter sees: its text, its code, and what the stored cells print."""
    notebook = nbformat.read(ROOT / "book" / f"{chapter}.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = [output.get("text", "") for output in outputs]
    printed += [text for output in outputs for kind, text in output.get("data", {}).items() if "image" not in kind]
    return "\n".join(map(str, [*(cell.source for cell in notebook.cells), *printed]))


@pytest.mark.parametrize("row", survey.TABLE_2, ids=lambda row: row.name)
def test_every_defense_of_table_2_says_who_gets_past_it(row):
    assert row.implementation
    for chapter in (row.chapter, row.broken_in):
        assert (ROOT / "book" / f"{chapter}.md").is_file()
    assert row.broken_by[-1] not in ".;,"
    shown = shown_in(row.broken_in).replace(row.broken_by, "")  # Table 2 prints the sentence itself
    numbers = re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?", row.broken_by)
    assert numbers
    for number in numbers:
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", shown), f"{row.broken_in} does not show {number}"


@pytest.mark.parametrize("row", survey.TABLE_2, ids=lambda row: row.name)
def test_every_defense_of_table_2_has_numbers(row):
    result = survey.table_2(results=True).loc[row.name]
    assert result.strength == STRENGTHS[row.name]
    for task in ("digits", "faces", "colour"):
        assert result[f"points_{task}_low"] <= result[f"points_{task}"] <= result[f"points_{task}_high"]
    assert result.seconds > 0
    assert result.bytes > 0
    attacks = {attack.name for attack in survey.TABLE_1}
    for kind in ("digits", "pictures"):
        assert result[f"by_{kind}"] in attacks
        assert result[f"best_{kind}_low"] <= result[f"best_{kind}"] <= result[f"best_{kind}_high"]
        assert 0 <= result[f"through_{kind}"] <= result[f"ran_{kind}"] <= len(attacks)


def test_the_grid_has_every_attack_against_every_defense():
    grid = survey.against()
    rows = {"none"} | {row.name for row in survey.TABLE_2}
    wanted = {(k, attack.name, row) for k in ("digits", "pictures") for attack in survey.TABLE_1 for row in rows}
    cells = list(zip(grid.pictures, grid.attack, grid.row, strict=True))
    assert set(cells) == wanted
    assert len(cells) == len(wanted)
    assert (grid.cases + grid.refused == 10).all()
    assert (grid.failed == 0).all()
    assert (grid.reason[grid.refused > 0] != "").all()
    assert grid.guess.notna().all()


@pytest.mark.parametrize("part", ["alone", "told"])
def test_intervals_of_the_grid_contain_their_means(part):
    grid = survey.against(part)
    assert set(grid.row) <= {"none"} | {row.name for row in survey.TABLE_2}
    several = grid[grid.cases > 1]
    assert (several.low <= several.psnr).all()
    assert (several.psnr <= several.high).all()
    assert several.psnr.between(0, 99).all()


def test_the_record_of_the_grid_is_of_today_s_attacks():
    """A changed attack, defense or network makes the record stale: ``make table-2`` measures it again."""
    from tools.record_grid import digests

    cells = data.recorded("grid")["result"]["cells"]
    ran = {(cell["part"], cell["pictures"], cell["attack"], cell["row"]): cell["ran"] for cell in cells}
    assert len(ran) == len(cells)
    assert ran == digests()


def test_the_chapter_has_the_defenses_of_the_record():
    """What chapter table-2 shows live is what was recorded, at the same strength."""
    cells = [cell.source for cell in jupytext.read(ROOT / "book" / "defenses" / "table-2.md").cells]
    known = {"defenses": defenses, "protocols": aggregation}
    for start in ("first = dict(", "sums = {"):
        exec(next(source for source in cells if source.startswith(start)), known)
    rows = {row.name for row in survey.TABLE_2}
    assert set(known["clients"]) | set(known["sums"]) == {
        row for row in rows if table_2_defenses.defense(row, 2) or table_2_defenses.aggregation(row)
    }
    for row, defense in known["clients"].items():
        if row != "H-FL":  # a function of the network in the record, a choice of tensors in the chapter
            assert defense == table_2_defenses.defense(row, 2), row
    for row, protocol in known["sums"].items():
        recorded = table_2_defenses.aggregation(row)
        changed = {"key_bits": 1024} if hasattr(recorded, "key_bits") else {}
        assert protocol == recorded.replace(**changed), row


def made_up(name):
    """Records in the form of Table 2's, with numbers that are easily told apart."""
    if name == "table-2":
        rows = []
        for k, row in enumerate(survey.TABLE_2):
            tasks = {"digits": k + 0.1, "faces": k + 0.2, "colour": k + 0.3}
            left = {"attack": "DLG", "psnr": k + 20.0, "low": k + 19.0, "high": k + 22.0, "attack_without": 90.0}
            digits = left | {"through": k, "ran": 30, "told": {"attack": "search", "psnr": 40.0, "low": 39, "high": 41}}
            pictures = left | {"attack": "R-GAP", "psnr": 50.0, "through": 3, "ran": 4, "told": None}
            points = {task: {"estimate": v, "low": v - 1, "high": v + 1} for task, v in tasks.items()}
            costs = {"seconds": tasks, "megabytes": {task: 2 * v for task, v in tasks.items()}}
            privacy = {"digits": digits, "pictures": pictures}
            rows.append({"row": row.name, "strength": f"strength {k}", "points": points, **costs, "privacy": privacy})
        return {"result": rows}
    cells = [
        ("alone", "digits", "DLG", "none", [10.0, 20.0, 30.0], ["done"] * 3, None),
        ("alone", "digits", "DLG", "MixUp", [12.0, None, None], ["done", "refused", "failed"], "why"),
        ("alone", "pictures", "DLG", "MixUp", [None, None, None], ["refused"] * 3, "no such layer"),
        ("told", "digits", "search", "MixUp", [40.0, 40.0, 40.0], ["done"] * 3, None),
    ]
    names = ("part", "pictures", "attack", "row", "psnr", "status", "reason")
    guess = [{"attack": "DLG", "pictures": "digits", "psnr": [13.0, 14.0, 15.0]}]
    guess.append({"attack": "DLG", "pictures": "pictures", "psnr": [9.0, 9.0, 12.0]})
    return {"result": {"cells": [dict(zip(names, c, strict=True)) | {"ran": "0"} for c in cells], "guess": guess}}


def test_table_2_joins_what_is_recorded(monkeypatch):
    monkeypatch.setattr(data, "recorded", made_up)
    plain, joined = survey.table_2(), survey.table_2(results=True)
    assert list(joined.index) == [row.name for row in survey.TABLE_2]
    assert joined[list(plain.columns)].equals(plain)
    row = joined.loc["DP-Pix"]  # the fourth
    assert row.strength == "strength 3"
    assert [row.points_digits, row.points_digits_low, row.points_digits_high] == pytest.approx([3.1, 2.1, 4.1])
    assert [row.points_faces, row.points_colour_low, row.points_colour_high] == pytest.approx([3.2, 2.3, 4.3])
    assert [row.seconds, row["bytes"]] == pytest.approx([3.1, 6.2])
    assert [row.best_digits, row.best_digits_low, row.best_digits_high, row.told_digits] == [23, 22, 25, 40]
    assert [row.best_pictures, row.best_pictures_low, row.best_pictures_high] == [50, 22, 25]
    assert [row.by_digits, row.by_pictures] == ["DLG", "R-GAP"]
    assert [row.through_digits, row.ran_digits, row.through_pictures, row.ran_pictures] == [3, 30, 3, 4]
    assert row.told_pictures != row.told_pictures


def test_results_that_are_not_of_table_2(monkeypatch):
    rows = made_up("table-2")["result"]
    monkeypatch.setattr(data, "recorded", lambda name: {"result": rows[1:]})
    with pytest.raises(ValueError, match="results: the record and Table 2 differ in MixUp; make table-2 records them"):
        survey.table_2(results=True)
    rows[0]["row"] = "Veil"
    monkeypatch.setattr(data, "recorded", lambda name: {"result": rows})
    with pytest.raises(ValueError, match="the record and Table 2 differ in MixUp, Veil; make table-2 records them"):
        survey.table_2(results=True)


def test_results_that_are_not_all_there_yet(monkeypatch):
    rows = made_up("table-2")["result"]
    del rows[2]["seconds"]["digits"]
    monkeypatch.setattr(data, "recorded", lambda name: {"result": rows})
    with pytest.raises(ValueError, match="results: the record of Mixup inference has no 'digits' yet; make table-2"):
        survey.table_2(results=True)


def test_the_grid_as_a_frame(monkeypatch):
    monkeypatch.setattr(data, "recorded", made_up)
    several, one, none = survey.against().to_dict("records")
    assert [several["pictures"], several["attack"], several["row"]] == ["digits", "DLG", "none"]
    assert [several["cases"], several["refused"], several["failed"], several["reason"]] == [3, 0, 0, ""]
    half = 4.30265 * 10 / 3**0.5  # Student's t of two degrees of freedom, the deviation, the root of three
    assert [several["psnr"], several["low"], several["high"]] == pytest.approx([20, 20 - half, 20 + half], abs=1e-3)
    assert [one["cases"], one["psnr"], one["refused"], one["failed"], one["reason"]] == [1, 12, 1, 1, "why"]
    assert one["low"] != one["low"]
    assert one["high"] != one["high"]
    assert one["guess"] == several["guess"] == pytest.approx(14)
    assert [none["cases"], none["refused"], none["reason"], none["guess"]] == [0, 3, "no such layer", 10]
    assert none["psnr"] != none["psnr"]
    (told,) = survey.against("told").to_dict("records")
    assert [told["attack"], told["psnr"], told["low"], told["high"]] == ["search", 40, 40, 40]
    assert told["guess"] != told["guess"]


def test_unknown_part_of_the_grid():
    with pytest.raises(ValueError, match="part: got 'all', wanted one of alone, told"):
        survey.against("all")


def test_results_of_table_2_need_the_repository(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "__file__", str(tmp_path / "gilearn" / "data.py"))
    with pytest.raises(FileNotFoundError, match="no record 'table-2'; records are in data/recorded of the repository"):
        survey.table_2(results=True)
    with pytest.raises(FileNotFoundError, match="no record 'grid'; records are in data/recorded of the repository"):
        survey.against()
    assert len(survey.table_2()) == 26


def test_unknown_row():
    with pytest.raises(ValueError, match="name: got 'XLG', wanted one of DLG"):
        survey.find("XLG")
