"""A recorded run that is stopped goes on where it was, and measures nothing twice."""

from __future__ import annotations

import importlib
import json

import pytest

from tools import recording


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "FOLDER", tmp_path)
    return tmp_path


def plan(measured, *, stop_at=None):
    def measure(size):
        if size == stop_at:
            raise KeyboardInterrupt
        measured.append(size)
        return {"psnr": 10.0 * size}

    return [({"size": size, "place": (0, 1)}, lambda size=size: measure(size)) for size in (1, 2, 3)]


def test_a_stopped_run_goes_on(folder):
    measured = []
    with pytest.raises(KeyboardInterrupt):
        recording.resume("sizes", "make it", plan(measured, stop_at=3))
    assert measured == [1, 2]
    assert [row["size"] for row in recording.known("sizes", [])] == [1, 2]
    recording.resume("sizes", "make it", plan(measured))
    assert measured == [1, 2, 3]
    written = json.loads((folder / "sizes.json").read_text())
    assert written["command"] == "make it"
    assert written["result"] == [{"size": k, "place": [0, 1], "psnr": 10.0 * k} for k in (1, 2, 3)]
    assert [path.name for path in folder.iterdir()] == ["sizes.json"]


def test_rows_that_the_plan_does_not_name_stay(folder):
    recording.record("sizes", "make it", [{"size": 9}, {"size": 1, "place": [0, 1], "psnr": 0.0}])
    measured = []
    rows = recording.resume("sizes", "make it", plan(measured))
    assert measured == [2, 3]
    assert [row["size"] for row in rows] == [9, 1, 2, 3]


def test_none_stands_for_a_missing_column(folder):
    recording.record("sizes", "make it", [{"size": 1, "variant": "a"}])
    for _ in range(2):
        rows = recording.resume("sizes", "make it", [({"size": 1, "variant": None}, lambda: {"psnr": 1.0})])
    assert rows == [{"size": 1, "variant": "a"}, {"size": 1, "psnr": 1.0}]


def test_nothing_is_known_before_the_first_run(folder):
    assert recording.known("sizes", {"levels": []}) == {"levels": []}


def test_the_decision_is_what_the_chapters_records_say():
    from tools import record_decision

    rows = {row["defense"]: row for row in record_decision.data.recorded("decision")["result"]}
    for name in record_decision.READ:
        assert rows[name] == {"defense": name} | record_decision.read(name), f"{name}: {record_decision.COMMAND}"
    assert len(rows) > len(record_decision.READ)


RECORDED = (
    "auditing", "compression", "decision", "differential_privacy", "dynamic_noise", "homomorphic", "multiparty",
    "network_size", "secure_aggregation", "soteria",
)  # fmt: skip


@pytest.mark.parametrize("name", RECORDED)
def test_a_record_has_what_its_command_measures_and_nothing_else(name):
    """Each key of the plan has one row, each row one key: nothing is left from another version of the script."""
    script = importlib.import_module(f"tools.record_{name}")
    plans = [script.plan] if hasattr(script, "plan") else [script.plan_utility, script.plan_points]
    keys = [json.loads(json.dumps(key)) for plan in plans for key, _ in plan()]
    rows = recording.known(name.replace("_", "-"), [])
    named = {}
    for key in keys:
        named.setdefault(tuple(key), set()).add(str(list(key.values())))
    assert sum(map(len, named.values())) == len(keys), "two rows of the plan have the same key"

    def key_of(row):
        tried = ((columns, str([row.get(column) for column in columns])) for columns in named)
        return next(((columns, values) for columns, values in tried if values in named[columns]), None)

    found = [key_of(row) for row in rows]
    assert [row for row, key in zip(rows, found, strict=True) if key is None] == []
    assert len(set(found)) == len(rows) == len(keys)
