"""Models that think: the switch shapes the prompt as bare lm-eval does, and reasoning is never graded."""

import shutil

import pytest

from eval_harness.errors import UserError
from eval_harness.gate.compare import FinishedRun, pair_runs
from eval_harness.models.answer_store import AnswerStore
from eval_harness.models.engine_options import template_arguments
from eval_harness.models.generation import Sampling, generate, plan_generation
from eval_harness.models.reference import resolve
from eval_harness.models.settings import Settings
from eval_harness.models.thinking import Thinking, decode, marks_of
from eval_harness.run.folder import read_items, read_result
from eval_harness.types import NO_ANSWER

from . import tiny
from .conftest import BBH
from .test_run import assert_equal_to_bare, bare

TEMPLATE = (
    tiny.CHAT.replace("<|assistant|>", "<|assistant|>{{ depth }}").removesuffix("{% endif %}")
    + "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    + "{% endif %}"
)
OPENED = TEMPLATE.replace("{{ depth }}", "<think>\n")
CHAT = ["--chat-template", "--dtype", "float32", "--generation", "max_gen_toks=8"]


@pytest.fixture
def thinker(model_a, tmp_path):
    """A model folder whose template has a thinking switch and whose tokenizer knows the marks."""
    return make(model_a, tmp_path / "thinker", TEMPLATE)


def make(model_a, folder, template, special=False):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    shutil.copytree(model_a, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<think>", "</think>"], special_tokens=special)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def says(monkeypatch):
    """says(folder, text): from now on the model writes this text, whatever it is asked."""
    import torch
    from transformers import AutoTokenizer, GenerationMixin

    def script(folder, text):
        ids = AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False).input_ids

        def write(self, input_ids, **_):
            written = torch.tensor([ids] * len(input_ids))
            return torch.cat([input_ids, written], dim=1)

        monkeypatch.setattr(GenerationMixin, "generate", write)

    return script


@pytest.mark.parametrize(
    ("text", "opened", "answer"),
    [
        ("plain", False, "plain"),
        ("<think>a</think>\n\nb", False, "b"),
        ("<think>a</think>b<think>c</think> d", False, "d"),
        ("a</think> b", False, "b"),
        ("a</think> b", True, "b"),
        (" plain", False, "plain"),
        ("<think>a", False, None),
        ("<think>a</think>b<think>c", False, None),
        ("a, and no end", True, None),
        ("", True, None),
        ("", False, ""),
        ("<think>a</think>", False, ""),
    ],
)
def test_what_is_the_answer(text, opened, answer):
    assert Thinking(True, opened).answer(text) == answer
    assert Thinking(False, opened).answer(text) == text


@pytest.mark.parametrize(
    ("engine", "arguments"),
    [
        ([], {}),
        (["enable_thinking=false"], {"enable_thinking": False}),
        (["chat_template_args={depth: 3}"], {"chat_template_args": {"depth": 3}}),
        (
            ["chat_template_args={depth: 3, enable_thinking: true}", "enable_thinking=false"],
            {"chat_template_args": {"depth": 3, "enable_thinking": True}, "enable_thinking": False},
        ),
    ],
)
def test_prompts_and_scores_are_those_of_bare_lm_eval(cli, thinker, tmp_path, engine, arguments):
    options = [part for option in engine for part in ("--engine", option)]
    assert cli("--model", thinker, "--tasks", f"ifeval,{BBH}", *CHAT, *options) == 0
    raw = bare(thinker, tmp_path / "out", {"max_gen_toks": 8}, True, think_end_token="</think>", **arguments)
    assert_equal_to_bare(tmp_path / "out", raw)
    ends = "<think>\n\n</think>\n\n" if arguments.get("enable_thinking") is False else "<|assistant|>"
    ends = ends if "chat_template_args" not in arguments or "<think>" in ends else "<|assistant|>3"
    assert {i.prompt.endswith(ends) for i in read_items(tmp_path / "out") if "ifeval" in i.task} == {True}


def test_add_bos_token_and_other_options_are_those_of_bare_lm_eval(cli, model_a, tmp_path):
    args = ["--model", model_a, "--tasks", f"ifeval,{BBH}", "--dtype", "float32"]
    options = ["--engine", "add_bos_token=true", "--engine", "softmax_dtype=float64"]
    assert cli(*args, *options, "--generation", "max_gen_toks=8") == 0
    raw = bare(model_a, tmp_path / "out", {"max_gen_toks": 8}, add_bos_token=True, softmax_dtype="float64")
    assert_equal_to_bare(tmp_path / "out", raw)
    settings = read_result(tmp_path / "out").settings
    assert settings["prompting"] == {"add_bos_token": True, "strip_thinking": "auto"}
    assert settings["numerics"] == {"softmax_dtype": "float64"}


@pytest.mark.parametrize("special", [False, True])
def test_reasoning_is_stripped_by_default_and_the_result_says_so(cli, model_a, tmp_path, says, special):
    model = make(model_a, tmp_path / "m", TEMPLATE, special)
    says(model, "<think>one, two</think>\n\nthree four")
    assert cli("--model", model, "--tasks", "ifeval", *CHAT) == 0
    assert {i.outputs[0] for i in read_items(tmp_path / "out")} == {"three four"}
    facts = dict(read_result(tmp_path / "out").facts)
    assert "removed before grading" in facts["reasoning"]
    assert (
        cli("--model", model, "--tasks", "ifeval", *CHAT, "--strip-thinking", "no", out=tmp_path / "o2") == 0
    )
    assert "one, two" in read_items(tmp_path / "o2")[0].outputs[0]
    assert read_result(tmp_path / "o2").facts == ()
    ours, theirs = (
        FinishedRun(n, read_result(tmp_path / n), read_items(tmp_path / n)) for n in ("out", "o2")
    )
    with pytest.raises(UserError, match="strip_thinking"):
        pair_runs(ours, theirs)


def test_reasoning_that_never_ends_is_no_answer(cli, thinker, tmp_path, says):
    says(thinker, "<think>one, two, three")
    assert cli("--model", thinker, "--tasks", "ifeval", *CHAT) == 0
    assert read_result(tmp_path / "out").counts["failed"] == 8
    assert {i.outputs[0] for i in read_items(tmp_path / "out")} == {NO_ANSWER}
    run = FinishedRun("candidate", read_result(tmp_path / "out"), read_items(tmp_path / "out"))
    with pytest.raises(UserError, match="failed items"):
        pair_runs(run, run._replace(name="baseline"))


def test_a_template_that_opens_the_block_itself(cli, model_a, tmp_path, says):
    model = make(model_a, tmp_path / "m", OPENED)
    says(model, "one, two</think> three")
    assert cli("--model", model, "--tasks", "ifeval", *CHAT, out=tmp_path / "a") == 0
    assert {i.outputs[0] for i in read_items(tmp_path / "a")} == {"three"}
    says(model, "one, two and no end")
    assert cli("--model", model, "--tasks", "ifeval", *CHAT, "--no-cache", out=tmp_path / "b") == 0
    assert read_result(tmp_path / "b").counts["failed"] == 8


def test_a_template_without_a_switch_strips_nothing(cli, model_a, tmp_path):
    assert cli("--model", model_a, "--tasks", "ifeval", *CHAT) == 0
    assert read_result(tmp_path / "out").facts == ()


def test_thinking_and_log_probabilities_do_not_go_together(cli, thinker, no_model, capfd):
    no_model()
    assert cli("--model", thinker, "--tasks", BBH, *CHAT, "--engine", "enable_thinking=true") == 2
    assert "no room to think" in capfd.readouterr().err


def texts(model, folder, prompts=("red cat",), sampling=None, **changes):
    settings = Settings(dtype="float32", device="cpu", batch_size="2", chat_template=True, **changes)
    plan = plan_generation(resolve(str(model)), prompts, sampling or Sampling(max_new_tokens=8), settings)
    counts, store = {}, AnswerStore(folder / "s.sqlite")
    samples = generate(plan, store, counts)
    store.close()
    return plan, samples, counts


def test_generation_passes_the_switch_and_strips(thinker, tmp_path, says):
    says(thinker, "<think>a</think> b")
    plan, samples, _ = texts(thinker, tmp_path)
    assert plan.draws[0][3].text.endswith("<|assistant|>")
    assert samples[0].text == "b"
    plan, _, _ = texts(thinker, tmp_path, engine={"enable_thinking": False})
    assert plan.draws[0][3].text.endswith("<|assistant|><think>\n\n</think>\n\n")
    plan, samples, _ = texts(
        thinker, tmp_path, engine={"chat_template_args": {"depth": 2}}, strip_thinking="no"
    )
    assert plan.draws[0][3].text.endswith("<|assistant|>2")
    assert samples[0].text == "<think>a</think> b"


def test_a_stop_string_counts_in_the_answer_alone(thinker, tmp_path, says):
    says(thinker, "<think>a, b</think> c, d")
    assert texts(thinker, tmp_path, sampling=Sampling(max_new_tokens=8, stop=(",",)))[1][0].text == "c"


def test_unfinished_reasoning_is_a_failed_text_that_is_asked_for_again(thinker, tmp_path, says):
    says(thinker, "<think>a")
    _, samples, counts = texts(thinker, tmp_path)
    assert (samples[0].text, samples[0].finish) == ("", "failed")
    assert counts == {"reused": 0, "computed": 1, "failed": 1}
    says(thinker, "<think>a</think> b")
    _, samples, counts = texts(thinker, tmp_path)
    assert (samples[0].text, counts) == ("b", {"reused": 0, "computed": 1})


def test_marks_that_are_special_tokens_survive_decoding(model_a, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(make(model_a, tmp_path / "m", TEMPLATE, special=True))
    ids = tokenizer("<think>red</think> cat</s>", add_special_tokens=False).input_ids
    assert decode(tokenizer, ids, frozenset()) == "red cat"
    assert decode(tokenizer, ids, marks_of(tokenizer, Thinking(True))) == "<think>red</think> cat"


def test_vllm_gets_what_lm_evals_engine_passes():
    """It always names enable_thinking, and ignores it in chat_template_args, where it is refused."""
    arguments = lambda **engine: template_arguments(Settings(engine=engine), "vllm")  # noqa: E731
    assert arguments() == {"enable_thinking": None}
    assert arguments(enable_thinking=False, chat_template_args={"d": 1}) == {"enable_thinking": False, "d": 1}
    with pytest.raises(UserError, match="ignores"):
        arguments(chat_template_args={"enable_thinking": False})


@pytest.mark.parametrize("option", ["enable_thinking=false", "chat_template_args={depth: 2}"])
def test_a_switch_without_a_template_is_refused(cli, thinker, no_model, capfd, option):
    """It would be recorded and change nothing."""
    no_model()
    assert cli("--model", thinker, "--tasks", "ifeval", "--engine", option) == 2
    assert "--chat-template" in capfd.readouterr().err


def test_what_is_stripped_and_what_is_not_never_share_an_answer(cli, thinker, says, tmp_path):
    says(thinker, "<think>a</think> b")
    args = ["--model", thinker, "--tasks", "ifeval", *CHAT]
    raw = "<think>a</think> b"
    for strip, text in (("auto", "b"), ("no", raw), ("yes", "b"), ("no", raw)):
        assert cli(*args, "--strip-thinking", strip, out=tmp_path / "out") == 0
        assert {i.outputs[0] for i in read_items(tmp_path / "out")} == {text}
        shutil.rmtree(tmp_path / "out")
