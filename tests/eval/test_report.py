"""Reports: self-contained, escaped, well formed, and the same decision in every format."""

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval_harness.cli.app import main
from eval_harness.gate.reports import forest, junit, wording
from eval_harness.gate.reports.files import read_decision, render_all
from eval_harness.gate.verdicts import parse_decision

from .runs import make_items, make_run, values

EVIL = "</pre><script>document.title='owned'</script> & \"quoted\" | `tick` \x00 \ud800 ]]> **{i}**"


@pytest.fixture
def reported(tmp_path):
    """A REGRESSED, an UNDECIDED and a KEPT gate, with hostile prompts and outputs; the report folder."""
    sides = {
        "alpha": values(230, 50, 4, 116),
        "beta <b>|": values(15, 1, 1, 3),
        "gamma": values(380, 2, 2, 16),
    }
    for folder, side in (("a", 0), ("b", 1)):
        items = []
        for task, pair in sides.items():
            outputs = [[f"{EVIL} {side}"]] * len(pair[side])
            items += make_items(task, pair[side], prompt=EVIL, outputs=outputs)
        tasks = {task: pair[side] for task, pair in sides.items()}
        make_run(tmp_path / folder, tasks, f"{folder}<i>", items=[safe(item) for item in items])
    gates = {"alpha": {}, "beta": {"tasks": ["beta*"], "blocking": False}, "gamma": {}}
    (tmp_path / "gates.yaml").write_text(json.dumps({"version": 1, "gates": gates}))
    args = [tmp_path / "a", "--baseline", tmp_path / "b", "--gates", tmp_path / "gates.yaml"]
    assert main(["gate", *map(str, args)]) == 1
    return tmp_path / "a" / "report"


def safe(item):
    """Records as JSON would carry them: the lone surrogate survives as an escape."""
    import dataclasses

    text = item.prompt.replace("\ud800", "")
    return dataclasses.replace(item, prompt=text, outputs=[o.replace("\ud800", "") for o in item.outputs])


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "srcset", "action", "data")]

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_self_contained_and_escaped(reported):
    text = (reported / "report.html").read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert not page.links
    assert not re.search(r"url\(|@import|https?://", text)
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text
    assert "<script>document.title" in "".join(page.text)
    assert "</script>" not in text
    assert "<i>" not in text
    assert page.tags.count("svg") == 1
    # the verdict stands before everything else
    visible = "".join(page.text[page.text.index("REGRESSED") :])
    assert visible.startswith("REGRESSED")
    assert "1 of 2 blocking gates regressed: alpha." in visible[:200]


def test_the_comment_is_text_and_a_table(reported):
    text = (reported / "report.md").read_text()
    assert text.startswith("## ❌ REGRESSED: a&lt;i&gt; against b&lt;i&gt;")
    assert "<script>" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 5
    assert {row.count("|") for row in rows} == {9}
    assert text.count("<details>") == text.count("</details>") == 3
    assert "&lt;script&gt;" in text


def test_junit_has_one_case_per_gate(reported):
    suite = ET.parse(reported / "junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "0")
    cases = {case.get("name"): [child.tag for child in case] for case in suite}
    assert cases == {
        "alpha": ["failure", "system-out"],
        "beta": ["system-out"],
        "gamma": ["system-out"],
    }
    assert suite.find("testcase/failure").get("type") == "REGRESSED"


def test_junit_of_an_undecided_gate(reported):
    import dataclasses

    decision = read_decision(reported)
    blocking = tuple(dataclasses.replace(gate, blocking=True) for gate in decision.gates)
    for told, tag in (("exit", "failure"), ("fail", "failure"), ("pass", "skipped")):
        text = junit.render(dataclasses.replace(decision, gates=blocking, undecided=told))
        case = ET.fromstring(text.encode()).findall("testcase")[1]
        assert case[0].tag == tag
        assert case[0].get("type") == "UNDECIDED"


def test_json_holds_the_whole_decision(reported):
    data = json.loads((reported / "report.json").read_text())
    decision = parse_decision(data)
    assert json.loads(json.dumps(decision.to_json())) == data
    assert [gate.verdict for gate in decision.gates] == ["REGRESSED", "UNDECIDED", "KEPT"]
    flips = [flip for flip in decision.flips if flip.gate == "alpha"]
    assert [f.change for f in flips] == ["lost"] * 25 + ["gained"] * 4
    assert flips[0].baseline_outputs != flips[0].candidate_outputs
    assert "<script>" in flips[0].prompt
    assert data["exit_code"] == 1


@pytest.mark.parametrize("change", [{"schema_version": 9}, {"surprise": 1}, {"gates": None}])
def test_an_unreadable_report_is_refused(reported, capsys, change):
    data = json.loads((reported / "report.json").read_text())
    (reported / "report.json").write_text(json.dumps({**data, **change}))
    capsys.readouterr()
    assert main(["report", str(reported.parent)]) == 2
    assert "unreadable report" in capsys.readouterr().err


def test_report_writes_the_last_decision_again_or_a_new_one(reported, tmp_path, capsys):
    before = {path.name: path.read_text() for path in reported.iterdir()}
    run = str(reported.parent)
    assert main(["report", run, "--out", str(tmp_path / "again")]) == 0
    assert {path.name: path.read_text() for path in (tmp_path / "again").iterdir()} == before
    assert main(["report", run, "--baseline", str(tmp_path / "b"), "--out", str(tmp_path / "new")]) == 0
    assert len(read_decision(tmp_path / "new").gates) == 3
    assert "report.html" in capsys.readouterr().out
    # of a run that was measured again since, there is no decision
    make_run(tmp_path / "a", {"alpha": [1, 0]}, "other")
    assert main(["report", run]) == 2
    assert "the report is of another run" in capsys.readouterr().err


def test_a_report_that_cannot_be_written_leaves_nothing(reported, tmp_path, capsys, monkeypatch):
    import os

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert main(["report", str(reported.parent), "--out", str(tmp_path / "out")]) == 2
    assert "no disk space" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def test_a_lone_surrogate_can_be_written(tmp_path):
    for folder, side in (("a", 0), ("b", 1)):
        pair = values(50, 5, 0, 5)
        make_run(tmp_path / folder, {"t": pair[side]}, folder)
        path = tmp_path / folder / "items.jsonl"
        path.write_text(path.read_text().replace("What is", r"\ud800 is"))
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert main(["report", str(tmp_path / "a"), "--baseline", str(tmp_path / "b")]) == 0
    assert read_decision(tmp_path / "a" / "report").flips[0].prompt.startswith("? is")


def test_the_plot_shows_every_gate_and_scales(reported):
    decision = read_decision(reported)
    svg = ET.fromstring(str(forest.forest(decision)))
    assert len(svg.findall("g")) == 3
    assert [g.get("class") for g in svg.findall("g")] == ["regressed", "undecided", "kept"]
    for line in svg.iter("line"):
        assert all(0 <= float(line.get(end)) <= forest._WIDTH for end in ("x1", "x2"))
    # intervals contain their points, the zero line lies right of the margins
    bars = [g.find("line") for g in svg.findall("g")]
    assert all(float(bar.get("x1")) <= float(bar.get("x2")) for bar in bars)
    zero = float(svg.find("line[@class='zero']").get("x1"))
    assert all(float(line.get("x1")) < zero for line in svg.findall("line[@class='margin']"))


@given(st.floats(-1, -0.0001), st.floats(0.0001, 1))
def test_ticks_are_few_and_inside(low, high):
    found = forest.ticks(low, high)
    assert 0 in found
    assert len(found) <= 10
    assert all(low - 1e-3 <= tick <= high + 1e-3 for tick in found)


def test_multiple_choice_answers_show_every_choice(tmp_path):
    item = make_items("t", [1])[0]
    decision_flip = type("F", (), {"choices": tuple(item.choices)})
    shown = wording.answer(decision_flip, [[-1.5, True], [-0.25, False]])
    assert shown.splitlines()[1].startswith(">")
    assert "-0.25 nats  no" in shown


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian: apt-get install chromium)")
def test_a_browser_shows_the_script_as_text(reported, tmp_path):
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    command += ["--dump-dom", (reported / "report.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "<title>REGRESSED" in done.stdout
    assert "&lt;script&gt;document.title" in done.stdout
    assert "<script" not in done.stdout


def test_all_formats_are_rendered_from_a_stored_decision(reported):
    texts = render_all(read_decision(reported))
    assert set(texts) == {"report.html", "report.md", "junit.xml", "report.json"}
    assert {path.name: path.read_text() for path in reported.iterdir()} == texts


def test_an_item_of_a_win_rate_shows_the_judge_in_both_orders(tmp_path):
    """The first text was preferred by 0.9 when it was the candidate's, by 0.7 when it was the baseline's."""
    import dataclasses

    from eval_harness.win_rate.comparisons import Judgement

    judged = Judgement(0.6, (0.9, 0.7), ("judged", "judged"))
    assert judged.of_candidate == pytest.approx((0.9, 0.3))
    for folder, value, orders in (("a", 0.6, [0.9, 0.3]), ("b", 0.5, [])):
        items = make_items("own", [value] * 12, outputs=[["text"]] * 12)
        items = [dataclasses.replace(item, choices=[], orders=orders) for item in items]
        items[0] = dataclasses.replace(items[0], orders=[None, 1.0] if orders else [])
        make_run(tmp_path / folder, {"own": [value] * 12}, folder, items=items)
    assert main(["report", str(tmp_path / "a"), "--baseline", str(tmp_path / "b")]) == 0
    decision = read_decision(tmp_path / "a/report")
    assert decision.flips[1].orders == (0.9, 0.3)
    page = " ".join("".join(Page((tmp_path / "a/report/report.html").read_text()).text).split())
    comment = (tmp_path / "a/report/report.md").read_text()
    for text in (page, comment):
        assert "candidate's text first: no judgement" in text.replace("&#x27;", "'")
        assert "prefers the candidate (share of the candidate 0.9)" in text
        assert "baseline's text first: prefers the baseline (share of the candidate 0.3)" in text.replace(
            "&#x27;", "'"
        )


def test_the_page_is_readable_on_a_narrow_window(reported):
    """No sideways scrolling of the page, no text of the plot smaller than 10 pixels, every cell named."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make install")
    with api.sync_playwright() as running:
        try:
            browser = running.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        except api.Error as error:
            if "executable doesn't exist" not in str(error):
                raise
            pytest.skip("no /usr/bin/chromium: apt-get install chromium")
        page = browser.new_page(viewport={"width": 420, "height": 900})
        page.goto(f"file://{reported / 'report.html'}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 420
        table = page.locator(".gates").bounding_box()
        assert table["x"] + table["width"] <= 420
        for cell in page.locator(".gates td").all():
            box = cell.bounding_box()
            assert box["x"] + box["width"] <= 420
        heights = page.locator(".forest text").evaluate_all(
            "all => all.map((text) => text.getBoundingClientRect().height)"
        )
        assert min(heights) >= 10
        browser.close()
