"""What goes wrong: the exit code, one line that says what to do, and nothing written."""

import os

import keras
import numpy as np
import pytest
from keras import layers

from innv_ext.cli import main

END = "--analyzer gradient --out {out}"
BOTH = "compare net.keras photo.png --analyzers"
ONE = "explain net.keras photo.png --out {out} --analyzer"
USAGE = {
    "no command": ("", "COMMAND"),
    "unknown option": (f"{ONE} gradient --bogus", "--bogus"),
    "unknown analyzer": (f"{ONE} gradiant", "no analyzer 'gradiant'. Did you mean 'gradient'"),
    "unknown analyzer in a comparison": (f"{BOTH} lrp.y", "no analyzer 'lrp.y'. Did you"),
    "unknown analyzer in a summary": ("summary net.keras --analyzer lrp.y", "no analyzer 'lrp.y'"),
    "unknown family": ("list --family lpr", "Did you mean 'lrp'"),
    "unknown parameter": (f"{ONE} lrp.epsilon --param epsilom=1", "no parameter 'epsilom'. Did you mean 'epsilon'"),
    "parameter of another type": (f"{ONE} lrp.epsilon --param epsilon=abc", "epsilon must be a number of at least 0"),
    "parameter of another type, no bool": (f"{ONE} lrp.epsilon --param bias=1", "one of True, False, got 1"),
    "parameter of another type, bool": (f"{ONE} smoothgrad --param augment_by_n=true", "at least 1, got True"),
    "impossible parameter": (f"{ONE} lrp.alpha_beta --param alpha=5", "alpha - beta = 1"),
    "bounds that are no numbers": (f"{ONE} deep_taylor.bounded --param low=a --param high=1", "low must be a number"),
    "missing parameter": (f"{ONE} deep_taylor.bounded", "low, high"),
    "missing data": (f"{ONE} pattern.net", "pattern.net learns from data: give some with --fit"),
    "missing data in a comparison": (f"{BOTH} pattern.net", "give some with --fit"),
    "no such data": (f"{ONE} pattern.net --fit nowhere", "no file or folder nowhere"),
    "data that don't fit": (f"{ONE} pattern.net --fit grey.npy", "no file or folder grey.npy"),
    "no model": (f"explain none.keras photo.png {END}", "no file none.keras"),
    "corrupt model": (f"explain cut.keras photo.png {END}", "cut.keras cannot be loaded as a Keras"),
    "foreign model": (f"explain photo.png photo.png {END}", "photo.png cannot be loaded"),
    "weights alone": (f"explain {{tmp}}/weights.h5 photo.png {END}", "holds weights alone; build the model"),
    "no image": (f"explain net.keras none.png {END}", "no file none.png"),
    "torn image": (f"explain net.keras photo.png torn.png {END}", "torn.png: cannot be read"),
    "no image at all": (f"explain net.keras labels.txt {END}", "labels.txt: cannot be read as an im"),
    "image for a table": (f"explain table.keras photo.png {END}", "photo.png: the model takes samples"),
    "array of another shape": (f"explain table.keras x.npz {END}", "x.npz: x for"),
    "unknown mode": (f"{ONE} gradient --mode bland", "Did you mean 'blend'"),
    "mode for images": (f"explain table.keras {{tmp}}/t.npy {END} --mode blend", "have only heatmap"),
    "neuron out of range": (f"{ONE} gradient --neuron 3", "neuron_selection 3 (sample 0) is out of range"),
    "neuron of another rank": (f"{ONE} gradient --neuron 1,2", "neuron_selection has shape"),
    "label without labels": (f"{ONE} gradient --neuron tabby", "--labels FILE"),
    "unknown label": (f"{ONE} gradient --neuron tabbi --labels labels.txt", "Did you mean 'tabby'"),
    "label of two outputs": (f"{ONE} gradient --neuron a --labels {{tmp}}/twice.json", "several outputs: [0, 2]"),
    "too few labels": (f"{ONE} gradient --labels {{tmp}}/few.json", "2 names, but the model has 3 outputs"),
    "too few labels in a comparison": (f"{BOTH} gradient --labels {{tmp}}/few.json", "2 names"),
    "no labels": (f"{ONE} gradient --labels none.txt", "no file none.txt"),
    "labels that are no labels": (f"{ONE} gradient --labels photo.png", "--labels: photo.png"),
    "broken labels": (f"{ONE} gradient --labels {{tmp}}/broken.json", "broken.json"),
    "numbers for other channels": (f"{ONE} gradient --mean 1,2", "--mean has 2 numbers for 3 channels"),
    "two kinds of preprocessing": (f"{ONE} gradient --std 1 --preprocess keras.applications.vgg16", "instead of --std"),
    "unknown preprocessing": (f"{ONE} gradient --preprocess keras.applications.vgg", "vgg16"),
    "unreadable preprocessing": (f"{ONE} gradient --preprocess vgg16", "keras.applications.NAME or a file"),
    "preprocessing without a function": (f"{ONE} gradient --preprocess {{tmp}}/empty.py", "no function preprocess"),
    "preprocessing that fails": (f"{ONE} gradient --preprocess {{tmp}}/fails.py", "ZeroDivisionError"),
    "preprocessing of another shape": (f"{ONE} gradient --preprocess {{tmp}}/shape.py", "the model takes"),
    "preprocessing that drops samples": (f"{ONE} gradient --preprocess {{tmp}}/drops.py", "with 1 samples"),
    "module that fails": (f"{ONE} gradient --module {{tmp}}/syntax.py", "syntax.py fails with SyntaxError"),
    "module that leaves": (f"{ONE} gradient --module {{tmp}}/leaves.py", "leaves.py fails with SystemExit: gone"),
    "module that is missing": ("list --module none.py", "no file none.py"),
    "module that is no Python": ("list --module labels.txt", "no Python file"),
    "folder that is a file": ("explain net.keras photo.png --analyzer input --out labels.txt", "folder 'labels.txt'"),
    "folder below a file": ("explain net.keras photo.png --analyzer gradient --out labels.txt/a", "--out"),
    "report below a file": (f"{BOTH} gradient --report labels.txt/r.html", "--report"),
    "report that is a folder": (f"{BOTH} gradient --report {{tmp}}", "folder"),
    "parameter of no analyzer": (f"{BOTH} gradient --param epsilon=1", "NAME:KEY=VALUE"),
    "unknown parameter in a comparison": (f"{BOTH} lrp.z --param lrp.z:a=1 --out {{out}}", "'a'"),
    "unknown metric": (f"{BOTH} gradient --metrics ginny --report {{out}}/r.html", "gini"),
    "samples of several sizes": ("compare {tmp}/free.keras photo.png grey.png --analyzers gradient", "one size"),
    "image for two inputs": (f"explain {{tmp}}/two.keras photo.png {END}", "has the inputs left, right: give .npz"),
    "array for two inputs": (f"explain {{tmp}}/two.keras x.npz {END}", "left, right missing"),
    "scale of two inputs": (f"explain {{tmp}}/two.keras x.npz {END} --scale 0,1", "--scale is for models with one"),
    "Lambda layers": (f"explain {{tmp}}/lambda.keras {{tmp}}/t.npy {END}", "--unsafe"),
}  # fmt: skip


@pytest.fixture(scope="module")
def more(tmp_path_factory):
    """Files that only these tests need."""
    root = tmp_path_factory.mktemp("more")
    texts = {
        "twice.json": '["a", "b", "A"]', "few.json": '{"0": ["n1", "cat"], "1": ["n2", "dog"]}', "broken.json": "[1, ",
        "empty.py": "", "syntax.py": "def", "fails.py": "def preprocess(x): return x / (1 // 0)", "leaves.py":
        "import sys; sys.exit('gone')", "shape.py": "def preprocess(x): return x[:, 1:]",
        "drops.py": "def preprocess(x): return x[1:]",
    }  # fmt: skip
    for name, text in texts.items():
        (root / name).write_text(text)
    np.save(root / "t.npy", np.ones(5))
    keras.Sequential([keras.Input((5,)), layers.Dense(2)]).save_weights(root / "a.weights.h5")
    (root / "a.weights.h5").rename(root / "weights.h5")
    a, b = keras.Input((5,), name="left"), keras.Input((5,), name="right")
    keras.Model([a, b], layers.Add()([a, b])).save(root / "two.keras")
    keras.Sequential([keras.Input((5,)), layers.Lambda(lambda x: 2 * x)]).save(root / "lambda.keras")
    keras.Sequential([keras.Input((None, None, 3)), layers.GlobalAveragePooling2D()]).save(root / "free.keras")
    return root


@pytest.fixture
def here(run, more, tmp_path):
    """``run`` with these files at {tmp}."""
    for path in more.iterdir():
        os.link(path, tmp_path / path.name)
    return run


@pytest.mark.parametrize("case", USAGE)
def test_usage_and_input_errors(here, tmp_path, case):
    line, text = USAGE[case]
    before = sorted(tmp_path.rglob("*"))
    code, out, err = here(line)
    assert (code, out) == (2, "") and text in err
    assert err.startswith("innv-ext: error: ") and err.count("\n") == 1 and "Traceback" not in err
    assert [p for p in sorted(tmp_path.rglob("*")) if "__pycache__" not in p.parts] == before


def test_an_analyzer_that_cannot_explain_the_model_is_exit_code_1(here, tmp_path):
    code, out, err = here("explain table.keras {tmp}/t.npy --analyzer deep_taylor --out {out}")
    assert (code, out) == (1, "") and err.startswith("innv-ext: error: deep_taylor: ") and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.fixture
def broken(tmp_path):
    """A module with an analyzer that breaks at the second batch."""
    (tmp_path / "broken.py").write_text(
        "from innv_ext.analyzers import Gradient\nimport innv_ext\n"
        "class Broken(Gradient):\n"
        "    def explain_batch(self, xs, *args, **options):\n"
        "        if xs[0].max() > 1:\n            raise RuntimeError('out of\\norder')\n"
        "        return super().explain_batch(xs, *args, **options)\n"
        "innv_ext.register_analyzer('test_cli.broken', Broken)\n"
    )
    x = np.ones((3, 5))
    x[2] = 2
    np.save(tmp_path / "x.npy", x)


def test_what_is_done_stays_when_an_analyzer_breaks(run, broken, tmp_path):
    code, out, err = run(
        "explain table.keras {tmp}/x.npy --module {tmp}/broken.py --analyzer test_cli.broken --param batch_size=2 "
        "--out {out}"
    )
    assert code == 1 and len(out.splitlines()) == 2
    assert err == "innv-ext: error: test_cli.broken failed with RuntimeError: out of order\n"
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["x_0_test_cli.broken.png", "x_1_test_cli.broken.png"]


def test_debug_shows_the_traceback(run, broken):
    line = "explain table.keras {tmp}/x.npy --module {tmp}/broken.py --analyzer test_cli.broken --out {out} --debug"
    code, _, err = run(line)
    assert code == 1 and err.startswith("Traceback") and "RuntimeError: out of\norder" in err
    assert err.endswith("\ninnv-ext: error: test_cli.broken failed with RuntimeError: out of order\n")


def test_an_interrupt_is_exit_code_130(run, tmp_path):
    (tmp_path / "stop.py").write_text("raise KeyboardInterrupt\n")
    assert run("list --module {tmp}/stop.py") == (130, "", "innv-ext: interrupted\n")
    (tmp_path / "stops.py").write_text("def preprocess(images):\n    raise KeyboardInterrupt\n")
    code, _, err = run(f"{ONE} gradient --preprocess {{tmp}}/stops.py")
    assert (code, err) == (130, "innv-ext: interrupted\n") and not (tmp_path / "out").exists()


def test_existing_folders_and_files_stay_when_something_is_wrong(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "photo_gradient.png").write_bytes(b"old")
    assert run(f"{ONE} gradient --neuron 7")[0] == 2
    assert (tmp_path / "out" / "photo_gradient.png").read_bytes() == b"old"
    assert run(f"{ONE} gradient")[0] == 0
    assert (tmp_path / "out" / "photo_gradient.png").read_bytes()[:4] == b"\x89PNG"
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_lambda_layers_of_trusted_files(here, tmp_path):
    code, _, err = here("explain {tmp}/lambda.keras {tmp}/t.npy --analyzer gradient --unsafe --out {out}")
    assert (code, err) == (0, "") and (tmp_path / "out" / "t_gradient.png").is_file()


def test_the_environment_and_the_standard_error_are_put_back(capfd, monkeypatch):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    before = dict(os.environ)
    assert main(["list"]) == 0
    assert dict(os.environ) == before
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"
