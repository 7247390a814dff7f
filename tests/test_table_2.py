"""What the record of Table 2 makes of its grid and its costs, against numbers computed by hand."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from gilearn import ranks
from gilearn.defenses.aggregation import BatchCrypt, Paillier
from tools import grid_victims as victims
from tools import record_grid, record_table_2, table_2_defenses
from tools.record_grid import clipped, single
from tools.record_homomorphic import InTheOpen


def cell(attack, psnr, row="MixUp", part="alone", status=None):
    status = status or ["done" if value is not None else "refused" for value in psnr]
    return {"part": part, "pictures": "digits", "attack": attack, "row": row, "psnr": psnr, "status": status}


GRID = {
    "cells": [
        cell("DLG", [10.0, 20.0, 30.0, 20.0, 20.0]),
        cell("iDLG", [99.0, 99.0, 99.0, None, None]),  # in three of five cases: too few
        cell("CPL", [12.0, 12.0, 12.0, 12.0, None]),  # in four of five
        cell("DLG", [50.0, 60.0, 70.0, 60.0, 60.0], row="none"),
        cell("search", [90.0, 92.0, 91.0, 90.0, 92.0], part="told"),
    ],
    "guess": [{"attack": name, "pictures": "digits", "psnr": [9.0, 11.0]} for name in ("DLG", "iDLG", "CPL")],
}


def test_privacy_is_the_strongest_attack_that_ran_often_enough():
    found = record_table_2.privacy("MixUp", "digits", GRID)
    assert (found["attack"], found["psnr"], found["attack_without"]) == ("DLG", 20.0, 60.0)
    assert found["low"] < 20.0 < found["high"]
    assert (found["through"], found["ran"]) == (1, 2)  # 20 is 3 dB above the guess of 10, and 12 is not
    assert (found["told"]["attack"], found["told"]["psnr"]) == ("search", 91.0)


def test_privacy_of_what_is_not_recorded():
    assert record_table_2.privacy("MixUp", "pictures", GRID) is None
    assert record_table_2.privacy("InstaHide", "digits", GRID) is None


def test_costs_are_paired_and_relative_to_the_row_s_baseline():
    def row(name, accuracy, seconds, megabytes):
        return {"row": name, "task": "digits", "accuracy": accuracy, "seconds": seconds, "megabytes": megabytes}

    measured = [
        row("none", [0.9, 0.8, 0.7], 2.0, 4.0),
        row("none, every step shared", [0.5, 0.5, 0.5], 10.0, 40.0),
        row("MixUp", [0.88, None, 0.66], 3.0, 1.0),
        row("Local iterations", [0.4, 0.4, 0.4], 1.0, 4.0),
    ]
    mixed = record_table_2.costs("MixUp", measured)
    assert mixed["points"]["digits"]["estimate"] == pytest.approx(3.0)  # of two pairs, 2 and 4 points
    assert (mixed["seconds"], mixed["megabytes"]) == ({"digits": 1.5}, {"digits": 0.25})
    local = record_table_2.costs("Local iterations", measured)
    assert local["points"]["digits"]["estimate"] == pytest.approx(10.0)
    assert (local["seconds"], local["megabytes"]) == ({"digits": 0.1}, {"digits": 0.1})
    assert record_table_2.costs("Dropout", measured)["points"] == {}


@pytest.mark.parametrize(
    ("row", "real"),
    [("PPDL-AHE encryption", Paillier(key_bits=512)), ("BatchCrypt", BatchCrypt(key_bits=512, bits=8))],
)
def test_sums_without_the_cipher_are_those_under_it(row, real):
    generator = torch.Generator().manual_seed(0)
    shared = {k: (0.1 * torch.randn(7, 3, generator=generator), torch.randn(5, generator=generator)) for k in range(3)}
    counts = {0: 4, 1: 1, 2: 2}
    under, opened = (how.aggregate(shared, counts, number=1).mean for how in (real, table_2_defenses.opened(row)))
    for a, b in zip(under, opened, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("value", "kept"), [(-60.0, 0.0), (12.34, 12.3), (180.0, 99.0), (float("nan"), 0.0)])
def test_a_psnr_is_cut_to_0_to_99(value, kept):
    assert clipped(value) == kept


def test_an_attacker_who_does_not_know_of_local_steps_sees_a_gradient():
    line = next(line for line in record_grid.lines() if line.key == ("alone", "digits", "PPDL-AHE", "Local iterations"))
    x, y = torch.linspace(0, 1, 64).view(1, 1, 8, 8), torch.tensor([3])
    net = line.setting.victim("plain", 0)
    options = {"declare": (), "defense": None, "seed": 0}
    one = single(net, x, y, **options)
    several = single(net, x, y, local=record_grid.LOCAL, **options)
    assert several.local is None
    gaps = [float((a - b).norm() / a.norm()) for a, b in zip(one.shared, several.shared, strict=True)]
    assert 0 < max(gaps) < 0.5  # the mean of ten gradients, of nearly the same model
    told = single(net, x, y, local=record_grid.LOCAL, **options | {"declare": ("defense",)})
    assert told.local == record_grid.LOCAL


def test_every_row_has_a_strength_and_something_that_runs():
    assert list(table_2_defenses.STRENGTHS) == list(record_table_2.ROWS)
    chosen = {"Mixup inference", "Depth and batches", "Local iterations", "Rank analysis", "Fewer parameters"}
    for row in record_table_2.ROWS:
        runs = table_2_defenses.defense(row, 2) is not None or table_2_defenses.aggregation(row) is not None
        assert runs == (row not in chosen), row


@pytest.mark.parametrize("what", [lambda row: table_2_defenses.defense(row, 2), table_2_defenses.aggregation])
def test_a_row_that_there_is_not_is_refused(what):
    assert what("none") is None
    with pytest.raises(ValueError, match="row: got 'Mixup', wanted 'none' or one of MixUp"):
        what("Mixup")


def test_the_deficient_networks_are_deficient():
    """Fewer directions than pixels, whatever attack the network is for; of CNN6-d on photographs the second system."""
    for name, setting in record_grid.SETTINGS["digits"].items():
        if name == "CAFE":  # its gradients are of pools
            continue
        x, y = (values[:1] for values in victims.pictures(setting.kind, 0))
        for form, build in (("deficient", setting.deficient or setting.victim), ("few", setting.victim)):
            net = build(form, 0).double()
            values = ranks.gradient_spectrum(net, x.double(), y)
            assert int((values > 1e-7 * values[0]).sum()) < 64, (name, form)
            assert (sum(p.numel() for p in net.parameters()) < 64) == (form == "few"), (name, form)


@pytest.mark.parametrize("kind", ["digits", "pictures"])
def test_a_control_changes_one_thing(kind):
    """Of a setting one field; of an attack, where that is the field, its distance."""
    for attack, row, setting in record_grid.controls(kind):
        name = attack.partition(",")[0]
        base = record_grid.TOLD[kind]["Local iterations"] if name == "search" else record_grid.SETTINGS[kind][name]
        differ = {f.name for f in dataclasses.fields(base) if getattr(setting, f.name) != getattr(base, f.name)}
        assert len(differ) == 1, (attack, row)
        if differ == {"attack"}:
            assert setting.attack != base.attack
            assert setting.attack.replace(distance=base.attack.distance) == base.attack
    blind = {row for attack, row, _ in record_grid.controls(kind) if attack == "search, not told"}
    assert blind - {"none"} < set(record_grid.TOLD[kind])


def test_both_arms_of_batchcrypt_are_what_the_row_does():
    """What is clipped and rounded is what the row adds; each arm leaves one of the two out."""
    shared = {k: (torch.linspace(-1, 1, 50).double() ** 31 * (k + 1),) for k in range(4)}
    weights = dict.fromkeys(shared, 1)
    exact = sum(own[0] for own in shared.values()) / 4
    found = {
        arm: InTheOpen(bits=8, arm=arm).aggregate(shared, weights, number=1).mean[0]
        for arm in ("both", "clip", "round")
    }
    row = table_2_defenses.opened("BatchCrypt").aggregate(shared, weights, number=1).mean[0]
    assert torch.equal(found["both"], row)
    inside = (found["clip"] - exact).abs() < 1e-12
    assert 0 < inside.sum() < 50  # small entries are as they were, large ones are cut
    off = (found["round"] - exact).abs()
    assert 0 < off.max() <= 4 / 127 / 2 * 1.001  # half a step of the largest entry's range
