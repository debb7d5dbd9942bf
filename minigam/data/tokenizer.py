"""Text to token ids and back: words for PocketStories, characters or byte-pair encoding for any text,
and the byte-pair encoding of the paper."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from minigam.config import InputError
from minigam.data.pocketstories import BOUNDARY
from minigam.files import read_json, write_text

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
MOST = 1_000_000  # entries; the library allocates as many as it is asked for, which can kill the process


class _TableTokenizer:
    """A tokenizer that is a list of tokens; the id of a token is its index."""

    kind: str

    def __init__(self, vocabulary: list[str]):
        self.vocabulary = vocabulary
        self.id_of = {token: i for i, token in enumerate(vocabulary)}

    def __len__(self) -> int:
        return len(self.vocabulary)

    def split(self, text: str) -> list[str]:
        raise NotImplementedError

    def encode(self, text: str, strict: bool = True) -> list[int]:
        """Return the ids of `text`. Raises InputError that lists the unknown tokens, unless `strict` is
        False and the vocabulary has a token for unknown ones."""
        tokens, default = self.split(text), None if strict else self.id_of.get(UNKNOWN)
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


class _LibraryTokenizer:
    """A tokenizer from the `tokenizers` library."""

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
    """Byte-pair encoding over bytes: no text is unknown, and decoding restores every text exactly."""

    kind = "bpe"
    end: int | None = None

    @classmethod
    def train(cls, text: str, vocab_size: int) -> "BPETokenizer":
        """Learn at most `vocab_size` tokens from `text`; 256 of them are the bytes."""
        tokenizers = _tokenizers()
        if not 256 <= vocab_size <= MOST:
            raise InputError(f"bpe_size is {vocab_size}, wanted 256 (one for each byte) to {MOST}")
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
    """The paper's tokenizer: byte-pair encoding of characters, within words and runs of punctuation.

    Like the authors', it is a BPE with [UNK] after the Whitespace pre-tokenizer, trained by BpeTrainer with
    10,000 entries and the special tokens below. There is one difference: a piece that continues a word has
    the prefix ##. Theirs has no prefix, so nothing marks where a word ends and text cannot be restored.
    The price: a piece may need two entries, one to start a word and one to continue it. On the test and
    validation text of WikiText-2 this gives 1.0 and 1.5 % more tokens.

    A document ends with [EOS], as GPT-2's do with its end-of-text token. This is our choice: the paper does
    not say. [PAD] and [SOS] are never written. A character not in the training text becomes [UNK].
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
        """Learn at most `vocab_size` tokens, or more to hold every character. The result is deterministic.

        texts : a function that returns all texts each time it is called
        Raises InputError for a size that leaves no entry after the special tokens, or above MOST.
        """
        tokenizers = _tokenizers()
        if not len(cls.SPECIAL) < vocab_size <= MOST:
            raise InputError(f"vocab_size is {vocab_size}, wanted {len(cls.SPECIAL) + 1} to {MOST}")
        words = tokenizers.pre_tokenizers.Whitespace()
        # The library numbers the characters that continue a word in an order that varies, and breaks ties
        # by number. Special tokens keep our order, so these characters are special during training only.
        continuing = {c for text in texts() for word, _ in words.pre_tokenize_str(text) for c in word[1:]}
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
        content = json.loads(inner.to_str())
        content["added_tokens"] = content["added_tokens"][: len(cls.SPECIAL)]
        return cls(tokenizers.Tokenizer.from_str(json.dumps(content)))

    def encode_documents(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text, followed by [EOS]."""
        end = cast(int, self.end)  # `train` always includes [EOS]
        return [[*encoding.ids, end] for encoding in self.inner.encode_batch(texts)]

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


def _spaced(words: list[str]) -> str:
    """Join words and punctuation with the spacing of printed English."""
    text = " ".join(words)
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
    content = read_json(path)
    classes = {cls.kind: cls for cls in (WordTokenizer, CharTokenizer)}
    name, vocabulary = content.get("kind"), content.get("vocabulary")
    if isinstance(name, str) and name in classes and isinstance(vocabulary, list):
        if all(isinstance(token, str) for token in vocabulary):
            return classes[name](vocabulary)
    elif "model" in content:
        try:
            by_words = (content.get("pre_tokenizer") or {}).get("type") == "Whitespace"
            cls = PaperTokenizer if by_words else BPETokenizer
            return cls(_tokenizers().Tokenizer.from_str(json.dumps(content)))
        except InputError:
            raise
        except Exception as e:  # the library raises plain Exception
            raise InputError(f"{path}: damaged ({e}); restore the file or train again") from e
    raise InputError(f"{path}: not a tokenizer that minigam wrote; restore the file or train again")
