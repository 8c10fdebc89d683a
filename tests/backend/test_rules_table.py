"""Rule tables: the first match wins, overrides go in front, and every node without a rule is named at once."""

import keras
import pytest
from keras import layers as L
from keras import ops

from innv_ext.backend import facts, passes, rules
from innv_ext.backend.kinds import Kind
from innv_ext.backend.rules import Rules
from innv_ext.backend.tracing import trace
from innv_ext.errors import NoRuleError, UnsupportedModelError


def graph_of(model):
    return passes.canonical(trace(model, facts.is_leaf))


@pytest.fixture(scope="module")
def model():
    """Convolution, separable convolution, pooling, a nested model with its own dense layers, and a head."""
    i = keras.Input((2,))
    inner = keras.Model(i, L.Dense(2, "tanh", name="two")(L.Dense(3, "relu", name="one")(i)), name="inner")
    x = keras.Input((6, 6, 2), name="x")
    h = L.Conv2D(3, 3, activation="relu", name="conv")(x)
    h = L.SeparableConv2D(2, 2, name="separable")(h)
    h = L.MaxPooling2D(2, name="pool")(L.LeakyReLU(name="leaky")(h))
    h = inner(L.GlobalAveragePooling2D(name="average")(h))
    return keras.Model(x, L.Dense(2, "softmax", name="head")(h), name="whole")


@pytest.fixture(scope="module")
def graph(model):
    return graph_of(model)


NAMES = ["conv", "conv/relu", "separable/depthwise", "separable/pointwise", "leaky", "pool", "average", "inner/one",
         "inner/one/relu", "inner/two", "inner/two/tanh", "head", "head/softmax"]


def chosen(predicate, graph):
    return [n.name for n in graph.nodes if predicate(n, graph)]


def test_the_graph_is_the_one_the_tests_expect(graph):
    assert [n.name for n in graph.nodes] == NAMES


# --- order --------------------------------------------------------------------------------------------------------


def test_the_first_matching_row_wins(graph):
    table = Rules((rules.named("conv"), "A"), (rules.kind_is(Kind.AFFINE), "B"), (rules.anything, "C"))
    bound = dict(zip(NAMES, table.bind(graph), strict=True))
    assert bound["conv"] == bound["conv/relu"] == "A"
    assert {n for n, r in bound.items() if r == "B"} == {
        "separable/depthwise", "separable/pointwise", "inner/one", "inner/two", "head",
    }
    assert set(bound.values()) == {"A", "B", "C"}


def test_order_of_rows_matters(graph):
    one = Rules((rules.anything, "all"), (rules.named("conv"), "never"))
    assert set(one.bind(graph)) == {"all"}


def test_before_prepends_and_changes_neither_table(graph):
    first, second = Rules((rules.named("head"), "A")), Rules((rules.named("head"), "B"), (rules.anything, "C"))
    joined = first.before(second)
    assert len(first.rows) == 1 and len(second.rows) == 2 and joined.rows == first.rows + second.rows
    bound = dict(zip(NAMES, joined.bind(graph), strict=True))
    assert bound["head"] == "A" and bound["conv"] == "C"
    assert second.before(first).bind(graph)[NAMES.index("head")] == "B"


def test_an_empty_table_changes_nothing_in_front_of_another(graph):
    table = Rules((rules.anything, "A"))
    assert Rules().before(table).rows == table.rows == table.before(Rules()).rows


def test_match_gives_the_row_with_its_label(graph):
    row = (rules.anything, "rule", "label")
    assert Rules(row).match(graph.nodes[0], graph) == row
    assert Rules((rules.named("nobody"), "rule")).match(graph.nodes[0], graph) is None


def test_tables_are_values():
    row = (rules.anything, "A")
    assert Rules(row) == Rules(row) and Rules(row) != Rules() and hash(Rules(row)) == hash(Rules(row))
    assert repr(Rules(row)) == "Rules(anything: 'A')"
    with pytest.raises(AttributeError):
        Rules(row).rows = ()


def test_bind_keeps_the_order_of_nodes(graph):
    table = Rules(*((rules.named(n.name), i) for i, n in reversed(list(enumerate(graph.nodes)))))
    bound = table.bind(graph)
    assert bound[NAMES.index("pool")] == NAMES.index("pool") and len(bound) == len(graph.nodes)


# --- nodes without a rule -----------------------------------------------------------------------------------------


def test_every_node_without_a_rule_is_named_with_class_and_position(model, graph):
    table = Rules((rules.kind_is(Kind.ACTIVATION), "A"))
    with pytest.raises(NoRuleError) as error:
        table.bind(graph, "Do this instead.")
    lines = str(error.value).split("\n")
    missing = [n for n in graph.nodes if n.kind is not Kind.ACTIVATION]
    assert len(lines) == len(missing) + 2 and lines[-1] == "Do this instead."
    for node, line in zip(missing, lines[1:-1], strict=True):
        assert f"- {node.name} (" in line and f"node {node.index}" in line
        assert type(node.op).__name__ in line and f"model.layers[{node.position}]" in line
        assert model.layers[node.position].name == node.layers[0]
    assert isinstance(error.value, UnsupportedModelError) and isinstance(error.value, ValueError)


def test_without_a_hint_the_message_ends_with_the_last_node(graph):
    with pytest.raises(NoRuleError) as error:
        Rules((rules.both(rules.anything, lambda n, g: n.name != "pool"), "A")).bind(graph)
    assert str(error.value).split("\n")[1:] == ["  - pool (MaxPooling2D, node 5, model.layers[4])"]


def test_operations_without_a_layer_are_named_by_their_function():
    x = keras.Input((3,))
    with pytest.raises(NoRuleError, match=r"\(sort, node 0\)"):
        Rules().bind(graph_of(keras.Model(x, ops.sort(x))))


def test_the_reason_why_a_layer_was_not_opened_is_told():
    class Raw(L.Layer):
        def call(self, x):
            return keras.ops.convert_to_tensor(x) if not isinstance(x, keras.KerasTensor) else x.numpy()

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

    x = keras.Input((3,))
    with pytest.raises(NoRuleError, match=r"own \(Raw, node 0, model\.layers\[1\]; not opened because its call\(\)"):
        Rules().bind(graph_of(keras.Model(x, Raw(name="own")(x))))


def test_a_graph_without_nodes_needs_no_rules():
    x = keras.Input((3,))
    assert Rules().bind(graph_of(keras.Model(x, x))) == ()


# --- predicates ---------------------------------------------------------------------------------------------------


AFFINE = ["conv", "separable/depthwise", "separable/pointwise", "inner/one", "inner/two", "head"]


@pytest.mark.parametrize(
    ("predicate", "wanted"),
    [
        (rules.anything, NAMES),
        (rules.is_a(L.Dense), ["inner/one", "inner/two", "head"]),
        (rules.is_a(L.Conv2D, L.MaxPooling2D), ["conv", "pool"]),
        (rules.is_a(L.SeparableConv2D), ["separable/depthwise", "separable/pointwise"]),
        (rules.is_a(L.Conv1D), []),
        (rules.op_is("relu"), ["conv/relu", "inner/one/relu"]),
        (rules.op_is(keras.activations.relu), ["conv/relu", "inner/one/relu"]),
        (rules.op_is(ops.relu, "tanh"), ["conv/relu", "inner/one/relu", "inner/two/tanh"]),
        (rules.op_is("MaxPooling2D"), ["pool"]),
        (rules.named("conv"), ["conv", "conv/relu"]),
        (rules.named("conv/relu"), ["conv/relu"]),
        (rules.named("inner"), ["inner/one", "inner/one/relu", "inner/two", "inner/two/tanh"]),
        (rules.named("inner/two"), ["inner/two", "inner/two/tanh"]),
        (rules.named("two", "pool"), ["pool", "inner/two", "inner/two/tanh"]),
        (rules.named("separable"), ["separable/depthwise", "separable/pointwise"]),
        (rules.named("con"), []),
        (rules.at_index(1), ["conv", "conv/relu"]),
        (rules.at_index(-1), ["head", "head/softmax"]),
        (rules.at_index(-2), ["inner/one", "inner/one/relu", "inner/two", "inner/two/tanh"]),
        (rules.at_index(4, -1), ["pool", "head", "head/softmax"]),
        (rules.at_index(0), []),  # the input layer has no node
        (rules.at_index(100), []),
        (rules.kind_is(Kind.AFFINE), AFFINE),
        (rules.kind_is(Kind.MAX, Kind.LINEAR), ["pool", "average"]),
        (rules.relu_like, ["conv/relu", "leaky", "inner/one/relu"]),
        (rules.convolution, ["conv", "separable/depthwise", "separable/pointwise"]),
        (rules.dense, ["inner/one", "inner/two", "head"]),
        (rules.first_linear, ["conv"]),
        (rules.nonnegative_input, ["separable/depthwise", "inner/two"]),
        (rules.up_to(1), ["conv", "conv/relu"]),
        (rules.up_to(2), ["conv", "conv/relu", "separable/depthwise", "separable/pointwise"]),
        (rules.up_to(-2), NAMES[:-2]), (rules.up_to(-1), NAMES), (rules.up_to(0), []),
        (rules.up_to("pool"), NAMES[:6]), (rules.up_to("inner"), NAMES[:-2]), (rules.up_to("one"), NAMES[:9]),
        (rules.up_to("head"), NAMES), (rules.up_to("nobody"), []),
        (rules.both(rules.convolution, rules.first_linear), ["conv"]),
        (rules.both(rules.kind_is(Kind.AFFINE), rules.named("inner")), ["inner/one", "inner/two"]),
        (rules.both(), NAMES),
        (rules.not_differentiable, []),
    ],
    ids=lambda p: getattr(p, "__name__", ""),
)
def test_predicates(predicate, wanted, graph):
    assert chosen(predicate, graph) == wanted


@pytest.mark.parametrize(
    ("predicate", "name"),
    [
        (rules.is_a(L.Dense, L.Conv2D), "is_a(Dense, Conv2D)"), (rules.op_is(ops.relu, "tanh"), "op_is(relu, tanh)"),
        (rules.named("a", "b"), "named(a, b)"), (rules.at_index(1, -2), "at_index(1, -2)"),
        (rules.kind_is(Kind.MAX), "kind_is(max)"), (rules.up_to("a"), "up_to(a)"),
        (rules.both(rules.dense, rules.named("a")), "both(dense and named(a))"),
    ],
)
def test_predicates_say_what_they_are(predicate, name):
    assert predicate.__name__ == name and name in repr(Rules((predicate, "rule")))


def test_up_to_a_layer_follows_the_graph_not_the_list_of_layers():
    """By name: what the layer depends on. A parallel branch is not below it, whatever its position."""
    x = keras.Input((3,))
    a = L.Dense(3, name="a")(x)
    b = L.Dense(3, name="b")(L.Dense(3, name="c")(x))
    graph = graph_of(keras.Model(x, L.Add(name="d")([b, a])))
    assert set(chosen(rules.up_to("b"), graph)) == {"b", "c"}
    assert set(chosen(rules.up_to("a"), graph)) == {"a"}
    assert set(chosen(rules.up_to("d"), graph)) == {"a", "b", "c", "d"}


def test_op_is_sees_every_form_of_a_function():
    x = keras.Input((3,))
    h = L.Activation("relu", name="a")(L.Dense(3, "relu", name="d")(x))
    graph = graph_of(keras.Model(x, ops.relu(h)))
    assert len(chosen(rules.op_is(keras.activations.relu), graph)) == 3
    assert len(chosen(rules.is_a(L.Activation), graph)) == 1


def test_is_a_takes_subclasses_and_users_classes():
    class Mine(L.Dense):
        pass

    x = keras.Input((3,))
    graph = graph_of(keras.Model(x, Mine(2, name="mine")(L.Dense(3)(x))))
    assert chosen(rules.is_a(Mine), graph) == ["mine"] and len(chosen(rules.is_a(L.Dense), graph)) == 2


def test_not_differentiable_means_integer_and_boolean_outputs():
    x = keras.Input((6,), dtype="int32")
    h = L.Embedding(5, 3, mask_zero=True)(x)
    graph = graph_of(keras.Model(x, ops.where(ops.expand_dims(ops.greater(x, 2), -1), h, 0.0)))
    found = chosen(rules.not_differentiable, graph)
    outputs = [graph.specs[s].dtype for n in graph.nodes if n.name in found for s in n.outputs]
    assert outputs == ["bool", "bool"]


def test_nonnegative_input_needs_all_inputs():
    x = keras.Input((4,))
    one = graph_of(keras.Model(x, L.Add(name="sum")([L.ReLU()(x), x])))
    two = graph_of(keras.Model(x, L.Add(name="sum")([L.ReLU()(x), ops.sigmoid(x)])))
    assert chosen(rules.nonnegative_input, one) == [] and chosen(rules.nonnegative_input, two) == ["sum"]
