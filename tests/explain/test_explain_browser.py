"""The page of minigam.explain in a real browser, headless Chromium: what it shows, what its controls do."""

import json
import re
from pathlib import Path

import pytest
from helpers import tiny
from helpers.pages import HOSTILE, data_of, tiny_page, write

from minigam.data import oracle
from minigam.explain import page as explain
from minigam.training.run import Run

pytest.importorskip("selenium.webdriver", reason="needs selenium (the group `browser`)")
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from helpers.looking import (  # isort: skip
    CONTRAST, NAMELESS, UNCOVERED, assert_percent, buttons, choices, choose, current, current_token, having,
    look, number, radio, rows_of, slots_shown, text, texts,
)  # fmt: skip


@pytest.fixture(scope="module")
def story(stories, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "story.html"
    write(stories, path)
    return path


@pytest.fixture(scope="module")
def recall_story(recalling, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "recall.html"
    write(recalling, path)
    return path


@pytest.fixture
def opened(browser, story, stories):
    """The page of a story, just opened at 1100 x 800 pixels in light mode, and what it has to show."""
    return just_opened(browser, story, stories)


@pytest.fixture
def recalled(browser, recall_story, recalling):
    """The same of a written memory."""
    return just_opened(browser, recall_story, recalling)


@pytest.fixture
def compared(browser, duel, stories):
    """The same of a GAM with a Transformer next to it."""
    return just_opened(browser, duel, stories)


def just_opened(browser, page: Path, run: Path):
    look(browser)
    browser.get(page.as_uri())
    return browser, Wanted(data_of(page.read_text(encoding="utf-8")), run)


class Wanted:
    """What a page has to show, computed in Python: the model's reading, and what the generator knows."""

    def __init__(self, data: dict, run: Path):
        text, self.names = data["text"], data["names"]
        self.words = [self.names[str(i)] for i in text["ids"]]
        self.beyond, self.slot_words = data["recall_beyond"], data["words"]
        computed = explain.reading(Run(run).load_model(), text["ids"], text["after"])
        self.views, self.next, self.costs = computed["views"], computed["next"], [None, *computed["costs"]]
        self.known = oracle.read([*self.words, self.names[str(text["after"])]])


def test_it_opens_without_an_error_and_requests_nothing_else(browser, story):
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(story.as_uri())
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert urls == [story.as_uri()]
    assert len(buttons(browser)) > 50


def test_the_policy_blocks_other_resources(opened):
    browser, _ = opened
    answer = browser.execute_async_script(
        "const [done] = arguments; fetch('data:,x').then(() => done('loaded'), () => done('refused'))"
    )
    assert answer == "refused"
    browser.get_log("browser")  # clears the log, where Chromium reports it


def test_pointing_at_a_token_shows_its_slots_and_its_receptive_field(opened):
    browser, wanted = opened
    for t in (12, 40):
        ActionChains(browser).move_to_element(buttons(browser)[t]).perform()
        assert text(browser, "#token") == wanted.words[t]
        slots = [slot for slot, _ in wanted.views[t][-1]["slots"]]
        assert slots_shown(browser) == [str(slot) for slot in slots]
        assert texts(browser, "#memory .words") == [", ".join(wanted.slot_words[-1][s]) for s in slots]
        assert having(browser, "seen") == list(range(t - 4, t + 1))
        assert "Receptive field: 5 tokens" in text(browser, "#said")


def test_what_comes_next_is_there_with_the_generators_probability(opened):
    browser, wanted = opened
    t = next(i for i, known in enumerate(wanted.known) if len(known.follows) > 5)
    ActionChains(browser).move_to_element(buttons(browser)[t]).perform()
    rows = [row.split("|") for row in rows_of(browser, "#next")]
    assert [word.removeprefix("\u25b8 ") for word, *_ in rows] == [
        wanted.names[str(i)] for i, _ in wanted.next[t]
    ]
    following, known = wanted.words[t + 1], wanted.known[t + 1]
    assert [word for word, *_ in rows if word.startswith("\u25b8")] == [f"\u25b8 {following}"]
    for (word, ours, exact), (_, p) in zip(rows, wanted.next[t], strict=True):
        assert_percent(ours, p)
        assert_percent(exact, wanted.known[t].follows.get(word.removeprefix("\u25b8 "), 0.0))
    note = text(browser, "#next .note")
    assert f"can write {len(wanted.known[t].follows)} different words" in note
    assert f"costs the model {wanted.costs[t + 1]:.2f} nats; the floor is {known.nats:.2f}" in note


def test_a_word_outside_the_receptive_field_is_pointed_at(opened):
    browser, wanted = opened
    t = next(i for i, known in enumerate(wanted.known) if (known.lookback or 0) > 13) - 1
    ActionChains(browser).move_to_element(buttons(browser)[t]).perform()
    back = wanted.known[t + 1].lookback
    assert texts(browser, "#text .settles .word")[0].startswith(wanted.words[t + 1 - back])
    assert "outside the receptive field, so this model can only guess" in text(browser, "#next .note")


def test_the_layer_switch_changes_what_is_shown(opened):
    browser, wanted = opened
    ActionChains(browser).move_to_element(buttons(browser)[20]).perform()
    shown = []
    for n, layer in enumerate(wanted.views[20]):
        choose(browser, "layer", n)
        assert slots_shown(browser) == [str(slot) for slot, _ in layer["slots"]]
        chips = [float(chip) for chip in texts(browser, "#text li:nth-child(21) .chip")]
        assert chips == pytest.approx([layer[k][0] for k in ("local", "global")], abs=0.0051)
        shown.append(texts(browser, "#text .chip"))
    assert shown[0] != shown[1]
    choose(browser, "measure", "slots")
    assert texts(browser, "#text .chip")[20].startswith(f"{wanted.views[20][-1]['slots'][0][0]}: ")


def test_gates_stand_on_a_scale_from_0_to_1_with_their_spread(opened):
    browser, wanted = opened
    choose(browser, "layer", 0)
    script = """
        const get = (node) => (name) => parseFloat(node.style.getPropertyValue(name)) / 100;
        return arguments[0].map((node) => ["--mean", "--low", "--high"].map(get(node)));
    """
    drawn = browser.execute_script(script, browser.find_elements(By.CSS_SELECTOR, "#text .chip.track"))
    gates = [layers[0][name] for layers in wanted.views for name in ("local", "global")]
    for band, gate in zip(drawn, gates, strict=True):
        assert band == pytest.approx(gate, abs=0.0051)
    assert "from 0 (closed) to 1 (open)" in text(browser, "#scale")
    t = current_token(browser)
    rows = [[float(x) for x in row.split("|")[2:]] for row in rows_of(browser, "#gates")]
    for numbers, name in zip(rows, ("local", "global"), strict=True):
        assert numbers == pytest.approx(wanted.views[t][0][name], abs=0.0051)


def test_surprise_is_counted_from_the_floor_where_that_is_known(opened):
    browser, wanted = opened
    choose(browser, "measure", "cost")
    chips = texts(browser, "#text .chip")
    assert chips[0] == "\u2013"
    for chip, cost, known in zip(chips[1:], wanted.costs[1:], wanted.known[1:], strict=False):
        assert number(chip) == pytest.approx(cost - known.nats, abs=0.0056)
        assert chip[0] in "+\u2212\u00b1"
    t = next(t for t, known in enumerate(wanted.known) if known.nats)
    label = buttons(browser)[t].get_attribute("aria-label")
    cost, floor = re.search(r", GAM (.*) nats \(floor (.*), difference .*\)$", label).groups()
    assert float(cost) == pytest.approx(wanted.costs[t], abs=0.0055)
    assert f"(floor {floor}, difference {chips[t]})" in label
    assert float(floor) == pytest.approx(wanted.known[t].nats, abs=0.0051)


def test_keys_move_through_the_text(opened):
    browser, wanted = opened
    buttons(browser)[0].send_keys("")
    last = len(wanted.words) - 1

    def press(key) -> int:
        ActionChains(browser).send_keys(key).perform()
        stops = browser.execute_script(
            "return [...document.querySelectorAll('#text button')].map((b) => b.tabIndex)"
        )
        assert stops.count(0) == 1
        assert stops.index(0) == current(browser)
        assert text(browser, "#token") == wanted.words[current(browser)]
        return current(browser)

    assert press(Keys.HOME) == 0
    assert press(Keys.ARROW_LEFT) == 0
    assert press(Keys.ARROW_RIGHT) == 1
    assert press(Keys.ARROW_RIGHT) == 2
    below = press(Keys.ARROW_DOWN)
    assert 5 < below < 25
    assert press(Keys.ARROW_UP) == 2
    assert press(Keys.END) == last
    assert press(Keys.ARROW_RIGHT) == last
    ActionChains(browser).send_keys(Keys.TAB).perform()
    assert current(browser) == -1  # one press of Tab leaves the text


def test_a_held_token_stays_until_released(opened):
    browser, wanted = opened
    point = ActionChains(browser)
    some = buttons(browser)
    some[10].click()
    assert some[10].get_attribute("aria-pressed") == "true"
    point.move_to_element(some[14]).perform()
    assert text(browser, "#token") == wanted.words[10]
    some[20].click()
    assert some[20].get_attribute("aria-pressed") == "true", "the hold moves"
    assert some[10].get_attribute("aria-pressed") == "false"
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    ActionChains(browser).move_to_element(some[15]).perform()
    assert text(browser, "#token") == wanted.words[15]
    assert not browser.find_elements(By.CSS_SELECTOR, "[aria-pressed=true]")


def test_what_a_screen_reader_reads(opened):
    browser, wanted = opened
    ActionChains(browser).move_to_element(buttons(browser)[3]).perform()
    summary = browser.find_element(By.ID, "said")
    assert summary.get_attribute("aria-live") == "polite"
    assert f"Token 4 of {len(wanted.words)}" in summary.text
    label = buttons(browser)[3].get_attribute("aria-label")
    assert label.startswith(f"{wanted.words[3]}, local gate .")
    chosen = browser.find_elements(By.CSS_SELECTOR, "fieldset input:checked")
    assert [radio.get_attribute("name") for radio in chosen] == ["layer", "measure"]
    assert text(browser, "#vocabulary summary").startswith("The 472 words")
    unnamed = browser.execute_script(NAMELESS)
    assert unnamed == []


@pytest.mark.parametrize("width", [360, 390])
@pytest.mark.parametrize("page", ["opened", "recalled"])
def test_a_phone_needs_no_scrolling_sideways(page, width, request):
    browser, _ = request.getfixturevalue(page)
    look(browser, width, 740)
    browser.refresh()
    for n in (0, 30, 60):
        browser.execute_script("arguments[0].focus()", buttons(browser)[n])
        assert browser.execute_script(UNCOVERED, buttons(browser)[n])
        buttons(browser)[n].click()
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    edges = browser.execute_script("""
        const names = "#text button, #details, fieldset label, #toggle, #one, #more";
        const boxes = [...document.querySelectorAll(names)];
        return boxes.map((e) => e.getBoundingClientRect()).map((r) => [r.left, r.right, r.height]);
    """)
    for left, right, height in edges:
        assert 0 <= left < right <= width
        assert height >= 24
    assert text(browser, "#token")


@pytest.mark.parametrize("page", ["opened", "recalled"])
def test_on_a_phone_the_sheet_starts_collapsed_and_the_held_token_stays_visible(page, request):
    browser, wanted = request.getfixturevalue(page)
    look(browser, 390, 844)
    browser.refresh()
    panel, toggle = (browser.find_element(By.ID, name) for name in ("panel", "toggle"))
    assert not panel.is_displayed()
    assert toggle.get_attribute("aria-expanded") == "false"
    for t in (20, 40, len(wanted.words) - 1):
        some = buttons(browser)[t]
        browser.execute_script("arguments[0].scrollIntoView({ block: 'center' })", some)
        some.click()
        assert text(browser, "#token") == wanted.words[t]
        for expanded in ("true", "false"):
            toggle.click()
            assert toggle.get_attribute("aria-expanded") == expanded
            assert panel.is_displayed() == (expanded == "true")
            assert browser.execute_script(UNCOVERED, some), (t, expanded)
        some.click()
    look(browser)
    assert panel.is_displayed(), "on a wide window it is always there"
    assert not toggle.is_displayed()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("page", ["opened", "recalled", "compared"])
def test_every_text_stands_out_from_its_background(page, width, scheme, request):
    browser, wanted = request.getfixturevalue(page)
    look(browser, width, scheme=scheme)
    for name in ("equations", "legend", "vocabulary"):
        browser.execute_script("document.getElementById(arguments[0]).open = true", name)
    if width < 600:
        browser.find_element(By.ID, "toggle").click()
    page = browser.execute_script(
        "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    )
    assert max(page) < 60 if scheme == "dark" else min(page) > 200
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    for measure in choices(browser, "measure"):
        browser.execute_script("arguments[0].click()", radio(browser, "measure", measure))
        for n in range(len(wanted.views[0])):
            browser.execute_script("arguments[0].click()", radio(browser, "layer", n))
            ratio, worst, n_texts = browser.execute_script(CONTRAST)
            assert n_texts > 2 * len(wanted.words)
            assert ratio >= 4.5, worst


def test_text_is_only_text(browser, letters, tmp_path):
    look(browser)
    path = tmp_path / "hostile.html"
    write(letters, path, f"--prompt={HOSTILE}", "--tokens=1")
    browser.get_log("browser")
    browser.get(path.as_uri())
    assert browser.get_log("browser") == []
    assert browser.title == "Inside a GAM: run, a prompt"
    words = texts(browser, "#text .word")
    assert "".join(words[:-1]).replace("\u2423", " ") == HOSTILE
    assert having(browser, "sampled") == [len(words) - 1]
    buttons(browser)[0].click()
    assert "the floor is unknown" in text(browser, "#next .note")


@pytest.mark.parametrize(
    ("mixer", "there"), [("sum", ["slots", "cost"]), ("global", ["slots", "cost"]), ("local", ["cost"])]
)
def test_a_mixer_without_a_part_says_what_it_lacks(browser, tmp_path, mixer, there):
    look(browser)
    path = tiny_page(tmp_path / f"{mixer}.html", tiny.gam(mixer))
    browser.get_log("browser")
    browser.get(path.as_uri())
    assert browser.get_log("browser") == []
    assert choices(browser, "measure") == there
    browser.find_element(By.CSS_SELECTOR, "#legend summary").click()
    assert f"This model's mixer, {mixer}," in text(browser, "#legend p:last-of-type")
    assert (text(browser, "#gates"), bool(text(browser, "#memory"))) == ("", mixer != "local")
    assert text(browser, "#next tbody")


EQUATIONS = {
    "gated": "E1 E2 E3 E4 E5 E6 E7 E8 E9", "sum": "E1 E2 E3 E4 E5 E7 E8 E9", "local": "E1 E2 E7 E8 E9",
    "global": "E1 E3 E4 E5 E7 E8 E9", "written": "E1 E2 E3 E4 X1 X2 X3 X4 X5 E6 E7 E8 E9",
}  # fmt: skip


@pytest.mark.parametrize("mixer", EQUATIONS)
def test_the_equations_are_those_of_the_mixer(browser, tmp_path, mixer):
    look(browser)
    browser.get(tiny_page(tmp_path / "e.html", tiny.gam(mixer)).as_uri())
    assert not browser.find_element(By.CSS_SELECTOR, "#equations dl").is_displayed()
    browser.find_element(By.CSS_SELECTOR, "#equations summary").click()
    shown = [e for e in browser.find_elements(By.CSS_SELECTOR, "#equations dl > div") if e.is_displayed()]
    assert [e.find_element(By.TAG_NAME, "dt").text for e in shown] == EQUATIONS[mixer].split()
    for equation in shown:
        assert equation.find_element(By.TAG_NAME, "math").size["width"] > 20
        assert equation.find_element(By.TAG_NAME, "p").text.endswith(".")
        for link in equation.find_elements(By.TAG_NAME, "a"):
            target = link.get_attribute("href").rpartition("#")[2]
            assert text(browser, f"#{target}"), f"{mixer}: {target} is empty"


def test_on_a_phone_an_equation_leads_to_what_is_shown(opened):
    browser, _ = opened
    look(browser, 390, 844)
    browser.refresh()
    browser.execute_script("document.getElementById('equations').open = true")
    for name in ("memory", "gates", "next"):
        link = browser.find_element(By.CSS_SELECTOR, f"#equations a[href='#{name}']")
        browser.execute_script("arguments[0].scrollIntoView({ block: 'center' })", link)
        link.click()
        top = browser.execute_script(
            "return document.getElementById(arguments[0]).getBoundingClientRect().top", name
        )
        assert browser.find_element(By.ID, name).is_displayed()
        assert 0 <= top < 844


def test_a_model_that_is_not_live_says_why(browser, stories, tmp_path, monkeypatch):
    look(browser)
    monkeypatch.setattr(explain, "LARGEST", 1000)
    path = tmp_path / "large.html"
    wanted = Wanted(write(stories, path), stories)
    browser.get_log("browser")
    browser.get(path.as_uri())
    assert browser.get_log("browser") == []
    assert "The model is not part of this page: it has 7,360 parameters" in text(browser, "#live")
    assert not browser.find_element(By.ID, "write").is_displayed()
    ActionChains(browser).move_to_element(buttons(browser)[12]).perform()
    assert slots_shown(browser) == [str(slot) for slot, _ in wanted.views[12][-1]["slots"]]
    assert text(browser, "#next tbody")
    assert text(browser, "#influence") == ""
    choose(browser, "measure", "cost")
    for chip, cost, known in zip(
        texts(browser, "#text .chip")[1:], wanted.costs[1:], wanted.known[1:], strict=False
    ):
        assert number(chip) == pytest.approx(cost - known.nats, abs=0.0056)


# ------------------------------------------------------------------ the written memory, ours


def test_a_written_memory_says_that_it_is_not_the_papers(recalled):
    browser, _ = recalled
    assert browser.get_log("browser") == []
    assert text(browser, "h1") == "Inside a GAM, written memory (ours)"
    assert browser.title == "Inside a GAM, written memory (ours): run, story 1 of the validation set"
    browser.find_element(By.CSS_SELECTOR, "#legend summary").click()
    legend = text(browser, "#legend")
    assert "minigam's extension of GAM, not in the paper" in legend
    assert "the tokens that the model's output there depends on: all tokens up to it." in legend
    assert "1 + L" not in legend


def test_a_plain_gam_shows_nothing_of_a_written_memory(opened):
    browser, _ = opened
    assert text(browser, "h1") == "Inside a GAM"
    assert choices(browser, "measure") == ["gates", "slots", "cost"]
    assert not browser.find_element(By.ID, "sources").text + browser.find_element(By.ID, "written").text


def test_pointing_at_a_token_shades_the_words_that_it_recalls(recalled):
    browser, wanted = recalled
    for n in range(2):
        choose(browser, "layer", n)
        for t in (0, 12, 60):
            ActionChains(browser).move_to_element(buttons(browser)[t]).perform()
            sources = dict(wanted.views[t][n]["sources"])
            assert having(browser, "source") == sorted(sources)
            assert having(browser, "seen") == list(range(t + 1))
            levels = browser.execute_script(
                "return [...arguments[0]].map((b) => b.firstChild.style.getPropertyValue('--level'))",
                buttons(browser),
            )
            most = max(sources.values())
            for i, level in enumerate(levels):
                assert float(level.rstrip("%")) == pytest.approx(100 * sources.get(i, 0) / most, abs=0.6)
            first, share = wanted.views[t][n]["sources"][0]
            word = wanted.words[first]
            said = text(browser, "#said").split("Its recall comes most from ")[1]
            assert said.startswith(f"\u201c{word}\u201d, ")
            assert_percent(said[said.index("(") + 1 : said.index(")")], share)


def test_the_panel_lists_the_sources_and_the_slots_that_are_written(recalled):
    browser, wanted = recalled
    choose(browser, "layer", 1)
    t = 40
    layer = wanted.views[t][1]
    ActionChains(browser).move_to_element(buttons(browser)[t]).perform()
    rows = [row.split("|") for row in rows_of(browser, "#sources")]
    named = layer["sources"][:5]
    heads = [[wanted.words[j], str(t - j)] for j, _ in named]
    assert [row[:2] for row in rows] == [*heads, ["other tokens", ""], ["the learned slots", ""]]
    others = 1.0 - layer["learned"] - sum(share for _, share in named)
    for row, share in zip(rows, [*(share for _, share in named), others, layer["learned"]], strict=True):
        assert_percent(row[2], share)
    written = texts(browser, "#written tbody td:first-child")
    assert written == [str(slot) for slot, _ in layer["written"]]
    assert slots_shown(browser) == [str(slot) for slot, _ in layer["slots"]]
    assert text(browser, "#memory .note").startswith("In layer 2 the shares depend on the last 41 tokens.")
    assert "inside the receptive field" in text(browser, "#next .note") or not texts(browser, ".settles")


def test_the_source_of_every_token_stands_under_it(recalled):
    browser, wanted = recalled
    assert choices(browser, "measure")[0] == "recall"
    largest = [sum(view[n]["sources"][0][1] for view in wanted.views if view[n]["sources"]) for n in (0, 1)]
    chosen = browser.find_element(By.CSS_SELECTOR, "input[name=layer]:checked").get_attribute("value")
    assert int(chosen) == largest.index(max(largest)), "it opens on the layer that recalls single tokens most"
    choose(browser, "layer", 0)
    chips = texts(browser, "#text .chip")
    for chip, view in zip(chips, wanted.views, strict=True):
        j, share = view[0]["sources"][0]
        word = wanted.words[j]
        assert chip.startswith(f"{word} ")
        assert_percent(chip.removeprefix(f"{word} "), share)
    label = buttons(browser)[7].get_attribute("aria-label")
    assert ", recall most from \u201c" in label


def test_a_token_that_recalls_only_what_was_learned_says_so(browser, tmp_path):
    """As of a heavy prior, where every source is too small to be listed."""
    look(browser)
    path = tiny_page(tmp_path / "learned.html", tiny.gam("written", prior=1e5))
    browser.get_log("browser")
    browser.get(path.as_uri())
    assert browser.get_log("browser") == []
    assert "Its recall comes most from the learned slots." in text(browser, "#said")
    assert set(texts(browser, "#text .chip")) == {"\u2013"}
    assert having(browser, "source") == []
    assert texts(browser, "#sources tbody td:first-child") == ["other tokens", "the learned slots"]


def test_it_opens_on_a_word_that_is_far_back(recalled):
    browser, wanted = recalled
    t = next(i for i, known in enumerate(wanted.known) if (known.lookback or 0) > wanted.beyond) - 1
    assert having(browser, "now") == [t]
    assert "inside the receptive field" in text(browser, "#next .note")
