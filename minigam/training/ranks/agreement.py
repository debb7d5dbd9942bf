"""What all ranks must have in common, and how they find out together that they do not."""

import json
import os
import zlib
from collections.abc import Callable
from typing import TypeVar

from minigam import threads
from minigam.config import InputError, shortened
from minigam.engine import backend
from minigam.engine.backend import to_numpy
from minigam.engine.compiled import kernels
from minigam.training import profile, provenance
from minigam.training.optim import AdamW
from minigam.training.ranks.world import World
from minigam.training.run import RunConfig

Result = TypeVar("Result")


class Diverged(Exception):
    """The ranks no longer have the same weights."""


class Silent(SystemExit):
    """The end of a rank whose error another rank prints."""


def together(world: World, work: Callable[[], Result]) -> Result:
    """Return the result of `work`, which every rank does, without any exchange between the ranks in it. An
    error of the user on one rank ends all ranks: rank 0 raises an InputError that names the rank, unless all
    have the same error, and the others end in silence."""
    error, result = "", None
    try:
        result = work()
    except (InputError, Diverged, backend.BackendUnavailable, OSError) as e:
        if world.size == 1:
            raise
        error = f"{e.filename}: {e.strerror}" if isinstance(e, OSError) and e.filename else str(e)
    errors = world.exchange(error) if world.size > 1 else [""]
    if any(errors):
        world.close()
        if world.rank > 0:
            world.hold_back()
            raise Silent(2)
        alike = len(set(errors)) == 1
        named = [errors[0]] if alike else [f"rank {r}: {e}" for r, e in enumerate(errors) if e]
        raise InputError(shortened("; ".join(named), 600))
    return result  # type: ignore[return-value]  # no rank has failed


def _facts(config: RunConfig, options: dict[str, object]) -> dict[str, object]:
    """Return everything that the numbers of a run depend on."""
    model, data, train = config.model.to_dict(), config.data.to_dict(), config.train.to_dict()
    own_files = {"text", "valid", "dataset"}  # each machine may keep them where it likes: see the fingerprint
    return {
        **{f"--{k.replace('_', '-')}": v for part in (model, data, train) for k, v in part.items()
           if k not in own_files},
        **options,
        "model": config.model_type,
        "fingerprint of the data": config.corpus_sha256,
        **{f"version of {name}": v for name, v in provenance.versions().items()},
        "commit": provenance.commit(),
        "BLAS": profile.blas(),
        "threads of BLAS": {k: os.environ[k] for k in threads.COUNTS if k in os.environ},
        "threads": threads.count(),
        "kernels": kernels.in_use(),
    }  # fmt: skip


def require_agreement(world: World, config: RunConfig, options: dict[str, object]) -> None:
    """Raise InputError, naming a rank and how it differs from rank 0, unless all have the same settings,
    data, versions, BLAS, kernels and number of threads.

    options : of the command line, by flag, that are not part of the configuration
    """
    if world.size == 1:
        return
    facts = together(world, lambda: _facts(config, options))
    first, *others = [json.loads(text) for text in world.exchange(json.dumps(facts, sort_keys=True))]
    together(world, lambda: _require_equal(first, others))


def _require_equal(first: dict[str, object], others: list[dict[str, object]]) -> None:
    for rank, other in enumerate(others, start=1):
        for name in sorted(first.keys() | other.keys()):
            if first.get(name) != other.get(name):
                raise InputError(
                    f"rank {rank} differs from rank 0: {name} is {shortened(str(other.get(name)))} there, "
                    f"{shortened(str(first.get(name)))} on rank 0; start all ranks with the same"
                )


def require_same_weights(world: World, optimizer: AdamW, step: int) -> None:
    """Raise Diverged, naming the rank, unless all ranks have the same parameters to the bit."""
    if world.size == 1:
        return
    checksum = zlib.crc32(to_numpy(optimizer.flat).data)
    checksums = world.exchange(f"{checksum:08x}")
    for rank, other in enumerate(checksums):
        if other != checksums[0]:
            raise Diverged(
                f"after step {step} the weights of rank {rank} have checksum {other}, those of rank 0 "
                f"{checksums[0]}; a machine computes wrongly, or its settings differ"
            )
