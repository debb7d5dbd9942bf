"""Print the coefficients EXP, ATANH and TANH of the C kernels' functions.

    cd tests && python -m helpers.fit_functions

Each polynomial is fitted by weighted least squares of the relative error of the function that it is for, with
50 digits. Lawson's method raises the weight where the error is large, until the largest error is the least.
"""

from collections.abc import Callable

import mpmath
from mpmath import mpf


def atanh_rest(z: mpf) -> mpf:
    """Return g in atanh s = s + s^3 g(s^2)."""
    return (mpmath.atanh(mpmath.sqrt(z)) / mpmath.sqrt(z) - 1) / z


def tanh_rest(z: mpf) -> mpf:
    """Return g in tanh x = x + x^3 g(x^2)."""
    return (mpmath.tanh(mpmath.sqrt(z)) / mpmath.sqrt(z) - 1) / z


def exp_rest(r: mpf) -> mpf:
    """Return q in e^r = 1 + r + r^2 q(r)."""
    return (mpmath.exp(r) - 1 - r) / r**2


def fit(f: Callable, degree: int, low: mpf, high: mpf, weight: Callable) -> list[mpf]:
    """Return the coefficients of the polynomial nearest to f, the highest power first.

    weight : (x, f(x)) -> the factor from an error of f to the relative error that counts
    """
    n = 8 * (degree + 1)
    nodes = [mpmath.cos(mpmath.pi * (j + mpf(0.5)) / n) for j in range(n)]
    points = [(low + high) / 2 + (high - low) / 2 * node for node in nodes]
    values = [f(x) for x in points]
    weights, emphasis = [weight(x, v) for x, v in zip(points, values, strict=True)], [mpf(1)] * n
    for _ in range(60):
        scales = [mpmath.sqrt(e) * w for e, w in zip(emphasis, weights, strict=True)]
        matrix = mpmath.matrix(
            [[s * x**j for j in range(degree + 1)] for s, x in zip(scales, points, strict=True)]
        )
        solution = list(
            mpmath.lu_solve(matrix, mpmath.matrix([s * v for s, v in zip(scales, values, strict=True)]))
        )
        fitted = [sum(a * x**j for j, a in enumerate(solution)) for x in points]
        errors = [abs(w * (p - v)) for w, p, v in zip(weights, fitted, values, strict=True)]
        emphasis = [e * error for e, error in zip(emphasis, errors, strict=True)]
        mean = sum(emphasis) / n
        emphasis = [e / mean for e in emphasis]
    return solution[::-1]


def relative(z: mpf, v: mpf) -> mpf:
    return z / (1 + z * v)


def fits() -> dict[str, list[mpf]]:
    end, none = mpmath.log(2) / 2 * mpf("1.001"), mpf("1e-20")
    return {
        "EXP": fit(exp_rest, 4, -end, end, lambda r, v: r * r / mpmath.exp(r)),
        "ATANH": fit(atanh_rest, 4, none, mpf(1) / 9, relative),
        "TANH": fit(tanh_rest, 4, none, mpf("0.4"), relative),
    }


if __name__ == "__main__":
    mpmath.mp.dps = 50
    for name, coefficients in fits().items():
        print(name, ", ".join(mpmath.nstr(a, 9) for a in coefficients))
