"""Text to ids and back, losslessly, and what is not known is named."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigam.config import InputError
from minigam.data import pocketstories, tokenizer
from minigam.data.tokenizer import BPETokenizer, CharTokenizer, PaperTokenizer, WordTokenizer

WORDS = WordTokenizer(pocketstories.vocabulary())
BPE = BPETokenizer.train("the cat sat on the mat. " * 50, 270) if find_spec("tokenizers") else None
SAID = (
    '"Well," said the fox (who isn\'t red), "I can\'t swim!"',
    "Lily's needle: is it sharp? No; it's the boys' own.",
    "He said, “Come!” and they went.",
    'A cat said, "Hi." Then "Oh?" and she ran.',
)
PAPER = PaperTokenizer.train(lambda: SAID * 3, 200) if find_spec("tokenizers") else None
bpe = pytest.mark.skipif(BPE is None, reason="the extra `data` is not installed")


def test_words_come_back_through_readable_text():
    for story in pocketstories.stories(200, seed=3):
        ids = [WORDS.id_of[t.text] for t in story]
        text = WORDS.decode(ids)
        assert " ," not in text
        assert "“ " not in text
        assert WORDS.encode(text) == ids


def test_stories_are_decoded_as_paragraphs():
    end = WORDS.id_of[pocketstories.BOUNDARY]
    fox = WORDS.id_of["fox"]
    assert WORDS.decode([end, fox, end, fox, end]) == "fox\n\nfox"


def test_unknown_words_are_named():
    with pytest.raises(InputError, match=r"unknown words 'Zeus', 'zebra'"):
        WORDS.encode("Once upon a zebra Zeus")
    with pytest.raises(InputError, match=r"unknown characters '€'"):
        CharTokenizer.train("abc").encode("a€")


@given(st.text(min_size=1))
def test_characters_come_back(text):
    chars = CharTokenizer.train(text)
    assert chars.decode(chars.encode(text)) == text


def test_unknown_characters_of_a_validation_file_share_one_id():
    chars = CharTokenizer.train("abc")
    assert chars.encode("aX€", strict=False) == [chars.id_of["a"], 0, 0]


@bpe
@given(st.text())
def test_bpe_gives_back_any_text(text):
    assert BPE.decode(BPE.encode(text)) == text


@bpe
def test_bpe_learns_and_bounds_its_vocabulary():
    assert 256 < len(BPE) <= 270
    assert len(BPE.encode("the the the")) < len("the the the")
    with pytest.raises(InputError, match="wanted 256"):
        BPETokenizer.train("text", 100)


@bpe
@pytest.mark.parametrize("text", SAID)
def test_the_papers_tokens_come_back_as_readable_text(text):
    ids = PAPER.encode(text)
    assert PAPER.unknown not in ids
    expected = text.replace("boys' own", "boys ' own")  # after an s, nothing tells a possessive from a quote
    assert PAPER.decode(ids) == expected


@bpe
def test_the_papers_special_tokens_come_first_and_are_not_shown():
    assert [PAPER.inner.id_to_token(i) for i in range(4)] == ["[UNK]", "[PAD]", "[SOS]", "[EOS]"]
    assert (PAPER.unknown, PAPER.end) == (0, 3)
    fox = PAPER.encode("fox")
    assert PAPER.decode([3, 2, *fox, *fox, 1, 3, 3, *fox, 3]) == "fox fox\n\nfox"
    assert PAPER.decode(PAPER.encode("the 日 fox")) == "the \N{REPLACEMENT CHARACTER} fox"
    assert PAPER.encode_documents(["fox", "fox red"]) == [[*fox, 3], [*PAPER.encode("fox red"), 3]]
    assert PAPER.encode("##o") == [0, 0, *PAPER.encode("o")]  # what marks a piece means nothing in a text


@bpe
def test_the_papers_pieces_tell_where_a_word_begins():
    pieces = [PAPER.inner.id_to_token(i) for i in PAPER.encode("foxsharp fox sharp")]
    assert "".join(pieces).replace("##", "") == "foxsharpfoxsharp"
    assert [p.startswith("##") for p in pieces].count(False) == 3
    assert PAPER.decode(PAPER.encode("foxsharp fox sharp")) == "foxsharp fox sharp"
    assert not PAPER.decode(PAPER.encode("foxsharp")[1:]).startswith("##")


@bpe
def test_the_papers_tokenizer_is_the_same_each_time():
    """The library alone numbers the pieces as its hash tables happen to hold them."""
    made = {PaperTokenizer.train(lambda: SAID * 3, 200).to_json() for _ in range(5)}
    assert made == {PAPER.to_json()}
    assert 100 < len(PAPER) <= 200
    assert len(PaperTokenizer.train(lambda: SAID * 3, 100)) == 100
    with pytest.raises(InputError, match="wanted 5 to"):
        PaperTokenizer.train(lambda: SAID, 4)


def test_saved_and_loaded(tmp_path):
    made = [WORDS, CharTokenizer.train("some text\n\t“é”"), *filter(None, (BPE, PAPER))]
    for t in made:
        t.save(tmp_path / "tokenizer.json")
        again = tokenizer.load(tmp_path / "tokenizer.json")
        assert again.kind == t.kind
        assert again.end == t.end
        assert len(again) == len(t)
        ids = np.arange(20) % len(t)
        assert again.decode(ids) == t.decode(ids)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"kind": "word"}',
        json.dumps({"kind": "music"}),
        '{"kind": ["char"]}',
        '{"kind": "char", "vocabulary": [[]]}',
    ],
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        tokenizer.load(tmp_path / "tokenizer.json")
