"""The examples as users run them: own process, real data, clean output, a table and pictures."""

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from example_checks import ROOT, check_picture, main_of, markdown_rows, pixels, run
from matplotlib.colors import to_rgb
from matplotlib.image import imread, imsave
from skimage.data import chelsea
from sklearn.datasets import load_digits

from innv_ext.evaluation.plotting import COLOURS

DATA = Path(os.environ.get("INNV_EXT_DATA", ROOT.parent / "shared" / "data"))
WEIGHTS, LABELS = DATA / "squeezenet_v1.0_imagenet.npz", DATA / "imagenet_labels.txt"


def rows(output):
    """The table: analyzer -> (first [s], all [s], sum/score, positive)."""
    pattern = r"^(\S.*?)  +(\d+\.\d+)  +(\d+\.\d+)  +(-?\d+\.\d+|-)  +(\d+)%  +(\S.*)$"
    found = re.findall(pattern, output, re.MULTILINE)
    return {name: (float(a), float(b), None if c == "-" else float(c), int(d)) for name, a, b, c, d, _ in found}


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


def test_a_saved_network_is_used_again_while_it_fits(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import digits
    import keras
    import mnist

    found, saved, made = mnist.load(), tmp_path / "net.keras", []

    def train(classes=10):
        keras.utils.set_random_seed(len(made))
        made.append(keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(classes)]))
        return made[-1]

    def find(**options):
        digits.find_model(saved, found, train, 5, **options)
        return "Training on 5 digits" in capsys.readouterr().out

    assert find(retrain=False, least=0.0)
    before = saved.read_bytes()
    assert not find(retrain=False, least=0.0)
    assert saved.read_bytes() == before
    assert find(retrain=True, least=0.0)
    assert saved.read_bytes() != before
    assert find(retrain=False, least=1.0)  # too many wrong
    train(classes=9).save(saved)
    assert find(retrain=False, least=0.0)
    saved.write_bytes(b"no model")
    assert find(retrain=False, least=0.0)
    assert len(made) == 6


def test_training_takes_whole_epochs(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import mnist

    few = mnist.Digits("few", np.zeros((130, 28, 28, 1), "float32"), *[np.zeros(1)] * 3)  # 3 updates an epoch
    assert [mnist.epochs_of(few, steps) for steps in (1, 3, 4, 9, 10)] == [1, 1, 2, 3, 4]


@pytest.mark.slow
def test_demo_trains_explains_and_draws(tmp_path):
    folder, done = tmp_path, run("demo.py", "--images", 3, cwd=tmp_path)
    assert done.stderr == ""  # no log of TensorFlow, no warnings
    assert "Training on 1347 digits" in done.stdout
    right = float(re.search(r"(\d+\.\d)% of 450 test images right", done.stdout)[1])
    assert right >= 97
    wrong = min(1, round(450 * (1 - right / 100)))
    assert f"Explaining 3 test images, {wrong} of them classified wrongly" in done.stdout

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


@pytest.mark.slow
def test_rde_mnist_trains_explains_and_draws(tmp_path):
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


def test_digits_of_a_file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import mnist

    found = load_digits()
    x = np.repeat(np.repeat(found.images, 4, axis=1), 4, axis=2)[:, 2:30, 2:30]
    x, y = np.rint(x / 16 * 255).astype("uint8"), found.target.astype("uint8")
    np.savez(tmp_path / "own.npz", x=x, y=y)
    digits = mnist.load(tmp_path / "own.npz")
    assert digits.name == "own"
    assert len(digits.x_test) == len(x) // 10
    read = np.concatenate([digits.x_train, digits.x_test])
    np.testing.assert_allclose(read[..., 0], x / np.float32(255), rtol=1e-6)
    np.testing.assert_array_equal(np.concatenate([digits.y_train, digits.y_test]), y)
    for wrong, message in (({"x": x}, "no array 'y'"), ({"x": x[:, 1:], "y": y}, r"shape \(1797, 27, 28\)")):
        np.savez(tmp_path / "wrong.npz", **wrong)
        with pytest.raises(ValueError, match=message):
            mnist.load(tmp_path / "wrong.npz")


@pytest.mark.slow
def test_caso_confidence_trains_explains_and_draws(tmp_path):
    out = tmp_path / "out" / "caso_confidence"
    done = run("caso_confidence.py", "--images", 100, cwd=tmp_path)
    assert done.stderr == ""
    assert "Training" in done.stdout
    assert float(re.search(r"digits28.keras: (\d+\.\d)% of 179 test images right", done.stdout)[1]) >= 70

    table = [(bounds, *map(float, rest)) for bounds, *rest in markdown_rows(done.stdout)]
    assert sum(images for _, images, *_ in table) == 100
    assert table[-1][0] == "0.99 to 1"
    for bounds, _, own, paper, largest in table:
        assert 0 <= paper < own / 5 < 0.4, bounds  # c1 = 10 hides the Hessian
        assert largest > 0, bounds
    doubtful, confident = table[0], table[-1]
    assert doubtful[2] > 5 * confident[2]  # the paper's finding
    assert doubtful[4] > 5 * confident[4]
    assert markdown_rows((out / "confidence.md").read_text(encoding="utf-8")) == markdown_rows(done.stdout)

    picture = np.rint(imread(out / "confidence.png")[..., :3] * 255).astype(int)
    assert picture.shape == (1110, 1350, 3)
    half = len(picture) // 2
    for maps in (picture[half:, :675], picture[half:, 675:]):  # of the doubtful and of the confident image
        assert pixels(maps, "black") > 10000
        assert pixels(maps, "#fcfdbf") > 50  # magma's end
    signed = picture[half:, 500:640]  # CASO - CAFO of a doubtful image, in the colours of seismic
    for strong, weak in ((0, 2), (2, 0)):
        assert np.sum((signed[..., strong] > 200) & (signed[..., weak] < 150) & (signed[..., 1] < 150)) > 100
    assert np.sum(signed.min(axis=2) >= 250) > 5000
    for colour in ("black", "#999999"):  # the running medians, not only in the legend
        assert pixels(picture[:half, :900], colour) > 500, colour
    blue = np.array([0x00, 0x72, 0xB2])
    faded = 255 - np.outer([0.55, 1 - 0.45**2], 255 - blue)  # one point, two on top of each other
    assert min(np.abs(picture[:half] - colour).sum(axis=2).min() for colour in faded) <= 6


def test_caso_confidence_compares_the_closed_forms_of_cafo_and_caso(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import caso_confidence as example
    import keras

    keras.utils.set_random_seed(3)
    stack = [keras.Input((4, 3, 1)), keras.layers.Flatten(), keras.layers.Dense(10, activation="relu")]
    model = keras.Sequential([*stack, keras.layers.Dense(4, activation="softmax")])
    x = np.random.default_rng(0).uniform(-1, 1, (7, 4, 3, 1)).astype("float32")
    (w1, b1), (w2, b2) = (layer.get_weights() for layer in model.layers[1:])
    for c1 in (10, 0.1):
        found, largest = example.differences(model, x, c1)
        for image, difference, eigenvalue in zip(x.reshape(7, 12), found, largest, strict=True):
            jacobian = (w1 * (image @ w1 + b1 > 0)) @ w2  # of the logits, (12, 4)
            z = np.maximum(image @ w1 + b1, 0) @ w2 + b2
            p = np.exp(z) / np.exp(z).sum()
            g = jacobian @ (p - (np.arange(4) == p.argmax()))
            hessian = jacobian @ (np.diag(p) - np.outer(p, p)) @ jacobian.T
            top = np.linalg.eigvalsh(hessian)[-1]
            second = np.linalg.solve((top + 2 * c1) * np.eye(12) - hessian, g)  # 2 lambda2 = L + 2 c1
            expected = np.linalg.norm(second / np.linalg.norm(second) - g / np.linalg.norm(g))
            assert difference == pytest.approx(expected, rel=2e-3, abs=1e-4)
            assert eigenvalue == pytest.approx(top, rel=1e-4)


def test_caso_confidence_summarises_and_normalises_as_it_says(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import caso_confidence as example
    from matplotlib import colormaps

    rng = np.random.default_rng(0)
    x, y = rng.random(47), rng.random(47)
    points = sorted(zip(x, y, strict=True))
    windows = [np.array(points[i : i + 4]) for i in range(44)]  # a tenth of 47
    middle = np.median(windows, axis=1)
    np.testing.assert_allclose(np.transpose(example.running_median(x, y)), middle)

    confidence, values = np.array([0.4, 0.41, 0.5, 0.995, 1.0]), np.array([1.0, 2, 4, 8, 16])
    rows = markdown_rows(example.table(confidence, values, values / 4, -values))
    assert rows == [
        ["0 to 0.4", "1", "1.0000", "0.2500", "-1.000"],
        ["0.4 to 0.5", "2", "3.0000", "0.7500", "-3.000"],
        ["0.99 to 1", "2", "12.0000", "3.0000", "-12.000"],
    ]

    steps = rng.standard_normal((2, 10, 12, 2))
    steps[1] = 0
    steps[1, 3, 4] = 2, -1  # fewer than 1 % of the pixels: cut at the largest
    drawn = example.like_paper(steps)
    for step, picture in zip(steps, drawn, strict=True):
        magnitudes = np.array([[sum(abs(v) for v in pixel) for pixel in line] for line in step])
        cut = np.percentile(magnitudes, 99) or magnitudes.max()
        np.testing.assert_allclose(picture, colormaps["magma"](np.minimum(magnitudes / cut, 1))[..., :3], atol=0.02)

    assert example.directions(np.zeros((1, 2, 2))).tolist() == [[0] * 4]
    np.testing.assert_allclose(example.directions(np.array([[[3.0], [-4.0]]])), [[0.6, -0.8]])


@pytest.mark.slow
def test_moreau_sparsity_trains_explains_and_draws(tmp_path):
    out = tmp_path / "out" / "moreau_sparsity"
    done = run("moreau_sparsity.py", "--images", 2, "--steps", 120, cwd=tmp_path)
    assert done.stderr == ""
    assert "Training" in done.stdout
    assert float(re.search(r"digits28.keras: (\d+\.\d)% of 179 test images right", done.stdout)[1]) >= 65

    table = markdown_rows(done.stdout)
    names = ["gradient"] + ["moreau_grad"] * 4 + ["sparse_moreau_grad"] * 5 + ["group_sparse_moreau_grad"] * 5
    assert [name for name, *_ in table] == names
    for name, parameter, _, status, residual, _ in table[1:]:
        assert sum(map(int, re.findall(r"\d+", status))) == 2, (name, parameter)
        assert float(residual) >= 0
        assert "converged" not in status or "," in status or float(residual) <= 1e-3, (name, parameter)
    zeros = [int(share.rstrip("%")) for _, _, share, *_ in table]
    distance = [float(number) for *_, number in table]
    assert zeros[:5] == [0] * 5
    assert distance[0] == 0 < distance[1] < 0.2
    for block in (slice(5, 10), slice(10, 15)):  # eta grows
        etas = [float(parameter.removeprefix("eta = ")) for _, parameter, *_ in table[block]]
        assert etas[0] == 0
        assert etas == sorted(etas)
        assert zeros[block][0] == 0
        assert zeros[block] == sorted(zeros[block])
        assert 50 < zeros[block][-1] < 100
        assert distance[block][-1] > distance[block][0]
    assert distance[5] == pytest.approx(distance[10], abs=0.02)  # both are MoreauGrad
    assert markdown_rows((out / "sparsity.md").read_text(encoding="utf-8")) == table
    check_picture(out / "maps.png", (2, 16), 3000)


def test_moreau_sparsity_finds_the_closed_forms_of_a_linear_score(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import keras
    import mnist
    import moreau_sparsity as example

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    rng = np.random.default_rng(0)
    x = rng.random((5, 28, 28, 1)).astype("float32")
    digits = mnist.Digits("noise", x, x, np.zeros(5), np.zeros(5))
    gradient = model.layers[-1].get_weights()[0].T[model(x).numpy().argmax(axis=1)].reshape(x.shape)
    vanilla, sparse, grouped = example.find_blocks(model, digits, x)
    for maps in vanilla.columns.values():
        np.testing.assert_allclose(maps, gradient, atol=1e-4)
    norm = np.mean(np.sqrt(np.square(x).sum(axis=(1, 2, 3))))
    assert sparse.title == rf"Sparse MoreauGrad, $\rho$ = {1 / np.sqrt(norm):.2g}"

    peaks = {1: np.median([np.abs(w).max() for w in gradient])}
    blocks = [[w[i : i + 4, j : j + 4] for i in range(0, 28, 4) for j in range(0, 28, 4)] for w in gradient]
    peaks[4] = np.median([max(np.linalg.norm(b) for b in image) for image in blocks])
    for block, size in ((sparse, 1), (grouped, 4)):
        for share, maps, row in zip((0, 0.1, 0.2, 0.4, 0.6), block.columns.values(), block.rows, strict=True):
            eta = float(row[1].removeprefix("eta = "))
            assert eta == pytest.approx(share * peaks[size], rel=0.06)
            expected = gradient.copy()
            for w in expected:
                for i in range(0, 28, size):
                    for j in range(0, 28, size):
                        part = w[i : i + size, j : j + size]  # a view
                        part *= max(1 - eta / np.linalg.norm(part), 0)
            np.testing.assert_allclose(maps, expected, atol=1e-4)
            away = [np.linalg.norm(m - w) / np.linalg.norm(w) for m, w in zip(expected, gradient, strict=True)]
            assert float(row[5]) == pytest.approx(np.mean(away), abs=0.006)
            assert int(row[2].rstrip("%")) == pytest.approx(100 * np.mean(expected == 0), abs=1.1)
            assert row[3] == "5 converged"


@pytest.mark.slow
def test_patterns_trains_learns_and_draws(tmp_path):
    out = tmp_path / "out" / "patterns"
    done = run("patterns.py", "--images", 3, "--steps", 150, cwd=tmp_path)
    assert done.stderr == ""
    assert "Training" in done.stdout
    assert float(re.search(r"digits28.keras: (\d+\.\d)% of 179 test images right", done.stdout)[1]) >= 70

    text = (out / "patterns.md").read_text(encoding="utf-8")
    assert text in done.stdout
    toys, network = (markdown_rows(part) for part in text.split("\n\n"))
    for (distractor, _, weights, _, pattern), expected in zip(toys, ("(1, 1)", "(0.5, -1)"), strict=True):
        a, b = map(float, distractor.strip("()").split(","))
        assert distractor == expected
        away = np.degrees(np.arccos(abs(b) / np.hypot(a, b)))  # the weights are orthogonal to the distractor
        assert float(weights.rstrip("°")) == pytest.approx(away, abs=0.1)
        assert float(pattern.rstrip("°")) < 2
    assert [(name, int(count)) for name, count, *_ in network[:1]] == [("first", 16)]
    assert [int(count) for _, count, *_ in network] == [16, 32, 64, 10]
    for name, _, dead, median, bounds in network:
        low, high = map(float, bounds.split(" to "))
        assert 0 <= int(dead.rstrip("%")) < 50, name
        assert 0 <= low <= float(median) <= high < 1, name

    check_picture(out / "maps.png", (3, 6), 3000)
    picture = np.rint(imread(out / "filters.png")[..., :3] * 255).astype(int)
    height, width = picture.shape[:2]
    assert 1000 < height < 1600
    assert 1000 < width < 1600
    toy, filters = picture[: int(0.42 * height)], picture[int(0.5 * height) :]
    for colour in ("#222222", "#8c8c8c", "#d55e00", "#0072b2"):
        assert pixels(toy, colour) > 300, colour
    for strong, weak in ((0, 2), (2, 0)):  # the ends of seismic
        assert np.mean((filters[..., strong] > 100) & (filters[..., weak] < 60) & (filters[..., 1] < 60)) > 0.02

    for top, bottom in ((0.51, 0.58), (0.60, 0.67)):  # weights, patterns
        strip = picture[int(top * height) : int(bottom * height), int(0.15 * width) : int(0.92 * width)]
        assert np.mean(np.ptp(strip, axis=2) > 60) > 0.3


def test_patterns_of_the_toy_are_covariances(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import patterns as example

    for distractor in ((1, 1), (0.5, -1), (-2, 0.3)):
        toy = example.solve_toy(distractor)
        e = (toy.x - np.outer(toy.y, example.SIGNAL)) @ distractor / np.dot(distractor, distractor)
        np.testing.assert_allclose(toy.x, np.outer(toy.y, example.SIGNAL) + np.outer(e, distractor), atol=1e-12)
        np.testing.assert_allclose(toy.gradient, [1, -distractor[0] / distractor[1]], rtol=1e-5)
        covariance = np.cov(toy.x.T, toy.y)[:2, 2] / np.var(toy.y, ddof=1)  # of x and the output, which is y
        np.testing.assert_allclose(toy.pattern, covariance * toy.y.max(), atol=1e-5)
    assert example.degrees(np.array([0.0, 2]), np.array([-1.0, 0])) == pytest.approx(90)


def test_patterns_compares_weights_and_patterns_neuron_by_neuron(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import keras
    import patterns as example

    keras.utils.set_random_seed(0)
    stack = [keras.Input((6, 6, 1)), keras.layers.Conv2D(3, 3, activation="relu", name="first"), keras.layers.Flatten()]
    model = keras.Sequential([*stack, keras.layers.Dense(2, name="last")])
    kernel, bias = model.get_layer("first").get_weights()
    bias[1] = -100  # never fires
    model.get_layer("first").set_weights([kernel, bias])
    x = np.random.default_rng(0).random((40, 6, 6, 1)).astype("float32")
    found = example.compare(model, example.learn_patterns(model, x))
    assert list(found) == ["first", "last"]
    dead, cosines = found["first"]
    assert dead.tolist() == [False, True, False]

    patches = [
        image[i : i + 3, j : j + 3, 0].ravel() for image in x.astype("float64") for i in range(4) for j in range(4)
    ]
    for neuron in (0, 2):
        w = kernel[..., neuron].ravel()
        u = np.array([w @ patch for patch in patches])
        fires = u + bias[neuron] > 0
        inputs = np.array(patches)[fires]
        direction = (inputs * u[fires][:, None]).mean(axis=0) - inputs.mean(axis=0) * u.mean()
        a = direction / (w @ direction)
        assert cosines[neuron] == pytest.approx(w @ a / np.linalg.norm(w) / np.linalg.norm(a), abs=1e-4)
    assert cosines[1] == 0
    first, last = markdown_rows(example.layer_table(found))
    low, high = sorted(cosines[[0, 2]])
    assert first == ["first", "3", "33%", f"{(low + high) / 2:.2f}", f"{low:.2f} to {high:.2f}"]
    assert last[:3] == ["last", "2", "0%"]
    nothing = {"silent": (np.array([True]), np.zeros(1))}
    assert markdown_rows(example.layer_table(nothing)) == [["silent", "1", "100%", "-", "-"]]


@pytest.mark.slow
def test_text_embedding_trains_explains_and_draws(tmp_path):
    out = tmp_path / "out" / "text"
    done = run("text_embedding.py", "--epochs", 30, cwd=tmp_path)
    assert done.stderr == ""
    assert float(re.search(r"(\d+\.\d)% of 60 test sentences right", done.stdout)[1]) >= 90
    table = markdown_rows(done.stdout)
    assert markdown_rows((out / "words.md").read_text(encoding="utf-8")) == table
    methods = ["input_t_gradient", "lrp.epsilon", "integrated_gradients", "deep_lift", "occlusion"]
    assert [name for name, *_ in table] == methods
    for name, praise, complaint, _, gap in table:
        assert float(gap) < 1e-4, name
        good, bad = ([float(value) for value in re.findall(r" ([+-]\d+\.\d\d)", cell)] for cell in (praise, complaint))
        assert len(good) == len(bad) == 4
        assert good == sorted(good, reverse=True)
        assert bad == sorted(bad)
        assert good[0] > 0 > bad[0], name

    picture = np.rint(imread(out / "words.png")[..., :3] * 255).astype(int)
    assert picture.shape[1] == 1335
    assert 900 < picture.shape[0] < 1500
    blocks = np.array_split(picture[:-100], 4)  # a sentence each
    red, blue = "#800000", "#00004c"  # the ends of the colours
    for block, most, least in zip(blocks[:3], (red, red, blue), (blue, blue, red), strict=True):
        assert pixels(block, most) > 2000 + pixels(block, least)  # praise, praise, complaint
    for colour in (red, blue):
        assert pixels(picture[-100:], colour) > 10, colour  # the bar


def test_text_embedding_makes_sentences_that_mean_what_their_labels_say(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import text_embedding as example

    texts, labels = example.make_sentences()
    assert len(texts) == len(set(texts)) == len(labels) == 240
    assert not set(texts) & set(example.SHOWN)
    assert [labels.tolist().count(label) for label in (0, 1)] == [120, 120]
    for text, label in zip(texts, labels, strict=True):
        words = set(text.split())
        kind = bool(words & set(example.GOOD))
        assert kind != bool(words & set(example.BAD))
        assert label == kind ^ bool(words & {"not", "never"}), text
    assert 40 < sum("not" in text.split() or "never" in text.split() for text in texts) < 120
    assert example.make_sentences()[0] == texts

    vocabulary = example.make_vocabulary(["b a", "c a"])
    assert vocabulary == {"a": 1, "b": 2, "c": 3}
    assert example.to_tokens(["c a b", "a"], vocabulary).tolist() == [[3, 1, 2] + [0] * 7, [1] + [0] * 9]
    found = dict(example.ranking(["a b", "b c"], np.array([[1.0, 2, 9], [4, -1, 9]])))
    assert found == {"a": 1, "b": 3, "c": -1}
    assert list(found) == ["b", "a", "c"]


def test_text_embedding_explains_a_linear_model_in_closed_form(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import keras
    import text_embedding as example

    keras.utils.set_random_seed(0)
    tokens = keras.Input((example.LENGTH,), dtype="int32")
    vectors = keras.layers.Embedding(6, 4, name="embedding")(tokens)
    score = keras.layers.Dense(1)(keras.layers.Flatten()(vectors))
    model = keras.Model(tokens, score)
    (lookup,), (weights, _) = (model.layers[i].get_weights() for i in (1, 3))
    model.layers[3].set_weights([weights, np.array([0.3])])
    x = np.random.default_rng(0).integers(0, 6, (3, example.LENGTH))
    found = example.explain(model, x)
    np.testing.assert_allclose(found.scores, model.predict(x, verbose=0)[:, 0], rtol=1e-5)
    weights = weights.reshape(example.LENGTH, 4)
    for name, maps in found.relevance.items():
        base = np.zeros(4) if name in ("input_t_gradient", "lrp.epsilon") else lookup[0]
        expected = np.array([[(lookup[token] - base) @ weights[i] for i, token in enumerate(row)] for row in x])
        if name == "lrp.epsilon":
            expected *= (found.scores / (found.scores + 0.25 * np.sign(found.scores)))[:, None]
        np.testing.assert_allclose(maps, expected, rtol=1e-3, atol=1e-5, err_msg=name)
    assert max(example.differences(found).values()) < 1e-5
    found.behind["lrp.epsilon"][0, 0] += 1e-3
    with pytest.raises(RuntimeError, match=r"lrp\.epsilon differs"):
        example.differences(found)


def test_options_of_the_digit_examples_are_checked(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import _common

    def read(*arguments):
        monkeypatch.setattr(sys, "argv", ["example.py", *arguments])
        return _common.read_options("What it does.", "out/somewhere", images=(3, "test images"))

    assert vars(read()) == {"data": None, "out": Path("out/somewhere"), "images": 3, "retrain": False}
    (tmp_path / "digits.npz").touch()
    options = read("--images", "5", "--data", str(tmp_path / "digits.npz"), "--out", "o", "--retrain")
    assert vars(options) == {"data": tmp_path / "digits.npz", "out": Path("o"), "images": 5, "retrain": True}
    for wrong, message in ((("--images", "0"), "--images must be at least 1"), (("--data", "no"), "no file no")):
        with pytest.raises(SystemExit) as stop:
            read(*wrong)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


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


def test_squeezenet_names_what_is_wrong_with_the_weights(tmp_path, monkeypatch, capfd):
    np.savez(tmp_path / "weights.npz", conv1_kernel=np.zeros((3, 3, 3, 96), "float32"))
    (tmp_path / "labels.txt").write_text("tench\n" * 1000)
    options = ("--weights", "weights.npz", "--labels", "labels.txt")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import imagenet_squeezenet as example

    wrong = re.escape("'conv1_kernel' in weights.npz has shape (3, 3, 3, 96), expected (7, 7, 3, 96)")
    with pytest.raises(ValueError, match=wrong):
        main_of(example, *options, cwd=tmp_path, monkeypatch=monkeypatch, capfd=capfd)


needs_weights = pytest.mark.skipif(
    not (WEIGHTS.is_file() and LABELS.is_file()),
    reason=f"no {WEIGHTS.name} and {LABELS.name} in {DATA}; set INNV_EXT_DATA to their folder",
)


@pytest.mark.slow
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


@pytest.mark.slow
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
