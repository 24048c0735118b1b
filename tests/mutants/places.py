"""Mutants of a module: places of its source and operators of cosmic-ray that change them."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.plugins import get_operator, operator_names

Place = tuple[int, int]

ARITHMETIC = ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_Mul", "Pow_Mul")
BITS = ("BitAnd_BitOr", "BitOr_BitAnd", "RShift_LShift", "LShift_RShift")
ORDER = ("Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_LtE", "GtE_Gt", "GtE_Lt")
EQUALITY = ("Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is")
UNARY = ("Delete_USub", "Delete_Invert", "Delete_Not")
REPLACED = {
    *(f"core/ReplaceBinaryOperator_{name}" for name in (*ARITHMETIC, *BITS)),
    *(f"core/ReplaceComparisonOperator_{name}" for name in (*ORDER, *EQUALITY)),
    *(f"core/ReplaceUnaryOperator_{name}" for name in UNARY),
}
"""Of the replacements of an operator: its opposite, and of an order its bound. The others die with these."""
UNTESTED_KEYWORDS = ("frozen", "strict", "eq", "slots", "extra")
"""Arguments that guard against a mistake of a programmer and have no behaviour of their own."""


LARGEST_NUMBER = 64
"""One more or less of a larger number is a choice, and no claim about behaviour."""


@dataclass(frozen=True)
class Mutant:
    """The `occurrence`-th place of a module that an operator can change."""

    operator: str
    occurrence: int


def mutants(path: Path) -> list[Mutant]:
    """All mutants of a module, in a fixed order."""
    tree, untouched, found = get_ast_from_path(path), list(_untouched(path.read_text())), []
    for name in operator_names():
        operator = get_operator(name)
        if operator.arguments() or ("Operator_" in name and name not in REPLACED):
            continue
        places = (place for node in ast_nodes(tree) for place in operator().mutation_positions(node))
        for occurrence, (start, end) in enumerate(places):
            if not any(first <= start and end <= last for first, last in untouched):
                found.append(Mutant(name, occurrence))
    return found


def _untouched(source: str) -> Iterator[tuple[Place, Place]]:
    """Yield places without mutants: annotations, large numbers, and arguments of UNTESTED_KEYWORDS."""
    for node in ast.walk(ast.parse(source)):
        inside: list[ast.expr | ast.keyword | None] = []
        if isinstance(node, ast.arg | ast.AnnAssign):
            inside = [node.annotation]
        elif isinstance(node, ast.FunctionDef):
            inside = [node.returns]
        elif _is_large(node) or (isinstance(node, ast.keyword) and node.arg in UNTESTED_KEYWORDS):
            inside = [node]
        for each in inside:
            if each is not None:
                yield (each.lineno, each.col_offset), (each.end_lineno or 0, each.end_col_offset or 0)


def _is_large(node: ast.AST) -> bool:
    """A number that is large, or written as one bit shifted."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.LShift):
        return isinstance(node.left, ast.Constant) and isinstance(node.right, ast.Constant)
    number = isinstance(node, ast.Constant) and isinstance(node.value, int | float)
    return number and node.value > LARGEST_NUMBER
