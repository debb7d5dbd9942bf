"""Text to ids and back, losslessly, and what is not known is named."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigam import pocketstories, tokenizer
from minigam.config import InputError
from minigam.tokenizer import BPETokenizer, CharTokenizer, WordTokenizer

WORDS = WordTokenizer(pocketstories.vocabulary())
BPE = BPETokenizer.train("the cat sat on the mat. " * 50, 270) if find_spec("tokenizers") else None
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
    with pytest.raises(InputError, match="at least 256"):
        BPETokenizer.train("text", 100)


def test_saved_and_loaded(tmp_path):
    made = [WORDS, CharTokenizer.train("some text\n\t“é”")] + ([BPE] if BPE else [])
    for t in made:
        t.save(tmp_path / "tokenizer.json")
        again = tokenizer.load(tmp_path / "tokenizer.json")
        assert again.kind == t.kind
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
