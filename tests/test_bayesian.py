"""The Bayesian framework: likelihoods of declared noise, the exact maximum of the posterior, priors, the ball."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from gilearn import attacks, data, defenses, federated, metrics, models
from gilearn.attacks import GradientMatching, bayesian, initialization, labels, optimizers, priors
from gilearn.attacks.iteration.bayesian import _offsets
from gilearn.attacks.iteration.regularizers import Candidates
from gilearn.notebook import playgrounds

SCALE = 0.02


@pytest.fixture(scope="module")
def pictures():
    return data.digits()[0].double(), data.digits()[1]


@pytest.fixture(scope="module")
def prior(pictures):
    return priors.GaussianPrior.fit(pictures[0][400:])


def view(pictures, case, defense, declare=("labels", "defense")):
    x, y = (values[case : case + 1] for values in pictures)
    model = models.mlp(64, (32,), seed=case).double()
    return x, federated.observe(model, x, y, declare=declare, defense=defense, seed=case)


def tiny(defense):
    """Four pixels, two classes: a posterior that a simplex search can solve."""
    x = torch.tensor([[[[0.2, 0.9], [0.6, 0.1]]]], dtype=torch.float64)
    model = models.mlp(4, (6,), 2, seed=1).double()
    seen = federated.observe(model, x, torch.tensor([1]), declare=["labels", "defense"], defense=defense, seed=2)
    return seen, priors.GaussianPrior(mean=torch.full((1, 2, 2), 0.5), covariance=0.09 * torch.eye(4))


def at(prior_or_likelihood, seen, x):
    """A term or a likelihood at one picture, as a number."""
    if isinstance(prior_or_likelihood, bayesian.Likelihood):
        return float(prior_or_likelihood(seen.simulate(x, seen.known("labels"), create_graph=False), seen.shared))
    candidates = Candidates(seen=seen, inputs=x[None], targets=seen.known("labels")[None])
    return float(prior_or_likelihood.build(seen)(candidates).detach())


@pytest.mark.parametrize(
    ("defense", "likelihood"),
    [
        (defenses.GaussianNoise(std=0.05), bayesian.Normal(std=0.05)),
        (defenses.LaplaceNoise(scale=0.05), bayesian.Laplace(scale=0.05)),
        (defenses.GaussianNoise(std=0.05), bayesian.Directional(concentration=50.0)),
    ],
)
def test_the_maximum_is_one(defense, likelihood):
    """A search without derivatives, from three starts, finds nothing better than the solver, and gets there."""
    seen, prior = tiny(defense)
    result = bayesian.MAP(likelihood=likelihood, prior=prior)(seen)

    def posterior(pixels):
        x = torch.from_numpy(pixels).view(1, 1, 2, 2)
        return at(likelihood, seen, x) + at(prior, seen, x)

    found = result.details["objective"]
    assert abs(posterior(result.inputs.flatten().numpy()) - found) < 1e-9 * abs(found)
    options = {"xatol": 1e-7, "fatol": 1e-9, "maxiter": 2000, "maxfev": 4000}
    for start in (result.inputs.flatten().numpy(), np.full(4, 0.5)):
        other = minimize(posterior, start, method="Nelder-Mead", options=options)
        assert found < other.fun + 1e-5
    assert other.fun < found + 1e-3
    assert -1e-6 < result.details["gap"] < 1e-4
    assert result.details["deviations"].shape == (1, 1, 2, 2)
    assert result.history[0] > result.history[-1]


@pytest.mark.parametrize("defense", [defenses.GaussianNoise(std=0.05), defenses.LaplaceNoise(scale=0.05)])
def test_the_gap_bounds_what_is_left_of_a_search_that_stopped_early(defense):
    """A duality gap is a bound wherever one stops; after one step it covers what forty would still gain."""
    seen, prior = tiny(defense)
    early, late = (bayesian.MAP(prior=prior, steps=steps)(seen).details for steps in (1, 40))
    assert early["gap"] > 0.9 * (early["objective"] - late["objective"]) > 1e-6


@pytest.mark.parametrize("likelihood", [bayesian.Normal(std=0.3), bayesian.Laplace(scale=0.3)])
def test_the_conjugate_bounds_the_loss_from_below(likelihood):
    """Fenchel and Young: s r - conjugate(s) is at most the loss of r, whatever the residuals that s comes from."""
    r, other = torch.randn(2, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for residuals, floor in ((other, 0.1), (10 * other, 1e-3), (r, 1e-6)):
        s = likelihood.weights(residuals, floor) * residuals
        least = float(s @ r - likelihood.conjugate(s))
        assert least <= float(likelihood.loss(r)) + 1e-9
    assert abs(least - float(likelihood.loss(r))) < 1e-3


@pytest.mark.parametrize("noise", ["Gaussian", "Laplace", "pruned"])
def test_the_matched_likelihood_wins_at_equal_optimality(pictures, prior, noise):
    """Two pictures here; twenty-four, with weights tuned for every side, are in the record below."""
    rivals = {"l2": bayesian.Normal(std=SCALE), "l1": bayesian.Laplace(scale=SCALE)}
    gains = []
    for case in range(2):
        generator = torch.Generator().manual_seed(case)
        shapes = [p.shape for p in models.mlp(64, (32,)).parameters()]
        mask = defenses.Mask(masks=tuple(torch.rand(shape, generator=generator) < 0.5 for shape in shapes))
        defense = {
            "Gaussian": (defenses.GaussianNoise(std=SCALE),),
            "Laplace": (defenses.LaplaceNoise(scale=SCALE),),
            "pruned": (defenses.LaplaceNoise(scale=SCALE), mask),
        }[noise]
        x, seen = view(pictures, case, defense)
        assert bayesian.DeclaredNoise().build(seen) == rivals["l2" if noise == "Gaussian" else "l1"]
        decibels = {}
        for name, likelihood in rivals.items():
            result = bayesian.MAP(likelihood=likelihood, prior=prior)(seen)
            assert -1e-6 < result.details["gap"] < 1
            decibels[name] = metrics.psnr(result.inputs, x)
        gains.append(decibels["l2"] - decibels["l1"])
    assert (np.mean(gains) > 0.3) if noise == "Gaussian" else (np.mean(gains) < -0.3)


def test_the_record_has_the_bars():
    rows = [r for r in data.recorded("bayesian")["result"] if r["of"] == "likelihood"]

    def column(part, noise, name, what):
        found = {r["case"]: r[what] for r in rows if (r["part"], r["noise"], r["name"]) == (part, noise, name)}
        return np.array([found[case] for case in sorted(found)])

    for noise, matched in (("Gaussian", "l2"), ("Laplace", "l1"), ("pruned", "l1")):
        names = {r["name"] for r in rows if r["part"] == "solved" and r["noise"] == noise} - {matched}
        assert len(names) >= 2
        for name in {*names, matched} - {"l1, no mask"}:
            objectives = [column(part, noise, name, "objective") for part in ("solved", "truth")]
            assert len(objectives[0]) == 24
            np.testing.assert_allclose(*objectives, rtol=1e-4)
        for name in names:
            gain = metrics.interval(column("solved", noise, matched, "psnr") - column("solved", noise, name, "psnr"))
            if (noise, name) != ("Gaussian", "cosine"):  # the direction of the gradient holds nearly all there is
                assert gain.low > 0, (noise, name, str(gain))
            assert gain.high > 0


def test_a_clipping_that_is_declared_is_simulated(pictures, prior):
    defense = (defenses.BatchClipping(norm=0.5), defenses.GaussianNoise(std=0.005))
    x, seen = view(pictures, 0, defense)
    _, blind = view(pictures, 0, defense, declare=("labels",))
    sighted = bayesian.MAP(prior=prior)(seen).inputs
    unsighted = bayesian.MAP(likelihood=bayesian.Normal(std=0.005), prior=prior)(blind).inputs
    assert metrics.psnr(sighted, x) > metrics.psnr(unsighted, x) + 5
    assert metrics.psnr(sighted, x) > metrics.psnr(prior.mean[None], x) + 3


def test_the_noise_of_two_tensors_is_independent_and_the_clipped_norm_holds():
    """The released code draws every tensor with one key, and clips nothing."""
    x, y = torch.full((1, 1, 8, 8), 0.5), torch.tensor([3])
    model = models.mlp(64, (64, 64), 64)
    defense = (defenses.BatchClipping(norm=1e-3), defenses.GaussianNoise(std=1.0))
    noise = federated.observe(model, x, y, defense=defense, seed=4).shared
    first, second = (noise[k].flatten() for k in (0, 2))
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.05
    clipped = federated.observe(model, x, y, defense=defense[0]).shared
    assert abs(float(torch.cat([g.flatten() for g in clipped]).norm()) - 1e-3) < 1e-8


def test_what_noise_a_defense_declares():
    composed = federated.Composition
    normal, laplace = defenses.GaussianNoise(std=0.3), defenses.LaplaceNoise(scale=0.1)
    assert composed(parts=(defenses.BatchClipping(norm=1.0), laplace)).noise == (("laplace", 0.1),)
    assert composed(parts=(normal, defenses.Pruning(share=0.5))).noise == (("normal", 0.3),)
    assert composed(parts=(composed(parts=(normal,)), defenses.GaussianNoise(std=0.4))).selects is False
    assert defenses.Pruning(share=0.5).noise == ()
    with pytest.raises(ValueError, match=r"defense: got BatchClipping\(norm=1.0\) after noise"):
        _ = composed(parts=(normal, defenses.BatchClipping(norm=1.0))).noise


def test_two_normal_noises_are_one(pictures):
    parts = (defenses.GaussianNoise(std=0.3), defenses.GaussianNoise(std=0.4))
    assert bayesian.DeclaredNoise().build(view(pictures, 0, parts)[1]) == bayesian.Normal(std=0.5)


@pytest.mark.parametrize(
    ("defense", "message"),
    [
        (defenses.BatchClipping(norm=1.0), "likelihood: the declared defense adds no noise, wanted normal noise"),
        (
            (defenses.GaussianNoise(std=0.3), defenses.LaplaceNoise(scale=0.1)),
            r"likelihood: the declared defense adds \[\('normal', 0.3\), \('laplace', 0.1\)\]",
        ),
    ],
)
def test_a_noise_without_a_likelihood_is_refused(pictures, prior, defense, message):
    with pytest.raises(ValueError, match=message):
        bayesian.MAP(prior=prior)(view(pictures, 0, defense)[1])


def test_an_undeclared_defense_is_refused(pictures, prior):
    _, seen = view(pictures, 0, defenses.GaussianNoise(std=0.1), declare=("labels",))
    for attack in (attacks.Bayesian, bayesian.MAP(prior=prior)):
        with pytest.raises(ValueError, match="defense: the observation does not declare it"):
            attack(seen)


def search(**changes):
    return GradientMatching(
        **{
            "labels": labels.Declared(),
            "initialization": initialization.Constant(value=0.5),
            "optimizer": optimizers.LBFGS(),
            "iterations": 15,
            "dtype": torch.float64,
        }
        | changes
    )


def test_the_search_with_a_line_search_reaches_the_solver_s_maximum(pictures, prior):
    _, seen = view(pictures, 1, defenses.GaussianNoise(std=SCALE))
    solved = bayesian.MAP(prior=prior)(seen)
    searched = bayesian.BayesOptimal(prior=(prior,), search=search())(seen)
    torch.testing.assert_close(float(searched.history.min()), solved.details["objective"], rtol=1e-8, atol=0)
    assert metrics.psnr(searched.inputs, solved.inputs) > 60


def test_the_objective_in_a_ball_is_the_mean_of_the_posterior_over_its_draws(pictures, prior):
    x, seen = view(pictures, 1, defenses.LaplaceNoise(scale=SCALE))
    start = search(initialization=initialization.FromImage(picture=x), iterations=1, optimizer=optimizers.Adam(lr=0.0))
    attack = bayesian.BayesOptimal(prior=(prior,), search=start, delta=0.7, draws=2)
    drawn = [x + offset for offset in _offsets(x, 0.7, 2, 5)]
    wanted = np.mean([at(bayesian.Laplace(scale=SCALE), seen, p) + at(prior, seen, p) for p in drawn])
    torch.testing.assert_close(float(attack(seen, seed=5).history[0]), float(wanted), rtol=1e-9, atol=0)


def test_several_starts_in_parallel_see_the_same_ball(pictures, prior):
    _, seen = view(pictures, 1, defenses.GaussianNoise(std=SCALE))
    many = search(optimizer=optimizers.Adam(lr=0.05), iterations=3, restarts=2, parallel=2, explained=0.0)
    one = many.replace(restarts=1, parallel=1)
    results = [bayesian.BayesOptimal(prior=(prior,), search=s, delta=0.3, draws=1)(seen) for s in (many, one)]
    torch.testing.assert_close(results[0].inputs, results[1].inputs)


def test_draws_of_the_ball():
    picture = torch.zeros(2, 1, 2, 2)
    drawn = _offsets(picture, 3.0, 500, 0)
    assert drawn.shape == (1000, 2, 1, 2, 2)
    assert torch.equal(drawn[:500], -drawn[500:])
    radii = drawn.flatten(2).norm(dim=2) / 3
    assert float(radii.max()) <= 1 + 1e-6
    assert abs(float((radii**4).mean()) - 0.5) < 0.03  # of a uniform draw in four dimensions


def test_a_learned_prior_s_slope_is_the_denoiser_s_step(pictures):
    prior = priors.LearnedPrior.fit(pictures[0][400:], std=0.1, steps=200).replace(weight=3.0)
    _, seen = view(pictures, 0, ())
    x = torch.rand(1, 1, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    term = prior.build(seen)

    def value(inputs):
        return term(Candidates(seen=seen, inputs=inputs, targets=seen.known("labels")[None]))

    (slope,) = torch.autograd.grad(value(x).sum(), x)
    torch.testing.assert_close(slope[0], 3.0 / 0.1**2 * (x[0] - prior.denoised(x[0])).detach())
    assert torch.autograd.gradcheck(value, (x,))
    clean = pictures[0][:200]
    noisy = clean + 0.1 * torch.randn(clean.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert float((prior.denoised(noisy) - clean).square().mean()) < 0.8 * 0.1**2
    again = priors.LearnedPrior.fit(pictures[0][400:], std=0.1, steps=200).replace(weight=3.0)
    assert repr(again) == repr(prior)
    assert repr(again) != repr(priors.LearnedPrior.fit(pictures[0][400:], std=0.1, steps=0))


def test_a_prior_follows_type_and_device_of_the_observation(pictures, prior):
    x, seen = view(pictures, 0, defenses.GaussianNoise(std=SCALE))
    single = seen.to(dtype=torch.float32)
    learned = priors.LearnedPrior.fit(pictures[0][400:], steps=2)
    for p in (prior, learned):
        assert abs(at(p, single, x.float()) / at(p, seen, x) - 1) < 1e-3
    assert bayesian.MAP(prior=prior)(single).inputs.dtype == torch.float32


def test_two_pictures_at_once(pictures, prior):
    """A batch of two: their gradients are added, the prior holds for each."""
    x, y = pictures[0][:2], torch.tensor([0, 1])
    model = models.mlp(64, (32,)).double()
    seen = federated.observe(
        model, x, y, declare=["labels", "defense"], defense=defenses.GaussianNoise(std=1e-4), seed=0
    )
    result = bayesian.MAP(prior=prior)(seen)
    assert result.details["deviations"].shape == x.shape
    assert metrics.psnr(result.inputs, x) > 30


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: bayesian.BayesOptimal(delta=-1.0), "delta, draws: got -1.0, 8, wanted 0 or more, and at least 1"),
        (lambda p: bayesian.BayesOptimal(draws=0), "delta, draws: got 0.0, 0, wanted 0 or more, and at least 1"),
        (lambda p: bayesian.BayesOptimal(prior=p), "prior: got a bare GaussianPrior.* wanted a tuple"),
        (lambda p: bayesian.BayesOptimal(likelihood=3), "likelihood: got 3, wanted a value such as"),
        (lambda p: bayesian.BayesOptimal(search=attacks.InvGrad), "search: got regularizers .* wanted them as prior"),
        (lambda p: bayesian.MAP(prior=priors.LearnedPrior.fit(torch.zeros(2, 1, 2, 2), steps=0)), "prior: got Learned"),
        (lambda p: bayesian.MAP(prior=p, likelihood=attacks.distances.Cosine()), "likelihood: got Cosine"),
        (lambda p: bayesian.MAP(prior=p, labels=attacks.Joint()), "labels: got Joint.*: none are searched"),
        (lambda p: bayesian.BayesOptimal(search=None), "search: got None, wanted a GradientMatching"),
        (lambda p: priors.GaussianPrior.fit(torch.zeros(1, 1, 2, 2)), "pictures: got 1, wanted at least two"),
        (lambda p: priors.LearnedPrior.fit(torch.zeros(0, 1, 2, 2)), "pictures: got 0, wanted at least two"),
        (lambda p: priors.LearnedPrior.fit(torch.zeros(2, 1, 2, 2), steps=-1), "steps: got -1, wanted 0 or more"),
        (lambda p: priors.LearnedPrior(network=torch.tanh, std=0.1), "network: got .*, wanted a Module"),
        (lambda p: bayesian.MAP(prior=p, initialization=0.5), "initialization: got 0.5, wanted a value such as"),
        (lambda p: bayesian.MAP(prior=p, steps=0), "^steps: got 0, wanted a positive number"),
    ],
)
def test_what_is_no_attack_is_refused(prior, make, message):
    with pytest.raises(ValueError, match=message):
        make(prior)


def test_a_prior_of_other_pictures_is_refused(pictures):
    other = priors.GaussianPrior(mean=torch.zeros(1, 2, 2), covariance=torch.eye(4))
    _, seen = view(pictures, 0, defenses.GaussianNoise(std=SCALE))
    with pytest.raises(ValueError, match=r"prior: got pictures of \(1, 2, 2\), wanted \(1, 8, 8\)"):
        bayesian.MAP(prior=other)(seen)


def test_the_preset_finds_a_photograph_through_declared_noise(photos):
    x, y = photos[0][:1, :, ::2, ::2], photos[1][:1]
    model = models.convnet(size=16)
    seen = federated.observe(
        model, x, y, declare=["labels", "defense"], defense=defenses.LaplaceNoise(scale=1e-4), seed=0
    )
    attack = attacks.Bayesian.replace(search=attacks.Bayesian.search.replace(iterations=150))
    result = attack(seen, seed=0)
    assert metrics.psnr(result.inputs, x) > 20
    assert result.attack == repr(attack)


def test_the_playground(pictures):
    figure = playgrounds.posterior(3, "normal", 0.5, "other")
    assert len(figure.axes) >= 3
    for wrong, message in (
        ({"noise": "none"}, "noise: got 'none', wanted 'Laplace' or 'normal'"),
        ({"likelihood": "l1"}, "likelihood: got 'l1', wanted 'matched' or 'other'"),
        ({"digit": 400}, "digit: got 400, wanted 0 to 399"),
        ({"scale": 0.0}, "scale: got 0.0, wanted a positive number"),
    ):
        with pytest.raises(ValueError, match=message):
            playgrounds.posterior(**wrong)
