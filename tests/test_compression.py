"""Compression: what each compressor sends, how many bits it takes, what error feedback repays, what still leaks.

The bars are METHODS' numbers: feedback's mean update over a constant gradient, and the input behind rank-1 factors.
"""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler
from torch import nn

from gilearn import attacks, data, defenses, federated, metrics, models
from gilearn.attacks import GradientMatching, distances, initialization, labels, optimizers, spaces
from gilearn.attacks.learned import _ridge as learned_map
from gilearn.defenses import PowerSGD, Projection, Pruning, Quantization, Signs, per_entry, utility
from gilearn.federated import Client, Composition, LocalSteps


def client(seed=0):
    return Client(model=nn.Identity(), num_classes=2, generator=torch.Generator().manual_seed(seed))


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mean_error(defense, gradient, rounds):
    """How far the mean of the uploads of a constant gradient is from it, over its norm."""
    own = client()
    uploads = [defense.shared((gradient,), own)[0] for _ in range(rounds)]
    return float((torch.stack(uploads).mean(0) - gradient).norm() / gradient.norm())


RANK_10 = drawn(64, 10, seed=1) @ drawn(10, 128, seed=2)
FEEDBACK = {
    "PowerSGD": (PowerSGD(rank=4), RANK_10, 200, 0.02),
    "signs": (Signs(feedback=True), drawn(1000, seed=3), 500, 0.05),
    "pruning": (Pruning(share=0.9, feedback=True), drawn(64, 128, seed=4), 200, 0.05),
    "pruning of all together": (Pruning(share=0.9, scope="global", feedback=True), drawn(999, seed=5), 200, 0.05),
}


@pytest.mark.parametrize("name", FEEDBACK)
def test_feedback_repays_what_was_left_out(name):
    """And without it the mean stays where one upload is."""
    defense, gradient, rounds, bar = FEEDBACK[name]
    assert mean_error(defense, gradient, rounds) < bar
    assert mean_error(defense.replace(feedback=False), gradient, rounds) > 0.3


@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_pruning_takes_entries_of_equal_magnitude_together(scope):
    """No order among them would be the gradient's."""
    given = torch.tensor([-3.0, 1.0, 2.0, -2.0, 2.0, 5.0])
    (sent,) = Pruning(share=0.4, scope=scope).shared((given,), client())
    assert sent.tolist() == [-3, 0, 0, 0, 0, 5]
    (sent,) = Composition(parts=(Signs(magnitude=0.1), Pruning(share=0.3, scope=scope))).shared((given,), client())
    assert not sent.any()


@pytest.mark.parametrize("name", FEEDBACK)
def test_the_sum_of_uploads_is_that_of_gradients_less_what_is_kept(name):
    defense, own = FEEDBACK[name][0], client()
    gradients = [drawn(12, 20, seed=k) for k in range(7)]
    sent = [defense.shared((g, None), own) for g in gradients]
    assert all(other is None for _, other in sent)
    total = sum(upload for upload, _ in sent) + own.memory["kept"][0]
    torch.testing.assert_close(total, sum(gradients))
    assert own.memory["kept"][1] is None
    assert torch.isfinite(own.memory["kept"][0]).all()


def test_momentum_free_pruning_without_a_share_keeps_nothing_back():
    own = client()
    assert torch.equal(Pruning(share=0.0, feedback=True).shared((RANK_10,), own)[0], RANK_10)
    assert not own.memory["kept"][0].any()


def descend(defense, gradient, x, lr, steps, decay=0.5):
    own = client()
    for step in range(steps):
        x = x - defense.shared((lr / (step + 1) ** decay * gradient(x, step),), own)[0]
    return x


SAME = Signs(magnitude=0.01)  # of a single entry the mean magnitude would be all of it


def test_signs_diverge_on_a_linear_loss_and_with_feedback_do_not():
    """Karimireddy et al.: f(x) = x / 4 on average, of gradients 4 one time in four and -1 otherwise."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.where(torch.rand(4000, generator=generator) < 0.25, 4.0, -1.0).double()
    ends = {
        name: float(descend(defense, lambda _, k: draws[k : k + 1], torch.zeros(1).double(), 0.01, 4000, decay=0.0))
        for name, defense in (("sign", SAME), ("feedback", SAME.replace(feedback=True)))
    }
    plain = -0.01 * float(draws.sum())
    assert plain < 0 < ends["sign"], "signSGD climbs where SGD descends"
    assert ends["feedback"] == pytest.approx(plain, abs=0.3)


def test_signs_never_leave_a_line_that_feedback_leaves():
    """The same authors': f(x) = |x1 + x2| / 2 + |x1 - x2|, whose subgradients' signs are always (1, -1) or (-1, 1)."""

    def slope(x, step):
        above = 1.0 if x[0] >= x[1] else -1.0  # at the kink either is a subgradient
        return 0.5 * x.sum().sign() * torch.ones(2).double() + above * torch.tensor([1.0, -1.0])

    def value(x):
        return float(x.sum().abs() / 2 + (x[0] - x[1]).abs())

    start = torch.tensor([1.0, 0.8], dtype=torch.float64)
    sign = descend(Signs(), slope, start, 0.05, 3000)
    assert float(sign.sum()) == pytest.approx(1.8)
    assert value(sign) > 0.89
    assert value(descend(Signs(feedback=True), slope, start, 0.05, 3000)) < 0.05


def test_power_iteration_from_scratch():
    """P is orthonormal, P Q' is what is shared, and the last Q begins the next round."""
    defense, own = PowerSGD(rank=4), client()
    error, right = torch.zeros_like(RANK_10), client().draw(torch.empty(128, 4).double())
    for _ in range(5):
        matrix = RANK_10 + error
        left = torch.linalg.qr(matrix @ right).Q
        right = matrix.T @ left
        torch.testing.assert_close(left.T @ left, torch.eye(4).double())
        wanted = left @ right.T
        torch.testing.assert_close(defense.shared((RANK_10,), own)[0], wanted)
        error = matrix - wanted
    assert int(torch.linalg.matrix_rank(wanted)) == 4
    left, _ = defense.factors(RANK_10, right)
    assert float((left.T @ left - torch.eye(4)).abs().max()) < 1e-12


def test_power_iteration_of_kernels_vectors_and_small_matrices():
    kernel, vector, thin, dead = drawn(6, 3, 3, 3), drawn(6), drawn(2, 50), torch.zeros(4, 5).double()
    sent = PowerSGD(rank=3).shared((kernel, vector, None, thin, dead), client())
    assert sent[0].shape == kernel.shape
    assert int(torch.linalg.matrix_rank(sent[0].flatten(1))) == 3
    assert torch.equal(sent[1], vector)
    assert sent[2] is None
    torch.testing.assert_close(sent[3], thin)
    assert torch.equal(sent[4], dead)


def test_warm_start_finds_the_leading_directions():
    """Of a constant matrix without feedback the factors converge to the best approximation; a cold start does not."""
    left, _, right = torch.linalg.svd(drawn(30, 40), full_matrices=False)
    best = left[:, :2] @ torch.diag(torch.tensor([9.0, 8.0]).double()) @ right[:2]
    matrix = best + left[:, 2:] @ torch.diag(torch.linspace(3, 0, 28).double()) @ right[2:]
    own, defense = client(), PowerSGD(rank=2, feedback=False)
    for _ in range(30):
        sent = defense.shared((matrix,), own)[0]
    torch.testing.assert_close(sent, best, rtol=0, atol=1e-6)
    cold = defense.shared((matrix,), client())[0]
    assert float((cold - best).norm()) > 0.1


def test_quantization_is_unbiased_and_lies_on_the_grid():
    gradient, own = drawn(40, 5), client()
    for levels in (1, 4):
        draws = torch.stack([Quantization(levels=levels).shared((gradient,), own)[0] for _ in range(4000)])
        unit = float(gradient.abs().max()) / levels
        steps = draws / unit
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-9)
        assert len(steps.round().unique()) <= 2 * levels + 1
        assert float((draws - gradient).abs().max()) <= unit
        off = (draws.mean(0) - gradient) / (unit / 2 / 4000**0.5)
        assert float(off.abs().max()) < 5, "no entry's mean is off by more than five standard errors"
        assert float(off.square().mean()) < 1.3
        share = gradient / unit - (gradient / unit).floor()
        torch.testing.assert_close(draws.var(0).mean(), unit**2 * (share * (1 - share)).mean(), rtol=0.03, atol=0)
    assert torch.equal(Quantization(levels=2).shared((torch.zeros(3),), own)[0], torch.zeros(3))


def test_a_bit_has_two_values():
    """Zero too: with ``torch.sign`` a server would see which entries are zero."""
    sent = Signs().shared((torch.tensor([0.0, -2.0, 4.0, -0.0]),), client())[0]
    assert sent.tolist() == [1.5, -1.5, 1.5, 1.5]
    assert Signs(magnitude=0.1).shared((torch.tensor([0.0, -2.0]),), client())[0].tolist() == pytest.approx([0.1, -0.1])


BITS = {
    "positions": (Pruning(share=0.99), 20 * (32 + 11) + 32),
    "one bit each": (Pruning(share=0.5), 1000 * 32 + 2000),
    "all": (Pruning(share=0.0), 2000 * 32),
    "factors": (PowerSGD(rank=1), 90 * 32),
    "more than the matrix": (PowerSGD(rank=30), 2000 * 32),
    "signs": (Signs(), 2000 + 32),
    "signs, fixed": (Signs(magnitude=0.1), 2000),
    "ternary": (Quantization(levels=1), 2 * 2000 + 32),
    "fifteen levels": (Quantization(levels=7), 4 * 2000 + 32),
    "none": (federated.Defense(), 2000 * 32),
    "the last counts": (Composition(parts=(Pruning(share=0.9), defenses.GaussianNoise(std=0.1))), 2000 * 32),
    "signs last": (Composition(parts=(Pruning(share=0.9), Signs())), 2032),
    "nothing": (Composition(), 2000 * 32),
}


@pytest.mark.parametrize("name", BITS)
def test_bits_of_an_upload(name):
    defense, wanted = BITS[name]
    sent = defense.shared((drawn(40, 50).float(), None), client())
    assert defense.bits(sent) == wanted
    assert per_entry(defense, sent) == wanted / 2000
    single = defense.shared((drawn(40, 50), None), client())
    assert defense.bits(single) > wanted or "sign" in name, "float64 takes twice the bits, but for signs"


def test_bits_of_a_mask_and_of_vectors():
    mask = torch.tensor([True, False, True])
    assert defenses.Mask(masks=(mask, None)).bits((torch.ones(3), torch.ones(5))) == (2 + 5) * 32
    assert PowerSGD(rank=1).bits((torch.ones(7), None, torch.ones(4, 2, 3, 3))) == (7 + 4 + 18) * 32


def test_training_counts_the_bits(digits):
    small = utility.TASKS["digits"].replace(rounds=2, examples=30)
    frame = {
        name: float(utility.measure(small, seeds=(0,), defense=defense).megabytes[0])
        for name, defense in (("none", None), ("signs", Signs()), ("both", (Pruning(share=0.9), Signs())))
    }
    entries = sum(p.numel() for p in small.build(0).parameters())
    assert frame["none"] == pytest.approx(2 * entries * 4 / 1e6)
    assert frame["signs"] == frame["both"] == pytest.approx(2 * (entries / 8 + 4 * 4) / 1e6)


@pytest.fixture(scope="module")
def victim():
    return utility.TASKS["digits"].build(0).double()


def observed(model, digits, defense, *, rows=slice(1), declare=("labels",), **options):
    x, y = digits[0][rows].double(), digits[1][rows]
    return federated.observe(model, x, y, defense=defense, declare=list(declare), **options)


def test_rank_one_factors_of_a_single_example_leak_its_input(victim, digits):
    """Its gradient is an outer product: rank 1 is all of it."""
    for seed in range(3):
        seen = observed(victim, digits, PowerSGD(rank=1), seed=seed)
        found = attacks.PPDL_AHE(seen).inputs
        assert metrics.relative_error(found, digits[0][:1].double()) < 1e-10


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_factors_of_a_batch_lie_in_the_span_of_its_inputs(victim, digits, rank):
    seen = observed(victim, digits, PowerSGD(rank=rank), rows=slice(4))
    _, values, rows = torch.linalg.svd(seen.shared[0], full_matrices=False)
    assert int((values > 1e-10 * values[0]).sum()) == rank
    inputs = torch.linalg.qr(digits[0][:4].double().flatten(1).T).Q
    left = rows[:rank] - rows[:rank] @ inputs @ inputs.T
    assert float(left.norm()) < 1e-10


def test_the_declared_projection_is_what_left(victim, digits):
    for rank in (1, 2):
        seen = observed(victim, digits, PowerSGD(rank=rank), rows=slice(3), declare=["labels", "defense"])
        bases = seen.known("defense").bases
        assert isinstance(seen.known("defense"), Projection)
        assert bases[0].shape == (64, rank)
        assert bases[1] is None
        torch.testing.assert_close(bases[0].T @ bases[0], torch.eye(rank).double())
        again = seen.simulate(digits[0][:3].double(), digits[1][:3], create_graph=False)
        for one, other in zip(again, seen.shared, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_declared_signs_have_a_derivative(victim, digits):
    """The values are the signs; the derivative is that of the gradient."""
    seen = observed(victim, digits, Signs(feedback=True), declare=["labels", "defense"])
    assert seen.known("defense") == Signs()
    x = digits[0][:1].double().requires_grad_()
    simulated = seen.simulate(x, digits[1][:1])
    for one, other in zip(simulated, seen.shared, strict=True):
        torch.testing.assert_close(one, other)
    blind = observed(victim, digits, Signs()).simulate(x, digits[1][:1])
    slopes = [torch.autograd.grad(sum(g.sum() for g in gradient), x)[0] for gradient in (simulated, blind)]
    torch.testing.assert_close(*slopes)
    assert slopes[0].any()


SEARCH = GradientMatching(
    initialization=initialization.Gaussian(), labels=labels.Declared(), iterations=50,
    optimizer=optimizers.Adam(lr=0.1, schedule=optimizers.StepDecay()), space=spaces.Pixels(bounds=(0.0, 1.0)),
)  # fmt: skip


def test_sign_agreement_finds_more_than_the_cosine(digits):
    gains = []
    for k in range(3):
        model = utility.TASKS["digits"].build(k)
        seen = federated.observe(
            model, digits[0][k : k + 1], digits[1][k : k + 1], defense=Signs(), declare=["labels"], seed=k
        )
        found = [
            metrics.psnr(SEARCH.replace(distance=distance)(seen, seed=k).inputs, digits[0][k : k + 1])
            for distance in (distances.SignAgreement(), distances.Cosine())
        ]
        gains.append(found[0] - found[1])
    assert sum(gains) / len(gains) > 1


def test_the_mean_of_uploads_is_the_gradient(victim, digits):
    """Error feedback pays back what it kept: the more rounds a server adds up, the nearer is the division's picture."""
    x, y = digits[0][:1].double(), digits[1][:1]
    found = {}
    for feedback in (True, False):
        rounds = federated.fedavg(
            victim, [(x, y)], LocalSteps(steps=1, lr=1.0), num_rounds=60, server_lr=0.0, declare=["defense"],
            defense=Pruning(share=0.95, feedback=feedback),
        )  # fmt: skip
        uploads = [ran.observations[0] for ran in rounds]
        for number in (1, 60):
            seen = attacks.accumulated(uploads[:number])
            assert "defense" not in seen.knowledge
            found[feedback, number] = metrics.psnr(attacks.PPDL_AHE(seen).inputs, x)
    assert found[True, 60] > found[True, 1] + 10
    assert found[False, 60] == pytest.approx(found[False, 1], abs=0.01)


def test_the_mean_divides_where_the_model_moves(victim, digits):
    x, y = digits[0][:1].double(), digits[1][:1]
    rounds = list(federated.fedavg(victim, [(x, y)], LocalSteps(steps=1, lr=0.1), num_rounds=10))
    uploads = [ran.observations[0] for ran in rounds]
    assert float((uploads[0].shared[0] - uploads[9].shared[0]).norm()) > 0.1 * float(uploads[0].shared[0].norm())
    assert metrics.relative_error(attacks.PPDL_AHE(attacks.accumulated(uploads)).inputs, x) < 1e-10


@pytest.fixture(scope="module")
def learned():
    x, y = data.digits()
    return attacks.LearnedInversion(inputs=x[900:1200], labels=y[900:1200])


def test_learning_to_invert_signs_beats_the_guess(learned, digits):
    """The auxiliary digits are not those attacked; the label is predicted where it is not declared."""
    model, gains, right = utility.TASKS["digits"].build(0), [], 0
    for k in range(2):
        x, y = digits[0][k : k + 1], digits[1][k : k + 1]
        seen = federated.observe(model, x, y, defense=Signs(feedback=True), declare=["defense"])
        found = learned(seen)
        guess = learned.inputs[learned.labels == y].mean(0, keepdim=True)
        gains.append(metrics.psnr(found.inputs, x) - metrics.psnr(guess, x))
        right += int(found.labels == y)
    assert sum(gains) / 2 > 1
    assert right == 2


def test_learning_with_another_map_and_another_defense(learned, digits):
    seen = federated.observe(utility.TASKS["digits"].build(0), *(given[:1] for given in digits), declare=["labels"])
    few = learned.replace(inputs=learned.inputs[:60], labels=learned.labels[:60])
    network = MLPRegressor(hidden_layer_sizes=(8,), max_iter=2000, random_state=0, tol=0.1)
    found = few.replace(regressor=network, defense=Quantization(levels=3))(seen, seed=1)
    assert found.inputs.shape == (1, 1, 8, 8)
    assert found.details["auxiliary"] == 60
    assert not hasattr(network, "coefs_"), "the regressor that was given stays unfitted"
    assert torch.equal(found.labels, digits[1][:1])
    assert repr(few) != repr(learned)


def test_the_map_is_ridge_regression():
    """Against scikit-learn's, which holds all coefficients; and the penalty is that of the least error left out."""
    entries, wanted, new = drawn(30, 50, seed=1), drawn(30, 4, seed=2), drawn(5, 50, seed=3)
    wanted = wanted + entries[:, :4]
    scaled = StandardScaler().fit(entries.numpy())
    for penalty in (0.1, 10.0, 1e4):
        other = Ridge(alpha=penalty).fit(scaled.transform(entries.numpy()), wanted.numpy())
        own = learned_map(entries, wanted, (penalty,))(new)
        torch.testing.assert_close(own, torch.from_numpy(other.predict(scaled.transform(new.numpy()))))
    errors = {}
    x, y = scaled.transform(entries.numpy()), wanted.numpy()
    for penalty in (0.1, 10.0, 100.0, 1e4):
        gaps = []
        for k in range(30):
            rest = [j for j in range(30) if j != k]
            gaps.append(Ridge(alpha=penalty).fit(x[rest], y[rest]).predict(x[k : k + 1])[0] - y[k])
        errors[penalty] = sum(float((gap**2).sum()) for gap in gaps)
    best = min(errors, key=errors.__getitem__)
    assert best not in (0.1, 1e4)
    chosen = learned_map(entries, wanted, tuple(errors))(new)
    torch.testing.assert_close(chosen, learned_map(entries, wanted, (best,))(new))


def nan():
    return float("nan")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Pruning(share=0.5, feedback=1), "feedback: got 1, wanted True or False"),
        (lambda: PowerSGD(rank=0), "rank: got 0, wanted at least 1"),
        (lambda: PowerSGD(rank=1.5), "rank: got 1.5, wanted a whole number"),
        (lambda: PowerSGD(rank=1, feedback=None), "feedback: got None"),
        (lambda: Projection(bases=()).shared((RANK_10,), client()), "bases: got 0, wanted one for each of 1"),
        (lambda: Quantization(levels=0), "levels: got 0, wanted at least 1"),
        (lambda: Quantization(levels="2"), "levels: got '2', wanted a whole number"),
        (lambda: Signs(magnitude=0.0), "magnitude: got 0.0, wanted a positive number, or None"),
        (lambda: Signs(magnitude=nan()), "magnitude: got nan, wanted a positive number"),
        (lambda: Signs(magnitude=math.inf), "magnitude: got inf, wanted a positive number"),
        (lambda: per_entry(Signs(), (None,)), "shared: got no tensors, wanted at least one"),
        (lambda: distances.SignAgreement(temperature=-1.0), "temperature: got -1.0, wanted 0 or more"),
        (lambda: attacks.accumulated([]), r"uploads: got \[\], wanted at least one Observation"),
        (lambda: attacks.accumulated([3]), "uploads: got a int, wanted an Observation each"),
        (lambda: attacks.accumulated([one(), one(width=3)]), "uploads: they differ in shape"),
        (lambda: aux(inputs=[1]), "inputs: got a list, wanted a tensor"),
        (lambda: aux(inputs=torch.zeros(1, 1, 8, 8), labels=torch.zeros(1).long()), "inputs: got 1 example"),
        (lambda: aux(inputs=torch.full((2, 1, 8, 8), nan())), "inputs: got NaN"),
        (lambda: aux(labels=torch.zeros(2)), "labels: got Tensor, wanted a tensor of classes, int64"),
        (lambda: aux(labels=torch.zeros(3).long()), r"labels: got shape \(3,\) for 2 inputs, wanted one each"),
        (lambda: aux(labels=torch.tensor([0, 10]))(one()), r"labels: got \[0, 10\], wanted 2 labels from 0 to 9"),
        (lambda: aux(defense="signs"), "defense: got 'signs', wanted a Defense, or None"),
        (lambda: aux(regressor=3), "regressor: got 3, wanted one with fit and predict, or None"),
        (lambda: aux()(one(2)), "seen: got a Observation of 2 examples, wanted one client's single"),
        (lambda: aux(inputs=torch.zeros(2, 1, 4, 4))(one()), r"inputs: got examples of shape \(1, 4, 4\), wanted"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


def one(number=1, *, width=8):
    x, y = data.digits(number)
    return federated.observe(models.mlp(64, (width,)), x, y)


def aux(**options):
    return attacks.LearnedInversion(**({"inputs": torch.zeros(2, 1, 8, 8), "labels": torch.zeros(2).long()} | options))
