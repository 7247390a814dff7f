"""How much a gradient can give away (survey, section 4.3, and the rank analysis of 3.2): a client's questions to
itself.

Unlike an attack, these functions look at the private input; unlike an attack, they say what *no* attack can do.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import cast

import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from gilearn.federated import LOSSES
from gilearn.federated.batch_norm import stripped
from gilearn.federated.checks import check_batch, check_model_takes, check_name, check_whole
from gilearn.hooks import recorded_calls
from gilearn.linear import EXACT_RANK_UP_TO, ConvSystem, float64, float64_device, rank_and_condition


def gradient_spectrum(
    model: nn.Module, x: Tensor, y: Tensor, *, loss: str = "cross_entropy", chunk: int = 128
) -> Tensor:
    """Return the singular values of the Jacobian of the shared gradient with respect to the input.

    A direction with a singular value of zero changes the input and not the gradient: no attack sees it without prior
    knowledge. The ratio of largest to smallest says how slowly a search by gradients must converge.

    Args:
        model: The network; it is not changed. Its mode (train or eval) is respected.
        x: Inputs (batch, ...) at which to linearize.
        y: Their labels (batch,), or class probabilities, taken as known.
        loss: A key of :data:`gilearn.federated.LOSSES`.
        chunk: Directions per pass; more need more memory.

    Returns:
        As many values as ``x`` has numbers, float64, falling. They are computed from a Gram matrix, so that those below
        1e-8 times the largest are zero up to rounding. Memory: 8 bytes x numbers in ``x`` x parameters.

    Raises:
        ValueError: The batch does not fit the model, or ``chunk`` is not positive.

    Chapter: deep-leakage. Source: survey, section 3.2.
    """
    gram = _gram(model, x, y, loss, chunk)
    values: Tensor = torch.linalg.eigvalsh(gram).flip(0).clamp_min(0).sqrt()
    return values


def gradient_modes(
    model: nn.Module, x: Tensor, y: Tensor, *, loss: str = "cross_entropy", chunk: int = 128
) -> tuple[Tensor, Tensor]:
    """Return the singular values of :func:`gradient_spectrum`, and the directions in the input that belong to them.

    An error in a reconstruction is the sum of its parts along the directions: those with a singular value of zero are
    the ones that the gradient does not show.

    Args:
        model: As that of :func:`gradient_spectrum`.
        x: Inputs (batch, ...) at which to linearize.
        y: Their labels (batch,), or class probabilities, taken as known.
        loss: A key of :data:`gilearn.federated.LOSSES`.
        chunk: Directions per pass; more need more memory.

    Returns:
        The values (n,), falling, and the directions (n, n), orthonormal, a column each; float64. n counts the numbers
        in ``x``.

    Raises:
        ValueError: As :func:`gradient_spectrum`.

    Chapter: deep-leakage.
    """
    squares, directions = torch.linalg.eigh(_gram(model, x, y, loss, chunk))
    return squares.flip(0).clamp_min(0).sqrt(), directions.flip(1)


def rank_report(
    model: nn.Module, input_shape: Sequence[int], *, exact_rank_up_to: int = EXACT_RANK_UP_TO, seed: int = 0
) -> pd.DataFrame:
    """Count, layer by layer, how much a gradient says about each layer's input: the survey's rank analysis.

    A layer of full rank gives its input away to a recursion; the sum of the deficiencies is a plain form of COPA's
    security index of an architecture, which weights them by depth. The count needs no data: it looks at one random
    input.

    Args:
        model: Any network; its convolutions and fully connected layers are looked at, in order of use. What lies
            between them (pooling, shortcuts, ReLUs) may hide more than this counts.
        input_shape: Shape of one example.
        exact_rank_up_to: Measure a convolution's rank by singular values up to this many unknowns; beyond, take the
            bound that generic weights attain.
        seed: Seeds the random input.

    Returns:
        One row per layer, indexed by its name: ``unknowns`` (values of its input), ``outputs`` (rows of its weights'
        constraints), ``gradients`` (rows of its gradient's), ``rank`` of both together, whether it was ``measured``,
        ``deficiency`` (unknowns less rank), and ``virtual``: how many constraints the layer before puts on this input
        because it puts out more numbers than it takes in.

    Raises:
        ValueError: The shape does not fit the model, or it has no such layer.

    Chapter: limits. Source: survey, section 3.2; zhu2021, chen2021.
    """
    model = _in_float64(model).eval()
    parameter = next(model.parameters())
    check_model_takes(model, tuple(input_shape), None)
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(1, *input_shape, generator=generator, dtype=torch.float64).to(parameter.device)
    layers = _walked(model, x)
    if not layers:
        raise ValueError("model: it has no convolution and no fully connected layer")
    rows = {}
    virtual = 0
    for name, (module, given, outputs, delta) in layers.items():
        unknowns, measured = given.numel(), True
        if isinstance(module, nn.Linear):
            seen = delta is not None and bool((delta != 0).any())
            rank = unknowns if seen else rank_and_condition(module.weight.detach())[0]
        else:
            system = ConvSystem.of(module, tuple(given.shape[1:]), None if delta is None else delta[0])
            measured = unknowns <= exact_rank_up_to
            rank = rank_and_condition(system.dense())[0] if measured else system.rank_bound()
        rows[name] = {
            "unknowns": unknowns,
            "outputs": outputs,
            "gradients": module.weight.numel(),
            "rank": rank,
            "measured": measured,
            "deficiency": unknowns - rank,
            "virtual": virtual,
        }
        virtual = max(0, outputs - unknowns)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("layer")


def compare_architectures(
    models: Mapping[str, nn.Module], input_shape: Sequence[int], *, loss: str | None = None, seed: int = 0
) -> pd.DataFrame:
    """Rank architectures by what their gradients hide of one example: the survey's rank analysis, as a choice.

    Two counts stand side by side. The rank of the whole gradient's Jacobian, at a random input, bounds every attack
    without prior knowledge. The layers' deficiencies are what stops a recursion, which looks at one layer at a time; a
    search, or a recursion that joins layers, may get past them.

    Args:
        models: Networks by name.
        input_shape: Shape of one example.
        loss: A key of :data:`gilearn.federated.LOSSES`; ``None``: ``"logistic"`` for one logit, else
            ``"cross_entropy"``.
        seed: Seeds the random input, in [0, 1).

    Returns:
        One row per network, the one that hides most first: ``parameters``, ``unknowns`` (values of an example),
        ``rank`` (of the Jacobian), ``hidden`` (unknowns less rank), ``deficiency`` (summed over the layers) and
        ``deficient`` (layers that have one).

    Raises:
        ValueError: There are no networks, or as in :func:`rank_report`.

    Chapter: network-size. Source: survey, section 3.2; zhu2021, geiping2020.
    """
    if not isinstance(models, Mapping):
        raise ValueError(f"models: got a {type(models).__name__}, wanted networks by name: {{'name': model}}")
    if not models:
        raise ValueError("models: got none, wanted at least one network")
    for name, model in models.items():
        if not isinstance(model, nn.Module) or next(model.parameters(), None) is None:
            wanted = "wanted a torch.nn.Module with parameters"
            raise ValueError(f"models[{name!r}]: got a {type(model).__name__}, {wanted}")
    if not isinstance(cast(object, input_shape), Sequence):
        raise ValueError(
            f"input_shape: got {input_shape!r}, wanted the shape of one example, (channels, height, width)"
        )
    for side in input_shape:
        check_whole("input_shape", side)
    check_whole("seed", seed, 0)
    x = torch.rand(1, *input_shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = {}
    for name, model in models.items():
        report = rank_report(model, input_shape, seed=seed)
        one_logit = check_model_takes(model, tuple(input_shape), None)[-1] == 1
        values = gradient_spectrum(
            model, x, torch.zeros(1, dtype=torch.long), loss=loss or ("logistic" if one_logit else "cross_entropy")
        )
        rank = int((values > 1e-7 * values[0]).sum())
        rows[name] = {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "unknowns": x.numel(),
            "rank": rank,
            "hidden": x.numel() - rank,
            "deficiency": int(report["deficiency"].sum()),
            "deficient": int((report["deficiency"] > 0).sum()),
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("network")
    return table.sort_values(["hidden", "deficiency"], ascending=False, kind="stable")


def _gram(model: nn.Module, x: Tensor, y: Tensor, loss: str, chunk: int) -> Tensor:
    """Return the products of the gradient's derivatives along every pair of the inputs' numbers."""
    check_name("loss", loss, LOSSES)
    x, y, _ = check_batch(model, x, y)
    if chunk < 1:
        raise ValueError(f"chunk: got {chunk}, wanted at least 1")
    model = stripped(_in_float64(model))
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    device = next(iter(parameters.values())).device
    x = float64(x.to(device))
    y = y.to(device)

    def objective(weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return LOSSES[loss](functional_call(model, weights, (inputs,)), y)

    def shared(flat: Tensor) -> Tensor:
        return torch.cat([g.flatten() for g in grad(objective)(parameters, flat.view_as(x)).values()])

    flat = x.flatten()
    directions = torch.eye(len(flat), dtype=torch.float64, device=device)
    jacobian = torch.empty(len(flat), sum(p.numel() for p in parameters.values()), dtype=flat.dtype, device=device)
    for part, rows in zip(torch.split(directions, chunk), torch.split(jacobian, chunk), strict=True):
        rows.copy_(vmap(lambda v: jvp(shared, (flat,), (v,))[1])(part))
    return jacobian @ jacobian.T


def _in_float64(model: nn.Module) -> nn.Module:
    """Return a copy in float64, on the CPU where the model's device has no such type."""
    device = next(model.parameters()).device
    return copy.deepcopy(model).to(float64_device(device)).double()


def _walked(model: nn.Module, x: Tensor) -> dict[str, tuple[nn.Conv2d | nn.Linear, Tensor, int, Tensor | None]]:
    """Return every layer with weights by its name: layer, input, number of outputs, the loss's gradient in them."""
    names = {m: name for name, m in model.requires_grad_().named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}

    def kept(arguments: tuple[Tensor, ...], output: Tensor) -> tuple[Tensor, int, list[Tensor]]:
        delta: list[Tensor] = []
        output.register_hook(delta.append)  # type: ignore[no-untyped-call]
        return arguments[0].detach(), output.numel(), delta

    with recorded_calls(model, names, read=kept) as calls:
        logits = model(x)
    if not calls:
        return {}
    target = torch.zeros(1, dtype=torch.long, device=x.device)
    loss = LOSSES["logistic" if logits.shape[1] == 1 else "cross_entropy"](logits, target)
    loss.backward()  # type: ignore[no-untyped-call]
    return {
        names[module]: (module, given, outputs, delta[0] if delta else None)
        for module, (given, outputs, delta) in calls
        if isinstance(module, (nn.Conv2d, nn.Linear))
    }
