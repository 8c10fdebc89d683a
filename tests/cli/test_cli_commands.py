"""The commands against direct calls of the library."""

import json
import re

import keras
import numpy as np
import pytest
import zoo
from cli_pictures import pictures, pixels

import innv_ext
from innv_ext.cli.reading import load_array
from innv_ext.visualization import imshow_grid, plot_signals, plot_tables, plot_tokens, plot_volumes

pytestmark = pytest.mark.filterwarnings("default::UserWarning")  # they become lines


def drawn(figure, path):
    figure.savefig(path, dpi=200, facecolor="white", bbox_inches=figure.bbox_inches)
    return pixels(path)


def test_samples_of_an_array_get_numbers(run, files, tmp_path):
    code, out, err = run("explain net.h5 x.npz photo.png --analyzer gradient --param batch_size=2 --npz --out {out}")
    assert (code, err) == (0, "") and len(out.splitlines()) == 4
    x = load_array(files / "x.npz")
    expected = innv_ext.create_analyzer("gradient", keras.models.load_model(files / "net.keras")).analyze(x)
    for i in range(3):
        with np.load(tmp_path / "out" / f"x_{i}_gradient.npz") as arrays:
            np.testing.assert_allclose(arrays["relevance"], expected[i], atol=1e-6)
            np.testing.assert_array_equal(arrays["x"], x[i])
    assert (tmp_path / "out" / "photo_gradient.png").is_file()


def test_files_of_one_name_do_not_overwrite_each_other(run, files, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "photo.png").write_bytes((files / "photo.png").read_bytes())
    photos = "photo.png {tmp}/one/photo.png {tmp}/two/photo.png"
    code, out, _ = run(f"explain net.keras {photos} --analyzer input --out {{out}}")
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert code == 0 and names == {"photo_input.png", "photo-2_input.png", "photo-3_input.png"}
    assert len(out.splitlines()) == 3
    for name in ("x_1.npy", "x_0-2.npy"):
        np.save(tmp_path / name, np.zeros((12, 16, 3)))
    arrays = "{tmp}/x_1.npy x.npz {tmp}/x_1.npy {tmp}/x_0-2.npy"
    code, out, _ = run(f"explain net.keras {arrays} --analyzer input --out {{tmp}}/b")
    written = sorted(p.stem for p in (tmp_path / "b").iterdir())
    stems = ["x-2_0", "x-2_1", "x-2_2", "x_0-2", "x_1", "x_1-2"]
    assert code == 0 and written == sorted(f"{stem}_input" for stem in stems)


@pytest.mark.parametrize("mode", ["graymap", "mask_input"])
def test_modes_and_quiet(run, files, tmp_path, mode):
    code, out, err = run(f"explain net.keras photo.png --analyzer gradient --mode {mode} --quiet --npz --out {{out}}")
    assert (code, out, err) == (0, "", "")
    with np.load(tmp_path / "out" / "photo_gradient.npz") as found:
        texts = {"predictions": [str(found["output"].argmax())], "scores": [float(found["score"])]}
        maps = {"gradient": found["relevance"][None]}
    imshow_grid(pictures(files)[:1], maps, **texts, mode=mode, cell=1.6, path=tmp_path / "own.png")
    np.testing.assert_array_equal(pixels(tmp_path / "out" / "photo_gradient.png"), pixels(tmp_path / "own.png"))


KINDS = {
    "table": ((5,), plot_tables, "float32"),
    "signal": ((9, 2), plot_signals, "float32"),
    "volume": ((3, 4, 5, 1), plot_volumes, "float32"),
    "tokens": ((6,), lambda x, *a, **k: plot_tokens([[str(t) for t in row] for row in x], *a, **k), "int32"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_of_data_get_their_own_pictures(run, tmp_path, kind):
    shape, plot, dtype = KINDS[kind]
    x = np.random.default_rng(0).integers(0, 7, shape).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    code, out, err = run(f"explain {kind}.keras {{tmp}}/x.npy --analyzer lrp.epsilon --npz --out {{out}}")
    assert (code, err) == (0, "")
    with np.load(tmp_path / "out" / "x_lrp.epsilon.npz") as found:
        np.testing.assert_array_equal(found["x"], x)
        one, score = found["output"].size == 1, f"score: {float(found['score']):.4g}"
        text = score if one else f"pred: {found['output'].argmax()}, {score}"
        own = plot(x[None], {"lrp.epsilon": found["relevance"][None]}, row_names=[text])
    np.testing.assert_array_equal(pixels(tmp_path / "out" / "x_lrp.epsilon.png"), drawn(own, tmp_path / "own.png"))
    assert out.endswith(f"x_lrp.epsilon.png: {text}\n")


def test_maps_of_channels_first_models_are_turned(run, files, tmp_path):
    """One model with either data format gives one picture; so does one without a channel axis."""
    last, first, grey = keras.Input((12, 16, 1)), keras.Input((1, 12, 16)), keras.Input((12, 16))
    dense = keras.layers.Dense(2)
    flat = keras.layers.Flatten()(last)
    keras.Model(last, dense(flat)).save(tmp_path / "last.keras")
    pooled = keras.layers.AveragePooling2D(1, data_format="channels_first")
    keras.Model(first, dense(keras.layers.Flatten()(pooled(first)))).save(tmp_path / "first.keras")
    shaped = pooled(keras.layers.Reshape((1, 12, 16))(grey))
    keras.Model(grey, dense(keras.layers.Flatten()(shaped))).save(tmp_path / "grey.keras")
    found = []
    for name in ("last", "first", "grey"):
        options = f"--analyzer gradient --out {{tmp}}/{name}"
        assert run(f"explain {{tmp}}/{name}.keras photo.png {options}")[::2] == (0, "")
        found.append(pixels(tmp_path / name / "photo_gradient.png"))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_fit_reads_training_data(run, files, tmp_path):
    options = "--analyzer deep_shap --param background=2 --fit x.npz --npz --out {out}"
    code, _, err = run(f"explain net.keras photo.png {options}")
    assert (code, err) == (0, "")
    analyzer = innv_ext.create_analyzer("deep_shap", keras.models.load_model(files / "net.keras"), background=2)
    analyzer.fit(load_array(files / "x.npz"))
    expected = analyzer.analyze(pictures(files)[:1] / np.float32(255))[0]
    with np.load(tmp_path / "out" / "photo_deep_shap.npz") as found:
        np.testing.assert_allclose(found["relevance"], expected, atol=1e-6)


def test_custom_layers_and_analyzers_come_from_a_module(run, files, tmp_path):
    (tmp_path / "own.py").write_text(
        "import keras, innv_ext\n"
        "class Twice(keras.layers.Layer):\n    def call(self, x):\n        return 2 * x\n"
        "class Plain(innv_ext.analyzers.Gradient):\n    'A gradient.'\n"
        "innv_ext.register_analyzer('test_cli.plain', Plain)\n"
    )
    class Twice(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    keras.Sequential([keras.Input((4,)), Twice(), keras.layers.Dense(1)]).save(tmp_path / "own.keras")
    np.save(tmp_path / "x.npy", np.ones((2, 4)))
    line = "explain {tmp}/own.keras {tmp}/x.npy --analyzer test_cli.plain --out {out}"
    assert run(line)[0] == 2
    code, _, err = run(f"{line} --module {{tmp}}/own.py")
    assert (code, err) == (0, "") and len(list((tmp_path / "out").iterdir())) == 2
    code, out, _ = run("list --family user --module {tmp}/own.py")
    assert code == 0 and re.search(r"^test_cli\.plain +user +A gradient\.$", out, flags=re.M)


def test_list(run):
    rows = [row for row in innv_ext.list_analyzers() if row.family == "lrp"]
    code, out, err = run("list --family lrp")
    assert (code, err) == (0, "") and [line.split()[0] for line in out.splitlines()] == [row.name for row in rows]
    assert all(row.description in out for row in rows)
    assert "(needs --param low=..., --param high=..." in run("list --family deep_taylor")[1]
    found = {row["name"]: row for row in json.loads(run("list --json")[1])}
    for row in innv_ext.list_analyzers():
        mine = found[row.name]
        shown = ("family", "description", "signed", "needs_relu", "needs_fit", "cost", "sums_to", "reference")
        assert {k: mine[k] for k in shown} == {k: getattr(row, k) for k in shown}
        assert set(mine["parameters"]) | set(mine["required"]) == set(row.parameters())
    assert found["lrp.epsilon"]["parameters"]["epsilon"] == 1e-7


def test_summary_is_the_plan(run, files):
    code, out, err = run("summary net.keras --analyzer lrp.alpha_beta --param alpha=3 --param beta=2")
    analyzer = innv_ext.create_analyzer("lrp.alpha_beta", keras.models.load_model(files / "net.keras"), alpha=3, beta=2)
    assert (code, err, out) == (0, "", analyzer.summary() + "\n")


def test_warnings_are_lines_with_the_name_of_the_file(run, tmp_path):
    np.save(tmp_path / "zero.npy", np.zeros((2, 12, 16, 3)))
    line = "explain net.keras {tmp}/zero.npy --analyzer input_t_gradient --out {out}"
    code, _, err = run(line)
    assert code == 0
    assert re.fullmatch(r"(innv-ext: warning: zero_\d_input_t_gradient\.png: .*zero everywhere.*\n){2}", err)
    assert run(f"{line} --quiet")[2] == ""


def test_labels_of_windows_editors_and_labels_that_are_objects(tmp_path):
    from innv_ext.cli.loading import read_labels
    from innv_ext.errors import InvalidInputError

    path = tmp_path / "labels.txt"
    path.write_text("cat\ndog\n", encoding="utf-8-sig")
    assert read_labels(path) == {0: "cat", 1: "dog"}
    path.write_text('{"0": "cat", "1": {"x": 1}}', encoding="utf-8")
    with pytest.raises(InvalidInputError, match="names are needed, not objects"):
        read_labels(path)


def test_an_encoding_without_our_signs_costs_nothing(monkeypatch):
    import io

    from innv_ext.cli import main as cli_main

    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252", errors="strict")
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setattr("innv_ext.cli.app._run", lambda options: print("aopc \u2191") or 0)
    assert cli_main(["list"]) == 0
    assert stream.errors == "strict"
    assert stream.buffer.getvalue() == rb"aopc \u2191" + b"\n"


def test_models_with_several_inputs_take_an_array_for_each(run, tmp_path):
    """Pictures and arrays of each input; the same maps as in Python, and a comparison."""
    sample = zoo.make("two_inputs")
    sample.model.save(tmp_path / "two.keras")
    image, table = sample.inputs(2)
    np.savez(tmp_path / "x.npz", image=image, table=table, other=np.zeros(3))
    np.savez(tmp_path / "one.npz", image=image[1], table=table[1])
    line = "explain {tmp}/two.keras {tmp}/x.npz {tmp}/one.npz --analyzer gradient --npz --out {out}"
    code, out, err = run(line)
    assert (code, err, len(out.splitlines())) == (0, "", 6)
    stems = ["x_0_gradient", "x_1_gradient", "one_gradient"]
    files = {f"{stem}{end}" for stem in stems for end in ("_image.png", "_table.png", ".npz")}
    assert {p.name for p in (tmp_path / "out").iterdir()} == files
    maps = zoo.create("gradient", sample.model).analyze([image, table])
    for stem, i in zip(stems, (0, 1, 1), strict=True):
        with np.load(tmp_path / "out" / f"{stem}.npz") as arrays:
            np.testing.assert_allclose(arrays["relevance_image"], maps[0][i], rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(arrays["relevance_table"], maps[1][i], rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(arrays["x_table"], table[i], rtol=1e-6)
    line = "compare {tmp}/two.keras {tmp}/x.npz --analyzers gradient,random --fit {tmp}/x.npz --out {out}/c"
    code, out, err = run(line)
    assert (code, err) == (0, "") and "| gradient |" in out
    assert {"maps_1.png", "maps_2.png"} <= {p.name for p in (tmp_path / "out" / "c").iterdir()}


def test_two_labels_of_a_single_neuron(run, tmp_path):
    """The score of the neuron is that of the second label; the first one is its negative."""
    x = np.random.default_rng(0).normal(size=(2, 4)).astype("float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, activation="sigmoid")])
    model.save(tmp_path / "one.keras")
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    expected = innv_ext.create_analyzer("input_t_gradient", model).analyze(x)
    for name, sign in (("dog", 1), ("cat", -1)):
        line = "explain {tmp}/one.keras {tmp}/x.npy --analyzer input_t_gradient --labels {tmp}/labels.txt"
        code, out, err = run(f"{line} --neuron {name} --npz --out {{tmp}}/{name}")
        assert (code, err) == (0, "") and out.count(f"neuron: {name}") == 2
        with np.load(tmp_path / name / "x_0_input_t_gradient.npz") as found:
            np.testing.assert_allclose(found["relevance"], sign * expected[0], rtol=1e-6)
