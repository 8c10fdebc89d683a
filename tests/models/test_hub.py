"""Models of every family of keras-hub, tiny and with random weights: what runs gives right maps, or is refused."""

import contextlib
import functools
import inspect
import warnings

import hub_by_hand
import hub_models
import keras
import numpy as np
import pytest
import tensorflow as tf
from hub_refusals import ANALYZERS, REFUSED, ROUGH, refusal
from keras import tree

import innv_ext
from innv_ext.analyzers.core.subject import subject_of
from innv_ext.backend import walk
from innv_ext.errors import ApproximationWarning, UnsupportedModelError

hub = pytest.importorskip("keras_hub")

pytestmark = pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")
FAST = {"BertTextClassifier", "LlamaCausalLM", "ViTImageClassifier", "T5Seq2SeqLM"}
TAPED = """BertTextClassifier RobertaMaskedLM GPT2CausalLM LlamaCausalLM GemmaCausalLM T5Seq2SeqLM BartSeq2SeqLM
    WhisperBackbone MoonshineAudioToText PaliGemmaCausalLM ViTImageClassifier ResNetImageClassifier
    SegFormerImageSegmenter SwinTransformerImageClassifier RetinaNetObjectDetector Gemma3nCausalLM
    Gemma4CausalLM""".split()
PADDED = """AlbertTextClassifier BertTextClassifier DebertaV3TextClassifier DistilBertTextClassifier
    RobertaTextClassifier XLMRobertaTextClassifier""".split()


def marked(names):
    return [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in names]


class Case:
    """A model of the table, what it reads, and the output that is explained."""

    def __init__(self, name):
        self.name, self.model = name, hub_models.build(name)
        self.x = hub_models.inputs(self.model)
        self.output = hub_models.explained(self.model)

    def analyzer(self, analyzer, **params):
        return innv_ext.create_analyzer(analyzer, self.model, output=self.output, **params)

    def found(self, y):
        return y if self.output is None else y[self.output]


@pytest.fixture(scope="module", params=marked(hub_models.LISTED))
def case(request):
    """One model at a time."""
    return Case(request.param)


def close(found, expected, tolerance):
    np.testing.assert_allclose(found, expected, atol=tolerance * max(np.abs(expected).max(), 1e-12), rtol=0)


# --- all of them ------------------------------------------------------------------------------------------------------


def test_every_model_of_keras_hub_is_in_the_tables():
    kinds = (hub.models.Backbone, hub.models.Task)
    public = {name: cls for name, cls in vars(hub.models).items() if inspect.isclass(cls) and issubclass(cls, kinds)}
    known = {*hub_models.BACKBONES, *hub_models.TASKS}
    covered = {getattr(hub.models, name) for name in known}
    assert known <= set(public)
    missing = {name for name, cls in public.items() if cls not in covered}
    assert missing == set(hub_models.LEFT_OUT)
    assert set(REFUSED) <= known


def test_the_traced_forward_agrees(case):
    arrays = tree.flatten(case.x)
    graph = subject_of(case.model, arrays).graph
    flat = [tf.convert_to_tensor(a, graph.specs[s].dtype) for a, s in zip(arrays, graph.inputs, strict=True)]
    expected = tree.flatten(case.model(case.x, training=False))
    for a, b in zip(walk.evaluate(graph, flat), expected, strict=True):
        close(np.asarray(a, "float64"), np.asarray(b, "float64"), 1e-5)


@pytest.mark.parametrize("analyzer", ANALYZERS)
def test_a_map_is_given_or_refused(case, analyzer):
    reason = refusal(case.name, analyzer)
    if reason is not None:
        with pytest.raises(UnsupportedModelError) as raised:
            case.analyzer(analyzer).analyze(case.x)
        assert reason[0].lower() in str(raised.value).lower(), reason[1]
        return
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ApproximationWarning)
        found = case.analyzer(analyzer).explain(case.x)
    maps = tree.flatten(found.attribution)
    assert [m.shape for m in maps] == [x.shape for x in tree.flatten(case.x)]
    assert all(np.isfinite(m).all() for m in maps) and any(m.any() for m in maps)
    if isinstance(case.x, dict):  # what says where a token stands, and whether it counts, is no evidence itself
        assert not any(found.attribution[name].any() for name in case.x if name.endswith(hub_models.NO_SIGNAL))
    if analyzer == "deep_lift":
        error = found.extras["completeness_error"].max()
        assert error < ROUGH.get(case.name, 1e-3)
        assert error <= 0.05 or any("do not sum" in str(w.message) for w in told)


# --- right values -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def scaled(model, tokens, factors):
    """Within it, the vector of each token is multiplied by a factor of its own: arrays by the names of the inputs."""
    tables = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.Embedding)]

    def call(original, inputs, *args, **kwargs):
        y = original(inputs, *args, **kwargs)
        for name, ids in tokens.items():
            if tuple(inputs.shape) == ids.shape and np.array_equal(inputs, ids):
                return y * factors[name][..., None]
        return y

    for layer in tables:
        layer.call = functools.partial(call, layer.call)
    try:
        yield
    finally:
        for layer in tables:
            object.__delattr__(layer, "call")


def taped(case, index):
    """The gradient of one output value by a tape; of tokens by their one-hot coordinate: vector times gradient."""
    x = case.x if isinstance(case.x, dict) else {"images": case.x}
    tokens = {name: ids for name, ids in x.items() if name.endswith("token_ids")}
    floats = [name for name, a in x.items() if a.dtype == "float32" and not name.endswith(hub_models.NO_SIGNAL)]
    watched = {name: tf.ones(ids.shape) for name, ids in tokens.items()} | {n: tf.constant(x[n]) for n in floats}
    with tf.GradientTape() as tape, scaled(case.model, tokens, watched):
        tape.watch(watched)
        fed = {name: watched[name] if name in floats else tf.constant(a) for name, a in x.items()}
        y = case.found(case.model(fed if isinstance(case.x, dict) else fed["images"], training=False))
        score = tf.reduce_sum(y[(slice(None), *index)])
    return {name: np.asarray(g) for name, g in tape.gradient(score, watched, unconnected_gradients="zero").items()}


@pytest.mark.parametrize("name", marked(TAPED))
def test_gradients_are_those_of_a_tape(name):
    case = Case(name)
    shape = np.shape(case.found(case.model(case.x, training=False)))[1:]
    index = tuple(min(2, d - 1) for d in shape)
    found = case.analyzer("gradient").analyze(case.x, index if len(index) > 1 else index[0])
    found = found if isinstance(found, dict) else {"images": found}
    expected = taped(case, index)
    assert any(e.any() for e in expected.values())
    for key, value in expected.items():
        close(found[key], value, 1e-4)


@pytest.mark.parametrize("name", marked(["RWKV7CausalLM", "Qwen3_5CausalLM"]))
def test_models_that_want_numbers_run_with_fixed_sizes(name):
    """Their layers loop over steps: a model of inputs of one length has the gradient of the model itself."""
    case = Case(name)
    inputs = {key: keras.Input(a.shape[1:], dtype=a.dtype.name, name=key) for key, a in case.x.items()}
    fixed = keras.Model(inputs, case.model(inputs))
    analyzer = innv_ext.create_analyzer("gradient", fixed)
    assert not analyzer.analyze(case.x, (4, 3))["padding_mask"].any()
    # of each component: that of a token, vector times gradient, is what a norm leaves, next to nothing
    embedding = next(n for n in analyzer.layer_names() if n.endswith("token_embedding"))
    found = analyzer.analyze(case.x, (4, 3), layer=embedding)
    table = next(x for x in case.model._flatten_layers() if isinstance(x, keras.layers.Embedding))
    shift, plain = tf.zeros(found.shape), table.call
    table.call = lambda inputs, **options: plain(inputs, **options) + (0 if options.get("reverse") else shift)
    with tf.GradientTape() as tape:
        tape.watch(shift)
        score = tf.reduce_sum(case.model(case.x, training=False)[:, 4, 3])
    close(found, tape.gradient(score, shift), 1e-5)


@pytest.mark.parametrize("name", marked(hub_models.WITHOUT_BIAS))
def test_cp_lrp_conserves_in_decoders_without_bias(name):
    case = Case(name)
    found = case.analyzer("lrp.cp_lrp", epsilon=1e-9).explain(case.x, [(4, 3), (2, 5)])
    total = sum(found.attribution[key].sum(axis=1) for key in case.x)
    np.testing.assert_allclose(total, found.score, rtol=1e-4)


@pytest.mark.parametrize("analyzer", ["lrp.attnlrp", "lrp.cp_lrp", "gradient"])
@pytest.mark.parametrize("name", marked(PADDED))
def test_padding_has_no_part(name, analyzer):
    case = Case(name)
    found = case.analyzer(analyzer).analyze(case.x, 1)["token_ids"]
    assert not found[~case.x["padding_mask"].astype(bool)].any()
    assert (found[0] != 0).all()


@pytest.mark.parametrize("name", marked(["GPT2CausalLM", "LlamaCausalLM", "BloomCausalLM", "FalconCausalLM"]))
def test_what_comes_later_has_no_part(name):
    case = Case(name)
    found = case.analyzer("lrp.attnlrp").analyze(case.x, (3, 2))["token_ids"]
    assert not found[:, 4:].any() and (found[:, :4] != 0).all()


BY_HAND = {
    "LlamaCausalLM": hub_by_hand.llama,
    "BertTextClassifier": hub_by_hand.bert,
    "ViTImageClassifier": hub_by_hand.vit,
}


@pytest.mark.parametrize("name", BY_HAND)
def test_attnlrp_is_the_input_times_a_modified_gradient(name):
    case = Case(name)
    ids = case.x["token_ids"] if isinstance(case.x, dict) else None
    h = case.x if ids is None else keras.ops.take(case.model.backbone.token_embedding.embeddings, ids, axis=0)
    index = (3, 2) if "CausalLM" in name else 2

    def score(modified):
        y = BY_HAND[name](case.model, h, case.x, modified)
        return y[:, 3, 2] if "CausalLM" in name else y[:, 2]

    h = tf.convert_to_tensor(h)
    found = case.analyzer("lrp.attnlrp", epsilon=1e-9).explain(case.x, index)
    np.testing.assert_allclose(found.score, score(False), rtol=1e-4)
    with tf.GradientTape() as tape:
        tape.watch(h)
        y = tf.reduce_sum(score(True))
    expected = np.asarray(h * tape.gradient(y, h))
    if ids is None:
        close(found.attribution, expected, 1e-4)
    else:
        close(found.attribution["token_ids"], expected.sum(axis=-1), 1e-4)
