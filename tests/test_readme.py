"""The README's code runs, and its table is the registry's."""

import re
from pathlib import Path

import innv_ext

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_code_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert len(blocks) >= 4
    exec(compile("\n".join(blocks), "README.md", "exec"), {"__name__": "readme"})
    assert (tmp_path / "relevance.png").stat().st_size > 1000
    assert any(a.name == "my_guided_backprop" for a in innv_ext.list_analyzers())


def test_table_is_the_registry():
    rows = re.findall(r"^\| `([^`]+)` \| (.*?) \|", README, flags=re.M)
    own = [(a.name, a.description) for a in innv_ext.list_analyzers() if a.family != "user"]
    assert rows == own
