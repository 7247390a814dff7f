"""Soteria: withhold the features that move the input most, from one layer's gradient (Sun et al., 2021)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from gilearn.defenses.gradients.compression import Mask
from gilearn.federated import Client, Defense, Gradients, Observation
from gilearn.federated.checks import check_name, check_number, check_tensor
from gilearn.hooks import evaluating, recorded_inputs

_ENTRIES = 2**24  # of the derivatives that are held at a time


def _paper(features: Tensor, jacobian: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(jacobian, dim=2)
    return torch.where(norms > 0, features.abs() / norms, 0.0)


def _code(features: Tensor, jacobian: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(jacobian, dim=2)
    return norms / (features + 0.1)


def _pseudo_inverse(features: Tensor, jacobian: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(torch.linalg.pinv(jacobian.double()), dim=1)
    return features.abs() * norms.to(features)


SCORES: Mapping[str, tuple[Callable[[Tensor, Tensor], Tensor], bool]] = MappingProxyType(
    {"paper": (_paper, True), "code": (_code, False), "pseudo-inverse": (_pseudo_inverse, True)}
)
"""Scores by name, each with whether its *largest* values are pruned. Of features (batch, d) and their derivatives
(batch, d, n): ``paper`` is |r| / ||dr/dx||, ``code`` is ||dr/dx|| / (r + 0.1), and ``pseudo-inverse`` takes for 1 /
||dr/dx|| the norm of the feature's column in the pseudo-inverse of the whole Jacobian."""


@dataclass(frozen=True, kw_only=True)
class Soteria(Defense):
    """Zero the columns of one layer's weight gradient whose features, it is argued, say most about the input.

    The layer's input is the representation r = f(x). To first order an input that explains r without feature j lies
    |r_j| / ||dr_j/dx|| away from x; the features for which this is largest are left out of the layer's weight gradient,
    a column each. All other gradients are shared as they are. The scores are computed at the model that the client was
    sent, in evaluation mode, over all of its examples, whose scores are added; with local steps the update loses the
    columns. No differential privacy follows from it. Which columns are zero can be read off what is shared: the public
    part is that mask.

    Args:
        share: Of the features that are pruned, from 0 to below 1.
        score: A key of :data:`SCORES`.
        among: ``"active"``: the share is one of the features that are not zero with zero derivative in all examples,
            rounded to a whole number of them. ``"all"``: of all features, by the public code's rule: those are pruned
            whose magnitude of the score is strictly beyond a percentile of the scores. With ``score="code"`` features
            that are dead count as pruned, and where their share is ``share`` or more nothing else is.
        layer: Name of the ``nn.Linear`` whose weight gradient is pruned; ``None`` for the last one that is used.

    Raises:
        ValueError: An argument is out of range. When it runs: the model has no such layer, or its input is no
            representation (batch, features) that depends on the client's inputs.

    Chapter: soteria. Source: sun2021; survey, section 3.3.
    """

    share: float = 0.5
    score: str = "paper"
    among: str = "active"
    layer: str | None = None

    def __post_init__(self) -> None:
        check_number("share", self.share, lambda share: 0 <= share < 1, "0 to below 1")
        check_name("score", self.score, SCORES)
        check_name("among", self.among, ("active", "all"))
        if not isinstance(self.layer, str | None):
            raise ValueError(f"layer: got {self.layer!r}, wanted the name of an nn.Linear, or None for the last")

    def shared(self, gradients: Gradients, client: Client) -> Gradients:
        """Return the gradients without the columns of the pruned features."""
        if client.inputs is None:
            raise ValueError("client: got one without inputs, wanted those that its features are computed from")
        layer, features, jacobian = derivatives(client.model, client.inputs.detach(), self.layer)
        kept = ~self.pruned(features, jacobian)
        weight = layer.weight
        pairs = zip(client.model.parameters(), gradients, strict=True)
        return tuple(g * kept.to(g) if own is weight and g is not None else g for own, g in pairs)

    def pruned(self, features: Tensor, jacobian: Tensor) -> Tensor:
        """Return which features (d,) are pruned, given their values (batch, d) and derivatives (batch, d, n)."""
        one, largest = SCORES[self.score]
        scores = one(features, jacobian).sum(dim=0)
        first = -scores if largest else scores.abs()  # the least of these are pruned first
        if self.among == "all":
            found: Tensor = first < torch.quantile(-scores if largest else scores, self.share)
            return found
        active = ((features != 0) | (jacobian != 0).any(dim=2)).any(dim=0)
        number = round(self.share * int(active.sum()))
        least = first.masked_fill(~active, torch.inf).argsort(stable=True)[:number]
        return torch.zeros_like(active).index_fill(0, least, True)

    @property
    def selects(self) -> bool:
        """``True``: what it keeps, it keeps as it is."""
        return True

    def public(self, seen: Observation) -> Defense:
        """Return the mask of what was shared of the layer's weight gradient: a feature without a column is pruned."""
        blank = torch.zeros(1, *seen.input_shape, dtype=seen.input_dtype, device=seen.device)
        layer, _ = representation(seen.network, blank, self.layer)
        weight = layer.weight
        masks = (
            (g != 0).any(dim=0).expand_as(g) if own is weight and g is not None else None
            for own, g in zip(seen.network.parameters(), seen.shared, strict=True)
        )
        return Mask(masks=tuple(masks))


def representation(model: nn.Module, inputs: Tensor, layer: str | None = None) -> tuple[nn.Linear, Tensor]:
    """Return a fully connected layer and what it is given: the representation (batch, features) of a batch.

    Args:
        model: The network; it is run in evaluation mode, so that nothing is drawn and no statistics move.
        inputs: (batch, ...).
        layer: The layer's name; ``None`` for the last ``nn.Linear`` that is used.

    Raises:
        ValueError: There is no such layer, it is not used, its input is not (batch, features), or model or inputs are
            none.

    Chapter: soteria.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: got a {type(model).__name__}, wanted a torch.nn.Module")
    if not isinstance(inputs, Tensor) or inputs.ndim < 2:
        came = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise ValueError(f"inputs: got {came}, wanted a tensor (batch, ...)")
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if layer is not None and layer not in linear:
        raise ValueError(f"layer: got {layer!r}, wanted one of the model's nn.Linear: {', '.join(linear) or 'none'}")
    watched = linear.values() if layer is None else [linear[layer]]
    with evaluating(model), recorded_inputs(model, watched) as used:
        model(inputs)
    if not used:
        raise ValueError(f"model: got a {type(model).__name__} that uses no nn.Linear, wanted one to prune features of")
    module, features = used[-1]
    if features.ndim != 2 or len(features) != len(inputs):
        got = tuple(features.shape)
        raise ValueError(f"layer: got one whose input has shape {got}, wanted ({len(inputs)}, features)")
    return module, features  # type: ignore[return-value]


def derivatives(model: nn.Module, inputs: Tensor, layer: str | None = None) -> tuple[nn.Linear, Tensor, Tensor]:
    """Return a layer, the representation that it is given, and the derivative of every feature in the inputs.

    One vector-Jacobian product per feature, mapped together as far as memory allows: in evaluation mode examples do not
    mix, and one product gives a feature's derivatives in all examples.

    Args:
        model: The network.
        inputs: Floating point (batch, ...), n values each.
        layer: As in :func:`representation`.

    Returns:
        The layer; features (batch, d); derivatives (batch, d, n).

    Raises:
        ValueError: As :func:`representation`; also if the inputs are tokens, or the features do not depend on them.

    Chapter: soteria. Source: sun2021.
    """
    check_tensor("inputs", inputs, "(batch, ...)")
    with torch.enable_grad():
        leaf = inputs.detach().requires_grad_()
        module, features = representation(model, leaf, layer)
        if not features.requires_grad:
            raise ValueError(
                "layer: got one whose input does not depend on the inputs, wanted a representation of them"
            )
        units = torch.eye(features.shape[1], dtype=features.dtype, device=features.device)
        directions = units.unsqueeze(1).expand(-1, len(features), -1)
        rows = [
            torch.autograd.grad(features, leaf, chosen, retain_graph=True, is_grads_batched=True)[0]
            for chosen in torch.split(directions, max(1, _ENTRIES // leaf.numel()))
        ]
    return module, features.detach(), torch.cat(rows).flatten(2).transpose(0, 1)
