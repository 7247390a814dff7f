"""What a result is worth, in words: whether it explains what was shared, and if not, why perhaps, and what to try."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gilearn.attacks.labels import last_layer
from gilearn.federated import Observed

EXPLAINED = 1e-3
"""A residual below this share of the gradient counts as explained: see ``GradientMatching``."""

_KINKS = {"relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "hardtanh"}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a reconstruction explains what was shared, read off the observation and the result alone.

    Args:
        explained: Whether the residual is below :data:`EXPLAINED`. Others may explain it as well.
        reason: What speaks for it, in a sentence.
        causes: Why it may not, each a sentence.
        advice: What to try, each a sentence.

    Chapter: deep-leakage.
    """

    explained: bool
    reason: str
    causes: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return it all, a line each."""
        return "\n".join([self.reason, *(f"Cause? {c}" for c in self.causes), *(f"Try: {a}" for a in self.advice)])


def judge(
    attack: Any,
    seen: Observed,
    *,
    arguments: Mapping[str, Any] | None,
    residual: float,
    restarts: Sequence[Mapping[str, Any]],
) -> Verdict:
    """Return the verdict on a result.

    Args:
        attack: The attack.
        seen: The observation.
        arguments: What the result is, as arguments of ``seen.simulate``; ``None`` where there are no labels.
        residual: Norm of the mismatch over the norm of what was shared.
        restarts: The records of the attack's starts.
    """
    if residual < EXPLAINED:
        return Verdict(
            explained=True, reason=f"Explains the gradient: a residual of {residual:.1g} is left.{_few(seen)}"
        )
    stops = Counter(str(start["stopped"]) for start in restarts)
    ends = "; ".join(f"{number} x {reason}" for reason, number in stops.items())
    reason = f"Did not explain the gradient: a residual of {residual:.2g} is left{f' ({ends})' if ends else ''}."
    found = [_too_large(seen), _dropped(seen, arguments)]
    if arguments is not None:
        with _Calls() as calls:
            simulated = seen.simulate(**arguments, create_graph=False)
        found += [_scaled(simulated, seen.shared, residual), _kinked(attack, calls.names)]
    pairs = [pair for pair in found if pair is not None]
    advice = [_ADVICE[stop] for stop in stops if stop in _ADVICE]
    causes = tuple(cause for cause, _ in pairs) or (_UNDECLARED,)
    return Verdict(explained=False, reason=reason, causes=causes, advice=(*(remedy for _, remedy in pairs), *advice))


def mismatch(simulated: Sequence[Tensor | None], shared: Sequence[Tensor | None]) -> float:
    """Return the norm of the mismatch over the norm of what was shared; over 1 where only zeros were shared."""
    pairs = [(a, b) for a, b in zip(simulated, shared, strict=True) if a is not None and b is not None]
    gap = sum(float((a - b).double().square().sum()) for a, b in pairs)
    size = sum(float(b.double().square().sum()) for _, b in pairs)
    return float((gap / size) ** 0.5 if size > 0 else gap**0.5)


_UNDECLARED = "Noise, pruning or another defense, or a batch of another size, that the observation does not declare."

_ADVICE = {
    "budget": "More iterations, or another learning rate or schedule: attack.replace(iterations=...).",
    "stalled": "Other starts: attack.replace(restarts=...), another initialization, another seed.",
    "diverged": "A smaller learning rate, or a line search: attack.replace(optimizer=...).",
    "time limit": "A longer time_limit.",
}


class _Calls(TorchFunctionMode):
    """Remembers the names of the functions that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


def _few(seen: Observed) -> str:
    """Return a warning where the gradient has fewer numbers than the inputs."""
    numbers = sum(tensor.numel() for tensor in seen.shared if tensor is not None)
    unknowns = seen.batch_size * int(torch.Size(seen.input_shape).numel())
    few = f" It has {numbers} numbers for {unknowns} unknowns: other inputs explain it too."
    return few if numbers < unknowns else ""


def _too_large(seen: Observed) -> tuple[str, str] | None:
    """Say so if no batch mean is as large: with cross-entropy a bias gradient's positive part adds up to at most 1."""
    if seen.loss != "cross_entropy":
        return None
    try:
        bias = last_layer(cast(Any, seen))[1]
    except ValueError:  # the model does not end in a fully connected layer
        return None
    size = 0.0 if bias is None else float(bias.clamp(min=0).sum())
    if size <= 1.01:
        return None
    return (
        f"The last bias's gradient is {size:.2g} times as large as a mean over the batch can be: a loss that is summed "
        'over the batch (reduction="sum"), or gradients accumulated over several steps.',
        "Share the mean: divide the gradients by the batch size, or by the number of steps; zero_grad() before each.",
    )


def _scaled(
    simulated: Sequence[Tensor | None], shared: Sequence[Tensor | None], residual: float
) -> tuple[str, str] | None:
    """Say so if a multiple of the simulated gradient explains far more of the shared one."""
    pairs = [
        (a.double(), b.double()) for a, b in zip(simulated, shared, strict=True) if a is not None and b is not None
    ]
    inner, size = (sum(float((x * y).sum()) for x, y in both) for both in (pairs, [(a, a) for a, _ in pairs]))
    factor = inner / size if size > 0 else 1.0
    left = mismatch([factor * a for a, _ in pairs], [b for _, b in pairs])
    if not (left < residual / 2 and left < 0.5 and abs(factor - 1) > 0.1):
        return None
    return (
        f"The result's gradient times {factor:.3g} leaves {left:.1g}: the shared gradient has another scale (summed "
        "instead of averaged, accumulated, or clipped).",
        f"Divide the gradients by {factor:.3g}, or compare directions: attack.replace(distance=distances.Cosine()).",
    )


def _dropped(seen: Observed, arguments: Mapping[str, Any] | None) -> tuple[str, str] | None:
    """Say so if the client dropped units, and nobody knows which."""
    if not getattr(seen, "mask_shapes", ()) or "masks" in {*seen.knowledge, *(arguments or {})}:
        return None
    return (
        "The model has dropout in train mode, and the attack knows nothing of the units that the client dropped.",
        "Search the masks too, attack.replace(space=spaces.Pixels() & spaces.Masks()), or share in eval mode.",
    )


def _kinked(attack: Any, calls: set[str]) -> tuple[str, str] | None:
    """Say so if a second-order method walks where second derivatives are zero or jump."""
    optimizer = getattr(attack, "optimizer", None)
    if optimizer is None or optimizer.separable or not calls & _KINKS:
        return None
    return (
        "The network has ReLUs, whose gradient jumps as the inputs move: quasi-Newton methods such as DLG's get stuck.",
        "A first-order attack on the gradient's direction: attacks.InvGrad.",
    )
