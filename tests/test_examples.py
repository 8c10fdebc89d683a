"""The examples as users run them: own process, real data, clean output, a table and pictures."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread, imsave
from skimage.data import chelsea
from sklearn.datasets import load_digits

from innv_ext.evaluation.plotting import COLOURS

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


def areas(output):
    """The table of the relevance ordering test: name -> (distortion area, accuracy area)."""
    number = r"(\d[\d.e-]*)(?: ± [\d.e-]+)?"
    found = re.findall(rf"^\| (\S.*?) \| {number} \| {number} \|$", output, re.MULTILINE)
    return {name: (float(distortion), float(accuracy)) for name, distortion, accuracy in found}


def check_areas(found, better):
    """Areas in [0, 1], the best first, and some methods better than a random order."""
    assert all(0 <= area <= 1 for pair in found.values() for area in pair)
    assert [d for d, _ in found.values()] == sorted(d for d, _ in found.values())
    for name in better:
        assert found[name][0] < found["random"][0], name
        assert found[name][1] > found["random"][1], name


def check_curves(path, count):
    """Two panels in which ``count`` curves are seen, or all colours if there are more; returns the levels 0..255."""
    picture = np.rint(imread(path)[..., :3] * 255).astype(int)
    height, width = picture.shape[:2]
    assert 500 < height < 1500
    assert 1000 < width < 2000
    for colour in COLOURS[:count]:
        seen = (picture == np.rint(np.array(to_rgb(colour)) * 255)).all(axis=2)
        assert seen[:, : width // 2].sum() > 50, colour
        assert seen[:, width // 2 :].sum() > 50, colour
    return picture


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
    assert len(table) == 15
    for name, (first, again, _, positive) in table.items():
        assert 0 < first < 60, name
        assert 0 < again < 60, name
        assert 0 <= positive <= 100, name
    for name in ("deep_taylor", "deep_taylor.bounded 0 1"):  # conserve the score, no negative relevance
        assert table[name][2:] == (1.0, 100)
    assert table["gradient"][2] is None  # makes no promise about its sum
    for name in ("mr_rde", "ord_rde"):
        assert table[name][2:] == (None, 100)
    check_picture(folder / "out" / "demo.png", (3, 16), 4000)
    check_picture(folder / "out" / "demo_neurons.png", (5, 16), 4000)

    found = areas(done.stdout)
    magnitudes = {"gradient": "abs(gradient)", "smoothgrad": "abs(smoothgrad)"}
    assert set(found) == {magnitudes.get(name, name) for name in table} | {"random"}
    check_areas(found, ("mr_rde", "ord_rde"))
    check_curves(folder / "out" / "demo_ordering.png", 16)


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
    assert (folder / "out" / "again_ordering.png").exists()


def test_rde_mnist_trains_explains_and_draws_then_reuses_the_model(tmp_path):
    # one test, not three with a fixture: processes that share the tests would each run it
    out = tmp_path / "out" / "rde_mnist"
    done = run("rde_mnist.py", "--images", 5, "--iterations", 10, "--samples", 4, "--epochs", 6, cwd=tmp_path)
    assert "Training" in done.stdout
    assert "Warning" not in done.stderr  # a progress bar is all right
    right = re.search(r"digits28.keras: (\d+\.\d)% of 179 test images right", done.stdout)
    assert float(right[1]) >= 85
    found = areas(done.stdout)
    methods = ["mr_rde", "ord_rde", "ord_rde, matched", "l_rde"]
    methods += ["abs(gradient)", "abs(smoothgrad)", "guided_backprop", "deep_taylor"]
    single = [f"rc_rde, k = {k}" for k in (50, 100, 150, 200, 400)]
    assert set(found) == {*methods, "lrp.alpha_2_beta_1", "random", *single}
    check_areas(found, ("mr_rde", "ord_rde", "l_rde"))
    assert found["mr_rde"][0] < found["rc_rde, k = 50"][0]
    assert areas((out / "areas.md").read_text(encoding="utf-8")) == found

    check_picture(out / "maps.png", (5, 7), 2000)
    check_curves(out / "ordering.png", 10)
    picture = check_curves(out / "rates.png", 6)
    for colour in COLOURS[:4]:  # vertical lines, in both panels; the fifth is black like the axes
        seen = (np.abs(picture - np.array(to_rgb(colour)) * 255) < 40).all(axis=2).sum(axis=0) > 250
        assert seen[: len(seen) // 2].any(), colour
        assert seen[len(seen) // 2 :].any(), colour

    digits = load_digits()
    x = np.repeat(np.repeat(digits.images, 4, axis=1), 4, axis=2)[:, 2:30, 2:30]
    np.savez(tmp_path / "digits28.npz", x=np.rint(x / 16 * 255).astype("uint8"), y=digits.target.astype("uint8"))
    before = (out / "digits28.keras").read_bytes()
    small = ("--images", 1, "--iterations", 1, "--samples", 1)
    again = run("rde_mnist.py", "--data", "digits28.npz", *small, cwd=tmp_path)
    assert "Training" not in again.stdout
    assert (out / "digits28.keras").read_bytes() == before
    assert len(areas(again.stdout)) == 15


def test_images_are_chosen_class_by_class_and_orderings_drawn_from_blue_to_yellow(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import _common

    labels = np.random.default_rng(1).integers(0, 4, 50)
    waiting, expected = {c: list(np.flatnonzero(labels == c)) for c in range(4)}, []
    while any(waiting.values()):
        expected += [waiting[c].pop(0) for c in range(4) if waiting[c]]
    assert _common.in_turn(labels).tolist() == expected

    maps = np.array([[[[0.2, 0.4], [0.9, 0.5]]], [[[1, 1], [1, 1]]]])  # two images of 1 x 2 pixels, two channels
    drawn = _common.ordering(maps, np.zeros((2, 1, 2, 3)))
    least, most = to_rgb("#440154"), to_rgb("#fde725")
    np.testing.assert_allclose(drawn, [[[least, most]], [[least, least]]], atol=0.005)


def test_digits_for_rde_are_checked_and_shifted(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import mnist

    rng = np.random.default_rng(0)
    x = rng.integers(1, 256, (40, 28, 28)).astype("uint8")
    y = np.arange(40) % 10
    np.savez(tmp_path / "small.npz", x=x, y=y)
    digits = mnist.load(tmp_path / "small.npz")
    np.testing.assert_array_equal(digits.x_test[..., 0], (x[36:] / 255).astype("float32"))
    np.testing.assert_array_equal(digits.y_train, y[:36])
    np.savez(tmp_path / "wrong.npz", x=x)
    with pytest.raises(ValueError, match="has no array 'y'"):
        mnist.load(tmp_path / "wrong.npz")
    np.savez(tmp_path / "wrong.npz", x=x[:, 1:], y=y)
    with pytest.raises(ValueError, match=r"x of shape \(40, 27, 28\)"):
        mnist.load(tmp_path / "wrong.npz")

    image = np.repeat(digits.x_train[:1], 300, axis=0)
    padded = np.pad(image[0, ..., 0], 2)
    moved = {padded[i : i + 28, j : j + 28].tobytes() for i in range(5) for j in range(5)}
    assert {shifted.tobytes() for shifted in mnist.shifted(image, rng)} == moved


def test_squeezenet_names_what_is_wrong_with_the_weights(tmp_path):
    np.savez(tmp_path / "weights.npz", conv1_kernel=np.zeros((3, 3, 3, 96), "float32"))
    (tmp_path / "labels.txt").write_text("tench\n" * 1000)
    options = ("--weights", "weights.npz", "--labels", "labels.txt")
    done = run("imagenet_squeezenet.py", *options, cwd=tmp_path, code=1)
    assert "'conv1_kernel' in weights.npz has shape (3, 3, 3, 96), expected (7, 7, 3, 96)" in done.stderr


needs_weights = pytest.mark.skipif(
    not (WEIGHTS.is_file() and LABELS.is_file()),
    reason=f"no {WEIGHTS.name} and {LABELS.name} in {DATA}; set INNV_EXT_DATA to their folder",
)


@needs_weights
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


@needs_weights
def test_rde_photos_explains_and_reports_cost(tmp_path):
    imsave(tmp_path / "cat.png", chelsea())
    small = ("--photos", "cat.png", "--rates", 2, "--iterations", 1, "--features", "pixel", "--out", "maps/rde.png")
    done = run("rde_photos.py", "--weights", WEIGHTS, "--labels", LABELS, *small, cwd=tmp_path)
    assert "Warning" not in done.stderr  # a progress bar is all right
    assert "photo 1: cat.png, Egyptian cat 0.56" in done.stdout
    assert "2 rates, 1 iterations, 51,529 features" in done.stdout
    costs = re.findall(r"^(\w+), photo 1: (\d+) s, .*peak memory (\d+\.\d) GiB$", done.stdout, re.MULTILINE)
    assert [name for name, _, _ in costs] == ["mr_rde", "ord_rde"]
    assert all(0.2 < float(memory) < 8 for _, _, memory in costs)
    check_picture(tmp_path / "maps" / "rde.png", (1, 6), 3000)
