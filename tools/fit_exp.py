"""Fit the polynomials of softmax's exponential, and say how good they are.

    pip install scipy && python tools/fit_exp.py

Prints, for float32 and for float64, the coefficients of q in 2^f = 1 + f q(f) for f from -1/2 to
1/2, highest first, and the largest relative error that they leave in 2^f before they are rounded.
Those of src/fd_exp.h stay as they are, for the bits of softmax_dropout depend on them.
"""

import math

import numpy as np
from fit_normal import POINTS, fit

DEGREES = {np.float32: 4, np.float64: 10}


def main():
    f = POINTS - 0.5
    series = [math.log(2) ** (k + 1) / math.factorial(k + 1) for k in range(25)]  # of q
    for dtype, degree in DEGREES.items():
        # what the series lacks up to that degree is fitted, for q itself has too few digits
        rest = f ** (degree + 1) * np.polyval(series[:degree:-1], f)
        error, more, _ = fit(2 * f, rest, degree, weight=abs(f) / 2**f)
        coefficients = series[: degree + 1] + more * 2.0 ** np.arange(degree + 1)
        n_digits = np.finfo(dtype).precision + 3
        digits = ", ".join(f"{dtype(c):.{n_digits}g}" for c in coefficients[::-1])
        print(f"{dtype.__name__}  {digits}\n   error {error:.2g}")


if __name__ == "__main__":
    main()
