"""The page of minigam.explain in a real browser, headless Chromium: what it shows, what its controls do."""

import json
from pathlib import Path

import pytest
from helpers.pages import HOSTILE, data_of, write

from minigam.explain import page as explain

pytest.importorskip("selenium.webdriver", reason="needs selenium (the group `browser`)")
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

# The lowest contrast of any text with its background (WCAG 2), and that text. A canvas is used because
# it understands every way of writing a colour.
CONTRAST = """
const brush = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
function rgba(color) {
  brush.clearRect(0, 0, 1, 1); brush.fillStyle = color; brush.fillRect(0, 0, 1, 1);
  return [...brush.getImageData(0, 0, 1, 1).data];
}
function light(color) {
  const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const [r, g, b] = rgba(color).map((c) => linear(c / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function under(node) {
  while (node && rgba(getComputedStyle(node).backgroundColor)[3] === 0) node = node.parentElement;
  return node ? getComputedStyle(node).backgroundColor : "white";
}
let worst = [Infinity, ""], texts = 0;
for (const node of document.body.querySelectorAll("*")) {
  const text = [...node.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join("");
  if (!text || !node.checkVisibility()) continue;
  const [a, b] = [getComputedStyle(node).color, under(node)].map(light);
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  texts += 1;
  if (ratio < worst[0]) worst = [ratio, text];
}
return [...worst, texts];
"""


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
def opened(browser, story):
    """The page of a story, just opened at 1100 x 800 pixels in light mode, and the data in it."""
    return just_opened(browser, story)


@pytest.fixture
def recalled(browser, recall_story):
    """The same of a written memory."""
    return just_opened(browser, recall_story)


def just_opened(browser, page: Path):
    look(browser)
    browser.get(page.as_uri())
    return browser, data_of(page.read_text(encoding="utf-8"))


def look(browser, width: int = 1100, height: int = 800, scheme: str = "light") -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)


def text(browser, selector: str) -> str:
    return browser.find_element(By.CSS_SELECTOR, selector).text


def texts(browser, selector: str) -> list[str]:
    elements = browser.find_elements(By.CSS_SELECTOR, selector)
    return browser.execute_script("return arguments[0].map((e) => e.textContent)", elements)


def buttons(browser) -> list:
    return browser.find_elements(By.CSS_SELECTOR, "#text button")


def slots_shown(browser) -> list[str]:
    return texts(browser, "#memory tbody td:first-child")


def choose(browser, name: str, value) -> None:
    browser.find_element(By.CSS_SELECTOR, f"input[name={name}][value='{value}']").click()


def choices(browser, name: str) -> list[str]:
    return [e.get_attribute("value") for e in browser.find_elements(By.CSS_SELECTOR, f"input[name={name}]")]


def having(browser, name: str) -> list[int]:
    """Return the indices of the tokens that have a class."""
    script = "return [...arguments[0]].map((b) => b.classList.contains(arguments[1]))"
    return [i for i, has in enumerate(browser.execute_script(script, buttons(browser), name)) if has]


def current(browser) -> int:
    return browser.execute_script(
        "return [...document.querySelectorAll('#text button')].findIndex((b) => b === document.activeElement)"
    )


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
    browser, data = opened
    layer = data["layers"][-1]
    for t in (12, 40):
        ActionChains(browser).move_to_element(buttons(browser)[t]).perform()
        assert text(browser, "#token") == data["tokens"][t]["text"]
        assert slots_shown(browser) == [str(slot) for slot, _ in layer["slots"][t]]
        words = texts(browser, "#memory .words")
        assert words == [", ".join(w for w, _ in layer["words"][str(s)]) for s, _ in layer["slots"][t]]
        assert having(browser, "seen") == list(range(t - 4, t + 1))
        assert "Receptive field: 5 tokens" in text(browser, "#said")


def test_what_comes_next_is_there_with_the_generators_probability(opened):
    browser, data = opened
    t = next(i for i, e in enumerate(data["next"]) if e["choices"] > 5)
    ActionChains(browser).move_to_element(buttons(browser)[t]).perform()
    rows = texts(browser, "#next tbody tr td:first-child")
    assert [w.removeprefix("\u25b8 ") for w in rows] == [w for w, *_ in data["next"][t]["words"]]
    assert [w for w in rows if w.startswith("\u25b8")] == [f"\u25b8 {data['tokens'][t + 1]['text']}"]
    note, following = text(browser, "#next .note"), data["tokens"][t + 1]
    assert f"can write {data['next'][t]['choices']} different words" in note
    assert f"costs the model {following['cost']:.2f} nats; the floor is {following['floor']:.2f}" in note


def test_a_word_outside_the_receptive_field_is_pointed_at(opened):
    browser, data = opened
    t = next(i for i, token in enumerate(data["tokens"]) if token["back"] > 13) - 1
    ActionChains(browser).move_to_element(buttons(browser)[t]).perform()
    back = data["tokens"][t + 1]["back"]
    assert texts(browser, "#text .settles .word")[0].startswith(data["tokens"][t + 1 - back]["text"])
    assert "outside the receptive field, so this model can only guess" in text(browser, "#next .note")


def test_the_layer_switch_changes_what_is_shown(opened):
    browser, data = opened
    ActionChains(browser).move_to_element(buttons(browser)[20]).perform()
    shown = []
    for n, layer in enumerate(data["layers"]):
        choose(browser, "layer", n)
        assert slots_shown(browser) == [str(slot) for slot, _ in layer["slots"][20]]
        chips = texts(browser, "#text li:nth-child(21) .chip")
        assert chips == [f"{layer[k][20]:.2f}".removeprefix("0") for k in ("local", "global")]
        shown.append(texts(browser, "#text .chip"))
    assert shown[0] != shown[1]
    choose(browser, "measure", "cost")
    costs = [f"{token['cost']:.2f}" for token in data["tokens"][1:]]
    assert texts(browser, "#text .chip") == ["\u2013", *costs]
    choose(browser, "measure", "slots")
    assert texts(browser, "#text .chip")[20].startswith(f"{data['layers'][-1]['slots'][20][0][0]}: ")


def test_keys_move_through_the_text(opened):
    browser, data = opened
    buttons(browser)[0].send_keys("")
    last = len(data["tokens"]) - 1

    def press(key) -> int:
        ActionChains(browser).send_keys(key).perform()
        stops = browser.execute_script(
            "return [...document.querySelectorAll('#text button')].map((b) => b.tabIndex)"
        )
        assert stops.count(0) == 1
        assert stops.index(0) == current(browser)
        assert text(browser, "#token") == data["tokens"][current(browser)]["text"]
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
    browser, data = opened
    point = ActionChains(browser)
    some = buttons(browser)
    some[10].click()
    assert some[10].get_attribute("aria-pressed") == "true"
    point.move_to_element(some[14]).perform()
    assert text(browser, "#token") == data["tokens"][10]["text"]
    some[20].click()
    assert some[20].get_attribute("aria-pressed") == "true", "the hold moves"
    assert some[10].get_attribute("aria-pressed") == "false"
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    ActionChains(browser).move_to_element(some[15]).perform()
    assert text(browser, "#token") == data["tokens"][15]["text"]
    assert not browser.find_elements(By.CSS_SELECTOR, "[aria-pressed=true]")


def test_what_a_screen_reader_reads(opened):
    browser, data = opened
    ActionChains(browser).move_to_element(buttons(browser)[3]).perform()
    summary = browser.find_element(By.ID, "said")
    assert summary.get_attribute("aria-live") == "polite"
    assert f"Token 4 of {len(data['tokens'])}" in summary.text
    label = buttons(browser)[3].get_attribute("aria-label")
    assert label.startswith(f"{data['tokens'][3]['text']}, local gate .")
    chosen = browser.find_elements(By.CSS_SELECTOR, "fieldset input:checked")
    assert [radio.get_attribute("name") for radio in chosen] == ["layer", "measure"]
    legend = text(browser, "#legend p")
    assert legend.count(". ") == 4  # five sentences


@pytest.mark.parametrize("page", ["opened", "recalled"])
def test_a_phone_needs_no_scrolling_sideways(page, request):
    browser, _ = request.getfixturevalue(page)
    look(browser, 360, 740)
    browser.refresh()
    for n in (0, 30, 60):
        browser.execute_script("arguments[0].focus()", buttons(browser)[n])
        top = """
            const [button] = arguments, r = button.getBoundingClientRect();
            return button.contains(document.elementFromPoint(r.left + r.width / 2, r.bottom - 2));
        """
        assert browser.execute_script(top, buttons(browser)[n])  # nothing covers it
        buttons(browser)[n].click()
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    edges = browser.execute_script("""
        const boxes = [...document.querySelectorAll("#text button, #details, fieldset label")];
        return boxes.map((e) => e.getBoundingClientRect()).map((r) => [r.left, r.right, r.height]);
    """)
    for left, right, height in edges:
        assert 0 <= left < right <= 360
        assert height >= 24
    assert text(browser, "#token")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", ["opened", "recalled"])
def test_every_text_stands_out_from_its_background(page, scheme, request):
    browser, data = request.getfixturevalue(page)
    look(browser, scheme=scheme)
    browser.find_element(By.CSS_SELECTOR, "#equations summary").click()
    page = browser.execute_script(
        "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    )
    assert max(page) < 60 if scheme == "dark" else min(page) > 200
    for measure in choices(browser, "measure"):
        choose(browser, "measure", measure)
        for n in range(len(data["layers"])):
            choose(browser, "layer", n)
            ratio, worst, n_texts = browser.execute_script(CONTRAST)
            assert n_texts > 2 * len(data["tokens"])
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
def test_a_mixer_without_a_part_says_what_it_lacks(browser, stories, tmp_path, mixer, there):
    look(browser)
    path = tmp_path / f"{mixer}.html"
    data = write(stories, path)
    data["model"] |= {"mixer": mixer, "reach": 1 if mixer == "global" else 5}
    for layer in data["layers"]:
        layer |= {"local": None, "global": None}
        if mixer == "local":
            layer |= {"slots": None, "words": {}}
    path.write_text(explain.page(data), encoding="utf-8")
    browser.get_log("browser")
    browser.get(path.as_uri())
    assert browser.get_log("browser") == []
    assert choices(browser, "measure") == there
    assert f"This model's mixer, {mixer}," in text(browser, "#legend p:last-of-type")
    assert (text(browser, "#gates"), bool(text(browser, "#memory"))) == ("", mixer != "local")
    assert text(browser, "#next tbody")


# ------------------------------------------------------------------ the written memory, ours


def assert_percent(shown: str, share: float) -> None:
    """Compare a share with "12 %", or with "1.2 %" if it is below 10 %."""
    assert shown.endswith(" %")
    tolerance = 0.051 if share < 0.0995 else 0.51
    assert float(shown[:-2]) == pytest.approx(100 * share, abs=tolerance)


def test_a_written_memory_says_that_it_is_not_the_papers(recalled):
    browser, _ = recalled
    assert browser.get_log("browser") == []
    assert text(browser, "h1") == "Inside a GAM, written memory (ours)"
    assert browser.title == "Inside a GAM, written memory (ours): run, story 1 of the validation set"
    legend = text(browser, "#legend")
    assert "minigam's extension of GAM, not in the paper" in legend
    assert "the tokens that the model's output there depends on: all tokens up to it." in legend
    assert "1 + L" not in legend
    browser.find_element(By.CSS_SELECTOR, "#equations summary").click()
    terms = [e.text for e in browser.find_elements(By.CSS_SELECTOR, "dt") if e.is_displayed()]
    assert " ".join(term.split()[0] for term in terms) == "E3 E4 X1 X2, X4 X5 E6 E7"


def test_a_plain_gam_shows_nothing_of_a_written_memory(opened):
    browser, _ = opened
    assert text(browser, "h1") == "Inside a GAM"
    assert choices(browser, "measure") == ["gates", "slots", "cost"]
    assert having(browser, "source") == []
    assert not browser.find_element(By.ID, "sources").text + browser.find_element(By.ID, "written").text
    browser.find_element(By.CSS_SELECTOR, "#equations summary").click()
    terms = [e.text for e in browser.find_elements(By.CSS_SELECTOR, "dt") if e.is_displayed()]
    assert " ".join(term.split()[0] for term in terms) == "E3 E4 E5 E6 E7"


def test_pointing_at_a_token_shades_the_words_that_it_recalls(recalled):
    browser, data = recalled
    for n, layer in enumerate(data["layers"]):
        choose(browser, "layer", n)
        for t in (0, 12, 60):
            ActionChains(browser).move_to_element(buttons(browser)[t]).perform()
            sources = dict(layer["sources"][t])
            assert having(browser, "source") == sorted(sources)
            assert having(browser, "seen") == list(range(t + 1))
            levels = browser.execute_script(
                "return [...arguments[0]].map((b) => b.firstChild.style.getPropertyValue('--level'))",
                buttons(browser),
            )
            most = max(sources.values())
            for i, level in enumerate(levels):
                assert float(level.rstrip("%")) == pytest.approx(100 * sources.get(i, 0) / most, abs=0.51)
            first, share = layer["sources"][t][0]
            word = data["tokens"][first]["text"]
            said = text(browser, "#said").split("Its recall comes most from ")[1]
            assert said.startswith(f"\u201c{word}\u201d, ")
            assert_percent(said[said.rindex("(") + 1 : said.rindex(")")], share)


def test_the_panel_lists_the_sources_and_the_slots_that_are_written(recalled):
    browser, data = recalled
    choose(browser, "layer", 1)
    layer, t = data["layers"][1], 40
    ActionChains(browser).move_to_element(buttons(browser)[t]).perform()
    rows = [row.split("|") for row in browser.execute_script(
        "return [...document.querySelectorAll('#sources tbody tr')]"
        ".map((r) => [...r.cells].map((c) => c.textContent).join('|'))"
    )]  # fmt: skip
    named = layer["sources"][t][:5]
    heads = [[data["tokens"][j]["text"], str(t - j)] for j, _ in named]
    assert [row[:2] for row in rows] == [*heads, ["other tokens", ""], ["the learned slots", ""]]
    others = 1.0 - layer["learned"][t] - sum(share for _, share in named)
    for row, share in zip(rows, [*(share for _, share in named), others, layer["learned"][t]], strict=True):
        assert_percent(row[2], share)
    written = texts(browser, "#written tbody td:first-child")
    assert written == [str(slot) for slot, _ in layer["written"][t]]
    assert slots_shown(browser) == [str(slot) for slot, _ in layer["slots"][t]]
    assert text(browser, "#memory .note").startswith("In layer 2 the shares depend on the last 41 tokens.")
    assert "inside the receptive field" in text(browser, "#next .note") or not texts(browser, ".settles")


def test_the_source_of_every_token_stands_under_it(recalled):
    browser, data = recalled
    assert choices(browser, "measure")[0] == "recall"
    sharpest = max((0, 1), key=lambda n: sum(row[0][1] for row in data["layers"][n]["sources"] if row))
    chosen = browser.find_element(By.CSS_SELECTOR, "input[name=layer]:checked").get_attribute("value")
    assert int(chosen) == sharpest, "it opens on the layer that recalls single tokens most"
    choose(browser, "layer", 0)
    chips = texts(browser, "#text .chip")
    for chip, ((j, share), *_) in zip(chips, data["layers"][0]["sources"], strict=True):
        word = data["tokens"][j]["text"]
        assert chip.startswith(f"{word} ")
        assert_percent(chip.removeprefix(f"{word} "), share)
    label = buttons(browser)[7].get_attribute("aria-label")
    assert ", recall most from \u201c" in label


def test_a_token_that_recalls_only_what_was_learned_says_so(browser, recalling, tmp_path):
    """As of a heavy prior, where every source is too small to be listed."""
    look(browser)
    data = write(recalling, tmp_path / "learned.html")
    for layer in data["layers"]:
        layer |= {"sources": [[] for _ in data["tokens"]], "learned": [0.999] * len(data["tokens"])}
    (tmp_path / "learned.html").write_text(explain.page(data), encoding="utf-8")
    browser.get_log("browser")
    browser.get((tmp_path / "learned.html").as_uri())
    assert browser.get_log("browser") == []
    assert "Its recall comes most from the learned slots." in text(browser, "#said")
    assert set(texts(browser, "#text .chip")) == {"\u2013"}
    assert having(browser, "source") == []
    assert texts(browser, "#sources tbody td:first-child") == ["other tokens", "the learned slots"]


def test_it_opens_on_a_word_that_is_far_back(recalled):
    browser, data = recalled
    t = next(i for i, token in enumerate(data["tokens"]) if token["back"] > data["recall_beyond"]) - 1
    assert having(browser, "now") == [t]
    assert "inside the receptive field" in text(browser, "#next .note")
