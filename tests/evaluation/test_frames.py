"""Results as data frames: every number in its row; a clear error without pandas."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from innv_ext.errors import InvalidInputError
from innv_ext.evaluation import OrderingResult
from innv_ext.evaluation.perturbation_result import PerturbationResult
from innv_ext.evaluation.systematic_result import SystematicResult

RNG = np.random.default_rng(0)
CURVES = {"a": RNG.uniform(size=(3, 4)), "b": RNG.uniform(size=(3, 4))}
OTHERS = {"a": RNG.uniform(size=(3, 4)), "b": RNG.uniform(size=(3, 4))}
INSIDE = {"a": np.array([0.5, 0.2, 1.0]), "b": np.array([0.1, 0.9, 0.3])}
RESULTS = {
    "ordering": OrderingResult(np.array([0, 0.1, 0.6, 1]), ("a", "b"), CURVES, OTHERS),
    "perturbation": PerturbationResult(np.arange(4), ("a", "b"), ("morf", "morf"), CURVES, OTHERS),
    "systematic": SystematicResult(("a", "b"), INSIDE, np.array([0.2, 0.4, 0.5]), None, np.array([7, 7, 2])),
}


@pytest.fixture(params=["columns", "pandas"])
def backend(request, monkeypatch):
    """The columns as they are handed over, and a real frame where pandas is installed."""
    if request.param == "pandas":
        pytest.importorskip("pandas", reason="pandas is an extra")
    else:
        monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=dict))


def rows(table):
    columns = [list(table[c]) for c in table]
    assert len({len(c) for c in columns}) == 1
    return [dict(zip(table, row, strict=True)) for row in zip(*columns, strict=True)]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(("name", "axis", "first", "second"), [
    ("ordering", "rate", "distortion", "accuracy"), ("perturbation", "perturbed", "score", "agreement")])
def test_curves(name, axis, first, second):
    result = RESULTS[name]
    positions = result.rates if name == "ordering" else result.perturbed
    found = rows(result.to_frame())
    assert len(found) == 2 * 3 * 4 and list(found[0]) == ["relevance", "sample", axis, first, second]
    seen = set()
    for row in found:
        k = list(positions).index(row[axis])
        assert row[first] == CURVES[row["relevance"]][row["sample"], k]
        assert row[second] == OTHERS[row["relevance"]][row["sample"], k]
        seen.add((row["relevance"], row["sample"], k))
    assert len(seen) == 24


@pytest.mark.usefixtures("backend")
def test_systematic():
    result, found = RESULTS["systematic"], rows(RESULTS["systematic"].to_frame())
    assert len({(row["analyzer"], row["sample"]) for row in found}) == 6
    for row in found:
        i = row["sample"]
        share, size = INSIDE[row["analyzer"]][i], result.size[i]
        assert (row["class"], row["predicted"], row["size"]) == (result.predicted[i], result.predicted[i], size)
        assert row["inside_total"] == share and row["weighted"] == pytest.approx(share / size)
        assert row["inside_outside"] == (pytest.approx(share / (1 - share)) if share < 1 else np.inf)


@pytest.mark.parametrize("name", list(RESULTS))
def test_without_pandas(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)  # import fails
    with pytest.raises(InvalidInputError, match=r"needs pandas, .*: pip install pandas, or 'innv_ext\[pandas"):
        RESULTS[name].to_frame()
