"""What code a stage is made of: the trees of its module and of all it imports from the project,
and the foreign packages these import.

Nothing is imported: sources are found from the packages' folders and parsed. Comments, layout and
docstrings are no part of a tree, so editing them runs nothing again.
"""

import ast
import hashlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

PROJECT_PACKAGES = ("stages", "reward")
INSTALLED = {"site-packages", "dist-packages"}


class Sources:
    """Digests of modules, each file read once in the life of the object."""

    def __init__(self) -> None:
        self._roots: dict[str, Path | None] = {}
        self._read: dict[str, tuple[str, list[str]]] = {}

    def version(self, module: str, *, beside: bool = False) -> dict[str, str]:
        """Digest by name of `module` and of every module it imports from the project, transitively.

        The project is `stages`, `reward` and the package that `module` itself lives in. beside:
        what lies in the same folder, too, unless that is where packages are installed.
        """
        digests, _ = self._reach(module, beside=beside)
        return dict(sorted(digests.items()))

    def packages(self, module: str) -> set[str]:
        """Top-level names that `module`, or what it imports from the project, imports elsewhere."""
        _, foreign = self._reach(module)
        return foreign

    def _reach(self, module: str, *, beside: bool = False) -> tuple[dict[str, str], set[str]]:
        """Digests of the project's modules within reach, and the names of all other packages."""
        packages = {*PROJECT_PACKAGES, module.partition(".")[0]}
        near = self._folder(module.partition(".")[0]) if beside else None
        digests: dict[str, str] = {}
        foreign: set[str] = set()
        waiting = [module]
        while waiting:
            name = waiting.pop()
            package = name.partition(".")[0]
            if package not in packages and not (near and self._folder(package) == near):
                foreign.add(package)
            elif name not in digests and self._path(name):
                digests[name], imports = self._digest(name)
                waiting += imports
        return digests, foreign

    def _folder(self, package: str) -> Path | None:
        """Where a package's folder or a module's file lies; None where packages are installed."""
        self._path(package)
        root = self._roots[package]
        return root.parent if root and not INSTALLED & set(root.parts) else None

    def _digest(self, module: str) -> tuple[str, list[str]]:
        if module not in self._read:
            path = self._path(module)
            assert path is not None
            tree = ast.parse(path.read_text(), str(path))
            _drop_docstrings(tree)
            digest = hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]
            self._read[module] = digest, sorted(set(_imports(tree)) | set(_parents(module)))
        return self._read[module]

    def _path(self, module: str) -> Path | None:
        """The file of a module, None if there is none (a name inside a module, for one)."""
        package, *rest = module.split(".")
        if package not in self._roots:
            self._roots[package] = _root(package)
        root = self._roots[package]
        if root is None or root.suffix == ".py":
            return None if rest else root
        base = root.joinpath(*rest)
        files = (base / "__init__.py", base.with_suffix(".py"))
        return next((file for file in files if file.is_file()), None)


def _root(package: str) -> Path | None:
    """The folder of a top-level package, or the file of a top-level module."""
    spec = find_spec(package)
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.origin else None


def _parents(module: str) -> Iterator[str]:
    while "." in module:
        module = module.rpartition(".")[0]
        yield module


def _imports(tree: ast.AST) -> Iterator[str]:
    """Every module the tree may import, inside functions too; `from a import b` may mean `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _drop_docstrings(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
