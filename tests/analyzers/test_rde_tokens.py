"""Rate-Distortion Explanations of tokens: one s per vector of an embedding, noise in place of the rest of it.

A linear score of vectors has D(s) = (sum_t (1 - s_t) w_t (e_t - mu))^2 + sum_t (1 - s_t)^2 w_t^2 var, which is
``rde_nets.Quadratic`` with one number per token.
"""

import keras
import numpy as np
import pytest
import transformers
import zoo
from keras import layers as L
from keras import ops
from rde_nets import QUICK, Quadratic, at, distortion_of

import innv_ext
from innv_ext.errors import InvalidInputError, NotFittedError, UnsupportedModelError

pytestmark = pytest.mark.filterwarnings("ignore:Layer 'flatten.*was passed an input with a mask")
TOKENS, LENGTH, WIDTH = 9, 5, 3
IDS = np.random.default_rng(0).integers(1, TOKENS, (2, LENGTH))
VOCABULARY = {"features": "token", "reference": "vocabulary", "progress": False}


def net_of(function, *inputs, seed=0):
    """A model in float64 with random weights."""
    with zoo.precision("float64"):
        inputs = inputs or (keras.Input((LENGTH,), dtype="int32"),)
        model = keras.Model(list(inputs) if len(inputs) > 1 else inputs[0], function(*inputs))
    return zoo.randomise(model, seed)


def embedding(**options):
    return L.Embedding(TOKENS, WIDTH, **{"name": "embed", **options})


def linear_net(mask=False):
    return net_of(lambda i: L.Dense(1, name="head")(L.Flatten()(embedding(mask_zero=mask)(i))))


def quadratic(net, ids, mu, var):
    table, w = np.asarray(net.get_layer("embed").embeddings), np.asarray(net.get_layer("head").kernel)
    w = w.reshape(LENGTH, WIDTH)
    return Quadratic(np.ones(LENGTH), (w * (table[ids] - mu)).sum(1), 0.0, np.diag(w**2 @ var))


def table_moments(net, first=0):
    table = np.asarray(net.get_layer("embed").embeddings)[first:]
    return table.mean(0), table.var(0)


@pytest.mark.parametrize("mask", [False, True])
def test_rows_of_the_table(mask):
    """D and its gradient; the row of padding is no word."""
    net = linear_net(mask)
    distortion = distortion_of(net, IDS, **VOCABULARY)
    assert distortion.context.features.count == LENGTH
    s = np.random.default_rng(1).uniform(size=(2, LENGTH))
    values, slopes = at(distortion, s)
    for i in range(2):
        expected = quadratic(net, IDS[i], *table_moments(net, int(mask)))
        np.testing.assert_allclose(values[i], expected(s[i]), rtol=1e-9)
        np.testing.assert_allclose(slopes[i], expected.gradient(s[i]), rtol=1e-8)


def test_draws_are_rows_of_the_table():
    net = linear_net(mask=True)
    distortion = distortion_of(net, IDS[:1], distortion="monte_carlo", samples=4000, **VOCABULARY)
    s = np.array([[0.3, 0.0, 1.0, 0.6, 0.0]])
    expected = quadratic(net, IDS[0], *table_moments(net, 1))
    rows = np.asarray(net.get_layer("embed").embeddings)[1:]
    w = np.asarray(net.get_layer("head").kernel).reshape(LENGTH, WIDTH)
    expected.c = np.diag((rows @ w.T).var(axis=0))  # the components of a row belong together
    expected = expected(s[0])
    np.testing.assert_allclose(at(distortion, s)[0][0], expected, rtol=0.1)
    (drawn,) = distortion.reference.draw([np.zeros((1, LENGTH, WIDTH))], [(0, 0, j) for j in range(50)])
    rows = {tuple(row) for row in drawn.reshape(-1, WIDTH)}
    assert rows == {tuple(row) for row in np.asarray(net.get_layer("embed").embeddings)[1:]}


def test_fit_learns_from_all_tokens_but_padding(tmp_path):
    net, data = linear_net(mask=True), np.random.default_rng(3).integers(0, TOKENS, (40, LENGTH))
    analyzer = innv_ext.create_analyzer("rc_rde", net, rate=2, features="token", max_iter=3, progress=False)
    with pytest.raises(NotFittedError, match="vocabulary"):
        analyzer.analyze(IDS)
    analyzer.fit(data)
    seen = np.asarray(net.get_layer("embed").embeddings)[data[data != 0]]
    np.testing.assert_allclose(analyzer.learnt_["mean0"], seen.mean(0), rtol=1e-9)
    np.testing.assert_allclose(analyzer.learnt_["variance0"], seen.var(0), rtol=1e-9)
    maps = analyzer.analyze(IDS)
    assert maps.shape == IDS.shape and maps.dtype.kind == "f"
    np.testing.assert_array_equal(analyzer.fit(data, batch_size=7).learnt_["mean0"].shape, (WIDTH,))
    np.testing.assert_allclose(analyzer.analyze(IDS), maps, atol=1e-9)
    analyzer.save(tmp_path / "tokens.innv")
    np.testing.assert_allclose(innv_ext.load_analyzer(tmp_path / "tokens.innv").analyze(IDS), maps, atol=1e-9)
    given = {"mean": seen.mean(0), "variance": seen.var(0)}
    other = innv_ext.create_analyzer("rc_rde", net, rate=2, features="token", max_iter=3, progress=False, **given)
    np.testing.assert_allclose(other.analyze(IDS), maps, atol=1e-9)
    with pytest.raises(InvalidInputError, match="padding"):
        analyzer.fit(np.zeros((3, LENGTH), int))


@pytest.mark.parametrize("name", QUICK)
def test_all_of_the_family(name):
    net = linear_net()
    found = innv_ext.create_analyzer(name, net, **{**QUICK[name], "max_iter": 60}, **VOCABULARY).explain(IDS)
    assert found.attribution.shape == IDS.shape
    assert (found.attribution >= 0).all() and (found.attribution <= 1).all()
    if name == "rc_rde":
        for i in range(2):
            best = quadratic(net, IDS[i], *table_moments(net)).capped(2)[1]
            np.testing.assert_allclose(found.extras["objective"][i], best, rtol=1e-3, atol=1e-9)


def test_positions_that_are_cut_and_moved():
    """Labels go the way of the numbers: what no embedding reads has no influence, whatever moved the rest."""

    def function(i):
        moved = ops.flip(ops.cast(i, "int32")[:, 1:], axis=1)
        return L.Dense(1, name="head")(L.Flatten()(ops.take(ops.convert_to_tensor(table), moved, axis=0)))

    table = np.random.default_rng(5).normal(size=(TOKENS, WIDTH))
    net = net_of(function, keras.Input((LENGTH,)))
    distortion = distortion_of(net, IDS.astype("float64"), **VOCABULARY)
    s = np.random.default_rng(1).uniform(size=(2, LENGTH))
    values, slopes = at(distortion, s)
    w = np.asarray(net.get_layer("head").kernel).reshape(LENGTH - 1, WIDTH)[::-1]
    for i in range(2):
        d = (w * (table[IDS[i, 1:]] - table.mean(0))).sum(1)
        expected = Quadratic(np.ones(LENGTH - 1), d, 0.0, np.diag(w**2 @ table.var(0)))
        np.testing.assert_allclose(values[i], expected(s[i, 1:]), rtol=1e-9)
        np.testing.assert_allclose(slopes[i], [0.0, *expected.gradient(s[i, 1:])], rtol=1e-8)


def two_towers(i, mask, segments):
    """Two embeddings of the same tokens, one of segments, a mask: as encoders of text have them."""
    h = embedding()(i) + embedding(name="other")(i) + L.Embedding(2, WIDTH, name="kinds")(segments)
    h = L.MultiHeadAttention(1, WIDTH)(h, h, attention_mask=mask[:, None, :])
    return L.Dense(2)(h[:, 0])


@pytest.mark.parametrize("distortion", ["adf", "monte_carlo"])
def test_masks_and_segments_stay(distortion):
    """They get zeros; a closed token has no influence; both embeddings of a token go by its s."""
    inputs = (
        keras.Input((LENGTH,), dtype="int32", name="token_ids"),
        keras.Input((LENGTH,), dtype="bool", name="padding_mask"),
        keras.Input((LENGTH,), dtype="int32", name="segment_ids"),
    )
    net = net_of(two_towers, *inputs)
    x = [IDS[:1], np.array([[True, True, False, True, False]]), np.array([[0, 0, 1, 1, 1]])]
    seen = distortion_of(net, x, distortion=distortion, **VOCABULARY)
    s = np.random.default_rng(1).uniform(0.2, 0.8, (1, LENGTH))
    _, slope = at(seen, s)
    assert slope.shape == (1, LENGTH) and (slope[0, [2, 4]] == 0).all() and slope[0, [0, 1, 3]].all()
    steps = np.concatenate([s + sign * 1e-5 * np.eye(LENGTH) for sign in (1, -1)])
    values, _ = at(seen, steps, rows=0)
    np.testing.assert_allclose(slope[0], (values[:LENGTH] - values[LENGTH:]) / 2e-5, rtol=1e-4, atol=1e-9)
    assert at(seen, np.ones((1, LENGTH)))[0][0] < 1e-12
    maps = innv_ext.create_analyzer("rc_rde", net, rate=2, max_iter=3, distortion=distortion, **VOCABULARY).analyze(x)
    assert [m.shape for m in maps] == [(1, LENGTH)] * 3 and maps[0].any() and not maps[1].any() and not maps[2].any()


@pytest.mark.parametrize("kind", ["transformer", "lstm"])
def test_padding_and_gradients_of_whole_nets(kind):
    """Masks come of the numbers: padding has no influence, and all else the slope of central differences."""
    if kind == "transformer":
        net, x = transformers.transformer(padded=True, pool=0), transformers.tokens(padded=True)
    else:
        net = net_of(lambda i: L.Dense(2)(L.Bidirectional(L.LSTM(2))(embedding(mask_zero=True)(i))))
        x = np.array([[3, 4, 0, 0, 0]] * 3)
    n = x.shape[1]
    seen = distortion_of(net, x[2:], **VOCABULARY)
    s = np.random.default_rng(1).uniform(0.2, 0.8, (1, n))
    value, slope = at(seen, s)
    assert (slope[0, 2:] == 0).all() and slope[0, :2].all() and value > 0
    steps = np.concatenate([s + sign * 1e-5 * np.eye(n) for sign in (1, -1)])
    values, _ = at(seen, steps, rows=0)
    np.testing.assert_allclose(slope[0], (values[:n] - values[n:]) / 2e-5, rtol=1e-3, atol=1e-8)
    value, slope = at(seen, np.ones((1, n)))
    assert value[0] < 1e-12 and np.isfinite(slope).all()


def test_labels_join_tokens_to_words():
    words = np.array([0, 0, 1, 2, 2])
    options = {"reference": "vocabulary", "progress": False, "max_iter": 5}
    maps = innv_ext.create_analyzer("rc_rde", linear_net(), rate=1, features=words, **options).analyze(IDS)
    assert (maps[:, 0] == maps[:, 1]).all() and (maps[:, 3] == maps[:, 4]).all()


def test_steps_of_sequences_are_pixels():
    x = np.random.default_rng(0).normal(size=(2, LENGTH, WIDTH))
    net = net_of(lambda i: L.Dense(2)(L.Flatten()(L.Dense(4, activation="relu")(i))), keras.Input((LENGTH, WIDTH)))
    options = {"rate": 2, "max_iter": 5, "progress": False, "mean": 0.0, "variance": 1.0}
    a, b = (innv_ext.create_analyzer("rc_rde", net, features=f, **options).analyze(x) for f in ("token", "pixel"))
    np.testing.assert_array_equal(a, b)
    assert (a == a[..., :1]).all()
    fitted = innv_ext.create_analyzer("rc_rde", net, rate=2, features="token", max_iter=1, progress=False).fit(x)
    np.testing.assert_allclose(fitted.learnt_["mean0"], x.mean(0), rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16"])
def test_half_precision(policy):
    net = transformers.transformer(padded=True, dtype=policy)
    found = innv_ext.create_analyzer("rc_rde", net, rate=2, max_iter=4, **VOCABULARY).explain(transformers.tokens(True))
    assert found.attribution.dtype == np.float32 and np.isfinite(found.extras["objective"]).all()
    assert (found.attribution.sum(axis=1) <= 2 + 1e-5).all() and found.attribution.any()


def test_texts():
    """Through ``innv_ext.text``: one value a token, whatever their number."""
    words = ["", "[UNK]", "a", "fine", "bad", "film", "not", "it", "is"]
    ids = keras.Input((None,), dtype="int32")
    net = net_of(lambda i: L.Dense(2)(L.GlobalAveragePooling1D()(embedding(mask_zero=True)(i))), ids)
    options = {"tokenizer": str.split, "vocabulary": words, "rate": 1, "max_iter": 5, **VOCABULARY}
    found = innv_ext.text.explain(net, ["a fine film", "bad"], "rc_rde", target=1, **options)
    assert found.relevance.shape == (2, 3) and (found.relevance.sum(axis=1) <= 1 + 1e-6).all()


def image_net():
    return net_of(lambda i: L.Dense(1)(L.Flatten()(i)), keras.Input((4, 4, 2)))


REFUSED = {
    "components of tokens": (linear_net, {"features": "component"}, UnsupportedModelError, "features='token'"),
    "directions": (linear_net, {"reference": "low_rank"}, InvalidInputError, "'gaussian', 'vocabulary'"),
    "images": (image_net, {"mean": 0.0, "variance": 1.0}, InvalidInputError, "features='pixel'"),
    "rows of no table": (image_net, {"reference": "vocabulary"}, InvalidInputError, "embeddings"),
    "a constant token": (
        lambda: net_of(lambda i: L.Dense(1)(L.Flatten()(embedding()(ops.pad(i, ((0, 0), (1, 0)), constant_values=1))))),
        {"reference": "vocabulary"}, UnsupportedModelError, "pad.*constants between the numbers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    make, options, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        innv_ext.create_analyzer("rc_rde", make(), rate=2, **{"features": "token", **options})
