"""Shared fixtures: the pictures that many tests attack."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("MPLBACKEND", "agg")

import pytest
import torch

from gilearn import data


@pytest.fixture(scope="session")
def photos():
    return data.photos(32)


@pytest.fixture(scope="session")
def digits():
    return data.digits(64)


@pytest.fixture(autouse=True)
def global_random_state_untouched():
    """No test, and so no function of the package, may leave the global generator seeded or advanced."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(before, torch.get_rng_state()), "the global random state was changed"
