"""Two checks of a notebook 77, for tests that grade hundreds of notebooks."""

import numpy as np

from minigam.course.judge import exercise, expect

X = np.array([1.0, -4.0, 9.0])


@exercise
def ex_77_1(half):
    """Half of x."""
    expect(half(X), X / 2, "x", {"this is x itself": X})
    return "values"


@exercise
def ex_77_2(third):
    """A third of x."""
    expect(third(X), X / 3, "x", {"this is a half": X / 2})
    return "values"
