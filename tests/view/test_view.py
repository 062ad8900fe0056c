"""The record is read strictly, its sums are right, its text is readable, its page needs nothing else."""

from __future__ import annotations

import json
import math
import re

import made_records
import pytest

from sparsepo_plugin import cli
from sparsepo_plugin.report.view import colours, page, payload, summary, text
from sparsepo_plugin.run_folder.tokens import Response, read, read_steps


def one(tokens, joined=(), **values):
    """A response of the given tokens; every measured list not given is None."""
    given = {name: values.get(name) for name in ("reward_mask", "kl_mask", "log_ratio", "token_kl")}
    return Response(tokens, list(range(len(tokens))), list(joined), given)


# ---------------------------------------------------------------- sums


def test_the_contribution_is_the_score_of_the_paper_token_by_token():
    values = {"reward_mask": [2.0, 0.0, 1.0], "kl_mask": [0.0, 3.0, 1.0]}
    measured = {"log_ratio": [0.5, 7.0, -1.0], "token_kl": [9.0, 0.1, 0.25]}
    response = one(["a", "b", "c"], **values, **measured)
    assert summary.contribution(response) == pytest.approx([1.0, 0.3, -0.75])
    found = summary.sums(response)
    assert found["contribution"] == pytest.approx(0.55)
    assert found["reward_mask_sparsity"] == found["kl_mask_sparsity"] == pytest.approx(1 / 3)
    assert (found["tokens"], found["reward_mask"], found["log_ratio"]) == (3, 3.0, 6.5)


def test_without_a_kl_mask_there_is_no_kl_term_and_without_reference_no_contribution():
    response = one(["a"], reward_mask=[1.0], log_ratio=[0.5], token_kl=[3.0])
    assert summary.contribution(response) == [0.5]
    assert summary.contribution(one(["a"], reward_mask=[1.0])) is None
    assert summary.sums(one(["a"], reward_mask=[1.0]))["contribution"] is None


def test_a_mask_of_zero_removes_even_what_is_not_a_number():
    response = one(["a", "b"], reward_mask=[0.0, 1.0], log_ratio=[None, None])
    assert summary.contribution(response) == [0.0, None]
    assert summary.sum_of(summary.contribution(response)) is None


def test_the_margin_equals_the_record_of_the_loss(tmp_path):
    rows = made_records.rows(3)
    record = read(made_records.write(tmp_path / "tokens.jsonl", rows))
    for pair in record.pairs:
        scores = [
            sum(m * r + k * d for m, r, k, d in zip(*(row[key] for key in ORDER)))
            for row in rows[2 * pair.number : 2 * pair.number + 2]
        ]
        assert summary.margin(pair) == pytest.approx(scores[0] - scores[1])


ORDER = ("reward_mask", "log_ratio", "kl_mask", "token_kl")


def test_the_vocabulary_counts_every_token_and_averages_its_masks(tmp_path):
    rows = made_records.rows(20)
    table = summary.vocabulary(read(made_records.write(tmp_path / "tokens.jsonl", rows)))
    assert sum(row["count"] for row in table) == 20 * 2 * 12
    means = [row["reward_mask"] for row in table]
    assert means == sorted(means, reverse=True)
    end = next(row for row in table if row["text"] == "<eos>")
    masks = [row["reward_mask"][-1] for row in rows]
    assert end["count"] == 40
    assert end["reward_mask"] == pytest.approx(sum(masks) / 40)
    assert end["zeros"] == sum(mask == 0 for mask in masks) / 40


def test_colours_end_at_the_99th_percentile_and_a_layer_without_values_has_no_scale(tmp_path):
    rows = made_records.rows(5, 10)
    for number, row in enumerate(rows):
        row |= {"reward_mask": [1.0] * 10, "kl_mask": None, "token_kl": None, "log_ratio": [-0.5] * 10}
        row["log_ratio"][0] = -100.0 if number == 0 else -0.5
    record = read(made_records.write(tmp_path / "tokens.jsonl", rows))
    tops = {layer.key: summary.scale_top([record], layer) for layer in summary.LAYERS}
    assert tops == {
        "reward_mask": 1.0, "kl_mask": None, "log_ratio": 0.5, "token_kl": None, "contribution": 0.5,
    }  # fmt: skip


def test_colours_part_at_1_where_masks_have_that_mean_over_every_response(tmp_path):
    def centres(rows):
        record = read(made_records.write(tmp_path / "tokens.jsonl", rows))
        tops = {layer.key: summary.scale_top([record], layer, 1) for layer in summary.LAYERS}
        return {layer.key: summary.centre([record], layer) for layer in summary.LAYERS}, tops

    rows = made_records.rows(5, 10)
    assert not any(centres(rows)[0].values())
    for row in rows:
        row["reward_mask"] = [0.0, 2.0] * 5
    rows[3]["reward_mask"] = [0.0] * 10  # a dead response stays 0 under normalise mean
    found, tops = centres(rows)
    assert found == {**dict.fromkeys(found, 0), "reward_mask": 1}
    assert tops["reward_mask"] == 1.0
    for row in rows:
        row["reward_mask"] = [1.0] * 10
    assert centres(rows)[0]["reward_mask"] == 0


def test_the_page_opens_with_the_weighted_contribution_where_there_is_one():
    assert summary.LAYERS[0].key == "contribution"


def test_the_overview_counts_wrong_signs_and_says_how_concentrated_contributions_are(tmp_path):
    rows = made_records.rows(2, 10)
    for row in rows:
        row |= {"reward_mask": [1.0] * 10, "kl_mask": None, "log_ratio": [0.0] * 9 + [1.0]}
    rows[3]["log_ratio"] = [0.0] * 9 + [3.0]
    found = summary.overview(read(made_records.write(tmp_path / "tokens.jsonl", rows)))
    assert (found["pairs"], found["tokens"], found["step"]) == (2, 40, 40)
    assert (found["mean margin (nats)"], found["wrong sign"]) == (-1.0, "50.0 %")
    assert (found["reward mask at 0"], found["KL mask at 0"]) == ("0.0 %", None)
    assert found["contribution in the largest tenth"] == "100.0 %"


# ---------------------------------------------------------------- several steps and runs


def recorded(tmp_path, name, steps, **changed):
    rows = [{**row, **changed} for row in made_records.rows(2, 6)]
    lines = {step: [{**row, "step": step} for row in rows] for step in steps}
    made_records.write(tmp_path / name / "tokens.jsonl", lines[steps[-1]])
    made_records.write(
        tmp_path / name / "tokens_earlier.jsonl", [row for step in steps[:-1] for row in lines[step]]
    )
    return payload.Recorded(name, read_steps(tmp_path / name / "tokens.jsonl"))


def test_every_step_has_its_values_and_the_tokens_stand_once(tmp_path):
    data = payload.payload([payload.shown(recorded(tmp_path, "a", [0, 10, 20]))])
    (run,) = data["runs"]
    assert run["steps"] == data["steps"] == [0, 10, 20]
    (entry,) = data["pairs"][0]["runs"]
    assert len(entry["margin"]) == len(entry["sides"][0]["records"]) == 3
    assert len(entry["sides"][0]["words"]) == len(entry["sides"][0]["records"][0]["log_ratio"]) == 6


def test_two_runs_stand_in_one_pair_where_the_prompt_is_the_same(tmp_path):
    runs = [recorded(tmp_path, "a", [0, 20]), recorded(tmp_path, "b", [10, 20])]
    data = payload.payload(runs)
    assert data["steps"] == [0, 10, 20]
    assert [[entry["run"] for entry in pair["runs"]] for pair in data["pairs"]] == [[0, 1], [0, 1]]
    other = recorded(tmp_path, "c", [20], prompt="another")
    assert [len(pair["runs"]) for pair in payload.payload([runs[0], other])["pairs"]] == [1, 1, 1, 1]


def test_a_page_takes_fewer_steps_and_a_report_fewer_pairs_where_they_are_many(tmp_path, monkeypatch):
    run = recorded(tmp_path, "a", list(range(0, 100, 10)))
    per_step = 2 * 2 * 6 * len(summary.LAYERS)
    monkeypatch.setattr(payload, "_NUMBERS", 4 * per_step)
    assert [record.step for record in payload.shown(run).records] == [0, 30, 60, 90]
    assert [record.step for record in payload.shown(run, runs=2).records] == [0, 90]
    monkeypatch.setattr(payload, "_NUMBERS", per_step // 2)
    assert [record.step for record in payload.shown(run).records] == [90]
    assert len(payload.first_pairs(payload.shown(run)).records[-1].pairs) == 1


def test_an_earlier_record_of_other_tokens_is_left_out(tmp_path):
    run = recorded(tmp_path, "a", [0, 10])
    changed = run.records[0]._replace(pairs=run.records[0].pairs[:1])
    assert payload.shown(run._replace(records=[changed, run.records[1]])).records == run.records[1:]


# ---------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (" word", " word"),
        ("  ", "\u2423\u2423"),
        ("\n", "\u21b5\n"),
        ("a\tb", "a\u21e5\tb"),
        ("\ufffd", "\u27e87\u27e9"),
        ("", "\u27e87\u27e9"),
        ("\u202eevil", "\u27e8U+202E\u27e9evil"),
        ("\x00", "\u27e8U+0000\u27e9"),
        ("\ud800", "\u27e8U+D800\u27e9"),
        ("\u0646\u0635", "\u0646\u0635"),
        ("\U0001f469\u200d\U0001f680", "\U0001f469\u200d\U0001f680"),
        ("<b>", "<b>"),
    ],
)
def test_no_token_is_invisible_or_turns_the_text_around(given, shown):
    assert text.readable(given, 7) == shown


def test_byte_tokens_are_joined_to_characters():
    emoji = [f"<0x{byte:02X}>" for byte in "\U0001f680".encode()]
    response = one(["go", *emoji, "<0xC3>", "<0xA9>", "<0xFF>", "x"])
    assert text.spans(response) == [(1, 5, "\U0001f680"), (5, 7, "\xe9")]
    assert text.spans(one(["\ufffd", "\ufffd", "<0x41>"], [(0, 2, "\xe9")])) == [(0, 2, "\xe9"), (2, 3, "A")]


# ---------------------------------------------------------------- colours


def test_text_is_legible_on_every_colour_and_lightness_follows_the_value():
    for theme, lighter in (("light", -1), ("dark", 1)):
        scale = colours.scale(theme)
        for name, colour in scale.items():
            assert colours.contrast(colours.text_on(colour), colour) >= 4.5, (theme, name)
        for letter, steps in (("s", colours.STEPS), ("p", colours.SIGNED_STEPS), ("n", colours.SIGNED_STEPS)):
            found = [lighter * colours.luminance(scale[f"{letter}{n}"]) for n in range(1, steps + 1)]
            assert found == sorted(found), (theme, letter)
        # Red-green deficiencies leave the blue channel: orange is low in it, blue high.
        for n in range(3, colours.SIGNED_STEPS + 1):
            assert scale[f"p{n}"][2] - scale[f"n{n}"][2] > 50, (theme, n)


# ---------------------------------------------------------------- page


def test_the_page_fetches_nothing_and_escapes_its_data(tmp_path):
    rows = made_records.rows(1)
    for row in rows:
        row["prompt"] = "</script><script>alert(1)</script> \u2028 & @@PROGRAM@@"
    record = made_records.write(tmp_path / "<i>&.jsonl", rows)
    assert cli.main(["view", str(record), "-o", str(tmp_path / "page.html")]) == 0
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert html.count("</script>") == 2
    assert "<i>" not in html.replace('element("i"', "")
    assert not re.search(r"(src|href|action)=|url\(|@import|https?://", html)
    assert "default-src 'none'" in html
    data = re.search(r'id="data">(.*?)</script>', html)[1]
    assert not set("<>&\u2028") & set(data)
    prompt = json.loads(data)["tokens"]["pairs"][0]["prompt"]
    assert prompt == "</script><script>alert(1)</script> \u27e8U+2028\u27e9 & @@PROGRAM@@"


def test_numbers_are_shortened_but_zero_stays_zero_and_nothing_else_becomes_it():
    for value in (0.0, 1e-300, -3.14159265, 1e22, 2.0, 123456.7):
        short = payload.short(value)
        assert (short == 0) is (value == 0)
        assert math.isclose(short, value, rel_tol=1e-4)


def test_a_folder_is_taken_with_its_loss_and_beta_and_its_own_page_is_replaced(tmp_path, capsys):
    made_records.write(tmp_path / "run/tokens.jsonl", made_records.rows(2))
    (tmp_path / "run/sparsepo_config.yaml").write_text("loss: sparsepo\nmodel: {beta: 0.25}\n")
    for _ in range(2):
        assert cli.main(["view", str(tmp_path / "run"), "-o", str(tmp_path / "new/page.html")]) == 0
    assert "2 pairs after step 40" in capsys.readouterr().out
    html = (tmp_path / "new/page.html").read_text()
    assert '"loss sparsepo","beta 0.25","step 40","2 pairs"' in html
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]


# ---------------------------------------------------------------- bad input


def bad(**changed):
    good = made_records.rows(1)
    return [{**good[0], **changed}, good[1]]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], ["got no responses", "--LOSS.record N"]),
        (made_records.rows(1)[:1], ["pair 0 has no rejected response"]),
        (made_records.rows(1) * 2, ["line 3", "twice"]),
        (bad(schema_version=2), ["line 1", "schema_version 2, expected 1"]),
        (bad(side="worse"), ["line 1, key side", "'worse'"]),
        (bad(prompt=None), ["line 1, key prompt", "None", "expected str"]),
        (bad(tokens="text"), ["line 1, key tokens", "'text'", "expected a list"]),
        (bad(token_ids=[1]), ["line 1, key token_ids", "got 1 entries, expected 12"]),
        (bad(log_ratio=["x"] * 12), ["line 1, key log_ratio"]),
        (bad(reward_mask=None), ["line 1, key reward_mask", "expected a list of 12 numbers"]),
        (bad(joined=[[3, 99, "x"]]), ["line 1, key joined", "[3, 99, 'x']"]),
        (bad(spaced=["x"]), ["line 1, key spaced", "expected a list"]),
        ([["not an object"]], ["line 1", "got list, expected a JSON object"]),
    ],
)
def test_a_bad_record_is_refused_in_one_line_that_names_the_place(lines, words, tmp_path, capsys):
    record = made_records.write(tmp_path / "tokens.jsonl", lines)
    assert cli.main(["view", str(record), "-o", str(tmp_path / "page.html")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for word in [*words, "tokens.jsonl"]:
        assert word in err
    assert not (tmp_path / "page.html").exists()


def test_a_cut_off_record_a_missing_one_and_one_of_bytes(tmp_path, capsys):
    record = tmp_path / "tokens.jsonl"
    record.write_text(json.dumps(made_records.rows(1)[0])[:50])
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty").mkdir()
    for source, words in (
        (record, "line 1: got no JSON"),
        (tmp_path / "bytes.jsonl", "not UTF-8"),
        (tmp_path / "gone.jsonl", "no such file"),
        (tmp_path / "empty", "got no tokens.jsonl there"),
    ):
        assert cli.main(["view", str(source), "-o", str(tmp_path / "page.html")]) == 2
        err = capsys.readouterr().err
        assert words in err
        assert err.count("\n") == 1


def test_a_file_of_somebody_else_is_not_replaced(tmp_path, capsys):
    record = made_records.write(tmp_path / "tokens.jsonl", made_records.rows(1))
    (tmp_path / "mine.html").write_text("<html>mine</html>")
    for target, words in (
        (tmp_path / "mine.html", "sparsepo did not write"),
        (record, "sparsepo did not write"),
        (tmp_path, "got a folder"),
        (tmp_path / "mine.html/page.html", "is a file, expected a folder"),
    ):
        assert cli.main(["view", str(record), "-o", str(target)]) == 2
        err = capsys.readouterr().err
        assert words in err
        assert err.count("\n") == 1
    assert (tmp_path / "mine.html").read_text() == "<html>mine</html>"


def test_values_that_are_no_numbers_are_shown_as_none(tmp_path):
    rows = made_records.rows(1)
    rows[0]["log_ratio"][0] = float("nan")
    rows[0]["token_kl"][1] = float("inf")
    record = read(made_records.write(tmp_path / "tokens.jsonl", rows))
    assert record.pairs[0].chosen.values["log_ratio"][0] is None
    assert record.pairs[0].chosen.values["token_kl"][1] is None
    assert "NaN" not in page.build(["x"], [], [payload.Recorded("x", [record])])
