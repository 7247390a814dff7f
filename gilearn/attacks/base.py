"""What every attack is, and what every attack returns."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from gilearn.attacks.verdict import Verdict, judge, mismatch
from gilearn.federated import Observed
from gilearn.values import Value

_P = ParamSpec("_P")
_R = TypeVar("_R")
_A = TypeVar("_A")


@dataclass(frozen=True, kw_only=True, eq=False)
class Reconstruction:
    """The result of an attack, with its own check: how well it explains what was shared.

    Args:
        inputs: The recovered inputs (batch, *input_shape), not clipped.
        labels: The labels used or recovered (batch,), int64; ``None`` where the attack has none.
        residual: Norm of the mismatch between what the reconstruction explains and what was shared, over the norm of
            what was shared; of the gradient itself, for every attack whose labels are known. The attacker can compute
            it; a small one does not mean a small error.
        history: The attack's objective at every evaluation of its best start, shape (evaluations,); empty for closed
            forms.
        snapshots: Pairs (evaluation, inputs) on the way, the best so far each time.
        restarts: One mapping per start: its final ``distance`` and ``residual``, its number of ``evaluations``, and why
            it ``stopped``: tolerance, budget, stalled, diverged, time limit, or another restart (that ran in parallel).
        variables: The best start's variables by name, as the space that was searched has them.
        verdict: In words: whether it explains what was shared, and if not, why perhaps, and what to try.
        seconds: Wall-clock time of the whole attack.
        seed: The seed that the attack was called with; ``None`` for closed forms.
        attack: The complete ``repr`` of the attack.
        details: What this kind of attack adds, by name (ranks, conditions, tokens, ...).

    Chapter: deep-leakage.
    """

    inputs: Tensor = field(repr=False)
    labels: Tensor | None
    residual: float
    seconds: float
    attack: str
    seed: int | None = None
    history: Tensor = field(default_factory=lambda: torch.empty(0), repr=False)
    snapshots: tuple[tuple[int, Tensor], ...] = field(default=(), repr=False)
    restarts: tuple[Mapping[str, Any], ...] = ()
    variables: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    verdict: Verdict | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the verdict under a line that says what was recovered, and how long it took."""
        labels = "none" if self.labels is None else self.labels.tolist()
        first = (
            f"Inputs {tuple(self.inputs.shape)}, labels {labels}, residual {self.residual:.2g}, {self.seconds:.1f} s."
        )
        return first if self.verdict is None else f"{first}\n{self.verdict}"


def _options_alone(call: Callable[Concatenate[_A, _P], _R]) -> Callable[Concatenate[_A, _P], _R]:
    """Say what to do instead where an attack's own fields are passed to its call; keep the signature."""

    @functools.wraps(call)
    def checked(self: _A, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        unknown = [name for name in kwargs if name not in ("seen", *OPTIONS)]
        own = [f.name for f in fields(cast(Any, self))]
        if unknown:
            changes = ", ".join(f"{name}={kwargs[name]!r}" for name in unknown if name in own)
            what = f"its fields change by attack.replace({changes})(seen)" if changes else f"its fields are {own}"
            raise TypeError(f"{', '.join(unknown)}: an attack's call takes seen, {', '.join(OPTIONS)}; {what}")
        if not args and "seen" not in kwargs:
            raise TypeError("seen: got nothing, wanted an Observation: attack(seen)")
        return call(self, *args, **kwargs)

    return checked


OPTIONS = ("seed", "snapshots", "progress", "time_limit")
"""What the call of every attack takes beside the observation."""


class Attack(Value):
    """Anything that turns an observation into a reconstruction. It gets the observation, and options that hold no data.

    A subclass is a frozen dataclass that implements :meth:`reconstruct`; calling it checks the arguments first.
    """

    @_options_alone
    def __call__(
        self,
        seen: Observed,
        *,
        seed: int = 0,
        snapshots: int = 0,
        progress: bool = False,
        time_limit: float | None = None,
    ) -> Reconstruction:
        """Run the attack.

        Args:
            seen: The observation.
            seed: Seeds every draw; the same seed on the same machine gives the same result bit for bit.
            snapshots: How many pictures to keep of the way there; a closed form has none.
            progress: Show a progress bar, where there are steps to show.
            time_limit: Seconds after which a search returns the best so far; ``None`` for no limit.

        Raises:
            TypeError: An attack's own field is passed: it changes by ``attack.replace(iterations=20)(seen)``.
            ValueError: An argument is not what it should be, or the attack does not apply to what was observed.
        """
        if not isinstance(cast(Any, seen), Observed):
            wanted = "wanted an Observation; federated.observe(model, x, y) makes one"
            raise ValueError(f"seen: got a {type(seen).__name__}, {wanted}")
        if not hasattr(seed, "__index__"):
            raise ValueError(f"seed: got {seed!r}, wanted an integer")
        if not snapshots >= 0:
            raise ValueError(f"snapshots: got {snapshots}, wanted 0 or more")
        if time_limit is not None and not time_limit > 0:
            raise ValueError(f"time_limit: got {time_limit}, wanted a positive number of seconds, or None")
        result = self.reconstruct(seen, seed=int(seed), snapshots=snapshots, progress=progress, time_limit=time_limit)
        if result.verdict is not None:
            return result
        inputs, targets = result.inputs.to(seen.device, seen.dtype), result.labels
        arguments = None if targets is None else {"inputs": inputs, "targets": targets}
        found = judge(self, seen, arguments=arguments, residual=result.residual, restarts=result.restarts)
        return replace(result, verdict=found)

    def reconstruct(
        self, seen: Any, *, seed: int, snapshots: int, progress: bool, time_limit: float | None
    ) -> Reconstruction:
        """Run the attack on checked arguments, those of :meth:`__call__`."""
        raise NotImplementedError


def residual(seen: Observed, inputs: Tensor, targets: Tensor, masks: tuple[Tensor, ...] | None = None) -> float:
    """Return the norm of the gradient mismatch over the norm of what was shared; over 1 where only zeros were shared.

    Args:
        seen: The observation.
        inputs: Reconstructed inputs (batch, *input_shape).
        targets: Their labels (batch,), or class probabilities (batch, num_classes).
        masks: Dropout masks in order of use, where they are searched.
    """
    given: dict[str, Any] = {} if masks is None else {"masks": masks}
    inputs = inputs.to(seen.device, seen.dtype)
    return mismatch(seen.simulate(inputs, targets, create_graph=False, **given), seen.shared)
