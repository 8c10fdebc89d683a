"""What all results share: statistics, data frames, dicts and back, tables, files."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.image import imread

from innv_ext.errors import InvalidInputError
from innv_ext.evaluation import (
    AttackResult,
    OrderingResult,
    PerturbationResult,
    RandomizationResult,
    RobustnessMetrics,
    Statistics,
    SystematicResult,
)

RNG = np.random.default_rng(0)
CURVES = {"a": RNG.uniform(size=(3, 4)), "b": RNG.uniform(size=(3, 4))}
OTHERS = {"a": RNG.uniform(size=(3, 4)), "b": RNG.uniform(size=(3, 4))}
INSIDE = {"a": np.array([0.5, 0.2, 1.0]), "b": np.array([0.1, 0.9, 0.3])}
METRICS = RobustnessMetrics(*RNG.uniform(size=(4, 3)), 7)
RESULTS = {
    "ordering": OrderingResult(np.array([0, 0.1, 0.6, 1]), ("a", "b"), CURVES, OTHERS),
    "perturbation": PerturbationResult(np.arange(4), ("a", "b"), ("morf", "morf"), CURVES, OTHERS),
    "randomization": RandomizationResult(("top", "a|b"), *RNG.uniform(-1, 1, (3, 2, 3)), "cascading", "gradient"),
    "robustness": METRICS,
    "attack": AttackResult(*RNG.uniform(-1, 1, (4, 3, 5, 2)), *RNG.uniform(size=(2, 3)), METRICS, np.array([0.1, 0, 2]),
                           np.array([1, 2, 0]), np.array([1, 2, 0]), 0.5, "topk", "gradient"),
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


@pytest.mark.usefixtures("backend")
def test_stages():
    result, found = RESULTS["randomization"], rows(RESULTS["randomization"].to_frame())
    assert [(row["stage"], row["sample"]) for row in found] == [(s, i) for s in result.stages for i in range(3)]
    for row in found:
        place = result.stages.index(row["stage"]), row["sample"]
        for of in ("rank_correlation", "absolute_rank_correlation", "ssim"):
            assert row[of] == getattr(result, of)[place]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("name", ["robustness", "attack"])
def test_one_row_a_sample(name):
    result, found = RESULTS[name], rows(RESULTS[name].to_frame())
    assert len(found) == 3 and [row["top_k"] for row in found] == METRICS.top_k.tolist()
    assert list(found[0]) == list(result.columns())


@pytest.mark.parametrize("name", list(RESULTS))
def test_without_pandas(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)  # import fails
    with pytest.raises(InvalidInputError, match=r"needs pandas, which is not installed: pip install 'innv_ext\[pandas"):
        RESULTS[name].to_frame()


@pytest.mark.parametrize("name", list(RESULTS))
def test_dict_and_back(name):
    """Also where a file has sorted the names: the result's own order decides about colours and ties."""
    result = RESULTS[name]
    stored = json.loads(json.dumps(result.to_dict(), sort_keys=True))
    again = type(result).from_dict(stored)
    assert again.to_dict() == result.to_dict() and repr(again) == repr(result) and again.table() == result.table()
    assert list(again.to_dict()) == list(result.to_dict())
    for of, values in again.measures().items():
        if isinstance(values, dict):
            assert list(values) == list(result.measures()[of])
    assert type(result).from_dict({**stored, "of a later version": 1}).to_dict() == result.to_dict()


def test_what_is_missing_in_a_dict_is_named():
    stored = RESULTS["ordering"].to_dict()
    del stored["rates"], stored["accuracy"]
    with pytest.raises(InvalidInputError, match=r"stored OrderingResult lacks rates, accuracy; pass what to_dict\(\)"):
        OrderingResult.from_dict(stored)


def test_an_attack_that_was_read_has_no_picture():
    again = AttackResult.from_dict(RESULTS["attack"].to_dict())
    assert again.x is None and again.maps_adv is None
    np.testing.assert_array_equal(again.success, RESULTS["attack"].success)
    with pytest.raises(InvalidInputError, match="read without inputs and maps"):
        again.plot()


def samples_first(values):
    return values if isinstance(values, dict) else {None: values}


@pytest.mark.parametrize("name", list(RESULTS))
def test_statistics(name):
    """One at a time as all together; over the samples, by the formulas of the textbook."""
    result = RESULTS[name]
    together = {of: result.statistics(of) for of in result.measures()}
    if name != "systematic":  # whose default is the weighted ratio
        assert list(result.statistics()) == list(together)
    for of, values in result.measures().items():
        found = samples_first(together[of])
        assert list(found) == list(samples_first(values))
        for key, own in samples_first(values).items():
            assert isinstance(found[key], Statistics) and len(own) == 3
            with np.errstate(invalid="ignore"):
                mean = sum(own) / 3
                np.testing.assert_allclose(found[key].mean, mean)
                spread = np.sqrt(sum((v - mean) ** 2 for v in own) / 2)
            np.testing.assert_allclose(found[key].std, spread)
            np.testing.assert_allclose(found[key].error, spread / np.sqrt(3))
            np.testing.assert_allclose(found[key].confidence, 4.302653 * found[key].error, rtol=1e-6)  # t of 2 degrees
    with pytest.raises(InvalidInputError, match=r"of must be one of .*got 'nothing'"):
        result.statistics("nothing")


@pytest.mark.parametrize("name", ["robustness", "attack"])
def test_table_of_measures(name):
    header, rule, *lines = RESULTS[name].table().splitlines()
    assert header == "| measure | mean |" and rule == "| --- | --- |" and len(lines) == len(RESULTS[name].columns())
    error = METRICS.ssim.std(ddof=1) / np.sqrt(3)
    assert f"| ssim | {METRICS.ssim.mean():.4g} ± {error:.2g} |" in lines


@pytest.mark.parametrize("name", list(RESULTS))
def test_pictures_are_saved_whole(name, tmp_path):
    options = {"kind": "inside_total"} if name == "systematic" else {}
    figure = RESULTS[name].plot(path=tmp_path / "a.png", **options)
    saved = imread(tmp_path / "a.png")
    assert saved.shape[:2] == tuple(int(150 * inch) for inch in figure.get_size_inches()[::-1])
    with pytest.raises(InvalidInputError, match="ax must be"):
        RESULTS[name].plot(figure.axes * 9, **options)
    with pytest.raises(TypeError, match="colour"):
        RESULTS[name].plot(colour="red")
