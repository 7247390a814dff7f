"""Many small signed integers in one large plaintext, so that one encrypted addition adds them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

from gilearn.federated.checks import check_whole
from gilearn.values import Value


@dataclass(frozen=True, kw_only=True)
class Packing(Value):
    """Fields of a fixed width in one integer: signed, in two's complement with a second sign bit.

    Field k of a plaintext is worth ``value * 2**(k * width)``, and the plaintext is the sum of its fields: a negative
    field borrows from the next. Plaintexts can be added as a whole; the fields then hold the sums. A field has room for
    ``summands`` values, and one bit more: of any sum that fits, the two highest bits are the same. Where they differ,
    more was added than there was room for. That is certain up to three times the power of two from ``summands``
    upwards; still more can wrap around to a sum that looks right.

    Args:
        bits: Of one value, its sign included, from 2: values lie strictly within ``±2**(bits - 1)``.
        summands: How many values a sum has at most, from 1.
        most: Values in one plaintext at most; ``None``: as many as fit.

    Raises:
        ValueError: A number is out of range.

    Chapter: homomorphic-encryption. Source: phong2018; zhang2020 for the second sign bit.
    """

    bits: int
    summands: int
    most: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("bits", 2), ("summands", 1), ("most", 1)):
            value = getattr(self, name)
            if name != "most" or value is not None:
                check_whole(name, value, least)
                object.__setattr__(self, name, int(value))  # NumPy's whole numbers overflow

    @property
    def padding(self) -> int:
        """Bits by which a sum can be longer than a value."""
        return (self.summands - 1).bit_length()

    @property
    def width(self) -> int:
        """Bits of a field: the value, the padding, and the second sign bit."""
        return self.bits + self.padding + 1

    @property
    def largest(self) -> int:
        """The largest magnitude of a value."""
        return (1 << (self.bits - 1)) - 1

    def capacity(self, room: int) -> int:
        """Return how many values a plaintext holds.

        Args:
            room: Bits of the plaintext, its sign included.

        Raises:
            ValueError: Not even one fits.
        """
        check_whole("room", room)
        if room < self.width:
            raise ValueError(f"room: got {room} bits, wanted at least the {self.width} of one field")
        return min(room // self.width, self.most or room)

    def pack(self, values: Sequence[int], room: int) -> list[int]:
        """Return plaintexts for a vector of integers.

        Args:
            values: Each of magnitude at most :attr:`largest`.
            room: Bits of a plaintext, its sign included.

        Raises:
            ValueError: A value is no whole number, or too large. It is not said which one, nor how large: values are
                private.
        """
        values = whole("values", values)
        if any(abs(value) > self.largest for value in values):
            raise ValueError(f"values: got one beyond ±{self.largest}, wanted {self.bits} bits each with the sign")
        size = self.capacity(room)
        blocks = (values[start : start + size] for start in range(0, len(values), size))
        return [sum(value << (k * self.width) for k, value in enumerate(block)) for block in blocks]

    def unpack(self, plaintexts: Sequence[int], count: int, room: int) -> list[int]:
        """Return the vector of sums from sums of plaintexts, the least field first.

        Args:
            plaintexts: Signed integers.
            count: How many values the vector has.
            room: Bits of a plaintext, its sign included.

        Raises:
            ValueError: There are not as many plaintexts as the vector takes, one is no whole number, or a sum
                overflowed its field.
        """
        check_whole("count", count)
        plaintexts = whole("plaintexts", plaintexts)
        size, found = self.capacity(room), []
        if len(plaintexts) != (wanted := -(-count // size)):
            raise ValueError(f"plaintexts: got {len(plaintexts)}, wanted {wanted} for {count} values")
        modulus, half = 1 << self.width, 1 << (self.width - 1)
        for number, rest in enumerate(plaintexts):
            for _ in range(min(size, count - number * size)):
                field = rest & (modulus - 1)
                if (field ^ (field << 1)) & half:
                    raise ValueError(
                        f"overflow: got a sum whose two sign bits differ, wanted at most {self.summands} summands"
                    )
                value = field - modulus if field & half else field
                found.append(value)
                rest = (rest - value) >> self.width  # a negative field has borrowed from the next
            if rest:
                raise ValueError(f"overflow: got a sum beyond its plaintext, wanted at most {self.summands} summands")
        return found


def whole(argument: str, values: Sequence[int]) -> list[int]:
    """Return whole numbers as Python's, or raise a ``ValueError`` that does not show them."""
    if isinstance(values, (str, bytes)) or not all(isinstance(value, Integral) for value in values):
        raise ValueError(f"{argument}: got what is no whole number, wanted whole numbers")
    return [int(value) for value in values]
