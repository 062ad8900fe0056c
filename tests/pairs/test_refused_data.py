"""Mistakes in data and templates: one line with the row's number, exit code 2, nothing written."""

from __future__ import annotations

import gzip
import json

import pytest
from chat_templates import CHATML, NO_SYSTEM, tokenizer
from datasets import Dataset

from sparsepo_plugin import cli, train_dpo
from sparsepo_plugin.demo.tiny import build_model, save_tiny

PAIR = {"prompt": "What is two plus two?", "chosen": " The answer is four.", "rejected": " Never mind!"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    words = tokenizer(CHATML)
    save_tiny(folder, build_model(words, hidden_size=16, heads=2, layers=1), words)
    return folder


@pytest.fixture
def flags(model, tmp_path):
    return [
        *("--model.model_name_or_path", str(model), "--loss", "dpo", "--data.max_len", "128"),
        *("--train.batch_size", "2", "--train.micro_batch_size", "2"),
        *("--ckpt.output_dir", str(tmp_path / "out")),
    ]  # fmt: skip


@pytest.fixture
def refused(flags, capsys):
    """The one line of a refusal."""

    def run(*argv, main=train_dpo.main):
        capsys.readouterr()
        assert main([*flags, *argv]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix("error: ")

    return run


@pytest.fixture
def valid(flags, capsys):
    """What validate prints."""

    def run(*argv):
        capsys.readouterr()
        code = cli.main(["validate", *flags, *argv])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out.splitlines()

    return run


def written(tmp_path, rows, name="pairs.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return ["--data.dataset", str(path)]


CHAT = "--data.apply_chat_template"

# ---------------------------------------------------------------- fault 1: strings and the template


def test_strings_become_a_conversation_that_validate_shows(valid, tmp_path):
    out = valid(*written(tmp_path, [PAIR] * 4), CHAT)
    assert (
        "4 of 4 pairs hold plain text, made one user turn and one assistant turn for the chat template" in out
    )
    example = out.index("example, row 0; tokens between bars, losses read the responses only:")
    prompt, chosen, rejected = out[example + 1 : example + 4]
    assert prompt.startswith("  prompt (")
    assert prompt.replace("|", "").replace("\\n", "\n").endswith("assistant\n")
    assert prompt.count("<|im_start|>") == 2
    assert chosen.startswith("  chosen response (")
    assert chosen.endswith("|<|im_end|>|\\n|")
    assert " Never mind!".strip() in rejected.replace("|", "")


def test_a_template_may_be_a_file(valid, refused, tmp_path):
    path = tmp_path / "own template.jinja"
    path.write_text(CHATML.replace("<|im_start|>", "<start_of_turn>"))
    out = valid(*written(tmp_path, [PAIR] * 4), CHAT, "--data.tokenizer_chat_template", str(path))
    assert any(line.startswith("  prompt") and line.count("<start_of_turn>") == 2 for line in out)
    for value in (str(tmp_path / "gone.jinja"), "chatml", str(tmp_path)):
        message = refused(*written(tmp_path, [PAIR] * 4), CHAT, "--data.tokenizer_chat_template", value)
        assert message.startswith(
            f"--data.tokenizer_chat_template {value}: got no Jinja template and no file"
        )
    (tmp_path / "empty.jinja").write_text("hello")
    message = refused(
        *written(tmp_path, [PAIR] * 4), CHAT, "--data.tokenizer_chat_template", str(tmp_path / "empty.jinja")
    )
    assert "got a text without {{ }} or {% %}" in message


def test_the_effective_configuration_holds_the_template_itself(flags, tmp_path):
    from sparsepo_plugin import config
    from sparsepo_plugin.adapters.openrlhf import flags as command_line
    from sparsepo_plugin.adapters.openrlhf import preflight

    path = tmp_path / "own.jinja"
    path.write_text(CHATML)
    argv = [*flags, *written(tmp_path, [PAIR] * 4), CHAT, "--data.tokenizer_chat_template", str(path)]
    parsed = command_line.parse(argv)
    preflight.check(parsed)
    (tmp_path / "run.yaml").write_text(config.dump(parsed.arguments))
    path.unlink()
    again = command_line.parse(["--config", str(tmp_path / "run.yaml")])
    assert again.arguments.data.tokenizer_chat_template == CHATML
    preflight.check(again)


def test_broken_templates(refused, tmp_path):
    data = [*written(tmp_path, [PAIR] * 4), CHAT]
    message = refused(*data, "--data.tokenizer_chat_template", "{% for m in messages %}{{ m.content }}")
    assert message.startswith("the chat template is not valid Jinja: line 1: ")
    message = refused(*data, "--data.tokenizer_chat_template", "{{ messages[0].content + nothing.at.all }}")
    assert "row 0, the chat template refuses the conversation: 'nothing' is undefined" in message
    assert "(4 of 4 rows cannot be used)" in message
    message = refused(*data, "--data.chat_template_kwargs", "enable_thinking=false")
    assert message.startswith(
        "--data.chat_template_kwargs: got 'enable_thinking=false', expected JSON such as"
    )
    message = refused(*written(tmp_path, [PAIR] * 4), "--data.input_template", "Q {question} {}")
    assert message.startswith("--data.input_template: got 'Q {question} {}', expected one {} for the prompt")


def test_a_system_turn_that_the_template_refuses_is_named_or_refuses_the_run(refused, valid, tmp_path):
    plain = {**PAIR, "prompt": [{"role": "user", "content": PAIR["prompt"]}]}
    refusing = {**plain, "prompt": [{"role": "system", "content": "You are brief."}, *plain["prompt"]]}
    argv = [CHAT, "--data.tokenizer_chat_template", NO_SYSTEM]
    message = refused(*written(tmp_path, [plain, refusing, plain]), *argv)
    assert "row 1, the chat template refuses the conversation: System role not supported" in message
    out = valid(*written(tmp_path, [plain] * 70 + [refusing] + [plain] * 70), *argv)
    assert any("141 pairs read, 140 kept, 1 dropped (1 unusable)" in line for line in out)
    assert (
        "warning: row 70, the chat template refuses the conversation: System role not supported: dropped"
        in out
    )


# ---------------------------------------------------------------- columns and forms


def test_a_prompt_column_is_taken_and_said(valid, tmp_path):
    out = valid(*written(tmp_path, [PAIR] * 4))
    assert f"prompts are taken from the column 'prompt' of {tmp_path}/pairs.jsonl (--data.prompt_key)" in out
    assert any(line.startswith("  prompt (") and "What" in line for line in out)
    rows = [{key: PAIR[key] for key in ("chosen", "rejected")}] * 4
    out = valid(*written(tmp_path, rows, "bare.jsonl"))
    assert any("has no prompt: all of chosen and rejected is trained as response" in line for line in out)
    out = valid(*written(tmp_path, [PAIR] * 4), "--data.prompt_key", "")
    assert "  prompt (0): ||" in out


def test_optional_keys_of_turns(valid, tmp_path):
    turns = [{"role": "user", "content": PAIR["prompt"]}]
    rows = [{**PAIR, "prompt": turns}, {**PAIR, "prompt": [{**turns[0], "name": "ada"}]}] * 2
    template = CHATML.replace("{{ m.content", "{{ (m.name.upper() if 'name' in m else '') + m.content")
    valid(*written(tmp_path, rows), CHAT, "--data.tokenizer_chat_template", template)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("pairs.csv", lambda data, path: data.to_csv(path)),
        ("pairs.parquet", lambda data, path: data.to_parquet(path)),
        ("pairs.json", lambda data, path: data.to_json(path, lines=False)),
        ("pairs.jsonl", lambda data, path: data.to_json(path)),
        ("folder", lambda data, path: data.save_to_disk(path)),
    ],
)
def test_every_kind_of_file(valid, tmp_path, name, write):
    write(Dataset.from_list([PAIR] * 4), str(tmp_path / name))
    out = valid("--data.dataset", str(tmp_path / name))
    assert any("4 pairs read, 4 kept" in line for line in out)
    assert not list(tmp_path.glob("folder/cache-*"))


def test_conversations_that_a_table_turned_into_text(refused, tmp_path):
    rows = [{**PAIR, "chosen": [{"role": "assistant", "content": "yes"}]}] * 4
    Dataset.from_list([{**row, "chosen": str(row["chosen"])} for row in rows]).to_csv(str(tmp_path / "t.csv"))
    for argv in ([], [CHAT]):
        message = refused("--data.dataset", str(tmp_path / "t.csv"), *argv)
        assert "row 0, column 'chosen': got a list of turns written out as text" in message


def test_files_that_are_no_utf_8_or_compressed(refused, tmp_path):
    path = tmp_path / "latin.jsonl"
    lines = [json.dumps({**PAIR, "chosen": text}, ensure_ascii=False) for text in ("yes", "café", "no")]
    path.write_bytes("\n".join(lines).encode("latin-1"))
    message = refused("--data.dataset", str(path))
    assert message.startswith(f"--data.dataset {path}: line 2 is not UTF-8 (byte 0xe9); convert the file, ")
    assert "iconv -f latin1 -t utf-8 latin.jsonl" in message
    with gzip.open(tmp_path / "pairs.jsonl.gz", "wt") as file:
        file.write(json.dumps(PAIR))
    assert "got a compressed file" in refused("--data.dataset", str(tmp_path / "pairs.jsonl.gz"))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "t.tsv",
            b"prompt\tchosen\trejected\na\tb\tc\n",
            "got a file of another type, expected .json, ",
        ),
        ("s.csv", b"prompt;chosen;rejected\na;b;c\n", "got one column 'prompt;chosen;rejected', expected"),
        ("h.csv", b"prompt,chosen,rejected\n", "got no rows, expected preference pairs"),
        ("b.jsonl", b"\n\n", "got no rows, expected preference pairs"),
        ("p.jsonl", b"PAR1\x15\x04\xb0", "got a Parquet file, expected jsonl; rename it to .parquet"),
        ("u.csv", "prompt,chosen,rejected\na,b,c\n".encode("utf-16"), "iconv -f utf-16 -t utf-8 u.csv"),
    ],
)
def test_a_file_of_another_kind_names_the_kind(refused, tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    message = refused("--data.dataset", str(tmp_path / name))
    assert message.startswith(f"--data.dataset {tmp_path / name}: ")
    assert expected in message


def test_a_folder_with_the_ending_of_a_file(refused, tmp_path):
    folder = tmp_path / "pairs.parquet"
    folder.mkdir()
    Dataset.from_list([PAIR] * 4).to_parquet(str(folder / "part-0.parquet"))
    message = refused("--data.dataset", str(folder))
    assert "got a folder with the ending of a file" in message
    assert "rename the folder without .parquet" in message


@pytest.mark.parametrize("value", ["{0},,{0}", "{0},", ",{0}", " "])
def test_an_empty_name_in_a_list_of_data_sets(refused, tmp_path, value):
    path = written(tmp_path, [PAIR] * 4)[1]
    assert "got an empty name between commas" in refused("--data.dataset", value.format(path))


@pytest.mark.parametrize("value", ["0.5", "1,x", "0.5,0.6", "1.5,-0.5", "nan,nan", "0.2,0.3,0.5"])
def test_probabilities_that_do_not_fit(refused, tmp_path, value):
    path = written(tmp_path, [PAIR] * 4)[1]
    message = refused("--data.dataset", f"{path},{path}", "--data.dataset_probs", value)
    assert message.startswith(f"--data.dataset_probs: got {value!r}, expected 2 numbers above 0")


def test_a_null_response_in_one_of_many_rows_is_dropped_and_named(valid, refused, tmp_path):
    rows = [PAIR] * 150 + [{**PAIR, "rejected": None}]
    out = valid(*written(tmp_path, rows))
    assert any("151 pairs read, 150 kept, 1 dropped (1 unusable)" in line for line in out)
    assert any(line.startswith("warning: row 150, column 'rejected': got NoneType") for line in out)
    message = refused(*written(tmp_path, rows[:10] + rows[-1:], "few.jsonl"))
    assert "row 10, column 'rejected': got NoneType, expected text" in message


# ---------------------------------------------------------------- fault 2: what does not fit


def test_cut_equal_and_dropped_pairs_are_said(valid, tmp_path):
    long = " The answer is four." * 60
    rows = [PAIR, PAIR, {**PAIR, "chosen": long}, {**PAIR, "chosen": f"{long} a", "rejected": f"{long} b"}]
    rows += [{**PAIR, "rejected": PAIR["chosen"]}, {**PAIR, "prompt": long * 3}, {**PAIR, "rejected": " "}]
    out = valid(*written(tmp_path, rows))
    assert any(
        line.endswith(
            "7 pairs read, 4 kept, 3 dropped (1 without room for a response in max_len 128, 1 with equal "
            "responses, 1 with responses equal after cutting)"
        )
        for line in out
    )
    assert any(line.startswith("warning: 1 of 4 pairs are cut at 128 tokens") for line in out)
    assert "1 of 4 pairs have an empty response" in out


def test_validate_says_steps_tokens_and_memory(valid, tmp_path):
    out = valid(*written(tmp_path, [PAIR] * 5), "--train.max_epochs", "3")
    line = next(line for line in out if line.startswith("steps: "))
    assert line.startswith("steps: 7 (3 x 5 pairs in batches of 2); tokens: ")
    assert line.endswith("; the last 1 of 15 draws fill no batch and reach no step")
    assert any(line.startswith("memory: about ") and "an estimate" in line for line in out)
    assert out[-1].startswith("valid: loss dpo")


def test_two_keys_of_one_column(refused, tmp_path):
    message = refused(*written(tmp_path, [PAIR] * 4), "--data.chosen_key", "prompt")
    assert message.endswith("got prompt, prompt, rejected, expected a column each")


def test_a_run_is_resumed_by_what_was_found_out_of_its_data(flags, tmp_path, monkeypatch):
    """A prompt column that was not named, and a template given by its path, are the same run later."""
    from sparsepo_plugin.adapters.openrlhf import checkpoints, preflight, run_identity
    from sparsepo_plugin.adapters.openrlhf import flags as command_line

    path = tmp_path / "own.jinja"
    path.write_text(CHATML)
    argv = [*flags, *written(tmp_path, [PAIR] * 4), CHAT, "--data.tokenizer_chat_template", str(path)]
    first = command_line.parse(argv)
    preflight.check(first)
    compared = []
    monkeypatch.setattr(checkpoints, "to_resume", lambda folder: "saved")
    monkeypatch.setattr(run_identity, "check_same", lambda saved, now, *rest: compared.append(now))
    preflight.check(command_line.parse([*argv, "--ckpt.load_enable"]))
    assert compared == [run_identity.identity(first.arguments)]
    assert compared[0]["data.prompt_key"] == "prompt"
