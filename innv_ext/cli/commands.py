"""The commands by name. Everything imported here needs TensorFlow, so it is loaded when the arguments are read."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable

from innv_ext.cli.compare import compare
from innv_ext.cli.explain import explain
from innv_ext.cli.listing import list_names, summary

COMMANDS: dict[str, Callable[[Namespace], int]] = {
    "explain": explain,
    "compare": compare,
    "list": list_names,
    "summary": summary,
}
