"""Scorers that need no model: against the libraries, and by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import eval_harness.faithfulness.scorers  # noqa: F401 - registers them
from eval_harness.errors import UserError
from eval_harness.faithfulness.examples import Device, Example, checked_cases
from eval_harness.faithfulness.registry import (
    ScorerSpec,
    build_scorer,
    digest,
    register_scorer,
    scorer_class,
    scorer_names,
)
from eval_harness.faithfulness.text.words import is_caseless, names, numbers, words

TEXTS = [
    ("The cat sat on the mat. It slept.", "A cat sat on a mat. It was sleeping."),
    ("Police arrested two men in Leeds on Monday.", "Two men were arrested by police."),
    ("", "Nothing was said."),
]


def built(name, **options):
    return build_scorer(ScorerSpec(name, options), Device("cpu"))


def test_rouge_equals_the_library():
    from rouge_score.rouge_scorer import RougeScorer

    library = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)
    graded = built("rouge").score([Example("d", (s,), r) for s, r in TEXTS])
    for (summary, reference), own in zip(TEXTS, graded):
        # One sentence a line, which only ROUGE-Lsum looks at.
        lines = ["\n".join(t.replace(". ", ".\n").split("\n")) for t in (reference, summary)]
        expected = library.score(*lines)
        for name in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
            assert own.values[name] == (expected[name].fmeasure,)
    assert graded[0].values["rougeL"] != graded[0].values["rougeLsum"] or graded[1].values["rouge1"][0] > 0
    precision = built("rouge", against="document", measure="precision", stem=False)
    assert precision.score([Example("a b c d", ("a b x",))])[0].values["rouge1"] == (pytest.approx(2 / 3),)


HINDI = "मुंबई में भारी बारिश के कारण उड़ानें रद्द हुईं।"
SAME = {
    "Hindi": HINDI,
    "Russian": "Из-за снега в Москве отменили десятки рейсов.",
    "Greek": "Λόγω χιονιού ακυρώθηκαν δεκάδες πτήσεις.",
    "Arabic": "ألغيت الرحلات بسبب الثلوج.",
    "Japanese": "東京で大雨のため数百便が欠航となった。",
    "Thai": "เที่ยวบินถูกยกเลิกเพราะฝนตกหนัก",
    "Korean": "폭설로 인해 오늘 아침 서울에서 출발하는 항공편이 모두 취소되었다.",
}


@pytest.mark.parametrize("script", SAME)
def test_rouge_reads_every_script_or_refuses_it_with_the_remedy(script):
    text = SAME[script]
    case = Example("d", (text, text[: len(text) // 2]), text)
    with pytest.raises(UserError, match=r"--scorer-option rouge.tokenizer=unicode"):
        checked_cases(built("rouge"), [case])
    with pytest.raises(UserError, match="letters a to z only"):
        built("rouge").score([case])
    graded = built("rouge", tokenizer="unicode").score([case])[0]
    assert all(values[0] == 1.0 and 0 < values[1] < 1 for values in graded.values.values())


def test_rouge_gives_an_answer_in_another_script_nothing_and_takes_accents_and_names():
    english = Example("d", (HINDI, "...", ""), "The flights were cancelled.")
    for tokenizer in ("ascii", "unicode"):
        assert built("rouge", tokenizer=tokenizer).score([english])[0].values["rouge1"] == (0.0, 0.0, 0.0)
    built("rouge").score([Example("d", ("x",), "Le café fermé de Москва est à côté de l'église.")])


@given(st.text(alphabet=st.characters(max_codepoint=127), max_size=80))
def test_in_ascii_both_tokenizers_of_rouge_are_one(text):
    case = Example("d", (text,), "The cats' runners_up of 1,200 don't stop-start cancelled flights.")
    for stem in (True, False):
        one, two = (built("rouge", tokenizer=t, stem=stem).score([case])[0] for t in ("ascii", "unicode"))
        assert one == two


@pytest.mark.parametrize("script", SAME)
def test_scorers_by_rule_find_a_text_in_itself_in_every_script(script):
    text = SAME[script]
    case = Example(text, (text,) * 2)
    for name, expected in (("entity-overlap", 1.0), ("number-overlap", 1.0), ("content", 1.0)):
        assert set(*built(name).score([case])[0].values.values()) == {expected}
    assert set(built("novel-ngrams").score([case])[0].values["novel_1grams"]) == {0.0}
    half = Example(text, (text[: len(text) // 2],))
    assert built("content", enough=100).score([half])[0].values["content"][0] < 1


def test_words_keep_the_marks_of_their_letters_and_scripts_without_spaces_fall_into_signs():
    assert words(HINDI)[:3] == ["मुंबई", "में", "भारी"]
    assert words("東京で2,5 crêpes") == ["東", "京", "で", "2,5", "crêpes"]
    assert words("cafe\u0301 Ελλάς") == ["cafe\u0301", "ελλάς"]


def test_self_bleu_refuses_a_script_that_its_tokenizer_cannot_split():
    texts = ("東京で大雨のため欠航。", "東京で大雪のため欠航。")
    with pytest.raises(UserError, match=r"--scorer-option self-bleu.tokenizer=char"):
        checked_cases(built("self-bleu"), [Example(SAME["Japanese"], texts)])
    for tokenizer in ("char", "zh"):
        graded = built("self-bleu", tokenizer=tokenizer).score([Example(SAME["Japanese"], texts)])
        assert 0.5 < graded[0].values["self_bleu"][0] < 1
    checked_cases(built("self-bleu"), [Example(HINDI, (HINDI, HINDI))])


def test_self_bleu_equals_the_library():
    from sacrebleu.metrics import BLEU

    samples = ("the cat sat on the mat today", "the cat sat on a mat", "a dog ran home", "")
    found = built("self-bleu").score([Example("d", samples)])[0].values["self_bleu"]
    bleu = BLEU(effective_order=True)
    own = [
        bleu.sentence_score(s, [t for j, t in enumerate(samples) if j != i]).score
        for i, s in enumerate(samples)
    ]
    assert found == (pytest.approx(sum(own) / 4 / 100, abs=1e-12),)
    assert built("self-bleu").score([Example("d", ("one two three four five",) * 2)])[0].values[
        "self_bleu"
    ] == (1.0,)


DOCUMENT = "In Paris, Anna Smith told Reuters that 1,200 people and three dogs left on 5 May. "
DOCUMENT += "It cost 2.5 million pounds."


@pytest.mark.parametrize(
    ("summary", "expected"),
    [
        ("Anna Smith said people left Paris.", 1.0),
        ("They say Boris Smith left Paris.", 1 / 2),
        ("People left.", 1.0),
        ("People say I\u2019m late, and I'll stay, They\u2019ve left.", 1.0),  # pronouns are no names
        ("", 0.0),
        ("anna smith left paris with people", 1.0),  # small letters only: every word must be there
        ("anna smith left rome", 3 / 4),
    ],
)
def test_entity_overlap_by_hand(summary, expected):
    graded = built("entity-overlap").score([Example(DOCUMENT, (summary,))])[0]
    assert graded.values["entity_overlap"] == (pytest.approx(expected),)
    assert bool(graded.evidence[0]) == (0 < expected < 1)


def test_evidence_names_the_sentence_and_the_nearest_one_of_the_document():
    summary = "Anna Smith spoke. The cost in Rome was 9 million pounds."
    graded = built("number-overlap").score([Example(DOCUMENT, (summary,))])[0]
    (found,) = graded.evidence[0]
    assert found == ("It cost 2.5 million pounds.", "The cost in Rome was 9 million pounds.", 0.0)


@pytest.mark.parametrize(
    ("summary", "expected"),
    [
        ("About 1200 people and 3 dogs left on May 5.", 1.0),
        ("About 1,300 people and three dogs left.", 0.5),
        ("It cost 2.5m pounds, or 2,500,000.", 1.0),
        ("It cost two million.", 0.0),
        ("No number here, not even one for people.", 1.0),
        ("No number here, not even one.", 0.0),  # nothing of the document either
        ("", 0.0),
    ],
)
def test_number_overlap_by_hand(summary, expected):
    assert built("number-overlap").score([Example(DOCUMENT, (summary,))])[0].values["number_overlap"] == (
        expected,
    )


def test_numbers_and_case():
    assert numbers("twenty-one of 1,000.5 or 3 billion, 1.2.3 and 10k") == [21, 1000.5, 3e9, 123, 10000]
    assert [numbers(text) for text in ("", "?!", "...", "7")] == [[], [], [], [7]]
    assert is_caseless(["the u.s. left."], "The U.S. left.")
    assert is_caseless(["He met barack obama."], "He met Barack Obama.")
    assert not is_caseless(["A man left."], "A man met Barack Obama.")
    assert names(["Boris York is big.", "He met Anna Smith in York."], caseless=False) == [
        ["boris york"],
        ["anna smith", "york"],
    ]
    assert words("Anna's well-known dog") == ["anna", "well-known", "dog"]


def test_novel_ngrams_by_hand():
    graded = built("novel-ngrams").score([Example("a b c d e", ("a b x d e", "a b c d", "z", ""))])[0]
    assert graded.values["novel_1grams"] == (1 / 5, 0.0, 1.0, 0.0)
    assert graded.values["novel_2grams"] == (2 / 4, 0.0, 0.0, 0.0)
    assert graded.values["novel_4grams"] == (1.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("name", scorer_names())
def test_every_scorer_describes_itself(name):
    cls = scorer_class(name)
    assert cls.__doc__.splitlines()[0].endswith(".")
    assert cls.metrics
    assert len({metric.name for metric in cls.metrics}) == len(cls.metrics)
    options = {name: field.default for name, field in cls.model_fields.items() if name != "run_on"}
    assert all(type(default) in (str, int, float, bool) for default in options.values())
    assert cls.paths <= set(options)
    assert cls.__module__.rsplit(".", 1)[1].replace("_", "-") == name


def test_a_scorer_is_one_file_and_a_name_is_taken_once():
    with pytest.raises(ValueError, match="already"):
        register_scorer("rouge")(type("Other", (scorer_class("rouge"),), {}))


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("rogue", {}, "did you mean rouge"),
        ("rouge", {"messure": "recall"}, "did you mean measure"),
        ("rouge", {"stem": "yes"}, "true or false"),
        ("rouge", {"measure": "f2"}, "fmeasure or precision or recall"),
        ("minicheck", {"chunk": True}, "an integer"),
        ("entity-overlap", {"stem": True}, "one of none"),
    ],
)
def test_mistakes_are_named(name, options, text):
    with pytest.raises(UserError, match=text):
        built(name, **options).check()


@pytest.mark.parametrize(
    ("name", "case", "text"),
    [
        ("rouge", Example(" \n", ("a",), "r", "row 7"), "row 7: the document is empty"),
        ("rouge", Example("d", ("a",)), "needs a reference"),
        ("self-bleu", Example("d", ("a",)), "at least 2"),
        ("edna", Example("d", ("a",)), "at least 2"),
    ],
)
def test_cases_that_cannot_be_scored(name, case, text):
    with pytest.raises(UserError, match=text):
        checked_cases(built(name), [case])


def test_the_digest_knows_options_and_not_places(tmp_path):
    assert digest(built("rouge")) == digest(built("rouge"))
    assert digest(built("rouge")) != digest(built("rouge", stem=False))
    assert digest(built("entity-overlap")) != digest(built("number-overlap"))
