"""A run folder: what a training run leaves on disk, and how to read it back.

config.json            the settings, and a fingerprint of the data
metrics.jsonl          one line per step, and one per validation
loss.png               the plot of the metrics
tokenizer.json         text to ids and back
model.safetensors      the parameters
optimizer.safetensors  everything that resuming needs, in one file so that it is replaced as a whole:
                       parameters, both moments, the step, the number of dropout masks drawn, and for
                       float16 the loss scale
machine.json           where the run was started: machine, versions, backend, kernels and their compiler
complete.json          there only once the run has done its last step and its last validation
.unfinished            there only while the folder is being made
.lock                  held by the process that trains
"""

import hashlib
import json
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from minigam import threads
from minigam.config import MQAR, POCKETSTORIES, DataConfig, InputError, ModelConfig, TrainConfig, shortened
from minigam.data import corpus, tokenizer
from minigam.data.corpus import Corpus
from minigam.data.mqar import from_mqar
from minigam.data.tokenizer import Tokenizer
from minigam.engine.compiled import kernels
from minigam.files import (
    LOCK,
    read_arrays,
    read_json,
    reading,
    replacing,
    sha256_of,
    write_arrays,
    write_json,
    write_sealed,
    write_text,
)
from minigam.models import MODELS
from minigam.models.lm import LanguageModel
from minigam.training import provenance
from minigam.training.optim import AdamW, LossScale
from minigam.training.ranks.world import ALONE, World

FORMAT, UNFINISHED, COMPLETE = "minigam run 1", ".unfinished", "complete.json"


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides the outcome of a run, except the machine."""

    model_type: str
    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    corpus_sha256: str

    def to_dict(self) -> dict:
        return {
            "format": FORMAT,
            "model_type": self.model_type,
            "model": self.model.to_dict(),
            "data": self.data.to_dict(),
            "train": self.train.to_dict(),
            "corpus_sha256": self.corpus_sha256,
        }

    @classmethod
    def from_dict(cls, values: dict) -> "RunConfig":
        """Build from what `to_dict` returned. Raises InputError for anything else."""
        if values.get("format") != FORMAT:
            raise InputError(
                f"not the config.json of a run (format {values.get('format')!r}, wanted {FORMAT!r})"
            )
        if str(values.get("model_type")) not in MODELS:
            raise InputError(f"model_type is {values.get('model_type')!r}, wanted one of {', '.join(MODELS)}")
        try:
            return cls(
                values["model_type"],
                MODELS[values["model_type"]].Config.from_dict(values["model"]),
                DataConfig.from_dict(values["data"]),
                TrainConfig.from_dict({"precision": "float32"} | values["train"]),  # older runs lack it
                values["corpus_sha256"],
            )
        except (KeyError, TypeError, AttributeError) as e:
            raise InputError(f"a part is missing or has the wrong type ({e})") from e

    @classmethod
    def of(
        cls, model_type: str, model: ModelConfig, data: DataConfig, train: TrainConfig, corpus: Corpus
    ) -> "RunConfig":
        """Return the configuration of a run on this corpus, which decides the size of the vocabulary."""
        model = replace(model, vocab_size=len(corpus.tokenizer))
        return cls(model_type, model, data, train, corpus.fingerprint())

    def new_model(self, backend: str = "numpy") -> LanguageModel:
        """Return the model with its initial values."""
        return MODELS[self.model_type](self.model, seed=self.train.seed, backend=backend)

    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


def make_corpus(data: DataConfig, block_size: int, progress: bool = False) -> Corpus:
    """Build the corpus that a configuration describes."""
    if data.dataset == MQAR:
        return from_mqar(block_size, data.mqar_rows, data.mqar_pairs, data.mqar_keys, data.data_seed)
    if data.dataset != POCKETSTORIES:
        return corpus.from_prepared(Path(data.dataset), block_size)
    if data.text is None:
        return corpus.from_pocketstories(
            block_size, data.stories, data.valid_stories, data.data_seed, progress
        )
    valid = Path(data.valid) if data.valid is not None else None
    return corpus.from_text(
        Path(data.text), valid, block_size=block_size, tokenizer=data.tokenizer, vocab_size=data.bpe_size
    )


def new_optimizer(model: LanguageModel, c: TrainConfig, world: World = ALONE, shard: bool = False) -> AdamW:
    """Return the optimizer that a configuration describes. world, shard : see `AdamW`"""
    return AdamW(
        model.parameters(), lr=c.lr, betas=(c.beta1, c.beta2), weight_decay=c.weight_decay,
        loss_scale=LossScale() if c.precision == "float16" else None, world=world, shard=shard,
    )  # fmt: skip


class Run:
    """One run folder. `Run.create` makes a new one, `Run(path)` opens an existing one.

    writes : whether this process writes to it; of several ranks only one does
    """

    def __init__(self, path: Path, config: RunConfig | None = None, writes: bool = True):
        self.path, self.writes = Path(path), writes
        if config is not None:
            self.config = config
            return
        if not self.path.is_dir():
            raise InputError(f"{path}: not a folder, wanted one that minigam train wrote")
        if (self.path / UNFINISHED).exists():
            raise InputError(f"{path}: not a run yet, it was stopped while it was made; start it again")
        values = read_json(self.path / "config.json")
        try:
            self.config = RunConfig.from_dict(values)
        except InputError as e:
            raise InputError(f"{self.path / 'config.json'}: {e}") from e

    @classmethod
    def exists(cls, path: Path) -> bool:
        """Return whether the folder holds a run that was made completely."""
        return (path / "config.json").exists() and not (path / UNFINISHED).exists()

    @classmethod
    def create(
        cls,
        path: Path,
        config: RunConfig,
        tokenizer: Tokenizer,
        backend: str = "numpy",
        world: World = ALONE,
        shard: bool = False,
    ) -> tuple["Run", LanguageModel, AdamW]:
        """Start a run in an empty folder, or in one where this was stopped; return it with its model and
        optimizer, which are saved as the checkpoint of step 0. Call this in `locked(path)`.

        world, shard : see `AdamW`; rank 0 alone reads and writes the folder
        Raises InputError for any other folder.
        """
        run = cls(path, config, writes=world.rank == 0)
        names = {file.name for file in path.iterdir()} - {LOCK} if run.writes else set()
        if names and UNFINISHED not in names:
            raise InputError(
                f"{path}: not empty; --resume {shlex.quote(str(path))} continues it, or choose another --out"
            )
        model = config.new_model(backend)
        optimizer, machine = new_optimizer(model, config.train, world, shard), provenance.measured_by(backend)
        if not run.writes:
            return run, model, optimizer
        machine["threads"] = threads.count()
        if world.size > 1:
            machine["ranks"] = world.size
        try:
            (path / UNFINISHED).touch()
            tokenizer.save(path / "tokenizer.json")
            write_text(path / "metrics.jsonl", "")
            write_json(path / "config.json", config.to_dict())
            write_json(path / "machine.json", machine)
            run.save(model, optimizer, 0)
            (path / UNFINISHED).unlink()
        except OSError as e:
            reason = f"{e.filename or path}: {e.strerror or e}"
            raise InputError(f"{reason}; the run has not started, choose a writable --out") from e
        return run, model, optimizer

    def tokenizer(self) -> Tokenizer:
        return tokenizer.load(self.path / "tokenizer.json")

    def corpus(self, progress: bool = False) -> Corpus:
        """Rebuild the corpus of this run. Raises InputError if it has changed since the run started."""
        c = self.config
        rebuilt = make_corpus(c.data, c.model.block_size, progress)
        same_tokens = rebuilt.tokenizer.to_json() == self.tokenizer().to_json()
        if rebuilt.fingerprint() != c.corpus_sha256 or not same_tokens:
            raise InputError(f"{self.path}: the data of this run has changed; restore it, or start a new run")
        return rebuilt

    def load_model(self, backend: str = "numpy") -> LanguageModel:
        """Return the model with the latest saved parameters, in eval mode."""
        path = self.path / "model.safetensors"
        arrays, metadata = read_arrays(path, "model")
        self._require_own(path, metadata)
        model = self.config.new_model(backend)
        self._load(path, model, arrays)
        return model.eval()

    def _origin(self) -> dict[str, str]:
        """Return what weights are worth nothing without: the hashes of their configuration and tokenizer."""
        return {
            "config_sha256": self.config.sha256(),
            "tokenizer_sha256": sha256_of(self.path / "tokenizer.json", most=tokenizer.MOST_BYTES),
        }

    def _require_own(self, path: Path, metadata: dict[str, str]) -> None:
        """Raise InputError unless a file's metadata name the config.json and tokenizer.json of this run.
        Files of format 1 need not name them."""
        for name, sha256 in self._origin().items():
            if metadata.get(name, sha256 if metadata["format"].endswith(" 1") else None) != sha256:
                other = name.removesuffix("_sha256") + ".json"
                raise InputError(f"{path}: belongs to another {other}; restore that, or train again")

    def _require_kernels(self, backend: str) -> None:
        """Raise InputError if other rules would compute from now on, and say so if other threads would: the
        result would have other bits."""
        path = self.path / "machine.json"
        machine = read_json(path) if path.exists() else {}
        started_with, count = machine.get("kernels"), machine.get("threads")  # older runs lack them
        if backend == "numpy" and started_with not in (None, in_use := kernels.in_use()):
            raise InputError(
                f"{self.path}: started with --kernels {shortened(str(started_with))}, here the rules are "
                f"{in_use}, which changes the last bits; resume with the same, or start a new run"
            )
        if backend == "numpy" and self.writes and type(count) is int and count != threads.count():
            print(
                f"{self.path}: started with {count} threads of BLAS per process, here there are "
                f"{threads.count()}, which changes the last bits; OPENBLAS_NUM_THREADS={count} keeps them",
                file=sys.stderr,
            )

    def _load(self, path: Path, model: LanguageModel, arrays: dict[str, np.ndarray]) -> None:
        try:
            model.load_state_dict(arrays)
        except (KeyError, TypeError, ValueError) as e:
            reason = shortened(str(e.args[0]), 300)
            raise InputError(f"{path}: not the weights that config.json describes; {reason}") from e

    def save(self, model: LanguageModel, optimizer: AdamW, step: int) -> None:
        """Write a checkpoint. The file that resuming reads comes first and is complete without the other,
        so a crash between the two files loses nothing. Every rank calls this: rank 0 gets its moments."""
        if not (self.writes or optimizer.sharded):
            return
        parameters = model.state_dict()
        state = {f"p.{name}": a for name, a in parameters.items()} | optimizer.state_dict(list(parameters))
        if not self.writes:
            return
        metadata = self._origin() | {"step": str(step), "dropout_drawn": str(model.mask_counter.drawn)}
        if optimizer.loss_scale:  # some of its steps may have been skipped
            metadata["loss_scale"] = json.dumps(vars(optimizer.loss_scale))
            metadata["optimizer_steps"] = str(optimizer.steps)
        write_arrays(self.path / "optimizer.safetensors", "training state", state, metadata)
        self._save_weights(parameters, step)

    def _save_weights(self, parameters: dict[str, np.ndarray], step: int) -> None:
        metadata = self._origin() | {"step": str(step)}
        write_arrays(self.path / "model.safetensors", "model", parameters, metadata)

    def saved_step(self) -> int:
        """Return the step of the latest checkpoint."""
        return int(read_arrays(self.path / "optimizer.safetensors", "training state")[1]["step"])

    def resume(
        self, backend: str = "numpy", world: World = ALONE, shard: bool = False
    ) -> tuple[LanguageModel, AdamW, int]:
        """Return the model, the optimizer and the step of the latest checkpoint. Call this in
        `locked(run.path)`.

        world, shard : see `AdamW`; every rank reads the folder

        Raises InputError for a checkpoint that is missing, damaged, not minigam's, or of another
        config.json or tokenizer.json, and where the rules on the CPU are not those that the run started with.
        """
        self._require_kernels(backend)
        path, weights = self.path / "optimizer.safetensors", self.path / "model.safetensors"
        arrays, metadata = read_arrays(path, "training state")
        self._require_own(path, metadata)
        if weights.exists():  # refuse a damaged file, although resuming does not use it
            read_arrays(weights, "model")
        model = self.config.new_model(backend)
        names = [name for name, _ in model.named_parameters()]
        self._load(path, model, {k[2:]: a for k, a in arrays.items() if k.startswith("p.")})
        optimizer = new_optimizer(model, self.config.train, world, shard)
        try:
            step, model.mask_counter.drawn = int(metadata["step"]), int(metadata["dropout_drawn"])
            if not 0 <= step <= self.config.train.steps or model.mask_counter.drawn < 0:
                raise ValueError(f"step {step}, {model.mask_counter.drawn} dropout masks drawn")
            optimizer.load_state_dict(arrays, names, int(metadata.get("optimizer_steps", step)))
            if optimizer.loss_scale:
                optimizer.loss_scale = LossScale(**json.loads(metadata["loss_scale"]))
        except (KeyError, TypeError, ValueError) as e:
            raise InputError(f"{path}: damaged ({e}); restore the file or train again") from e
        if self.writes:
            self._save_weights(model.state_dict(), step)  # a crash between the two files leaves old ones
            self._forget_metrics_after(step)
        return model, optimizer, step

    def log(self, line: dict) -> None:
        """Append one line to metrics.jsonl. Raises OSError that names the file."""
        if not self.writes:
            return
        path = self.path / "metrics.jsonl"
        try:
            with path.open("a", encoding="utf-8") as f:
                f.write(json.dumps(line) + "\n")
        except OSError as e:
            raise OSError(e.errno, e.strerror or str(e), str(path)) from e

    def unfinish(self) -> None:
        """Remove the mark of a complete run."""
        if self.writes:
            (self.path / COMPLETE).unlink(missing_ok=True)

    def complete(self, result: dict) -> None:
        """Mark the run as complete: all its steps are done, and this is the result of its last validation."""
        if self.writes:
            write_sealed(self.path / COMPLETE, "minigam complete 1", result)

    def metrics(self) -> list[dict]:
        """Return the lines of metrics.jsonl. Lines that a crash or an editor has damaged are left out, and
        a warning on stderr counts them."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        with reading(path, "the metrics of a run") as f:
            parsed = [_measurement(text) for text in iter(lambda: f.readline(2**20), b"")]
        lines = [line for line in parsed if line is not None]
        if dropped := len(parsed) - len(lines):
            print(f"{path}: {dropped} of {len(parsed)} lines damaged, left out", file=sys.stderr)
        return lines

    def _forget_metrics_after(self, step: int) -> None:
        lines = [json.dumps(m) + "\n" for m in self.metrics() if m["step"] <= step]
        write_text(self.path / "metrics.jsonl", "".join(lines))

    def plot(self) -> None:
        """Write loss.png."""
        if not self.writes:
            return
        from minigam.viz import loss_plot

        metrics = self.metrics()
        if metrics:
            with replacing(self.path / "loss.png") as temporary:
                loss_plot(metrics, title=self.path.name).savefig(temporary, dpi=120, format="png")


def _measurement(text: bytes) -> dict | None:
    """Return a line of metrics.jsonl, a step's or a validation's; None if it is damaged."""
    try:
        line = json.loads(text)
        kinds = line.get("kinds", {})
        required = {"step", "loss", "tokens"} | ({"seconds"} if "lr" in line else set())
        whole = line.keys() >= required and type(line["step"]) is int and line["step"] >= 0
        whole = whole and all({"loss", "floor"} <= kind.keys() for kind in kinds.values())
        numbers = [v for part in (line, *kinds.values()) for v in part.values() if v is not kinds]
        whole = whole and all(type(v) in (int, float) for v in numbers)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    return line if whole else None
