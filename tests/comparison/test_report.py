"""The report: one file, all escaped, written whole or not at all; in a browser it renders, sorts and is silent."""

import dataclasses
import html
import html.parser
import http.server
import json
import re
import shutil
import subprocess
import threading

import numpy as np
import pytest
from comparison_cases import NAMES, TITLE, everything, images, net
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from innv_ext import files as written
from innv_ext.comparison import Comparison, compare
from innv_ext.comparison.markup import Markup, join, tag
from innv_ext.comparison.style import SCRIPT, STYLE
from innv_ext.errors import InvalidInputError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
VOID = ("meta", "img", "link", "br")


class Parsed(html.parser.HTMLParser):
    """Elements with attributes, and the texts of each."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.open = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def text(self, *names):
        return " ".join(data for name, data in self.texts if not names or name in names)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def found(folder):
    return everything(net(), images(), report=folder / "report.html")


@pytest.fixture(scope="module")
def page(found, folder):
    return (folder / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def parsed(page):
    return Parsed(page)


# --- markup --------------------------------------------------------------------------------------------------------


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r")))
def test_text_comes_back_and_nothing_else(text):
    found = Parsed(tag("p", text, title=text))
    assert [name for name, _ in found.elements] == ["p"]
    printable = "".join(c if c in "\n\t" or ord(c) > 127 or 32 <= ord(c) < 127 else "\ufffd" for c in text)
    assert found.elements[0][1]["title"] == printable == "".join(data for _, data in found.texts)


def test_markup_is_kept():
    assert tag("p", tag("b", "<"), None, ["&", Markup("<br>")], class_="a") == '<p class="a"><b>&lt;</b>&amp;<br></p>'
    assert join("a", [tag("img", alt='"')]) == 'a<img alt="&quot;">'
    assert isinstance(join("<"), Markup) and tag("td", data_value=None) == "<td></td>"


# --- the page ------------------------------------------------------------------------------------------------------


def test_one_self_contained_file(parsed, page):
    names = [name for name, _ in parsed.elements]
    assert names.count("script") == names.count("style") == 1
    assert not {"iframe", "object", "embed", "base", "form", "input", "video", "audio", "source"} & set(names)
    for name, attributes in parsed.elements:
        assert not [a for a in attributes if a.startswith("on") or a in ("style", "srcset", "action")], attributes
        for a in ("src", "href"):
            assert attributes.get(a, "data:").startswith("data:"), (name, attributes[a][:40])
    assert "url(" not in STYLE and "@import" not in STYLE and not re.search(r"https?:", page)
    assert not re.search("fetch|XMLHttp|WebSocket|import|eval|innerHTML|document.write", SCRIPT)
    policy = next(a["content"] for _, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy


def test_what_users_gave_is_text(parsed, found):
    names = [name for name, _ in parsed.elements]
    assert "b" not in names and "i" not in names and "title" in names
    images_ = [a for name, a in parsed.elements if name == "img"]
    assert all(a["src"].startswith("data:image/png;base64,") and a["alt"] for a in images_)
    text = parsed.text()
    for given_ in (TITLE, *NAMES, "mine <i>", "look <here>", "<img src=x onerror=alert(1)> & more"):
        assert given_ in text, given_
    assert len(images_) == 1 + len(found.curves) + len(images())


def test_the_page_says_all(parsed, found):
    text = parsed.text()
    for row in found.rows:
        assert all(problem in text for problem in row.problems) and row.title in text
        for metric, cell in row.cells.items():
            assert metric in text and (cell.values is None or cell.text in text)
        assert all(f"{name}=" in text for name in row.params)
    assert "epsilon=0.1" in text and "steps=4" in text
    for value in [*found.versions, *found.versions.values(), *found.settings, "float32, shape (4, 6, 6, 2)"]:
        assert value in text
    for criterion in found.criteria:
        assert criterion.measures in text and criterion.source in text
    for phrase in ("higher is better", "lower is better", "neither is better"):
        assert phrase in text
    values = found.row("epsilon").cells["gini"].values
    assert all(f"{value:.4g}" in parsed.text("td") for value in values)


def cells_of(page):
    body = page[page.index('id="results"'):]
    body = body[body.index("<tbody>"): body.index("</tbody>")]
    return [re.findall(r"<t[hd]([^>]*)>", line) for line in re.findall("<tr>.*?</tr>", body)]


def test_cells_hold_what_is_sorted_and_the_best_are_marked(page, found):
    lines = cells_of(page)
    assert len(lines) == len(found.rows)
    for j, criterion in enumerate(found.criteria, 1):
        best = {"higher": max, "lower": min}.get(criterion.better)
        means = {}
        for row, line in zip(found.rows, lines, strict=True):
            cell = row.cells[criterion.title]
            stored = re.search('data-value="([^"]*)"', line[j])
            assert (stored is None) == (cell.values is None)
            if stored is not None:
                means[row.title] = float(stored.group(1))
                assert means[row.title] == cell.values.mean()
        marked = {row.title for row, line in zip(found.rows, lines, strict=True) if "best" in line[j]}
        several = best is not None and len(means) > 1
        assert marked == ({t for t, m in means.items() if m == best(means.values())} if several else set())


def test_a_page_without_pictures_or_metrics(tmp_path):
    model, x = net((6,)), images(2, (6,))
    found = compare(model, x, ["gradient"], metrics=["gini"], progress=False)
    bare = Comparison.from_dict(found.to_dict())
    bare.report(tmp_path / "bare.html")
    assert "Samples</h2>" not in (tmp_path / "bare.html").read_text("utf-8")
    Comparison(found.rows, (), found.samples, {}, {}, {}).report(tmp_path / "no.html", samples=1)
    text = (tmp_path / "no.html").read_text("utf-8")
    assert "Metrics</h2>" not in text and text.count("<img") == 1 and "The first 1 of 2 samples." in text
    many = tuple(dataclasses.replace(found.rows[0], title=f"number {i}") for i in range(7))
    Comparison(many, (), found.samples, {}, {}, {}).report(tmp_path / "many.html")
    alts = [a["alt"] for name, a in Parsed((tmp_path / "many.html").read_text("utf-8")).elements if name == "img"]
    assert len(alts) == 2 * 3 and all(sum(row.title in alt for alt in alts) == 2 for row in many)


# --- files ---------------------------------------------------------------------------------------------------------


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch, found):
    file = tmp_path / "a" / "b" / "report.html"
    found.report(file, samples=1)
    before = file.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(written.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        found.report(file, samples=2)
    assert file.read_bytes() == before and [p.name for p in file.parent.iterdir()] == ["report.html"]


def test_files_that_cannot_be_written(tmp_path, found):
    (tmp_path / "file").write_text("kept")
    for path, message in ((tmp_path, "is a folder"), (tmp_path / "file" / "r.html", "nothing can be written"),
                          ("", "must be a path"), (None, "must be a path")):
        with pytest.raises(InvalidInputError, match=message):
            found.report(path)
    with pytest.raises(InvalidInputError, match="nothing can be written to the folder"):
        found.save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"


# --- in a browser --------------------------------------------------------------------------------------------------


def chromium(file, *options):
    """(DOM, console messages) of a page."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-component-update",
               "--disable-background-networking", f"--user-data-dir={file.parent / 'profile'}",
               "--virtual-time-budget=2000", "--enable-logging=stderr", "--v=0", *options, "--dump-dom", file.as_uri()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return ran.stdout, [line for line in ran.stderr.splitlines() if "CONSOLE" in line]


def without_policy(page):
    return re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)


@pytest.fixture
def server():
    """A server on this machine that notes what it is asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()


@browser
def test_it_renders_without_a_word(page, folder, found):
    dom, console = chromium(folder / "report.html")
    assert console == []
    shown = Parsed(dom)
    assert [t for t in shown.texts if t[0] == "h1"] == [("h1", f"Explanations of {found.settings['model']} compared")]
    assert sum(name == "img" for name, _ in shown.elements) == page.count("<img")
    assert not [name for name, _ in shown.elements if name in ("i", "b")]


@browser
def test_nothing_is_loaded_or_run_that_was_not_written_by_us(page, folder, server):
    """The policy stops what would come through if a text were not escaped; without the policy it does come."""
    address, asked = server
    foreign = f'<img src="{address}/image"><script>fetch("{address}/script"); document.title = "taken"</script>'
    for name, content in (("with", page), ("without", without_policy(page))):
        file = folder / f"{name}.html"
        file.write_text(content.replace("</main>", f"</main>{foreign}"), "utf-8")
        asked.clear()
        dom, console = chromium(file)
        assert sorted(asked) == ([] if name == "with" else ["/image", "/script"])
        assert ("<title>taken" in dom) == (name == "without")
        assert console  # the browser tells of both, what was stopped and what was not found


CLICKS = """<script>
const table = document.getElementById("results");
const heads = Array.from(table.tHead.rows[0].cells);
const log = [];
for (const step of %s) {
  heads[step].querySelector("button").click();
  const order = Array.from(table.tBodies[0].rows).map((row) => names.indexOf(row.cells[0].innerText));
  const said = document.getElementById("sorted").innerText;
  log.push({ order, sorted: heads.map((h) => h.getAttribute("aria-sort")), said });
}
const focus = heads[1].querySelector("button"); focus.focus();
const width = document.documentElement.scrollWidth - window.innerWidth;
log.push({ focused: document.activeElement === focus, fits: width <= 0 });
const output = document.createElement("output");
output.textContent = JSON.stringify(log);
document.body.append(output);
</script>"""


@browser
def test_a_click_sorts(page, folder, found):
    clicks = [0, 0, 1, 1, 2, 3, 3, 4, 5, 6, 6, 1]
    titles = [row.title for row in found.rows]
    names = json.dumps(titles).replace("<", "\\u003c")
    file = folder / "clicked.html"
    added = f"<script>const names = {names};</script>{CLICKS % clicks}"
    file.write_text(without_policy(page).replace("</body>", f"{added}</body>"), "utf-8")
    dom, console = chromium(file, "--window-size=520,800")
    assert console == []
    *log, last = json.loads(html.unescape(re.search("<output>(.*)</output>", dom).group(1)))
    assert last == {"focused": True, "fits": True}

    def key(row, column):
        if column == 0:
            return None
        if column > len(found.criteria):
            return row.sample_seconds if row.failure is None else None
        values = row.cells[found.criteria[column - 1].title].values
        return None if values is None else values.mean()

    order, direction = list(range(len(titles))), ["none"] * (len(found.criteria) + 3)
    for column, seen in zip(clicks, log, strict=True):
        first = "descending" if column and column <= len(found.criteria) and (
            found.criteria[column - 1].better == "higher") else "ascending"
        other = {"ascending": "descending", "descending": "ascending"}
        now = first if direction[column] == "none" else other[direction[column]]
        direction = ["none"] * len(direction)
        direction[column] = now
        assert seen["sorted"] == direction
        assert seen["said"].endswith(f", {now}.") and seen["said"].startswith("Sorted by ")
        if column == 0:  # letters, as people sort them
            plain = [titles[i] for i in seen["order"] if titles[i] != TITLE]
            assert plain == sorted(set(titles) - {TITLE}, reverse=now == "descending")
        else:
            known = [i for i in order if key(found.rows[i], column) is not None]
            others = [i for i in order if key(found.rows[i], column) is None]
            sign = 1 if now == "ascending" else -1
            assert seen["order"] == sorted(known, key=lambda i: sign * key(found.rows[i], column)) + others
        order = seen["order"]


@browser
@pytest.mark.usefixtures("page")
def test_the_ground_is_light_or_dark_as_the_user_wants(folder, tmp_path):
    file = folder / "report.html"
    shot = tmp_path / "shot.png"
    chromium(file, "--blink-settings=preferredColorScheme=0", f"--screenshot={shot}", "--window-size=700,500")
    dark = imread(shot)[..., :3]
    chromium(file, f"--screenshot={shot}", "--window-size=700,500")
    light = imread(shot)[..., :3]
    assert np.median(dark) < 0.2 and np.median(light) > 0.9
