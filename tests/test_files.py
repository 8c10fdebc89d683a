"""The ground floor that touches the world: files, progress, optional packages."""

import doctest
import os
import stat
import subprocess
import sys
import threading

import pytest

from innv_ext import files
from innv_ext.errors import InvalidInputError


def listed(folder):
    return sorted(p.name for p in folder.iterdir())


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"new", lambda file: file.write(b"new")], ids=["bytes", "function"])
def test_a_file_is_replaced(tmp_path, content):
    path = tmp_path / ("n" * 255)  # as long as names can be
    path.write_bytes(b"old content")
    files.write(path, content)
    assert path.read_bytes() == b"new" and listed(tmp_path) == [path.name]
    assert path.stat().st_mode & stat.S_IRUSR and not path.stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize("error", [ValueError("of the content"), KeyboardInterrupt(), OSError(2, "gone", "/other")])
def test_a_content_that_fails_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def half(file):
        file.write(b"ne")
        raise error

    with pytest.raises(type(error)) as caught:
        files.write(path, half)
    assert caught.value is error and path.read_bytes() == b"old" and listed(tmp_path) == ["file"]


def test_errors_name_the_file(tmp_path):
    (tmp_path / "file").write_bytes(b"kept")
    (tmp_path / "folder").mkdir()
    full = OSError(28, "No space left on device")

    def fails(file):
        raise full

    cases = {
        tmp_path / "missing" / "a": (b"", FileNotFoundError),
        tmp_path / "file" / "a": (b"", NotADirectoryError),
        tmp_path / "folder": (b"", OSError),
        tmp_path / "full": (fails, OSError),
    }
    for path, (content, kind) in cases.items():
        with pytest.raises(kind) as caught:
            files.write(path, content)
        assert caught.value.filename == str(path) and ".part" not in str(caught.value)
    assert listed(tmp_path) == ["file", "folder"] and (tmp_path / "file").read_bytes() == b"kept"


@pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="everything may be written here")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=r"denied: '.*/file'"):
        files.write(tmp_path / "file", b"")


# --- optional packages ---------------------------------------------------------------------------------------------


def test_what_is_installed_is_returned(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", os)
    assert files.need("pandas", "A frame") is os


@pytest.mark.parametrize(("module", "package"), [
    ("pandas", "pandas"), ("skimage.metrics", "scikit-image"), ("sklearn.linear_model", "scikit-learn")])
def test_what_is_missing_is_named(module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    message = rf"^It needs {package}, .* not installed: pip install {package}, or 'innv_ext\[\w+\]', or leave it\.$"
    with pytest.raises(InvalidInputError, match=message):
        files.need(module, "It", ", or leave it")


# --- progress ------------------------------------------------------------------------------------------------------


def test_steps_are_counted_and_the_bar_goes(terminal):
    assert list(files.Progress(range(3), "counting [red]", unit="sheep")) == [0, 1, 2]
    text = terminal.getvalue()
    assert text.index("1/3 sheep") < text.index("2/3 sheep") < text.index("3/3 sheep, 0:00 left")
    assert "counting [red]" in text and not files.BARS.live.is_started
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is back


def test_steps_without_a_known_number(terminal):
    assert list(files.Progress((c for c in "abc"), "letters")) == ["a", "b", "c"]
    assert "3/? batch" in terminal.getvalue() and "left" not in terminal.getvalue()


def test_nothing_is_shown(terminal, monkeypatch):
    list(files.Progress(range(3), "silenced", show=False))
    list(files.Progress(range(1), "one step"))
    list(files.Progress([], "none"))
    monkeypatch.setattr(files, "DELAY", 3)
    list(files.Progress(range(3), "fast"))
    assert terminal.getvalue() == ""


def test_a_bar_appears_after_three_seconds(terminal, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(files, "DELAY", 3.0)
    monkeypatch.setattr(files.time, "monotonic", lambda: now[0])
    with files.Progress(5, "slow") as bar:
        for now[0] in (1.0, 2.9):
            bar.update()
        assert terminal.getvalue() == ""
        now[0] = 3.0
        bar.update(note="so far")
        assert "3/5 batch, 0:02 left, so far" in terminal.getvalue()


@pytest.mark.parametrize("shown", [True, False])
def test_bars_are_written_to_the_standard_error_if_it_is_a_terminal(shown):
    code = (
        f"from rich.console import Console; Console.is_terminal = {shown}; from innv_ext import files; "
        "files.DELAY = 0; list(files.Progress(range(3), 'steps'))"
    )
    environment = os.environ | {"TERM": "xterm"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "" and ("steps" in done.stderr if shown else done.stderr == "")


def test_nested_bars_and_threads_share_the_terminal(terminal):
    errors = []

    def work(name):
        try:
            for _ in files.Progress(range(20), f"outer {name}"):
                with files.Progress(3, f"inner {name}") as bar:
                    for _ in range(3):
                        bar.update()
        except Exception as error:  # a thread's errors are not seen otherwise
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and not files.BARS.live.is_started
    for name in ("outer a", "inner a", "outer b", "inner b"):
        assert name in terminal.getvalue()


def test_a_bar_makes_room_for_lines(terminal, capsys):
    with files.Progress(4, "lines") as bar:
        bar.update()
        bar.clear()
        assert not files.BARS.live.is_started
        print("a line")
        bar.update()
        assert "2/4" in terminal.getvalue()
    assert capsys.readouterr().out == "a line\n"


def test_a_loop_that_fails_leaves_streams_and_cursor(terminal):
    streams = sys.stdout, sys.stderr

    def work():
        for step in files.Progress(range(3), "failing"):
            if step == 1:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        work()
    # the traceback may hold the loop, and with it the bar
    text = terminal.getvalue()
    assert (sys.stdout, sys.stderr) == streams and text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert "1/3" in text and "2/3" not in text
    del caught


def test_examples():
    outcome = doctest.testmod(files)
    assert outcome.failed == 0 and outcome.attempted > 1
