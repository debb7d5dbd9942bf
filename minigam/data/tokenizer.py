"""Text to token ids and back: words for PocketStories, characters or byte-pair encoding for any text,
and the byte-pair encoding of the paper."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from minigam.config import InputError
from minigam.data.pocketstories import BOUNDARY
from minigam.files import read_json, write_text

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
MOST = 1_000_000  # entries; the library takes memory for all it is told of, and ends the process


class _TableTokenizer:
    """A tokeniser that is a list of tokens, the id of each its place."""

    kind: str

    def __init__(self, vocabulary: list[str]):
        self.vocabulary = vocabulary
        self.id_of = {token: i for i, token in enumerate(vocabulary)}

    def __len__(self) -> int:
        return len(self.vocabulary)

    def split(self, text: str) -> list[str]:
        raise NotImplementedError

    def encode(self, text: str, strict: bool = True) -> list[int]:
        """Return the ids of `text`. Raises InputError naming what it does not know, unless told
        not to be strict and the vocabulary has a token for the unknown."""
        tokens, default = self.split(text), None if strict else self.id_of.get(UNKNOWN)
        if default is None and (unknown := sorted({t for t in tokens if t not in self.id_of})):
            listed = ", ".join(repr(t) for t in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
            raise InputError(
                f"unknown {'words' if self.kind == 'word' else 'characters'} {listed}; "
                f"wanted some of the {len(self)} that the run's tokenizer.json lists"
            )
        return [self.id_of[t] if default is None else self.id_of.get(t, default) for t in tokens]

    def to_json(self) -> str:
        content = {"format": "minigam", "kind": self.kind, "vocabulary": self.vocabulary}
        return json.dumps(content, ensure_ascii=False, indent=0) + "\n"

    def save(self, path: Path) -> None:
        write_text(path, self.to_json())


class WordTokenizer(_TableTokenizer):
    """Whole words and single punctuation marks, as PocketStories needs. Case matters."""

    kind = "word"
    TOKEN = re.compile(re.escape(BOUNDARY) + r"|\w+|[^\w\s]")

    @property
    def end(self) -> int | None:
        """The id that ends a story, and stands before the first."""
        return self.id_of.get(BOUNDARY)

    def split(self, text: str) -> list[str]:
        return self.TOKEN.findall(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Return readable text: `encode` gives back the ids, a story to a paragraph."""
        text = " ".join(self.vocabulary[i] for i in ids)
        text = re.sub(r" ([,.!?:”])", r"\1", text).replace("“ ", "“")
        return re.sub(rf" *{re.escape(BOUNDARY)} *", "\n\n", text).strip()


class CharTokenizer(_TableTokenizer):
    """One character, one token."""

    kind = "char"
    end: int | None = None

    @classmethod
    def train(cls, text: str) -> "CharTokenizer":
        """Take the characters of `text`, and one token more for any other."""
        return cls([UNKNOWN, *sorted(set(text) - {UNKNOWN})])

    def split(self, text: str) -> list[str]:
        return list(text)

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self.vocabulary[i] for i in ids)


class _LibraryTokenizer:
    """A tokeniser of the `tokenizers` library."""

    kind: str

    def __init__(self, inner: Any):
        self.inner = inner

    def __len__(self) -> int:
        return self.inner.get_vocab_size()

    def encode(self, text: str, strict: bool = True) -> list[int]:
        return self.inner.encode(text).ids

    def to_json(self) -> str:
        return self.inner.to_str(pretty=True)

    def save(self, path: Path) -> None:
        write_text(path, self.to_json())


class BPETokenizer(_LibraryTokenizer):
    """Byte-pair encoding over bytes, so that no text is unknown and every text comes back as it was."""

    kind = "bpe"
    end: int | None = None

    @classmethod
    def train(cls, text: str, vocab_size: int) -> "BPETokenizer":
        """Learn at most `vocab_size` tokens from `text`; 256 are the bytes."""
        tokenizers = _tokenizers()
        if not 256 <= vocab_size <= MOST:
            raise InputError(f"bpe_size is {vocab_size}, wanted 256, one for each byte, to {MOST}")
        inner = tokenizers.Tokenizer(tokenizers.models.BPE())
        inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        inner.train_from_iterator(text.splitlines(keepends=True), trainer)
        return cls(inner)

    def decode(self, ids: Iterable[int]) -> str:
        return self.inner.decode(list(ids))


class PaperTokenizer(_LibraryTokenizer):
    """The paper's tokeniser: byte-pair encoding of characters, within words and runs of punctuation.

    Like the authors' it is a BPE with [UNK], trained by BpeTrainer with 10,000 entries and the special tokens
    below, after the Whitespace pre-tokeniser. It differs in one thing: a piece that continues a word
    carries the prefix ##. Theirs has none, so nothing tells where a word ends, and text cannot be
    restored. The price is that a piece may need two entries, one to begin a word and one to go on: on
    the test and validation text of WikiText-2, 1.0 and 1.5 % more tokens.

    A document ends with [EOS], as GPT-2's do with its end-of-text token: our reading, the paper does
    not say. [PAD] and [SOS] are never written. A character that the training text lacks becomes [UNK].
    """

    kind = "paper"
    SPECIAL = ("[UNK]", "[PAD]", "[SOS]", "[EOS]")
    PREFIX = "##"

    @property
    def end(self) -> int | None:
        """The id of [EOS], which ends a document."""
        return self.inner.token_to_id("[EOS]")

    @property
    def unknown(self) -> int | None:
        """The id of [UNK]."""
        return self.inner.token_to_id("[UNK]")

    @classmethod
    def train(cls, texts: Callable[[], Iterable[str]], vocab_size: int = 10_000) -> "PaperTokenizer":
        """Learn at most `vocab_size` tokens, or as many as there are characters; the same from the same.

        texts : gives the texts from the first on, each time it is called
        Raises InputError for less than the special tokens and one more, or for more than MOST.
        """
        tokenizers = _tokenizers()
        if not len(cls.SPECIAL) < vocab_size <= MOST:
            raise InputError(f"vocab_size is {vocab_size}, wanted {len(cls.SPECIAL) + 1} to {MOST}")
        words = tokenizers.pre_tokenizers.Whitespace()
        # The library numbers the characters that continue a word in an order that varies, and then breaks
        # ties by number. As special tokens they keep our order while it learns; afterwards they are not.
        going_on = {c for text in texts() for word, _ in words.pre_tokenize_str(text) for c in word[1:]}
        inner = tokenizers.Tokenizer(
            tokenizers.models.BPE(unk_token="[UNK]", continuing_subword_prefix=cls.PREFIX)
        )
        inner.pre_tokenizer = words
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[*cls.SPECIAL, *(cls.PREFIX + c for c in sorted(going_on))],
            continuing_subword_prefix=cls.PREFIX,
            show_progress=False,
        )
        inner.train_from_iterator(texts(), trainer)
        content = json.loads(inner.to_str())
        content["added_tokens"] = content["added_tokens"][: len(cls.SPECIAL)]
        return cls(tokenizers.Tokenizer.from_str(json.dumps(content)))

    def encode_documents(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text, [EOS] after them."""
        assert self.end is not None  # `train` gives it a number
        return [[*encoding.ids, self.end] for encoding in self.inner.encode_batch(texts)]

    def decode(self, ids: Iterable[int]) -> str:
        """Return readable text, documents as paragraphs. White space is a guess: the tokens lack it."""
        documents: list[list[str]] = [[]]
        for i in ids:
            token = self.inner.id_to_token(int(i))
            words = documents[-1]
            if token == "[EOS]":
                documents.append([])
            elif token == "[UNK]":
                words.append(UNKNOWN)
            elif token.startswith(self.PREFIX) and words:
                words[-1] += token.removeprefix(self.PREFIX)
            elif token not in self.SPECIAL:
                words.append(token.removeprefix(self.PREFIX))
        return "\n\n".join(_spaced(words) for words in documents if words)


def _spaced(words: list[str]) -> str:
    """Join words and punctuation as English is set."""
    text = " ".join(words)
    text = re.sub(
        "(\\w) (['\N{RIGHT SINGLE QUOTATION MARK}]) (s|t|re|ve|ll|d|m)\\b", r"\1\2\3", text
    )  # isn't, Lily's
    text = re.sub(r" ([,.!?;:)\]}”])", r"\1", text)
    text = re.sub(r"([(\[{“]) ", r"\1", text)
    return re.sub(r'" ([^"]*?) ?"', r'"\1"', text)  # the first of two opens, the second closes


def _tokenizers() -> ModuleType:
    try:
        import tokenizers
    except ImportError as e:
        raise InputError(
            "a bpe tokenizer needs the extra `data`, which is not installed; "
            "the README's section Install says how"
        ) from e
    return tokenizers


Tokenizer = WordTokenizer | CharTokenizer | BPETokenizer | PaperTokenizer


def load(path: Path) -> Tokenizer:
    """Read a tokenizer.json. Raises InputError when it is none."""
    content = read_json(path)
    kinds = {cls.kind: cls for cls in (WordTokenizer, CharTokenizer)}
    kind, vocabulary = content.get("kind"), content.get("vocabulary")
    if isinstance(kind, str) and kind in kinds and isinstance(vocabulary, list):
        if all(isinstance(token, str) for token in vocabulary):
            return kinds[kind](vocabulary)
    elif "model" in content:
        try:
            by_words = (content.get("pre_tokenizer") or {}).get("type") == "Whitespace"
            cls = PaperTokenizer if by_words else BPETokenizer
            return cls(_tokenizers().Tokenizer.from_str(json.dumps(content)))
        except InputError:
            raise
        except Exception as e:  # the library raises Exception itself
            raise InputError(f"{path}: damaged ({e}); restore the file or train again") from e
    raise InputError(f"{path}: no tokenizer of a kind known here; restore the file or train again")
