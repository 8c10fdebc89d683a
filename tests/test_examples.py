"""The examples as users run them: own process, real data, clean output, a table and pictures."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("INNV_EXT_DATA", ROOT.parent / "shared" / "data"))
WEIGHTS, LABELS = DATA / "squeezenet_v1.0_imagenet.npz", DATA / "imagenet_labels.txt"


def run(script, *arguments, cwd, code=0):
    """Run an example without the settings that the tests make for themselves."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TF_CPP", "KERAS_", "PYTEST"))}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, str(ROOT / "examples" / script), *map(str, arguments)]
    done = subprocess.run(command, check=False, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def rows(output):
    """The table: analyzer -> (first [s], all [s], sum/score, positive)."""
    pattern = r"^(\S.*?)  +(\d+\.\d+)  +(\d+\.\d+)  +(-?\d+\.\d+|-)  +(\d+)%  +(\S.*)$"
    found = re.findall(pattern, output, re.MULTILINE)
    return {name: (float(a), float(b), None if c == "-" else float(c), int(d)) for name, a, b, c, d, _ in found}


def check_picture(path, cells, longest):
    """Large enough for (rows, columns) of pictures, with many colours, red and blue ones among them."""
    red, green, blue = (np.rint(imread(path)[..., i] * 255).astype(int) for i in range(3))
    height, width = red.shape
    assert cells[0] * 100 < height < longest
    assert cells[1] * 100 < width < longest
    assert len(np.unique((red * 256 + green) * 256 + blue)) > 100
    assert np.mean((red > 200) & (green < 100) & (blue < 100)) > 0.005
    assert np.mean((blue > 200) & (green < 100) & (red < 100)) > 0.0005


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A first run in an empty folder."""
    folder = tmp_path_factory.mktemp("demo")
    return folder, run("demo.py", "--images", 3, cwd=folder)


def test_demo_trains_explains_and_draws(demo):
    folder, done = demo
    assert done.stderr == ""  # no log of TensorFlow, no warnings
    right = re.search(r"(\d+\.\d)% of 450 test images right, (\d+) wrong", done.stdout)
    assert float(right[1]) >= 97
    assert f"Explaining 3 test images, {min(1, int(right[2]))} of them classified wrongly" in done.stdout

    table = rows(done.stdout)
    assert len(table) == 13
    for name, (first, again, _, positive) in table.items():
        assert 0 < first < 60, name
        assert 0 < again < 60, name
        assert 0 <= positive <= 100, name
    for name in ("deep_taylor", "deep_taylor.bounded 0 1"):  # conserve the score, no negative relevance
        assert table[name][2:] == (1.0, 100)
    assert table["gradient"][2] is None  # makes no promise about its sum
    check_picture(folder / "out" / "demo.png", (3, 14), 4000)
    check_picture(folder / "out" / "demo_neurons.png", (5, 14), 4000)


def test_demo_reuses_the_saved_model(demo):
    folder, first = demo
    saved = folder / "out" / "digits.keras"
    before = saved.read_bytes()
    again = run("demo.py", "--images", 1, "--out", "out/again.png", cwd=folder)
    assert "Training" in first.stdout
    assert "Training" not in again.stdout
    assert saved.read_bytes() == before
    assert (folder / "out" / "again.png").exists()
    assert (folder / "out" / "again_neurons.png").exists()


def test_squeezenet_names_what_is_wrong_with_the_weights(tmp_path):
    np.savez(tmp_path / "weights.npz", conv1_kernel=np.zeros((3, 3, 3, 96), "float32"))
    (tmp_path / "labels.txt").write_text("tench\n" * 1000)
    options = ("--weights", "weights.npz", "--labels", "labels.txt")
    done = run("imagenet_squeezenet.py", *options, cwd=tmp_path, code=1)
    assert "'conv1_kernel' in weights.npz has shape (3, 3, 3, 96), expected (7, 7, 3, 96)" in done.stderr


@pytest.mark.skipif(
    not (WEIGHTS.is_file() and LABELS.is_file()),
    reason=f"no {WEIGHTS.name} and {LABELS.name} in {DATA}; set INNV_EXT_DATA to their folder",
)
def test_squeezenet_recognises_and_explains_the_samples(tmp_path):
    names = "gradient,lrp.epsilon_gamma_box,deep_taylor.bounded"
    options = ("--weights", WEIGHTS, "--labels", LABELS, "--out", "maps/photos.png", "--analyzers", names)
    done = run("imagenet_squeezenet.py", *options, cwd=tmp_path)
    assert done.stderr == ""
    for name, label, probability in (
        ("chelsea", "Egyptian cat", 0.56),
        ("coffee", "espresso", 0.95),
        ("camera", "tripod", 0.97),
    ):
        found = re.search(rf"^{name}: {label} (\d\.\d+),", done.stdout, re.MULTILINE)
        assert float(found[1]) == pytest.approx(probability, abs=0.011)
    table = rows(done.stdout)
    assert list(table) == names.split(",")
    assert table["deep_taylor.bounded"][2:] == (1.0, 100)
    check_picture(tmp_path / "maps" / "photos.png", (6, 4), 3000)
