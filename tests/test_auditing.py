"""Audits: limits and bounds against definitions, DP-SGD against the slow way, adversaries against theory."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from gilearn import data, models
from gilearn.defenses import ExampleClipping, auditing, iterative
from gilearn.defenses.auditing import Audit, ExampleCanary, GradientCanary, NoisyTraining
from gilearn.federated import Client, observe

DELTA = 1e-5


def at(epsilon, delta=DELTA, steps=1):
    """Return the noise multiplier with this guarantee, by bisection."""
    low, high = 0.01, 1e3
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (
            (middle, high) if auditing.gaussian_epsilon(math.sqrt(steps) / middle, delta) > epsilon else (low, middle)
        )
    return high


@pytest.fixture(scope="module")
def training():
    x, y = data.digits(20)
    model = nn.Sequential(nn.Flatten(), models.mlp(64, (), seed=0))
    return NoisyTraining(model=model, inputs=x, labels=y, noise=1.0)


# limits and bounds


@pytest.mark.parametrize(("errors", "trials"), [(0, 1), (0, 20), (3, 20), (19, 20)])
def test_the_upper_limit_is_where_so_few_errors_become_improbable(errors, trials):
    """The definition of Clopper and Pearson: at the limit, P(at most so many errors) is 1 - confidence."""
    limit = Fraction(auditing.upper_limit(errors, trials, confidence=0.9))
    tail = sum(math.comb(trials, k) * limit**k * (1 - limit) ** (trials - k) for k in range(errors + 1))
    assert float(tail) == pytest.approx(0.1)


def test_the_upper_limit_of_nothing_but_errors_is_one():
    assert auditing.upper_limit(7, 7) == 1.0
    assert auditing.upper_limit(0, 1000) == pytest.approx(3.0e-3, rel=0.01)


def test_the_lower_bound_is_the_inequality_of_differential_privacy():
    limits = [auditing.upper_limit(errors, 500, confidence=0.975) for errors in (40, 110)]
    wanted = max(math.log((1 - DELTA - a) / b) for a, b in (limits, limits[::-1]))
    assert auditing.lower_bound(40, 110, 500, delta=DELTA) == pytest.approx(wanted)
    mu = norm.ppf(1 - limits[0]) - norm.ppf(limits[1])
    assert auditing.lower_bound(40, 110, 500, delta=DELTA, form="gdp") == pytest.approx(
        auditing.gaussian_epsilon(mu, DELTA)
    )


def test_no_errors_in_a_thousand_trials_certify_less_than_six():
    """With each limit at 95 per cent, which makes 90 for both, 5.8; with 95 per cent for both, 5.6."""
    found = [auditing.lower_bound(0, 0, 1000, delta=DELTA, confidence=c) for c in (0.9, 0.95)]
    assert found == pytest.approx([5.81, 5.60], abs=0.01)


def test_guessing_certifies_nothing():
    for form in auditing.FORMS:
        assert auditing.lower_bound(50, 50, 100, delta=DELTA, form=form) == 0.0
        assert auditing.lower_bound(100, 100, 100, delta=DELTA, form=form) == 0.0


def test_the_best_threshold_is_the_best_of_all():
    generator = torch.Generator().manual_seed(0)
    without, present = torch.randn(60, generator=generator), 2 + torch.randn(60, generator=generator)
    found = auditing.best_threshold(without, present, delta=1e-3)
    values = sorted([*without.tolist(), *present.tolist()])

    def bound(threshold):
        errors = int((without > threshold).sum()), int((present <= threshold).sum())
        return auditing.lower_bound(*errors, 60, delta=1e-3, confidence=1 - 0.05 / 119)

    assert bound(found) == max(bound((a + b) / 2) for a, b in itertools.pairwise(values))
    assert bound(found) > 0


def test_the_bound_comes_from_other_trainings_than_the_threshold():
    holdout = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1.0])
    found = auditing.audit(holdout, (torch.tensor([0.0, 2.0, 0.1]), torch.tensor([0.2, 0.7, 0.9])), delta=0.0)
    assert (found.threshold, found.false_positives, found.false_negatives, found.trials) == (0.5, 1, 1, 3)
    assert found == Audit(threshold=0.5, false_positives=1, false_negatives=1, trials=3, delta=0.0)
    assert found.epsilon == auditing.lower_bound(1, 1, 3, delta=0.0)


# theory


def test_the_gaussian_curve_at_known_points():
    """Anchors of Balle and Wang's mechanism, and the definition: the curve's steepest supporting line."""
    assert auditing.gaussian_epsilon(1 / 3.7306, 1e-5) == pytest.approx(1.0, rel=1e-4)
    assert auditing.gaussian_epsilon(0.0, 1e-5) == 0.0
    assert auditing.gaussian_epsilon(0.1, 0.5) == 0.0
    alpha = torch.logspace(-6, -0.01, 20001, dtype=torch.float64)
    beta = auditing.gaussian_tradeoff(alpha, 1.3)
    steepest = ((1 - 1e-3 - beta).clamp_min(1e-300) / alpha).log().max()
    assert auditing.gaussian_epsilon(1.3, 1e-3) == pytest.approx(float(steepest), rel=1e-3)
    assert float(auditing.gaussian_tradeoff(torch.tensor(0.5), 2.0)) == pytest.approx(norm.cdf(-2.0))
    rare = auditing.gaussian_tradeoff(torch.tensor(1e-20, dtype=torch.float64), 10.0)
    assert float(rare) == pytest.approx(norm.cdf(norm.isf(1e-20) - 10), rel=1e-12), "1 - 1e-20 is 1, and would miss all"


def test_the_gaussian_curve_is_opacus():
    gdp = pytest.importorskip("opacus.accountants.analysis.gdp")
    for mu, delta in [(0.3, 1e-5), (1.0, 1e-5), (2.5, 1e-2)]:
        assert auditing.gaussian_epsilon(mu, delta) == pytest.approx(gdp.eps_from_mu(mu=mu, delta=delta), rel=1e-8)


def test_the_guarantee_of_a_training(training):
    pytest.importorskip("opacus")
    assert auditing.guarantee(training.replace(noise=2.0, steps=4), DELTA) == auditing.gaussian_epsilon(1.0, DELTA)
    from opacus.accountants import RDPAccountant

    sampled = training.replace(noise=1.1, steps=30, rate=0.1)
    accountant = RDPAccountant()
    accountant.history = [(1.1, 0.1, 30)]
    tight, loose = auditing.guarantee(sampled, DELTA), accountant.get_epsilon(DELTA)
    assert 0.7 * loose < tight < loose
    assert auditing.guarantee(training.replace(noise=1.1, steps=30), DELTA) > 3 * tight


def test_composition():
    assert iterative.composed(0.1, 100, delta=1e-6) == pytest.approx((10.0, 1e-4))
    advanced = iterative.composed(0.1, 100, delta=1e-6, slack=1e-5)
    assert advanced[0] == pytest.approx(math.sqrt(200 * math.log(1e5)) * 0.1 + 10 * (math.e**0.1 - 1))
    assert advanced[1] == pytest.approx(1.1e-4)


def test_randomized_answers_attain_half_of_the_bound_on_the_gap():
    """One datum, a fair bit; the answer is the bit with odds exp(epsilon); the loss is 1 where the answer differs."""
    for epsilon in (0.5, 2.0):
        told = math.exp(epsilon) / (1 + math.exp(epsilon))
        assert told - 0.5 == pytest.approx(iterative.largest_gap(epsilon, 0.0) / 2)
    assert iterative.largest_gap(0.0, 0.0) == 0.0
    assert iterative.largest_gap(0.0, 0.2) == pytest.approx(0.2)
    assert iterative.largest_gap(50.0, 0.0) == pytest.approx(1.0)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.3, 0.0), (1.0, 0.05)])
def test_the_bound_on_the_gap_is_the_best_of_the_two_inequalities(epsilon, delta):
    """Maximize p - q under p <= e^eps q + delta and 1 - q <= e^eps (1 - p) + delta, by linear programming."""
    from scipy.optimize import linprog

    e = math.exp(epsilon)
    found = linprog([-1, 1], A_ub=[[1, -e], [e, -1]], b_ub=[delta, e - 1 + delta], bounds=[(0, 1)] * 2)
    assert -found.fun == pytest.approx(iterative.largest_gap(epsilon, delta))


# DP-SGD


def test_a_step_is_clipping_by_example_and_noise(training):
    """The package's defense, micro-batched, plus the same draw."""
    x, y = training.inputs, training.labels
    seen = observe(training.model, x, y, defense=ExampleClipping(norm=0.5))
    clipped = torch.cat([g.flatten() for g in seen.shared]) * len(x)
    gradients = training.gradients(training.start[None], x, y)
    draw = torch.randn(1, gradients.shape[2], generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(auditing.noisy_sum(gradients, draw, 0.5, 1.7)[0], clipped + 1.7 * 0.5 * draw[0])
    each = ExampleClipping(norm=0.5).examples((gradients[0],), Client(model=training.model, num_classes=10))
    torch.testing.assert_close(auditing.noisy_sum(gradients, 0 * draw, 0.5, 1.0)[0], each[0].sum(0))


def test_per_example_gradients_and_losses_are_those_of_single_examples():
    x, y = data.digits(3)
    model = models.mlp(64, (5,), seed=1)
    training = NoisyTraining(model=nn.Sequential(nn.Flatten(), model), inputs=x, labels=y, noise=1.0)
    weights = torch.stack([training.start, training.start + 0.1])
    found = training.gradients(weights, x, y)
    for row, shift in enumerate((0.0, 0.1)):
        own = copy.deepcopy(training.model)
        with torch.no_grad():
            for parameter in own.parameters():
                parameter += shift
        for k in range(3):
            loss = nn.functional.cross_entropy(own(x[k : k + 1]), y[k : k + 1])
            slow = torch.autograd.grad(loss, list(own.parameters()))
            torch.testing.assert_close(found[row, k], torch.cat([g.flatten() for g in slow]))
            torch.testing.assert_close(training.losses(weights, x, y)[row, k], loss)
        torch.testing.assert_close(training.outputs(weights, x)[row], own(x))


def test_training_without_noise_is_gradient_descent(training):
    calm = training.replace(noise=1e-9, norm=1e3, steps=3, lr=0.2)
    model = copy.deepcopy(training.model)
    for _ in range(3):
        loss = nn.functional.cross_entropy(model(training.inputs), training.labels)
        with torch.no_grad():
            for parameter, gradient in zip(
                model.parameters(), torch.autograd.grad(loss, model.parameters()), strict=True
            ):
                parameter -= 0.2 * gradient
    wanted = torch.cat([p.detach().flatten() for p in model.parameters()])
    for weights in calm.run(2, seed=0):
        torch.testing.assert_close(weights, wanted, rtol=1e-4, atol=1e-5)


def test_portions_are_independent_and_a_seed_repeats(training, monkeypatch):
    monkeypatch.setattr("gilearn.defenses.distinguishing._ENTRIES", 21 * 650 * 2)
    found = training.run(5, seed=1)
    assert len({float(row[0]) for row in found}) == 5
    torch.testing.assert_close(training.run(5, seed=1), found)


def test_subsampling_takes_the_rate_and_keeps_the_mean(training):
    drawn = training.replace(rate=0.25, noise=1e-6, norm=0.1, lr=1.0).run(400, seed=0)
    whole = training.replace(noise=1e-6, norm=0.1, lr=1.0).run(1)
    moved, mean = drawn - training.start, (drawn - training.start).mean(0)
    torch.testing.assert_close(mean, (whole - training.start)[0], rtol=0, atol=4 * float(moved.std(0).max()) / 20)
    assert float(moved.std(0).max()) > 1e-4


def test_the_noise_is_the_claimed_one(training):
    still = training.replace(noise=3.0, norm=0.2, lr=1.0).run(2000, seed=0)[:, training.unused]
    assert float(still.std()) * len(training.inputs) == pytest.approx(3.0 * 0.2, rel=0.06)


# adversaries


def curve(without, present, alpha):
    """Return false negative rates at the thresholds whose false positive rates these are, on the same scores."""
    thresholds = torch.quantile(without, 1 - alpha)
    return torch.stack([(present <= threshold).double().mean() for threshold in thresholds])


@pytest.mark.parametrize(("steps", "noise"), [(1, 1.0), (4, 2.0)])
def test_the_gradient_canary_has_the_errors_of_the_gaussian_mechanism(training, steps, noise):
    """Its curve is exact: one step, or four with the noise that makes the same mu = 1."""
    played = training.replace(noise=noise, steps=steps, lr=0.5).play(GradientCanary(), 1500, seed=0)
    for scores, mean in zip(played, (-0.5, 0.5), strict=True):
        assert abs(float(scores.mean()) - mean) < 4 / math.sqrt(1500)
        assert abs(float(scores.std()) - 1) < 4 / math.sqrt(2 * 1500)
    alpha = torch.tensor([0.05, 0.2, 0.5, 0.8], dtype=torch.float64)
    thresholds = norm.ppf(1 - alpha.numpy()) - 0.5  # of the true distribution: nothing is chosen on the scores
    for a, threshold in zip(alpha, thresholds, strict=True):
        for share, wanted in zip(
            (float((played[0] > threshold).double().mean()), float((played[1] <= threshold).double().mean())),
            (float(a), float(auditing.gaussian_tradeoff(a, 1.0))),
            strict=True,
        ):
            assert abs(share - wanted) < 3.5 * math.sqrt(wanted * (1 - wanted) / 1500)


def test_the_canary_s_score_under_subsampling_is_the_likelihood_ratio(training):
    sampled = training.replace(rate=0.3, noise=0.8)
    seen = torch.tensor([[-1.0], [0.4], [2.0]])
    released = torch.zeros(3, len(training.start)).index_add_(1, torch.tensor([training.unused]), seen)
    found = GradientCanary().watch(sampled, sampled.start[None], released)
    x = seen[:, 0].double().numpy()
    ratio = (0.7 * norm.pdf(x, 0, 0.8) + 0.3 * norm.pdf(x, 1, 0.8)) / norm.pdf(x, 0, 0.8)
    np.testing.assert_allclose(found, np.log(ratio), rtol=1e-6)


def audited(training, adversary, trainings, *, seed=0, delta=DELTA, **options):
    holdout = training.play(adversary, trainings, seed=seed)
    return auditing.audit(holdout, training.play(adversary, trainings, seed=seed + 1), delta=delta, **options).epsilon


@pytest.mark.parametrize("epsilon", [1.0, 2.0, 4.0])
def test_one_step_against_the_gradient_canary_is_nearly_tight(training, epsilon):
    """At delta = .01 the inequality's bound, at 1e-5 that of the Gaussian mechanism; both below theory."""
    loose = training.replace(noise=at(epsilon, 0.01))
    assert 0.6 * epsilon < audited(loose, GradientCanary(), 8000, delta=0.01) < epsilon
    tight = training.replace(noise=at(epsilon))
    assert 0.6 * epsilon < audited(tight, GradientCanary(), 8000, form="gdp") < epsilon


def natural_and_poisoned(training, k=30):
    x, y = data.digits()
    return (
        ExampleCanary(input=x[k], label=int(y[k])),
        ExampleCanary(input=x[k], label=(int(y[k]) + 1) % 10),
        ExampleCanary(input=x[k], label=(int(y[k]) + 1) % 10, sees="models"),
    )


def test_weaker_adversaries_certify_less(training):
    """A trained start, where a natural example moves little; five steps."""
    x, y = data.digits()
    public = NoisyTraining(
        model=training.model, inputs=x[900:1400], labels=y[900:1400], noise=1e-9, norm=1e9, lr=2.0, steps=60
    )
    model = copy.deepcopy(training.model)
    nn.utils.vector_to_parameters(public.run(1)[0], model.parameters())
    steps = training.replace(model=model, noise=at(4.0, steps=5), steps=5, lr=0.5)
    natural, poison, models_seen = natural_and_poisoned(training)
    found = {
        name: audited(steps, adversary, 300, form="gdp")
        for name, adversary in {
            "natural": natural, "poison": poison, "models": models_seen, "gradient": GradientCanary(),
        }.items()
    }  # fmt: skip
    assert max(found.values()) < 4.0
    assert found["natural"] < 0.6 * found["gradient"]
    assert found["models"] > 1.2 * found["natural"]
    assert found["gradient"] > 0.5 * 4.0


# implementations that do not do what they claim


def twice_divided(gradients, draw, norm_, noise):
    return auditing.noisy_sum(gradients, draw / gradients.shape[1], norm_, noise)


def clipped_together(gradients, draw, norm_, noise):
    mean = gradients.mean(1)
    factor = norm_ / torch.linalg.vector_norm(mean, dim=1, keepdim=True).clamp_min(norm_)
    return gradients.shape[1] * mean * factor + noise * norm_ * draw


def normalized(gradients, draw, norm_, noise):
    lengths = torch.linalg.vector_norm(gradients, dim=2, keepdim=True).clamp_min(1e-12)
    return auditing.noisy_sum(gradients * norm_ / lengths, draw, norm_, noise)


def one_clip_a_layer(gradients, draw, norm_, noise):
    parts = [auditing.noisy_sum(part, 0 * part[:, 0], norm_, noise) for part in gradients.split([640, 10], dim=2)]
    return torch.cat(parts, 1) + noise * norm_ * draw


@pytest.mark.parametrize("release", [twice_divided, clipped_together])
def test_a_broken_implementation_is_caught(training, release):
    claimed = training.replace(noise=at(1.0), release=release)
    assert audited(claimed, GradientCanary(), 300) > 1.0
    assert auditing.guarantee(claimed, DELTA) == pytest.approx(1.0)


def test_normalizing_has_the_same_sensitivity_and_is_not_caught(training):
    claimed = training.replace(noise=at(2.0))
    for form in auditing.FORMS:
        assert audited(claimed.replace(release=normalized), GradientCanary(), 2000, form=form) < 2.0


def test_one_clip_a_layer_is_seen_by_an_example_in_all_layers_alone(training):
    """The canary in one parameter lies in one layer; a mislabelled example is as long in both."""
    claimed = training.replace(noise=at(2.0), release=one_clip_a_layer, norm=0.5)
    poison = natural_and_poisoned(training)[2]
    assert audited(claimed, GradientCanary(), 4000, form="gdp") < 2.0
    assert audited(claimed.replace(release=auditing.noisy_sum), poison, 4000, form="gdp") < 2.0
    assert audited(claimed, poison, 8000, form="gdp") > 2.0


# refusals


def test_refusals(training):
    x, y = training.inputs, training.labels
    with pytest.raises(ValueError, match=r"^noise: got 0, wanted a positive number"):
        training.replace(noise=0)
    with pytest.raises(ValueError, match=r"^norm: got 'a', wanted a positive number"):
        training.replace(norm="a")
    with pytest.raises(ValueError, match=r"^rate: got 1.5, wanted a probability above 0, to 1"):
        training.replace(rate=1.5)
    with pytest.raises(ValueError, match=r"^steps: got 0, wanted at least 1"):
        training.replace(steps=0)
    with pytest.raises(ValueError, match=r"^loss: got 'hinge', wanted one of cross_entropy"):
        training.replace(loss="hinge")
    with pytest.raises(ValueError, match=r"^release: got 3, wanted a function"):
        training.replace(release=3)
    with pytest.raises(ValueError, match=r"^y: got 19 labels for 20 inputs"):
        training.replace(labels=y[:19])
    with pytest.raises(ValueError, match=r"^trainings: got 0, wanted at least 1"):
        training.run(0)
    with pytest.raises(ValueError, match=r"^trainings: got 2.5, wanted a whole number"):
        training.play(GradientCanary(), 2.5)
    with pytest.raises(ValueError, match=r"^seed: got -1, wanted at least 0"):
        training.run(1, seed=-1)
    with pytest.raises(ValueError, match=r"^size: got 0.5, wanted at least 1"):
        GradientCanary(size=0.5)
    with pytest.raises(ValueError, match=r"^parameter: got 650, wanted one of 650 parameters, from 0"):
        training.play(GradientCanary(parameter=650), 1)
    with pytest.raises(ValueError, match=r"^input: got a list, wanted a tensor, one example without a batch"):
        ExampleCanary(input=[0.0], label=1)
    with pytest.raises(ValueError, match=r"^sees: got 'all', wanted one of loss, models"):
        ExampleCanary(input=x[0], label=1, sees="all")
    with pytest.raises(ValueError, match=r"^input: got shape \(1, 1, 8, 8\), wanted \(1, 8, 8\), like the data set's"):
        training.play(ExampleCanary(input=x[:1], label=1), 1)
    with pytest.raises(ValueError, match=r"^adversary: got 'none', wanted one that can insert, watch and close"):
        training.play("none", 1)
    with pytest.raises(ValueError, match=r"^label: got 10, wanted one of 10 classes, from 0"):
        training.play(ExampleCanary(input=x[0], label=10), 1)
    with pytest.raises(ValueError, match=r"^inputs: got examples that move every parameter"):
        training.replace(inputs=x + 0.1).unused  # noqa: B018
    norms = nn.Sequential(nn.Flatten(), models.mlp(64, (), seed=0), nn.BatchNorm1d(10))
    assert not NoisyTraining(model=norms, inputs=x, labels=y, noise=1.0).model.training


def test_refusals_of_bounds():
    with pytest.raises(ValueError, match=r"^errors: got 3 of 2 trials, wanted no more errors than trials"):
        auditing.upper_limit(3, 2)
    with pytest.raises(ValueError, match=r"^confidence: got 1.0, wanted a number between 0 and 1"):
        auditing.upper_limit(1, 2, confidence=1.0)
    with pytest.raises(ValueError, match=r"^false_negatives: got 5 of 4 trials"):
        auditing.lower_bound(1, 5, 4, delta=0.0)
    with pytest.raises(ValueError, match=r"^delta: got 1, wanted 0 to below 1"):
        auditing.lower_bound(1, 1, 4, delta=1)
    with pytest.raises(ValueError, match=r"^delta: got 0.0, wanted above 0 to below 1"):
        auditing.lower_bound(1, 1, 4, delta=0.0, form="gdp")
    with pytest.raises(ValueError, match=r"^form: got 'rdp', wanted one of dp, gdp"):
        auditing.lower_bound(1, 1, 4, delta=0.1, form="rdp")
    with pytest.raises(ValueError, match=r"^threshold: got nan, wanted a finite number"):
        Audit(threshold=float("nan"), false_positives=0, false_negatives=0, trials=1, delta=0.0)
    pair = torch.zeros(3), torch.ones(3)
    with pytest.raises(ValueError, match=r"^runs: got the trainings of the holdout, wanted others"):
        auditing.audit(pair, (pair[0], pair[1] + 1), delta=0.0)
    with pytest.raises(ValueError, match=r"^runs: got 2 scores without and 3 with, wanted as many"):
        auditing.audit(pair, (torch.zeros(2), torch.ones(3) * 2), delta=0.0)
    with pytest.raises(ValueError, match=r"^holdout: got scores of shape \(3, 1\), wanted \(trainings,\)"):
        auditing.best_threshold(torch.zeros(3, 1), torch.ones(3), delta=0.0)
    with pytest.raises(ValueError, match=r"^holdout: got NaN or infinite scores"):
        auditing.best_threshold(torch.tensor([math.nan]), torch.ones(1), delta=0.0)
    with pytest.raises(ValueError, match=r"^runs: got int, wanted scores without the canary and with it"):
        auditing.audit(pair, 3, delta=0.0)
    with pytest.raises(ValueError, match=r"^mu: got -1, wanted a number, 0 or more"):
        auditing.gaussian_epsilon(-1, 1e-5)
    with pytest.raises(ValueError, match=r"^delta: got 0, wanted a number above 0 and below 1"):
        auditing.gaussian_epsilon(1, 0)
    with pytest.raises(ValueError, match=r"^alpha: got \[2.0\], wanted rates from 0 to 1"):
        auditing.gaussian_tradeoff(torch.tensor([2.0]), 1.0)
    with pytest.raises(ValueError, match=r"^alpha: got a str, wanted rates from 0 to 1"):
        auditing.gaussian_tradeoff("half", 1.0)
    with pytest.raises(ValueError, match=r"^holdout: got a str, wanted scores \(trainings,\)"):
        auditing.best_threshold("abc", torch.ones(1), delta=0.0)
    with pytest.raises(ValueError, match=r"^gradients: got \(2, 3\), wanted a tensor \(trainings, examples, param"):
        auditing.noisy_sum(torch.ones(2, 3), torch.ones(2, 3), 1.0, 1.0)
    with pytest.raises(ValueError, match=r"^draw: got \(1, 2\), wanted a tensor \(trainings, 3\)"):
        auditing.noisy_sum(torch.ones(1, 2, 3), torch.ones(1, 2), 1.0, 1.0)
    with pytest.raises(ValueError, match=r"^norm: got 0, wanted a positive number"):
        auditing.noisy_sum(torch.ones(1, 2, 3), torch.ones(1, 3), 0, 1.0)
    with pytest.raises(ValueError, match=r"^input: got NaN or infinite values, wanted finite ones"):
        ExampleCanary(input=torch.tensor([math.nan]), label=0)
    with pytest.raises(ValueError, match=r"^training: got a int, wanted a NoisyTraining"):
        auditing.guarantee(3, DELTA)
    with pytest.raises(ValueError, match=r"^epsilon: got -1, wanted a number, 0 or more"):
        iterative.largest_gap(-1, 0)
    with pytest.raises(ValueError, match=r"^delta: got 2, wanted a number from 0 to 1"):
        iterative.composed(1, 1, delta=2)
    with pytest.raises(ValueError, match=r"^slack: got 0, wanted a number above 0 and below 1"):
        iterative.composed(1, 1, slack=0)


def test_composition_at_its_ends():
    """A delta is at most 1, and an epsilon may be so large that it has no exponential."""
    assert iterative.composed(1.0, 20, delta=0.1) == (20.0, 1.0)
    assert iterative.composed(1.0, 20, delta=0.04, slack=0.5)[1] == 1.0
    assert iterative.composed(1e4, 2, slack=0.1)[0] == math.inf
    assert auditing.gaussian_epsilon(1e200, 1e-5) == math.inf


def test_values_can_be_pickled_and_shown(training):
    assert "noise=1.0" in repr(training)
    assert "tensor" not in repr(training)
    assert pickle.loads(pickle.dumps(GradientCanary(size=3.0))) == GradientCanary(size=3.0)
