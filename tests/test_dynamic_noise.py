"""Fed-CDP and Fed-SDP: what they clip, where their noise is, what they spend, and who sees what of it.

Oracles: clipping by hand from batches of one, Renyi divergences by the sum over binomials, and by integration.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate

from gilearn import attacks, data, defenses, federated, metrics, models
from gilearn.attacks import bayesian, priors
from gilearn.attacks.recursion.gradient_division import layer_input, repeated_input
from gilearn.defenses import Decay, FedCDP, FedSDP
from gilearn.defenses.gradients import spending
from gilearn.defenses.gradients.accounting import gaussian_epsilon
from gilearn.defenses.gradients.dynamic import layers
from gilearn.federated import Client, LocalSteps, Observation, observe_inside

PLAIN = FedCDP(clip=1.0, noise_multiplier=1.0)


@pytest.fixture(scope="module")
def batch(digits):
    return digits[0][:4].double(), digits[1][:4]


def network(seed=0, hidden=(64,)):
    return models.mlp(64, hidden, activation="relu", seed=seed).double()


def flat(gradients):
    return torch.cat([g.flatten() for g in gradients])


def layer_norms(shared):
    return [float(torch.cat([shared[k].flatten(), shared[k + 1].flatten()]).norm()) for k in (0, 2)]


def test_it_clips_layer_by_layer_and_does_not_normalize(batch):
    """A gradient below the bound stays as it is; to divide it by norm / C in any case would stretch it to C."""
    model, bound = network(), 1.7
    inside, by_hand, stretched = [], [], []
    for x, y in zip(*batch, strict=True):
        own = federated.observe(model, x[None], y[None]).shared
        factors = [bound / norm for norm in layer_norms(own)]
        inside += [factor >= 1 for factor in factors]
        by_hand.append([g * min(1.0, factors[k // 2]) for k, g in enumerate(own)])
        stretched.append([g * factors[k // 2] for k, g in enumerate(own)])
    assert 0 < sum(inside) < len(inside), "the bound has to lie between the norms for this test to say anything"
    shared = federated.observe(model, *batch, defense=FedCDP(clip=bound, noise_multiplier=0.0)).shared
    clipped, normalized = (flat([sum(g) / 4 for g in zip(*rows, strict=True)]) for rows in (by_hand, stretched))
    torch.testing.assert_close(flat(shared), clipped, rtol=1e-12, atol=1e-15)
    assert float((normalized - clipped).norm() / clipped.norm()) > 0.05


def test_every_example_has_noise_of_its_own_in_every_local_step(batch):
    """The mean of B has noise of C s / sqrt(B) on every entry; K steps with a rate lr add up to lr sqrt(K) times it."""
    model, tiny = network(hidden=(400,)), 1e-9
    quiet, loud = FedCDP(clip=0.5, noise_multiplier=0.0), FedCDP(clip=0.5, noise_multiplier=2.0)
    noise = flat(federated.observe(model, *batch, defense=loud).shared)
    noise = noise - flat(federated.observe(model, *batch, defense=quiet).shared)
    assert float(noise.std()) == pytest.approx(0.5 * 2 / 4**0.5, rel=0.02)
    assert abs(float(noise.mean())) < 5 * float(noise.std()) / len(noise) ** 0.5
    local = LocalSteps(steps=6, lr=tiny, batch_size=2)
    update = flat(federated.observe(model, *batch, defense=loud, local=local).shared)
    update = update - flat(federated.observe(model, *batch, defense=quiet, local=local).shared)
    assert float(update.std()) == pytest.approx(tiny * math.sqrt(6) * 0.5 * 2 / 2**0.5, rel=0.02)
    client = Client(model=model, num_classes=10, generator=torch.Generator().manual_seed(0))
    given = tuple(torch.zeros(3, *p.shape, dtype=torch.float64) for p in model.parameters())
    drawn = torch.cat([g.flatten(1) for g in loud.examples(given, client)], dim=1)
    assert float(torch.corrcoef(drawn).fill_diagonal_(0).abs().max()) < 0.03
    assert drawn.std(dim=1).tolist() == pytest.approx([1.0] * 3, rel=0.02)


@pytest.mark.parametrize("scope", ["layer", "whole"])
def test_fed_sdp_does_it_once_to_what_is_shared(batch, scope):
    model, local = network(hidden=(400,)), LocalSteps(steps=3, lr=1.0, batch_size=2)
    plain = federated.observe(model, *batch, local=local).shared
    quiet = federated.observe(
        model, *batch, local=local, defense=FedSDP(clip=0.4, noise_multiplier=0.0, scope=scope)
    ).shared
    norms = layer_norms(quiet) if scope == "layer" else [float(flat(quiet).norm())]
    assert norms == pytest.approx([0.4] * len(norms))
    cosine = torch.nn.functional.cosine_similarity(quiet[0].flatten(), plain[0].flatten(), dim=0)
    assert float(cosine) == pytest.approx(1)
    if scope == "whole":
        whole = federated.observe(model, *batch, local=local, defense=defenses.BatchClipping(norm=0.4)).shared
        torch.testing.assert_close(flat(quiet), flat(whole))
    loud = federated.observe(
        model, *batch, local=local, defense=FedSDP(clip=0.4, noise_multiplier=0.5, scope=scope)
    ).shared
    assert float((flat(loud) - flat(quiet)).std()) == pytest.approx(0.2, rel=0.02)


@pytest.mark.parametrize("shape", ["linear", "exponential", "cosine"])
def test_a_decay_goes_from_its_start_to_its_end_and_stays(shape):
    decay = Decay(start=6.0, end=2.0, rounds=9, shape=shape)
    values = [decay.at(number) for number in range(1, 12)]
    assert values[0] == 6
    assert values[8:] == pytest.approx([2, 2, 2])
    assert all(a > b for a, b in itertools.pairwise(values[:9]))
    middle = {"linear": 4.0, "exponential": math.sqrt(12), "cosine": 4.0}[shape]
    assert values[4] == pytest.approx(middle)
    steps = np.diff(values[:9]) if shape == "linear" else np.diff(np.log(values[:9]))
    assert shape == "cosine" or steps == pytest.approx([steps[0]] * 8)


def test_a_client_counts_its_own_rounds_also_in_a_composition(batch):
    """The bounds of rounds 1, 2 and 3 show in what is shared; the client who sits out a round does not count it."""
    model = network()
    clients = [(batch[0][k : k + 1], batch[1][k : k + 1]) for k in (0, 1)]
    defense = FedCDP(clip=Decay(start=0.4, end=0.1, rounds=3), noise_multiplier=0.0)
    step = LocalSteps(steps=1, lr=1e-12)
    for given in (defense, (defenses.Reshuffling(epochs=1), defense)):
        rounds = list(federated.fedavg(model, clients, step, num_rounds=3, defense=given))
        for ran, bound in zip(rounds, (0.4, 0.25, 0.1), strict=True):
            for seen in ran.observations.values():
                assert layer_norms([g / 1e-12 for g in seen.shared]) == pytest.approx([bound] * 2, rel=1e-6)
    counts = {0: 0, 1: 0}
    for ran in federated.fedavg(model, clients, step, num_rounds=6, per_round=1, defense=defense, seed=2):
        ((k, seen),) = ran.observations.items()
        counts[k] += 1
        bound = (0.4, 0.25, 0.1)[min(counts[k], 3) - 1]
        assert layer_norms([g / 1e-12 for g in seen.shared]) == pytest.approx([bound] * 2, rel=1e-6)
    assert min(counts.values()) > 1


def test_who_knows_it_simulates_the_clipping_and_knows_the_size_of_the_noise(batch):
    model, quiet = network(), FedCDP(clip=0.3, noise_multiplier=0.0)
    for local in (None, LocalSteps(steps=3, lr=0.1, batch_size=2)):
        seen = federated.observe(model, *batch, defense=quiet, local=local, declare=["defense"])
        torch.testing.assert_close(flat(seen.simulate(*batch)), flat(seen.shared), rtol=1e-12, atol=1e-15)
        assert seen.known("defense").noise == ()
    loud = FedCDP(clip=0.3, noise_multiplier=2.0)
    seen = federated.observe(model, *batch, defense=loud, declare=["defense"])
    assert seen.known("defense").noise == (("normal", pytest.approx(0.3 * 2 / 2)),)
    assert bayesian.DeclaredNoise().build(seen).std == pytest.approx(0.3)
    one = LocalSteps(steps=1, lr=0.1, batch_size=2)
    seen = federated.observe(model, *batch, defense=loud, local=one, declare=["defense"])
    assert seen.known("defense").noise[0][1] == pytest.approx(0.1 * 0.3 * 2 / 2**0.5)
    seen = federated.observe(model, *batch, defense=loud, local=one.__class__(steps=2, lr=0.1), declare=["defense"])
    with pytest.raises(ValueError, match="the declared defense adds no noise"):
        bayesian.DeclaredNoise().build(seen)
    decaying = loud.replace(clip=Decay(start=2.0, end=1.0, rounds=5))
    with pytest.raises(ValueError, match=r"clip: got Decay.*declare defense.at\(number\)"):
        federated.observe(model, *batch, defense=decaying, declare=["defense"])
    seen = federated.observe(model, *batch, defense=decaying.at(3), declare=["defense"])
    assert seen.known("defense").clip == 1.5
    assert decaying.at(99) == loud.replace(clip=1.0)


def test_a_search_goes_through_a_layer_that_is_dead():
    """The norm's derivative is zero where the norm is: no NaN reaches the inputs."""
    model = network(hidden=(6,))
    with torch.no_grad():
        model.get_parameter(next(name for name, p in model.named_parameters() if p.ndim == 1)).fill_(-100.0)
    x, y = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64), torch.tensor([1, 2])
    seen = federated.observe(model, x, y, defense=PLAIN, declare=["defense"])
    leaf = x.clone().requires_grad_()
    shared = seen.simulate(leaf, y, create_graph=True)
    assert float(shared[0].detach().norm()) == 0, "the first layer's units are off"
    (moved,) = torch.autograd.grad(flat(shared).square().sum(), leaf, allow_unused=True, materialize_grads=True)
    assert torch.isfinite(moved).all()


def test_a_declared_fed_cdp_survives_the_file(batch, tmp_path):
    seen = observe_inside(
        network(), *batch, point="example", defense=(PLAIN, defenses.Pruning(share=0.5)), declare=["labels", "defense"]
    )
    seen.save(tmp_path / "seen.pt")
    again = Observation.load(tmp_path / "seen.pt", network(seed=1))
    assert repr(again.known("defense")) == repr(seen.known("defense"))
    given = (batch[0][:1], batch[1][:1])
    assert torch.equal(flat(again.simulate(*given)), flat(seen.simulate(*given)))


def relative_errors(defense, digits, cases=30, **options):
    found = []
    for k in range(cases):
        rows = slice(k, k + 4)
        seen = observe_inside(
            network(k), digits[0][rows].double(), digits[1][rows], point="example", defense=defense, seed=k, **options
        )
        found.append(float(metrics.relative_error(attacks.PPDL_AHE(seen).inputs, digits[0][k : k + 1])))
    return found


def test_only_noise_that_is_there_by_then_stops_the_division_during_training(digits):
    """The bar: exact under nothing, under per-client noise, which comes later, and under clipping alone."""
    for early in (None, FedSDP(clip=1.0, noise_multiplier=1.0), PLAIN.replace(noise_multiplier=0.0)):
        assert max(relative_errors(early, digits)) < 1e-10
    assert min(relative_errors(PLAIN, digits)) > 0.5


def test_an_observer_inside_sees_what_the_later_hooks_would_have_changed(batch):
    """Before ``shared`` at the client; before the mean, ``step`` and ``shared`` at an example: row by row."""
    model, local = network(), LocalSteps(steps=2, lr=0.1)
    late = (FedSDP(clip=0.1, noise_multiplier=1.0), defenses.Pruning(share=0.9))
    plain = federated.observe(model, *batch, local=local).shared
    seen = observe_inside(model, *batch, point="client", local=local, defense=late, declare=["defense"])
    torch.testing.assert_close(flat(seen.shared), flat(plain))
    assert seen.known("defense").noise == ()
    torch.testing.assert_close(flat(seen.simulate(*batch)), flat(plain))
    quiet = FedCDP(clip=0.3, noise_multiplier=0.0)
    rows = [observe_inside(model, *batch, point="example", row=k, defense=(quiet, *late)).shared for k in range(4)]
    mean = flat([sum(g) / 4 for g in zip(*rows, strict=True)])
    torch.testing.assert_close(mean, flat(federated.observe(model, *batch, defense=quiet).shared))
    told = observe_inside(
        model, *batch, point="example", row=2, defense=(PLAIN, *late), declare=["labels", "targets", "defense"]
    )
    assert told.batch_size == 1
    assert told.known("labels").tolist() == told.known("targets").tolist() == [int(batch[1][2])]
    assert told.known("defense").noise == (("normal", 1.0),)
    nested = federated.Composition(parts=(federated.Composition(parts=(PLAIN, late[0])), late[1]))
    assert observe_inside(model, *batch, point="client", defense=nested, declare=["defense"]).known("defense").noise

    class Doubled(federated.Defense):
        def step(self, gradients, client):
            return tuple(2 * g for g in gradients)

    at_example = observe_inside(model, *batch, point="example", defense=Doubled()).shared
    single = federated.observe(model, batch[0][:1], batch[1][:1]).shared
    torch.testing.assert_close(flat(at_example), flat(single))
    at_client = observe_inside(model, *batch, point="client", defense=Doubled()).shared
    torch.testing.assert_close(flat(at_client), 2 * flat(federated.observe(model, *batch).shared))


def test_nothing_else_of_the_client_reaches_an_observer_inside(batch):
    """The other examples, and private tensors after the observation, change nothing; nothing is declared unasked."""
    model = network()
    x, y = (tensor.clone() for tensor in batch)
    first = observe_inside(model, x, y, point="example", row=1, defense=PLAIN, declare=["labels"])
    others, labels = x.flip(0).clone(), y.flip(0).clone()
    others[1], labels[1] = x[1], y[1]
    second = observe_inside(model, others, labels, point="example", row=1, defense=PLAIN, declare=["labels"])
    torch.testing.assert_close(flat(first.shared), flat(second.shared))
    assert torch.equal(first.known("labels"), second.known("labels"))
    before = attacks.PPDL_AHE(first).inputs
    with torch.no_grad():
        x.zero_(), y.zero_(), [p.zero_() for p in model.parameters()]
    assert torch.equal(attacks.PPDL_AHE(first).inputs, before)
    assert not observe_inside(network(), *batch, point="client").knowledge


def renyi_sum(alpha, q, sigma):
    """The divergence of the subsampled normal mechanism at an integer order, by its sum over binomials."""
    terms = [
        math.log(math.comb(alpha, k))
        + (alpha - k) * math.log1p(-q)
        + (k * math.log(q) if k else 0)
        + (k * k - k) / (2 * sigma**2)
        for k in range(alpha + 1)
    ]
    return float(np.logaddexp.reduce(terms)) / (alpha - 1)


def renyi_integral(alpha, q, sigma):
    """The same from its definition, by quadrature."""

    def density(x):
        none = math.exp(-(x**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
        return none * (1 - q + q * math.exp((2 * x - 1) / (2 * sigma**2))) ** alpha

    return math.log(integrate.quad(density, -20 * sigma, 20 * sigma + alpha, limit=500)[0]) / (alpha - 1)


def by_orders(spent, delta, orders=range(2, 200)):
    """Add the orders up by hand, and take the best of their epsilons (Balle et al., 2020)."""
    found = []
    for alpha in orders:
        total = sum(steps * (alpha / (2 * s**2) if q == 1 else renyi_sum(alpha, q, s)) for s, q, steps in spent)
        found.append(total + math.log1p(-1 / alpha) - (math.log(delta) + math.log(alpha)) / (alpha - 1))
    return min(found)


@pytest.mark.parametrize(
    "spent",
    [
        [(1.1, 256 / 60000, 14062)],
        [(2.0, 0.1, 40), (1.5, 0.1, 40), (1.0, 0.1, 40)],
        [(6.0, 1.0, 10), (3.0, 0.01, 100)],
        [(4.0, 1.0, 30)],
    ],
)
def test_epsilon_is_the_sum_over_orders(spent):
    ours = spending.epsilon(spent, delta=1e-5)
    assert ours == pytest.approx(by_orders(spent, 1e-5), rel=2e-2)
    assert ours <= by_orders(spent, 1e-5) + 1e-9, "orders in between can only help"
    assert renyi_sum(5, 0.1, 1.5) == pytest.approx(renyi_integral(5, 0.1, 1.5), rel=1e-6)
    assert spending.epsilon(spent, delta=1e-5) == spending.epsilon(spent[::-1], delta=1e-5), "order does not matter"


def test_without_sampling_the_exact_epsilon_is_a_little_less():
    """Normal mechanisms without sampling are one with the sum of 1 / ratio^2, whose epsilon is known exactly."""
    spent = [(4.0, 1.0, 10), (3.0, 1.0, 10), (2.0, 1.0, 10)]
    alike = 1 / math.sqrt(sum(steps / s**2 for s, _, steps in spent))
    exact = gaussian_epsilon(alike, delta=1e-5)
    assert exact < spending.epsilon(spent, delta=1e-5) < 1.15 * exact


def test_epsilon_s_anchors():
    """60,000 examples, batches of 256, delta 1e-5, the conversion of Balle et al.: .95, 2.60, 6.37."""
    for sigma, epochs, wanted in ((1.3, 15, 0.95), (1.1, 60, 2.60), (0.7, 45, 6.37)):
        found = spending.epsilon([(sigma, 256 / 60000, epochs * 60000 // 256)], delta=1e-5)
        assert found == pytest.approx(wanted, rel=0.01)
    assert spending.epsilon([], delta=1e-5) == 0
    assert spending.epsilon([(1.0, 1.0, 1), (0.0, 1.0, 1)], delta=1e-5) == math.inf


def test_to_decay_the_clip_is_free_and_to_decay_the_noise_is_not():
    """With a fixed multiplier the noise shrinks with what it has to hide; with a fixed clip it hides less."""
    options = {"rounds": 20, "layers": 2, "batch_size": 10}
    fixed = FedCDP(clip=4.0, noise_multiplier=4.0)
    shrinking = fixed.replace(clip=Decay(start=6.0, end=2.0, rounds=20))
    fading = fixed.replace(noise_multiplier=Decay(start=6.0, end=2.0, rounds=20))
    assert spending.history(fixed, **options) == spending.history(shrinking, **options)
    assert spending.history(fixed, **options) == [(pytest.approx(4 * math.sqrt(10 / 2) / 2), 1.0, 20)]
    found = spending.history(fading, **options)
    assert len(found) == 20
    assert [s for s, _, _ in found] == pytest.approx([(6 - 4 * k / 19) * math.sqrt(10 / 2) / 2 for k in range(20)])
    one, other = (spending.epsilon(spending.history(d, **options), delta=1e-5) for d in (fixed, fading))
    assert other > 1.1 * one, "the mean multiplier is the same, the mean of 1 / multiplier^2 is not"
    # without sampling only the sum of 1 / multiplier^2 counts
    same = math.sqrt(20 / sum(1 / s**2 for s, _, _ in found))
    assert other == pytest.approx(spending.epsilon([(same, 1.0, 20)], delta=1e-5))


def test_the_ratio_of_noise_to_what_one_example_moves(batch):
    """By measurement: the worst neighbours that clipping allows move the mean by 2 C sqrt(layers) / B, at most."""
    model, number = network(), 4
    client = Client(model=model, num_classes=10, generator=None)
    given = tuple(torch.ones(number, *p.shape, dtype=torch.float64) for p in model.parameters())
    other = tuple(torch.cat([-g[:1], g[1:]]) for g in given)
    quiet = FedCDP(clip=0.7, noise_multiplier=0.0)
    means = [flat([g.mean(0) for g in quiet.examples(g, client)]) for g in (given, other)]
    moved = float((means[0] - means[1]).norm())
    assert moved == pytest.approx(2 * 0.7 * math.sqrt(2) / number)
    deviation = 3.0 * 0.7 / math.sqrt(number)
    ((ratio, _, _),) = spending.history(
        FedCDP(clip=0.7, noise_multiplier=3.0), rounds=1, layers=len(set(layers(model))), batch_size=number
    )
    assert ratio == pytest.approx(deviation / moved)
    ((all_of_them, _, _),) = spending.history(PLAIN, rounds=1, layers=2, batch_size=number, changed=number)
    assert all_of_them == pytest.approx(1 / (2 * math.sqrt(2 * number)))
    sdp = FedSDP(clip=0.7, noise_multiplier=3.0)
    assert spending.history(sdp, rounds=5, layers=2) == [(pytest.approx(3 / (2 * math.sqrt(2))), 1.0, 5)]
    assert spending.history(sdp.replace(scope="whole"), rounds=5, layers=2) == [(pytest.approx(1.5), 1.0, 5)]
    assert spending.instance_rate(batch_size=5, participants=100, examples=50000) == 0.01


def test_noise_is_found_for_an_epsilon():
    options = {"rounds": 30, "layers": 2, "batch_size": 30}
    for defense in (
        PLAIN,
        PLAIN.replace(noise_multiplier=Decay(start=2.0, end=0.5, rounds=30)),
        FedSDP(clip=1.0, noise_multiplier=1.0),
    ):
        given = options if isinstance(defense, FedCDP) else options | {"batch_size": 1}
        found = spending.at_epsilon(defense, 8.0, delta=1e-5, **given)
        assert spending.epsilon(spending.history(found, **given), delta=1e-5) == pytest.approx(8, rel=1e-3)
    ratio = found.noise_multiplier
    assert ratio > 1


def test_several_looks_at_one_example(digits):
    """Total least squares: exact without noise whatever the weights, nearer with every look, and nearer than a mean."""
    looks = [federated.observe(network(k), digits[0][:1].double(), digits[1][:1]).shared for k in range(12)]
    weights, biases = (torch.stack([look[k] for look in looks]) for k in (0, 1))
    truth = digits[0][0].flatten().double()
    torch.testing.assert_close(repeated_input(weights, biases), truth, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(repeated_input(weights[0], biases[0]), layer_input(weights[0], biases[0]))
    generator = torch.Generator().manual_seed(0)
    errors = {1: [], 12: [], "mean": []}
    for _ in range(20):
        noisy = [t + 0.02 * torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in (weights, biases)]
        errors[1].append(float((repeated_input(noisy[0][0], noisy[1][0]) - truth).norm() / truth.norm()))
        errors[12].append(float((repeated_input(*noisy) - truth).norm() / truth.norm()))
        each = torch.stack([layer_input(w, b) for w, b in zip(*noisy, strict=True)]).mean(0)
        errors["mean"].append(float((each - truth).norm() / truth.norm()))
    assert np.mean(errors[12]) < np.mean(errors[1]) / 2
    assert np.mean(errors[12]) < 0.8 * np.mean(errors["mean"])


def test_map_uses_the_declared_noise(digits):
    x, y = digits[0][:1].double(), digits[1][:1]
    prior = priors.GaussianPrior.fit(data.digits()[0][900:1400].double())
    attack = bayesian.MAP(prior=prior, steps=5)
    quiet = FedCDP(clip=1.0, noise_multiplier=1e-3)
    seen = observe_inside(network(), x, y, point="example", defense=quiet, declare=["labels", "defense"])
    assert float(metrics.relative_error(attack(seen).inputs, x)) < 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FedCDP(clip=0, noise_multiplier=1.0), "^clip: got 0, wanted a positive number"),
        (lambda: FedCDP(clip="1", noise_multiplier=1.0), "^clip: got '1', wanted a positive number"),
        (lambda: FedCDP(clip=float("nan"), noise_multiplier=1.0), "^clip: got nan"),
        (lambda: FedCDP(clip=1.0, noise_multiplier=-1), "^noise_multiplier: got -1, wanted 0 or more"),
        (lambda: FedCDP(clip=1.0, noise_multiplier=None), "^noise_multiplier: got None, wanted 0 or more"),
        (lambda: FedSDP(clip=Decay(start=2.0, end=1.0, rounds=2), noise_multiplier=1.0), "^clip: got Decay"),
        (lambda: FedSDP(clip=1.0, noise_multiplier=1.0, scope="all"), "^scope: got 'all', wanted one of layer, whole"),
        (lambda: Decay(start=0.0, end=1.0, rounds=3), "^start: got 0.0, wanted a positive number"),
        (lambda: Decay(start=1.0, end=float("inf"), rounds=3), "^end: got inf, wanted a positive number"),
        (lambda: Decay(start=2.0, end=1.0, rounds=1), "^rounds: got 1, wanted at least 2"),
        (lambda: Decay(start=2.0, end=1.0, rounds=3, shape="step"), "^shape: got 'step', wanted one of linear"),
        (lambda: Decay(start=2.0, end=1.0, rounds=3).at(0), "^number: got 0, wanted at least 1"),
        (lambda: spending.history(None, rounds=1, layers=1), "^defense: got None, wanted a FedCDP or a FedSDP"),
        (lambda: spending.history(PLAIN, rounds=0, layers=1), "^rounds: got 0, wanted at least 1"),
        (
            lambda: spending.history(PLAIN, rounds=1, layers=1, changed=2),
            "^changed: got 2, wanted at most the batch's 1",
        ),
        (lambda: spending.history(PLAIN, rounds=1, layers=1, rate=0.1), "^rate: got 0.1 for neighbours='replace'"),
        (lambda: spending.history(PLAIN, rounds=1, layers=1, rate=0), "^rate: got 0, wanted above 0, at most 1"),
        (
            lambda: spending.history(PLAIN, rounds=1, layers=1, neighbours="all"),
            "^neighbours: got 'all', wanted one of",
        ),
        (lambda: spending.epsilon([(1.0, 1.0, 1)], delta=0), "^delta: got 0, wanted above 0, below 1"),
        (lambda: spending.epsilon([(-1.0, 1.0, 1)], delta=0.1), "^spent: got -1.0, wanted multipliers of 0 or more"),
        (lambda: spending.epsilon([(1.0, 2.0, 1)], delta=0.1), "^spent: got 2.0, wanted rates above 0"),
        (lambda: spending.at_epsilon(PLAIN, 0, delta=0.1, rounds=1, layers=1), "^wanted: got 0, wanted a positive"),
        (
            lambda: spending.at_epsilon(PLAIN.replace(noise_multiplier=0.0), 1.0, delta=0.1, rounds=1, layers=1),
            "^noise_multiplier: got 0, wanted noise: no factor makes any of none",
        ),
        (
            lambda: spending.at_epsilon(PLAIN, 1e9, delta=0.1, rounds=1, layers=1),
            "^wanted: got 1000000000.0, wanted an epsilon that a factor",
        ),
        (
            lambda: spending.at_epsilon(PLAIN, 0.01, delta=0.5, rounds=1, layers=1, rate="all"),
            "^rate: got 'all', wanted above 0, at most 1",
        ),
        (
            lambda: spending.instance_rate(batch_size=10, participants=4, examples=39),
            "^batch_size: got 10 for each of 4 clients, wanted at most the number of examples, 39",
        ),
        (lambda: inside(point="client", seed="a"), "^seed: got 'a', wanted a whole number"),
        (lambda: inside(point="client", local="a"), "^local: got 'a', wanted a LocalSteps, or None"),
        (lambda: inside(point="client", num_classes="a"), "^num_classes: got 'a', wanted a whole number"),
        (lambda: inside(point="client", declare=5), "^declare: got 5, wanted a list of names"),
        (lambda: inside(point=["client"]), r"^point: got \['client'\], wanted one of client, example"),
        (lambda: layers(None), "^model: got a NoneType, wanted a torch.nn.Module"),
        (lambda: inside(point="server"), "^point: got 'server', wanted one of client, example"),
        (lambda: inside(point="example", row=1), "^row: got 1, wanted one of 1 examples, from 0"),
        (lambda: inside(point="example", row=-1), "^row: got -1, wanted at least 0"),
        (lambda: inside(point="client", declare=["masks"]), "^declare: got 'masks', wanted one of labels, targets"),
        (lambda: inside(point="client", defense=3), "^defense: got a int, wanted a gilearn.federated.Defense"),
        (
            lambda: repeated_input(torch.ones(2, 3), torch.ones(3)),
            r"got shapes \(2, 3\) and \(3,\), wanted those of the",
        ),
        (lambda: repeated_input(torch.ones(2, 3), torch.zeros(2)), "^bias_gradients: got zeros, wanted at least one"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def inside(**options):
    return observe_inside(network(), torch.ones(1, 1, 8, 8), torch.tensor([1]), **options)
