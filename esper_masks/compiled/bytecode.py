"""Python code for another process: bytecode as bytes, and a class without the module around it."""

import ast
import builtins
import marshal
from collections.abc import Mapping
from importlib import import_module
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

import torch


def plain_code(code: CodeType) -> tuple[bytes, dict[int, Any]] | None:
    """Bytecode without, and those of its constants that ``marshal`` does not take; None if other processes lack one."""
    held: dict[int, Any] = {}
    for at, constant in enumerate(code.co_consts):
        try:
            marshal.dumps(constant)
        except ValueError:
            held[at] = constant
    known = type, MethodType, FunctionType, BuiltinFunctionType, torch.dtype, torch.device
    if not all(isinstance(constant, known) for constant in held.values()):
        return None
    plain = tuple(None if at in held else constant for at, constant in enumerate(code.co_consts))
    return marshal.dumps(code.replace(co_consts=plain)), held


def whole_code(plain: bytes, held: Mapping[int, Any]) -> CodeType:
    """What ``plain_code`` was made of."""
    code: CodeType = marshal.loads(plain)
    return code.replace(co_consts=tuple(held.get(at, constant) for at, constant in enumerate(code.co_consts)))


class Later:
    """A module that is imported when something of it is used, beside what is known of it.

    What bytecode uses of it does not change, so it is looked up once.
    """

    def __init__(self, name: str, known: Mapping[str, Any]):
        self._name = name
        vars(self).update(known)

    def __getattr__(self, attribute: str) -> Any:
        found = vars(self)[attribute] = getattr(import_module(self._name), attribute)
        return found


def class_alone(source: str, name: str) -> tuple[str, set[str]]:
    """The source of one class of a module, and the names that it takes from around.

    Raises:
        StopIteration: there is no such class.
    """
    kept = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == name)
    names = [node for node in ast.walk(kept) if isinstance(node, ast.Name)]
    own = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    own |= {node.arg for node in ast.walk(kept) if isinstance(node, ast.arg)}
    return ast.unparse(kept), {node.id for node in names} - own - set(dir(builtins))
