"""Where the rules of LRP were in 0.1.0; their home is ``innv_ext.rules``."""

from innv_ext.analyzers.lrp.rules import AlphaBeta, Bounded, Epsilon, Flat, Gamma, HuiBinder, WSquare, ZPlus

__all__ = ["AlphaBeta", "Bounded", "Epsilon", "Flat", "Gamma", "HuiBinder", "WSquare", "ZPlus"]
