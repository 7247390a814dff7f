"""CAFE's linear steps and features, from the private pool's own examples, one by one."""

from __future__ import annotations

import torch
from torch import nn

from formulas.rows import entries, rand, randn, rows
from gilearn.attacks.iteration.regularizers import Candidates
from gilearn.attacks.iteration.vertical import Inner, InnerFeatures, LinearSteps, PoolLabels
from gilearn.federated import Several, vertical_rounds

MODULES = ["gilearn.attacks.iteration.vertical"]
NO_FORMULA = {"Inner", "Vertical", "inner_layers"}


def drawn(generator, *, columns=5, examples=6):
    """Return a network of one party, and a pool behind eight rounds of two."""
    layers = [nn.utils.skip_init(nn.Linear, columns, 4), nn.Tanh(), nn.utils.skip_init(nn.Linear, 4, 3)]
    model = nn.Sequential(*layers).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(randn(*parameter.shape, generator=generator))
    x, y = rand(examples, columns, generator=generator), torch.randint(3, (examples,), generator=generator)
    return model, x, y


def pool(model, x, y):
    parts = vertical_rounds(model, x, y, batch_size=2, num_rounds=14, declare=["rows"], seed=1)
    return Several(parts=tuple(parts), size=len(x))


def steps(ingredient, model, x, y):
    (one,) = ingredient(pool(model, x, y))
    return [one.deltas, one.features, one.rank]


def own(model, x, y):
    """Return W2^T (p - e_y) x (1 - tanh^2) of every example, and its inputs."""
    first, last = model[0], model[2]
    deltas = []
    for example, label in zip(x, y.tolist(), strict=True):
        hidden = torch.tanh(first.weight @ example + first.bias)
        scores = (last.weight @ hidden + last.bias).exp()
        error = scores / scores.sum() - torch.eye(3, dtype=torch.float64)[label]
        deltas.append((last.weight.T @ error) * (1 - hidden.square()))
    return [torch.stack(deltas).detach(), x, len(x)]


def features(ingredient, model, x, y):
    inner = Inner(layer="2", deltas=x, features=WANTED, determined=TOLD, rank=6, condition=1.0)
    seen = pool(model, x, y)
    found = [
        ingredient.replace(inner=(inner,))(Candidates(seen=seen, inputs=inputs, targets=y[None], rows=chosen))
        for inputs, chosen in ((x[None], None), (torch.stack([x[[4, 1]], x[[0, 5]]]), torch.tensor([4, 1])))
    ]
    return [list(values) for values in found]


def gaps(model, x, y):
    def mean(inputs, chosen):
        total = 0.0
        for example, k in zip(inputs, chosen, strict=True):
            hidden = torch.tanh(model[0].weight @ example + model[0].bias)
            total += TOLD[k].item() * sum(
                (a - b) ** 2 for a, b in zip(entries(hidden), entries(WANTED[k]), strict=True)
            )
        return 0.8 * total / len(chosen)

    return [[mean(x, range(6))], [mean(x[[4, 1]], (4, 1)), mean(x[[0, 5]], (4, 1))]]


WANTED = randn(6, 4, generator=torch.Generator().manual_seed(5))
TOLD = torch.tensor([True, True, False, True, True, False])
ROWS = [
    *rows(steps, [drawn, drawn], [(LinearSteps(), own)]),
    *rows(lambda rule, *case: list(rule(pool(*case))), [drawn, drawn], [(PoolLabels(), lambda model, x, y: list(y))]),
    *rows(features, [drawn], [(InnerFeatures(weight=0.8, inner=()), gaps)]),
]
REFUSALS = [(lambda: InnerFeatures(weight=-1.0, inner=()), "weight: got -1.0, wanted 0 or more")]
