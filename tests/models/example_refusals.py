"""Which analyzer rightly refuses which example model, and why; any other refusal is a fault of the package.

A refusal that is listed here must come, by a typed error in whose message the word of the row stands.
"""

NUMBERS = "numbers go through a hash, a look-up or a comparison, where no derivative is"
WAVES = "a Fourier transform has no rule for moments, a spectrogram none at all"
STATISTICS = "lengths, deviations and divisions by them outside of normalisation layers have no rule"
CHOICES = "the choice of the largest is a step, at which there is nothing to share"
FOREIGN = "its call has an array of numpy times a tensor, which Keras cannot run symbolically"
PRODUCTS = "a product of more than two factors has no rule"
GRADIENTS = "gradient input_t_gradient smoothgrad integrated_gradients deep_lift guided_backprop".split()
LRP = ["lrp.epsilon", "lrp.epsilon_plus", "deep_taylor"]
WALKS = [*LRP, "rc_rde"]
RDE = ["rc_rde"]

# model: (analyzers, word in the message, why)
REFUSED = {
    # by LRP and moments, or by moments alone
    "fnet": (RDE, "fft2", WAVES),
    "text_fnet": (RDE, "fft2", WAVES),
    "mel_spectrogram": (WALKS, "mel_spectrogram", WAVES),
    "physics_informed": (WALKS, "prod", PRODUCTS),
    "nerf_rendered": (WALKS, "cumprod", PRODUCTS),
    "forward_forward": (RDE, "norm", STATISTICS),
    "switch_transformer": (WALKS, "one_hot", CHOICES),
    "vq_vae": (WALKS, "one_hot", CHOICES),
    "real_nvp": ([*WALKS, "guided_backprop"], "real_nvp", FOREIGN),
    # by moments
    "metric_embedding": (RDE, "normalize", STATISTICS),
    # by all that follow a derivative
    "structured_data": (GRADIENTS + WALKS, "integer_lookup", NUMBERS),
    "hashed_categories": (GRADIENTS + WALKS, "hashing", NUMBERS),
    "memory_efficient_embeddings": (GRADIENTS + WALKS, "floor_divide", NUMBERS),
    "edges_as_input": (GRADIENTS + WALKS, "one_hot", NUMBERS),
    "wide_and_deep": (GRADIENTS + WALKS, "category_encoding", NUMBERS),
}


def refusal(one, analyzer):
    """(word, why) if the analyzer must refuse this example, else None."""
    if one.coupled:
        return "", "samples see each other, so that no map of a sample is its own"
    if analyzer == "rc_rde" and not one.noise:
        return "", "whole numbers cannot be mixed with noise"
    if analyzer == "deep_taylor" and one.relu != "all":
        return "", "Deep Taylor is derived for ReLU and affine nodes"
    listed, word, why = REFUSED.get(one.name, ((), "", ""))
    if analyzer in listed:
        return word, why
    if analyzer == "guided_backprop" and one.relu == "none":
        return "ReLU", "there is no ReLU"
    return None
