"""The generation layer: what is sampled, that a batch changes nothing, that a kill repeats nothing."""

import json
import random
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import asdict

import pytest

from eval_harness.errors import UserError
from eval_harness.models.answer_store import AnswerStore
from eval_harness.models.generation import Sampling, generate, plan_generation
from eval_harness.models.generation.types import cut, draw_seed
from eval_harness.models.reference import resolve
from eval_harness.models.settings import Settings

from . import tiny
from .judge_server import Judge

SETTINGS = Settings(dtype="float32", device="cpu", batch_size="4")
PROMPTS = [tiny.sentence(random.Random(i), 3 + 2 * i) for i in range(5)]
PAPER = Sampling(temperatures=(0.0, 0.5, 1.0), samples=2, top_p=0.5, max_new_tokens=12, seed=7)


def run(model, tmp_path, prompts=PROMPTS, sampling=PAPER, settings=SETTINGS, name="answers.sqlite"):
    counts = {}
    store = AnswerStore(tmp_path / name)
    samples = generate(plan_generation(resolve(str(model)), prompts, sampling, settings), store, counts)
    store.close()
    return samples, counts


def test_samples_come_by_prompt_temperature_and_number(model_a, tmp_path):
    samples, counts = run(model_a, tmp_path)
    expected = [(p, t, i) for p in range(5) for t in (0.0, 0.5, 1.0) for i in range(2)]
    assert [(s.prompt, s.temperature, s.number) for s in samples] == expected
    assert counts == {"reused": 0, "computed": 5 * (1 + 2 + 2)}  # at temperature 0 one text serves both
    assert all(s.finish == "stop" or s.tokens == 12 for s in samples)
    cold = [s.text for s in samples if s.temperature == 0.0]
    assert cold[::2] == cold[1::2]
    hot = [s.text for s in samples if s.temperature == 1.0]
    assert sum(a != b for a, b in zip(hot[::2], hot[1::2], strict=True)) >= 4


def test_a_sample_does_not_depend_on_its_batch(model_a, tmp_path):
    together, _ = run(model_a, tmp_path)
    sizes = {"1": {}, "3": {}, "30": {}}
    for size in sizes:
        settings = Settings(dtype="float32", device="cpu", batch_size=size)
        got, _ = run(model_a, tmp_path, PROMPTS[::-1], settings=settings, name=f"{size}.sqlite")
        assert [s.text for s in together] == [
            s.text for place in range(5) for s in got if s.prompt == 4 - place
        ]


def test_temperature_zero_is_transformers_greedy_search(model_a, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    samples, _ = run(model_a, tmp_path, sampling=Sampling(max_new_tokens=12))
    model, tok = AutoModelForCausalLM.from_pretrained(model_a), AutoTokenizer.from_pretrained(model_a)
    for prompt, sample in zip(PROMPTS, samples, strict=True):
        ids = tok(prompt, return_tensors="pt")
        with torch.no_grad():
            out = model.generate(**ids, max_new_tokens=12, do_sample=False)
        assert tok.decode(out[0, ids.input_ids.shape[1] :], skip_special_tokens=True) == sample.text


def test_first_tokens_follow_the_nucleus_of_the_model(model_a, tmp_path):
    """2,000 one-token samples against the exact probabilities, by a chi-squared test."""
    import torch
    from scipy import stats
    from transformers import AutoModelForCausalLM, AutoTokenizer

    sampling = Sampling((3.0,), samples=2000, top_p=0.8, max_new_tokens=1, seed=3)
    settings = Settings(dtype="float32", device="cpu", batch_size="250")
    samples, _ = run(model_a, tmp_path, PROMPTS[:1], sampling, settings)
    model, tok = AutoModelForCausalLM.from_pretrained(model_a), AutoTokenizer.from_pretrained(model_a)
    with torch.no_grad():
        logits = model(**tok(PROMPTS[0], return_tensors="pt")).logits[0, -1]
    chances = sorted(
        ((p, i) for i, p in enumerate((logits.double() / 3.0).softmax(-1).tolist())), reverse=True
    )
    kept, total = [], 0.0
    while total < 0.8:  # by hand: the smallest set that reaches the mass
        kept.append(chances[len(kept)])
        total += kept[-1][0]
    expected = Counter()
    for chance, token in kept:
        expected[tok.decode([token], skip_special_tokens=True)] += 2000 * chance / total
    seen = Counter(s.text for s in samples)
    assert set(seen) <= set(expected)
    large = [text for text, n in expected.items() if n >= 5]
    rest = 2000 - sum(expected[t] for t in large)
    observed, wanted = [seen[t] for t in large], [expected[t] for t in large]
    if rest > 1e-6:
        observed, wanted = [*observed, 2000 - sum(observed)], [*wanted, rest]
    assert len(observed) > 3
    assert stats.chisquare(observed, wanted).pvalue > 0.001


def test_the_model_folders_own_defaults_do_not_bend_the_sampling(tmp_path):
    plain = tiny.make_model(tmp_path / "plain", seed=0)
    bent = tiny.make_model(tmp_path / "bent", seed=0)
    defaults = json.loads((bent / "generation_config.json").read_text())
    defaults |= {"do_sample": True, "repetition_penalty": 3.0, "temperature": 0.1, "top_k": 2}
    (bent / "generation_config.json").write_text(json.dumps(defaults))
    got = [run(model, tmp_path, name=f"{model.name}.sqlite")[0] for model in (plain, bent)]
    assert got[0] == got[1]


def test_a_stop_string_ends_the_text_before_it(model_a, tmp_path):
    plain, _ = run(model_a, tmp_path, sampling=Sampling(max_new_tokens=24))
    mark = plain[0].text[6:9]
    stopped, _ = run(model_a, tmp_path, sampling=Sampling(max_new_tokens=24, stop=(mark,)))
    for before, after in zip(plain, stopped, strict=True):
        assert after.text == cut(before.text, (mark,))[0]
    assert stopped[0].finish == "stop"
    assert stopped[0].tokens < 24


def test_two_models_two_seeds_and_two_settings_share_no_text(model_a, model_b, tmp_path):
    first, _ = run(model_a, tmp_path)
    for change in ("model", "seed", "top_p", "dtype"):
        model = model_b if change == "model" else model_a
        sampling = {"seed": Sampling(PAPER.temperatures, 2, 0.5, 12, seed=8)}.get(change, PAPER)
        sampling = Sampling(PAPER.temperatures, 2, 0.9, 12, seed=7) if change == "top_p" else sampling
        settings = Settings(
            dtype="bfloat16" if change == "dtype" else "float32", device="cpu", batch_size="4"
        )
        got, counts = run(model, tmp_path, sampling=sampling, settings=settings)
        # What no chance decides is shared between seeds, nothing else is.
        assert counts["reused"] == (5 if change in ("seed", "top_p") else 0), change
        assert got != first
    again, counts = run(model_a, tmp_path)
    assert (again, counts) == (first, {"reused": 25, "computed": 0})


def test_chat_template_and_messages(model_a, tmp_path):
    chat = Settings(dtype="float32", device="cpu", batch_size="4", chat_template=True)
    greedy = Sampling(max_new_tokens=8)
    as_text, _ = run(model_a, tmp_path, ["red cat"], greedy, chat)
    messages = [[{"role": "user", "content": "red cat"}]]
    as_messages, counts = run(model_a, tmp_path, messages, greedy, chat)
    assert as_messages == as_text
    assert counts["reused"] == 1
    rendered, _ = run(model_a, tmp_path, ["<|user|>red cat\n<|assistant|>"], greedy)
    assert rendered[0].text == as_text[0].text
    with pytest.raises(UserError, match="--chat-template"):
        run(model_a, tmp_path, messages, greedy)


def test_a_template_brings_its_own_special_tokens_once(model_a, tmp_path):
    """With a tokenizer that begins every text with <s>, and a template that writes it: one <s>, not two."""
    import shutil

    from tokenizers import processors
    from transformers import AutoTokenizer

    folder = shutil.copytree(model_a, tmp_path / "model")
    tok = AutoTokenizer.from_pretrained(folder)
    first = [("<s>", tok.bos_token_id)]
    tok.backend_tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", first)
    tok.chat_template = "<s>" + tok.chat_template
    tok.save_pretrained(folder)
    tok = AutoTokenizer.from_pretrained(folder)
    assert tok("red cat").input_ids[0] == tok.bos_token_id  # the tokenizer adds it by itself

    def ids(**more):
        settings = Settings(dtype="float32", device="cpu", batch_size="4", **more)
        plan = plan_generation(resolve(str(folder)), ["red cat"], Sampling(), settings)
        return plan.draws[0][-1].ids

    messages = [{"role": "user", "content": "red cat"}]
    chat = tok.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert chat.count(tok.bos_token_id) == 1
    assert ids(chat_template=True) == chat
    assert ids() == tok("red cat").input_ids
    assert ids().count(tok.bos_token_id) == 1


KILLED = """
import json, os, pathlib, signal, sys
from eval_harness.models.reference import resolve
from eval_harness.models.generation import Sampling, generate, plan_generation
from eval_harness.models.generation import hf
from eval_harness.models.settings import Settings
from eval_harness.models.answer_store import AnswerStore
plain, calls = hf.HFGenerator.write, []
def write(self, draws):
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    calls.append(1)
    return plain(self, draws)
hf.HFGenerator.write = write
model, store, prompts, sampling, settings = sys.argv[1:]
sampling = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(sampling).items()}
plan = plan_generation(
    resolve(model), json.loads(prompts), Sampling(**sampling), Settings(**json.loads(settings))
)
generate(plan, AnswerStore(pathlib.Path(store)))
"""


def test_a_killed_run_repeats_nothing_and_gives_the_same(model_a, tmp_path):
    whole, _ = run(model_a, tmp_path, name="whole.sqlite")
    asked = [json.dumps(x) for x in (PROMPTS, asdict(PAPER), asdict(SETTINGS))]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(model_a), str(tmp_path / "killed.sqlite"), *asked],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    resumed, counts = run(model_a, tmp_path, name="killed.sqlite")
    assert counts == {"reused": 12, "computed": 13}
    assert resumed == whole


def test_an_endpoint_is_asked_with_seeds_and_resumes(tmp_path):
    with Judge(None, text="an answer") as server:
        ref = resolve(server.url, model_id="m")
        settings = Settings(endpoint="chat", concurrency=2, engine={"retries": 0, "backoff": 0.0})
        sampling = Sampling((0.5,), top_p=0.5, max_new_tokens=9, stop=("x",), seed=1)
        plan = plan_generation(ref, [f"prompt {n}" for n in range(12)], sampling, settings)
        server.plan = lambda number: ("500",) if number == 9 else ()
        store, counts = AnswerStore(tmp_path / "e.sqlite"), {}
        with pytest.raises(UserError, match="finished batches are kept"):
            generate(plan, store)
        assert len(store) == 8
        samples = generate(plan, store, counts)
        assert counts == {"reused": 8, "computed": 4}
        assert {s.text for s in samples} == {"an answer"}
        assert len({body["seed"] for body in server.bodies}) == 12
        assert {(b["temperature"], b["top_p"], b["max_tokens"]) for b in server.bodies} == {(0.5, 0.5, 9)}


def test_bad_input_is_one_line(model_a, tmp_path):
    for sampling, message in (
        (Sampling((-1.0,)), "temperatures"),
        (Sampling((0.5, 0.5)), "distinct"),
        (Sampling(top_p=0.0), "top_p"),
        (Sampling(samples=0), "samples"),
        (Sampling(stop=("",)), "stop strings"),
        (Sampling(max_new_tokens=20000), "no room"),
        (Sampling(max_new_tokens=16380), "does not fit"),
    ):
        with pytest.raises(UserError, match=message):
            run(model_a, tmp_path, [tiny.sentence(random.Random(0), 90)], sampling)
    with pytest.raises(UserError, match="an integer"):
        run(model_a, tmp_path, settings=Settings(device="cpu", batch_size="auto"))


def test_seeds_are_functions_of_their_four_parts():
    seeds = {draw_seed(s, p, t, i) for s in (0, 1) for p in "ab" for t in (0.5, 1.0) for i in (0, 1)}
    assert len(seeds) == 16
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert draw_seed(0, "a", 0.5, 1) == draw_seed(0, "a", 0.5, 1)
