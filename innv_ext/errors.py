"""Typed errors. Each message names the argument or layer, what was received, and what to do."""


class InnvError(Exception):
    """Base class of every error that innv_ext raises on purpose."""


class InvalidInputError(InnvError, ValueError):
    """An argument or an input array cannot be used: wrong shape, NaN, index out of range, unknown name."""


class UnsupportedModelError(InnvError, ValueError):
    """The model cannot be traced, or the method is not defined for it."""


class NoRuleError(UnsupportedModelError):
    """Some nodes of the model have no rule in the analyzer's table; the message lists all of them."""


class NotFittedError(InnvError, RuntimeError):
    """``analyze`` was called before ``fit`` on an analyzer that learns from data."""


class SaveError(InnvError, ValueError):
    """An analyzer cannot be saved or loaded."""


class ZeroMapWarning(UserWarning):
    """A map is zero everywhere, e.g. Deep Taylor of a score that is not positive."""


class ApproximationWarning(UserWarning):
    """A method goes through some nodes by a rule that is not its own (``unsupported="gradient"``)."""


class ProbabilityWarning(UserWarning):
    """Probabilities are explained where logits were asked for, because the softmax cannot be cut."""


class NonFiniteWarning(UserWarning):
    """Something became NaN or infinite: an objective (the message names the node, and the last finite point is
    returned), or scores and maps (the message names the samples, which are returned as they are).
    """


class ClosedMaskWarning(UserWarning):
    """Masks close all of a sample, so that its score says nothing of it and may be NaN; the message names samples."""


class ConvergenceWarning(UserWarning):
    """An iterative method stopped before its tolerance; the message has the residual, the last iterate is returned."""


class DeadNeuronWarning(UserWarning):
    """Some neurons have no pattern, because they never fired on the data; the message counts them."""


class UnusedRuleWarning(UserWarning):
    """A row of ``rules`` fits no node of the model, e.g. because a layer's name is misspelt."""


class ConservationWarning(UserWarning):
    """More than half of a score does not arrive at the input (Deep Taylor); the message names the share."""
