"""Dropout in front of the classifier: the layer, the mask that its gradient shows, and searches for masks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gilearn import attacks, data, defenses, federated, metrics, models
from gilearn.attacks import labels, masks, regularizers, spaces
from gilearn.federated import LocalSteps

SEARCH = attacks.iDLG.replace(labels=labels.Declared(), iterations=30, restarts=1)


def encoder(seed=0):
    return models.lenet(1, size=8, strides=(1, 2), width=6, seed=seed).double()


def dropped(seed=0, p=0.5):
    return defenses.Dropout(p=p).insert(encoder(seed))


def twice(p=0.5):
    layers = list(encoder())
    return nn.Sequential(*layers[:2], nn.Dropout(p), *layers[2:-1], nn.Dropout(p), layers[-1]).double()


def digit(k=0, number=1):
    x, y = data.digits()
    return x[k : k + number].double(), y[k : k + number]


def observed(model, x, y, seed=0):
    """Return what a blind server sees, and the masks that it does not."""
    told = federated.observe(model, x, y, declare=["labels", "masks"], seed=seed)
    return told.replace(knowledge={"labels": y}), told.known("masks")


@pytest.mark.parametrize(
    "build",
    [
        encoder,
        lambda: models.mlp(64, (8,)).double(),
        lambda: models.mlp(4, (), 3)[1].double(),
        lambda: nn.Sequential(encoder(), nn.Identity()),
    ],
    ids=["encoder", "perceptron", "layer", "nested"],
)
def test_the_layer_is_in_front_of_the_classifier_and_changes_no_parameter(build):
    model = build()
    given = torch.rand(
        3, 4 if isinstance(model, nn.Linear) else 64, generator=torch.Generator().manual_seed(0)
    ).double()
    given = given if isinstance(model, nn.Linear) else given.view(3, 1, 8, 8)
    before = [parameter.clone() for parameter in model.parameters()]
    inserted = defenses.Dropout(p=0.3).insert(model)
    assert not any(isinstance(module, nn.Dropout) for module in model.modules())
    assert sum(isinstance(module, nn.Dropout) for module in inserted.modules()) == 1
    assert all(map(torch.equal, before, inserted.parameters()))
    order = [type(module) for module in inserted.modules() if isinstance(module, (nn.Dropout, nn.Linear))]
    assert order[-2:] == [nn.Dropout, nn.Linear]
    torch.testing.assert_close(inserted.eval()(given), model(given))
    assert not any(module.training for module in defenses.Dropout(p=0.3).insert(model.eval()).modules())


def test_a_client_s_own_layer_is_the_inserted_one():
    """The defense and the network with the layer share the same gradient; local steps draw anew; eval drops nothing."""
    x, y = digit(0, 3)
    defense = defenses.Dropout(p=0.5)
    for local in (None, LocalSteps(steps=3, lr=0.1, batch_size=2)):
        own = federated.observe(encoder(), x, y, defense=defense, local=local, seed=4, declare=["masks"])
        other = federated.observe(defense.insert(encoder()), x, y, local=local, seed=4, declare=["masks"])
        for a, b in zip(own.shared, other.shared, strict=True):
            torch.testing.assert_close(a, b)
        assert len(own.known("masks")) == (1 if local is None else 3)
    still = federated.observe(encoder().eval(), x, y, defense=defense)
    for a, b in zip(still.shared, federated.observe(encoder(), x, y).shared, strict=True):
        assert torch.equal(a, b)


def test_per_example_gradients_have_masks_of_their_own():
    x, y = digit(0, 3)
    both = (defenses.Dropout(p=0.5), defenses.ExampleClipping(norm=1e6))
    clipped = federated.observe(encoder(), x, y, defense=both, seed=4)
    plain = federated.observe(encoder(), x, y, defense=both[0], seed=4)
    for a, b in zip(clipped.shared, plain.shared, strict=True):
        torch.testing.assert_close(a, b)


def test_a_server_puts_the_layer_into_its_model():
    x, y = digit()
    defense = defenses.Dropout(p=0.5)
    seen = federated.observe(encoder(), x, y, defense=defense, declare=["labels", "defense"], seed=2)
    assert seen.mask_shapes == ()
    torch.testing.assert_close(seen.simulate(x, y)[0], federated.observe(encoder(), x, y).shared[0])
    knowing = seen.replace(model=defense.insert(seen.model))
    found = SEARCH(knowing.replace(knowledge={"labels": y, "masks": masks.read(knowing)}))
    assert metrics.mse(found.inputs, x) < 1e-9


@pytest.mark.parametrize("k", range(3))
def test_naive_read_and_joint(k):
    x, y = digit(k)
    seen, truth = observed(dropped(k), x, y, seed=k)
    (read,) = masks.read(seen)
    assert torch.equal(read, truth[0])
    assert metrics.mse(SEARCH.replace(iterations=8)(seen, seed=k).inputs, x) > 1e-2
    assert metrics.mse(SEARCH(seen.replace(knowledge={"labels": y, "masks": (read,)}), seed=k).inputs, x) < 1e-9
    joint = SEARCH.replace(space=spaces.Pixels() & spaces.Masks(), regularizers=(regularizers.MaskRate(weight=1e-3),))
    assert metrics.mse(joint(seen, seed=k).inputs, x) < 1e-6


def test_features_that_are_zero_anyway_look_dropped():
    model = defenses.Dropout(p=0.3).insert(models.mlp(64, (40, 30), activation="relu")).double()
    x, y = digit()
    seen, truth = observed(model, x, y)
    (read,) = masks.read(seen)
    assert (truth[0][read != 0] != 0).all(), "what passed was kept"
    assert int((read == 0).sum()) > int((truth[0] == 0).sum())
    with_read = seen.replace(knowledge={"labels": y, "masks": (read,)})
    for a, b in zip(with_read.simulate(x, y), seen.shared, strict=True):
        torch.testing.assert_close(a, b)


def test_the_masks_that_cannot_be_read_are_searched():
    x, y = digit()
    seen, truth = observed(twice(), x, y)
    first, last = masks.read(seen)
    assert first is None
    assert torch.equal(last, truth[1])
    space = spaces.Pixels() & spaces.Masks(known=(first, last))
    bound = space.build(seen)
    variables = bound.begin(seen, attacks.initialization.Gaussian(), torch.Generator().manual_seed(0))
    assert set(variables) == {"inputs", "mask.0"}
    assert torch.equal(bound.decode(variables)["masks"][1], last)
    assert metrics.mse(SEARCH.replace(space=space, iterations=10)(seen).inputs, x) < 1e-2
    assert spaces.Masks(known=(None, last)) == spaces.Masks(known=(None, last.clone())) != spaces.Masks()


def withheld(seen):
    return seen.replace(shared=(*seen.shared[:-2], None, None))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: observed(dropped(), *digit(0, 2))[0], "seen: got a batch of 2, whose masks add up in one gradient"),
        (
            lambda: federated.observe(dropped(), *digit(), local=LocalSteps(steps=2, lr=0.1)),
            "seen: got several steps, whose masks add up",
        ),
        (lambda: withheld(observed(dropped(), *digit())[0]), "seen: the weight gradient of the last layer is withheld"),
        (lambda: observed(encoder(), *digit())[0], r"seen: got masks of shapes \(\), wanted the last to be \(1, 96\)"),
    ],
)
def test_masks_that_cannot_be_read_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        masks.read(make())


def test_known_masks_of_other_shapes_are_refused():
    seen, truth = observed(dropped(), *digit())
    for known in ((truth[0][:, :5],), (None, truth[0])):
        with pytest.raises(ValueError, match="known: got"):
            spaces.Masks(known=known).build(seen)
