"""A tagger in thinc, with its own dropout and with fastdrop's: what an epoch costs.

The tagger gives a text its capitals and punctuation back. It reads plain words in lower case and
says for each how it is written (lower case, Capital, other) and which mark follows (none, comma,
full stop, other), as is done with what a speech recognizer hears. The text is Python's own manual,
the topics of `help()`: it comes with Python. Every fifth paragraph is kept for the test.

Trains three times from the same weights on the same batches, epoch by epoch in turns: without
dropout, with `thinc.api.Dropout` on NumpyOps, and with `fastdrop.thinc.Dropout` on FastdropOps.
Prints a table and saves its picture as tagger.png. It is about times: with so little text, which of
the three tags best depends on the seed.

    python tagger.py                                    # width 96, 2 windows, dropout .1, 8 epochs
    python tagger.py --width 300 --epochs 5

In your own model: `from fastdrop.thinc import Dropout`, and `set_current_ops(FastdropOps())` before
it is made. Needs: pip install thinc matplotlib tqdm
"""

import hashlib
import importlib
import re
import sys
from pathlib import Path
from statistics import median
from time import process_time
from typing import NamedTuple

import mnist
import numpy as np

import fastdrop as fd

PICTURE = "tagger.png"
SEQUENCE = 50  # words
ROWS = 4000, 2000, 1000  # of the embeddings of words, endings and beginnings
WRITTEN = "lower", "Capital", "other"
MARKS = "", ",", ".", "other"


class Data(NamedTuple):
    features: list  # of each sequence, uint64 of shape (words, 3)
    tags: list  # of each sequence, shape (words,)


class Contender:
    """One model, its optimizer, and what was measured of it."""

    def __init__(self, name, color, make_dropout, ops, args):
        from thinc.api import Adam, fix_random_seed, use_ops

        self.name, self.color = name, color
        self.watch = Stopwatch()
        fix_random_seed(args.seed)  # the same weights for all
        with use_ops(ops):  # layers remember the Ops that they are made under
            self.model = build(args, lambda: self.watch.around(make_dropout()))
        self.optimizer = Adam(args.lr)
        self.seconds, self.in_dropout, self.curve = [], [], []  # of each epoch


# ---- data ----------------------------------------------------------------------------------------


def load():
    """Sequences to train on and to test on, and the number of words of each."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise mnist.BadInputError(f"{error}: this Python came without its manual") from error
    text = "\n\n".join(topics[name] for name in sorted(topics))
    kept = list(paragraphs(text))
    test = kept[4::5]
    del kept[4::5]
    return sequences(kept), sequences(test)


def paragraphs(text):
    """Running text as pairs of a bare word and its tag; code and tables are left out."""
    for paragraph in text.split("\n\n"):
        words = paragraph.split()
        plain = [
            re.fullmatch(r"[\"'(“]*([A-Za-z][A-Za-z'-]*)[\"')”]*([,.:;?!]?)", w) for w in words
        ]
        if len(words) >= 8 and sum(map(bool, plain)) >= 0.85 * len(words):
            yield [(m[1].lower(), tag(*m.groups())) for m in plain if m]


def tag(word, mark):
    written = 0 if word.islower() else 1 if word.istitle() else 2
    return written * len(MARKS) + (MARKS.index(mark) if mark in MARKS else len(MARKS) - 1)


def sequences(paragraphs):
    pairs = [pair for paragraph in paragraphs for pair in paragraph]
    features = np.array(
        [[key(w), key("-" + w[-3:]), key(w[:2] + "-")] for w, _ in pairs], np.uint64
    )
    tags = np.array([t for _, t in pairs])
    cuts = range(SEQUENCE, len(pairs), SEQUENCE)
    return Data(np.split(features, cuts), np.split(tags, cuts))


def key(text):
    """64 bits of a text, the same in every run."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


# ---- the tagger ----------------------------------------------------------------------------------


def build(args, make_dropout):
    """Embed word, ending and beginning, look at the neighbours, as spaCy's taggers do."""
    from thinc.api import (
        HashEmbed,
        Maxout,
        Softmax,
        chain,
        concatenate,
        expand_window,
        residual,
        with_array,
    )

    embed = concatenate(
        *(HashEmbed(args.width, rows, column=i, seed=i) for i, rows in enumerate(ROWS))
    )
    layers = [embed, Maxout(args.width, nP=3, normalize=True), make_dropout()]
    for _ in range(args.depth):
        window = chain(expand_window(1), Maxout(args.width, nP=3, normalize=True), make_dropout())
        layers.append(residual(window))
    layers.append(Softmax(len(WRITTEN) * len(MARKS)))
    return with_array(chain(*layers), pad=args.depth)


class Stopwatch:
    """Measures what a layer takes, forward and backward: of the processor, busy as it may be."""

    def __init__(self):
        self.seconds = 0.0

    def around(self, layer):
        from thinc.api import Model

        def forward(model, x, is_train):
            y, backprop = timed(layer, x, is_train)
            return y, lambda grad: timed(backprop, grad)

        def timed(function, *arguments):
            start = process_time()
            result = function(*arguments)
            self.seconds += process_time() - start
            return result

        return Model("timed", forward, layers=[layer])


def train_epoch(contender, data, batches):
    model, optimizer = contender.model, contender.optimizer
    contender.watch.seconds, start = 0.0, process_time()
    for batch in batches:
        guesses, backprop = model.begin_update([data.features[i] for i in batch])
        words = sum(map(len, guesses))
        for guess, i in zip(guesses, batch, strict=True):
            guess[np.arange(len(guess)), data.tags[i]] -= 1  # of softmax and cross-entropy
            guess /= words
        backprop(guesses)
        model.finish_update(optimizer)
    contender.seconds.append(process_time() - start)
    contender.in_dropout.append(contender.watch.seconds)


def measure(contender, data):
    """Share of tags that are right, and F1 of the words that are not plain lower case."""
    guesses = np.concatenate([y.argmax(axis=1) for y in contender.model.predict(data.features)])
    truth = np.concatenate(data.tags)
    if not np.isfinite(contender.model.predict(data.features[:1])[0]).all():
        raise mnist.BadInputError("training diverged; take a smaller --lr")
    right = np.sum((guesses == truth) & (truth > 0))
    contender.curve.append(
        (np.mean(guesses == truth), 2 * right / max(1, np.sum(truth > 0) + np.sum(guesses > 0)))
    )


# ---- results -------------------------------------------------------------------------------------


def table(contenders):
    def row(label, cells):
        return f"{label:<32}" + "".join(f"{cell:>17}" for cell in cells)

    def times(values):
        return [f"{1000 * median(v):.1f}" for v in values]

    _, stock, ours = contenders
    last = [c.curve[-1] for c in contenders]
    faster = median(stock.in_dropout) / median(ours.in_dropout)
    lines = [
        row("", [c.name for c in contenders]),
        row("tags right, test", [f"{accuracy:.2%}" for accuracy, _ in last]),
        row("F1 of capitals and marks, test", [f"{f1:.2%}" for _, f1 in last]),
        row("CPU ms an epoch, median", times(c.seconds for c in contenders)),
        row("CPU ms of it in dropout", ["-", *times(c.in_dropout for c in contenders[1:])]),
        "",
        f"fastdrop's layer is {faster:.1f} times as fast as thinc's.",
    ]
    return "\n".join(lines)


def draw(contenders, subtitle):
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8.4, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
    for i, contender in enumerate(contenders):
        inside = 1000 * median(contender.in_dropout)
        outside = 1000 * median(contender.seconds) - inside
        left.bar(i, outside, color="0.82", width=0.7)
        left.bar(i, inside, bottom=outside, color=contender.color, width=0.7)
        text = f"{inside:.1f} ms" if i else "none"
        left.annotate(text, (i, outside + inside), (0, 3), textcoords="offset points", ha="center")
        epochs = np.arange(1, len(contender.curve) + 1)
        f1 = [100 * f for _, f in contender.curve]
        right.plot(epochs, f1, color=contender.color, label=contender.name)
    left.set_xticks(range(len(contenders)), [c.name.replace(", ", ",\n") for c in contenders])
    left.set(ylabel="CPU ms an epoch; coloured: in dropout")
    left.margins(y=0.12)
    right.set(xlabel="epoch", ylabel="F1 of capitals and marks, test, %")
    right.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    _, stock, ours = contenders
    figure.suptitle(
        f"In dropout: thinc {1000 * median(stock.in_dropout):.0f} ms an epoch, "
        f"fastdrop {1000 * median(ours.in_dropout):.1f} ms",
        fontsize=12.5,
        fontweight="bold",
    )
    figure.supxlabel(subtitle, fontsize=8.5, color="0.35")
    return figure


# ---- the command ---------------------------------------------------------------------------------

SEED = mnist.checked(int, "a whole number in [0, 2**32)", lambda n: 0 <= n < 2**32)


def read_arguments(argv):
    rate = mnist.checked(float, "a rate above 0 and below 1", lambda p: 0 < p < 1)
    parser = mnist.Parser(
        prog="tagger.py",
        description="Train a tagger in thinc, with thinc's dropout and with fastdrop's.",
        epilog="In brackets what holds where an option is not given.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--width", type=mnist.COUNT, default=96, metavar="N", help="of the layers (%(default)s)")
    add("--depth", type=mnist.COUNT, default=2, metavar="N", help="windows (%(default)s)")
    add("--rate", type=rate, default=0.1, metavar="P", help="of units to drop (%(default)s)")
    add("--epochs", type=mnist.COUNT, default=8, metavar="N", help="(%(default)s)")
    add(
        "--batch-size",
        type=mnist.COUNT,
        default=20,
        metavar="N",
        help=f"sequences of {SEQUENCE} words (%(default)s)",
    )
    add("--sequences", type=mnist.COUNT, metavar="N", help="to train on, the first ones (all)")
    add("--lr", type=mnist.POSITIVE, default=1e-3, metavar="R", help="Adam's rate (%(default)s)")
    add("--seed", type=SEED, default=0, metavar="N", help="of all randomness (%(default)s)")
    add("--out", type=Path, default=PICTURE, metavar="FILE", help="the picture (%(default)s)")
    return parser.parse_args(argv)


def check_packages():
    mnist.check_packages()
    try:
        importlib.import_module("thinc.api")
    except ImportError as error:
        raise mnist.BadInputError(f"{error}: pip install thinc") from error


def compare(args):
    mnist.check_writable(args.out.parent, args.out.name)
    check_packages()
    import thinc.api
    from tqdm import tqdm

    import fastdrop.thinc

    train, test = load()
    train = Data(*(part[: args.sequences] for part in train))
    words = sum(map(len, train.tags)), sum(map(len, test.tags))
    setting = (
        f"{words[0]:,} words to train on, {words[1]:,} to test on, width {args.width}, "
        f"{args.depth} windows, rate {args.rate:g}, {args.epochs} epochs, seed {args.seed}"
    )
    print(setting, flush=True)
    generator = fd.Generator(args.seed)
    contenders = [
        Contender("no dropout", "0.4", lambda: thinc.api.Dropout(0.0), "cpu", args),
        Contender("thinc", "#D55E00", lambda: thinc.api.Dropout(args.rate), "cpu", args),
        Contender(
            "fastdrop",
            "#0072B2",
            lambda: fastdrop.thinc.Dropout(args.rate, rng=generator),
            "fastdrop",
            args,
        ),
    ]
    rng = np.random.default_rng(args.seed)
    for contender in contenders:
        contender.model.initialize(train.features[:2], None)
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in tqdm(range(args.epochs), desc="epochs", disable=None):
            order = rng.permutation(len(train.tags))
            batches = [
                order[i : i + args.batch_size] for i in range(0, len(order), args.batch_size)
            ]
            for contender in contenders:
                train_epoch(contender, train, batches)
                measure(contender, test)
    print(f"\n{table(contenders)}")
    path = args.out.resolve()
    mnist.save(draw(contenders, setting), path)
    print(f"\npicture: {path}")


def main(argv=None):
    return mnist.exit_code("tagger.py", lambda: compare(read_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
