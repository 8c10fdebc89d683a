"""The command line ``innv-ext``, the same as ``python -m innv_ext``."""

from innv_ext.cli.app import main

__all__ = ["main"]
