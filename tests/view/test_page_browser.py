"""The page in a real browser: drawn, switched, hovered, searched, walked by keyboard, large, hostile.

Chromium is Debian's own; without it or without Playwright these tests are skipped.
"""

from __future__ import annotations

import time
import xml.etree.ElementTree as ElementTree

import made_records
import made_runs
import pytest

from sparsepo_plugin import cli
from sparsepo_plugin.run_folder import tokens as record

CHROMIUM = "/usr/bin/chromium"
TOKENS = ".tokens > span"


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make install")
    with api.sync_playwright() as running:
        try:
            found = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except api.Error as error:
            if "executable doesn't exist" not in str(error):
                raise
            pytest.skip(f"no {CHROMIUM}: apt-get install chromium")
        yield found
        found.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """Write a record, make its page, open it from disk; nothing may go wrong or be fetched meanwhile."""
    problems = []
    contexts = []

    def opened(rows=None, argv=(), width=1200, **options):
        if rows is not None:
            argv = ["view", str(made_records.write(tmp_path / "tokens.jsonl", rows))]
        assert cli.main([*map(str, argv), "-o", str(tmp_path / "page.html")]) == 0
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text))
        page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
        page.on(
            "request",
            lambda request: request.url.startswith(("file:", "data:")) or problems.append(request.url),
        )
        page.goto(f"file://{tmp_path / 'page.html'}")
        page.wait_for_selector(TOKENS if argv[0] == "view" else "[data-ready]")
        return page

    opened.problems = problems
    yield opened
    for context in contexts:
        context.close()
    assert problems == []


def wait_for_count(page, selector, count):
    # Not wait_for_function: the page's content security policy refuses to evaluate text.
    expect = pytest.importorskip("playwright.sync_api").expect
    expect(page.locator(selector)).to_have_count(count, timeout=20_000)


def classes(page, side=0):
    tokens = page.locator(".tokens").nth(side).locator("> span")
    return tokens.evaluate_all("all => all.map((token) => token.className)")


def test_every_token_is_coloured_and_another_layer_colours_it_anew(open_page):
    first = made_records.response(0, "chosen", made_records.random.Random(1), 4)
    first |= {
        "reward_mask": [0.0, 0.5, 1.0, 2.0],
        "kl_mask": [2.0, 0.0, 0.0, 2.0],
        "log_ratio": [-1.0, 1.0, 0.0, 0.5],
        "token_kl": [0.0, 0.4, 0.2, 0.1],
    }
    page = open_page([first, {**first, "side": "rejected"}])
    assert page.locator(".tokens").count() == 2
    assert page.is_checked("input[value=contribution]")
    assert classes(page) == ["d0", "p3", "d0", "p8"]
    want = {
        "reward_mask": ["zero", "s4", "s8", "s16"],
        "kl_mask": ["s16", "zero", "zero", "s16"],
        "log_ratio": ["n8", "p8", "d0", "p4"],
        "token_kl": ["zero", "s16", "s8", "s4"],
        "contribution": ["d0", "p3", "d0", "p8"],  # 0, 0.5, 0, 1 + 0.2 of 1.2
    }
    for layer, found in want.items():
        page.check(f"input[value={layer}]")
        assert classes(page) == found, layer
    assert "1.2 nats" in page.inner_text("#scale")
    assert "1.2 nats" in page.get_attribute("#scale", "aria-label")
    sums = page.locator("dl").first.inner_text().split("\n")
    assert sums[sums.index("sparsity of reward mask") + 1] == "25.0 %"
    assert sums[sums.index("of KL mask") + 1] == "50.0 %"
    assert sums[sums.index("weighted contribution") + 1] == "1.7"
    assert "margin 0" in page.inner_text("article h2")


def test_hover_and_keyboard_show_every_value(open_page):
    rows = made_records.rows(2)
    rows[0] |= {"log_ratio": [0.25] * 12, "token_kl": [0.125] * 12, "reward_mask": [2.0] * 12}
    rows[0]["kl_mask"] = [0.0] * 12
    page = open_page(rows)
    page.locator(TOKENS).nth(3).hover()
    tip = page.inner_text("#tip").replace("\t", " ")
    assert rows[0]["tokens"][3].strip() in tip
    lines = ("reward mask 2", "KL mask 0", "log-ratio +0.25 nats", "KL 0.125 nats", "contribution +0.5 nats")
    for line in lines:
        assert line in tip
    assert f"id {rows[0]['token_ids'][3]}" in tip
    page.keyboard.press("Escape")
    assert page.is_hidden("#tip")
    page.focus("#wrong")
    for key in ("Tab", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    assert "token 3," in page.inner_text("#tip")
    page.keyboard.press("End")
    assert "token 12," in page.inner_text("#tip")
    page.keyboard.press("Tab")  # the other response of the pair
    assert page.evaluate("document.activeElement.parentElement === document.querySelectorAll('.tokens')[1]")


def test_search_sort_and_the_vocabulary(open_page):
    rows = made_records.rows(6)
    rows[4]["prompt"] = rows[5]["prompt"] = "where is the NEEDLE?"
    for pair, (good, bad) in enumerate([(0, 0), (3, 1), (0, 5), (9, 1), (1, 1), (-1, 1)]):
        for row, score in zip(rows[2 * pair :], (good, bad)):
            row |= {"reward_mask": [1.0] * 12, "kl_mask": None, "log_ratio": [score / 12] * 12}
    rows[8]["reward_mask"] = [0.0] * 12
    rows[4] |= {"spaced": [0, 1], "tokens": ["alpha", "beta", *rows[4]["tokens"][2:]]}
    page = open_page(rows)

    def order():
        return [int(text.split()[1]) for text in page.locator("article h2").all_inner_texts()]

    page.fill("#search", "alpha beta")
    wait_for_count(page, "article", 1)
    page.fill("#search", "needle")
    wait_for_count(page, "article", 1)
    assert order() == [2]
    page.fill("#search", "")
    wait_for_count(page, "article", 6)
    for value, first in (("largest", [3, 1]), ("wrong", [2, 5]), ("sparse", [4, 0]), ("index", [0, 1])):
        page.select_option("#sort", value)
        assert order()[:2] == first, value
    page.check("#wrong")
    assert order() == [2, 4, 5]  # the zero mask takes the chosen score of pair 4 away
    assert page.is_disabled("input[value=kl_mask]")
    page.click("#show-words")
    page.fill("#search", "river")
    wait_for_count(page, "#words tbody tr", 1)
    cells = page.locator("#words tbody td").all_inner_texts()
    counted = sum(row["tokens"].count(" river") for row in rows)
    assert cells[:3] == [" river", "12", str(counted)]
    page.fill("#least", str(counted + 1))
    wait_for_count(page, "#words tbody tr", 0)
    page.fill("#search", "")
    page.fill("#least", "1")
    wait_for_count(page, "#words tbody tr", len({token for row in rows for token in row["tokens"]}))
    page.click("#words th:nth-child(3) button")
    counts = [int(text) for text in page.locator("#words tbody td:nth-child(3)").all_inner_texts()]
    assert counts == sorted(counts, reverse=True)


def test_markup_in_a_record_is_text(open_page):
    evil = "</script><script>alert('run')</script><img src=x onerror=alert(2)>\u2028@@DATA@@&lt;"
    rows = made_records.rows(1, 3)
    for row in rows:
        row |= {"prompt": evil, "tokens": [evil, "<b>bold</b>", "\u202eback"], "token_ids": [1, 2, 3]}
        row["joined"] = [[1, 3, "<script>alert(3)</script>"]]
    page = open_page(rows)
    shown = evil.replace("\u2028", "\u27e8U+2028\u27e9")
    assert page.inner_text(".prompt") == shown
    assert page.locator(TOKENS).nth(0).inner_text() == shown
    assert page.locator(TOKENS).nth(1).inner_text() == "<script>alert(3)</script>"
    assert page.locator("img, b:not(.bar b), main script").count() == 0
    page.locator(TOKENS).nth(1).hover()
    assert "part 1 of 2" in page.inner_text("#tip")
    page.click("#show-words")
    assert page.locator("#words tbody td:first-child").all_inner_texts().count("<b>bold</b>") == 1
    # Even a script that found its way into the page would not run.
    blocked = page.evaluate(
        "() => new Promise((done) => {"
        " document.addEventListener('securitypolicyviolation', () => done(!window.ran));"
        " const script = document.createElement('script');"
        " script.textContent = 'window.ran = 1'; document.body.append(script); })"
    )
    assert blocked
    assert all("Content Security Policy" in problem for problem in open_page.problems)
    open_page.problems.clear()


def test_five_hundred_pairs_stay_usable(open_page, record_property):
    started = time.monotonic()
    page = open_page(made_records.rows(500, 60))
    loaded = time.monotonic() - started
    record_property("seconds_to_build_and_load_500_pairs", round(loaded, 2))
    assert page.locator("article").count() == 500
    drawn = page.locator(".tokens").count()
    assert 0 < drawn < 60  # only what is near the window
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.locator("article:last-child .tokens").first.wait_for(state="attached")
    wait_for_count(page, "article:first-child .tokens", 0)
    page.check("input[value=token_kl]")
    assert page.locator("article:last-child .tokens").count() == 2
    page.evaluate("scrollTo(0, 0)")
    page.locator("article:first-child .tokens").first.wait_for(state="attached")
    assert page.locator(".tokens").count() < 100


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_follows_the_system_until_it_is_chosen(scheme, open_page):
    page = open_page(made_records.rows(1), color_scheme=scheme)
    colour = "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(255, 255, 255)", "rgb(16, 19, 23)"
    assert page.evaluate(colour) == {"light": light, "dark": dark}[scheme]
    page.click("#theme")
    assert page.evaluate(colour) == light
    page.focus("#theme")
    page.keyboard.press("Enter")
    assert page.evaluate(colour) == dark
    assert page.inner_text("#theme") == "theme: dark"


# ---------------------------------------------------------------- steps, runs, parts, pictures


@pytest.fixture
def runs(tmp_path):
    """Two runs with records after steps 0, 20 and 40, whose log-ratios grow with the steps."""
    folders = [
        made_runs.write(tmp_path / name, loss=loss) for name, loss in (("a", "sparsepo"), ("b", "dpo"))
    ]
    for folder in folders:
        for step in (0, 20, 40):
            rows = [
                {key: value for key, value in row.items() if key not in ("schema_version", "step")}
                for row in made_records.rows(3)
            ]
            for row in rows:
                row["log_ratio"] = [step / 40.0] * 12
                row["reward_mask"] = [0.5, 1.5] * 6 if folder.name == "a" else [1.0] * 12
                row["kl_mask"] = row["token_kl"] = None
                row["prompt"] = "word " * 200 + "and the question?"
            record.write(folder, step, rows)
    return folders


def test_the_slider_goes_through_the_recorded_steps(open_page, runs):
    page = open_page(argv=["view", runs[0]])
    assert page.inner_text("#at-step") == "40"
    assert set(classes(page)) == {"p3", "p8"}
    page.locator("#step").fill("0")
    assert page.inner_text("#at-step") == "0"
    assert set(classes(page)) == {"d0"}
    page.locator("#step").fill("1")
    assert set(classes(page)) == {"p1", "p4"}
    page.click("#show-words")
    column = page.locator("#words thead th").all_inner_texts().index("mean log-ratio") + 1
    assert page.inner_text(f"#words tbody tr:first-child td:nth-child({column})") == "0.5"
    assert page.locator("#overview tbody tr").count() == 3


def test_a_long_prompt_shows_its_end_until_it_is_opened(open_page, runs):
    page = open_page(argv=["view", runs[0]])
    prompt = page.locator("article details.prompt").first
    assert "and the question?" in prompt.locator("summary").inner_text()
    assert "prompt of 1,017 characters" in prompt.locator("summary").inner_text()
    assert not prompt.locator("p").is_visible()
    prompt.locator("summary").click()
    assert prompt.locator("p").inner_text().count("word") == 200


def test_a_mask_of_mean_1_is_coloured_from_1(open_page, runs):
    page = open_page(argv=["view", runs[0]])
    page.check("input[value=reward_mask]")
    assert classes(page) == ["n8", "p8"] * 6
    assert page.locator("#scale .bar b").all_inner_texts() == ["\u2264 0.5", "1", "\u2265 1.5"]


def test_below_1_the_colours_of_a_mask_reach_no_further_than_0(open_page):
    rows = made_records.rows(2, 4)
    for row in rows:
        row |= {"reward_mask": [0.0, 0.5, 0.5, 3.0], "kl_mask": None}
    page = open_page(rows)
    page.check("input[value=reward_mask]")
    assert classes(page) == ["zero", "n4", "n4", "p8"]
    assert page.locator("#scale .bar b").all_inner_texts() == ["\u2264 0", "1", "\u2265 3"]


def test_a_card_is_saved_as_a_drawing_of_its_own(open_page, runs):
    page = open_page(argv=["view", runs[0]])
    with page.expect_download() as saved:
        page.locator("article .save").first.click()
    assert saved.value.suggested_filename == "pair-0.svg"
    drawing = ElementTree.parse(saved.value.path()).getroot()
    name = "{http://www.w3.org/2000/svg}"
    colours = {node.get("fill") for node in drawing.iter(f"{name}rect")}
    assert len(colours) >= 3  # the card and both kinds of token
    text = "".join(node.text for node in drawing.iter(f"{name}text"))
    assert "pair 0" in text
    for word in ("chosen", "rejected", "<eos>"):
        assert word in text
    right = max(float(node.get("x")) + float(node.get("width")) for node in drawing.iter(f"{name}rect"))
    assert right <= float(drawing.get("width")) + 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [420, 1000, 1600])
def test_a_report_of_two_runs_fits_every_window_and_fetches_nothing(width, scheme, open_page, runs):
    page = open_page(argv=["report", *runs], width=width, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("section h2.part").all_inner_texts() == [
        *("Summary", "Configuration", "Curves", "Masks", "Tokens"),
    ]
    marked = page.locator("#configuration .marked").all_inner_texts()
    assert [text.split("\t") for text in marked] == [["loss", "sparsepo", "dpo"]]
    page.locator("article").first.scroll_into_view_if_needed()
    page.wait_for_selector(TOKENS)
    assert page.locator("article h3").all_inner_texts()[:4] == [
        *("chosen, a", "rejected, a", "chosen, b", "rejected, b"),
    ]
    page.locator("#curves img").nth(1).scroll_into_view_if_needed()
    sizes = "all => all.slice(0, 2).map((image) => [image.complete, image.naturalWidth > 0])"
    page.wait_for_timeout(300)
    assert page.locator("#curves img").evaluate_all(sizes)[1] == [True, True]
    page.click("#curves summary")
    page.wait_for_selector("#curves details table")
    assert "t test" in page.inner_text("#curves details")


def test_a_report_without_records_says_so_and_has_no_tokens(open_page, tmp_path):
    page = open_page(argv=["report", made_runs.write(tmp_path / "bare", steps=1)], width=420)
    assert not page.is_visible("#tokens")
    assert "--LOSS.record N" in page.inner_text("#summary")


def test_configurations_are_readable_on_a_small_window(open_page, tmp_path):
    paths = {"dataset": "/home/somebody/preferences/train-00000-of-00001.jsonl", "prompt_key": "prompt"}
    modules = {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "one_long_word": "w" * 23}
    shared = {"data": paths, "lora": modules, "ref": {"model_name_or_path": "/home/somebody/models/a-model"}}
    runs = [made_runs.write(tmp_path / f"a-run-with-beta-{beta}", beta=beta, **shared) for beta in (0.1, 2)]
    for given in (runs[:1], runs):
        page = open_page(argv=["report", *given], width=420)
        for fold in page.locator("#configuration > details").all():
            fold.locator("summary").first.click()
            fold.locator(".scroll").first.wait_for()  # what it holds is made a moment after the click
        boxes = page.locator("#configuration .scroll")
        assert boxes.count() >= 2
        # Nothing lies beyond its box's edge, where a screenshot or a print loses it.
        assert boxes.evaluate_all("all => all.filter((box) => box.scrollWidth > box.clientWidth).length") == 0
        shown = page.inner_text("#configuration")
        assert paths["dataset"] in shown
        assert "lora.target_modules" in shown
