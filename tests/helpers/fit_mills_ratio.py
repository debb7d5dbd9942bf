"""Print the coefficients in `numeric.mills_ratio`.

    cd tests && python -m helpers.fit_mills_ratio

p / q is fitted to R(x) = Phi(-x) / phi(x) by least squares of the relative error, with 50 digits. R q - p is
linear in the coefficients; dividing by the q of the round before makes it the error of p / q (Loeb's method).
"""

import mpmath
from mpmath import mpf

FITS = {"float32": (4, 5, 15, 9), "float64": (9, 10, 39, 17)}  # degrees of p and q, end, digits


def ratio(x: mpf) -> mpf:
    """Return R(x), in mpmath's precision."""
    return mpmath.exp(x * x / 2) * mpmath.erfc(x / mpmath.sqrt(2)) * mpmath.sqrt(mpmath.pi / 2)


def fit(degree_p: int, degree_q: int, end: float, rounds: int = 6) -> tuple[list[mpf], list[mpf]]:
    """Return the coefficients of p and q, the lowest power first; that of q is 1."""
    n = 6 * (degree_p + degree_q + 1)
    nodes = [mpmath.cos(mpmath.pi * (j + mpf(0.5)) / n) for j in range(n)]
    low = mpf(3) / (3 + end)  # the nodes are Chebyshev's in 3 / (3 + x): R changes most near 0
    points = [3 / ((1 + low) / 2 + (1 - low) / 2 * node) - 3 for node in nodes]
    values, q = [ratio(x) for x in points], [mpf(1)]
    for _ in range(rounds):
        denominators = [sum(a * x**i for i, a in enumerate(q)) for x in points]
        weights = [1 / (r * d) for r, d in zip(values, denominators, strict=True)]
        rows = [
            [w * x**j for j in range(degree_p + 1)] + [-w * r * x**j for j in range(1, degree_q + 1)]
            for w, r, x in zip(weights, values, points, strict=True)
        ]
        wanted = [w * r for w, r in zip(weights, values, strict=True)]
        solution = list(mpmath.lu_solve(mpmath.matrix(rows), mpmath.matrix(wanted)))
        p, q = solution[: degree_p + 1], [mpf(1), *solution[degree_p + 1 :]]
    return p, q


if __name__ == "__main__":
    mpmath.mp.dps = 50
    for name, (degree_p, degree_q, end, digits) in FITS.items():
        for coefficients in fit(degree_p, degree_q, end):
            print(name, ", ".join(mpmath.nstr(a, digits) for a in reversed(coefficients)))
