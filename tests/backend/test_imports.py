"""The architecture, held by reading the source: who imports whom, who may touch TensorFlow and Keras' internals."""

import ast
import sys
from collections import Counter
from pathlib import Path

import pytest

import innv_ext

ROOT = Path(innv_ext.__file__).parent
FILES = sorted(p for p in ROOT.rglob("*.py") if "__pycache__" not in p.parts)
# errors <- backend <- analyzers <- evaluation <- comparison;  errors <- optim <- analyzers;
# visualization knows only errors
GROUND = {"errors", "arguments", "files"}
ALLOWED = {
    "errors": set(),
    "arguments": {"errors"},
    "files": {"errors"},
    "backend": GROUND,
    "optim": GROUND,
    "visualization": GROUND,
    "analyzers": GROUND | {"backend", "optim"},
    "rules": {"backend", "analyzers"},
    "evaluation": GROUND | {"backend", "optim", "analyzers", "visualization"},
    "comparison": GROUND | {"backend", "analyzers", "evaluation", "visualization"},
    "text": GROUND | {"backend", "analyzers", "visualization"},
    "cli": GROUND | {"backend", "analyzers", "evaluation", "visualization", "comparison", "text"},
    "__main__": {"cli"},
    "__init__": set("errors backend optim visualization analyzers evaluation comparison rules text".split()),
}
THIRD_PARTY = {
    "errors": set(),
    "arguments": {"numpy"},
    "files": {"rich"},
    "rules": set(),
    "backend": {"keras", "numpy", "tensorflow"},
    "optim": {"keras", "numpy", "scipy", "ot"},
    "visualization": {"numpy", "matplotlib", "scipy"},
    "analyzers": {"keras", "numpy", "scipy", "sklearn", "skimage"},
    "evaluation": {"keras", "numpy", "scipy", "skimage", "matplotlib", "pandas"},
    "comparison": {"keras", "numpy", "matplotlib", "pandas"},
    "text": {"keras", "numpy", "matplotlib"},
    "cli": {"keras", "numpy", "matplotlib", "PIL"},
    "__main__": set(),
    "__init__": set(),
}
# private by name, but documented by Python itself
PRIVATE_BUT_PUBLIC = {"_replace", "_asdict", "_fields", "_make"}
# how masks travel in Keras; the helpers that use it live beside the walks
KERAS_MASK = "_keras_mask"


# the methods, side by side: none of them needs another; what they share lies below (core, parts, moments)
FAMILIES = {"gradient", "lrp", "deep_lift", "pattern", "prediction", "rde", "loss"}
LONGEST, LARGEST = 349, 20  # lines of a file, files of a folder


def relative(path):
    return path.relative_to(ROOT).as_posix()


def part(path):
    """The folder (or top-level module) of a file: backend, optim, errors ..."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def module_name(path):
    """innv_ext.backend.walk; a package is named like its folder."""
    parts = ["innv_ext", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {path: path.read_text("utf-8") for path in FILES}
TREES = {path: ast.parse(source) for path, source in SOURCES.items()}
MODULES = {module_name(path): path for path in FILES}


def imported(tree, package):
    """(module, names taken from it) of every import, absolute, wherever the statement stands: also in a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            yield module, tuple(alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "files.need":
            yield ast.literal_eval(node.args[0]), ()


def package_of(path):
    """What relative imports of a file start from."""
    return ".".join(["innv_ext", *path.relative_to(ROOT).parts[:-1]])


def targets(tree, package, modules):
    """The ``modules`` that a file needs to be understood: a submodule that is taken by name, not its package too.

    ``from package import name`` needs the package's ``__init__`` unless all names are submodules.
    """
    found = set()
    for module, names in imported(tree, package):
        submodules = {f"{module}.{name}" for name in names} & set(modules)
        found |= submodules
        if module in modules and (not names or len(submodules) < len(set(names))):
            found.add(module)
    return found


def imports(path):
    """All modules that a file imports, absolute; of ``from innv_ext import errors`` the module innv_ext.errors."""
    found = []
    for module, names in imported(TREES[path], package_of(path)):
        found += [f"{module}.{name}" for name in names] if module == "innv_ext" else [module]
    return found


def own(path):
    """The folders of innv_ext that a file imports, its own left out."""
    parts = {m.split(".")[1] for m in imports(path) if m.startswith("innv_ext.")}
    return parts - {part(path)}


def refuse(rule, files=FILES):
    """Fails with every file in which ``rule(path)`` finds something, one a line."""
    found = {relative(path): sorted(map(str, rule(path))) for path in files}
    lines = [f"{name}: {', '.join(what)}" for name, what in found.items() if what]
    assert not lines, "\n".join(lines)


def circles(edges):
    """One circle for every edge that closes one, as "a -> b -> a"."""
    found, done, active = [], set(), []

    def visit(name):
        if name in active:
            found.append(" -> ".join([*active[active.index(name) :], name]))
        if name in done or name in active:
            return
        active.append(name)
        for other in sorted(edges[name]):
            visit(other)
        done.add(active.pop())

    for name in sorted(edges):
        visit(name)
    return found


# --- the tests see what they are about ---------------------------------------------------------------------------


def test_the_tests_see_the_package():
    assert {"errors", "backend", "analyzers", "visualization", "__init__"} <= {part(p) for p in FILES}
    assert {part(p) for p in FILES} <= set(ALLOWED)
    tracing = ROOT / "backend" / "tracing" / "state.py"
    assert "errors" in own(tracing) and any(m.startswith("keras.src") for m in imports(tracing))
    assert keras_private(tracing)
    assert {p.name for p in (ROOT / "analyzers").iterdir() if p.is_dir()} >= FAMILIES


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import p.a", {"p.a"}),
        ("import p.sub.b as b", {"p.sub.b"}),
        ("import p", {"p"}),
        ("from p.a import f", {"p.a"}),
        ("from p import a", {"p.a"}),
        ("from p import VALUE", {"p"}),
        ("from p import a, VALUE", {"p.a", "p"}),
        ("from p.sub.b import f", {"p.sub.b"}),
        ("from p.sub import f", {"p.sub"}),
        ("from . import c", {"p.sub.c"}),
        ("from .c import f", {"p.sub.c"}),
        ("from .. import a", {"p.a"}),
        ("from ..a import f", {"p.a"}),
        ("def f():\n    from p import a", {"p.a"}),
        ("class A:\n    def f(self):\n        import p.a", {"p.a"}),
        ("if TYPE_CHECKING:\n    from p.a import A", {"p.a"}),
        ("try:\n    import p.a\nexcept ImportError:\n    a = None", {"p.a"}),
        ("import numpy\nfrom os import path", set()),
    ],
)
def test_every_form_of_an_import_is_seen(source, expected):
    modules = {"p", "p.a", "p.sub", "p.sub.b", "p.sub.c"}
    assert targets(ast.parse(source), "p.sub", modules) == expected


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b -> c -> b"]
    assert circles({"a": {"b", "c"}, "b": {"a"}, "c": {"a"}}) == ["a -> b -> a", "a -> c -> a"]
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a -> b -> c -> a"]


# --- who imports whom --------------------------------------------------------------------------------------------


def test_imports_point_one_way():
    refuse(lambda path: own(path) - ALLOWED[part(path)])


def test_there_are_no_circles_of_modules():
    """Nor where an import hides in a function or is for type checkers only: then no module is understood alone."""
    edges = {name: targets(TREES[p], package_of(p), MODULES) - {name} for name, p in MODULES.items()}
    edges["innv_ext"] = set()  # the face of the package, which loads what is asked for
    found = circles(edges)
    assert not found, "\n".join(found)


def test_methods_do_not_know_each_other():
    def others(path):
        mine = path.relative_to(ROOT).parts
        if mine[0] != "analyzers" or len(mine) < 3:
            return set()
        known = {m.split(".")[2] for m in imports(path) if m.startswith("innv_ext.analyzers.")}
        above = {"catalogue", "registry", "loading"}
        return known & ((FAMILIES | above) - {mine[1]})

    refuse(others)


def test_backend_and_optim_do_not_know_each_other():
    refuse(lambda path: own(path) & {"backend", "optim"} if part(path) in ("backend", "optim") else ())


def test_foreign_packages_are_the_declared_ones():
    def undeclared(path):
        known = {"innv_ext", "__future__"} | set(sys.stdlib_module_names) | THIRD_PARTY[part(path)]
        return {m.split(".")[0] for m in imports(path)} - known

    refuse(undeclared)


def test_only_numerics_imports_tensorflow():
    frameworks = {"tensorflow", "tf_keras", "jax", "torch"}
    using = {relative(path) for path in FILES if {m.split(".")[0] for m in imports(path)} & frameworks}
    assert using == {"backend/numerics/tensorflow.py"}


def keras_private(path):
    """Attributes of other objects that start with one underscore, and imports from keras.src."""
    found = [m for m in imports(path) if m.startswith("keras.src") or any(p.startswith("_") for p in m.split(".")[1:])]
    tree = TREES[path]
    defined = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)
               and n.value.id in ("self", "cls") and isinstance(n.ctx, ast.Store)}
    defined |= {n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    defined |= {n.target.id for n in ast.walk(tree) if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not node.attr.startswith("_") or node.attr.startswith("__"):
            continue
        of_itself = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        if not of_itself and node.attr not in defined | PRIVATE_BUT_PUBLIC | {KERAS_MASK}:
            found.append(node.attr)
    return found


def test_only_tracing_reads_private_attributes_of_keras():
    free = {f"backend/tracing/{name}.py" for name in ("state", "collector", "tracer", "attention")}
    refuse(lambda p: keras_private(p) if relative(p) not in free and part(p) != "visualization" else ())


def test_the_mask_attribute_of_keras_is_only_touched_in_the_backend():
    assert {relative(path) for path in FILES if KERAS_MASK in SOURCES[path]} == {"backend/masks.py"}


def test_nothing_pickles():
    pickling = {"pickle", "dill", "joblib", "cloudpickle", "shelve"}
    refuse(lambda path: {m.split(".")[0] for m in imports(path)} & pickling)


# --- what is in a file -------------------------------------------------------------------------------------------


def test_modules_stay_short_and_folders_small():
    lengths = {relative(path): len(source.splitlines()) for path, source in SOURCES.items()}
    sizes = Counter(relative(path.parent) for path in FILES)
    large = [f"{name}: {n} lines" for name, n in lengths.items() if n > LONGEST]
    large += [f"{name}: {n} files" for name, n in sizes.items() if n > LARGEST]
    assert not large, "\n".join(large)


def test_a_class_name_means_one_thing():
    homes = {}
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(f"{relative(path)}:{node.lineno}")
    twice = [f"{name}: {', '.join(places)}" for name, places in homes.items() if len(places) > 1]
    assert not twice, "\n".join(twice)


def unwanted(path):
    """House rules: no print, no global statement, no setattr on imported modules."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Global):
            yield f"line {node.lineno}: global"
        called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None
        if called in ("print", "breakpoint", "eval", "exec"):
            yield f"line {node.lineno}: {called}"
        for target in node.targets if isinstance(node, ast.Assign) else []:
            owner = getattr(target, "value", None) if isinstance(target, ast.Attribute) else None
            if getattr(owner, "id", None) in ("keras", "tf", "np", "ops", "tree"):
                yield f"line {node.lineno}: patches {owner.id}"


def test_there_are_no_prints_globals_or_patches():
    refuse(unwanted)


def test_public_names_exist():
    for name in innv_ext.__all__:
        assert hasattr(innv_ext, name)
    assert sorted(innv_ext.__all__) == list(innv_ext.__all__)
