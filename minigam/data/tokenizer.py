"""Text to token ids and back: words for PocketStories, characters or byte-pair encoding for any text,
and the byte-pair encoding of the paper."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from minigam.config import InputError
from minigam.data.pocketstories import BOUNDARY
from minigam.files import read_json, write_text

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
MOST = 1_000_000  # entries; the library allocates as many as it is asked for, which can kill the process
MOST_BYTES = 2**27  # of a tokenizer.json: enough for so many entries
LONGEST = 10_000  # characters in a word: the time that the library takes grows with their square
_TOO_LONG = re.compile(rf"\S{{{LONGEST + 1}}}|[^\S\n]{{{LONGEST + 1}}}")


def _require_text(text: str) -> None:
    """Raise InputError for a text with lone surrogates, which stand for invalid bytes of a command line."""
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise InputError(
            f"text: an invalid byte ({text[e.start]!r} at {e.start}), wanted UTF-8; type it again"
        ) from e


class _TableTokenizer:
    """A tokenizer that is a list of tokens; the id of a token is its index."""

    kind: str

    def __init__(self, vocabulary: list[str]):
        self.vocabulary = vocabulary
        self.id_of = {token: i for i, token in enumerate(vocabulary)}

    def __len__(self) -> int:
        return len(self.vocabulary)

    @property
    def unknown(self) -> int | None:
        """The id of the token for unknown ones, if there is one."""
        return self.id_of.get(UNKNOWN)

    @classmethod
    def from_content(cls, content: dict) -> Self:
        """Build from parsed JSON of `to_json`. Raises ValueError, KeyError or TypeError for other content."""
        vocabulary = content["vocabulary"]
        if not (isinstance(vocabulary, list) and vocabulary):
            raise ValueError("no vocabulary")
        made = cls(vocabulary)
        if len(made.id_of) < len(made):
            raise ValueError("a token twice")
        if strange := [token for token in vocabulary if made.split(token) != [token]]:
            raise ValueError(f"{strange[0]!r} is not one token"[:100])
        return made

    def split(self, text: str) -> list[str]:
        raise NotImplementedError

    def encode(self, text: str, strict: bool = True) -> list[int]:
        """Return the ids of `text`. Raises InputError that lists the unknown tokens, unless `strict` is
        False and the vocabulary has a token for unknown ones."""
        _require_text(text)
        tokens, default = self.split(text), None if strict else self.unknown
        if default is None and (unknown := sorted({t for t in tokens if t not in self.id_of})):
            listed = ", ".join(repr(t) for t in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
            raise InputError(
                f"unknown {'words' if self.kind == 'word' else 'characters'} {listed}; "
                f"wanted only the {len(self)} that the run's tokenizer.json lists"
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
        """The id that ends a story, and also precedes the first one."""
        return self.id_of.get(BOUNDARY)

    def split(self, text: str) -> list[str]:
        return self.TOKEN.findall(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Return readable text, one paragraph per story; `encode` restores the ids of a story."""
        text = " ".join(self.vocabulary[i] for i in ids)
        text = re.sub(r" ([,.!?:”])", r"\1", text).replace("“ ", "“")
        return re.sub(rf" *{re.escape(BOUNDARY)} *", "\n\n", text).strip()


class CharTokenizer(_TableTokenizer):
    """One token per character."""

    kind = "char"
    end: int | None = None

    @classmethod
    def train(cls, text: str) -> "CharTokenizer":
        """Take the characters of `text`, and one more token for all others."""
        return cls([UNKNOWN, *sorted(set(text) - {UNKNOWN})])

    def split(self, text: str) -> list[str]:
        return list(text)

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self.vocabulary[i] for i in ids)


def _require_words(text: str) -> None:
    """Raise InputError for a text with a word, or a run of spaces, that the library would take hours for."""
    if len(text) > LONGEST and (run := _TOO_LONG.search(text)):
        raise InputError(
            f"{run[0][:20]!r} begins a word of more than {LONGEST:,} characters, wanted shorter ones; "
            "is this text? If so, break its lines"
        )


class _LibraryTokenizer:
    """A byte-pair encoding of the `tokenizers` library. Vocabulary and merges determine it."""

    kind: str
    PREFIX = ""  # of a piece that continues a word

    def __init__(self, inner: Any):
        self.inner = inner
        self.inner.encode_special_tokens = True  # a text that spells a special token stays text

    def __len__(self) -> int:
        return self.inner.get_vocab_size()

    @classmethod
    def build(cls, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Self:
        """Return the tokenizer that has this vocabulary (piece -> id) and these pairs to merge, in order."""
        raise NotImplementedError

    @classmethod
    def required(cls) -> Iterable[str]:
        """Return pieces that every vocabulary has."""
        raise NotImplementedError

    @classmethod
    def from_content(cls, content: dict) -> Self:
        """Build from parsed JSON of `to_json`. Raises ValueError, KeyError or TypeError for other content,
        which the library reads without checks: it may panic, and end the process."""
        vocabulary, merges = content["model"]["vocab"], [(a, b) for a, b in content["model"]["merges"]]
        if sorted(vocabulary.values()) != list(range(len(vocabulary))):
            raise ValueError("the ids are not 0, 1, 2, ...")
        if missing := sorted(set(cls.required()) - vocabulary.keys()):
            raise ValueError(f"no {missing[0]!r}")
        for a, b in merges:
            if not (b.startswith(cls.PREFIX) and {a, b, a + b.removeprefix(cls.PREFIX)} <= vocabulary.keys()):
                raise ValueError(f"merges {a!r} and {b!r}, which it lacks"[:100])
        return cls.build(vocabulary, merges)

    def encode(self, text: str, strict: bool = True) -> list[int]:
        """Return the ids of `text`. Raises InputError for invalid bytes, and for a word too long."""
        _require_text(text)
        _require_words(text)
        return self.inner.encode(text).ids

    def to_json(self) -> str:
        return self.inner.to_str(pretty=True)

    def save(self, path: Path) -> None:
        write_text(path, self.to_json())


class BPETokenizer(_LibraryTokenizer):
    """Byte-pair encoding over bytes: no text is unknown, and decoding restores every text exactly."""

    kind = "bpe"
    end: int | None = None
    unknown: int | None = None

    @classmethod
    def build(cls, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Self:
        tokenizers = _tokenizers()
        inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
        inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = tokenizers.decoders.ByteLevel()
        return cls(inner)

    @classmethod
    def required(cls) -> Iterable[str]:
        return _tokenizers().pre_tokenizers.ByteLevel.alphabet()  # the 256 bytes

    @classmethod
    def train(cls, text: str, vocab_size: int) -> Self:
        """Learn at most `vocab_size` tokens from `text`; 256 of them are the bytes."""
        if not 256 <= vocab_size <= MOST:
            raise InputError(f"bpe_size is {vocab_size}, wanted 256 (one for each byte) to {MOST}")
        _require_words(text)
        made = cls.build({}, [])
        trainer = _tokenizers().trainers.BpeTrainer(
            vocab_size=vocab_size, initial_alphabet=list(cls.required()), show_progress=False
        )
        made.inner.train_from_iterator(text.splitlines(keepends=True), trainer)
        return made

    def decode(self, ids: Iterable[int]) -> str:
        return self.inner.decode(list(ids))


class PaperTokenizer(_LibraryTokenizer):
    """The paper's tokenizer: byte-pair encoding of characters, within words and runs of punctuation.

    Like the authors', it is a BPE with [UNK] after the Whitespace pre-tokenizer, trained by BpeTrainer with
    10,000 entries and the special tokens below. There is one difference: a piece that continues a word has
    the prefix ##. Theirs has no prefix, so nothing marks where a word ends and text cannot be restored.
    Of two number signs in a row, the second one starts a word of its own, so no piece of text reads as ##.
    The price: a piece may need two entries, one to start a word and one to continue it. On the test and
    validation text of WikiText-2 this gives 1.0 and 1.5 % more tokens.

    A document ends with [EOS], as GPT-2's do with its end-of-text token. This is our choice: the paper does
    not say. [PAD] and [SOS] are never written. A character not in the training text becomes [UNK].
    """

    kind = "paper"
    PREFIX = "##"
    SPECIAL = ("[UNK]", "[PAD]", "[SOS]", "[EOS]")

    @property
    def end(self) -> int:
        """The id of [EOS], which ends a document."""
        return self.inner.token_to_id("[EOS]")

    @property
    def unknown(self) -> int:
        """The id of [UNK]."""
        return self.inner.token_to_id("[UNK]")

    @classmethod
    def build(cls, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Self:
        tokenizers = _tokenizers()
        model = tokenizers.models.BPE(
            vocabulary, merges, unk_token=cls.SPECIAL[0], continuing_subword_prefix=cls.PREFIX
        )
        inner = tokenizers.Tokenizer(model)
        inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        inner.add_special_tokens(list(cls.SPECIAL))
        return cls(inner)

    @classmethod
    def required(cls) -> Iterable[str]:
        return cls.SPECIAL

    @classmethod
    def train(cls, texts: Callable[[], Iterable[str]], vocab_size: int = 10_000) -> Self:
        """Learn at most `vocab_size` tokens, or more to hold every character. The result is deterministic.

        texts : a function that returns all texts each time it is called
        Raises InputError for a size that leaves no entry after the special tokens, or above MOST, and for
        a text with a word too long.
        """
        tokenizers = _tokenizers()
        if not len(cls.SPECIAL) < vocab_size <= MOST:
            raise InputError(f"vocab_size is {vocab_size}, wanted {len(cls.SPECIAL) + 1} to {MOST}")
        words = tokenizers.pre_tokenizers.Whitespace()
        # The library numbers the characters that continue a word in an order that varies, and breaks ties
        # by number. Special tokens keep our order, so these characters are special during training only.
        continuing: set[str] = set()
        for text in texts():
            _require_words(text)
            continuing.update(c for word, _ in words.pre_tokenize_str(text) for c in word[1:])
        inner = tokenizers.Tokenizer(
            tokenizers.models.BPE(unk_token="[UNK]", continuing_subword_prefix=cls.PREFIX)
        )
        inner.pre_tokenizer = words
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[*cls.SPECIAL, *(cls.PREFIX + c for c in sorted(continuing))],
            continuing_subword_prefix=cls.PREFIX,
            show_progress=False,
        )
        inner.train_from_iterator(texts(), trainer)
        model = json.loads(inner.to_str())["model"]
        return cls.build(model["vocab"], [(a, b) for a, b in model["merges"]])

    def encode(self, text: str, strict: bool = True) -> list[int]:
        return super().encode(_apart(text), strict)

    def encode_documents(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text, followed by [EOS]. Raises InputError for a word too long."""
        for text in texts:
            _require_words(text)
        encodings = self.inner.encode_batch([_apart(text) for text in texts])
        return [[*encoding.ids, self.end] for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """Return readable text, one paragraph per document. White space is guessed: the tokens lack it."""
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


def _apart(text: str) -> str:
    """Put a space between number signs in a row: ## would read as the prefix of a piece."""
    return re.sub("#(?=#)", "# ", text)


def _spaced(words: list[str]) -> str:
    """Join words and punctuation with the spacing of printed English."""
    text = re.sub("# (?=#)", "#", " ".join(words))
    text = re.sub(
        "(\\w) (['\N{RIGHT SINGLE QUOTATION MARK}]) (s|t|re|ve|ll|d|m)\\b", r"\1\2\3", text
    )  # isn't, Lily's
    text = re.sub(r" ([,.!?;:)\]}”])", r"\1", text)
    text = re.sub(r"([(\[{“]) ", r"\1", text)
    return re.sub(r'" ([^"]*?) ?"', r'"\1"', text)  # of two quotation marks, the second one closes


def _tokenizers() -> ModuleType:
    try:
        import tokenizers
    except ImportError as e:
        raise InputError(
            "a bpe tokenizer needs the extra `data`, which is not installed; see docs/install.md"
        ) from e
    return tokenizers


Tokenizer = WordTokenizer | CharTokenizer | BPETokenizer | PaperTokenizer


def load(path: Path) -> Tokenizer:
    """Read a tokenizer.json. Raises InputError for any other file."""
    content = read_json(path, most=MOST_BYTES)
    try:
        by_kind = {cls.kind: cls for cls in (WordTokenizer, CharTokenizer, BPETokenizer, PaperTokenizer)}
        if "model" in content:
            by_words = content["pre_tokenizer"] == {"type": "Whitespace"}
            kind = PaperTokenizer.kind if by_words else BPETokenizer.kind
        else:
            kind = content["kind"]
        made = by_kind[kind].from_content(content)
        rewritten = json.loads(made.to_json())
        if not content.items() <= rewritten.items():  # a later version of the library may write more
            raise ValueError("other settings")
    except InputError:
        raise
    except Exception as e:
        raise InputError(
            f"{path}: not a tokenizer that minigam wrote ({e!r:.200}); restore the file or train again"
        ) from e
    return made
