"""Text to ids and back, losslessly, and what is not known is named."""

import json
import os
import time
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


@bpe
@pytest.mark.parametrize("text", ["[EOS]", "a [PAD] b", "[UNK] [SOS]", "[EOS] [EOS] the end"])
def test_a_text_that_spells_a_special_token_stays_text(tmp_path, text):
    PaperTokenizer.train(lambda: ["[EOS] the end", "[UNK] [PAD] [SOS] ab"], 90).save(tmp_path / "t.json")
    for made in (tokenizer.load(tmp_path / "t.json"), BPE):
        assert made.decode(made.encode(text)) == text
    made = tokenizer.load(tmp_path / "t.json")
    ids = made.encode(text)
    assert not {0, 1, 2, 3} & set(ids)
    assert made.encode_documents([text]) == [[*ids, made.end]]
    assert made.decode([*ids, made.end, *ids]) == f"{text}\n\n{text}"


@bpe
@pytest.mark.parametrize("text", ["##", "## a heading", "a ##b", "(## #) ###", "#", "#1 of ####2"])
@pytest.mark.parametrize("learned", [False, True])
def test_number_signs_survive(text, learned):
    rows = ["# a b 1 2 of heading (#) #)", *(["## ### #### (## ###) a"] * 9 if learned else [])]
    made = PaperTokenizer.train(lambda: rows, 90)
    assert made.unknown not in made.encode(text)
    again = made.decode(made.encode(text))
    assert "".join(again.split()) == "".join(text.split())
    assert "".join(made.decode(made.encode_documents([text])[0]).split()) == "".join(text.split())


@bpe
@pytest.mark.parametrize("run", ["acgt" * 25_000, "-" * 100_000, "a" + " " * 100_000 + "b"])
def test_words_that_would_take_hours_are_refused(run):
    began = time.monotonic()
    text = f"some words\n{run}\nand more"
    for tokenise in (
        lambda: PaperTokenizer.train(lambda: [text], 100),
        lambda: PAPER.encode(text),
        lambda: PAPER.encode_documents(["short", text]),
        lambda: BPETokenizer.train(text, 300),
        lambda: BPE.encode(text),
    ):
        with pytest.raises(InputError, match="more than 10,000 characters"):
            tokenise()
    assert PAPER.encode_documents([f"{'red ' * 9000}{'-' * 9000}\n" * 3])
    assert time.monotonic() - began < 5


@bpe
@pytest.mark.parametrize("made", [PAPER, BPE], ids=["paper", "bpe"])
def test_what_is_built_is_what_the_library_reads(made):
    """So that the tokenizers of stored results stay the same, byte by byte, and their ids too."""
    import tokenizers

    inner = tokenizers.Tokenizer.from_str(made.to_json())
    assert inner.to_str(pretty=True) == made.to_json()
    for text in SAID:
        assert made.encode(text) == inner.encode(text).ids


@bpe
def test_the_papers_pieces_of_a_small_text():
    made = PaperTokenizer.train(lambda: ["low lower lowest"] * 2, 22)
    pieces = [made.inner.id_to_token(i) for i in range(len(made))]
    learned = "##e ##o ##r ##s ##t ##w e l o r s t w ##ow low lowe ##st lower"
    assert " ".join(pieces) == f"{' '.join(made.SPECIAL)} {learned}"


@pytest.mark.parametrize("made", [WORDS, CharTokenizer.train("ab\udcff"), BPE, PAPER])
@pytest.mark.parametrize("strict", [True, False])
def test_invalid_bytes_of_a_prompt_are_one_line(made, strict):
    if made is None:
        pytest.skip("the extra `data` is not installed")
    with pytest.raises(InputError, match=r"an invalid byte \('\\udcff' at 1\), wanted UTF-8"):
        made.encode("a\udcff\udcfe", strict)


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
        '{"format": "minigam", "kind": "char", "vocabulary": []}',
        '{"format": "minigam", "kind": "char", "vocabulary": {"a": 0}}',
        '{"format": "minigam", "kind": "char", "vocabulary": ["a", "b", "a"]}',
        '{"format": "minigam", "kind": "char", "vocabulary": ["a", "bc"]}',
        '{"format": "minigam", "kind": "char", "vocabulary": ["a", ""]}',
        '{"format": "minigam", "kind": "word", "vocabulary": ["a b"]}',
        '{"format": "another", "kind": "word", "vocabulary": ["a"]}',
        '{"format": "minigam", "kind": "bpe", "vocabulary": ["a"]}',
        '{"model": 1}',
        pytest.param('{"model": {"vocab": {}, "merges": []}, "pre_tokenizer": 1}', marks=bpe),
    ],
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match=r"tokenizer\.json") as e:
        tokenizer.load(tmp_path / "tokenizer.json")
    assert "\n" not in str(e.value)


@bpe
@pytest.mark.parametrize("made", [PAPER, BPE], ids=["paper", "bpe"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("truncation", {"max_length": 1, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}),
        ("padding", {"strategy": {"Fixed": 10**12}, "pad_id": 0}),
        ("added_tokens", None),
        ("normalizer", {"type": "Lowercase"}),
        ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated"}),
        ("post_processor", {"type": "ByteLevel"}),
        ("decoder", {"type": "Fuse"}),
        ("version", "2.0"),
        ("model.type", "Unigram"),
        ("model.dropout", 0.5),
        ("model.unk_token", "never"),
        ("model.continuing_subword_prefix", "a prefix that is longer than any piece"),  # the library panics
        ("model.byte_fallback", True),
        ("model.vocab", {}),
        ("model.vocab", ["a"]),
        ("model.merges", {}),
        ("model.merges", [["e", "never"]]),
        ("model.merges", [["t"]]),
        ("model.merges", [["##", "#"]]),
        ("model.another", 1),
    ],
)
def test_what_the_library_would_read_otherwise_is_refused(tmp_path, capfd, made, name, value):
    content = json.loads(made.to_json())
    section, name = (content["model"], name.removeprefix("model.")) if "." in name else (content, name)
    section[name] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="not a tokenizer that minigam wrote") as e:
        tokenizer.load(tmp_path / "tokenizer.json")
    assert "\n" not in str(e.value)
    assert capfd.readouterr().err == ""  # a panic prints


@bpe
@pytest.mark.parametrize("made", [PAPER, BPE], ids=["paper", "bpe"])
@pytest.mark.parametrize("i", [-1, 3, 5000, 10**18, 10**30, 0.5, None, "7"])
def test_ids_that_are_not_in_order_are_refused(tmp_path, made, i):
    content = json.loads(made.to_json())
    content["model"]["vocab"]["e"] = i
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="not a tokenizer that minigam wrote"):
        tokenizer.load(tmp_path / "tokenizer.json")


@bpe
def test_a_tokenizer_with_large_files_but_no_more(tmp_path):
    """It may be larger than other JSON files, but a sparse file is larger than any."""
    vocabulary = [*BPETokenizer.required(), *(f"{i:05000}" for i in range(4000))]
    made = BPETokenizer.build({piece: i for i, piece in enumerate(vocabulary)}, [])
    made.save(tmp_path / "tokenizer.json")
    assert (tmp_path / "tokenizer.json").stat().st_size > 2**24
    assert len(tokenizer.load(tmp_path / "tokenizer.json")) == len(vocabulary)
    os.truncate(tmp_path / "tokenizer.json", 2**40)
    with pytest.raises(InputError, match="more than"):
        tokenizer.load(tmp_path / "tokenizer.json")
