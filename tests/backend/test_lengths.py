"""Calls that depend on lengths, as language models have them: each is opened, and compared with the layer itself."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import innv_ext
from innv_ext.analyzers.core import subject
from innv_ext.backend import facts, walk
from innv_ext.backend.graph import TooShort, op_key
from innv_ext.backend.tracing import trace
from innv_ext.errors import InvalidInputError

WIDTH, TOKENS = 4, 11


class Own(L.Layer):
    """A layer with a table of positions and a ``call`` given as a function."""

    def __init__(self, function, places=40, **options):
        super().__init__(**options)
        self.function, self.places = function, places

    def build(self, shape):
        rng = np.random.default_rng(0)
        for name, size in (("table", (self.places, WIDTH)), ("scale", (WIDTH,))):
            value = keras.initializers.Constant(rng.normal(size=size))
            setattr(self, name, self.add_weight(name=name, shape=size, initializer=value))
        self.built = True

    def call(self, x):
        return self.function(self, x)


def positions(layer, x):
    """A slice of a table, which is all that comes out."""
    return x + ops.broadcast_to(ops.convert_to_tensor(layer.table)[: ops.shape(x)[1]], ops.shape(x))


def pairs(x, allowed):
    """Which steps see which, (1, steps, steps)."""
    steps = ops.arange(ops.shape(x)[1])
    return ops.cast(allowed(steps[:, None], steps[None]), "float32")[None]


def attend(x, scores):
    return ops.matmul(ops.softmax(ops.matmul(x, ops.swapaxes(x, 1, 2)) + scores, axis=-1), x)


def rotary(layer, x):
    angle = ops.arange(ops.shape(x)[1], dtype="float32")[:, None] / ops.convert_to_tensor([1.0, 3.0])
    cos, sin = (ops.concatenate([f(angle)] * 2, axis=-1)[None] for f in (ops.cos, ops.sin))
    a, b = ops.split(x, 2, axis=-1)
    return x * cos + ops.reshape(ops.stack((-b, a), axis=-2), ops.shape(x)) * sin


def alibi(layer, x):
    """Distances from the last step: the tables of two lengths end alike."""
    steps = ops.shape(x)[1]
    bias = ops.arange(1 - steps, 1, dtype="float32")[None, None]
    return attend(x, bias * 0.3)


def symmetric(layer, x):
    """Distances from -n to n, whose middles are alike."""
    steps = ops.shape(x)[1]
    far = ops.arange(-steps, steps, dtype="float32")[None, :, None]
    return x + far[:, steps // 2 : steps // 2 + steps] * layer.scale


def experts(layer, x):
    """Tokens of all samples in one row and back again, whose batch and length only x tells."""
    rows = ops.reshape(x, (-1, WIDTH))
    batch, steps, size = ops.shape(x)
    return ops.reshape(rows * layer.scale, (batch, steps, size))


CALLS = {
    "positions": positions,
    "causal": lambda layer, x: attend(x, (1 - pairs(x, lambda i, j: i >= j)) * -1e9),
    "window": lambda layer, x: attend(x, (1 - pairs(x, lambda i, j: ops.abs(i - j) < 3)) * -1e9),
    "rotary": rotary,
    "alibi": alibi,
    "experts": experts,
    "rank": lambda layer, x: positions(layer, x) * (1.0 if (ops.ndim(x) or 2) == 3 else 2.0),
    "left_of_values": lambda layer, x: ops.cast(ops.ones((ops.shape(x)[1], 1)) < x, "float32") + layer.scale * x,
    "left_operand": lambda layer, x: layer.scale * x + layer.scale,
}


def model_of(function, length=None, **options):
    i = keras.Input((length, WIDTH))
    return keras.Model(i, L.Dense(3)(L.GlobalAveragePooling1D()(Own(function, **options)(i))))


def values(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def assert_same(model, *shapes):
    graph = trace(model, facts.is_leaf)
    for number, shape in enumerate(shapes):
        x = values(*shape, seed=number)
        found = walk.evaluate(graph, [ops.convert_to_tensor(x)])[0]
        np.testing.assert_allclose(np.asarray(found), np.asarray(model(x)), rtol=1e-5, atol=1e-6)
    return graph


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_depends_on_a_free_length(name):
    graph = assert_same(model_of(CALLS[name]), (1, 5, WIDTH), (3, 9, WIDTH), (2, 24, WIDTH))
    assert not any(op_key(n.op).startswith("custom:") for n in graph.nodes)


@pytest.mark.parametrize("name", ["positions", "causal", "alibi"])
def test_longer_samples_are_recorded_anew(name):
    """The first recording is of up to 36 steps, and of 6 where there are no more than 10 positions."""
    model = model_of(CALLS[name], places=10 if name == "positions" else 80)
    graph, length = trace(model, facts.is_leaf), 10 if name == "positions" else 70
    x = values(2, length, WIDTH)
    with pytest.raises(TooShort, match="at most"):
        walk.evaluate(graph, [ops.convert_to_tensor(x)])
    analyzer = innv_ext.create_analyzer("lrp.epsilon", model)
    short = analyzer.analyze(x[:, :4], 1)
    first = analyzer.subject_
    found = analyzer.explain(x, 1)
    np.testing.assert_allclose(found.score, np.asarray(model(x))[:, 1], rtol=1e-4, atol=1e-5)
    assert analyzer.subject_ is not first and subject.subject_of(model) is analyzer.subject_
    second = analyzer.subject_
    np.testing.assert_allclose(analyzer.analyze(x[:, :4], 1), short, rtol=1e-5, atol=1e-6)
    assert analyzer.subject_ is second


def test_logits_of_longer_samples():
    i = keras.Input((None, WIDTH))
    h = L.GlobalAveragePooling1D()(Own(CALLS["causal"])(i))
    model = keras.Model(i, L.Dense(3, activation="softmax")(h))
    logits, x = innv_ext.model_wo_softmax(model), values(2, 50, WIDTH)
    np.testing.assert_allclose(np.asarray(ops.softmax(logits(x))), np.asarray(model(x)), rtol=1e-5, atol=1e-6)


def test_more_steps_than_positions():
    model = model_of(positions, places=6)
    analyzer = innv_ext.create_analyzer("lrp.epsilon", model)
    analyzer.analyze(values(2, 6, WIDTH), 1)
    with pytest.raises(InvalidInputError):
        analyzer.analyze(values(2, 7, WIDTH), 1)


class Rotates(L.Layer):
    """Gives two tensors, though it says one shape; takes an argument that is None."""

    def call(self, a, b, cache=None):
        if cache is not None:
            return a, b, cache
        return a * 2.0, b * 3.0, None

    def compute_output_shape(self, shape):
        return shape


class Uses(L.Layer):
    """Calls such a layer, and hands on that there is no cache."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense, self.rotates = L.Dense(WIDTH), Rotates()

    def build(self, shape):
        self.dense.build(shape)
        self.rotates.build(shape)
        self.built = True

    def call(self, x):
        a, b, cache = self.rotates(self.dense(x), x, cache=None)
        assert cache is None
        return a + b

    def compute_output_shape(self, shape):
        return shape


def test_layers_inside_that_give_none_or_more_than_they_say():
    i = keras.Input((None, WIDTH))
    model = keras.Model(i, L.Dense(3)(Uses()(i)))
    graph = assert_same(model, (2, 3, WIDTH), (3, 5, WIDTH))
    assert [op_key(n.op) for n in graph.nodes] == ["Dense", "multiply", "multiply", "add", "Dense"]


class Scales(L.Layer):
    """A product with a variable, of which Keras says that it is sparse, in front of a layer that says no sizes."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(WIDTH,), initializer="ones")
        self.dense = L.EinsumDense("abc,cd->abd", output_shape=(None, WIDTH))
        self.dense.build(shape)
        self.built = True

    def call(self, x):
        h = self.dense(ops.multiply(x, self.scale))
        return h + ops.cast(ops.arange(ops.shape(h)[1]), "float32")[None, :, None]

    def compute_output_shape(self, shape):
        return shape


def test_products_with_variables_are_dense():
    i = keras.Input((None, WIDTH))
    graph = assert_same(keras.Model(i, L.Dense(3)(Scales()(i))), (2, 3, WIDTH), (3, 5, WIDTH))
    assert [op_key(n.op) for n in graph.nodes] == ["multiply", "EinsumDense", "add", "Dense"]


class Decodes(L.Layer):
    """Cross-attention with a causal mask on its own part: two lengths that are not tied, and a mask for each."""

    def call(self, x, encoded, seen=None):
        h = attend(x, (1 - pairs(x, lambda i, j: i >= j)) * -1e9)
        bias = ops.zeros((1, ops.shape(x)[1], ops.shape(encoded)[1])) + (1 - ops.cast(seen, "float32"))[:, None] * -1e9
        scores = ops.matmul(h, ops.swapaxes(encoded, 1, 2)) + bias
        return h + ops.matmul(ops.softmax(scores, axis=-1), encoded)

    def compute_output_shape(self, shape, *others):
        return shape


def test_two_lengths_that_are_not_tied():
    x, e, m = keras.Input((None, WIDTH)), keras.Input((None, WIDTH)), keras.Input((None,), dtype="int32")
    model = keras.Model([x, e, m], L.GlobalAveragePooling1D()(Decodes()(x, e, seen=m)))
    graph = trace(model, facts.is_leaf)
    assert not any(op_key(n.op).startswith("custom:") for n in graph.nodes)
    for a, b in ((3, 7), (8, 5), (6, 6)):
        mask = np.ones((2, b), "int32")
        mask[0, -2:] = 0
        given = [values(2, a, WIDTH), values(2, b, WIDTH, seed=1), mask]
        found = walk.evaluate(graph, [ops.convert_to_tensor(v) for v in given])[0]
        np.testing.assert_allclose(np.asarray(found), np.asarray(model(given)), rtol=1e-5, atol=1e-6)
    maps = innv_ext.create_analyzer("lrp.attnlrp", model).analyze(given, 0)
    assert maps[0].any() and maps[1].any() and not maps[2].any()


class Beside(L.Layer):
    """Attends to what is encoded, with a bias of both lengths; the mask of its own steps is of no use to it."""

    def call(self, x, own, encoded, seen):
        bias = ops.zeros((1, ops.shape(x)[1], ops.shape(encoded)[1])) + ops.cast(seen, "float32")[:, None]
        return ops.matmul(ops.softmax(ops.matmul(x, ops.swapaxes(encoded, 1, 2)) + bias), encoded)

    def compute_output_shape(self, shape, *others):
        return shape


def test_a_mask_that_is_not_used_has_no_say_in_lengths():
    x, e = keras.Input((None, WIDTH)), keras.Input((None, WIDTH))
    m, s = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
    model = keras.Model([x, m, e, s], L.GlobalAveragePooling1D()(Beside()(x, m, e, s)))
    graph = trace(model, facts.is_leaf)
    assert not any(op_key(n.op).startswith("custom:") for n in graph.nodes)
    for a, b in ((3, 7), (8, 5), (6, 6)):
        given = [values(2, a, WIDTH), np.ones((2, a), "int32"), values(2, b, WIDTH, seed=1), np.ones((2, b), "int32")]
        found = walk.evaluate(graph, [ops.convert_to_tensor(v) for v in given])[0]
        np.testing.assert_allclose(np.asarray(found), np.asarray(model(given)), rtol=1e-5, atol=1e-6)


# --- embeddings that are used both ways ------------------------------------------------------------------------------


def tied(**options):
    keras.utils.set_random_seed(0)
    i = keras.Input((5,), dtype="int32")
    embed = L.ReversibleEmbedding(TOKENS, WIDTH, embeddings_initializer="normal", **options)
    h = L.Dense(WIDTH, activation="relu")(embed(i))
    return keras.Model(i, embed(h, reverse=True)), embed


@pytest.mark.parametrize("options", [{}, {"tie_weights": False}, {"logit_soft_cap": 2.0}])
def test_a_reversible_embedding_is_an_embedding_and_a_matrix(options):
    """The map is that of the same network of an Embedding and a Dense layer of these weights, also if they change."""
    model, embed = tied(**options)
    ids = np.random.default_rng(0).integers(0, TOKENS, (3, 5))
    analyzers = [innv_ext.create_analyzer(name, model) for name in ("lrp.epsilon", "gradient", "integrated_gradients")]
    for factor in (20.0, 0.5):
        for weight in model.weights:
            weight.assign(weight * factor)
        i = keras.Input((5,), dtype="int32")
        table, dense = L.Embedding(TOKENS, WIDTH), L.Dense(TOKENS, use_bias=False)
        y = dense(model.layers[-2](table(i))) if len(model.layers) > 3 else dense(model.layers[2](table(i)))
        y = y if "logit_soft_cap" not in options else ops.tanh(y / 2.0) * 2.0
        twin = keras.Model(i, y)
        table.set_weights([np.asarray(embed.embeddings)])
        kernel = np.asarray(embed.embeddings).T if embed.tie_weights else np.asarray(embed.reverse_embeddings)
        dense.set_weights([kernel])
        np.testing.assert_allclose(np.asarray(model(ids)), np.asarray(twin(ids)), rtol=1e-5, atol=1e-6)
        for analyzer in analyzers:
            other = innv_ext.create_analyzer(analyzer.registered_name_, twin, **analyzer.registered_params_)
            maps = [a.analyze(ids, (2, 3)) for a in (analyzer, other)]
            assert maps[0].any()
            np.testing.assert_allclose(*maps, rtol=1e-4, atol=1e-6)


def test_numbers_beyond_the_table_are_refused():
    with pytest.raises(innv_ext.errors.InvalidInputError, match="token numbers"):
        innv_ext.create_analyzer("gradient", tied()[0]).analyze(np.full((1, 5), TOKENS), (0, 0))


# --- norms in operations, masks in numbers ---------------------------------------------------------------------------


def test_a_norm_in_operations_is_a_norm():
    """x / root of the mean square takes all relevance; so does the layer of Keras."""
    written = {
        "rsqrt": lambda x: x * ops.rsqrt(ops.mean(ops.power(x, 2), axis=-1, keepdims=True) + 1e-3),
        "square": lambda x: ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + 1e-3) * x,
        "product": lambda x: x * ops.reciprocal(ops.sqrt(ops.mean(x * x, axis=-1, keepdims=True) + 1e-3)),
        "quotient": lambda x: x / ops.sqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + 1e-3),
        "cast": lambda x: ops.cast(ops.cast(x, "float64") * ops.rsqrt(
            ops.mean(ops.square(ops.cast(x, "float64")), axis=-1, keepdims=True) + 1e-3), "float32"),
    }
    i = keras.Input((3, WIDTH))
    inner, last = L.Dense(WIDTH), L.Dense(2)
    norm = L.RMSNormalization(epsilon=1e-3)
    models = {name: keras.Model(i, last(ops.mean(f(inner(i)), axis=1))) for name, f in written.items()}
    layer = keras.Model(i, last(ops.mean(norm(inner(i)), axis=1)))
    x = values(3, 3, WIDTH)
    for method in ("lrp.attnlrp", "lrp.cp_lrp", "lrp.epsilon"):
        expected = innv_ext.create_analyzer(method, layer).analyze(x, 1)
        for name, model in models.items():
            found = innv_ext.create_analyzer(method, model).analyze(x, 1)
            np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-6, err_msg=f"{method} {name}")


def test_a_centred_norm_in_operations():
    """Layer normalisation by hand: the deviation is held, centring is linear."""

    def normed(x, held=lambda t: t):
        centred = x - ops.mean(x, axis=-1, keepdims=True)
        return centred * held(ops.rsqrt(ops.mean(ops.square(centred), axis=-1, keepdims=True) + 1e-3))

    def by_variance(x, held=lambda t: t):
        centred = x - ops.mean(x, axis=-1, keepdims=True)
        return centred * held(ops.rsqrt(ops.var(x, axis=-1, keepdims=True) + 1e-3))

    x = values(3, WIDTH)
    for function in (normed, by_variance):
        i = keras.Input((WIDTH,))
        last = L.Dense(2, use_bias=False)
        model, held = (keras.Model(i, last(function(i, h))) for h in (lambda t: t, ops.stop_gradient))
        found = innv_ext.create_analyzer("lrp.attnlrp", model, epsilon=1e-9).analyze(x, 1)
        expected = x * innv_ext.create_analyzer("gradient", held).analyze(x, 1)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_other_products_with_roots_are_products():
    """Of another signal: both factors share."""
    i, j = keras.Input((WIDTH,)), keras.Input((WIDTH,))
    y = j * ops.rsqrt(ops.mean(ops.square(i), axis=-1, keepdims=True) + 1e-3)
    maps = innv_ext.create_analyzer("lrp.attnlrp", keras.Model([i, j], L.Dense(2)(y))).analyze(
        [values(3, WIDTH), values(3, WIDTH, seed=1)], 1
    )
    assert maps[0].any() and maps[1].any()


MASKS = {
    "added": lambda x, m: ops.softmax(ops.sum(x, axis=-1) + (1.0 - ops.cast(m, "float32")) * -1e9),
    "mean": lambda x, m: ops.sum(x * ops.cast(m, "float32")[..., None], axis=1)
    / ops.maximum(ops.sum(ops.cast(m, "float32"), axis=1, keepdims=True), 1e-9),
    "minimum": lambda x, m: ops.sum(ops.where(ops.minimum(m, 1) > 0, ops.sum(x, -1), 0.0), axis=1, keepdims=True),
    "place": lambda x, m: ops.sum(ops.take_along_axis(x, m[..., None], axis=1), axis=1),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("method", ["gradient", "lrp.attnlrp", "lrp.cp_lrp", "deep_lift", "integrated_gradients"])
def test_an_input_of_integers_that_says_what_counts_gets_zeros(name, method):
    x, m = keras.Input((5, WIDTH)), keras.Input((5,), dtype="int32")
    model = keras.Model([x, m], L.Dense(2)(MASKS[name](L.Dense(WIDTH)(x), m)))
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    maps = innv_ext.create_analyzer(method, model).analyze([values(2, 5, WIDTH), mask], 1)
    assert maps[0].any() and not maps[1].any()
    if name in ("added", "mean"):
        assert not maps[0][0, 3:].any()


def test_integers_that_weights_read_are_values():
    x, p = keras.Input((WIDTH,)), keras.Input((6, 6, 1), dtype="int32")
    pixels = L.Flatten()(L.Conv2D(2, 3)(ops.cast(p, "float32") / 255.0))
    model = keras.Model([x, p], L.Dense(2)(ops.concatenate([x, pixels], axis=-1)))
    maps = innv_ext.create_analyzer("gradient", model).analyze(
        [values(2, WIDTH), np.random.default_rng(0).integers(0, 255, (2, 6, 6, 1))], 1
    )
    assert maps[1].any()


def test_a_softmax_whose_mask_is_not_named():
    """``Softmax()(scores, mask)`` is split into its steps as ``Softmax()(scores, mask=mask)`` is."""
    i, m = keras.Input((5,)), keras.Input((5,), dtype="bool")
    named, plain = (
        keras.Model([i, m], L.Dense(2)(layer)) for layer in (L.Softmax()(i, mask=m), L.Softmax()(i, m))
    )
    plain.set_weights(named.get_weights())
    given = [values(2, 5), np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)]
    maps = [innv_ext.create_analyzer("lrp.attnlrp", model).analyze(given, 1) for model in (named, plain)]
    assert maps[0][0].any() and not maps[0][0][0, 3:].any()
    np.testing.assert_allclose(maps[0][0], maps[1][0])


def test_the_real_part_of_a_transform_is_linear():
    """As FNet mixes tokens: the map is that of the matrix that the transform is."""
    i = keras.Input((5, WIDTH))
    real, _ = ops.fft2((i, ops.zeros_like(i)))
    last = L.Dense(2, use_bias=False)
    model = keras.Model(i, last(ops.mean(real, axis=1)))
    x = values(3, 5, WIDTH)
    gradient = innv_ext.create_analyzer("gradient", model).analyze(x, 1)
    for name in ("lrp.attnlrp", "deep_lift"):
        found = innv_ext.create_analyzer(name, model, **({"epsilon": 1e-12} if "lrp" in name else {})).analyze(x, 1)
        np.testing.assert_allclose(found, x * gradient, rtol=1e-3, atol=1e-4)
    assert innv_ext.create_analyzer("lrp.z_plus", model).analyze(x, 1).any()
