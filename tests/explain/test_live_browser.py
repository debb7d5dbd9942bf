"""The live page in headless Chromium: its JavaScript computes what minigam does, and answers typed text."""

import numpy as np
import pytest
from helpers import tiny
from helpers.commands import assert_refused
from helpers.pages import LETTERS, data_of, tiny_page, write

from benchmarks import explain as benchmark
from minigam import GAM, GAMConfig, Transformer, TransformerConfig
from minigam.config import MIXERS, WRITTEN
from minigam.data import oracle, pocketstories
from minigam.data.tokenizer import WordTokenizer
from minigam.explain import page as explain
from minigam.files import read_json
from minigam.models import anatomy
from minigam.training.run import Run

pytest.importorskip("selenium.webdriver", reason="needs selenium (the group `browser`)")
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from helpers.looking import (  # isort: skip
    assert_percent, buttons, choose, current_token, having, look, number, rows_of, text, texts,
)  # fmt: skip

CLOSE = {"rtol": 0.0, "atol": 1e-4}
STORIES = WordTokenizer(pocketstories.vocabulary())
FAR = "Once upon a time, Tom lived near the lake with a small fox. He had a red kite and hid it in a box. But"

# A larger model than those of helpers.tiny, with the same seven words: four heads, several slots and layers.
WIDE = {"vocab_size": 7, "block_size": 24, "d_model": 16, "n_layers": 3}
IDS = tuple(int(i) for i in np.random.default_rng(3).integers(7, size=24))


def wide(mixer: str = "gated") -> GAM:
    return tiny.randomise(GAM(GAMConfig(**WIDE, n_slots=9, kernel_size=4, mixer=mixer))).eval()


def transformer() -> Transformer:
    return tiny.randomise(Transformer(TransformerConfig(**WIDE, n_heads=4)), 1).eval()


def trained() -> list:
    """Return the GAM and the Transformer that come with the package."""
    return [Run(benchmark.RUNS / name).load_model() for name in ("gam", "transformer")]


def story_ids() -> list[int]:
    return [0, *(STORIES.id_of[t.text] for t in next(pocketstories.stories(1, seed=1)))]


def opened(browser, path):
    look(browser)
    browser.get_log("browser")
    browser.get(path.as_uri())
    assert browser.get_log("browser") == []


def type_text(browser, typed: str) -> None:
    field = browser.find_element(By.ID, "typed")
    field.clear()
    field.send_keys(typed)


def words(browser) -> list[str]:
    return browser.execute_script("return reading.tokens.map((token) => token.text)")


# ---------------------------------------------------------------------- equal to NumPy


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_gam_computes_what_numpy_computes(browser, tmp_path, mixer):
    model = wide(mixer)
    opened(browser, tiny_page(tmp_path / "e.html", model, ids=IDS))
    logits, views = anatomy.views(model, np.array([IDS]))
    records = browser.execute_script("""
        const lists = (x) => x === undefined ? null : typeof x === "number" ? x : [...x];
        const names = ["localGate", "globalGate", "shares", "written", "sources", "learned"];
        return model.readAll(arguments[0]).map(({ logits, blocks }) => [lists(logits), blocks.map((block) =>
            Object.fromEntries(names.map((name) => [name, lists(block[name])])))]);
    """, list(IDS))  # fmt: skip
    np.testing.assert_allclose([z for z, _ in records], logits[0], **CLOSE)
    assert np.abs(logits).max() > 1.0, "no model of zeros"
    parts = {
        "localGate": "local_gate", "globalGate": "global_gate", "shares": "shares", "written": "written",
        "learned": "prior",
    }  # fmt: skip
    for n, view in enumerate(views):
        for there, here in parts.items():
            computed, want = [blocks[n][there] for _, blocks in records], getattr(view, here)
            if want is None:
                assert set(map(type, computed)) == {type(None)}, here
            else:
                np.testing.assert_allclose(computed, want[0], **CLOSE)
        for t, (_, blocks) in enumerate(records):
            if view.sources is not None:
                np.testing.assert_allclose(blocks[n]["sources"], view.sources[0, t, : t + 1], **CLOSE)


def test_a_transformer_computes_what_numpy_computes(browser, tmp_path):
    other = transformer()
    opened(browser, tiny_page(tmp_path / "e.html", wide(), other, ids=IDS))
    logits = browser.execute_script(
        "return rival.readAll(arguments[0]).map((record) => [...record.logits])", list(IDS)
    )
    want = other(np.array([IDS])).data[0]
    assert np.abs(want).max() > 1.0
    np.testing.assert_allclose(logits, want, **CLOSE)


def test_the_trained_models_of_the_package_compute_what_numpy_computes(browser, tmp_path):
    pair, ids = trained(), story_ids()
    benchmark.write_page(tmp_path / "e.html", pair, STORIES)
    opened(browser, tmp_path / "e.html")
    assert len(ids) > 100
    for name, one in zip(("model", "rival"), pair, strict=True):
        logits = browser.execute_script(
            f"return {name}.readAll(arguments[0]).map((record) => [...record.logits])", ids
        )
        np.testing.assert_allclose(logits, one(np.array([ids])).data[0], **CLOSE)


@pytest.mark.parametrize("mixer", MIXERS)
def test_the_reading_is_that_of_python(browser, tmp_path, mixer):
    model = wide(mixer)
    opened(browser, tiny_page(tmp_path / "e.html", model, ids=IDS))
    want = explain.reading(model, list(IDS), None)
    views, costs = browser.execute_script("return [reading.views, reading.tokens.map((token) => token.cost)]")
    assert costs[1:] == pytest.approx(want["costs"], abs=1e-3)
    for layers, wanted in zip(views, want["views"], strict=True):
        for layer, wanted_layer in zip(layers, wanted, strict=True):
            assert layer.keys() == wanted_layer.keys()
            for name, value in wanted_layer.items():
                if value is None:
                    assert layer[name] is None
                elif name in ("slots", "written", "sources"):
                    assert [i for i, _ in layer[name]] == [i for i, _ in value]
                    assert [x for _, x in layer[name]] == pytest.approx([x for _, x in value], abs=1e-3)
                else:
                    assert layer[name] == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize("mixer", ["gated", WRITTEN])
def test_a_text_that_changes_is_read_as_if_it_were_new(browser, tmp_path, mixer):
    opened(browser, tiny_page(tmp_path / "e.html", wide(mixer), transformer(), ids=IDS))
    same = browser.execute_script("""
        const [ids] = arguments, other = [...ids.slice(0, 9), (ids[9] + 1) % 7, ...ids.slice(10)];
        const logits = (records) => JSON.stringify(records.map((record) => [...record.logits]));
        return [model, rival].map((m) => {
            const known = m.readAll(ids), again = m.readAll(other, known);
            const fresh = m.readAll(other);
            return [again[8] === known[8], logits(again) === logits(fresh), logits(again) === logits(known)];
        });
    """, list(IDS))  # fmt: skip
    assert same == [[True, True, False]] * 2


def test_the_generator_knows_what_the_oracle_knows(browser, duel):
    opened(browser, duel)
    drawn = [[t.text for t in story] for story in pocketstories.stories(40, seed=7)]
    broken = [*drawn[0][:30], "Tom", *drawn[0][30:]]
    texts = [["<story>", *story, "<story>", *drawn[1][:9]] for story in drawn]
    for told in [*texts, ["<story>", *broken], drawn[2], ["<story>"], []]:
        known = browser.execute_script("""
            return generator.read(arguments[0]).map((k) =>
                [k.nats, k.back, Object.fromEntries(k.follows), k.only && [k.only.word, k.only.back]]);
        """, told)  # fmt: skip
        want = oracle.read(told)
        assert [back for _, back, *_ in known] == [k.lookback for k in want]
        for t, ((nats, _, follows, only), k) in enumerate(zip(known, want, strict=True)):
            assert (only is not None) == (len(k.follows) == 1)
            if only is not None:
                assert only[0] in k.follows
            if only is not None and told is texts[0]:
                assert only == [*k.follows, oracle.read([*told[: t + 1], only[0]])[-1].lookback]
            assert nats == (k.nats if k.nats is None else pytest.approx(k.nats, abs=1e-12))
            assert follows == pytest.approx(k.follows, abs=1e-12)


@pytest.mark.parametrize(
    "typed",
    [
        FAR,
        "Don't, café_1 naïve!!  x\ty\n\n“Who?” <story> <b>",
        "",
        "   ",
        "Ünïcode 漢字 ٣ ½ 😀\x1c\x85a\u00a0b",
    ],
)
def test_typed_text_is_split_as_the_tokenizer_does(browser, duel, typed):
    opened(browser, duel)
    assert browser.execute_script("return split(arguments[0])", typed) == STORIES.split(typed)


def test_tokens_are_joined_as_the_tokenizer_does(browser, duel):
    opened(browser, duel)
    for story in pocketstories.stories(20, seed=5):
        ids = [0, *STORIES.encode(" ".join(t.text for t in story)), 0]
        assert browser.execute_script("return joined(arguments[0])", ids) == STORIES.decode(ids)


@pytest.mark.parametrize("mixer", ["gated", WRITTEN])
def test_a_word_matters_as_much_as_the_prediction_changes_without_it(browser, tmp_path, mixer):
    model, t = wide(mixer), 17
    opened(browser, tiny_page(tmp_path / "e.html", model, ids=IDS))
    found, times, others = browser.execute_script("""
        const [t] = arguments, records = reading.records.slice(0, t + 1);
        const n = replacements(fieldOf(model.spec, t));
        const others = records.map(({ id }, j) => otherIds(id, j, n, 7));
        return [[...influences(model, records, 7)].filter((x) => x), n, others];
    """, t)  # fmt: skip

    def p(ids) -> np.ndarray:
        z = model(np.array([ids])).data[0, -1].astype("float64")
        return np.exp(z) / np.exp(z).sum()

    ids = list(IDS[: t + 1])
    field = range(t, t - (model.reach or t + 1), -1)
    assert [j for j, _ in found] == list(field)
    for j, change in found:
        assert len(set(others[j])) == times
        assert ids[j] not in others[j]
        moved = [0.5 * np.abs(p([*ids[:j], i, *ids[j + 1 :]]) - p(ids)).sum() for i in others[j]]
        assert change == pytest.approx(np.mean(moved), abs=1e-4)
    assert len(others[0]) == times == 4
    counts = browser.execute_script("return [1, 13, 60, 128, 1000].map(replacements)")
    drawn = browser.execute_script("return [...Array(6000).keys()].map((j) => otherIds(2, j, 1, 7)[0])")
    np.testing.assert_allclose(np.bincount(drawn, minlength=7) / 1000, [1, 1, 0, 1, 1, 1, 1], atol=0.15)
    assert counts == [4, 4, 2, 1, 1], "fewer where many tokens are read again"


# ------------------------------------------------------------------------------ typing


def test_the_whole_page_is_about_the_text_that_is_typed(browser, duel, stories):
    opened(browser, duel)
    type_text(browser, FAR)
    told = STORIES.split(FAR)
    assert words(browser) == ["<story>", *told]
    ids = [0, *STORIES.encode(FAR)]
    want = explain.reading(Run(stories).load_model(), ids, None)
    assert current_token(browser) == len(told), "the last token is shown"
    assert text(browser, "#token") == "But"
    means = [view[-1][name][0] for view in want["views"] for name in ("local", "global")]
    assert [float(chip) for chip in texts(browser, "#text .chip")] == pytest.approx(means, abs=0.0051)
    rows = [row.split("|") for row in rows_of(browser, "#next")]
    for (word, ours, *_), (i, p) in zip(rows, want["next"][-1], strict=False):
        assert word == STORIES.vocabulary[i]
        assert_percent(ours, p)
    assert "can write 4 different words here" in text(browser, "#next .note")
    assert "The text ends here" in text(browser, "#next .note")
    assert browser.title.endswith("your text")
    field = browser.find_element(By.ID, "typed")
    field.send_keys(" since spring")
    assert words(browser) == ["<story>", *told, "since", "spring"]
    assert browser.switch_to.active_element == field, "typing is not interrupted"
    said = browser.find_element(By.ID, "said")
    assert said.get_attribute("aria-live") == "off", "nor is every key commented"
    note = text(browser, "#next .note")
    assert "The generator can write one word here, \u201che\u201d." in note
    assert "\u201che\u201d is determined by \u201cHe\u201d (dashed), 15 tokens before it: outside the" in note
    assert texts(browser, "#text .settles .word") == ["He"]
    assert text(browser, "#status") == ""


def test_an_unknown_word_is_named_and_the_text_before_it_is_read(browser, duel):
    opened(browser, duel)
    type_text(browser, "Once upon a zebra time quagga ")
    assert words(browser) == ["<story>", "Once", "upon", "a"]
    status = text(browser, "#status")
    assert "Not among the 472 words of this model: \u201czebra\u201d, \u201cquagga\u201d." in status
    assert "shows the text before the first of them" in status
    type_text(browser, "Once upon a ti")
    assert (
        text(browser, "#status")
        == "\u201cti\u201d begins \u201ctidy\u201d, \u201ctime\u201d, \u201ctiny\u201d, \u201ctired\u201d"
    )
    type_text(browser, "Once upon a time")
    assert text(browser, "#status") == ""
    type_text(browser, "a " * 130)
    assert len(words(browser)) == 128
    assert "Only the first 128 tokens are read" in text(browser, "#status")


def test_characters_can_be_typed_too(browser, letters, tmp_path):
    write(letters, tmp_path / "e.html")
    opened(browser, tmp_path / "e.html")
    type_text(browser, "some letters")
    assert "".join(words(browser)) == "some letters"
    type_text(browser, "some \u00e9")
    assert "Not among the" in text(browser, "#status")
    assert text(browser, "#one") == "Write one character"


def test_a_generator_stops_knowing_where_the_text_leaves_it(browser, duel):
    opened(browser, duel)
    type_text(browser, "Once upon a time, Sam shared the fox")
    assert "never writes \u201cshared\u201d here (token 8)" in text(browser, "#known")
    choose(browser, "measure", "cost")
    costs = [chip[0] in "+\u2212\u00b1" for chip in texts(browser, "#text .chip:first-child")]
    assert costs == [False] + [True] * 6 + [False] * 3, "a sign stands where the floor is known"


def test_examples_are_read_when_they_are_chosen(browser, duel):
    opened(browser, duel)
    made = data_of(duel.read_text(encoding="utf-8"))["examples"]
    shown = browser.find_elements(By.CSS_SELECTOR, "#examples button")
    assert [b.text for b in shown] == [e["label"] for e in made]
    for button, example in zip(shown, made, strict=True):
        button.click()
        assert words(browser) == ["<story>", *STORIES.split(example["text"])]
        assert "The generator can write one word here" in text(browser, "#next .note")


# ---------------------------------------------------------------------------- sampling


def test_the_temperature_changes_what_comes_next(browser, tmp_path):
    model = wide()
    opened(browser, tiny_page(tmp_path / "e.html", model, ids=IDS))
    z = model(np.array([IDS])).data[0, -1].astype("float64")
    slider = browser.find_element(By.ID, "temperature")
    slider.send_keys(Keys.HOME)
    assert text(browser, "#degrees") == "0.0"
    rows = dict(row.split("|") for row in rows_of(browser, "#next"))
    assert rows["abcdefg"[z.argmax()]] == "100\u00a0%"
    slider.send_keys(Keys.ARROW_RIGHT * 5)
    p = np.exp(z / 0.5) / np.exp(z / 0.5).sum()
    for row in rows_of(browser, "#next"):
        word, share = row.split("|")
        assert_percent(share, p["abcdefg".index(word)])
    assert "At temperature 0.5" in text(browser, "#next .note")


def test_words_are_sampled_from_the_shares_that_are_shown(browser, tmp_path):
    model = wide()
    opened(browser, tiny_page(tmp_path / "e.html", model, ids=IDS))
    z = model(np.array([IDS])).data[0, -1].astype("float64")
    for temperature in (0.5, 1.0, 2.0):
        drawn = browser.execute_script("""
            const [temperature] = arguments, { logits } = reading.records.at(-1);
            return Array.from({ length: 4000 }, (_, i) => sample(logits, temperature, (i + 0.5) / 4000));
        """, temperature)  # fmt: skip
        p = np.exp(z / temperature) / np.exp(z / temperature).sum()
        np.testing.assert_allclose(np.bincount(drawn, minlength=7) / 4000, p, atol=0.0006)


def test_the_model_writes_on_as_generate_does(browser, tmp_path):
    model, start = wide(), IDS[:5]
    opened(browser, tiny_page(tmp_path / "e.html", model, ids=start))
    browser.find_element(By.ID, "temperature").send_keys(Keys.HOME)  # 0: the likeliest
    want = model.generate(np.array(start), 19, 0.0).tolist()
    browser.find_element(By.ID, "one").click()
    assert words(browser) == ["abcdefg"[i] for i in want[:6]]
    assert having(browser, "sampled") == [5]
    browser.find_element(By.ID, "more").click()
    assert words(browser) == ["abcdefg"[i] for i in want]
    assert having(browser, "sampled") == list(range(5, 24))
    assert "no more than 24 positions" in text(browser, "#status")
    assert browser.find_element(By.ID, "typed").get_attribute("value") == LETTERS.decode(want)
    assert "19 tokens that the model sampled" in text(browser, "#marks")


def test_a_word_of_the_table_continues_the_text(browser, duel):
    opened(browser, duel)
    type_text(browser, FAR)
    ActionChains(browser).move_to_element(buttons(browser)[4]).perform()
    before = words(browser)
    word = browser.find_elements(By.CSS_SELECTOR, "#next .take")[1]
    chosen = word.text
    word.click()
    assert words(browser) == [*before[:5], chosen]
    assert browser.find_element(By.ID, "typed").get_attribute("value") == STORIES.decode(
        STORIES.encode(" ".join([*before[1:5], chosen]))
    )


# ------------------------------------------------------------------------------- rival


def test_the_rivals_next_words_stand_next_to_the_models(browser, duel, rival_of_stories):
    opened(browser, duel)
    type_text(browser, FAR)
    other = Run(rival_of_stories).load_model()
    ids = [0, *STORIES.encode(FAR)]
    z = other(np.array([ids])).data[0].astype("float64")
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    heads = texts(browser, "#next th")
    assert heads == ["word", "GAM", "Transformer", "generator"]
    rows = [row.split("|") for row in rows_of(browser, "#next")]
    for word, _, theirs, _ in rows:
        assert_percent(theirs, p[-1, STORIES.id_of[word]])
    assert STORIES.vocabulary[p[-1].argmax()] in [word for word, *_ in rows], "its likeliest word is listed"
    assert f"Transformer \u201c{STORIES.vocabulary[p[-1].argmax()]}\u201d" in text(browser, "#said")
    choose(browser, "measure", "cost")
    chips = [li.text.split("\n")[1:] for li in browser.find_elements(By.CSS_SELECTOR, "#text li")]
    for t, known in enumerate(oracle.read(["<story>", *STORIES.split(FAR)])):
        if t:
            cost = -np.log(p[t - 1, ids[t]])
            _, theirs = " ".join(chips[t]).split()[-2:]
            assert number(theirs) == pytest.approx(cost - known.nats, abs=0.0051)


def test_without_a_rival_there_is_no_column(browser, stories, tmp_path):
    write(stories, tmp_path / "e.html")
    opened(browser, tmp_path / "e.html")
    assert texts(browser, "#next th") == ["word", "model", "generator"]


# --------------------------------------------------------------------------- benchmark


def test_the_benchmark_says_what_is_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert_refused(benchmark.main, [f"--out={tmp_path}"], capsys, "chromium is not installed")


def test_the_benchmark_types_stories_into_the_page(browser, stories, tmp_path, monkeypatch, capsys):
    """The time depends on the machine; the table says how many words were typed."""
    monkeypatch.setattr(benchmark, "STORIES", 1)
    monkeypatch.setattr(benchmark, "models", lambda tokenizer: {"a GAM": [Run(stories).load_model()]})
    assert benchmark.main([f"--out={tmp_path}"]) == 0
    result = read_json(tmp_path / "live.json")["pages"]["a GAM"]
    n = len(STORIES.decode(story_ids()).split())
    assert result["words"] == n - 1
    assert 0.0 < result["median_ms"] <= result["p95_ms"] <= 1.2 * result["largest_ms"]
    assert "| a GAM |" in capsys.readouterr().out
