"""What users add themselves: mappings, analyzers, linear layers, rules for some layers. Each takes a few lines."""

import inspect
from dataclasses import dataclass

import keras
import numpy as np
import pytest
import zoo
from keras import layers, ops

import innv_ext
from innv_ext import arguments
from innv_ext.analyzers import LRP, Analyzer, ReverseAnalyzer, registry
from innv_ext.analyzers.lrp import names, rules
from innv_ext.analyzers.lrp.rules import Epsilon, Flat, Gamma, WSquare, ZPlus
from innv_ext.backend import linear as kernels
from innv_ext.backend.predicates import anything, at_index, both, first_linear, is_a, named, op_is, up_to
from innv_ext.backend.rules import Rules
from innv_ext.errors import InvalidInputError, NoRuleError, UnsupportedModelError, UnusedRuleWarning

create = innv_ext.create_analyzer


@pytest.fixture
def registered():
    """Registers analyzers for one test."""
    before = dict(registry._TABLE)
    yield innv_ext.register_analyzer
    registry._TABLE.clear()
    registry._TABLE.update(before)


# --- mappings, as in the thesis ----------------------------------------------------------------------------------


class MyGuidedBackprop(ReverseAnalyzer):
    """Guided backprop in a few lines (thesis, section V.3.2.2)."""

    def mappings(self):
        self.add_conditional_reverse_mapping(
            lambda op: op is keras.activations.relu,
            lambda node, xs, ys, rs: node.pullback(keras.ops.relu(rs[0])),
            name="guided_backprop",
        )


@pytest.mark.parametrize("model", ["convnet", "residual", "subclassed", "shared"])
def test_guided_backprop_by_a_mapping(model):
    """Fused activations, nested and shared layers; ReLU layers are another op and need a condition of their own."""
    sample = zoo.make(model, "float64")
    x = sample.inputs(3)
    received = MyForm(sample.model).analyze(x)
    expected = create("guided_backprop", sample.model).analyze(x)
    for r, e in zip(keras.tree.flatten(received), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(r, e, rtol=1e-12, atol=1e-15)
    plain = create("gradient", sample.model).analyze(x)
    assert any(not np.allclose(r, p) for r, p in zip(*map(keras.tree.flatten, (received, plain)), strict=True))


class MyForm(MyGuidedBackprop):
    """With a second mapping, for ReLU layers."""

    def mappings(self):
        super().mappings()
        self.add_conditional_reverse_mapping(
            lambda op: isinstance(op, layers.ReLU), lambda node, xs, ys, rs: node.pullback(ops.relu(rs[0]))
        )


def test_a_mapping_is_named_in_the_summary():
    sample = zoo.make("convnet")
    lines = str(MyGuidedBackprop(sample.model)).splitlines()
    assert [line.split()[2] for line in lines if line.endswith("guided_backprop") or " guided_backprop " in line] == [
        "relu",
        "relu",
    ]


def test_earlier_mappings_win_and_go_before_the_table():
    """Both conditions hold for the dense layers; conditions see layers."""

    class Twice(ReverseAnalyzer):
        def mappings(self):
            self.add_conditional_reverse_mapping(lambda op: isinstance(op, layers.Dense), _times(3.0))
            self.add_conditional_reverse_mapping(lambda op: isinstance(op, layers.Layer), _times(100.0))

    sample = zoo.make("multilabel", "float64")
    x = sample.inputs(2)
    np.testing.assert_allclose(Twice(sample.model).analyze(x), 9 * create("gradient", sample.model).analyze(x))


def _times(factor):
    return lambda node, xs, ys, rs: [factor * r for r in node.pullback(*rs)]


# --- analyzers ---------------------------------------------------------------------------------------------------

SOURCE = '''
class SignedSquare(innv_ext.ReverseAnalyzer):
    """Gradient times its size; a user's analyzer."""

    def finish(self, attribution, x):
        return attribution * keras.ops.abs(attribution)


innv_ext.register_analyzer("signed_square", SignedSquare, description="g |g|", cost="1")
'''


def test_a_new_analyzer_in_under_15_lines(registered, tmp_path):
    """Registered, it is built by name, listed, printed, saved, and takes all common parameters."""
    assert len(SOURCE.strip().splitlines()) < 15
    exec(SOURCE, {"innv_ext": innv_ext, "keras": keras})
    sample = zoo.make("convnet", "float64")
    x = sample.inputs(5)
    analyzer = create("signed_square", sample.model, batch_size=2, neuron_selection_mode="all")
    g = create("gradient", sample.model, neuron_selection_mode="all").analyze(x)
    np.testing.assert_allclose(analyzer.analyze(x), g * np.abs(g), rtol=1e-12)
    (info,) = [i for i in innv_ext.list_analyzers() if i.name == "signed_square"]
    assert info.family == "user" and info.description == "g |g|" and not info.needs_fit
    assert "signed_square" in str(analyzer)
    analyzer.save(tmp_path / "a.innv")
    np.testing.assert_array_equal(innv_ext.load_analyzer(tmp_path / "a.innv").analyze(x), analyzer.analyze(x))
    with pytest.raises(InvalidInputError, match="no parameter 'steps'"):
        create("signed_square", sample.model, steps=3)
    with pytest.raises(InvalidInputError, match="'signed_square'"):
        create("signed_sqare", sample.model)


def test_parameters_of_a_users_analyzer(registered):
    """A dataclass field is a parameter; the description is the first line of the docstring."""

    @dataclass(kw_only=True, eq=False, repr=False)
    class Power(ReverseAnalyzer):
        """Gradient to a power.

        More text.
        """

        exponent: int = arguments.count(2)

        def finish(self, attribution, x):
            return attribution**self.exponent

    registered("power", Power)
    assert registry.find("power").description == "Gradient to a power."
    sample = zoo.make("mlp", "float64")
    x = sample.inputs(2)
    analyzer = create("power", sample.model, exponent=3)
    np.testing.assert_allclose(analyzer.analyze(x), create("gradient", sample.model).analyze(x) ** 3)
    assert "exponent=3" in repr(analyzer) and analyzer.get_params()["exponent"] == 3
    with pytest.raises(InvalidInputError, match="exponent must be an integer of at least 1, got 0"):
        create("power", sample.model, exponent=0)
    registered("power", Power)  # a notebook cell may be run again


def test_what_register_analyzer_refuses(registered):
    with pytest.raises(InvalidInputError, match="subclass of"):
        registered("mine", dict)
    with pytest.raises(InvalidInputError, match="'gradient' belongs to Gradient"):
        registered("gradient", MyGuidedBackprop)


def test_an_analyzer_that_walks_nothing(registered):
    """``Analyzer`` itself: explain_batch is all that is needed for batching, checks and selection."""

    class Difference(Analyzer):
        def explain_batch(self, xs, index, size, **options):
            y = np.asarray(self.model(xs[0]))
            top = y.argmax(axis=1) if options["mode"] == "max_activation" else index
            score = y[np.arange(len(y)), top]
            centred = xs[0] - xs[0].mean(axis=1, keepdims=True)
            return {"attributions": [centred], "output": y, "target": top, "score": score}

    registered("difference", Difference)
    sample = zoo.make("mlp")
    x = sample.inputs(5)
    analyzer = create("difference", sample.model, batch_size=2)
    np.testing.assert_allclose(analyzer.analyze(x), x - x.mean(axis=1, keepdims=True))
    assert analyzer.analyze(x, [0, 1, 2, 0, 1]).shape == x.shape
    with pytest.raises(InvalidInputError, match="out of range"):
        analyzer.analyze(x, 3)


# --- linear layers -----------------------------------------------------------------------------------------------


class Scale(layers.Layer):
    """z = relu(x * kernel + offset); its ``call`` leaves Keras, so that only teaching helps."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="kernel")
        self.offset = self.add_weight(shape=(shape[-1],), name="bias")

    def call(self, x):
        import tensorflow as tf

        return tf.nn.relu(x * tf.convert_to_tensor(self.scale) + tf.convert_to_tensor(self.offset))


@pytest.fixture
def taught():
    before = dict(kernels._TABLE)

    @innv_ext.register_bilinear(Scale, kernel="scale", bias="offset", activation=lambda layer: keras.activations.relu)
    def scale_bilinear(layer, x, kernel):
        return x * kernel

    yield scale_bilinear
    kernels._TABLE.clear()
    kernels._TABLE.update(before)


def _with_scale():
    with zoo.precision("float64"):
        i = keras.Input((5,))
        y = layers.Dense(4, activation="relu")(Scale()(layers.Dense(4)(i)))
        return zoo.randomise(keras.Model(i, layers.Dense(3)(y)), 8)


def _with_dense(net):
    """The same function with a diagonal Dense layer."""
    with zoo.precision("float64"):
        i = keras.Input((5,))
        y = layers.Dense(4)(i)
        y = layers.Dense(4, activation="relu")(y)
        y = layers.Dense(4, activation="relu")(y)
        twin = keras.Model(i, layers.Dense(3)(y))
    for source, target in zip(net.layers[1:], twin.layers[1:], strict=True):
        kernel, bias = source.get_weights()
        target.set_weights([np.diag(kernel) if kernel.ndim == 1 else kernel, bias])
    return twin


@pytest.mark.parametrize("name", [n for n in zoo.BASIC if zoo.INFOS[n].family in ("lrp", "deep_taylor")])
def test_a_taught_layer_follows_every_rule(name, taught):
    """A layer x * k + b is a dense layer with a diagonal matrix (but for rules that look at zero weights)."""
    net = _with_scale()
    x = np.random.default_rng(0).uniform(-1, 1, (4, 5))
    received = zoo.create(name, net).analyze(x)
    if name == "lrp.flat":  # a dense layer spreads over all inputs, the taught one knows that there is one
        assert np.isfinite(received).all()
        return
    np.testing.assert_allclose(received, zoo.create(name, _with_dense(net)).analyze(x), rtol=1e-9, atol=1e-12)


def test_without_teaching_it_is_refused():
    net = _with_scale()
    with pytest.raises(NoRuleError, match=r"scale.*Scale"):
        create("lrp.epsilon", net)
    x = np.random.default_rng(0).uniform(-1, 1, (2, 5))
    assert create("gradient", net).analyze(x).shape == (2, 5)


def test_what_register_bilinear_refuses():
    with pytest.raises(UnsupportedModelError, match="layer class"):
        innv_ext.register_bilinear(keras.activations.relu)


# --- tables of rules ---------------------------------------------------------------------------------------------


def rows(analyzer):
    """{node name: rule}."""
    return {node.name: rule for node, rule in zip(analyzer.graph_.nodes, analyzer.rules_, strict=True)}


@pytest.fixture(scope="module")
def net():
    """Two convolutions in a nested model, a dense head; every layer has a name."""
    with zoo.precision("float64"):
        body = keras.Sequential(
            [
                keras.Input((6, 6, 2)),
                layers.Conv2D(3, 3, activation="relu", name="conv_a"),
                layers.Conv2D(3, 3, activation="relu", name="conv_b"),
            ],
            name="body",
        )
        i = keras.Input((6, 6, 2))
        y = layers.Flatten(name="flatten")(body(i))
        y = layers.Dense(5, activation="relu", name="hidden")(y)
        model = keras.Model(i, layers.Dense(3, activation="softmax", name="top")(y))
    return zoo.randomise(model, 4)


AFFINE = ("body/conv_a", "body/conv_b", "hidden", "top")


@pytest.mark.parametrize(
    ("predicate", "expected"),
    [
        (is_a(layers.Conv2D), {"body/conv_a", "body/conv_a/relu", "body/conv_b", "body/conv_b/relu"}),
        (is_a(layers.Dense, layers.Flatten), {"flatten", "hidden", "top"}),
        (op_is("relu"), {"body/conv_a/relu", "body/conv_b/relu", "hidden/relu"}),
        (op_is(keras.activations.relu), {"body/conv_a/relu", "body/conv_b/relu", "hidden/relu"}),
        (op_is(ops.relu, ops.tanh), {"body/conv_a/relu", "body/conv_b/relu", "hidden/relu"}),
        (named("body"), {"body/conv_a", "body/conv_a/relu", "body/conv_b", "body/conv_b/relu"}),
        (named("conv_a", "top"), {"body/conv_a", "body/conv_a/relu", "top"}),
        (named("body/conv_b"), {"body/conv_b", "body/conv_b/relu"}),
        (at_index(1), {"body/conv_a", "body/conv_a/relu", "body/conv_b", "body/conv_b/relu"}),
        (at_index(-1, 2), {"flatten", "top"}),
        (first_linear, {"body/conv_a"}),
        (up_to(1), {"body/conv_a", "body/conv_a/relu", "body/conv_b", "body/conv_b/relu"}),
        (
            up_to(-2),
            {"body/conv_a", "body/conv_a/relu", "body/conv_b", "body/conv_b/relu", "flatten", "hidden", "hidden/relu"},
        ),
        (up_to("conv_a"), {"body/conv_a", "body/conv_a/relu"}),
        (
            up_to("hidden"),
            {"body/conv_a", "body/conv_a/relu", "body/conv_b", "body/conv_b/relu", "flatten", "hidden", "hidden/relu"},
        ),
        (both(up_to("hidden"), is_a(layers.Dense)), {"hidden"}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_predicates(net, predicate, expected):
    """A fused activation counts as a node of its layer for names and positions, but not as its class."""
    graph = create("lrp.z", net).graph_
    matched = {node.name for node in graph.nodes if predicate(node, graph)}
    if predicate.__name__.startswith("is_a"):  # an activation node is a function, not a layer
        expected = {n for n in expected if not n.endswith("/relu")}
    assert matched == expected
    assert predicate.__name__ in repr(Rules((predicate, Epsilon())))


def test_rules_for_some_layers(net):
    """``rules=`` goes before everything else, by layer name."""
    analyzer = create("lrp", net, rules=Rules((named("conv_a"), Flat()), (is_a(layers.Dense), Epsilon(0.5))))
    found = rows(analyzer)
    assert [found[name] for name in AFFINE] == [Flat(), Epsilon(0.0), Epsilon(0.5), Epsilon(0.5)]
    x = np.random.default_rng(0).uniform(-1, 1, (2, 6, 6, 2))
    twin = create(
        "lrp",
        net,
        rule=Rules((is_a(layers.Conv2D), Epsilon(0.0)), (is_a(layers.Dense), Epsilon(0.5))),
        input_layer_rule="flat",
    )
    np.testing.assert_allclose(analyzer.analyze(x), twin.analyze(x), rtol=1e-12)


def test_before_prepends_and_the_first_row_wins(net):
    base = Rules((is_a(layers.Conv2D, layers.Dense), Gamma(0.1)))
    table = Rules((named("top"), Epsilon(0.5)), (named("top"), Flat())).before(base)
    assert len(table.rows) == 3 and len(base.rows) == 1
    found = rows(create("lrp", net, rule=table))
    assert [found[name] for name in AFFINE] == [Gamma(0.1)] * 3 + [Epsilon(0.5)]


def test_rule_takes_a_table_over_the_affine_nodes(net):
    """Whatever its predicates match besides (activations, flattening) keeps its own rule."""
    analyzer = create("lrp", net, rule=Rules((named("body"), Gamma()), (anything, Epsilon(0.1))))
    found = rows(analyzer)
    assert [found[name] for name in AFFINE] == [Gamma(), Gamma(), Epsilon(0.1), Epsilon(0.1)]
    x = np.random.default_rng(0).uniform(-1, 1, (2, 6, 6, 2))
    twin = create("lrp", net, rule=Rules((is_a(layers.Conv2D), Gamma()), (is_a(layers.Dense), Epsilon(0.1))))
    np.testing.assert_allclose(analyzer.analyze(x), twin.analyze(x), rtol=1e-12)


def test_order_of_precedence(net):
    """rules, then input_layer_rule, then until_layer, then rule."""
    found = rows(
        create(
            "lrp",
            net,
            rules=Rules((named("conv_b"), ZPlus())),
            input_layer_rule="w_square",
            until_layer="hidden",
            until_layer_rule="flat",
            rule="gamma",
        )
    )
    assert [found[name] for name in AFFINE] == [WSquare(), ZPlus(), Flat(), Gamma()]


def test_a_rule_is_known_by_what_stands_at_its_class(net, monkeypatch):
    """One decorator gives a name; parameters that the name decides, and a check of all."""
    monkeypatch.setattr(names, "RULE_NAMES", dict(names.RULE_NAMES))

    @names.rule("twice_Z", "the z rule, twice", factor=2.0)
    @names.rule("times", "the z rule, times a factor")
    @dataclass(frozen=True)
    class Times(rules.AffineRule):
        factor: float = arguments.positive(1.0)

        def __call__(self, node, xs, ys, rs):
            (share,) = Epsilon(0.0)(node, xs, ys, rs)
            return [self.factor * share]

    assert list(names.RULE_NAMES)[-2:] == ["twice_z", "times"]
    assert names.RULE_NAMES["twice_z"].open() == [] and [f.name for f in names.RULE_NAMES["times"].open()] == ["factor"]
    found = rows(create("lrp", net, rule="times", input_layer_rule="twice_z"))
    assert [found[name] for name in AFFINE] == [Times(2.0), Times(1.0), Times(1.0), Times(1.0)]
    x = np.random.default_rng(0).uniform(-1, 1, (2, 6, 6, 2))
    twice = create("lrp", net, input_layer_rule="twice_z", rule="z").analyze(x)
    np.testing.assert_allclose(twice, 2 * create("lrp.z", net).analyze(x), rtol=1e-12)
    with pytest.raises(InvalidInputError, match=r"factor must be a positive number, got -1\.$"):
        Times(-1)


def test_names_of_rules_are_names_of_analyzers(net):
    for key, known in names.RULE_NAMES.items():
        assert key == known.name.lower()
        named_rule = rows(create("lrp", net, rule=key))["top"]
        assert named_rule == rows(create(f"lrp.{known.name}", net))["top"] and type(named_rule) is known.cls
        open_fields = {f.name: f.default for f in known.open()}
        parameters = registry.find(f"lrp.{known.name}").parameters()
        assert {k: parameters[k] for k in open_fields} == open_fields and not set(known.fixed) & set(parameters)


def test_a_function_is_a_rule(net):
    """Any function of (node, xs, ys, rs); here the z rule by hand, which the class must equal."""

    def by_hand(node, xs, ys, rs):
        z = ys[0]
        return [xs[0] * node.pullback(rs[0] / ops.where(z == 0, 1.0, z))[0]]

    x = np.random.default_rng(0).uniform(-1, 1, (3, 6, 6, 2))
    table = Rules((lambda node, graph: node.name in AFFINE, by_hand))
    np.testing.assert_allclose(
        create("lrp", net, rules=table).analyze(x), create("lrp.z", net).analyze(x), rtol=1e-9, atol=1e-12
    )


def test_a_table_that_covers_too_little(net):
    with pytest.raises(NoRuleError) as caught:
        LRP(net, rule=Rules((named("top"), Epsilon())))
    for name in AFFINE[:3]:
        assert name in str(caught.value)
    assert "top" not in str(caught.value)


def test_rules_are_values():
    """Frozen and comparable, and printed with their parameters."""
    assert Epsilon(0.1) == Epsilon(0.1) != Epsilon(0.2)
    assert repr(Gamma(0.5)) == "Gamma(gamma=0.5, bias=True)"
    with pytest.raises(AttributeError):
        Epsilon(0.1).epsilon = 1.0
    assert len(inspect.signature(Epsilon().__call__).parameters) == 4


# --- relevance of layers -----------------------------------------------------------------------------------------


def test_layer_relevance_of_a_conserving_method(net):
    """Each layer of a chain holds the whole score, in the shape of its output; names may be short or full."""
    x = np.random.default_rng(0).uniform(-1, 1, (3, 6, 6, 2))
    analyzer = create("lrp.z_plus", net)
    found = analyzer.explain(x, return_layers=True)
    score = found.extras["score"]
    assert (score > 0).all()
    assert set(found.extras["layers"]) == {"body", "body/conv_a", "body/conv_b", "flatten", "hidden", "top"}
    for name, relevance in found.extras["layers"].items():
        np.testing.assert_allclose(relevance.reshape(3, -1).sum(axis=1), score, rtol=1e-9, err_msg=name)
    np.testing.assert_array_equal(found.extras["layers"]["body"], found.extras["layers"]["body/conv_b"])
    top = found.extras["layers"]["top"]
    np.testing.assert_allclose(top, np.eye(3)[found.target] * score[:, None])
    _, some = analyzer.analyze(x, return_layers=["conv_b", "hidden"])
    assert list(some) == ["body/conv_b", "hidden"]
    np.testing.assert_allclose(some["hidden"], found.extras["layers"]["hidden"], rtol=1e-12)


def test_layer_gradients_are_the_tape(net):
    import tensorflow as tf

    x = np.random.default_rng(0).uniform(-1, 1, (3, 6, 6, 2))
    _, found = create("gradient", net, on="output").analyze(x, 2, return_layers=["body", "hidden"])
    with tf.GradientTape(persistent=True) as tape:
        body = net.get_layer("body")(tf.constant(x))
        tape.watch(body)
        hidden = net.get_layer("hidden")(net.get_layer("flatten")(body))
        p = net.get_layer("top")(hidden)[:, 2]
    np.testing.assert_allclose(found["body"], tape.gradient(p, body), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(found["hidden"], tape.gradient(p, hidden), rtol=1e-9, atol=1e-15)


def test_branches_share_the_relevance():
    """At a sum, the relevance of the two branches adds up to what arrives."""
    with zoo.precision("float64"):
        i = keras.Input((5,))
        a = layers.Dense(4, use_bias=False, activation="relu", name="a")(i)
        b = layers.Dense(4, use_bias=False, activation="relu", name="b")(i)
        net = keras.Model(i, layers.Dense(3, use_bias=False)(layers.Add(name="sum")([a, b])))
    zoo.randomise(net, 1)
    x = np.random.default_rng(0).uniform(-1, 1, (3, 5))
    _, found = create("lrp.z", net).analyze(x, return_layers=["a", "b", "sum"])
    np.testing.assert_allclose(found["a"] + found["b"], found["sum"], rtol=1e-9, atol=1e-12)
    values = {name: np.asarray(keras.Model(net.input, net.get_layer(name).output)(x)) for name in ("a", "sum")}
    share = np.divide(values["a"], values["sum"], out=np.zeros((3, 4)), where=values["sum"] != 0)
    np.testing.assert_allclose(found["a"], found["sum"] * share, rtol=1e-9, atol=1e-12)


# --- rules that are wrong ------------------------------------------------------------------------------------------


def forgetful(node, xs, ys, rs):
    """Forgets to return anything."""


WRONG = {  # what a rule returns, and what the message says
    "nothing": (forgetful, "forgetful returned None"),
    "a bare tensor": (lambda node, xs, ys, rs: rs[0], "<lambda> returned a bare tensor"),
    "too many": (lambda node, xs, ys, rs: [rs[0], None], "returned 2 values"),
    "a number": (lambda node, xs, ys, rs: [0.0], r"shape \(\) for input 0"),
    "other rank": (lambda node, xs, ys, rs: [ops.sum(rs[0], axis=1)], r"shape \((None|2),\) for input 0"),
    "other size": (lambda node, xs, ys, rs: [rs[0][:, :1]], r"shape \(.+, 1\) for input 0, which has \(.+, 4\)"),
}


def two_dense():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((3,)), layers.Dense(4, "relu", name="low"), layers.Dense(2, name="high")])


@pytest.mark.parametrize("name", WRONG)
def test_what_a_rule_returns_is_checked_once(name):
    rule, told = WRONG[name]
    analyzer = create("lrp", two_dense(), rules=Rules((op_is("relu"), rule)))
    with pytest.raises(InvalidInputError, match=rf"{told}.* at node 'low/relu' \(relu\)"):
        analyzer.analyze(np.ones((2, 3), "float32"))


@pytest.mark.parametrize("method", ["lrp", "deep_lift"])
def test_rows_that_fit_no_node_are_told(method):
    with pytest.warns(UnusedRuleWarning, match=r"named\(lov\)"):
        create(method, two_dense(), rules=Rules((named("lov"), forgetful)))
    create(method, two_dense(), rules=Rules((named("low"), forgetful)))


def test_a_rule_of_affine_nodes_that_is_given_for_another_is_unused():
    with pytest.warns(UnusedRuleWarning, match=r"op_is\(relu\)"):
        create("lrp", two_dense(), rules=Rules((op_is("relu"), Epsilon())))
