"""Differential privacy: accountants at known numbers, clipping and noise as Opacus has them, ratios on a whole grid."""

from __future__ import annotations

import itertools
import math
import warnings
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from torch import nn

from gilearn import attacks, data, defenses, federated, models
from gilearn.attacks import bayesian, priors
from gilearn.defenses import accounting, grouping, utility
from gilearn.defenses.gradients.perturbation import vector_norm
from gilearn.federated import LocalSteps

ANCHORS = [  # 60,000 examples, batches of 256, delta 1e-5: noise multiplier, epochs, classic and improved conversion
    (1.3, 15, 1.19, 0.95),
    (1.1, 60, 3.01, 2.60),
    (0.7, 45, 7.12, 6.37),
]


@pytest.fixture(scope="module")
def batch(digits):
    return digits[0][:6].double(), digits[1][:6]


@pytest.fixture(scope="module")
def model():
    return models.mlp(64, (8,)).double()


def flat(gradients):
    return torch.cat([g.flatten() for g in gradients if g is not None])


def shared(model, batch, defense=None, **options):
    return flat(federated.observe(model, *batch, defense=defense, **options).shared)


def alone(model, batch):
    """Every example's gradient, from a loop over batches of one."""
    return torch.stack([shared(model, (x[None], y[None])) for x, y in zip(*batch, strict=True)])


@pytest.mark.parametrize(("multiplier", "epochs", "classic", "improved"), ANCHORS)
def test_the_accountants_at_known_numbers(multiplier, epochs, classic, improved):
    private = defenses.DPSGD(noise_multiplier=multiplier, clip=1.0)
    options = {"delta": 1e-5, "sample_rate": 256 / 60_000, "steps": epochs * 60_000 // 256}
    spent = {name: private.epsilon(**options, accountant=name) for name in accounting.ACCOUNTANTS}
    assert spent["rdp-classic"] == pytest.approx(classic, rel=0.01)
    assert spent["rdp"] == pytest.approx(improved, rel=0.01)
    assert spent["prv"] < spent["rdp"] < spent["rdp-classic"]
    assert spent["prv"] > 0.8 * spent["rdp"]


def test_the_gaussian_mechanism_at_known_numbers():
    assert accounting.gaussian_std(1.0, delta=1e-5) == pytest.approx(3.7306, rel=1e-4)
    assert accounting.classical_std(1.0, delta=1e-5) == pytest.approx(4.8448, rel=1e-4)
    assert accounting.classical_constant(0.01) == pytest.approx(3.1075, rel=1e-4)


@pytest.mark.parametrize("delta", [1e-12, 1e-5, 0.1])
@pytest.mark.parametrize("epsilon", [1e-3, 0.5, 8.0, 300.0, 1e5])
def test_epsilon_delta_and_deviation_are_one_curve(epsilon, delta):
    for steps in (1, 40):
        std = accounting.gaussian_std(epsilon, delta=delta, steps=steps)
        assert accounting.gaussian_delta(std, epsilon=epsilon, steps=steps) == pytest.approx(delta, rel=1e-3)
        assert accounting.gaussian_epsilon(std, delta=delta, steps=steps) == pytest.approx(epsilon, rel=1e-3, abs=1e-6)
    assert accounting.gaussian_epsilon(1e13, delta=delta) == 0.0


def test_a_single_release_needs_no_accountant_and_no_accountant_promises_more():
    private = defenses.DPSGD(noise_multiplier=1.5, clip=1.0)
    exact = private.epsilon(delta=1e-5, steps=10)
    assert exact == accounting.gaussian_epsilon(1.5, delta=1e-5, steps=10)
    for accountant in accounting.ACCOUNTANTS:
        assert private.epsilon(delta=1e-5, steps=10, sample_rate=0.1, accountant=accountant) < exact / 3
    nearly_all = private.epsilon(delta=1e-5, steps=10, sample_rate=0.999)
    assert exact < nearly_all < 1.2 * exact


def test_no_test_beats_the_trade_off_curve():
    """Thresholds on two drawn normals trace it, within three standard errors."""
    rng, multiplier = np.random.default_rng(0), 0.8
    without, taking_part = rng.normal(0, 1, 40_000), rng.normal(1 / multiplier, 1, 40_000)
    for threshold in (-1.0, 0.0, 0.7, 2.0):
        alarms, missed = float((without > threshold).mean()), float((taking_part <= threshold).mean())
        assert missed == pytest.approx(accounting.least_misses(multiplier, false_alarms=alarms), abs=0.012)
    assert accounting.least_misses(1.0, false_alarms=0.0) == 1.0
    assert accounting.least_misses(1.0, false_alarms=1.0) == 0.0


def test_clipping_is_that_of_batches_of_one_and_holds(model, batch):
    rows = alone(model, batch)
    norm = float(rows.norm(dim=1).median())
    clipped = rows * (norm / rows.norm(dim=1)).clamp_max(1)[:, None]
    assert float(clipped.norm(dim=1).max()) <= norm * (1 + 1e-12)
    assert 1 <= int((rows.norm(dim=1) > norm).sum()) < len(rows)
    found = shared(model, batch, defenses.DPSGD(noise_multiplier=0.0, clip=norm))
    assert float((found - clipped.mean(0)).norm() / clipped.mean(0).norm()) < 1e-12
    for x, y in zip(*batch, strict=True):
        one = shared(model, (x[None], y[None]), defenses.DPSGD(noise_multiplier=0.0, clip=norm))
        assert float(one.norm()) <= norm * (1 + 1e-12)


def test_the_noise_is_on_the_sum(model, batch):
    """Of the mean it is a share, one draw for the whole batch; that of two tensors is apart."""
    wide = models.mlp(64, (400,)).double()
    private = defenses.DPSGD(noise_multiplier=2.0, clip=0.1)
    for size in (1, 6):
        own = (batch[0][:size], batch[1][:size])
        noise = shared(wide, own, private, seed=3) - shared(wide, own, private.replace(noise_multiplier=0.0))
        assert float(noise.std()) == pytest.approx(2.0 * 0.1 / size, rel=0.02)
        assert abs(float(noise.mean())) < 5 * 0.2 / size / len(noise) ** 0.5
    halves = noise[: len(noise) // 2 * 2].view(2, -1)
    assert abs(float(torch.corrcoef(halves)[0, 1])) < 0.04


def test_every_local_step_has_its_own_noise(model, batch):
    """After many steps of a rate so small that the gradient stays, the noise has added up like independent draws."""
    private = defenses.DPSGD(noise_multiplier=1.0, clip=1.0)
    local = LocalSteps(steps=25, lr=1e-9, batch_size=3)
    noisy = shared(model, batch, private, local=local, seed=1)
    noise = (noisy - shared(model, batch, private.replace(noise_multiplier=0.0), local=local)) / 1e-9
    assert float(noise.std()) == pytest.approx(5 / 3, rel=0.1)


def test_opacus_takes_the_same_step(batch):
    """Opacus' own optimizer, without noise: its clipped mean, up to the 1e-6 that it adds to a norm."""
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    model = models.mlp(64, (8,)).double()
    ours = shared(model, batch, defenses.DPSGD(noise_multiplier=0.0, clip=0.5))
    wrapped = GradSampleModule(models.mlp(64, (8,)).double())
    optimizer = DPOptimizer(
        torch.optim.SGD(wrapped.parameters(), lr=1.0), noise_multiplier=0.0, max_grad_norm=0.5, expected_batch_size=6
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.functional.cross_entropy(wrapped(batch[0]), batch[1]).backward()
    optimizer.pre_step()
    torch.testing.assert_close(flat([p.grad for p in wrapped.parameters()]), ours, rtol=1e-5, atol=1e-9)


def test_a_model_that_opacus_wrapped_is_a_victim(digits):
    from opacus.grad_sample import GradSampleModule
    from opacus.validators import ModuleValidator

    batch = (digits[0][:3], digits[1][:3])
    plain = ModuleValidator.fix(models.mlp(64, (8,)).train())
    assert ModuleValidator.validate(plain, strict=True) == []
    wrapped = GradSampleModule(ModuleValidator.fix(models.mlp(64, (8,)).train()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.functional.cross_entropy(wrapped(batch[0]), batch[1]).backward()  # it now holds private gradients
    hooks = sum(len(module._forward_hooks) for module in wrapped.modules())
    for defense in (None, defenses.DPSGD(noise_multiplier=1.0, clip=0.1)):
        for local in (None, LocalSteps(steps=2, lr=0.1)):
            seen = federated.observe(wrapped, *batch, defense=defense, local=local)
            same = federated.observe(plain, *batch, defense=defense, local=local)
            assert torch.equal(flat(seen.shared), flat(same.shared))
            assert [name for name, _ in seen.model.named_parameters()] == [n for n, _ in plain.named_parameters()]
            assert not any(hasattr(parameter, "grad_sample") for parameter in seen.model.parameters())
            assert torch.equal(flat(seen.simulate(*batch)), flat(same.simulate(*batch)))
    assert sum(len(module._forward_hooks) for module in wrapped.modules()) == hooks > 0
    assert all(parameter.grad_sample is not None for parameter in wrapped.parameters())
    one = federated.observe(wrapped, batch[0][:1], batch[1][:1])
    assert float((attacks.PPDL_AHE(one).inputs - batch[0][:1]).abs().max()) < 1e-5
    again = federated.Observation.from_gradients(wrapped, one.shared, input_shape=(1, 8, 8), batch_size=1)
    assert torch.equal(flat(again.shared), flat(one.shared))
    (ran,) = federated.fedavg(wrapped, [batch], LocalSteps(steps=1, lr=0.1), num_rounds=1)
    assert type(ran.after) is type(plain)


PRIVATE = [
    defenses.DPSGD(noise_multiplier=0.3, clip=0.05),
    defenses.PartialNoise(noise_multiplier=0.3, clip=0.05, parameters=("1.weight", "1.bias")),
    defenses.PartialNoise(noise_multiplier=0.3, clip=0.05, parameters=("1.weight",), rest="shared"),
    defenses.LDPFed(alpha=150.0, clip=0.02),
    defenses.NbAFL(epsilon=60.0, clip=1.0, smallest=6, clients=2, rounds=4, exposures=2, proximal=0.5),
]


@pytest.mark.parametrize("private", PRIVATE)
@pytest.mark.parametrize("functional", [False, True])
def test_an_attacker_who_knows_the_defense_simulates_its_mean(model, batch, private, functional):
    """Over many draws what is shared has the mean that is simulated at the truth: standard errors apart, not more."""
    local = LocalSteps(steps=2, lr=0.1) if isinstance(private, defenses.NbAFL) else None
    options = {"defense": private, "local": local}
    seen = federated.observe(model, *batch, declare=["defense"], **options)
    x = batch[0].clone().requires_grad_()
    simulated = seen.simulate(x, batch[1], functional=functional)
    assert [g is None for g in simulated] == [g is None for g in seen.shared]
    assert torch.autograd.grad(flat(simulated).square().sum(), x)[0].abs().max() > 0
    if functional:
        torch.testing.assert_close(flat(simulated), flat(seen.simulate(*batch)), rtol=1e-9, atol=1e-14)
        return
    draws = torch.stack([shared(model, batch, seed=seed, **options) for seed in range(36)])
    off = (draws.mean(0) - flat(simulated).detach()) / (draws.std(0) / 6).clamp_min(1e-12)
    moved = draws.std(0) > 1e-12
    assert float(off[moved].square().mean().sqrt()) < 1.25
    assert moved.all() or private.rest == "shared"


@pytest.mark.parametrize("private", PRIVATE)
def test_what_is_public_holds_nothing_of_the_client(model, batch, private):
    """Two clients with other data, labels and draws declare the same."""
    others = (1 - batch[0], (batch[1] + 3) % 10)
    told = [
        federated.observe(model, *own, defense=private, declare=["defense"], seed=seed).known("defense")
        for seed, own in enumerate((batch, others))
    ]
    assert told[0] == told[1]
    assert repr(told[0]) == repr(told[1])


def test_the_noise_of_a_single_step_is_declared(model, batch):
    private = defenses.DPSGD(noise_multiplier=0.6, clip=0.5)
    seen = federated.observe(model, *batch, defense=private, declare=["labels", "defense"])
    assert bayesian.DeclaredNoise().build(seen) == bayesian.Normal(std=0.6 * 0.5 / 6)
    prior = priors.GaussianPrior.fit(data.digits()[0][900:].double())
    assert bayesian.MAP(prior=prior, steps=1)(seen).details["objective"] > 0
    local = federated.observe(model, *batch, defense=private, declare=["defense"], local=LocalSteps(steps=2, lr=0.1))
    with pytest.raises(ValueError, match="whose noise enters every step: wanted a single step"):
        bayesian.DeclaredNoise().build(local)


def test_private_defenses_survive_the_file(model, batch, tmp_path):
    private = (defenses.DPSGD(noise_multiplier=0.6, clip=0.5), defenses.LDPFed(alpha=9.0, clip=0.1))
    seen = federated.observe(model, *batch, defense=private, declare=["defense"])
    seen.save(tmp_path / "seen.pt")
    again = federated.Observation.load(tmp_path / "seen.pt", models.mlp(64, (8,)))
    assert again.known("defense") == seen.known("defense")


@pytest.mark.parametrize("alpha", [0.01, 0.3, 2.0, 40.0])
def test_condensed_privacy_holds_for_every_pair_of_levels(alpha):
    """With fifty digits: p(y | v) <= exp(alpha d(v, v')) p(y | v'), all 33 x 33 x 33; and the package's own numbers."""
    private = defenses.LDPFed(alpha=alpha, clip=1.0, levels=33)
    found = private.probabilities(alpha)
    torch.testing.assert_close(found.sum(1), torch.ones(33, dtype=torch.float64), rtol=1e-12, atol=0)
    with localcontext() as context:
        context.prec = 50
        exact = [[(-Decimal(str(alpha)) * abs(v - y) / 2).exp() for y in range(33)] for v in range(33)]
        exact = [[weight / sum(row) for weight in row] for row in exact]
        limits = [(Decimal(str(alpha)) * d).exp() for d in range(33)]
        for v, other in itertools.product(range(33), repeat=2):
            limit = limits[abs(v - other)]
            assert all(p <= limit * q for p, q in zip(exact[v], exact[other], strict=True))
    for v in range(33):
        np.testing.assert_allclose(found[v].numpy(), [float(p) for p in exact[v]], rtol=1e-12)
    worst = (found[:, None] / found[None]).log().amax(dim=2)
    places = torch.arange(33)
    assert bool((worst <= alpha * (places[:, None] - places).abs() * (1 + 1e-9) + 1e-12).all())
    assert private.epsilon == alpha * 32
    assert float(worst.max()) <= private.epsilon


def test_a_clients_draws_have_the_grids_distribution():
    private = defenses.LDPFed(alpha=0.4 * 60_000, clip=1.0, levels=5)
    client = federated.Client(
        model=nn.utils.skip_init(nn.Linear, 1, 60_000, bias=False), num_classes=2, generator=torch.Generator()
    )
    (drawn,) = private.shared((torch.full((60_000, 1), 0.52),), client)
    shares = torch.stack([(drawn == level).double().mean() for level in private.grid.float()])
    torch.testing.assert_close(shares, private.probabilities(0.4)[3], rtol=0, atol=0.01)


def test_a_budget_is_spent_by_uploads_client_by_client(digits):
    clients = [(digits[0][:4], digits[1][:4]), (digits[0][4:8], digits[1][4:8])]
    private = defenses.LDPFed(alpha=1e6, clip=0.1, uploads=2, parameters=("3.weight", "3.bias"))
    rounds = federated.fedavg(models.mlp(64, (8,)), clients, LocalSteps(steps=1, lr=0.1), num_rounds=3, defense=private)
    for ran in itertools.islice(rounds, 2):
        assert [g is None for g in ran.shared] == [True, True, False, False]
    with pytest.raises(ValueError, match="uploads: got one after 2, wanted no more: the client's alpha is spent"):
        next(rounds)


SETTINGS = {"epsilon": 60.0, "clip": 5.0, "smallest": 300, "clients": 4, "rounds": 30, "exposures": 20}


def test_nbafl_has_the_papers_deviations_with_both_branches():
    """The branch is at T = L sqrt(N): 2 x 20 rounds for four clients."""
    constant = math.sqrt(2 * math.log(1.25 / 0.01))
    for rounds in (30, 40, 41, 100):
        noising = defenses.NbAFL(**SETTINGS | {"rounds": rounds})
        assert noising.uplink == pytest.approx(constant * 20 * (2 * 5.0 / 300) / 60)
        under = rounds**2 - 20**2 * 4
        downlink = 2 * constant * 5.0 * math.sqrt(under) / (300 * 4 * 60) if rounds > 40 else 0.0
        assert noising.downlink == pytest.approx(downlink, abs=1e-15)
        # together they are what T rounds of the mean need
        total = math.sqrt(noising.uplink**2 / 4 + noising.downlink**2)
        assert total >= constant * rounds * (2 * 5.0 / 300 / 4) / 60 * (1 - 1e-12)


def test_nbafls_classical_noise_is_more_than_needed_at_first_and_less_in_the_end():
    for epsilon, exposures in ((0.5, 1), (6.0, 1), (6.0, 30)):
        noising = defenses.NbAFL(**SETTINGS | {"epsilon": epsilon, "exposures": exposures})
        assert noising.spent < epsilon
        assert noising.replace(calibration="analytic").uplink < noising.uplink
    noising = defenses.NbAFL(**SETTINGS | {"epsilon": 100.0, "exposures": 1})
    assert noising.spent > 500
    analytic = noising.replace(calibration="analytic")
    assert analytic.uplink > 2 * noising.uplink
    assert analytic.spent == pytest.approx(100.0)
    for rounds in (30, 400):
        analytic = defenses.NbAFL(**SETTINGS | {"rounds": rounds, "calibration": "analytic"})
        mean = math.sqrt(analytic.uplink**2 / 4 + analytic.downlink**2)
        needed = accounting.gaussian_std(60.0, delta=0.01, sensitivity=analytic.sensitivity / 4, steps=rounds)
        assert mean == pytest.approx(needed) if analytic.downlink else mean > needed
        assert (analytic.downlink > 0) == (rounds == 400)


def test_nbafl_clips_and_noises_the_weights_not_the_update(model, batch):
    local = LocalSteps(steps=3, lr=0.1)
    noising = defenses.NbAFL(**SETTINGS | {"clip": 1.0, "smallest": 6})
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    trained = before - shared(model, batch, local=local)
    assert float(trained.norm()) > 2
    sent = before - shared(model, batch, noising, local=local)
    noise = sent - trained / float(trained.norm())
    assert float(noise.std()) == pytest.approx(noising.uplink, rel=0.1)
    assert float(vector_norm(tuple(p.detach() for p in model.parameters()))) == pytest.approx(float(before.norm()))
    down = defenses.NbAFL(**SETTINGS | {"rounds": 100}).broadcast(model, seed=1)
    moved = torch.nn.utils.parameters_to_vector(down.parameters()).detach() - before
    assert float(moved.std()) == pytest.approx(defenses.NbAFL(**SETTINGS | {"rounds": 100}).downlink, rel=0.1)
    assert torch.equal(before, torch.nn.utils.parameters_to_vector(model.parameters()))


def test_the_proximal_term_holds_a_client_back(model, batch):
    """A strong pull leaves less of the way; the steps' first, where weights are the global ones, is not changed."""
    ways = []
    for factor, steps in itertools.product((0.0, 2.0), (1, 20)):
        noising = defenses.NbAFL(**SETTINGS | {"clip": 99.0, "epsilon": 1e12, "proximal": factor})
        ways.append(shared(model, batch, noising, local=LocalSteps(steps=steps, lr=0.1)))
    torch.testing.assert_close(ways[0], ways[2], rtol=1e-4, atol=1e-8)
    assert float(ways[3].norm()) < 0.7 * float(ways[1].norm())


def test_clipped_weights_after_proximal_steps_by_hand(model, batch):
    """Also told: a simulation leaves the model as it was, so that the next one says the same."""
    noising = defenses.NbAFL(**SETTINGS | {"clip": 1.0, "epsilon": 1e15, "proximal": 2.0})
    local = LocalSteps(steps=3, lr=0.1)
    seen = federated.observe(model, *batch, defense=noising, local=local, declare=["defense"])
    own = models.mlp(64, (8,)).double()
    own.load_state_dict(model.state_dict())
    start = [parameter.detach().clone() for parameter in own.parameters()]
    for _ in range(3):
        loss = nn.functional.cross_entropy(own(batch[0]), batch[1])
        slopes = torch.autograd.grad(loss, list(own.parameters()))
        with torch.no_grad():
            for parameter, slope, first in zip(own.parameters(), slopes, start, strict=True):
                parameter -= 0.1 * (slope + 2.0 * (parameter - first))
    after = flat(own.parameters()).detach()
    assert float(after.norm()) > 2
    wanted = flat(start) - after / after.norm()
    torch.testing.assert_close(flat(seen.shared), wanted, rtol=0, atol=1e-12)
    for _ in range(2):
        torch.testing.assert_close(flat(seen.simulate(*batch)).detach(), wanted, rtol=0, atol=1e-12)
        assert all(torch.equal(a, b) for a, b in zip(seen.network.parameters(), model.parameters(), strict=True))


def test_accuracy_grows_with_nbafls_epsilon():
    task = utility.TASKS["digits"].replace(rounds=10)
    found = []
    for epsilon in (2.0, 10.0, 600.0):
        noising = defenses.NbAFL(epsilon=epsilon, clip=10.0, smallest=300, clients=4, rounds=10, exposures=10)
        found.append(float(utility.measure(task, defense=noising, seeds=[0]).accuracy.mean()))
    assert found[0] + 0.1 < found[1]
    assert found[1] + 0.1 < found[2]


def test_groups_look_like_everyone():
    """Against 30 random dealings, for clients that have few classes each; and no client is lost."""
    rng = np.random.default_rng(0)
    for case in range(5):
        counts = torch.from_numpy(rng.multinomial(60, rng.dirichlet([0.2] * 10, size=24))).squeeze()
        groups = grouping.grouped(counts, 6)
        assert sorted(itertools.chain(*groups)) == list(range(24))
        assert {len(own) for own in groups} == {4}
        dealt = [rng.permutation(24).reshape(6, 4).tolist() for _ in range(30)]
        at_random = [grouping.divergence(counts, tuple(map(tuple, own))) for own in dealt]
        assert grouping.divergence(counts, groups) < min(at_random), case
    assert grouping.divergence(counts, (tuple(range(24)),)) == pytest.approx(0, abs=1e-12)
    assert [len(own) for own in grouping.grouped(counts[:7], 3)] == [3, 2, 2]


def test_partial_noise_covers_what_is_released_and_nothing_else(model, batch):
    """The named tensors have DP-SGD's noise and norm; of the others nothing leaves, or all of it, bare."""
    named = {"noise_multiplier": 0.0, "clip": 0.01, "parameters": ("1.weight", "1.bias")}
    bare = federated.observe(model, *batch).shared
    part = federated.observe(model, *batch, defense=defenses.PartialNoise(**named)).shared
    assert [g is None for g in part] == [False, False, True, True]
    rows = alone(model, batch)[:, : sum(g.numel() for g in bare[:2])]
    clipped = rows * (0.01 / rows.norm(dim=1)).clamp_max(1)[:, None]
    torch.testing.assert_close(flat(part), clipped.mean(0), rtol=1e-12, atol=1e-15)
    whole = federated.observe(model, *batch, defense=defenses.PartialNoise(**named, rest="shared")).shared
    torch.testing.assert_close(flat(whole[:2]), flat(part), rtol=1e-12, atol=0)
    torch.testing.assert_close(flat(whole[2:]), flat(bare[2:]), rtol=1e-12, atol=1e-15)
    noisy = defenses.PartialNoise(**named | {"noise_multiplier": 2.0})
    assert noisy.epsilon(delta=1e-5) == defenses.DPSGD(noise_multiplier=2.0, clip=1.0).epsilon(delta=1e-5)
    with pytest.raises(ValueError, match=r"rest: got 'shared', .* 1\.weight, 1\.bias has no noise, and all of it toge"):
        noisy.replace(rest="shared").epsilon(delta=1e-5)
    with pytest.raises(ValueError, match=r"parameters: got '9\.weight', wanted one of 1\.weight"):
        federated.observe(model, *batch, defense=noisy.replace(parameters=("9.weight",)))
