"""The engine: its objective, its result, its determinism, how it stops, and DLG and iDLG on digits."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.exc import TorchDynamoException

from gilearn import attacks, data, federated, metrics, models
from gilearn.attacks import (
    GradientMatching,
    Joint,
    distances,
    initialization,
    labels,
    optimizers,
    regularizers,
    spaces,
)
from gilearn.attacks.iteration.distances import Euclidean
from gilearn.attacks.iteration.initialization import Constant, Gaussian, Tiled, Uniform
from gilearn.attacks.iteration.optimizers import LBFGS, Adam, StepDecay
from gilearn.attacks.iteration.regularizers import GroupConsistency, TotalVariation
from gilearn.attacks.iteration.spaces import Pixels
from gilearn.federated import LocalSteps

INGREDIENTS = {"torch": torch} | {
    name: value
    for module in (attacks, labels, distances, initialization, optimizers, regularizers, spaces)
    for name, value in vars(module).items()
}


@pytest.fixture(scope="module")
def victim():
    """The LeNet of stride 1, which keeps all of an 8x8 digit."""
    return models.lenet(1, size=8, strides=(1, 1, 1))


@pytest.fixture(scope="module")
def seen(victim):
    x, y = data.digits(1)
    return federated.observe(victim, x, y, declare=["labels"])


def test_distance_is_zero_at_the_truth(victim, digits):
    model = models.lenet(1, size=8, strides=(1, 1, 1)).double()
    x, y = digits[0][:2].double(), digits[1][:2]
    seen = federated.observe(model, x, y)
    assert float(Euclidean()(seen.simulate(x, y, create_graph=False), seen.shared)) < 1e-12


def test_distance_is_the_sum_of_squares():
    a = (torch.tensor([[1.0, 2.0]]), None, torch.tensor([3.0]))
    b = (torch.tensor([[0.0, 0.0]]), torch.tensor([9.0]), torch.tensor([1.0]))
    assert float(Euclidean()(a, b)) == 1 + 4 + 4


def test_objective_gradcheck():
    """The map from inputs and logits to the objective has the derivatives that autograd says."""
    model = models.lenet(1, 3, size=6, width=2, strides=(1, 2)).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 1, 6, 6, dtype=torch.float64, generator=generator)
    seen = federated.observe(model, x, torch.tensor([0, 2]))
    other = torch.rand(x.shape, dtype=x.dtype, generator=generator).requires_grad_()
    logits = torch.rand(2, 3, dtype=x.dtype, generator=generator).requires_grad_()
    objective = lambda x, z: Euclidean()(seen.simulate(x, z.softmax(1)), seen.shared)  # noqa: E731
    assert torch.autograd.gradcheck(objective, (other, logits))


@pytest.mark.parametrize("name", ["DLG", "iDLG"])
def test_eight_digits(victim, digits, name):
    """Eight of eight, label included, with the least of at most three starts chosen by gradient distance."""
    attack = getattr(attacks, name)
    for k in range(8):
        x, y = digits[0][k : k + 1], digits[1][k : k + 1]
        result = attack(federated.observe(victim, x, y), seed=k)
        assert metrics.mse(result.inputs, x) < 1e-8, f"digit {k}"
        assert int(result.labels) == int(y)
        assert result.residual < 1e-3  # and so it was the last start


def test_a_batch_whose_labels_are_unknown(victim, digits):
    """Every example has labels of its own: two digits of different classes come back with both."""
    x, y = digits[0][3:5], digits[1][3:5]
    result = attacks.DLG(federated.observe(victim, x, y), seed=1)
    assert result.inputs.shape == x.shape
    assert metrics.mse(result.inputs, x) < 1e-6
    assert metrics.label_accuracy(result.labels, y) == 1


def test_an_update_of_local_steps(victim, digits):
    """Nothing changes for the attack: the observation simulates the client's schedule."""
    x, y = digits[0][:1], digits[1][:1]
    local = LocalSteps(steps=3, lr=0.01)
    seen = federated.observe(victim.double(), x.double(), y, declare=["labels"], local=local)
    attack = attacks.DLG.replace(labels=labels.Declared(), iterations=15, tolerance=1e-14)
    assert metrics.mse(attack(seen).inputs, x) < 1e-6
    victim.float()


@pytest.mark.parametrize("dtype", [None, torch.float64])
def test_same_seed_same_bits(seen, dtype):
    attack = attacks.DLG.replace(iterations=3, restarts=2, dtype=dtype)
    first, second, other = attack(seen, seed=5), attack(seen, seed=5), attack(seen, seed=6)
    assert torch.equal(first.inputs, second.inputs)
    assert torch.equal(first.history, second.history)
    assert not torch.equal(first.inputs, other.inputs)
    assert first.seed == 5
    assert first.inputs.dtype == torch.float32


def test_the_result_says_how_it_came_about(seen):
    result = attacks.iDLG(seen, seed=0, snapshots=12)
    assert result.attack == repr(attacks.iDLG)
    assert eval(result.attack, INGREDIENTS) == attacks.iDLG
    assert result.restarts[0]["stopped"] == "tolerance"
    assert result.restarts[0]["evaluations"] == len(result.history)
    assert len(result.snapshots) == 12
    steps = [k for k, _ in result.snapshots]
    assert steps == sorted(set(steps))
    assert steps[0] == 0
    assert steps[-1] == len(result.history) - 1
    errors = [metrics.mse(x, data.digits(1)[0]) for _, x in result.snapshots]
    assert errors[-1] < 1e-6 < errors[0]
    assert torch.equal(result.snapshots[-1][1].float(), result.inputs)


def test_the_residual_is_recomputable(seen):
    result = attacks.iDLG.replace(iterations=1)(seen)
    simulated = seen.simulate(result.inputs, result.labels, create_graph=False)
    off = sum((a - b).square().sum() for a, b in zip(simulated, seen.shared, strict=True)).sqrt()
    norm = sum(b.square().sum() for b in seen.shared).sqrt()
    assert result.residual == pytest.approx(float(off / norm), rel=1e-3)


def test_the_least_distance_is_kept_not_the_last(seen):
    wild = GradientMatching(labels=labels.IDLG(), optimizer=Adam(lr=5.0), iterations=60)
    result = wild(seen)
    assert result.restarts[0]["distance"] == float(result.history.min()) < float(result.history[-1])
    simulated = seen.simulate(result.inputs, result.labels, create_graph=False)
    assert float(Euclidean()(simulated, seen.shared)) == pytest.approx(float(result.history.min()), rel=1e-4)


def test_restarts_choose_by_gradient_distance(seen):
    attack = attacks.iDLG.replace(iterations=1, restarts=4, optimizer=LBFGS(max_iter=4))
    result = attack(seen, seed=3)
    distances = [start["distance"] for start in result.restarts]
    assert len(distances) == 4
    assert float(result.history.min()) == min(distances)
    single = [attack.replace(restarts=1)(seen, seed=3).restarts[0]["distance"]]
    assert single[0] == distances[0]


@pytest.mark.parametrize("optimizer", [Adam(lr=1e6), LBFGS(lr=50.0, line_search_fn=None)])
def test_a_start_that_diverges_gives_way(digits, optimizer):
    """A wild step blows up an unbounded activation: the start is given up, the next is tried, the result is finite."""
    model = models.lenet(1, size=8, strides=(1, 1, 1), activation="softplus")
    wild = attacks.DLG.replace(optimizer=optimizer, restarts=3)
    result = wild(federated.observe(model, digits[0][:1], digits[1][:1]))
    stopped = [start["stopped"] for start in result.restarts]
    assert len(stopped) == 3
    assert stopped[0] == stopped[2] == "diverged"
    assert torch.isfinite(result.inputs).all()
    assert min(start["distance"] for start in result.restarts) == float(result.history.min())


@pytest.mark.parametrize("explained", [0.0, 1e-3])
def test_a_start_that_explains_the_gradient_is_the_last(seen, explained):
    """Without a tolerance every start is taken to its end; the first one's residual says that it was enough."""
    attack = attacks.iDLG.replace(iterations=6, tolerance=0.0, explained=explained)
    result = attack(seen, seed=0)
    assert len(result.restarts) == (1 if explained else 3)
    assert result.restarts[0]["residual"] < 1e-3
    assert result.residual == min(start["residual"] for start in result.restarts)


def test_a_start_that_explains_little_is_not_the_last(seen):
    assert len(attacks.iDLG.replace(iterations=1)(seen).restarts) == 3


def test_patience_does_not_hit_a_first_order_optimizer(seen):
    """Swapping the optimizer swaps it: Adam creeps, and takes every step of its budget."""
    creeping = attacks.iDLG.replace(optimizer=Adam(lr=1e-6), iterations=30, restarts=1)
    assert creeping(seen).restarts[0]["stopped"] == "budget"
    impatient = creeping.replace(optimizer=Adam(lr=1e-6, patience=3))
    assert impatient(seen).restarts[0]["stopped"] == "stalled"


def test_every_restart_has_a_log_and_an_end_of_its_own(seen_photo):
    """The second of three diverges in its fourth evaluation: the others go on to the end of their budget."""

    def blow_up(candidates):
        return torch.tensor([0.0, 1e30 if candidates.iteration >= 3 else 0.0, 0.0])

    attack = short(restarts=3, parallel=3, iterations=10, regularizers=(blow_up,))
    result = attack(seen_photo)
    assert [start["stopped"] for start in result.restarts] == ["budget", "diverged", "budget"]
    assert [start["evaluations"] for start in result.restarts] == [10, 4, 10]
    free = attack.replace(regularizers=())(seen_photo)
    assert result.restarts[0]["distance"] == free.restarts[0]["distance"]
    assert result.restarts[2]["distance"] == free.restarts[2]["distance"]


def test_a_restart_that_is_through_ends_those_beside_it(seen_photo):
    """The first begins at the truth: it has reached the tolerance, the other has not, and says so."""
    truth = data.photos(32)[0][:1].double()

    class First(Gaussian):
        def __call__(self, shape, generator):
            drawn = super().__call__(shape, generator)
            begun.append(shape)
            return truth if len(begun) == 1 else drawn

    begun = []
    attack = short(initialization=First(), restarts=4, parallel=2, tolerance=1e-9, dtype=torch.float64)
    result = attack(seen_photo)
    assert [start["stopped"] for start in result.restarts] == ["tolerance", "another restart"]
    assert result.restarts[0]["distance"] < 1e-9 < result.restarts[1]["distance"]


def test_no_tolerance_is_no_reason_to_stop(seen):
    """A distance of exactly zero ends nothing by itself."""
    flat = GradientMatching(
        labels=labels.IDLG(), distance=lambda a, b: 0 * Euclidean()(a, b), optimizer=Adam(lr=0.1), iterations=7
    )
    result = flat(seen)
    assert result.restarts[0]["stopped"] == "budget"
    assert len(result.history) == 7


@pytest.mark.parametrize("picture", range(3))
def test_cosine_in_float32_goes_on_to_the_end(picture):
    x, y = data.photos(16)
    victim = models.convnet(size=16, activation="sigmoid")
    seen = federated.observe(victim, x[picture : picture + 1], y[picture : picture + 1], declare=["labels"])
    attack = attacks.InvGrad.replace(regularizers=(), iterations=600)
    assert metrics.psnr(attack(seen).inputs, x[picture : picture + 1]) > 60


def test_a_start_that_stalls_gives_way(seen):
    still = GradientMatching(labels=labels.IDLG(), optimizer=Adam(lr=0.0, patience=4), iterations=50, restarts=2)
    result = still(seen)
    assert [start["stopped"] for start in result.restarts] == ["stalled", "stalled"]
    assert all(start["evaluations"] < 10 for start in result.restarts)


def test_time_limit(seen):
    attack = attacks.DLG.replace(
        tolerance=0.0, iterations=100_000, restarts=100, explained=0.0, optimizer=LBFGS(patience=None)
    )
    result = attack(seen, time_limit=0.5)
    assert result.seconds < 5
    assert result.restarts[-1]["stopped"] == "time limit"
    assert torch.isfinite(result.inputs).all()


def test_progress_bar(seen, capsys):
    attacks.iDLG.replace(iterations=2)(seen, progress=True)
    assert "matching" in capsys.readouterr().err
    attacks.iDLG.replace(iterations=2)(seen)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("what", ["zeros", "noise", "missing tensors", "one tensor left"])
def test_defended_gradients_are_inputs(seen, what):
    generator = torch.Generator().manual_seed(0)
    shared = {
        "zeros": tuple(torch.zeros_like(g) for g in seen.shared),
        "noise": tuple(g + torch.randn(g.shape, generator=generator) for g in seen.shared),
        "missing tensors": tuple(None if k in (0, 3) else g for k, g in enumerate(seen.shared)),
        "one tensor left": (*(None,) * 6, seen.shared[6], None),
    }[what]
    attack = attacks.DLG.replace(iterations=5, restarts=1)
    result = attack(seen.replace(shared=shared))
    assert torch.isfinite(result.inputs).all()
    assert float(result.history.min()) < float(result.history[0])
    if what == "missing tensors":
        full = attacks.DLG.replace(restarts=2)(seen.replace(shared=shared))
        assert metrics.mse(full.inputs, data.digits(1)[0]) < 1e-6


def test_initializations():
    generator = torch.Generator().manual_seed(0)
    normal = Gaussian(mean=1, std=2)((20_000,), generator)
    assert abs(normal.mean() - 1) < 0.05
    assert abs(normal.std() - 2) < 0.05
    flat = Uniform(low=-1, high=3)((20_000,), generator)
    assert flat.min() >= -1
    assert flat.max() <= 3
    assert abs(flat.mean() - 1) < 0.05
    assert normal.dtype == flat.dtype == torch.float64
    again = torch.Generator().manual_seed(0)
    assert torch.equal(Gaussian(mean=1, std=2)((20_000,), again), normal)
    uniform = attacks.iDLG.replace(initialization=Uniform())
    assert "Uniform(low=0.0, high=1.0)" in repr(uniform)


def test_presets_have_the_published_constants():
    for attack in (attacks.DLG, attacks.iDLG):
        assert attack.initialization == Gaussian(mean=0.0, std=1.0)
        assert attack.distance == Euclidean()
        assert (attack.optimizer.lr, attack.optimizer.max_iter, attack.optimizer.history_size) == (1.0, 20, 100)
        assert attack.iterations == 300
    assert attacks.DLG.labels == Joint()
    assert attacks.iDLG.labels == labels.IDLG()


def test_refusals(seen, digits):
    for changes, message in (
        ({"iterations": 0}, "iterations: got 0, wanted at least 1"),
        ({"restarts": 0}, "restarts: got 0"),
        ({"tolerance": -1}, "tolerance: got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            attacks.DLG.replace(**changes)
    with pytest.raises(ValueError, match="std: got -1"):
        Gaussian(std=-1)
    with pytest.raises(ValueError, match="high: got 0"):
        Uniform(low=1, high=0)
    logistic = federated.observe(models.mlp(64, num_classes=1), digits[0][:1], torch.tensor([1]), loss="logistic")
    with pytest.raises(ValueError, match=r"labels: Joint\(\) needs the loss cross_entropy"):
        attacks.DLG(logistic)
    two = federated.observe(models.mlp(64), digits[0][:2], digits[1][:2])
    with pytest.raises(ValueError, match="iDLG's rule is for one example"):
        attacks.iDLG(two)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda(digits):
    model = models.lenet(1, size=8, strides=(1, 1, 1)).cuda()
    result = attacks.DLG(federated.observe(model, digits[0][:1], digits[1][:1]))
    assert result.inputs.device.type == "cuda"
    assert metrics.mse(result.inputs, digits[0][:1]) < 1e-6


@pytest.fixture(scope="module")
def seen_photo(photos):
    x, y = photos
    return federated.observe(models.lenet(), x[:1], y[:1], declare=["labels"])


def short(**changes):
    return GradientMatching(**{"labels": labels.Declared(), "optimizer": Adam(lr=0.1), "iterations": 20, **changes})


def test_starts_that_run_together_are_those_that_run_alone(seen_photo):
    alone = short(restarts=5)(seen_photo, seed=3)
    together = short(restarts=5, parallel=2)(seen_photo, seed=3)
    assert len(together.restarts) == 5
    for a, b in zip(alone.restarts, together.restarts, strict=True):
        assert abs(a["distance"] - b["distance"]) < 1e-2 * a["distance"]
    assert metrics.mse(together.inputs, alone.inputs) < 1e-2
    assert together.history.shape == alone.history.shape == (20,)


def test_joint_labels_of_starts_that_run_together(photos):
    x, y = photos
    seen = federated.observe(models.lenet(), x[:2], y[:2])
    result = short(labels=Joint(), restarts=3, parallel=3, iterations=5)(seen, snapshots=3)
    assert result.inputs.shape == (2, 3, 32, 32)
    assert result.labels.shape == (2,)
    assert all(frame.shape == (2, 3, 32, 32) for _, frame in result.snapshots)


@pytest.mark.parametrize("local", [None, LocalSteps(steps=3, lr=0.1), LocalSteps(steps=4, lr=0.1, batch_size=2)])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_functional_simulation_is_the_plain_one(photos, local, batch_norm):
    x, y = photos[0][:4].double(), photos[1][:4]
    model = models.convnet(widths=(4,), strides=(2,), batch_norm=batch_norm, activation="tanh").double()
    model[0].bias.requires_grad_(False)
    seen = federated.observe(model, x, y, local=local)
    plain, functional = (seen.simulate(x, y, functional=how) for how in (False, True))
    assert functional[1] is None
    for a, b in zip(plain, functional, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a.detach(), b.detach())


def test_compiled_takes_the_same_way(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    model = models.lenet(1, size=8, strides=(2, 1), width=4).double()
    seen = federated.observe(model, digits[0][:1].double(), digits[1][:1], declare=["labels"])
    eager, compiled = (short(compiled=how)(seen) for how in (False, True))
    torch.testing.assert_close(eager.history, compiled.history, rtol=1e-6, atol=0)
    torch.testing.assert_close(eager.inputs, compiled.inputs, rtol=1e-5, atol=1e-6)


def test_a_compiler_that_computes_something_else_is_not_used(seen_photo, monkeypatch):
    def broken(function, **_):
        def compiled(*given):
            slopes, value = function(*given)
            return tuple(1.2 * slope for slope in slopes), value

        return compiled

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.warns(RuntimeWarning, match="another derivative"):
        compiled = short(compiled=True)(seen_photo)
    torch.testing.assert_close(compiled.inputs, short()(seen_photo).inputs, rtol=1e-3, atol=1e-3)


def test_a_compiler_that_fails_is_not_needed(seen_photo, monkeypatch):
    def broken(function, **_):
        def compiled(*given):
            raise TorchDynamoException("no compiler on this machine")

        return compiled

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.warns(RuntimeWarning, match="no compiler on this machine"):
        compiled = short(compiled=True)(seen_photo)
    torch.testing.assert_close(compiled.inputs, short()(seen_photo).inputs, rtol=1e-3, atol=1e-3)


def test_the_bounds_are_kept_and_the_regularizer_counts(seen_photo):
    boxed = short(space=Pixels(bounds=(0.0, 1.0)))(seen_photo, snapshots=30)
    assert all(float(frame.min()) >= 0 and float(frame.max()) <= 1 for k, frame in boxed.snapshots)
    rough = short(iterations=60)(seen_photo)
    smooth = short(iterations=60, regularizers=(TotalVariation(weight=1000.0),))(seen_photo)
    variation = lambda v: float((v[..., 1:] - v[..., :-1]).abs().mean())  # noqa: E731
    assert variation(smooth.inputs) < variation(rough.inputs) / 2
    assert smooth.history[0] > rough.history[0]


def test_the_start_is_within_its_bounds(seen_photo):
    """One iteration returns the start itself."""
    start = short(space=Pixels(bounds=(0.0, 1.0)), iterations=1)(seen_photo).inputs
    assert (float(start.min()), float(start.max())) == (0.0, 1.0)


def test_a_group_pulls_its_starts_together(seen_photo):
    """Without it two starts end apart; with it, how far they are apart is part of the objective."""
    free = short(restarts=4, parallel=4, iterations=60)(seen_photo)
    bound = short(restarts=4, parallel=4, iterations=60, regularizers=(GroupConsistency(weight=100.0),))(seen_photo)
    assert bound.history[0] > free.history[0] + 100
    assert bound.history[-1] < bound.history[0] / 10


def test_presets_are_what_their_documentation_says():
    assert attacks.InvGrad.optimizer == Adam(lr=0.1, schedule=StepDecay())
    assert attacks.InvGrad.iterations == 4800
    assert attacks.SAPAG.initialization == Constant(value=0.5)
    weights = {type(r).__name__: r.weight * 1e-3 for r in attacks.GradInversion.regularizers}
    wanted = {"TotalVariation": 1e-4, "L2": 1e-6, "BatchNormStatistics": 0.1, "GroupConsistency": 0.01}
    assert weights == pytest.approx(wanted)
    assert attacks.GradInversion.restarts == attacks.GradInversion.parallel == 8
    assert attacks.CPL.initialization == Tiled(parts=2)


@pytest.mark.parametrize("k", range(3))
def test_sapag_and_cpl_on_digits(victim, digits, k):
    x, y = digits[0][k : k + 1], digits[1][k : k + 1]
    seen = federated.observe(victim, x, y, declare=["labels"])
    assert metrics.mse(attacks.SAPAG(seen).inputs, x) < 1e-4
    assert metrics.mse(attacks.CPL(seen).inputs, x) < 1e-5


def test_invgrad_on_a_photograph(photos):
    x, y = photos
    seen = federated.observe(models.convnet(), x[:1], y[:1], declare=["labels"])
    invgrad = attacks.InvGrad.replace(iterations=300)
    assert metrics.psnr(invgrad(seen).inputs, x[:1]) > 25


def test_gradinversion_runs_in_small(photos):
    x, y = photos
    seen = federated.observe(models.convnet(batch_norm=True), x[:2], y[:2])
    small = attacks.GradInversion.replace(restarts=2, parallel=2, iterations=8)
    result = small(seen)
    assert result.labels.tolist() == sorted(y[:2].tolist())
    assert len(result.restarts) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parallel": 0}, "parallel"),
        ({"parallel": 2, "optimizer": LBFGS()}, "moves one start at a time"),
        (
            {"regularizers": (GroupConsistency(weight=1.0),)},
            "restarts, parallel: got 1 and 1, which leaves a restart alone",
        ),
        (
            {"regularizers": (GroupConsistency(weight=1.0),), "restarts": 3, "parallel": 2},
            "restarts, parallel: got 3 and 2, which leaves a restart alone, and GroupConsistency compares",
        ),
    ],
)
def test_refused_compositions(changes, message):
    with pytest.raises(ValueError, match=message):
        short(**changes)
