"""Real tasks of keras-hub, tiny and with random weights; nothing is downloaded."""

import io

import keras
import numpy as np
import pytest

import innv_ext
from innv_ext.errors import InvalidInputError
from innv_ext.text import TextExplainer, explain

hub = pytest.importorskip("keras_hub")

PATCH = {"patch": 1, "stride": 1}  # occlusion only calls the model, whatever its layers are
SIZES = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 8}
VOCABULARY = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "the", "quick", "brown", "fox", "jump", "##ed", "##s", "."]


def randomised(model):
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(weight + 0.3 * rng.normal(size=weight.shape))
    return model


@pytest.fixture(scope="module")
def bert():
    tokenizer = hub.models.BertTokenizer(vocabulary=VOCABULARY)
    preprocessor = hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=12)
    backbone = hub.models.BertBackbone(vocabulary_size=len(VOCABULARY), max_sequence_length=12, **SIZES)
    return randomised(hub.models.BertTextClassifier(backbone, num_classes=3, preprocessor=preprocessor))


@pytest.fixture(scope="module")
def gpt():
    merges = ["Ġ q", "u i", "c k", "ui ck", "Ġq uick", "Ġ f", "o x", "Ġf ox"]
    letters = sorted({*"abcdefghijklmnopqrstuvwxyz!.Ġ"})
    tokens = ["<|endoftext|>", *letters, *(merge.replace(" ", "") for merge in merges)]
    tokenizer = hub.models.GPT2Tokenizer(vocabulary={t: i for i, t in enumerate(tokens)}, merges=merges)
    preprocessor = hub.models.GPT2CausalLMPreprocessor(tokenizer=tokenizer, sequence_length=16)
    backbone = hub.models.GPT2Backbone(vocabulary_size=len(tokens), max_sequence_length=16, **SIZES)
    return randomised(hub.models.GPT2CausalLM(backbone=backbone, preprocessor=preprocessor))


def test_a_bert_classifier(bert):
    texts = ["the quick fox jumped.", "the fox"]
    found = explain(bert, texts, "occlusion", target=1, **PATCH)
    assert found.tokens[0] == ["[CLS]", "the", "quick", "fox", "jump", "##ed", ".", "[SEP]"]
    assert [w.text for w in found.words()[0]] == ["[CLS]", "the", "quick", "fox", "jumped", ".", "[SEP]"]
    assert found.padding[1].tolist() == [False] * 4 + [True] * 4
    assert found.special[1].tolist() == [True, False, False, True, *[False] * 4]
    fed = {name: np.asarray(value) for name, value in bert.preprocessor(texts).items()}
    np.testing.assert_allclose(found.scores, np.asarray(bert(fed))[:, 1], rtol=1e-4)
    own = innv_ext.create_analyzer("occlusion", bert, **PATCH).analyze(fed, 1)
    np.testing.assert_allclose(found.relevance, own["token_ids"][:, :8], atol=1e-5)
    with pytest.raises(InvalidInputError, match=r"texts\[0\] has 22 tokens, but .* takes 12 at most"):
        explain(bert, "the " * 20, "occlusion")


def test_a_gpt(gpt):
    explainer = TextExplainer(gpt, "occlusion", **PATCH)
    found = explainer.explain(["a quick fox", "a"], " quick")
    assert found.tokens[0] == ["<|endoftext|>", "a", "Ġquick", "Ġfox"]
    assert found.special[1].tolist() == [True, False, False, False]
    assert found.padding[1].tolist() == [False, False, True, True]
    logits = np.asarray(gpt(gpt.preprocessor.generate_preprocess(["a quick fox", "a"])))
    number = gpt.preprocessor.tokenizer.token_to_id("Ġquick")
    np.testing.assert_allclose(found.scores, logits[[0, 1], [3, 1], number], rtol=1e-4)
    part = explainer.explain("a quick", completion=" fox jumps")
    assert part.sources[:4] == ["<|endoftext|>", "a", "Ġquick", "Ġfox"] and part.targets[0] == "Ġfox"
    for k, prompt in ((0, "a quick"), (1, "a quick fox")):
        alone = explainer.explain(prompt, part.targets[k])
        np.testing.assert_allclose(part.relevance[k, : 3 + k], alone.relevance[0], rtol=1e-3, atol=1e-5)
    assert part.words()[0][-2:] == ["fox", "jump"]
    with pytest.raises(InvalidInputError, match="is not in the vocabulary"):
        explainer.explain("a", "$")


def test_pieces_of_sentences():
    """SentencePiece: a blank begins a word, also where it is a piece by itself."""
    trainer, file = pytest.importorskip("sentencepiece").SentencePieceTrainer, io.BytesIO()
    pieces = {f"{name}_{what}": value for i, name in enumerate(("pad", "bos", "eos", "unk"))
              for what, value in (("id", i), ("piece", f"<{name}>"))}  # fmt: skip
    own = {"user_defined_symbols": ["<start_of_turn>", "<end_of_turn>"], "minloglevel": 3, "hard_vocab_limit": False}
    texts = iter(["the quick brown fox", "the earth is round", "a fox is quick"])
    trainer.train(sentence_iterator=texts, model_writer=file, vocab_size=34, **pieces, **own)
    tokenizer = hub.models.GemmaTokenizer(proto=file.getvalue())
    heads = {"num_query_heads": 2, "num_key_value_heads": 1, "head_dim": 4}
    sizes = {"num_layers": 1, "hidden_dim": 8, "intermediate_dim": 8}
    backbone = hub.models.GemmaBackbone(vocabulary_size=34, **heads, **sizes)
    preprocessor = hub.models.GemmaCausalLMPreprocessor(tokenizer, sequence_length=16)
    model = randomised(hub.models.GemmaCausalLM(backbone=backbone, preprocessor=preprocessor))
    found = explain(model, ["the quick fox", "a fox"], "occlusion", **PATCH)
    assert [[w.text for w in row] for row in found.words()] == [["<bos>", "the", "quick", "fox"], ["<bos>", "a", "fox"]]
    for i, row in enumerate(found.words()):
        assert sum(w.relevance for w in row) == pytest.approx(found.relevance[i, ~found.padding[i]].sum(), abs=1e-5)


# --- maps by AttnLRP, whatever the tokenizer --------------------------------------------------------------------------


def trained(pieces, size=40, symbols=()):
    """A small SentencePiece model in which ``pieces``, {name: piece}, are the special tokens by their numbers."""
    trainer, file = pytest.importorskip("sentencepiece").SentencePieceTrainer, io.BytesIO()
    numbers = {
        f"{name}_id": list(pieces).index(name) if name in pieces else -1 for name in ("pad", "bos", "eos", "unk")
    }
    named = {f"{name}_piece": piece for name, piece in pieces.items()}
    texts = iter(3 * ["the quick brown fox", "the earth is round", "a fox is quick", "an eagle flies."])
    own = {"user_defined_symbols": list(symbols), "minloglevel": 3, "hard_vocab_limit": False}
    trainer.train(sentence_iterator=texts, model_writer=file, vocab_size=size, **numbers, **named, **own)
    return file.getvalue()


def pairs(*special):
    """Vocabulary and merges of a small byte-level BPE."""
    merges = ["Ġ q", "u i", "c k", "ui ck", "Ġq uick", "Ġ f", "o x", "Ġf ox"]
    tokens = [*special, *"abcdefghijklmnopqrstuvwxyz!.Ġ", *(merge.replace(" ", "") for merge in merges)]
    return {"vocabulary": {t: i for i, t in enumerate(tokens)}, "merges": merges}


GROUPED = {"num_layers": 1, "hidden_dim": 8, "intermediate_dim": 8, "num_query_heads": 2, "num_key_value_heads": 1}
LIMITED = SIZES | {"max_sequence_length": 16}
LLAMA = {"unk": "<unk>", "bos": "<s>", "eos": "</s>"}
DEBERTA = {"pad": "[PAD]", "bos": "[CLS]", "eos": "[SEP]", "unk": "[UNK]"}
# family, task: sizes of the backbone, what the tokenizer is made with, the words of a sentence
FAMILIES = {
    "Bert TextClassifier": (LIMITED, lambda: {"vocabulary": VOCABULARY}, "[CLS] the quick fox . [SEP]"),
    "Roberta TextClassifier": (
        LIMITED,
        lambda: pairs("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
        "<s> the quick fox. </s>",
    ),
    "DebertaV3 TextClassifier": (
        LIMITED | {"bucket_size": 4},
        lambda: {"proto": trained(DEBERTA, symbols=["[MASK]"])},
        "[CLS] the quick fox. [SEP]",
    ),
    "GPT2 CausalLM": (LIMITED, lambda: pairs("<|endoftext|>"), "<|endoftext|> the quick fox."),
    "Llama CausalLM": (GROUPED, lambda: {"proto": trained(LLAMA)}, "<s> the quick fox."),
    "Llama3 CausalLM": (
        GROUPED,
        lambda: pairs("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|begin_of_text|> the quick fox.",
    ),
}


def task_of(name):
    (family, kind), (sizes, made, _) = name.split(), FAMILIES[name]
    tokenizer = getattr(hub.models, f"{family}Tokenizer")(**made())
    preprocessor = getattr(hub.models, f"{family}{kind}Preprocessor")(tokenizer=tokenizer, sequence_length=16)
    backbone = getattr(hub.models, f"{family}Backbone")(vocabulary_size=tokenizer.vocabulary_size() + 1, **sizes)
    options = {"num_classes": 3} if kind == "TextClassifier" else {}
    cls = getattr(hub.models, family + kind)
    return randomised(cls(backbone=backbone, preprocessor=preprocessor, **options))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in ("Bert TextClassifier", "GPT2 CausalLM") else pytest.mark.slow)
        for n in FAMILIES
    ],
)
def test_a_sentence_by_attnlrp(name, tmp_path):
    """The map of the task fed by hand; words have all of it, padding none, and both are drawn."""
    task, texts = task_of(name), ["the quick fox.", "a fox"]
    classifier = name.endswith("TextClassifier")
    explainer = TextExplainer(task, "lrp.attnlrp")
    found = explainer.explain(texts, 1 if classifier else None)
    assert " ".join(word.text for word in found.words()[0]) == FAMILIES[name][2]
    prepared = task.preprocessor(texts) if classifier else task.preprocessor.generate_preprocess(texts)
    fed = {key: np.asarray(value) for key, value in prepared.items()}
    logits = np.asarray(task(fed))
    if not classifier:
        last = fed["padding_mask"].sum(axis=1) - 1
        assert (found.positions == last).all()
        logits = logits[np.arange(2), last]
        np.testing.assert_array_equal(found.targets, logits.argmax(axis=1))
    np.testing.assert_allclose(found.scores, logits[[0, 1], found.targets], rtol=1e-4, atol=1e-6)
    chosen = 1 if classifier else np.stack([found.positions, found.targets], axis=1)
    own = innv_ext.create_analyzer("lrp.attnlrp", task).analyze(fed, chosen)["token_ids"]
    width, peak = found.relevance.shape[1], float(np.abs(own).max())
    np.testing.assert_allclose(found.relevance, own[:, :width], atol=1e-5 * peak)
    assert not own[:, width:].any() and not found.relevance[found.padding].any() and peak > 0
    for row, relevance in zip(found.words(), found.relevance, strict=True):
        assert sum(word.relevance for word in row) == pytest.approx(relevance.sum(), abs=1e-5 * peak)
    found.plot(tmp_path / "map.png", words=True)
    assert "fox" in found.to_html()
    if not classifier:
        matrix = explainer.explain("the", completion=" quick fox")
        alone = explainer.explain("the", matrix.targets[0])
        count = len(alone.tokens[0])
        np.testing.assert_allclose(matrix.relevance[0, :count], alone.relevance[0], atol=1e-5 * peak)
        assert np.isnan(matrix.relevance[0, count:]).all()
        matrix.plot(tmp_path / "matrix.png")


def test_bytes():
    """Tokens are bytes: words end at blanks, and letters of several bytes are read."""
    tokens = keras.Input((None,), dtype="int32")
    h = keras.layers.Embedding(256, 6)(tokens)
    h = h + keras.layers.MultiHeadAttention(2, 3)(h, h)
    model = randomised(keras.Model(tokens, keras.layers.Dense(2)(h[:, 0])))
    tokenizer = hub.tokenizers.ByteTokenizer()
    found = explain(model, ["a señor!", "no blanks"], "lrp.attnlrp", target=1, tokenizer=tokenizer)
    assert [[word.text for word in row] for row in found.words()] == [["a", "señor!"], ["no", "blanks"]]
    own = innv_ext.create_analyzer("lrp.attnlrp", model).analyze(found.x, 1)
    np.testing.assert_array_equal(own, found.relevance)
    assert found.words()[0][1].relevance == pytest.approx(own[0, 1:].sum(), rel=1e-5)


def test_a_task_from_a_file(bert, tmp_path, capsys):
    from innv_ext.cli import main

    bert.save(tmp_path / "bert.keras")
    (tmp_path / "hub.py").write_text("import keras_hub\n")
    line = ["text", str(tmp_path / "bert.keras"), "the fox jumped.", "--module", str(tmp_path / "hub.py"), "--words"]
    code = main([*line, "--analyzer", "occlusion", "--param", "patch=1", "--param", "stride=1", "--target", "1"])
    out = capsys.readouterr().out
    assert code == 0 and "    jumped" in out
    found = explain(bert, "the fox jumped.", "occlusion", target=1, **PATCH)
    assert f"{found.words()[0][3].relevance:+.4g}" in out
