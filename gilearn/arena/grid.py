"""What is combined, and what a combination is called by: a digest of all that determines it."""

from __future__ import annotations

import functools
import hashlib
import inspect
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

import gilearn
from gilearn import federated
from gilearn.content import checksum
from gilearn.federated import KNOWLEDGE
from gilearn.federated.checks import check_name, check_names
from gilearn.values import Value

AXES = ("attack", "defense", "victim", "knowledge", "client", "data", "batch", "seed")
"""The table's first columns, in order."""

_CLIENT = ("mode", "device", "local", "loss", "num_classes", "observe")
_VERSIONED = ("gilearn", "torch", "torchvision", "numpy", "builtins", "collections")


@dataclass(frozen=True, kw_only=True)
class Grid(Value):
    """What is combined with what: every axis but the last two maps names of your choice to what they stand for.

    A seed is a case: other pictures, another network, other draws. All cells of one seed share them, and can be paired.

    Args:
        attacks: Anything that is called with an observation and a ``seed``, and returns a ``Reconstruction``.
        victims: Networks, or functions that return one. A function of a ``seed`` that was not given one (by
            ``functools.partial``) gets the cell's; so of a ``fold``.
        data: Pairs of inputs (n, ...) and labels (n,), or functions that return one, as for ``victims``. Of its n
            examples a cell takes a random batch, a smaller one being part of a larger one.
        defenses: What ``observe`` takes: a defense, several, or ``None``; or a function of the network that returns it.
        knowledge: Lists of names that the threat model declares, from ``federated.KNOWLEDGE``.
        clients: Options of the client by name: ``mode`` (``"inference"`` or ``"training"``; by default the network's
            own), ``device`` (``"cpu"``), and ``local``, ``loss``, ``num_classes`` of ``federated.observe``; or
            ``observe``, a function with its arguments that is called in its place and returns an observation
            too, where what an attacker sees is not one client's: the aggregate of a round, for instance.
        batches: Numbers of examples, from 1.
        seeds: Numbers from 0. The network, its pictures, the choice of the batch, the client's draws and the attack's
            take seeds that differ.

    Raises:
        ValueError: An axis is empty, maps something other than names, or holds what it cannot hold.
    """

    attacks: Mapping[str, Callable[..., Any]]
    victims: Mapping[str, Callable[..., nn.Module]]
    data: Mapping[str, Any]
    defenses: Mapping[str, Any] = field(default_factory=lambda: {"none": None})
    knowledge: Mapping[str, Sequence[str]] = field(default_factory=lambda: {"nothing": ()})
    clients: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"as it is": {}})
    batches: Sequence[int] = (1,)
    seeds: Sequence[int] = (0,)

    def __post_init__(self) -> None:
        for axis in ("attacks", "victims", "data", "defenses", "knowledge", "clients"):
            values = getattr(self, axis)
            if not isinstance(values, Mapping) or not values or not all(isinstance(name, str) for name in values):
                raise ValueError(f"{axis}: got {values!r}, wanted a mapping of at least one name to what it stands for")
            for name, value in values.items():
                if axis in ("attacks", "defenses") and isinstance(value, type):
                    raise ValueError(f"{axis}.{name}: got the class {value.__name__}, wanted a value of it")
                if axis in ("attacks", "victims") and not callable(value):
                    raise ValueError(f"{axis}.{name}: got a {type(value).__name__}, wanted something to call")
        for name, declared in self.knowledge.items():
            check_names(f"knowledge.{name}", declared, KNOWLEDGE)
        for name, options in self.clients.items():
            if not isinstance(cast(object, options), Mapping):
                wanted = f"a mapping of {', '.join(_CLIENT)}"
                raise ValueError(f"clients.{name}: got a {type(options).__name__}, wanted {wanted}")
            for option in options:
                check_name(f"clients.{name}", option, _CLIENT)
            check_name(f"clients.{name}.mode", options.get("mode", "training"), ("inference", "training"))
            if not callable(options.get("observe", federated.observe)):
                raise ValueError(f"clients.{name}.observe: got {options['observe']!r}, wanted a function")
        for axis, least in (("batches", 1), ("seeds", 0)):
            numbers = getattr(self, axis)
            if not numbers or not all(isinstance(n, (int, np.integer)) and n >= least for n in numbers):
                raise ValueError(f"{axis}: got {numbers!r}, wanted at least one whole number from {least}")

    def cells(self) -> Iterator[Cell]:
        """Yield every combination, the last axis moving fastest."""
        mapped: list[Mapping[Any, Any]]
        mapped = [self.attacks, self.defenses, self.victims, self.knowledge, self.clients, self.data]
        mapped += [{int(number): int(number) for number in axis} for axis in (self.batches, self.seeds)]
        axes = [[(name, value, described(value)) for name, value in axis.items()] for axis in mapped]
        for combination in itertools.product(*axes):
            names, values, texts = (dict(zip(AXES, column, strict=True)) for column in zip(*combination, strict=True))
            yield Cell(names=names, parts=values, texts=texts)


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """One combination.

    Args:
        names: What the grid calls its parts, by axis.
        parts: What these stand for.
        texts: What determines each of them; names do not matter.
    """

    names: Mapping[str, Any]
    parts: Mapping[str, Any] = field(repr=False)
    texts: Mapping[str, str] = field(repr=False)

    @functools.cached_property
    def digest(self) -> str:
        """32 digits of a SHA-256 of its parts, of this package's version and of PyTorch's."""
        versions = {"gilearn": gilearn.__version__, "torch": torch.__version__.split("+")[0]}
        return hashlib.sha256(json.dumps([dict(self.texts), versions]).encode()).hexdigest()[:32]


def described(value: Any) -> str:
    """Return a text that determines a value: checksums of tensors, names and sources of functions, fields of the rest.

    What a function of your own calls elsewhere is not in it.

    Raises:
        ValueError: There is no such text: the value has neither fields nor a ``repr`` that lasts.
    """
    if isinstance(value, Tensor):
        return f"<{tuple(value.shape)} {value.dtype} {checksum([value], digits=32)}>"
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"<numpy {described(torch.from_numpy(np.ascontiguousarray(value)))}>"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{described(key)}: {described(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(described, value))})"
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(map(described, value)))}}}"
    if isinstance(value, functools.partial):
        return f"{described(value.func)}({', '.join([*map(described, value.args), *_named(value.keywords)])})"
    if inspect.ismethod(value):
        return f"{described(value.__self__)}.{value.__name__}"
    if inspect.isroutine(value) or isinstance(value, type):
        return _definition(value)
    if isinstance(value, nn.Module):
        state = described({name: entry for name, entry in vars(value).items() if name != "_compiled_call_impl"})
        return f"{_definition(type(value))}<{hashlib.sha256(state.encode()).hexdigest()[:32]}>"
    if is_dataclass(value):
        held = {entry.name: getattr(value, entry.name) for entry in fields(value)}
    elif hasattr(value, "__dict__"):
        held = vars(value)
    elif " at 0x" in repr(value):
        raise ValueError(f"grid: got {value!r}, wanted a value whose fields or repr say what it is")
    else:
        return repr(value)
    return f"{_definition(type(value))}({', '.join(_named(held))})"


def _named(values: Mapping[str, Any]) -> list[str]:
    return [f"{name}={described(value)}" for name, value in values.items()]


def _definition(thing: Any) -> str:
    """Return the name of a function or class, with a checksum of its source if it is not from a package at hand."""
    name = f"{thing.__module__}.{thing.__qualname__}"
    if str(thing.__module__).partition(".")[0] in _VERSIONED:
        return name
    source = ""
    with suppress(OSError, TypeError):
        source = inspect.getsource(thing)
    if inspect.isfunction(thing):
        source += described(dict(inspect.getclosurevars(thing).nonlocals))
        if thing.__defaults__ or thing.__kwdefaults__:  # lambda model, std=std: the source is that of every std
            source += described((thing.__defaults__, thing.__kwdefaults__))
    return f"{name}<{hashlib.sha256(source.encode()).hexdigest()[:16]}>"


@functools.cache
def source() -> str:
    """Return a checksum of the package's source and of its weights' index: of all of it that can move a result."""
    root = Path(gilearn.__file__).parent
    apart = {"notebook", "plotting.py", "survey.py", "arena"}
    files = [path for path in sorted(root.rglob("*.py")) if path.relative_to(root).parts[0] not in apart]
    index = root.parent / "data" / "weights" / "index.json"
    digest = hashlib.sha256()
    for path in (*files, *([index] if index.is_file() else [])):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]
