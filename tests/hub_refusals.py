"""Which analyzer rightly refuses which model of keras-hub, and why; any other refusal is a fault of the package.

A row is (analyzers, word in the message, why). A refusal that is listed here must come, by a typed error in whose
message the word stands.
"""

ANALYZERS = ("gradient", "integrated_gradients", "lrp.attnlrp", "lrp.cp_lrp", "deep_lift")
LRP = ("lrp.attnlrp", "lrp.cp_lrp")
COUPLED = "every text is compared with every picture of the batch, so that no sample has a map of its own"
FOREIGN = "a function of TensorFlow itself inside a layer, which Keras cannot run symbolically: the layer stays whole"
NUMBERS = (
    "a layer wants sizes as numbers of Python (a loop over steps), which no model of any length has; in a model with "
    "inputs of fixed sizes, gradients run"
)
PROMPTS = (
    "how a layer treats prompts depends on how many there are, so that it stays whole, and it takes labels of prompts, "
    "along which there is no gradient"
)

WHOLE = "a layer that is not opened yet takes the numbers of tokens themselves, along which there is no gradient"
STACKED = (
    "states are stacked in front of the batch, so that layers stay whole, and a second table looks up numbers that are "
    "chosen from those of the input"
)
BOTH = f"{WHOLE}; besides, a sample's output depends on the others in its batch"

# deep_lift's sums are off where the difference of a node jumps or bends between the reference and x
# (by at most this part of the difference), because other experts are asked, or a layer that stays whole is averaged
ROUGH = {
    "GptOssCausalLM": 0.2,
    "MixtralCausalLM": 0.7,
    "QwenMoeCausalLM": 0.1,
    "Qwen3MoeCausalLM": 0.1,
    "DepthAnythingDepthEstimator": 1.0,
    "DFineObjectDetector": 0.01,
    "EdRecSeq2SeqLM": 0.01,
}

FREE = "cannot be run on tensors of free sizes"
REFUSED = {
    # by all methods
    "CLIPBackbone": (ANALYZERS, "depends on the other samples", COUPLED),
    "MetaCLIP2Backbone": (ANALYZERS, "depends on the other samples", COUPLED),
    "SigLIPBackbone": (ANALYZERS, "depends on the other samples", COUPLED),
    "RWKV7CausalLM": (ANALYZERS, FREE, NUMBERS),
    "Qwen3_5CausalLM": (ANALYZERS, FREE, NUMBERS),
    "Qwen3_5MoeCausalLM": (ANALYZERS, FREE, NUMBERS),
    "XLNetBackbone": (ANALYZERS, "No gradient reaches", BOTH),
    "PARSeqCausalLM": (ANALYZERS, "No gradient reaches", WHOLE),
    "SAMImageSegmenter": (ANALYZERS, "No gradient reaches", PROMPTS),
    "SAM3PromptableConceptImageSegmenter": (ANALYZERS, "No gradient reaches", PROMPTS),
    # by those that need rules, or references
    "Gemma3nCausalLM": (tuple(a for a in ANALYZERS if a != "gradient"), "gemma3n_backbone", STACKED),
    "DepthAnythingDepthEstimator": (LRP, "DepthAnything", FOREIGN),
    "DFineObjectDetector": (LRP, "DFineDecoder", FOREIGN),
}


def refusal(name, analyzer):
    """(word in the message, why), or None where the analyzer gives a map."""
    analyzers, *rest = REFUSED.get(name, ((), "", ""))
    return tuple(rest) if analyzer in analyzers else None
