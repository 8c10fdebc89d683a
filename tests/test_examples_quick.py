"""Every example runs from its command line to its pictures, with the smallest settings; what it finds is not looked at.

What the examples find with settings that mean something is in ``test_examples*.py``, behind the mark ``slow`` like most
of these.
"""

import functools
import importlib
import re

import numpy as np
import pytest
import zoo
from example_checks import ROOT, main_of, run
from matplotlib.image import imread

pytestmark = zoo.QUICK  # what was trained for one epoch explains nothing
EXAMPLES = {  # arguments, then shorter lists: names of what is kept, or other values
    "architectures": (
        ("--images", 2, "--epochs", 1),
        {"ANALYZERS": ("gradient", "lrp.epsilon_plus"), "ARCHITECTURES": ("perceptron", "residual")},
    ),
    "batchnorm_rules": (
        ("--images", 2, "--epochs", 1),
        {"NETWORKS": ["BN before"], "OPTIONS": ["fold", "two_linear"]},
    ),
    "caso_confidence": (("--images", 12, "--epochs", 1), {}),
    "compare_methods": (
        ("--images", 3, "--steps", 1),
        {"ANALYZERS": ("gradient", "integrated_gradients", "lrp.epsilon", "pattern.net", "random")},
    ),
    "demo": (
        ("--images", 2),
        {"ANALYZERS": ("gradient", "deep_taylor"), "RDE": {"ord_rde": {"rates": 3, "max_iter": 2, "progress": False}}},
    ),
    "lstm_signals": (("--epochs", 1), {"TRAINED": 64, "TESTED": 40, "METHODS": ("LRP", "gradient")}),
    "misclassified": (("--steps", 1), {"DRAWS": 3, "STUDIED": 3}),
    "moreau_sparsity": (("--images", 1, "--steps", 1), {"RHOS": [0.3], "SHARES": [0.2]}),
    "patterns": (("--images", 1, "--steps", 1), {"SAMPLES": 200}),
    "rde_mnist": (
        ("--images", 2, "--iterations", 1, "--samples", 1, "--epochs", 1),
        {"SHARES": np.linspace(0, 1, 4), "GRID": (100, 400), "SHOWN": (100,), "BASELINES": ["gradient"]},
    ),
    "robustness": (("--images", 1, "--steps", 1), {"ANALYZERS": ("gradient",), "STRENGTHS": [0.5], "UPDATES": 1}),
    "systematic": (("--images", 10, "--epochs", 1), {}),
    "text_embedding": (("--epochs", 1), {}),
    "transformer_text": (
        ("--epochs", 1),
        {"TRAINED": 200, "TESTED": 6, "RATES": 3, "BLOCKS": 1, "METHODS": ("AttnLRP", "gradient")},
    ),
    "vit_digits": (
        ("--images", 3, "--epochs", 1),
        {"METHODS": ("AttnLRP, gamma", "gradient"), "RATES": 3, "SHOWN": 2, "BLOCKS": 1},
    ),
}
FAST = {"moreau_sparsity"}
NEED_WEIGHTS = {"imagenet_squeezenet", "rde_photos"}  # in test_examples.py


def test_every_example_is_here():
    mains = {p.stem for p in (ROOT / "examples").glob("*.py") if "def main(" in p.read_text("utf-8")}
    assert mains == EXAMPLES.keys() | NEED_WEIGHTS


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in EXAMPLES])
def test_example_runs(name, tmp_path, monkeypatch, capfd):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    arguments, shorter = EXAMPLES[name]
    example = importlib.import_module(name)
    for attribute, kept in shorter.items():
        value = getattr(example, attribute)
        if isinstance(value, dict) and isinstance(kept, tuple):
            kept = {key: value[key] for key in kept}
        monkeypatch.setattr(example, attribute, kept)
    if name == "demo":
        monkeypatch.setattr(example.digits, "train", functools.partial(example.digits.train, epochs=1))
    printed = main_of(example, *arguments, cwd=tmp_path, monkeypatch=monkeypatch, capfd=capfd)
    written = sorted(path for path in tmp_path.rglob("*") if path.suffix in (".png", ".md"))
    assert re.search(r"Wrote .*\.png", printed)
    assert any(path.suffix == ".png" for path in written)
    for path in written:
        assert path.name in printed
        if path.suffix == ".md":
            assert path.read_text(encoding="utf-8").strip() in printed
        else:
            picture = imread(path)
            assert min(picture.shape[:2]) > 100
            assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 50


def test_an_example_starts_as_users_start_it(tmp_path):
    """In a process of its own, without the settings of the tests: nothing but the help is printed."""
    done = run("demo.py", "--help", cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout.startswith("usage: demo.py [-h] [--out OUT] [--images N] [--retrain]")
