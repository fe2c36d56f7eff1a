"""The stub of the extension names what the extension has."""
import ast
import pathlib

import prescore
from prescore import _core

STUB = pathlib.Path(prescore.__file__).with_name("_core.pyi")


def test_the_stub_is_complete():
    names = {}
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.ClassDef):
            names[node.name] = {f.name for f in node.body if isinstance(f, ast.FunctionDef)}
        elif isinstance(node, (ast.FunctionDef, ast.AnnAssign)):
            names[node.name if isinstance(node, ast.FunctionDef) else node.target.id] = set()
    public = {name for name in vars(_core) if not name.startswith("_")} | {"__version__"}
    assert set(names) == public
    for name in ("View", "KeyIndex", "Plan"):
        members = {m for m in vars(getattr(_core, name)) if not m.startswith("_")}
        assert members == {m for m in names[name] if not m.startswith("_")}
