"""Formulas that a user writes, such as 0.5 ** (step // 30): numbers, a few functions and names, and nothing else."""

import ast
import math
import operator
from collections.abc import Callable, Mapping

from core.errors import near_match

OPERATORS: dict[type, Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "sqrt": math.sqrt,
    "exp": math.exp,
    "log": math.log,
    "sin": math.sin,
    "cos": math.cos,
    "tanh": math.tanh,
}


class Formula:
    """A function of the named numbers. Raises ValueError, in words, for a text that is none.

    Everything is a float, so that no power takes longer than another.
    """

    def __init__(self, text: str, names: tuple[str, ...]):
        self.text = text
        try:
            self.body = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise ValueError(f"{text!r} is no formula such as 0.5 ** ({names[0]} // 30)") from None
        nodes = list(ast.walk(self.body))
        called = {call.func for call in nodes if isinstance(call, ast.Call)}
        for node in nodes:
            allowed = tuple(FUNCTIONS) if node in called else (*names, "pi")
            self._check(node, allowed)

    def _check(self, node: ast.AST, allowed: tuple[str, ...]) -> None:
        """Raise ValueError for a part that no formula has; allowed: what a name may be there."""
        if isinstance(node, ast.Name):
            if node.id not in allowed:
                hint = near_match(node.id, allowed)
                raise ValueError(f"{self.text!r}: there is no {node.id!r}; there are: {', '.join(allowed)}.{hint}")
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, bool) or not isinstance(node.value, (int, float)):
                raise ValueError(f"{self.text!r}: {node.value!r} is no number")
        elif isinstance(node, ast.Call):
            if node.keywords or not isinstance(node.func, ast.Name) or not node.args:
                raise ValueError(f"{self.text!r}: a call is one of {', '.join(FUNCTIONS)}, of numbers")
        elif isinstance(node, ast.Compare):
            if len(node.ops) > 1:
                raise ValueError(f"{self.text!r}: one comparison at a time")
        elif not isinstance(node, (ast.BinOp, ast.UnaryOp, ast.IfExp, ast.Load, *OPERATORS)):
            raise ValueError(f"{self.text!r}: {ast.unparse(node)!r} is nothing that a formula is made of")

    def __call__(self, **numbers: float) -> float:
        """Its value. Raises ArithmeticError or ValueError where it has none, as at a division by 0."""
        try:
            return float(_value(self.body, {**numbers, "pi": math.pi}))
        except TypeError:  # of a root of a number below 0
            raise ValueError(f"{self.text!r} is no real number there") from None


def _value(node: ast.expr, numbers: Mapping[str, float]) -> float:
    if isinstance(node, ast.Constant):
        return float(node.value)
    if isinstance(node, ast.Name):
        return float(numbers[node.id])
    if isinstance(node, ast.Call):
        return FUNCTIONS[node.func.id](*(_value(argument, numbers) for argument in node.args))
    if isinstance(node, ast.IfExp):
        chosen = node.body if _value(node.test, numbers) else node.orelse
        return _value(chosen, numbers)
    if isinstance(node, ast.UnaryOp):
        return OPERATORS[type(node.op)](_value(node.operand, numbers))
    if isinstance(node, ast.Compare):
        return OPERATORS[type(node.ops[0])](_value(node.left, numbers), _value(node.comparators[0], numbers))
    return OPERATORS[type(node.op)](_value(node.left, numbers), _value(node.right, numbers))
