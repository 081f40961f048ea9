"""Monte-Carlo dropout: how a network's spread tells where it is uncertain, and where it does not.

Fits miles per gallon by horsepower for the 392 cars of Auto MPG, with a region in the middle and
one at the end left out of training. Dropout stays on in prediction: each sample is one thinned
network, the mean of the samples is the prediction and their spread its uncertainty (Gal and
Ghahramani, ICML 2016). Prints how that holds in the three regions, over random splits of the cars,
and saves the first split's band as uncertainty.png.

    python uncertainty.py
    python uncertainty.py --rate 0.5
    python uncertainty.py --hidden 100 --gap 75,110 --beyond 150

The data are in the package mlxtend. Needs: pip install matplotlib mlxtend tqdm

What the default shows, on 20 splits with seed 0:

- Beyond the data the band widens, from 0.9 miles per gallon to 2.4. The mean drifts off all the
  same, further than the network with dropout off; the 95 % interval covers 87 % of the cars there.
- In the gap it is narrower, 0.6, although the networks of the 20 splits, with dropout off, differ
  more there. The spread is least near the mean of the cars trained on, 92 horsepower, and grows
  with the distance from it. Foong et al. (NeurIPS 2020) prove that with one hidden layer of ReLU
  it cannot be wide between two regions where it is narrow; here there are two layers.
- The rate sets the width: .05, .2 and .5 give 0.56, 0.92 and 1.59 where trained. Held-out cars from
  there do not tell which is right: their log-likelihoods are -3.03, -3.03 and -3.04.
"""

import math
import sys
import warnings
import zlib
from pathlib import Path
from typing import NamedTuple

import mnist
import numpy as np

import fastdrop as fd

PICTURE = "uncertainty.png"
REGIONS = ("trained on", "gap", "beyond")
TAUS = np.geomspace(0.3, 30, 300) ** -2.0  # precisions: noise of 0.3 to 30 miles per gallon
SHOWN = 5  # samples in the picture


class Cars(NamedTuple):
    power: np.ndarray  # in horsepower
    mpg: np.ndarray
    region: np.ndarray  # index into REGIONS


class Result(NamedTuple):
    """What one split gave; outputs in miles per gallon."""

    trained: np.ndarray  # indices of cars
    tau: float
    samples: np.ndarray  # along the grid
    alone: np.ndarray  # of the network, dropout off: for the cars, then along the grid
    figures: dict  # of the table: a number for each region


# ---- data ----------------------------------------------------------------------------------------


def load(gap, beyond):
    """Horsepower and miles per gallon of all cars, and the region that each is in."""
    try:
        from mlxtend.data import autompg
    except ImportError as error:
        raise mnist.BadInputError(
            f"{error}: pip install mlxtend, which carries the data"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the file is empty; the next lines say it
            columns, mpg = autompg.autompg_data()
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise mnist.BadInputError(f"{autompg.DATA_PATH}: {error}") from error
    if columns.shape != (392, 8) or not np.isfinite([columns[:, 2], mpg]).all():
        raise mnist.BadInputError(f"{autompg.DATA_PATH}: not 392 cars in 9 columns")

    power = columns[:, 2]
    region = np.select([power >= beyond, (power >= gap[0]) & (power < gap[1])], [2, 1], 0)
    options = f"--gap {gap[0]:g},{gap[1]:g}", f"--beyond {beyond:g}"
    for i, option in enumerate(options, start=1):
        if not (region == i).any():
            raise mnist.BadInputError(
                f"{option}: no car there; they have {power.min():g} to {power.max():g} horsepower"
            )
    if np.count_nonzero(region == 0) < 20:
        raise mnist.BadInputError(
            f"{' and '.join(options)}: leave fewer than 20 cars to train on; leave out less"
        )
    return Cars(power, mpg, region)


# ---- the network ---------------------------------------------------------------------------------


def build(args, rng, dropout_rng):
    """ReLU and dropout after each hidden layer, as in mnist.py."""
    sizes = (1, *args.hidden, 1)
    net = mnist.Network(sizes, rng, rate=args.rate, dropout_rng=dropout_rng, dtype="float64")
    first = net.of_kind(mnist.Dense)[0]
    # with biases of zero all units would have their kink at one place, the mean of the inputs
    first.bias[:] = -first.weight[0] * rng.uniform(-2, 2, len(first.bias))
    return net


def squared_error(outputs, targets):
    """Mean squared error of a batch, and its gradient by the outputs."""
    errors = outputs - targets
    return float(np.mean(np.square(errors))), 2 * errors / errors.size


def train(net, x, y, args, rng):
    """The usual training, with masks of its own for each car."""
    optimizer = mnist.Adam(net.weights(), args.lr, weight_decay=args.weight_decay)
    for _ in range(args.epochs):
        order = rng.permutation(len(x))
        for i in range(0, len(x), args.batch_size):
            batch = order[i : i + args.batch_size]
            _, grad = squared_error(net.forward(x[batch]), y[batch])
            net.backward(grad)
            optimizer.step(net.gradients())


def sample(net, x, T):
    """Outputs of T thinned networks, of shape (T, len(x))."""
    for layer in net.of_kind(fd.nn.Dropout):
        layer.noise_shape = (1, None)  # one mask for all rows: a sample is one function of x
    return fd.nn.mc_samples(net.forward, x, T, rng=net.generator).samples[..., 0]


def log_likelihood(samples, y, tau):
    """Of each y, by the paper: logsumexp_t(-tau/2 (y - f_t)^2) - log T + 1/2 log(tau / 2 pi)."""
    exponents = -tau / 2 * np.square(y - samples)
    largest = exponents.max(axis=0)
    mean = np.mean(np.exp(exponents - largest), axis=0)
    return largest + np.log(mean) + 0.5 * math.log(tau / (2 * math.pi))


def best_tau(samples, y):
    return max(TAUS, key=lambda tau: log_likelihood(samples, y, tau).mean())


def covered(errors, std, tau):
    """Share of errors within the 95 % interval of the spread and the noise together."""
    return np.mean(np.abs(errors) <= 1.96 * np.sqrt(np.square(std) + 1 / tau))


# ---- one split -----------------------------------------------------------------------------------


def run(cars, grid, args, seeds):
    """Split the cars, train, sample, and measure in each region on cars not trained on."""
    rng = np.random.default_rng(seeds)
    order = rng.permutation(np.flatnonzero(cars.region == 0))
    fifth = len(order) // 5
    test, validation, trained = order[:fifth], order[fifth : 2 * fifth], order[2 * fifth :]
    power, mpg = cars.power[trained], cars.mpg[trained]

    def scaled(values, reference):
        return ((values - reference.mean()) / reference.std())[:, np.newaxis]

    net = build(args, rng, seeds)
    train(net, scaled(power, power), scaled(mpg, mpg), args, rng)
    # cars and grid in one call: so the samples are the same functions for both
    x = scaled(np.concatenate([cars.power, grid]), power)
    samples = sample(net, x, args.samples) * mpg.std() + mpg.mean()
    alone = net.train(False).forward(x)[:, 0] * mpg.std() + mpg.mean()

    tau = best_tau(samples[:, validation], cars.mpg[validation])
    tau_alone = best_tau(alone[np.newaxis, validation], cars.mpg[validation])
    figures = {}
    for where in (test, np.flatnonzero(cars.region == 1), np.flatnonzero(cars.region == 2)):
        y, drawn, one = cars.mpg[where], samples[:, where], alone[np.newaxis, where]
        errors, errors_alone, std = y - drawn.mean(axis=0), y - one[0], drawn.std(axis=0)
        for label, value in (
            ("RMSE, mean of the samples", math.sqrt(np.mean(np.square(errors)))),
            ("RMSE, dropout off", math.sqrt(np.mean(np.square(errors_alone)))),
            ("log-likelihood, samples", log_likelihood(drawn, y, tau).mean()),
            ("log-likelihood, dropout off", log_likelihood(one, y, tau_alone).mean()),
            ("95 % interval covers, samples", covered(errors, std, tau)),
            ("95 % interval covers, dropout off", covered(errors_alone, 0, tau_alone)),
            ("std of the samples", std.mean()),
        ):
            figures.setdefault(label, []).append(value)
    if not np.isfinite([*figures.values()]).all():
        raise mnist.BadInputError(f"training diverged; take a smaller --lr than {args.lr:g}")
    return Result(trained, tau, samples[:, len(cars.power) :], alone, figures)


# ---- results -------------------------------------------------------------------------------------


def table(cars, results, counts):
    def row(label, *cells):
        return f"{label:<34}" + "".join(f"{cell:>16}" for cell in cells)

    lines = [row("", *REGIONS), row("cars tested", *counts)]
    for label in results[0].figures:
        values = np.array([result.figures[label] for result in results])
        form = "{:.0%} ± {:3.0%}" if "covers" in label else "{:.2f} ± {:.2f}"
        cells = map(form.format, values.mean(axis=0), values.std(axis=0))
        lines.append(row(label, *cells))
    if len(results) > 1:
        spread = np.std([result.alone[: len(cars.power)] for result in results], axis=0)
        cells = (f"{spread[cars.region == i].mean():.2f}       " for i in range(3))
        lines.append(row("std between the splits' networks", *cells))
    noise = [result.tau**-0.5 for result in results]
    lines += [
        "",
        f"RMSE and std in miles per gallon; mean ± standard deviation over splits: {len(results)}.",
        f"Noise beside the spread, 1/sqrt(tau): {np.mean(noise):.2f} ± {np.std(noise):.2f}.",
    ]
    return "\n".join(line.rstrip() for line in lines)


def draw(cars, grid, results, args, setting):
    from matplotlib.figure import Figure

    blue, orange, grey = "#0072B2", "#D55E00", "0.35"
    first = results[0]
    mean, std = first.samples.mean(axis=0), first.samples.std(axis=0)
    interval = 1.96 * np.sqrt(np.square(std) + 1 / first.tau)
    figure = Figure(figsize=(8, 6.8), layout="constrained")
    axes, below = figure.subplots(2, sharex=True, height_ratios=(3, 1.3))

    for k, color in ((2, "#cfe3f2"), (1, "#93c1e0")):
        label = f"± {k} std of the samples"
        axes.fill_between(grid, mean - k * std, mean + k * std, color=color, lw=0, label=label)
    axes.plot(grid, first.samples[:SHOWN].T, color=blue, lw=0.6)
    axes.plot(grid, mean, color=blue, lw=2.2, label=f"their mean (thin: {SHOWN} of them)")
    axes.plot(grid, first.alone[len(cars.power) :], "--k", lw=1.2, label="the network, dropout off")
    axes.plot(grid, mean - interval, ":", color=grey, label="95 % interval, with noise")
    axes.plot(grid, mean + interval, ":", color=grey)
    unseen = np.setdiff1d(np.arange(len(cars.power)), first.trained)
    for where, color, marker, label in (
        (first.trained, "0.2", ".", "cars trained on"),
        (unseen, orange, "x", "cars held out"),
    ):
        axes.plot(cars.power[where], cars.mpg[where], marker, color=color, ms=4, label=label)
    axes.set(ylabel="miles per gallon", xlim=(grid[0], grid[-1]))
    axes.set_ylim((mean - interval).min() - 1, cars.mpg.max() + 2)
    axes.legend(frameon=False, fontsize=9)

    spreads = np.array([result.samples.std(axis=0) for result in results])
    below.plot(grid, spreads.T, color=blue, lw=0.5, alpha=0.4)
    label = f"of the samples (thin: each split, thick: mean of {len(results)})"
    below.plot(grid, spreads.mean(axis=0), color=blue, lw=2.2, label=label)
    if len(results) > 1:
        networks = np.std([result.alone[len(cars.power) :] for result in results], axis=0)
        below.plot(grid, networks, "--k", lw=1.2, label="between the splits' networks")
    below.set(xlabel="horsepower", ylabel="std, in mpg")
    below.set_ylim(0, 1.2 * spreads.max())
    below.legend(frameon=False, fontsize=9, loc="upper left")
    for panel in (axes, below):
        panel.axvspan(*args.gap, color="0.93", zorder=-1)
        panel.axvspan(args.beyond, grid[-1], color="0.93", zorder=-1)
        panel.spines[["top", "right"]].set_visible(False)
    for start, end, name in ((*args.gap, "gap"), (args.beyond, grid[-1], "beyond")):
        place = {"transform": axes.get_xaxis_transform(), "ha": "center", "color": grey}
        axes.text((start + end) / 2, 1.01, f"left out: {name}", fontsize=9, **place)

    spread = np.mean([result.figures["std of the samples"] for result in results], axis=0)
    title = "Samples spread by {:.2f} mpg where trained, {:.2f} in the gap, {:.2f} beyond"
    figure.suptitle(title.format(*spread), fontsize=12.5, fontweight="bold")
    axes.set_title(f"{setting}\n", fontsize=9, color=grey)
    return figure


# ---- the command ---------------------------------------------------------------------------------


def read_arguments(argv):
    pair = mnist.checked(
        lambda text: tuple(float(part) for part in text.split(",")),
        "two rising numbers with a comma between",
        lambda pair: len(pair) == 2 and -math.inf < pair[0] < pair[1] < math.inf,
    )
    rate = mnist.checked(float, "a rate above 0 and below 1", lambda p: 0 < p < 1)
    decay = mnist.NOT_NEGATIVE
    parser = mnist.Parser(
        prog="uncertainty.py",
        description="Monte-Carlo dropout on a regression with regions left out of training.",
        epilog="In brackets what holds where an option is not given.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--gap", type=pair, default="90,130", metavar="A,B", help="left out (%(default)s)")
    add("--beyond", type=mnist.POSITIVE, default=165.0, metavar="A", help="likewise (%(default)s)")
    add("--hidden", type=mnist.SIZES, default="64,64", metavar="N,N", help="units (%(default)s)")
    add("--rate", type=rate, default=0.2, metavar="P", help="of units to drop (%(default)s)")
    add("--samples", type=mnist.COUNT, default=200, metavar="T", help="(%(default)s)")
    add("--splits", type=mnist.COUNT, default=20, metavar="N", help="of the cars (%(default)s)")
    add("--epochs", type=mnist.COUNT, default=400, metavar="N", help="(%(default)s)")
    add("--batch-size", type=mnist.COUNT, default=32, metavar="N", help="(%(default)s)")
    add("--lr", type=mnist.POSITIVE, default=1e-3, metavar="R", help="Adam's rate (%(default)s)")
    add("--weight-decay", type=decay, default=0.01, metavar="W", help="AdamW's (%(default)s)")
    add("--seed", type=mnist.SEED, default=0, metavar="N", help="of all randomness (%(default)s)")
    add("--out", type=Path, default=PICTURE, metavar="FILE", help="the picture (%(default)s)")
    args = parser.parse_args(argv)
    if args.beyond < args.gap[1]:
        raise mnist.BadInputError(
            f"--beyond {args.beyond:g}: lies below the end of --gap; give {args.gap[1]:g} or more"
        )
    return args


def compare(args):
    mnist.check_writable(args.out.parent, args.out.name)
    cars = load(args.gap, args.beyond)
    mnist.check_packages()
    from tqdm import tqdm

    counts = np.bincount(cars.region)
    held_out = counts[0] // 5  # to test on, and as many for tau
    setting = (
        f"{'-'.join(map(str, (1, *args.hidden, 1)))} with ReLU, dropout {args.rate:g}, "
        f"weight decay {args.weight_decay:g}, {args.samples} samples, seed {args.seed}"
    )
    print(f"{setting}\n{counts[0] - 2 * held_out} cars to train on, {held_out} for tau", flush=True)
    grid = np.linspace(cars.power.min(), cars.power.max(), 300)
    seeds = np.random.SeedSequence(args.seed).spawn(args.splits)
    bar = tqdm(seeds, desc="splits", disable=None)
    with bar, np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        results = [run(cars, grid, args, each) for each in bar]
    print(f"\n{table(cars, results, (held_out, *counts[1:]))}")
    path = args.out.resolve()
    mnist.save(draw(cars, grid, results, args, setting), path)
    print(f"\npicture: {path}")


def main(argv=None):
    return mnist.exit_code("uncertainty.py", lambda: compare(read_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
