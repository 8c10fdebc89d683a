"""The documentation: its code runs, its tables are those of the library, its pictures and pages are complete."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest

import innv_ext
from innv_ext.analyzers import registry

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md") if "_build" not in p.parts)
TEXTS = {page: (DOCS / page).read_text(encoding="utf-8") for page in PAGES}
FENCE = re.compile(r"^(`{3,}|~{3,})([^\n]*)\n(.*?)^\1$", flags=re.MULTILINE | re.DOTALL)
MADE_UP = {"my_guided_backprop", "power_gradient"}  # analyzers that pages register
OLD_NAMES = (  # iNNvestigate 2.1.2, then what only 1.0.9 had
    "input random gradient gradient.baseline input_t_gradient deconvnet guided_backprop integrated_gradients "
    "smoothgrad lrp lrp.z lrp.epsilon lrp.w_square lrp.flat lrp.alpha_beta lrp.alpha_2_beta_1 "
    "lrp.alpha_2_beta_1_IB lrp.alpha_1_beta_0 lrp.alpha_1_beta_0_IB lrp.z_plus lrp.z_plus_fast "
    "lrp.sequential_preset_a lrp.sequential_preset_b lrp.sequential_preset_a_flat lrp.sequential_preset_b_flat "
    "lrp.sequential_preset_b_flat_until_idx deep_taylor deep_taylor.bounded "
    "lrp.z_IB lrp.epsilon_IB deep_lift.wrapper pattern.net pattern.attribution"
).split()


def blocks(page):
    """The code of a page, block by block, with blank lines in front so that tracebacks show the page's lines."""
    text = TEXTS[page]
    found = [(text[: m.start(3)].count("\n"), m[2].strip(), m[3]) for m in FENCE.finditer(text)]
    return [("\n" * line + code, code) for line, language, code in found if language == "python"]


@pytest.fixture(scope="module")
def setting():
    """What index.md promises: a model of images, two images, training data."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.Conv2D(4, 3, padding="same", activation="relu", name="conv1"),
            layers.MaxPooling2D(2),
            layers.Conv2D(6, 3, activation="relu", name="conv2"),
            layers.Flatten(),
            layers.Dense(5, activation="softmax", name="predictions"),
        ]
    )
    rng = np.random.default_rng(0)
    data = rng.uniform(0, 1, (24, 12, 12, 3)).astype("float32")
    return {"model": model, "x": data[:2], "X_train": data, "y_train": np.arange(24) % 5}


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_code_runs(page, setting, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_TABLE", dict(registry._TABLE))  # pages register analyzers
    model = setting["model"]
    weights = [w.copy() for w in model.get_weights()]
    copies = {name: value.copy() for name, value in setting.items() if name != "model"}
    names = {"__name__": "docs", "keras": keras, "np": np, "innv_ext": innv_ext, "model": model, **copies}
    with warnings.catch_warnings():
        for warning in (innv_ext.errors.ConvergenceWarning, innv_ext.errors.DeadNeuronWarning):
            warnings.simplefilter("ignore", warning)
        warnings.simplefilter("ignore", innv_ext.errors.ZeroMapWarning)
        for code, _ in blocks(page):
            exec(compile(code, str(DOCS / page), "exec"), names)
    for name, value in copies.items():
        np.testing.assert_array_equal(value, setting[name])
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    found = names.get("maps")
    for value in found.values() if isinstance(found, dict) else [found] if found is not None else []:
        assert value.shape == setting["x"].shape
        assert np.isfinite(value).all()


def test_no_code_escapes_the_test():
    """Every fence is Python that is run, or a directive: none is tagged in a way that would skip it."""
    directives = {"{toctree}", "{analyzer-table}"}
    for page, text in TEXTS.items():
        for fence in FENCE.finditer(text):
            language = fence[2].strip()
            assert language == "python" or language.split()[0] in directives, (page, language)
        assert text.count("```") == 2 * len(FENCE.findall(text)), page
        assert "code-block" not in text, page


@pytest.mark.parametrize("page", ["add_rule.md", "add_analyzer.md"])
def test_adding_takes_less_than_15_lines(page):
    for _, code in blocks(page):
        assert len([line for line in code.splitlines() if line.strip()]) < 15


def test_every_analyzer_has_a_page():
    """Each family has its table on a page (the baselines in that of all), and no page names what does not exist."""
    shown = {f for t in TEXTS.values() for m in re.findall(r"\{analyzer-table\} (.+)", t) for f in m.split()}
    families = {info.family for info in innv_ext.list_analyzers()} - {"user", "baseline"}
    assert shown == families
    assert re.search(r"\{analyzer-table\}\n", TEXTS["pick.md"])
    known = {info.name for info in innv_ext.list_analyzers()} | MADE_UP
    for page, text in TEXTS.items():
        used = set(re.findall(r'create_analyzer\("([^"]+)"', text)) - MADE_UP
        assert used <= known, page
        quoted = set(re.findall(r"`((?:lrp|pattern|deep_taylor|deep_lift)\.[a-zA-Z0-9_]+)`", text))
        assert quoted <= known | {"deep_lift.wrapper"}, page


def test_every_test_of_explanations_is_explained():
    functions = {
        name for name in innv_ext.evaluation.__all__ if not isinstance(getattr(innv_ext.evaluation, name), type)
    }
    assert functions == set(re.findall(r"`([a-z_]+)[`(]", TEXTS["evaluate.md"])) & functions


def test_commands_exist(capsys):
    """What the page of the command line types is what its help knows."""
    from innv_ext.cli import main

    commands = re.findall(r"^    innv-ext (\w+)(.*)$", TEXTS["cli.md"], flags=re.MULTILINE)
    assert {name for name, _ in commands} == {"list", "explain", "compare", "summary", "text"}
    known = ""
    for name, rest in commands:
        assert main([name, "--help"]) == 0
        help_text = capsys.readouterr().out
        assert set(re.findall(r"--[a-z-]+", rest)) <= set(re.findall(r"--[a-z-]+", help_text))
        known += help_text
    assert set(re.findall(r"--[a-z-]+", TEXTS["cli.md"])) <= set(re.findall(r"--[a-z-]+", known))


def test_pick_names_a_method_for_every_question():
    named = set(re.findall(r"`([a-z_.]+)`", TEXTS["pick.md"]))
    families = {info.family for info in innv_ext.list_analyzers() if info.name in named}
    assert families >= {info.family for info in innv_ext.list_analyzers()} - {"user", "baseline"}


def test_migration_covers_innvestigate():
    section = TEXTS["migrating.md"].split("## Analyzers")[1].split("##")[0]
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|", section, flags=re.MULTILINE)
    assert sorted(old for old, _ in rows) == sorted(OLD_NAMES)
    known = {info.name for info in innv_ext.list_analyzers()}
    assert {new for _, new in rows} <= known
    assert [(old, new) for old, new in rows if old != new] == [("deep_lift.wrapper", "deep_lift")]


def test_every_family_has_a_small_picture(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import pictures

    with_picture = {}
    for page, text in TEXTS.items():
        for path in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text):
            file = (DOCS / page).parent / path
            assert file.is_file(), (page, path)
            with_picture[page] = file.resolve()
    family_pages = {page for page in PAGES if page.startswith("methods/")}
    assert family_pages <= set(with_picture)
    files = sorted((DOCS / "pictures").glob("*.png"))
    assert {f.stem for f in files} == {*pictures.FAMILIES, *pictures.EXAMPLES, "evaluation"}
    assert {f.stem for page, f in with_picture.items() if page in family_pages} == set(pictures.FAMILIES)
    sizes = [f.stat().st_size for f in files]
    assert max(sizes) < 150_000
    assert sum(sizes) < 1_500_000
    for chosen in pictures.FAMILIES.values():
        for name, params in chosen.values():
            info = next(i for i in innv_ext.list_analyzers() if i.name == name)
            assert set(params) <= set(info.parameters())


def test_images_with_little_certainty_are_chosen_from_different_classes(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import pictures

    outputs = np.array([[0.9, 0.1, 0], [0.6, 0.4, 0], [0.5, 0.3, 0.2], [0.2, 0.8, 0], [0.1, 0.2, 0.7], [0, 0.99, 0.01]])
    assert pictures.unsure(outputs, 2).tolist() == [2, 4]
    assert pictures.unsure(outputs, 3).tolist() == [2, 4, 3]


def test_pictures_of_examples_are_theirs_in_few_colours(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import pictures
    from PIL import Image

    drawn = np.random.default_rng(0).integers(0, 4, (20, 30, 3)).astype("uint8") * 80

    def run(command, **options):
        script, out, folder = command[1:]
        assert Path(script).is_file()
        assert out == "--out"
        (name,) = [name for example, name in pictures.EXAMPLES.values() if example == Path(script).stem]
        assert name in Path(script).read_text(encoding="utf-8")
        Image.fromarray(drawn).save(Path(folder) / name)

    monkeypatch.setattr(pictures.subprocess, "run", run)
    for name in pictures.EXAMPLES:
        pictures.draw_example(name, tmp_path / f"{name}.png")
        found = Image.open(tmp_path / f"{name}.png")
        assert found.mode == "P"
        np.testing.assert_array_equal(np.asarray(found.convert("RGB")), drawn)


def test_cross_references_exist():
    """Links to other pages, and names of the library in roles."""
    for page, text in TEXTS.items():
        for path in re.findall(r"(?<!!)\[[^\]]+\]\(([^)#]+)\)", text):
            assert ((DOCS / page).parent / path).is_file(), (page, path)
        for name in re.findall(r"\{py:\w+\}`([\w.]+)`", text):
            thing = innv_ext
            for part in name.split(".")[1:]:
                thing = getattr(thing, part)


class TestExtensions:
    """What the pages are built with."""

    @pytest.fixture(autouse=True)
    def _path(self, monkeypatch):
        pytest.importorskip("sphinx")
        monkeypatch.syspath_prepend(str(DOCS / "_extensions"))

    def test_table_is_the_registry(self):
        from analyzer_table import table

        lines = table().splitlines()
        infos = [info for info in innv_ext.list_analyzers() if info.family != "user"]
        assert len(lines) == len(infos) + 2
        for line, info in zip(lines[2:], infos, strict=True):
            cells = [cell.strip().replace("\\", "") for cell in line.strip("|").split(" | ")]
            expected = [f"`{info.name}`", info.description, "yes" if info.signed else "no"]
            assert cells[:3] == expected
            assert ("`fit`" in cells[3]) == info.needs_fit
            assert ("ReLU" in cells[3]) == info.needs_relu
            assert cells[4:] == [info.cost, info.sums_to, info.reference]
        some = [line for line in lines if line.startswith(("| `deep_taylor", "| `pattern"))]
        assert table(["deep_taylor", "pattern"]).splitlines()[2:] == some
        assert table(["grad_cam"]).splitlines()[0] == "| name | what it computes | signed | cost | source |"

    def test_public_names_are_listed(self):
        from analyzer_table import documented

        assert set(documented(innv_ext.optim)) == set(innv_ext.optim.__all__)
        assert "errors" not in documented(innv_ext)
        assert documented(innv_ext, without=["Rules"]) == [n for n in documented(innv_ext) if n != "Rules"]

    def test_docstrings_become_markup(self):
        from docstrings import escaped, readable

        assert escaped("|x - y| and w * a of patterns_, x_k") == r"\|x - y\| and w \* a of patterns\_, x_k"
        assert escaped("``|x|`` and `name_` stay") == "``|x|`` and `name_` stay"
        assert escaped("a_ b\n>>> f(*a, b_)\n2 * b\n\n*") == "a\\_ b\n>>> f(*a, b_)\n2 * b\n\n\\*"
        text = "One line.\n\nParameters\n----------\na_, *b : |a| of it,\n    more\nc : d\n\n"
        text += "Returns\n-------\nwords (n,)\nmore"
        expected = (
            "One line.\n\nParameters\n----------\na_\n    \\|a\\| of it,\n    more\n*b\n    \\|a\\| of it,\n    more\n"
            "c\n    d\n\n"
            "Result\n------\nwords (n,)\nmore\n\n"
        )
        assert readable(text) == expected

    def test_properties_keep_their_colons(self):
        from docstrings import process

        lines = ["Whether it fell: booleans: yes.", ""]
        process(None, "property", "", property(), {}, lines)
        assert lines[:2] == ["Whether it fell:", "booleans: yes."]
        lines = ["Whether it fell: booleans."]
        process(None, "method", "", len, {}, lines)
        assert lines == ["Whether it fell: booleans."]

    def test_signatures_show_own_parameters(self):
        from docstrings import shortened

        for cls, own in (
            (innv_ext.analyzers.Gradient, {"postprocess", "unsupported"}),
            (innv_ext.analyzers.GradCAM, {"layer"}),
        ):
            signature, _ = shortened(None, "class", "", cls)
            assert signature.startswith("(model: ")
            assert signature.endswith("**common)")
            assert all(f"{name}: " in signature for name in own)
            assert "batch_size" not in signature
        assert shortened(None, "class", "", innv_ext.Analyzer) is None
        assert shortened(None, "function", "", innv_ext.create_analyzer) is None

    def test_formulas_are_known(self):
        from docutils.utils.math.latex2mathml import tex2mathml

        texts = TEXTS.values()
        blocks = [f for text in texts for f in re.findall(r"\$\$(.+?)\$\$", text, flags=re.DOTALL)]
        inline = [f for text in texts for f in re.findall(r"(?<!\$)\$(?!\$)([^$\n]+)\$(?!\$)", text)]
        assert len(blocks) > 15
        assert len(inline) > 50
        for formula in blocks + inline:
            assert tex2mathml(formula, as_block=True).startswith("<math")
            assert "\\_" not in formula  # would be shown as it is


@pytest.mark.slow
def test_pages_build_without_warnings_and_need_no_network(tmp_path):
    pytest.importorskip("sphinx")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(DOCS), str(tmp_path)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) >= len(PAGES)
    for page in pages:
        html = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]* src=\"([^\"]+)\"", html)
        loaded += [m for m in re.findall(r"<link ([^>]+)>", html) if "stylesheet" in m]
        assert not [url for url in loaded if "//" in url], page
    for sheet in tmp_path.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert "@import" not in text, sheet
        assert not re.search(r"url\([\"']?(?:https?:)?//", text), sheet
    table = (tmp_path / "pick.html").read_text(encoding="utf-8")
    for info in innv_ext.list_analyzers():
        if info.family != "user":
            assert f'<span class="pre">{info.name}</span>' in table, info.name
    assert "<math" in (tmp_path / "methods" / "lrp.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_pictures_can_be_made(tmp_path):
    command = [sys.executable, str(DOCS / "pictures.py"), "deep_taylor", "evaluation", "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(p.name for p in tmp_path.glob("*.png")) == ["deep_taylor.png", "evaluation.png"]
    assert all(p.stat().st_size < 150_000 for p in tmp_path.glob("*.png"))
