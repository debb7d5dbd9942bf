"""What each step gets: its rows and its learning rate."""

import numpy as np

from minigam.training.schedule import batch_of


def test_epochs_take_every_row_once_in_a_new_order():
    n, size = 10, 4
    rows = np.concatenate([batch_of(step, n, size, seed=5) for step in range(1, 11)])  # four epochs
    epochs = rows.reshape(4, n)
    for epoch in epochs:
        assert sorted(epoch) == list(range(n))
    assert len({tuple(e) for e in epochs}) == 4
    assert (batch_of(7, n, size, seed=5) == rows[24:28]).all()
    assert (batch_of(1, n, size, seed=6) != rows[:4]).any()
