"""The judge of the exercises: right answers pass, wrong ones get one line that says what is wrong."""

import numpy as np
import pytest

from minigam import Tensor
from minigam.course import check
from minigam.course.judge import NotYet, exercise, expect, gradients, pair, require

WANT = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


def fault(call) -> str:
    with pytest.raises(NotYet) as e:
        call()
    return str(e.value)


@pytest.mark.parametrize(
    "right", [WANT, WANT * (1 + 1e-9), WANT.astype(int)], ids=["float64", "rounded", "integers"]
)
def test_a_right_answer_passes(right):
    expect(right, WANT, "here")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (WANT.T, r"here: shape (3, 2), wanted (2, 3)"),
        (WANT * np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 1.001]]), "here: entry (1, 2) is 6.006, wanted 6"),
        (np.where(WANT > 5.0, np.nan, WANT), "here: 1 of 6 entries are nan or infinite"),
        ("text", "here: got str, wanted numbers"),
        (WANT + 0j, "here: got complex numbers, wanted real ones"),
        (None, "here: still to be written"),
        ([[1.0], [1.0, 2.0]], "here: got list, wanted numbers"),
        ((WANT * 1.001).astype(np.float32), "here: entry (1, 2)"),
        (WANT.astype(np.float32), "here: right, but in float32; the inputs are float64, keep their dtype"),
        (WANT.tolist(), "here: right, but a list; return an array"),
        (Tensor(WANT), "here: right, but a Tensor; return an array"),
        (WANT * (1 + 1e-6), "here: right to a few digits only; compute in float64 throughout"),
    ],
)
def test_the_message_says_where_an_answer_is_wrong(wrong, says):
    assert fault(lambda: expect(wrong, WANT, "here")).startswith(says)


def test_a_known_mistake_is_named_before_the_shape():
    mistakes = {"the axes are swapped": WANT.T, "all is right": WANT}
    assert fault(lambda: expect(WANT.T, WANT, "here", mistakes)) == "here: the axes are swapped"
    expect(WANT, WANT, "here", mistakes)


def test_large_numbers_are_distinguished():
    assert fault(lambda: expect(22_599_690, 22_599_680, "here")) == "here: 22599690, wanted 22599680"


def test_a_correct_infinity_is_no_fault():
    want = np.array([-np.inf, 1.0])
    expect(want.copy(), want, "here")
    assert fault(lambda: expect(np.array([-np.inf, 2.0]), want, "here")) == "here: entry (1,) is 2, wanted 1"


def test_integers_are_compared_exactly():
    expect(np.array([1, 2]), np.array([1, 2]), "here")
    assert (
        fault(lambda: expect(np.array([1, 3]), np.array([1, 2]), "here")) == "here: entry (1,) is 3, wanted 2"
    )


def test_gradients_are_compared_with_differences_of_the_correct_function():
    rng = np.random.default_rng(0)
    x, w, dy = rng.standard_normal((2, 3)), rng.standard_normal(3), rng.standard_normal((2, 3))

    def f(x, w):
        return x * x * w

    right = (2.0 * x * w * dy, (x * x * dy).sum(axis=0))
    gradients(right, f, (x, w), dy, "x w", "here")
    gradients([*right], f, (x, w), dy, "x w", "here")
    gradients(right[0], lambda x: f(x, w), (x,), dy, "x", "here")  # one gradient needs no tuple
    wrong = (right[0], 1.001 * right[1])
    assert fault(lambda: gradients(wrong, f, (x, w), dy, "x w", "here")).startswith(
        "here, gradient with respect to w: entry"
    )
    half = {"x": {"a square has two factors": right[0] / 2.0}}
    assert fault(lambda: gradients((right[0] / 2.0, right[1]), f, (x, w), dy, "x w", "here", half)) == (
        "here, gradient with respect to x: a square has two factors"
    )
    assert "one gradient, wanted 2: those of x, w" in fault(
        lambda: gradients(right[0], f, (x, w), dy, "x w", "here")
    )


def test_a_pair_is_a_tuple_or_a_list_of_two():
    assert pair((1, 2), "here", "N, n") == (1, 2)
    assert pair([1, 2], "here", "N, n") == [1, 2]
    assert fault(lambda: pair(WANT, "here", "N, n")) == "here: got ndarray, wanted a pair (N, n)"
    assert fault(lambda: pair((1, 2, 3), "here", "N, n")) == "here: got 3 values, wanted a pair (N, n)"


@exercise
def ex_99_1(double):
    """Twice x."""
    x = np.arange(3.0)
    expect(double(x), 2.0 * x, "x")
    require(x[2] == 2.0, "the check's own array has changed")
    return "three numbers"


def raises(x):
    raise NotImplementedError


def divides(x):
    return 1 // 0


def doubles_in_place(x):
    x *= 2.0
    return x


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (raises, "Exercise 99.1: raises is still to be written: replace the line that raises"),
        (None, "Exercise 99.1: still to be written"),
        (3.0, "Exercise 99.1: got float, wanted the function itself, not its result"),
        (..., "Exercise 99.1: still to be written"),
        (lambda x: None, "Exercise 99.1: <lambda>((3,)) returned None; is a return missing?"),
        (divides, "Exercise 99.1: divides((3,)) raised ZeroDivisionError: "),
        (lambda: 0, "Exercise 99.1: <lambda>((3,)) raised TypeError: "),
        (
            lambda x: np.ones((2, 3)) @ np.ones((4, 5)),
            "Exercise 99.1: <lambda>((3,)) raised ValueError: the sides of @ do not fit: rows of 3 "
            "numbers on the left, columns of 4 on the right",
        ),
        (doubles_in_place, "Exercise 99.1: doubles_in_place changed its input in place"),
    ],
)
def test_faults_of_a_function_become_one_line(answer, says):
    message = fault(lambda: ex_99_1(answer))
    assert message.startswith(says)
    assert "\n" not in message


def test_a_right_answer_is_reported(capsys):
    ex_99_1(lambda x: x + x)
    assert capsys.readouterr().out == "Exercise 99.1: right (three numbers).\n"


def test_an_earlier_answer_that_is_missing_is_named():
    message = fault(lambda: ex_99_1(lambda x: raises(x)))
    assert message == "Exercise 99.1: raises is still to be written: replace the line that raises"


def test_arrays_inside_an_argument_are_copied_too():
    inside = {"w": np.ones(2)}, [np.ones(3)]

    @exercise
    def ex_99_4(answer):
        answer(*inside)

    def writes(named, several):
        several[0] += named.pop("w")[0]
        return 0.0

    assert "writes changed its input in place" in fault(lambda: ex_99_4(writes))
    assert (inside[0]["w"] == 1.0).all()
    assert (inside[1][0] == 1.0).all()


def test_a_check_counts_its_answers():
    assert fault(lambda: ex_99_1(1, 2)) == "Exercise 99.1: 2 answers, wanted 1"


def test_a_notebook_shows_the_message_alone():
    assert NotYet("one line")._render_traceback_() == ["one line"]


def test_an_unknown_exercise_is_an_error_that_shows_a_valid_name():
    with pytest.raises(AttributeError, match=r"check has no ex_99_9; .* such as check.ex_05_2"):
        _ = check.ex_99_9


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        (np.ones((2, 3)), "(2, 3)"),
        (Tensor(np.ones(4)), "(4,)"),
        (divides, "divides"),
        (np, "numpy"),
        ({"w": np.ones(9), "b": 1}, "{w, b}"),
        (0.5, "0.5"),
    ],
)
def test_arguments_are_shown_briefly(argument, shown):
    @exercise
    def ex_99_3(answer):
        answer(argument)

    assert fault(lambda: ex_99_3(raising)) == f"Exercise 99.3: raising({shown}) raised KeyError: 'no'"


def raising(x):
    raise KeyError("no")
