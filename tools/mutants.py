"""Mutate the formulas and run their tests: mutmut, and mutations that a formula of ours has to survive.

    python tools/mutants.py run          # every mutant, or what is left of a run; anew without the folder mutants/
    python tools/mutants.py results      # those that no test noticed
    python tools/mutants.py show NAME    # one of them

mutmut changes operators, numbers, arguments and branches. Added here: another reduction, a term or a factor left out, a
norm squared.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # a forked test hangs where the parent had threads

import libcst as cst
from mutmut.__main__ import cli
from mutmut.mutation.mutators import mutation_operators

OTHER = {"sum": "mean", "mean": "sum", "nanmean": "nansum", "square": "abs", "abs": "square"} | {
    f"{one}{kind}": f"{other}{kind}" for kind in ("", "imum") for one, other in (("min", "max"), ("max", "min"))
}
NORMS = {"vector_norm", "norm", "_norm", "_norms", "_length"}
TWO_SIDED = (cst.Add, cst.Multiply)


def called(node: cst.Call) -> str:
    if isinstance(node.func, cst.Attribute):
        return node.func.attr.value
    return node.func.value if isinstance(node.func, cst.Name) else ""


def another_reduction(node: cst.Call) -> Iterator[cst.BaseExpression]:
    if isinstance(node.func, cst.Attribute) and called(node) in OTHER:
        yield node.with_deep_changes(node.func.attr, value=OTHER[called(node)])


def squared_norm(node: cst.Call) -> Iterator[cst.BaseExpression]:
    if called(node) in NORMS:
        yield cst.BinaryOperation(node, cst.Power(), cst.Integer("2"), lpar=[cst.LeftParen()], rpar=[cst.RightParen()])


def term_left_out(node: cst.BinaryOperation) -> Iterator[cst.BaseExpression]:
    if isinstance(node.operator, (cst.Add, cst.Subtract, cst.Multiply, cst.Divide)):
        yield in_its_place(node.left, node)
    if isinstance(node.operator, TWO_SIDED):
        yield in_its_place(node.right, node)


def in_its_place(term: cst.BaseExpression, node: cst.BinaryOperation) -> cst.BaseExpression:
    """Return a term within the parentheses of the whole: 2 of (2 * x).sum() is (2).sum()."""
    return term.with_changes(lpar=[*node.lpar, *term.lpar], rpar=[*term.rpar, *node.rpar])


mutation_operators += [
    (cst.Call, another_reduction),
    (cst.Call, squared_norm),
    (cst.BinaryOperation, term_left_out),
]

if __name__ == "__main__":
    cli()
