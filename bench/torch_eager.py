"""What `fastdrop.torch` costs beside PyTorch's own dropout: python bench/torch_eager.py

One thread, eager mode, float32. Contenders take turns in blocks of calls, each call is timed by
itself, and the least and the median are printed: the least is what the code takes, the median what
a machine as busy as this one makes of it.

Forward and backward of 1 MiB allocate 2 or 3 MiB. Whether glibc gives that memory back to the
system after each call, only to fault it in again in the next, depends on what else lies on the
heap, and can cost ten times what the kernels do. So all is measured twice, in processes of their
own: as glibc comes, and with MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_ at 1 GB, which keeps
it.
"""

import os
import statistics
import subprocess
import sys
import time
import warnings

KEEP = {"MALLOC_TRIM_THRESHOLD_": str(10**9), "MALLOC_MMAP_THRESHOLD_": str(10**9)}
BLOCK, WARM = 12, 3  # calls of a contender in a row, of which the first are not timed


def measure(contenders, rounds):
    """Least and median microseconds a call, of functions by name."""
    taken = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, f in contenders.items():
            for call in range(BLOCK):
                start = time.perf_counter()
                f()
                if call >= WARM:
                    taken[name].append(time.perf_counter() - start)
    return {name: (1e6 * min(t), 1e6 * statistics.median(t)) for name, t in taken.items()}


def show(title, measured, against="torch"):
    """Print microseconds, and how many times as fast as `against` that is."""
    print(f"\n{title:<36}{'least':>13}{'median':>13}{'times ' + against:>24}")
    for name, times in measured.items():
        ratios = [a / b for a, b in zip(measured[against], times, strict=True)]
        cells = [f"{t:10.2f} us" for t in times] + [f"{r:10.2f} x" for r in ratios]
        print(f"  {name:<34}" + "".join(cells))


def forward_and_backward(p, rounds):
    import torch

    import fastdrop.torch as fdt

    x = torch.randn(1 << 18, requires_grad=True)
    grad, noise = torch.ones(1 << 18), torch.ones(1 << 18)

    def both(f):
        def call():
            x.grad = None
            f(x, p).backward(grad)

        return call

    contenders = {
        "torch": both(torch.nn.functional.dropout),
        "fastdrop.torch": both(fdt.dropout),
        "autograd alone": both(lambda x, p: x.view_as(x)),
        "torch's backward: one product": lambda: torch.mul(grad, noise),
    }
    show(f"1 MiB, p = {p}: forward and backward", measure(contenders, rounds))


def forward(n, p, rounds):
    import torch

    import fastdrop as fd
    import fastdrop.torch as fdt

    x = torch.randn(n)
    leaf, array = x.clone().requires_grad_(), x.numpy()
    gen, seed = fd.Generator(0), torch.tensor(1)
    op = torch.ops.fastdrop.drop
    contenders = {
        "fastdrop on the array": lambda: fd.dropout(array, p, rng=gen),
        "fastdrop.torch": lambda: fdt.dropout(x, p),
        "fastdrop.torch, grad": lambda: fdt.dropout(leaf, p),
        "torch": lambda: torch.nn.functional.dropout(leaf, p),
        "the operator": lambda: op(x, seed, p, "plain", 0),
        "the operator, grad": lambda: op(leaf, seed, p, "plain", 0),
    }
    measured = measure(contenders, rounds)
    show(f"{n} elements, p = {p}: forward", measured)
    bare = measured["fastdrop on the array"]
    for name in ("fastdrop.torch", "fastdrop.torch, grad", "the operator", "the operator, grad"):
        more = (a - b for a, b in zip(measured[name], bare, strict=True))
        print(f"  {name:<34}" + "".join(f"{m:+10.2f} us" for m in more) + "  more than on arrays")


def layouts(p, rounds):
    import torch

    import fastdrop.torch as fdt

    shapes = {
        "contiguous": torch.randn(512, 512),
        "transposed": torch.randn(512, 512).t(),
        "channels last": torch.randn(16, 64, 16, 16).to(memory_format=torch.channels_last),
        "attention heads": torch.randn(4, 256, 8, 32).transpose(1, 2),
        "every other column": torch.randn(512, 1024)[:, ::2],
    }
    for name, x in shapes.items():
        contenders = {
            "fastdrop.torch": lambda x=x: fdt.dropout(x, p),
            "torch": lambda x=x: torch.nn.functional.dropout(x, p),
        }
        show(f"262144 elements, p = {p}, {name}", measure(contenders, rounds))


def compiled(rounds):
    import torch

    import fastdrop.torch as fdt

    x = torch.randn(16)
    contenders = {
        "compiled, x + 1": torch.compile(lambda x: x + 1),
        "compiled, dropout(x) + 1": torch.compile(lambda x: fdt.dropout(x, 0.1) + 1),
        "compiled, F.dropout(x) + 1": torch.compile(
            lambda x: torch.nn.functional.dropout(x, 0.1) + 1
        ),
    }
    calls = {name: lambda f=f: f(x) for name, f in contenders.items()}
    show("16 elements, compiled by Inductor", measure(calls, rounds), "compiled, x + 1")


def main():
    if os.environ.get("FASTDROP_BENCH") is None:
        for name, more in (("as glibc comes", {}), ("memory kept", KEEP)):
            print(f"\n==== {name}; load average {os.getloadavg()[0]:.1f}", flush=True)
            environment = {**os.environ, **more, "FASTDROP_BENCH": "1", "OMP_NUM_THREADS": "1"}
            subprocess.run([sys.executable, __file__, *sys.argv[1:]], env=environment, check=True)
        return
    import torch

    import fastdrop as fd

    torch.set_num_threads(1)
    fd.set_num_threads(1)
    print(f"torch {torch.__version__}, fastdrop {fd.__version__}, {fd.get_isa()}")
    for p in (0.5, 0.1):
        forward_and_backward(p, 40)
    for n in (16, 1 << 14, 1 << 18):
        forward(n, 0.5, 200 if n < 1 << 18 else 40)
    for p in (0.5, 0.1):
        layouts(p, 25)
    if "--compile" in sys.argv:
        warnings.simplefilter("ignore")
        compiled(100)


if __name__ == "__main__":
    main()
