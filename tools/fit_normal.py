"""Fit the rational functions of the stream's normal numbers, and say how good they are.

    pip install scipy && python tools/fit_normal.py

Prints coefficients, highest first, rounded to float32, and the largest error of each fit before
rounding. In docs/stream.md they are frozen: this shows where they come from, and another machine
may print other last digits. The fits are minimax by Lawson's iteration: weighted linear least
squares, with the weight of each point multiplied by its error, until the errors are level.
"""

import numpy as np
from scipy.special import ndtri

POINTS = (1 - np.cos(np.pi * (np.arange(6000) + 0.5) / 6000)) / 2  # Chebyshev's, on (0, 1)


def fit(x, f, top, bottom=0, weight=None, rounds=200):
    """Coefficients of N/D close to f, from the constant on, D's constant 1; the largest error."""
    weight = 1 / f if weight is None else weight  # of an error: relative, unless given
    above = np.vander(x, top + 1, increasing=True)
    below = np.vander(x, bottom + 1, increasing=True)
    lawson, denominator, best = np.ones_like(x), np.ones_like(x), (np.inf,)
    for _ in range(rounds):
        scale = np.sqrt(lawson) * weight / denominator
        columns = np.hstack([above, -below[:, 1:] * f[:, None]]) * scale[:, None]
        solution = np.linalg.lstsq(columns, f * scale, rcond=None)[0]
        n, d = solution[: top + 1], np.concatenate([[1], solution[top + 1 :]])
        denominator = below @ d
        error = abs((above @ n / denominator - f) * weight)
        if error.max() < best[0]:
            best = error.max(), n, d
        lawson *= error / error.max() + 1e-3
        lawson /= lawson.mean()
    return best


def show(name, coefficients, error):
    digits = ", ".join(f"{np.float32(c):.9g}" for c in coefficients[::-1])
    print(f"{name}  {digits}\n   error {error:.2g}")


def main():
    # inner: z / v by v^2, v up to 1/4; the series of the quantile where ndtri cancels
    square = POINTS / 16
    v = np.sqrt(square)
    x = np.sqrt(2 * np.pi) * v
    series = np.sqrt(2 * np.pi) * (1 + x**2 / 6 + 7 * x**4 / 120)
    error, n, _ = fit(square, np.where(v < 2e-3, series, ndtri(0.5 + v) / v), 5)
    show("C", n, error)

    error, n, _ = fit(POINTS, POINTS - np.log2(1 + POINTS), 8, weight=np.ones_like(POINTS))
    show("L", n, error)

    # outer: z by y = -log2(4v), v from 1/4 down to 2^-33; fitted on (0, 1) and scaled back
    error, n, d = fit(POINTS, -ndtri(2.0 ** -(31 * POINTS + 2)), 5, 5)
    powers = 31.0 ** np.arange(6)
    show("N", n / powers, error)
    show("D", d / powers, error)


if __name__ == "__main__":
    main()
