"""The architecture, held by reading the source: who imports whom, who may touch TensorFlow and Keras' internals."""

import ast
import sys
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
    "cli": GROUND | {"backend", "analyzers", "evaluation", "visualization", "comparison"},
    "__main__": {"cli"},
    "__init__": {"errors", "backend", "optim", "visualization", "analyzers", "evaluation", "comparison", "rules"},
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
    "cli": {"keras", "numpy", "matplotlib", "PIL"},
    "__main__": set(),
    "__init__": set(),
}
# private by name, but documented by Python itself
PRIVATE_BUT_PUBLIC = {"_replace", "_asdict", "_fields", "_make"}
# how masks travel in Keras; the helpers that use it live beside the walks
KERAS_MASK = "_keras_mask"


def relative(path):
    return path.relative_to(ROOT).as_posix()


def part(path):
    """The folder (or top-level module) of a file: backend, optim, errors ..."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path):
    """All modules that a file imports, absolute, wherever the statement stands."""
    found = []
    package = ["innv_ext", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(p for p in (base, node.module or "") if p)
            # "from innv_ext import errors" imports a module, "from innv_ext.errors import InnvError" a name of one
            found += [f"{module}.{a.name}" if module == "innv_ext" else module for a in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "files.need":
            found.append(ast.literal_eval(node.args[0]))
    return found


def own(path):
    """The folders of innv_ext that a file imports, its own left out."""
    parts = {m.split(".")[1] for m in imports(path) if m.startswith("innv_ext.")}
    return parts - {part(path)}


@pytest.fixture(params=FILES, ids=relative)
def file(request):
    return request.param


def test_the_tests_see_the_package():
    assert {"errors", "backend", "analyzers", "visualization", "__init__"} <= {part(p) for p in FILES}
    assert {part(p) for p in FILES} <= set(ALLOWED)
    tracing = ROOT / "backend" / "tracing.py"
    assert "errors" in own(tracing) and any(m.startswith("keras.src") for m in imports(tracing))


def test_imports_point_one_way(file):
    assert own(file) <= ALLOWED[part(file)], f"{relative(file)} imports {sorted(own(file) - ALLOWED[part(file)])}"


def test_there_are_no_cycles_between_modules():
    """Also inside a folder, and also where an import hides in a function: then a module is not understood alone."""
    names = {".".join(["innv_ext", *p.relative_to(ROOT).with_suffix("").parts]): p for p in FILES}
    edges = {}
    for name, path in names.items():
        edges[name] = {m for m in top_level_imports(path, names) if m != name}
    done, active = set(), []

    def visit(name):
        assert name not in active, " -> ".join([*active[active.index(name):], name])
        if name in done:
            return
        active.append(name)
        for other in sorted(edges[name]):
            visit(other)
        done.add(active.pop())

    for name in names:
        visit(name)


def top_level_imports(path, names):
    """Modules of innv_ext that are imported when the file is loaded."""
    found = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("innv_ext"):
            candidates = [f"{node.module}.{a.name}" for a in node.names] + [node.module]
            hits = [c for c in candidates if c in names]
            found.update(hits)
    return found


def test_backend_and_optim_do_not_know_each_other(file):
    if part(file) in ("backend", "optim"):
        assert not own(file) & {"backend", "optim"}


def test_foreign_packages_are_the_declared_ones(file):
    foreign = {m.split(".")[0] for m in imports(file)} - {"innv_ext", "__future__"} - set(sys.stdlib_module_names)
    assert foreign <= THIRD_PARTY[part(file)], f"{relative(file)} imports {sorted(foreign - THIRD_PARTY[part(file)])}"


def test_only_numerics_imports_tensorflow(file):
    if relative(file) != "backend/numerics.py":
        assert not [m for m in imports(file) if m.split(".")[0] in ("tensorflow", "tf_keras", "jax", "torch")]


def keras_private(path):
    """Attributes of other objects that start with one underscore, and imports from keras.src."""
    found = [m for m in imports(path) if m.startswith("keras.src") or any(p.startswith("_") for p in m.split(".")[1:])]
    tree = ast.parse(path.read_text("utf-8"))
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


def test_only_graph_reads_private_attributes_of_keras(file):
    if relative(file) == "backend/tracing.py":
        assert keras_private(file)
    elif part(file) != "visualization":
        assert not keras_private(file)


def test_the_mask_attribute_of_keras_is_only_touched_in_the_backend(file):
    if KERAS_MASK in file.read_text("utf-8"):
        assert relative(file) == "backend/tracing.py"


def test_modules_stay_short(file):
    assert len(file.read_text("utf-8").splitlines()) < 350


def test_there_are_no_prints_globals_or_patches(file):
    """House rules: no print, no global statement, no setattr on imported modules."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        assert not isinstance(node, ast.Global), f"line {node.lineno}: global"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "breakpoint", "eval", "exec"), f"line {node.lineno}: {node.func.id}"
        targets = node.targets if isinstance(node, ast.Assign) else []
        for target in targets:
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
                assert target.value.id not in ("keras", "tf", "np", "ops", "tree"), f"line {node.lineno}: patches"


def test_nothing_pickles(file):
    assert not {m.split(".")[0] for m in imports(file)} & {"pickle", "dill", "joblib", "cloudpickle", "shelve"}


def test_public_names_exist():
    for name in innv_ext.__all__:
        assert hasattr(innv_ext, name)
    assert sorted(innv_ext.__all__) == list(innv_ext.__all__)
