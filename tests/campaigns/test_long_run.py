"""Training and generation for long: neither the memory nor the time per token grows."""

import numpy as np
import pytest
from helpers import long_run
from helpers.campaigns import LONG, campaign, pick

from minigam.models import MODELS

linux = pytest.mark.skipif(not long_run.STATM.exists(), reason="resident memory is read from /proc")
each_model = pytest.mark.parametrize("model_type", pick(["gam"], list(MODELS)))


@linux
@each_model
def test_training_takes_no_more_memory_with_every_step(model_type, tmp_path):
    """With validations and checkpoints. A short run still fills caches, hence the wider limit."""
    steps = pick(300, 20_000)
    with campaign(f"long_training_{model_type}") as c:
        samples = long_run.sampled("train", model_type, str(steps), str(tmp_path))
        c.count("steps", samples[-1][0])
        slope, limit = long_run.slope(samples), pick(4.0, 0.1)
        c.measured = {"MB per 1,000 steps": slope, "limit": limit, "MB at the end": samples[-1][1]}
        if slope > limit:
            c.fault(f"{model_type}: {slope:.3f} MB more after 1,000 steps")


@linux
@each_model
def test_generation_is_as_fast_and_as_small_after_many_tokens(model_type):
    tokens = pick(1_000, 100_000)
    with campaign(f"long_generation_{model_type}") as c:
        samples = long_run.sampled("generate", model_type, str(tokens))
        c.count("tokens", samples[-1][0])
        slope, limit = long_run.slope(samples), pick(2.0, 0.005)
        n, _, seconds = np.array(samples).T
        each, fifth = np.diff(seconds) / np.diff(n), len(n) // 5
        first, last = np.median(each[:fifth]), np.median(each[-fifth:])
        c.measured = {
            "MB per 1,000 tokens": slope,
            "limit": limit,
            "MB at the end": samples[-1][1],
            "ms per token, first fifth": 1e3 * first,
            "ms per token, last fifth": 1e3 * last,
        }
        if slope > limit:
            c.fault(f"{model_type}: {slope:.3f} MB more after 1,000 tokens")
        if LONG and last > 1.5 * first:  # a short one is at the mercy of what else runs
            c.fault(f"{model_type}: {last / first:.1f} times as long per token in the end")
