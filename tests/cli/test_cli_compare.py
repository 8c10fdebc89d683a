"""``innv-ext compare`` against innv_ext.comparison.compare called directly."""

import keras
import numpy as np
import pytest
from cli_pictures import pictures

from innv_ext.comparison import compare


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_table_is_that_of_the_library(run, files, tmp_path):
    code, out, err = run(
        "compare net.keras photo.png grey.png --analyzers gradient,lrp.epsilon --param lrp.epsilon:epsilon=0.1 "
        "--metrics gini,completeness_error --neuron tabby --labels labels.txt --report {out}/r/report.html "
        "--out {out}/p --seed 3 --batch-size 2"
    )
    assert (code, err) == (0, "")
    direct = compare(
        keras.models.load_model(files / "net.keras"),
        pictures(files).astype("float32") / 255,
        {"gradient": {}, "lrp.epsilon": {"epsilon": 0.1}},
        metrics=["gini", "completeness_error"],
        neuron_selection=2,
        batch_size=2,
        seed=3,
        progress=False,
    )

    def cells(table):  # without the seconds
        lines = [line.split("|") for line in table.splitlines() if line.startswith("|")]
        return [[cell.strip() for cell in line[:-2]] for line in lines]

    assert cells(out) == cells(direct.table()) and len(cells(out)) == 4
    page = (tmp_path / "out" / "r" / "report.html").read_text()
    assert "lrp.epsilon" in page and "tabby" in page and list((tmp_path / "out" / "p").glob("*.png"))
    assert [p.name for p in (tmp_path / "out" / "r").iterdir()] == ["report.html"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_analyzer_that_fails_is_a_row_and_exit_code_1(run, tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((2, 5)))
    code, out, err = run(
        "compare table.keras {tmp}/x.npy --analyzers gradient,deep_taylor --metrics gini --report {tmp}/report.html"
    )
    assert code == 1 and "| deep_taylor | failed |" in out
    assert err.startswith("innv-ext: deep_taylor failed: UnsupportedModelError: ") and err.count("\n") == 1
    assert "deep_taylor" in (tmp_path / "report.html").read_text()
