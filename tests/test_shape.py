"""The house rules that a machine can hold."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "midstream"
FILES = sorted(PACKAGE.rglob("*.py"))
FORBIDDEN = {"utils", "util", "common", "helpers", "misc"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def functions(path: Path) -> list[Function]:
    return [node for node in ast.walk(tree(path)) if isinstance(node, Function)]


def length(function: Function) -> int:
    """Lines of a function, its docstring left out."""
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function):
        lines -= first.end_lineno - first.lineno + 1
    return lines


def public(path: Path) -> list[ast.AST]:
    """Public functions and classes of a module, and the public methods of its public classes."""
    found = [node for node in tree(path).body if isinstance(node, (Function, ast.ClassDef)) and node.name[0] != "_"]
    methods = [
        node
        for owner in found
        if isinstance(owner, ast.ClassDef)
        for node in owner.body
        if isinstance(node, Function) and node.name[0] != "_"
    ]
    return found + methods


def is_command(path: Path) -> bool:
    """A command's parameters are its options."""
    return path.parent.name == "cli"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_file_keeps_the_house_rules(path):
    assert len(path.read_text().splitlines()) <= 400
    assert path.stem not in FORBIDDEN
    if path.name == "__init__.py":
        assert path.parent == PACKAGE or path.read_text() == ""
        return
    assert ast.get_docstring(tree(path)), "a module says what it is"
    undocumented = [node.name for node in public(path) if not ast.get_docstring(node)]
    assert not undocumented
    for function in functions(path):
        limit = 80 if is_command(path) else 50
        assert length(function) <= limit, f"{function.name} has {length(function)} lines"
        arguments = function.args
        positional = [a.arg for a in arguments.posonlyargs + arguments.args if a.arg not in ("self", "cls")]
        if not is_command(path):
            assert len(positional) + len(arguments.kwonlyargs) <= 6, f"{function.name} has too many parameters"
        annotated = positional + [a.arg for a in arguments.kwonlyargs]
        bare = [
            a.arg
            for a in arguments.posonlyargs + arguments.args + arguments.kwonlyargs
            if a.arg in annotated and a.annotation is None
        ]
        assert not bare, f"{function.name}: {bare} have no annotation"


def test_files_stay_small():
    assert statistics.median(len(path.read_text().splitlines()) for path in FILES) < 200


def test_only_one_file_registers_hooks():
    users = [path.name for path in FILES if "register_forward" in path.read_text()]
    assert users == ["hook.py"]


def test_nothing_unsafe_is_loaded():
    text = "\n".join(path.read_text() for path in FILES)
    for call in ("pickle.load", "weights_only=False", "trust_remote_code=True", "allow_pickle=True", "shell=True"):
        assert call not in text
