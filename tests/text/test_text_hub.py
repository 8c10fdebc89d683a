"""Real tasks of keras-hub, tiny and with random weights; nothing is downloaded."""

import io

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
