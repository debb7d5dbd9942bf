"""The page about one text: its numbers are the model's, its text is only text, and it loads nothing."""

import base64
import json
import re

import numpy as np
import pytest
from helpers import tiny
from helpers.commands import ON_TEXT, SMALL, assert_refused
from helpers.pages import HOSTILE, LETTERS, data_of, element, write

from minigam import GAM, GAMConfig, ops, train
from minigam.config import MIXERS, WRITTEN, InputError
from minigam.data import corpus, oracle, pocketstories
from minigam.data.tokenizer import WordTokenizer
from minigam.explain import __main__ as command
from minigam.explain import page as explain
from minigam.models import anatomy
from minigam.models.decoding import continued
from minigam.training.run import Run

IDS = [0, 3, 1, 6, 3]


def softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


def by_hand(model: GAM) -> list[tuple]:
    """Return local gates, global gates (T, C) and shares (T, S) of every block."""
    C, blocks = model.config.d_model, []
    x = ops.embedding(model.token_embedding.weight, np.array([IDS]))
    x = x + model.position_embedding.weight[: len(IDS)]
    for block in model.blocks:
        u = block.norm1(x).data[0]
        gate = 1.0 / (1.0 + np.exp(-(u @ block.gate.weight.data.T + block.gate.bias.data)))
        blocks.append((gate[:, :C], gate[:, C:], softmax(u @ block.memory.data.T)))
        x = block(x)
    return blocks


def test_probabilities_and_costs_are_the_models():
    model = tiny.gam()
    data, p = explain.reading(model, IDS, 2), softmax(model(np.array([IDS])).data[0])
    for t, expected in enumerate(data["next"]):
        assert len(expected) >= explain.NEXT
        assert expected[0][0] == p[t].argmax()
        assert {i for i, _ in expected} >= {([*IDS, 2])[t + 1]}
        for i, shown in expected:
            assert shown == pytest.approx(p[t, i], rel=1e-3)
    assert data["costs"] == pytest.approx([-np.log(p[t, i]) for t, i in enumerate([*IDS[1:], 2])], rel=1e-3)
    assert len(explain.reading(model, IDS, None)["costs"]) == 4


def test_gates_and_slots_by_brute_force():
    model = tiny.gam(n_slots=9)
    means = explain.slot_words(model, np.array([[*IDS, -1]]), least=1)
    views = explain.reading(model, IDS, None)["views"]
    for n, (local, glob, shares) in enumerate(by_hand(model)):
        for t, layers in enumerate(views):
            for name, gate in (("local", local), ("global", glob)):
                spread = [gate[t].mean(), *np.percentile(gate[t], [10, 90])]
                assert layers[n][name] == pytest.approx(spread, rel=1e-3)
            best = sorted(range(9), key=lambda s: -shares[t, s])[: explain.SLOTS]
            assert [s for s, _ in layers[n]["slots"]] == best
            assert [a for _, a in layers[n]["slots"]] == pytest.approx(shares[t, best], rel=1e-3)
        for slot, words in enumerate(explain.exciting(means[n], LETTERS)):
            mean = {i: np.mean([shares[t, slot] for t in range(5) if IDS[t] == i]) for i in set(IDS)}
            best = sorted(mean, key=lambda i: -mean[i])[: explain.WORDS]
            assert words == ["abcdefg"[i] for i in best]


def test_words_of_the_slots_are_the_same_in_parts_and_leave_out_what_is_rare(monkeypatch):
    model = tiny.gam()
    rows = np.array([[0, 1, 1, 2, -1], [1, 0, 5, 0, 3], [0, 1, 6, -1, -1]])
    whole = explain.slot_words(model, rows)
    monkeypatch.setattr(explain, "PART", 1)
    for one, other in zip(explain.slot_words(model, rows), whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
        frequent = ~np.isnan(one).any(axis=0)
        assert [i for i in range(7) if frequent[i]] == [0, 1]  # four times each; all others fewer than 3


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_shows_what_it_has(mixer):
    model = tiny.gam(mixer)
    spec = explain.described(model)
    assert spec["reach"] == {"global": 1, WRITTEN: None}.get(mixer, 5)
    assert spec["label"] == ("GAM, written memory (ours)" if mixer == WRITTEN else "GAM")
    for layers in explain.reading(model, IDS, None)["views"]:
        for layer in layers:
            gated = mixer in ("gated", WRITTEN)
            assert (layer["local"] is not None) == (layer["global"] is not None) == gated
            for name in ("written", "sources", "learned"):
                assert (layer[name] is not None) == (mixer == WRITTEN)
            assert (layer["slots"] is not None) == (mixer != "local")


@pytest.mark.parametrize("least", [0.0, 0.2])
def test_where_a_token_is_written_and_where_its_recall_comes_from(least, monkeypatch):
    monkeypatch.setattr(explain, "LEAST", least)
    model = tiny.gam(WRITTEN, n_slots=9)
    views = anatomy.views(model, np.array([IDS]))[1]
    for t, layers in enumerate(explain.reading(model, IDS, None)["views"]):
        for layer, view in zip(layers, views, strict=True):
            w, sources = view.written[0, t], view.sources[0, t]
            best = sorted(range(9), key=lambda s: -w[s])[: explain.SLOTS]
            assert [s for s, _ in layer["written"]] == best
            assert [share for _, share in layer["written"]] == pytest.approx(w[best], rel=1e-3)
            kept = sorted((j for j in range(5) if sources[j] >= least), key=lambda j: (-sources[j], j))
            assert [j for j, _ in layer["sources"]] == kept
            assert [share for _, share in layer["sources"]] == pytest.approx(sources[kept], rel=1e-3)
            assert least > 0.0 or sum(s for _, s in layer["sources"]) + layer["learned"] == (
                pytest.approx(1.0, abs=1e-3)
            )


def test_a_model_that_has_lost_its_numbers_is_refused():
    model = tiny.gam()
    model.norm.weight.data[:] = np.nan
    with pytest.raises(InputError, match="nan or infinite, wanted numbers"):
        explain.contents(model, None, LETTERS, explain.Text("a text", IDS, None, 5))


def test_what_the_documents_say_of_the_two_models_of_the_package():
    """After "But since spring" the GAM gives he and she 50 % each; the Transformer says he, as it must be."""
    runs = explain.FOLDER.parent / "course" / "runs"
    row = Run(runs / "gam").corpus().valid[0]
    tokenizer = WordTokenizer(pocketstories.vocabulary())
    t = row.tolist().index(tokenizer.id_of["spring"])
    assert [tokenizer.vocabulary[i] for i in row[t - 2 : t + 2]] == ["But", "since", "spring", "he"]
    he, she = (tokenizer.id_of[word] for word in ("he", "she"))
    shares = {}
    for name in ("gam", "transformer"):
        shares[name] = softmax(Run(runs / name).load_model()(row[None, : t + 1]).data[0, -1])
    assert [round(100 * float(shares["gam"][i])) for i in (he, she)] == [50, 50]
    assert round(100 * float(shares["transformer"][he])) == 100
    known = oracle.read([tokenizer.vocabulary[i] for i in row[: t + 2]])
    assert (known[t].follows, known[t + 1].lookback) == ({"he": 1.0}, 15)


# -------------------------------------------------------------------------------- the page


def test_the_weights_in_the_page_are_the_models(stories, rival_of_stories, tmp_path):
    data = write(stories, tmp_path / "e.html", f"--rival={rival_of_stories}")
    html = (tmp_path / "e.html").read_text(encoding="utf-8")
    weights = np.frombuffer(base64.b64decode(element(html, "weights")), "<f4")
    for spec, path in ((data["model"], stories), (data["rival"], rival_of_stories)):
        model = Run(path).load_model()
        assert spec["parameters"] == model.num_parameters()
        for name, array in model.state_dict().items():
            start, size = spec["arrays"][name]
            np.testing.assert_array_equal(weights[start : start + size], array.reshape(-1))


@pytest.mark.parametrize("kind", ["large", "bpe"])
def test_a_model_that_the_page_cannot_run_is_not_in_it(kind, stories, tmp_path, monkeypatch):
    run = stories
    if kind == "large":
        monkeypatch.setattr(explain, "LARGEST", 1000)
    else:
        pytest.importorskip("tokenizers")
        (tmp_path / "t.txt").write_text("some text, and a little more of it\n" * 200, encoding="utf-8")
        flags = ["--tokenizer=bpe", "--bpe-size=280", f"--text={tmp_path / 't.txt'}", "--block-size=16"]
        assert train.main([*ON_TEXT, *flags, f"--out={tmp_path / 'bpe'}"]) == 0
        run = tmp_path / "bpe"
    data = write(run, tmp_path / "e.html")
    assert {"large": "it has ", "bpe": "its tokens are those of a byte-pair encoding"}[kind] in data["reason"]
    assert element((tmp_path / "e.html").read_text(encoding="utf-8"), "weights") == ""
    model, text = Run(run).load_model(), data["text"]
    assert data["reading"] == explain.reading(model, text["ids"], text["after"])
    assert {str(i) for row in data["reading"]["next"] for i, _ in row} <= set(data["names"])


def test_examples_are_beginnings_of_stories_that_the_generator_can_write():
    tokenizer = WordTokenizer(pocketstories.vocabulary())
    for reach, border in ((5, 5), (13, 13), (None, 13)):
        made = explain.examples(tokenizer, reach)
        assert [e["label"].split(" Decided ")[0] for e in made] == ["He or she?"] * 2 + ["Which friend?"]
        for example, (least, most) in zip(
            made, ((2, border), (border + 1, 99), (2 * border + 1, 99)), strict=True
        ):
            back = int(re.search(r"Decided (\d+) tokens back", example["label"])[1])
            words = [pocketstories.BOUNDARY, *tokenizer.split(example["text"])]
            (word,) = oracle.read(words)[-1].follows  # the generator can write one word only
            assert oracle.read([*words, word])[-1].lookback == back
            assert least <= back <= most


def test_no_token_can_leave_its_place():
    html = explain.page({"tokens": [HOSTILE]})
    assert data_of(html) == {"tokens": [HOSTILE]}
    assert html.count("</script>") == 3
    assert html.count("<!--") == 0
    assert not re.search("@[A-Z]+@", html)


def test_the_page_asks_for_nothing_from_elsewhere():
    html = explain.page({})
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; form-action 'none'"
    assert policy in html
    assert not re.search(
        r"https?:|//\w|@import|url\(|innerHTML|insertAdjacent|document\.write|\bsrc=|eval\(|new Function",
        html,
    )


def test_every_file_of_the_folder_is_part_of_the_page():
    files = {p.name for p in explain.FOLDER.iterdir() if p.suffix in (".html", ".css", ".js")}
    assert files == {"page.html", *(name for names in explain.PARTS.values() for name in names)}


def test_a_story_of_the_validation_set_is_that_of_the_corpus(stories, tmp_path):
    drawn = corpus.from_pocketstories(Run(stories).config.model.block_size, 20, 2)
    for flags, n in (([], 0), (["--story=2"], 1)):
        text = write(stories, tmp_path / "e.html", *flags)["text"]
        row = drawn.valid[n]
        assert [*text["ids"], text["after"]] == row[row >= 0].tolist()
        assert text["first_sampled"] == len(text["ids"])


def test_a_prompt_is_continued_as_generate_does_it(stories, tmp_path):
    flags = ["--prompt=Once upon", "--tokens=9", "--temperature=1", "--seed=3"]
    data, run = write(stories, tmp_path / "e.html", *flags), Run(stories)
    tokenizer = run.tokenizer()
    ids = run.load_model().generate([tokenizer.end, *tokenizer.encode("Once upon")], 9, 1.0, None, 3)
    assert data["text"] == {"title": "a prompt", "ids": ids.tolist(), "after": None, "first_sampled": 3}


def test_sampling_ends_with_the_story():
    class Ends:
        def continuation(self, *asked):
            yield from (np.array([i]) for i in (4, 5, 0, 6))

    tokenizer = WordTokenizer([pocketstories.BOUNDARY, *"abcdef"])
    assert continued(Ends(), tokenizer, [0, 1], 4, 1.0, None, 0) == ([0, 1, 4, 5], 0)


def test_a_text_without_a_generator(letters, tmp_path):
    data = write(letters, tmp_path / "e.html", f"--prompt={HOSTILE}")
    assert "".join(data["names"][str(i)] for i in data["text"]["ids"]) == HOSTILE
    assert (data["corpus"], data["grammar"], data["examples"]) == ("t.txt", None, [])
    assert write(letters, tmp_path / "e.html")["text"]["title"] == "row 1 of the validation set"


def test_pieces_of_byte_pairs_are_readable(tmp_path):
    pytest.importorskip("tokenizers")
    from minigam.data.tokenizer import BPETokenizer

    tokenizer = BPETokenizer.train("some text, some more text", 270)
    ids = tokenizer.encode("some caf\u00e9")
    assert "".join(explain.piece(tokenizer, i) for i in ids[:-2]) == "some caf"
    assert all(explain.piece(tokenizer, i) for i in ids)  # half a letter too


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["--prompt=Once upon a zebra"], ["unknown words 'zebra'"]),
        (["--prompt=Once", "--story=1"], ["--story and --prompt: both given, wanted one of them"]),
        (["--tokens=3"], ["--tokens: no prompt to continue"]),
        (["--story=3"], ["--story is 3, wanted at most 2"]),
        (["--story=0"], ["--story is 0"]),
        (["--prompt=Once", "--tokens=9999"], ["a prompt of 2 tokens and 9999 more", "block_size"]),
        (["--prompt=Once", "--tokens=-1"], ["--tokens is -1"]),
        (["--temperature=nan"], ["--temperature is nan"]),
        (["--rows=0"], ["--rows is 0"]),
        (["--seed=-1"], ["--seed is -1"]),
        (["--out=."], ["--out .", "wanted a file in a folder that exists"]),
        (["-o", "nowhere/e.html"], ["--out nowhere/e.html", "wanted a file in a folder that exists"]),
        (["--out="], ["an empty name"]),
        (["--promt=x"], ["did you mean --prompt"]),
    ],
)
def test_bad_input_is_one_line(flags, wanted, capsys, stories, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(command.main, [stories, "--backend=numpy", *flags], capsys, *wanted)
    assert not list(tmp_path.iterdir())


def test_other_runs_are_refused(capsys, tmp_path):
    assert_refused(command.main, [tmp_path / "nowhere"], capsys, "nowhere", "not a folder")
    path = tmp_path / "run"
    assert train.main([*SMALL, "--model=transformer", f"--out={path}"]) == 0
    capsys.readouterr()
    assert_refused(command.main, [path], capsys, "a run of transformer, wanted one of gam")
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    gam = GAMConfig(vocab_size=9, block_size=8, d_model=4).to_dict()
    config |= {"model_type": "gam", "model": gam, "data": config["data"] | {"dataset": "mqar"}}
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert_refused(command.main, [path], capsys, "trained on mqar, wanted a run on text")


def test_a_rival_that_does_not_fit_is_refused(
    capsys, stories, letters, rival_of_stories, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for flags, *wanted in (
        ([f"--rival={stories}"], "a run of gam, wanted one of transformer"),
        (["--rival=nowhere"], "nowhere: not a folder"),
        (["--rival="], "an empty name"),
    ):
        assert_refused(command.main, [stories, "--backend=numpy", *flags], capsys, *wanted)
    assert_refused(
        command.main,
        [letters, "--backend=numpy", f"--rival={rival_of_stories}"],
        capsys,
        "another vocabulary",
    )
    monkeypatch.setattr(explain, "LARGEST", 1000)
    flags = ["--backend=numpy", f"--rival={rival_of_stories}"]
    assert_refused(command.main, [stories, *flags], capsys, "the page cannot run", "omit --rival")
    assert not list(tmp_path.iterdir())


def test_the_page_is_written_whole_or_not_at_all(capsys, stories, tmp_path, monkeypatch):
    out = tmp_path / "e.html"
    write(stories, out)
    before = out.read_bytes()
    monkeypatch.setattr(
        "pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    flags = [stories, "--backend=numpy", f"--out={out}", "--story=2"]
    assert_refused(command.main, flags, capsys, "e.html", "No space left")
    assert out.read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]


def test_a_gam_of_any_mixer_gets_its_page(capsys, tmp_path):
    for mixer in MIXERS[1:]:
        flags = [*SMALL, f"--mixer={mixer}", f"--out={tmp_path / mixer}"]
        assert train.main(flags) == 0
        assert write(tmp_path / mixer, tmp_path / f"{mixer}.html")["model"]["mixer"] == mixer


@pytest.mark.parametrize("mixer", ["gated", WRITTEN])
def test_a_device_shows_the_same(mixer):
    """On the pretend GPU, whose arrays refuse to be mixed with the host's."""
    model = tiny.gam(mixer)
    here = explain.reading(model, IDS, 2), explain.embedded([model])
    model.to("fakegpu")
    assert (explain.reading(model, IDS, 2), explain.embedded([model])) == here
