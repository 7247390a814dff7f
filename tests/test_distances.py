"""Distances between gradients: zero where they agree, differentiable, and what their names say."""

from __future__ import annotations

import pytest
import torch

from gilearn import federated, models
from gilearn.attacks import GradientMatching
from gilearn.attacks.iteration.distances import (
    Cosine,
    Distance,
    Euclidean,
    GaussianKernel,
    LayerwiseCosine,
    Manhattan,
    Masked,
    pairs,
    total,
)
from gilearn.attacks.iteration.optimizers import Adam
from gilearn.attacks.labels import Fixed

DISTANCES = {
    "euclidean": Euclidean(),
    "norms": Euclidean(squared=False),
    "manhattan": Manhattan(),
    "cosine": Cosine(),
    "layerwise cosine": LayerwiseCosine(),
    "kernel": GaussianKernel(),
    "kernel, sum": GaussianKernel(reduction="sum", width=10.0),
    "masked": Masked(),
    "masked cosine": Masked(distance=Cosine()),
}
each_distance = pytest.mark.parametrize("name", DISTANCES)


@pytest.fixture
def tiny():
    model = models.lenet(1, 3, size=4, width=2, strides=(1,)).double()
    x = torch.rand(2, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 2])
    return federated.observe(model, x, y), x, y


def gradients(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


@each_distance
def test_zero_at_the_private_input(name, tiny):
    seen, x, y = tiny
    assert abs(float(DISTANCES[name](seen.simulate(x, y, create_graph=False), seen.shared))) < 1e-12


@each_distance
def test_positive_elsewhere_and_differentiable(name, tiny):
    seen, x, y = tiny
    guess = (x + 0.1).requires_grad_()
    distance = DISTANCES[name](seen.simulate(guess, y), seen.shared)
    assert float(distance.detach()) > 1e-9
    (slope,) = torch.autograd.grad(distance, guess)
    assert torch.isfinite(slope).all()
    assert float(slope.norm()) > 0


@each_distance
def test_the_map_to_the_objective_passes_gradcheck(name, tiny):
    seen, x, y = tiny
    guess = (x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: DISTANCES[name](seen.simulate(v, y), seen.shared), guess)


@each_distance
def test_withheld_tensors_do_not_count(name):
    a, b = gradients((3, 2), (4,)), gradients((3, 2), (4,), seed=1)
    assert isinstance(DISTANCES[name], Distance)
    alone = DISTANCES[name]([a[0]], [b[0]])
    torch.testing.assert_close(DISTANCES[name]([a[0], None], [b[0], b[1]]), alone)
    torch.testing.assert_close(DISTANCES[name]([a[0], a[1]], [b[0], None]), alone)


def test_values_of_known_pairs():
    a, b = [torch.tensor([3.0, 0.0]), torch.tensor([0.0])], [torch.tensor([0.0, 4.0]), torch.tensor([2.0])]
    assert float(Euclidean()(a, b)) == 29
    assert float(Euclidean(squared=False)(a, b)) == 7
    assert float(Manhattan()(a, b)) == 9
    assert float(Cosine()(a, b)) == 1
    torch.testing.assert_close(float(Cosine()([2 * t for t in b], b)), 0.0, atol=1e-6, rtol=0)
    torch.testing.assert_close(float(Cosine()([-t for t in b], b)), 2.0)


def test_one_cosine_is_not_the_mean_of_many():
    """Two tensors of very different length: the global cosine follows the long one, the layer-wise takes both alike."""
    b = [torch.tensor([100.0, 0.0]), torch.tensor([1.0, 0.0])]
    a = [b[0], -b[1]]
    assert float(Cosine()(a, b)) < 1e-3
    torch.testing.assert_close(float(LayerwiseCosine()(a, b)), 1.0)


def test_the_sum_underflows_and_the_mean_does_not():
    b = gradients((1000,))
    far, near = ([(b[0] + gap).requires_grad_()] for gap in (10, 1))
    summed = GaussianKernel(reduction="sum")(far, b)
    assert float(summed.detach()) == 1
    assert not torch.autograd.grad(summed, far)[0].any()
    assert torch.autograd.grad(GaussianKernel()(near, b), near)[0].any()


def test_pruned_entries_are_not_compared():
    b = gradients((100,))
    pruned = [b[0] * (b[0].abs() > 1)]
    assert float(Euclidean()(b, pruned)) > 1
    assert float(Masked()(b, pruned)) == 0


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e12])
def test_cosine_of_any_length_in_float32(scale):
    a, b = ([t.float() for t in gradients((50,), seed=s)] for s in (0, 1))
    wanted = float(Cosine()(a, b))
    assert abs(float(Cosine()([t * scale for t in a], [t * scale for t in b])) - wanted) < 1e-5


def test_cosine_of_nothing():
    a = [torch.zeros(3, requires_grad=True)]
    distance = Cosine()(a, [torch.ones(3)])
    assert float(distance.detach()) == 1
    assert torch.isfinite(torch.autograd.grad(distance, a)[0]).all()


def test_cosine_next_to_zero_in_float32():
    """One less the cosine would round to 0 below 6e-8; half the squared distance of the unit vectors does not."""
    (b,) = gradients((1000,))
    (aside,) = gradients((1000,), seed=1)
    for scale in (1e-3, 1e-4, 1e-5):
        a = (b + scale * aside).requires_grad_()
        exact = Cosine()([a], [b])
        rounded = a.detach().float().requires_grad_()
        distance = Cosine()([rounded], [b.float()])
        assert float(distance.detach()) == pytest.approx(float(exact.detach()), rel=0.05)
        slopes = torch.autograd.grad(distance, rounded)[0], torch.autograd.grad(exact, a)[0].float()
        assert torch.nn.functional.cosine_similarity(*slopes, dim=0) > 0.99


@each_distance
def test_distances_have_second_derivatives(name):
    a, b = gradients((3, 2), (4,)), gradients((3, 2), (4,), seed=1)
    with torch.random.fork_rng(devices=[]):  # the check itself draws globally
        assert torch.autograd.gradgradcheck(lambda v: DISTANCES[name]([v, a[1]], b), a[0].requires_grad_())


def test_a_distance_of_one_s_own(tiny):
    """A plain function of the two gradients does, with the two helpers."""
    seen, x, y = tiny
    largest = lambda simulated, shared: total((a - b).abs().max() for a, b in pairs(simulated, shared))  # noqa: E731
    attack = GradientMatching(labels=Fixed(y), distance=largest, optimizer=Adam(lr=0.01), iterations=20)
    assert isinstance(largest, Distance)
    history = attack(seen).history
    assert history[-1] < history[0]
    with pytest.raises(ValueError, match="terms: got none, wanted at least one"):
        largest([None], [x])


@pytest.mark.parametrize("arguments", [{"width": 0.0}, {"floor": -1.0}, {"reduction": "max"}])
def test_refusals(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        GaussianKernel(**arguments)
