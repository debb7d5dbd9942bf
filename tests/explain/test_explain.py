"""The page about one text: its numbers are the model's, its text is only text, and it loads nothing."""

import json
import re

import numpy as np
import pytest
from helpers import tiny
from helpers.commands import SMALL, assert_refused
from helpers.pages import HOSTILE, data_of, write

from minigam import GAM, GAMConfig, ops, train
from minigam.config import MIXERS, WRITTEN, InputError
from minigam.data import corpus, pocketstories
from minigam.data.tokenizer import WordTokenizer
from minigam.explain import __main__ as command
from minigam.explain import page as explain
from minigam.models import anatomy
from minigam.models.decoding import continued
from minigam.training.run import Run

LETTERS = WordTokenizer(list("abcdefg"))
IDS = [0, 3, 1, 6, 3]


def explained(model: GAM, exact: bool = False, after: int | None = None) -> dict:
    word_shares = explain.slot_words(model, np.array([[*IDS, -1]]), least=1)
    return explain.explanation(model, LETTERS, IDS, after, word_shares, exact)


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
    data, p = explained(model, after=2), softmax(model(np.array([IDS])).data[0])
    for t, expected in enumerate(data["next"]):
        assert len(expected["words"]) >= explain.NEXT
        assert expected["words"][0][0] == "abcdefg"[p[t].argmax()]
        assert {w for w, *_ in expected["words"]} >= {"abcdefg"[([*IDS, 2])[t + 1]]}
        for word, shown, exact in expected["words"]:
            assert shown == pytest.approx(p[t, "abcdefg".index(word)], rel=1e-3)
            assert exact is None
    costs = [token["cost"] for token in [*data["tokens"], data["after"]]]
    assert costs[0] is None
    assert costs[1:] == pytest.approx([-np.log(p[t, i]) for t, i in enumerate([*IDS[1:], 2])], rel=1e-3)


def test_gates_and_slots_by_brute_force():
    model = tiny.gam(n_slots=9)
    data = explained(model)
    for layer, (local, glob, shares) in zip(data["layers"], by_hand(model), strict=True):
        assert layer["local"] == pytest.approx(local.mean(1), rel=1e-3)
        assert layer["global"] == pytest.approx(glob.mean(1), rel=1e-3)
        for t, top in enumerate(layer["slots"]):
            best = sorted(range(9), key=lambda s: -shares[t, s])[: explain.SLOTS]
            assert [s for s, _ in top] == best
            assert [a for _, a in top] == pytest.approx(shares[t, best], rel=1e-3)
        for slot, words in layer["words"].items():
            mean = {i: np.mean([shares[t, slot] for t in range(5) if IDS[t] == i]) for i in set(IDS)}
            best = sorted(mean, key=lambda i: -mean[i])[: explain.WORDS]
            assert [w for w, _ in words] == ["abcdefg"[i] for i in best]
            assert [a for _, a in words] == pytest.approx([mean[i] for i in best], rel=1e-3)


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
    data = explained(tiny.gam(mixer))
    assert data["model"]["reach"] == {"global": 1, WRITTEN: None}.get(mixer, 5)
    assert data["model"]["label"] == ("GAM, written memory (ours)" if mixer == WRITTEN else "GAM")
    for layer in data["layers"]:
        gated = mixer in ("gated", WRITTEN)
        assert (layer["local"] is not None) == (layer["global"] is not None) == gated
        for name in ("written", "sources", "learned"):
            assert (layer[name] is not None) == (mixer == WRITTEN)
        assert (layer["slots"] is not None) == (mixer != "local") == bool(layer["words"])


@pytest.mark.parametrize("least", [0.0, 0.2])
def test_where_a_token_is_written_and_where_its_recall_comes_from(least, monkeypatch):
    monkeypatch.setattr(explain, "LEAST", least)
    model = tiny.gam(WRITTEN, n_slots=9)
    views = anatomy.views(model, np.array([IDS]))[1]
    for layer, view in zip(explained(model)["layers"], views, strict=True):
        for t in range(5):
            w, sources = view.written[0, t], view.sources[0, t]
            best = sorted(range(9), key=lambda s: -w[s])[: explain.SLOTS]
            assert [s for s, _ in layer["written"][t]] == best
            assert [share for _, share in layer["written"][t]] == pytest.approx(w[best], rel=1e-3)
            kept = sorted((j for j in range(5) if sources[j] >= least), key=lambda j: (-sources[j], j))
            assert [j for j, _ in layer["sources"][t]] == kept
            assert [share for _, share in layer["sources"][t]] == pytest.approx(sources[kept], rel=1e-3)
            assert least > 0.0 or sum(s for _, s in layer["sources"][t]) + layer["learned"][t] == (
                pytest.approx(1.0, abs=1e-3)
            )
        shown = {s for name in ("slots", "written") for row in layer[name] for s, _ in row}
        assert set(layer["words"]) == shown, "the words of every slot that is shown"


def test_a_model_that_has_lost_its_numbers_is_refused():
    model = tiny.gam()
    model.norm.weight.data[:] = np.nan
    with pytest.raises(InputError, match="nan or infinite, wanted numbers"):
        explained(model)


def test_no_token_can_leave_its_place():
    html = explain.page({"tokens": [HOSTILE]})
    assert data_of(html) == {"tokens": [HOSTILE]}
    assert html.count("</script>") == 2
    assert html.count("<!--") == 0
    assert explain.MARK not in html


def test_the_page_asks_for_nothing_from_elsewhere():
    html = explain.TEMPLATE.read_text(encoding="utf-8")
    assert "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'" in html
    assert not re.search(r"https?:|//\w|@import|url\(|innerHTML|insertAdjacent|document\.write|\bsrc=", html)
    assert html.count(explain.MARK) == 1


def test_a_story_of_the_validation_set_has_the_floors_and_kinds_of_the_corpus(stories, tmp_path):
    drawn = corpus.from_pocketstories(Run(stories).config.model.block_size, 20, 2)
    for flags, n in (([], 0), (["--story=2"], 1)):
        data = write(stories, tmp_path / "e.html", *flags)
        length = int((drawn.valid[n] >= 0).sum()) - 1
        read = [*data["tokens"], data["after"]]
        assert [drawn.tokenizer.id_of[t["text"]] for t in read] == drawn.valid[n, : length + 1].tolist()
        assert [t["floor"] for t in read[1:]] == pytest.approx(drawn.floor[n, :length], rel=1e-3)
        assert [pocketstories.KINDS.index(t["kind"]) for t in read[1:]] == drawn.kinds[n, :length].tolist()
        assert data["first_sampled"] == length
        assert "can write this text" in data["known"]


def test_a_prompt_has_floors_as_far_as_the_generator_would_write_it(stories, tmp_path):
    data = write(stories, tmp_path / "e.html", "--prompt=Once upon a time, Sam shared the fox")
    assert [t["text"] for t in data["tokens"]][-3:] == ["shared", "the", "fox"]
    assert [t["floor"] is None for t in data["tokens"]] == [True] + [False] * 6 + [True] * 3
    assert "never writes \u201cshared\u201d here (token 8)" in data["known"]
    assert [e["choices"] for e in data["next"]][-4:] == [1, 0, 0, 0]
    assert data["next"][6]["words"][-1][::2] == ["shared", 0.0]  # the actual word is listed too


def test_a_prompt_is_continued_as_generate_does_it(stories, tmp_path):
    flags = ["--prompt=Once upon", "--tokens=9", "--temperature=1", "--seed=3"]
    data, run = write(stories, tmp_path / "e.html", *flags), Run(stories)
    tokenizer = run.tokenizer()
    ids = run.load_model().generate([tokenizer.end, *tokenizer.encode("Once upon")], 9, 1.0, None, 3)
    assert [t["text"] for t in data["tokens"]] == [tokenizer.vocabulary[i] for i in ids]
    assert (data["first_sampled"], data["after"]) == (3, None)


def test_sampling_ends_with_the_story():
    class Ends:
        def continuation(self, *asked):
            yield from (np.array([i]) for i in (4, 5, 0, 6))

    tokenizer = WordTokenizer([pocketstories.BOUNDARY, *"abcdef"])
    assert continued(Ends(), tokenizer, [0, 1], 4, 1.0, None, 0) == ([0, 1, 4, 5], 0)


def test_text_without_a_generator_says_so(letters, tmp_path):
    data = write(letters, tmp_path / "e.html", f"--prompt={HOSTILE}")
    assert "".join(t["text"] for t in data["tokens"]) == HOSTILE
    assert "The generator of t.txt is unknown" in data["known"]
    assert {t["floor"] for t in data["tokens"]} == {None}
    assert write(letters, tmp_path / "e.html")["title"] == "row 1 of the validation set"


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
    here = explained(model)
    model.to("fakegpu")
    assert explained(model) == here
