"""Saving and loading: the same maps and parameters, no pickle, nothing half-written, no foreign code."""

import io
import json
import zipfile
from dataclasses import dataclass

import keras
import numpy as np
import pytest
import zoo

import innv_ext
from innv_ext import rules
from innv_ext.analyzers import LRP, DeepTaylor, Gradient, IntegratedGradients, ReverseAnalyzer, SmoothGrad
from innv_ext.analyzers.core import saving
from innv_ext.errors import InnvError, InvalidInputError, SaveError
from innv_ext.rules import AlphaBeta, Bounded, Epsilon, Flat, Gamma, Rules, WSquare, ZPlus

pytestmark = zoo.QUICK


def roundtrip(analyzer, tmp_path, **options):
    path = tmp_path / "analyzer.innv"
    analyzer.save(path)
    return innv_ext.load_analyzer(path, **options)


def same_params(a, b):
    """Equal constructor arguments, arrays included."""
    first, second = a.get_params(), b.get_params()
    assert list(first) == list(second)
    for key, value in first.items():
        assert type(second[key]) is type(value), key
        if isinstance(value, Rules):  # predicates are functions, which are equal by name only
            assert repr(second[key]) == repr(value)
        else:
            np.testing.assert_equal(second[key], value, err_msg=key)


# --- roundtrips --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", zoo.by_rule(zoo.NAMES))
def test_by_name(name, tmp_path):
    """Every analyzer, with parameters that aren't the defaults."""
    sample = zoo.make("mlp" if zoo.applies(name, zoo.make("mlp")) else "convnet")
    x = sample.inputs(4)
    options = {"batch_size": 3, "seed": 5, "on": "logits", "neuron_selection_mode": "max_activation"}
    analyzer = zoo.create(name, sample.model, x, **options)
    loaded = roundtrip(analyzer, tmp_path)
    assert type(loaded) is type(analyzer) and repr(loaded) == repr(analyzer)
    assert loaded.registered_name_ == name
    same_params(analyzer, loaded)
    np.testing.assert_array_equal(loaded.analyze(x), analyzer.analyze(x))


BY_CLASS = {
    "gradient": (Gradient, {"postprocess": "square", "on": "output", "jit_compile": False}),
    "smoothgrad": (SmoothGrad, {"augment_by_n": 3, "noise": "absolute", "noise_scale": np.float32(0.25)}),
    "reference array": (IntegratedGradients, {"steps": 3, "reference_inputs": np.linspace(-1, 1, 6)}),
    "reference list": (IntegratedGradients, {"steps": 3, "reference_inputs": [0.0, 1, 2, 3, 4, 5.5]}),
    "epsilon": (LRP, {"rule": Epsilon(0.1, bias=False), "gate": "half", "batchnorm": "two_linear"}),
    "bounds": (LRP, {"rule": "gamma", "input_layer_rule": (-1.0, 2.0)}),
    "bounds as lists": (LRP, {"rule": ZPlus(general=False), "input_layer_rule": Bounded([-1.0] * 6, [2.0] * 6)}),
    "until": (LRP, {"rule": AlphaBeta(1.0, 0.0), "until_layer": 1, "until_layer_rule": WSquare()}),
    "gamma": (LRP, {"rule": Gamma(0.5), "input_layer_rule": Flat()}),
    "deep taylor": (DeepTaylor, {"low": np.full(6, -2.0), "high": np.arange(6.0)}),
}


@pytest.mark.parametrize("case", BY_CLASS)
def test_by_class(case, tmp_path):
    cls, params = BY_CLASS[case]
    sample = zoo.make("mlp")
    x = sample.inputs(3)
    analyzer = cls(sample.model, **params)
    loaded = roundtrip(analyzer, tmp_path)
    assert type(loaded) is cls
    for key, value in params.items():
        np.testing.assert_equal(getattr(loaded, key), value)
    np.testing.assert_array_equal(loaded.analyze(x), analyzer.analyze(x))


@pytest.mark.parametrize(
    "model", ["nested", "two_inputs", "dict_inputs", "two_outputs", "tokens", "uint8", "bn_before", "operators"]
)
def test_models_of_many_kinds(model, tmp_path):
    """The model travels along, with its structure, weights and statistics."""
    sample = zoo.make(model)
    x = sample.inputs(3)
    analyzer = zoo.create("lrp.epsilon", sample.model, **sample.params)
    loaded = roundtrip(analyzer, tmp_path)
    for a, b in zip(keras.tree.flatten(loaded.analyze(x)), keras.tree.flatten(analyzer.analyze(x)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_custom_objects(tmp_path):
    """A model with the user's own layers needs their classes, as keras.models.load_model does."""
    net = keras.Sequential([keras.Input((6,)), Doubled(), keras.layers.Dense(2)])
    x = np.random.default_rng(0).uniform(-1, 1, (3, 6))
    analyzer = zoo.create("lrp.epsilon", net)
    loaded = roundtrip(analyzer, tmp_path, custom_objects={"Doubled": Doubled})
    np.testing.assert_array_equal(loaded.analyze(x), analyzer.analyze(x))


class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2 * x


def test_saving_twice_and_what_was_trained_since(tmp_path):
    """An archive holds the weights of the moment; saving again replaces it."""
    sample = zoo.fresh("mlp")
    x = sample.inputs(2)
    analyzer = zoo.create("gradient", sample.model)
    first = analyzer.analyze(x)
    path = tmp_path / "a.innv"
    analyzer.save(path)
    sample.model.set_weights([2 * w for w in sample.model.get_weights()])
    second = analyzer.analyze(x)
    np.testing.assert_array_equal(innv_ext.load_analyzer(path).analyze(x), first)
    analyzer.save(str(path))
    np.testing.assert_array_equal(innv_ext.load_analyzer(str(path)).analyze(x), second)
    assert not np.allclose(first, second)
    assert [p.name for p in tmp_path.iterdir()] == ["a.innv"]


def test_saving_leaves_the_model_alone(tmp_path):
    sample = zoo.make("residual")
    nodes = [len(layer._inbound_nodes) for layer in sample.model._flatten_layers()]
    roundtrip(zoo.create("lrp.z", sample.model), tmp_path)
    assert nodes == [len(layer._inbound_nodes) for layer in sample.model._flatten_layers()]


# --- the format --------------------------------------------------------------------------------------------------


def test_the_archive_holds_no_pickle(tmp_path):
    """Json, arrays that load without pickle, and Keras' own format without a Lambda."""
    sample = zoo.make("mlp")
    path = tmp_path / "a.innv"
    IntegratedGradients(sample.model, steps=3, reference_inputs=np.linspace(-1, 1, 6)).save(path)
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == ["analyzer.json", "model.keras", "params.npz", "state.npz"]
        assert archive.testzip() is None
        content = json.loads(archive.read("analyzer.json"))
        assert content["class"] == "IntegratedGradients" and content["params"]["steps"] == 3
        for name in ("params.npz", "state.npz"):
            with np.load(io.BytesIO(archive.read(name)), allow_pickle=False) as arrays:
                assert all(arrays[key].dtype.kind in "fiub" for key in arrays)
        inner = zipfile.ZipFile(io.BytesIO(archive.read("model.keras")))
        assert {"config.json", "model.weights.h5"} <= set(inner.namelist())
        everything = [archive.read(n) for n in archive.namelist()] + [inner.read(n) for n in inner.namelist()]
    assert not any(data.startswith(b"\x80") or b"pickle" in data for data in everything)


# --- rules and tables --------------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("test_storage")
@dataclass(frozen=True)
class Doubling:
    """A user's rule with a parameter, registered with Keras."""

    factor: float = 2.0

    def __call__(self, node, xs, ys, rs):
        return [self.factor * r for r in node.pullback(*rs)]

    def get_config(self):
        return {"factor": self.factor}


@keras.saving.register_keras_serializable("test_storage")
def halving(node, xs, ys, rs):
    return [0.5 * r for r in node.pullback(*rs)]


@keras.saving.register_keras_serializable("test_storage")
def wide(node, graph):
    return node.name.startswith("dense")


RULES = [
    rules.Epsilon(0.1, bias=False), rules.AlphaBeta(3.0, 2.0), rules.ZPlus(general=False), rules.Gamma(0.7),
    rules.WSquare(), rules.Flat(), rules.Bounded([-1.0] * 6, 2.0), rules.HuiBinder(), rules.Gate("half"),
    rules.ScaleShift(1e-3), rules.LayerNorm(1e-3), rules.gradient, rules.pass_through, rules.nothing, rules.rescale,
    rules.linear, rules.winner_takes_all, rules.embedding, Doubling(3.0), halving,
]
PREDICATES = [
    rules.anything, rules.convolution, rules.dense, rules.first_linear, rules.nonnegative_input, rules.relu_like,
    rules.shifted, rules.centres,
    rules.named("a", "b"), rules.at_index(0, -1), rules.op_is("relu", keras.activations.tanh), rules.up_to("dense"),
    rules.up_to(-2), rules.kind_is(rules.Kind.AFFINE, rules.Kind.MAX), rules.is_a(keras.layers.Dense),
    rules.both(rules.dense, rules.named("a"), rules.both(wide, rules.kind_is(rules.Kind.AFFINE))), wide,
]


TABLES = [Rules(), Rules((rules.dense, Gamma(2.0), "mine"), (wide, halving))]


@pytest.mark.parametrize("thing", [*RULES, *PREDICATES, *TABLES], ids=lambda t: getattr(t, "__name__", repr(t)))
def test_rules_predicates_and_tables_are_equal_after_saving(thing):
    """By way of json and back."""
    arrays = {}
    written = json.loads(json.dumps(saving.encode({"x": [thing, (thing,)]}, "rules", arrays)))
    read = saving.decode(written, arrays, {})
    assert read == {"x": [thing, (thing,)]} and repr(read["x"][0]) == repr(thing)


def test_a_table_is_saved_with_its_analyzer(tmp_path):
    """Built-in and registered rules, as ``rule=``, ``rules=`` and moment rules of one's own; the same maps."""
    sample = zoo.make("mlp")
    x = sample.inputs(3)
    own = Rules((wide, Doubling(1.5)), (rules.relu_like, halving)).before(Rules((rules.anything, rules.Epsilon(0.2))))
    for params in ({"rules": own}, {"rule": Rules((rules.dense, Gamma(0.5)))}, {"rule": Doubling()}):
        analyzer = zoo.create("lrp", sample.model, **params)
        loaded = roundtrip(analyzer, tmp_path)
        assert loaded.get_params() == analyzer.get_params()
        np.testing.assert_array_equal(loaded.analyze(x), analyzer.analyze(x))
    maps = [zoo.create("lrp", sample.model, rules=table).analyze(x) for table in (own, None)]
    assert not np.allclose(*maps)


def test_what_is_not_registered_where_it_is_loaded(tmp_path, monkeypatch):
    """The error says what is missing; ``custom_objects`` gives it."""
    sample = zoo.make("mlp")
    path = tmp_path / "a.innv"
    analyzer = zoo.create("lrp", sample.model, rule=Doubling(3.0))
    analyzer.save(path)
    known = keras.saving.get_custom_objects()
    monkeypatch.delitem(known, "test_storage>Doubling")
    refused(path, r"'test_storage>Doubling' is not registered .* custom_objects")
    loaded = innv_ext.load_analyzer(path, custom_objects={"test_storage>Doubling": Doubling})
    assert loaded.rule == Doubling(3.0)


def test_archives_of_the_first_format(archive):
    """0.1.0 wrote rules by the name of their class."""
    old = {"rule": {"rule": "Gamma", "fields": {"gamma": 0.5, "bias": True}}}
    loaded = innv_ext.load_analyzer(archive[1](analyzer_json=_content(archive, format=1, params=old)))
    assert loaded.rule == Gamma(0.5)


# --- what cannot be saved ----------------------------------------------------------------------------------------


class MyRule:
    """A user's rule."""

    def __call__(self, node, xs, ys, rs):
        return node.pullback(*rs)


UNSAVABLE = {
    "table with a rule of no name": ("lrp", {"rules": Rules((rules.anything, MyRule()))}, "rules"),
    "table with a predicate of no name": ("lrp", {"rules": Rules((lambda node, graph: True, Epsilon()))}, "rules"),
    "rule object": ("lrp", {"rule": MyRule()}, "rule"),
    "rule function": ("lrp", {"input_layer_rule": lambda node, xs, ys, rs: node.pullback(*rs)}, "input_layer_rule"),
    "target function": ("gradient", {"neuron_selection_mode": lambda y: y[:, 0]}, "neuron_selection_mode"),
}


@pytest.mark.parametrize("case", UNSAVABLE)
def test_what_has_no_name_is_refused_by_parameter(case, tmp_path):
    """And an older archive stays; nothing else is left behind."""
    name, params, parameter = UNSAVABLE[case]
    sample = zoo.make("mlp")
    path = tmp_path / "a.innv"
    zoo.create("gradient", sample.model).save(path)
    before = path.read_bytes()
    with pytest.raises(SaveError, match=f"{parameter}=.*pickle"):
        zoo.create(name, sample.model, **params).save(path)
    with pytest.raises(SaveError, match=parameter):
        zoo.create(name, sample.model, **params).save(tmp_path / "b.innv")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.innv"]


def test_a_failure_half_way_leaves_the_old_file(tmp_path, monkeypatch):
    sample = zoo.make("mlp")
    path = tmp_path / "a.innv"
    analyzer = zoo.create("gradient", sample.model)
    analyzer.save(path)
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    for target in ((np, "savez"), (zipfile.ZipFile, "write"), (keras.Model, "save")):
        with monkeypatch.context() as patch:
            patch.setattr(*target, full)
            with pytest.raises(OSError, match="No space"):
                analyzer.save(path)
        assert path.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["a.innv"]
    with pytest.raises((OSError, SaveError)):
        analyzer.save(tmp_path / "missing" / "a.innv")
    assert [p.name for p in tmp_path.iterdir()] == ["a.innv"]


class Unregistered(ReverseAnalyzer):
    """A user's analyzer class that ``load_analyzer`` cannot know."""


def test_a_class_that_is_not_registered(tmp_path):
    """Refused when it is saved or when it is loaded, with the way out."""
    with pytest.raises(InnvError, match="register_analyzer"):
        roundtrip(Unregistered(zoo.make("mlp").model), tmp_path)


# --- what cannot be loaded ---------------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path):
    """A valid archive as {member: bytes}, and a function that writes a changed copy."""
    path = tmp_path / "good.innv"
    LRP(zoo.make("mlp").model, rule=Epsilon(0.1)).save(path)
    with zipfile.ZipFile(path) as z:
        members = {name: z.read(name) for name in z.namelist()}

    def written(**changes):
        target = tmp_path / "changed.innv"
        with zipfile.ZipFile(target, "w") as z:
            for name, data in members.items():
                data = changes.get(name.replace(".", "_"), data)
                if data is not None:
                    z.writestr(name, data)
        return target

    return members, written, path


def refused(path, match=None):
    """A SaveError that names the file."""
    with pytest.raises(SaveError, match=match) as caught:
        innv_ext.load_analyzer(path)
    assert path.name in str(caught.value)


def test_foreign_files(tmp_path):
    net = zoo.make("mlp").model
    net.save(tmp_path / "model.keras")
    np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
    (tmp_path / "text.innv").write_text("not an archive")
    (tmp_path / "empty.innv").write_bytes(b"")
    for name in ("model.keras", "arrays.npz", "text.innv", "empty.innv", "missing.innv"):
        refused(tmp_path / name, "Analyzer.save")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_files(archive, tmp_path, share):
    data = archive[2].read_bytes()
    path = tmp_path / "short.innv"
    path.write_bytes(data[: int(share * len(data))])
    refused(path)


def test_flipped_bytes(archive, tmp_path):
    """A damaged member is noticed by its checksum."""
    data = bytearray(archive[2].read_bytes())
    data[len(data) // 2] ^= 0xFF
    path = tmp_path / "flipped.innv"
    path.write_bytes(bytes(data))
    refused(path)


@pytest.mark.parametrize("member", ["analyzer_json", "model_keras", "params_npz", "state_npz"])
@pytest.mark.parametrize("data", [None, b"", b"garbage"], ids=["missing", "empty", "garbage"])
def test_damaged_members(archive, member, data):
    refused(archive[1](**{member: data}))


def _content(archive, **changes):
    content = json.loads(archive[0]["analyzer.json"])
    content.update(changes)
    return json.dumps({k: v for k, v in content.items() if v is not ...}).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 99},
        {"format": ...},
        {"params": ...},
        {"class": ...},
        {"params": [1, 2]},
        {"params": {"rule": {"rule": "os.system", "fields": {}}}},
        {"params": {"rule": {"rule": "Epsilon", "fields": {"power": 3}}}},
        {"params": {"rule": {"array": "param7"}}},
        {"params": {"no_such_parameter": 1}},
        {"params": {"rule": {"unknown": 1}}},
    ],
    ids=str,
)
def test_damaged_descriptions(archive, changes):
    refused(archive[1](analyzer_json=_content(archive, **changes)))


def test_a_list_instead_of_a_description(archive):
    refused(archive[1](analyzer_json=b"[1, 2, 3]"))


@pytest.mark.parametrize("name", ["no_such_analyzer", "NoSuchClass"])
def test_unknown_analyzers(archive, name):
    """By name or by class: an error of ours, with the name in it."""
    changes = {"name": name} if name.islower() else {"class": name}
    with pytest.raises((SaveError, InvalidInputError), match=name):
        innv_ext.load_analyzer(archive[1](analyzer_json=_content(archive, **changes)))


EXPLODED = []


def explode():
    EXPLODED.append(1)
    return 0


class Bomb:
    """Unpickling it leaves a trace."""

    def __reduce__(self):
        return explode, ()


def test_pickled_arrays_are_refused_and_not_run(archive):
    buffer = io.BytesIO()
    np.savez(buffer, bomb=np.array([Bomb()], dtype=object))
    for member in ("params_npz", "state_npz"):
        refused(archive[1](**{member: buffer.getvalue()}))
    assert EXPLODED == []
    with np.load(io.BytesIO(buffer.getvalue()), allow_pickle=True) as arrays:
        assert arrays["bomb"].shape == (1,)
    assert EXPLODED == [1], "the trap works"


def test_code_in_the_model_needs_consent(tmp_path):
    """Lambda layers hold Python code: refused unless the file is trusted."""
    sample = zoo.make("lambda_layer")
    x = sample.inputs(2)
    analyzer = zoo.create("lrp.epsilon", sample.model)
    path = tmp_path / "a.innv"
    analyzer.save(path)
    with pytest.raises(ValueError, match=r"safe_mode|Lambda"):
        innv_ext.load_analyzer(path)
    loaded = innv_ext.load_analyzer(path, safe_mode=False)
    np.testing.assert_allclose(loaded.analyze(x), analyzer.analyze(x), rtol=1e-6)
