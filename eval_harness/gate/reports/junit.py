"""A decision as JUnit XML: one test case per gate."""

import re
import xml.etree.ElementTree as ET

from eval_harness.files.texts import clipped, printable
from eval_harness.gate.reports import wording
from eval_harness.gate.verdicts import REGRESSED, UNDECIDED, Decision, Verdict

_LONGEST = 10_000  # characters of one text
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(decision: Decision) -> str:
    """Render the document.

    A failure is a blocking gate that is REGRESSED, or UNDECIDED unless that is mapped to `pass`, where it is
    skipped. What does not block never fails; its verdict is in `system-out`.
    """
    failed = [gate for gate in decision.gates if _outcome(gate, decision) == "failure"]
    skipped = [gate for gate in decision.gates if _outcome(gate, decision) == "skipped"]
    suite = ET.Element(
        "testsuite",
        name=_clean(f"{decision.suite}:{decision.preset}"),
        tests=str(len(decision.gates)),
        failures=str(len(failed)),
        errors="0",
        skipped=str(len(skipped)),
    )
    for gate in decision.gates:
        case = ET.SubElement(suite, "testcase", classname="eval-harness.gate", name=_clean(gate.name))
        numbers = f"difference {gate.paired.difference:+.3f} {wording.interval(gate)}, margin {gate.margin:g}"
        outcome = _outcome(gate, decision)
        if outcome != "passed":
            ET.SubElement(case, outcome, type=gate.verdict, message=_clean(f"{gate.verdict}: {numbers}"))
        text = "; ".join([gate.verdict, numbers, *wording.remarks(gate), wording.tests(gate)])
        ET.SubElement(case, "system-out").text = _clean(text)
    ET.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suite, encoding="unicode") + "\n"


def _outcome(gate: Verdict, decision: Decision) -> str:
    if not gate.blocking or gate.verdict not in (REGRESSED, UNDECIDED):
        return "passed"
    return "skipped" if gate.verdict == UNDECIDED and decision.undecided == "pass" else "failure"


def _clean(text: str) -> str:
    """Text without the characters that XML 1.0 cannot hold, those that are obeyed and not shown escaped."""
    return _NOT_XML.sub("\ufffd", printable(clipped(text, _LONGEST)))
