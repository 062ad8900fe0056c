"""Reports fit where they are shown, whatever a run holds, and escape what a terminal would obey."""

import dataclasses
import json
import re
import xml.etree.ElementTree as ET

import pytest

from eval_harness.cli.app import main
from eval_harness.cli.say import say
from eval_harness.gate.reports import html, junit, markdown
from eval_harness.gate.reports.files import read_decision, write_reports
from eval_harness.gate.verdicts import parse_decision

from .runs import make_items, make_run, values

LOST, KEPT = values(230, 50, 4, 116), values(380, 2, 2, 16)
# NUL, a colour of terminals, a mark that turns writing round, half of a pair, a zero-width space
EVIL = "a\x00b \x1b[31mred \u202eturned\u2066 \ud800 \u200b end"
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ud800-\udfff]"
)


@pytest.fixture(scope="module")
def decision(tmp_path_factory):
    """Two gates, one REGRESSED with 29 items that flipped, one KEPT with 4."""
    folder = tmp_path_factory.mktemp("runs")
    for name, side in (("a", 0), ("b", 1)):
        tasks = {"lost": LOST[side], "kept": KEPT[side]}
        items = [
            item
            for task, entries in tasks.items()
            for item in make_items(task, entries, outputs=[[f"{name} says {n}"] for n in range(len(entries))])
        ]
        make_run(folder / name, tasks, name, items=items)
    (folder / "gates.yaml").write_text("version: 1\ngates: {lost: {}, kept: {}}\n")
    args = ["gate", folder / "a", "--baseline", folder / "b", "--gates", folder / "gates.yaml"]
    assert main(list(map(str, args))) == 1
    return read_decision(folder / "a" / "report")


def grown(decision, gates, output=1, **changes):
    """A decision of so many gates, every eleventh REGRESSED, whose outputs have so many characters."""
    made, flips = [], []
    for number in range(gates):
        gate = decision.gates[0 if number % 11 == 10 else 1]
        name = f"leaderboard_task_{number:03d}"
        made.append(dataclasses.replace(gate, name=name, tasks=(name,)))
        flips += [
            dataclasses.replace(
                flip, gate=name, task=name, candidate_outputs=["x" * output], baseline_outputs=["y" * output]
            )
            for flip in decision.flips
            if flip.gate == gate.name
        ]
    return dataclasses.replace(decision, gates=tuple(made), flips=tuple(flips), **changes)


@pytest.mark.parametrize(
    ("gates", "output"),
    [(n, size) for n in (6, 57, 300, 1500) for size in (20, 3000)] + [(6, 10**6), (57, 10**6)],
)
def test_every_report_has_its_limit_and_says_what_is_left_out(decision, gates, output, tmp_path):
    big = grown(decision, gates, output)
    comment, page = markdown.render(big), html.render(big)
    assert len(comment.encode()) <= 65_536
    assert len(page.encode()) < 8 << 20
    assert comment.startswith("## ❌ REGRESSED")
    first = comment.splitlines()[2]
    assert "blocking gates" in first
    # what regressed is in the table before anything is left out
    regressed = [gate.name for gate in big.gates if gate.verdict == "REGRESSED"]
    rows = [line for line in comment.splitlines() if line.startswith("| leaderboard")]
    if len(rows) < gates:
        assert f"{gates - len(rows)} gates in the table" in comment.splitlines()[-1]
        assert all("REGRESSED" in row for row in rows) or len(
            [row for row in rows if "REGRESSED" in row]
        ) == len(regressed)
    complete = comment.count("<pre>") == sum(
        min(3, len([f for f in big.flips if f.gate == g.name])) for g in big.gates
    )
    assert complete or "Left out for length" in comment
    assert ("Left out for length" in page) == (page.count("<details>") < len(big.flips) or gates > 500)
    assert page.count("</svg>") == 1
    assert comment.count("<details>") == comment.count("</details>")
    assert len(junit.render(big).encode()) < 4 << 20
    if output < 1_000_000:
        write_reports(tmp_path, big)
        assert parse_decision(json.loads((tmp_path / "report.json").read_text())) == big


def test_endless_notes_and_names_are_bounded_too(decision):
    notes = tuple(f"note {n} " + "z" * 5000 for n in range(3000))
    big = grown(decision, 3, notes=notes, facts=tuple((f"f{n}", "w" * 5000) for n in range(3000)))
    label = dataclasses.replace(big.candidate, label="m" * 1_000_000)
    big = dataclasses.replace(big, candidate=label)
    assert len(markdown.render(big).encode()) <= 65_536
    assert len(html.render(big).encode()) < 8 << 20
    assert "measurements and notes" in markdown.render(big).splitlines()[-1]


def test_a_small_report_leaves_nothing_out(decision):
    for text in (markdown.render(decision), html.render(decision)):
        assert "Left out for length" not in text


def evil(decision):
    """A decision with hostile signs wherever a text comes from a run, a gates file or a server."""
    flips = tuple(
        dataclasses.replace(flip, prompt=EVIL, target=EVIL, task=EVIL, candidate_outputs=[EVIL], choices=())
        for flip in decision.flips
    )
    gates = tuple(
        dataclasses.replace(gate, notes=(EVIL,), metric=EVIL, name=f"{gate.name} {EVIL}")
        for gate in decision.gates
    )
    flips = tuple(dataclasses.replace(flip, gate=f"{flip.gate} {EVIL}") for flip in flips)
    run = dataclasses.replace(decision.candidate, label=EVIL)
    return dataclasses.replace(
        decision, flips=flips, gates=gates, candidate=run, notes=(EVIL,), facts=((EVIL, EVIL),), suite=EVIL
    )


def test_nothing_that_a_browser_or_a_terminal_obeys_reaches_a_report(decision, tmp_path, capsys):
    from eval_harness.gate.reports.wording import table

    hostile = evil(decision)
    write_reports(tmp_path, hostile)
    for name in ("report.html", "report.md", "junit.xml"):
        text = (tmp_path / name).read_text()
        assert not HIDDEN.search(text.replace("\n", "").replace("\t", "")), name
        assert "\\x1b[31mred" in text.replace("&#91;", "[").replace("&#92;", "\\")
    ET.fromstring((tmp_path / "junit.xml").read_text())
    json.loads((tmp_path / "report.json").read_text())
    capsys.readouterr()
    say(table(hostile))
    assert not HIDDEN.search(capsys.readouterr().out.replace("\n", ""))


def test_a_message_of_an_error_obeys_nothing_either(tmp_path, capsys):
    assert main(["gate", str(tmp_path / "no\x1b[31m"), "--gates", "quick"]) == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "\\x1b[31m" in said


def test_letters_of_all_scripts_and_joined_signs_stay(decision):
    text = "हिन्दी فارسی می\u200cخواهم 👩\u200d👧 日本語 \ufffd"  # noqa: RUF001
    flips = (dataclasses.replace(decision.flips[0], prompt=text),)
    shown = dataclasses.replace(decision, flips=flips)
    assert text in html.render(shown)
    assert text in markdown.render(shown)
