"""The distance of what a search imagines from what was shared: plain, for many restarts at once, or compiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gilearn.attacks.iteration.distances import Distance
from gilearn.federated import Observed

Arguments = Mapping[str, Any]
"""Arguments of ``simulate`` by name, one start's: tensors, or tuples of them."""

Objective = Callable[[Sequence[Arguments]], Tensor]


def objective(seen: Observed, distance: Distance, arguments: Sequence[Arguments], *, compiled: bool) -> Objective:
    """Return a function of every restart's arguments that gives their distances (restarts,), differentiable in these.

    One restart is computed plainly. Several are mapped together by ``torch.func.vmap``, and either can be compiled;
    then the derivatives are computed with the distances, and autograd is told them: whatever decoded the arguments
    need not survive a map or a compiler.

    Args:
        seen: The observation.
        distance: Between the simulated and the shared gradient.
        arguments: Those of every restart at the beginning, which say what differs between restarts and is searched.
        compiled: Compile it with ``torch.compile``, if what that makes of it at the beginning is right.

    Warns:
        RuntimeWarning: The compiler fails, or computes something else; the plain computation is used instead.

    Chapter: anatomy.
    """
    if len(arguments) == 1 and not compiled:
        return lambda given: distance(seen.simulate(**given[0]), seen.shared)[None]
    return _Functional(seen, distance, arguments, compiled=compiled)


class _Functional:
    """Distances by ``torch.func``, with their derivatives in the arguments that are searched."""

    def __init__(self, seen: Observed, distance: Distance, arguments: Sequence[Arguments], *, compiled: bool) -> None:
        flat = [_flat(given) for given in arguments]
        # What is the same tensor in every restart, as fixed labels are, is not mapped; the rest is, searched or not.
        self.searched = [k for k, tensor in enumerate(flat[0]) if tensor.requires_grad]
        self.given = [k for k in range(len(flat[0])) if k not in self.searched]
        self.shared = {k for k in self.given if all(tensors[k] is flat[0][k] for tensors in flat)}
        self.many = len(arguments) > 1
        form = {name: len(value) if isinstance(value, tuple) else None for name, value in arguments[0].items()}

        def one(searched: tuple[Tensor, ...], given: tuple[Tensor, ...]) -> Tensor:
            ordered = dict(zip([*self.searched, *self.given], [*searched, *given], strict=True))
            return distance(seen.simulate(**_filled(form, ordered), functional=True), seen.shared)

        each = torch.func.grad_and_value(one)
        if self.many:
            axes = tuple(None if k in self.shared else 0 for k in self.given)
            each = torch.func.vmap(each, in_dims=(0, axes))
        self.each = _checked(each, *self._taken(flat)) if compiled else each

    def __call__(self, arguments: Sequence[Arguments]) -> Tensor:
        flat = [_flat(given) for given in arguments]
        searched, given = self._taken(flat)
        slopes, values = self.each(searched, given)
        if not self.many:
            slopes, values = [slope[None] for slope in slopes], values[None]
        variables = [tensors[k] for k in self.searched for tensors in flat]
        return _Known.apply(values, slopes, *variables)  # type: ignore[no-any-return,no-untyped-call]

    def _taken(self, flat: list[list[Tensor]]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return what is searched and what is given, as the function takes it: with an axis of restarts if it maps."""

        def taken(k: int) -> Tensor:
            if not self.many or k in self.shared:
                return flat[0][k].detach()
            return torch.stack([tensors[k].detach() for tensors in flat])

        return tuple(map(taken, self.searched)), tuple(map(taken, self.given))


class _Known(torch.autograd.Function):
    """The values, with these derivatives in the variables: of each that is searched, a tensor per restart."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, slopes: Sequence[Tensor], *variables: Tensor) -> Tensor:
        ctx.slopes = slopes
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *received: Tensor) -> Any:
        factors = received[0].unbind()
        flat = [factor * row for slope in ctx.slopes for factor, row in zip(factors, slope, strict=True)]
        return None, None, *flat


def _checked(each: Callable[..., Any], *given: tuple[Tensor, ...]) -> Callable[..., Any]:
    """Return the compiled function if it computes at the start what the plain one does: not all compilers do."""
    from torch._dynamo.exc import TorchDynamoException

    compiled = torch.compile(each, dynamic=False, fullgraph=True)
    searched, fixed = given
    eps = torch.finfo(searched[0].dtype).eps
    moved = tuple(tensor * (1 + 4 * eps) for tensor in searched)  # how far rounding alone moves the derivatives
    (wanted_slopes, wanted), (noisy_slopes, noisy) = each(searched, fixed), each(moved, fixed)
    try:
        slopes, values = compiled(searched, fixed)
    except TorchDynamoException as error:
        return _uncompiled(each, f"failed ({str(error).strip().splitlines()[0]})")
    for a, b, c in zip([values, *slopes], [wanted, *wanted_slopes], [noisy, *noisy_slopes], strict=True):
        if not float((a - b).norm()) <= 1e-2 * float(b.norm()) + 4 * float((c - b).norm()):
            return _uncompiled(each, "gives another derivative than PyTorch here")
    return compiled


def _uncompiled(each: Callable[..., Any], reason: str) -> Callable[..., Any]:
    warnings.warn(f"compiled: torch.compile {reason}; going on uncompiled", RuntimeWarning, stacklevel=8)
    return each


def _flat(arguments: Arguments) -> list[Tensor]:
    """Return all tensors among the arguments, in order."""
    return [t for value in arguments.values() for t in (value if isinstance(value, tuple) else (value,))]


def _filled(form: Mapping[str, int | None], tensors: Mapping[int, Tensor]) -> dict[str, Any]:
    """Return arguments with these tensors in their places: one by name, or so many."""
    places = iter(range(len(tensors)))
    return {
        name: tensors[next(places)] if number is None else tuple(tensors[next(places)] for _ in range(number))
        for name, number in form.items()
    }
