"""Text to token ids and back: words for PocketStories, characters or byte-pair encoding for any text."""

import json
import re
from pathlib import Path

from minigam.config import InputError
from minigam.files import read_json, write_text
from minigam.pocketstories import BOUNDARY

UNKNOWN = "\N{REPLACEMENT CHARACTER}"


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
        return [self.id_of.get(t, default) for t in tokens]

    def to_json(self) -> str:
        content = {"format": "minigam", "kind": self.kind, "vocabulary": self.vocabulary}
        return json.dumps(content, ensure_ascii=False, indent=0) + "\n"

    def save(self, path: Path) -> None:
        write_text(path, self.to_json())


class WordTokenizer(_TableTokenizer):
    """Whole words and single punctuation marks, as PocketStories needs. Case matters."""

    kind = "word"
    TOKEN = re.compile(re.escape(BOUNDARY) + r"|\w+|[^\w\s]")

    def split(self, text: str) -> list[str]:
        return self.TOKEN.findall(text)

    def decode(self, ids) -> str:
        """Return readable text: `encode` gives back the ids, a story to a paragraph."""
        text = " ".join(self.vocabulary[i] for i in ids)
        text = re.sub(r" ([,.!?:”])", r"\1", text).replace("“ ", "“")
        return re.sub(rf" *{re.escape(BOUNDARY)} *", "\n\n", text).strip()


class CharTokenizer(_TableTokenizer):
    """One character, one token."""

    kind = "char"

    @classmethod
    def train(cls, text: str) -> "CharTokenizer":
        """Take the characters of `text`, and one token more for any other."""
        return cls([UNKNOWN, *sorted(set(text) - {UNKNOWN})])

    def split(self, text: str) -> list[str]:
        return list(text)

    def decode(self, ids) -> str:
        return "".join(self.vocabulary[i] for i in ids)


class BPETokenizer:
    """Byte-pair encoding by the `tokenizers` library, over bytes, so that no text is unknown
    and every text comes back as it was."""

    kind = "bpe"

    def __init__(self, inner):
        self.inner = inner

    def __len__(self) -> int:
        return self.inner.get_vocab_size()

    @classmethod
    def train(cls, text: str, vocab_size: int) -> "BPETokenizer":
        """Learn at most `vocab_size` tokens from `text`; 256 are the bytes."""
        tokenizers = _tokenizers()
        if vocab_size < 256:
            raise InputError(f"bpe_size is {vocab_size}, wanted at least 256, one for each byte")
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

    def encode(self, text: str, strict: bool = True) -> list[int]:
        return self.inner.encode(text).ids

    def decode(self, ids) -> str:
        return self.inner.decode(list(ids))

    def to_json(self) -> str:
        return self.inner.to_str(pretty=True)

    def save(self, path: Path) -> None:
        write_text(path, self.to_json())


def _tokenizers():
    try:
        import tokenizers
    except ImportError as e:
        raise InputError(
            "a bpe tokenizer needs the extra `data`, which is not installed; "
            "the README's section Install says how"
        ) from e
    return tokenizers


def load(path: Path):
    """Read a tokenizer.json. Raises InputError when it is none."""
    content = read_json(path)
    kinds = {cls.kind: cls for cls in (WordTokenizer, CharTokenizer)}
    kind, vocabulary = content.get("kind"), content.get("vocabulary")
    if isinstance(kind, str) and kind in kinds and isinstance(vocabulary, list):
        if all(isinstance(token, str) for token in vocabulary):
            return kinds[kind](vocabulary)
    elif "model" in content:
        try:
            return BPETokenizer(_tokenizers().Tokenizer.from_str(json.dumps(content)))
        except InputError:
            raise
        except Exception as e:  # the library raises Exception itself
            raise InputError(f"{path}: damaged ({e}); restore the file or train again") from e
    raise InputError(f"{path}: no tokenizer of a kind known here; restore the file or train again")
