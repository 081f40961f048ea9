"""Instructions an element, counted by valgrind: a figure that noise does not touch.

    python tools/callgrind.py            # counts, and writes bench/results/instructions.json
    python tools/callgrind.py --check    # counts, and fails where one grew by more than 3 %

A small C program is built from src/ with the flags of setup.py, and callgrind counts one call of
each kernel on 64 Ki elements: the baseline's and AVX2's, for valgrind knows no AVX-512. The counts
depend on the compiler, whose version is kept with them.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
RESULTS = TOP / "bench" / "results" / "instructions.json"
FLAGS = ["-std=c11", "-O2", "-ffp-contract=off"]
ISAS = ["baseline", "avx2"]
# in the order of fd_dtype, and then of the program
KERNELS = ["f16", "bf16", "f32", "f64", "bits", "softmax", "softmax grad", "f32 rows"]
RATES = [0.5, 0.1]
N = 1 << 16
GROWTH = 0.03  # that --check lets pass

PROGRAM = """
#include <stdlib.h>
#include "fd_kernels.h"

enum { N = %d, ROW = 512, COLUMNS = 1024, WIDTH = 8192 };
enum { BITS = FD_DTYPES, SOFTMAX, SOFTMAX_GRAD, ROWS };
static _Alignas(64) unsigned char x[8 * N], y[8 * N];
static fd_window window, rows;

/* What is counted: one call. */
__attribute__((noinline)) void measured(const fd_kernels *k, int kernel, const fd_stream *stream) {
    const fd_values values = {2.0, 0.0, 0.0};
    if (kernel == BITS) k->bits(y, 0, 0, NULL, N, stream);
    else if (kernel == ROWS)
        fd_window_plain(k, FD_F32, &rows, y, x, 0, N, stream, &values);
    else if (kernel > BITS)
        fd_window_softmax(k, FD_F32, &window, y, x, kernel == SOFTMAX_GRAD ? x : NULL, ROW, 0, N,
                          stream, 2.0);
    else k->plain[kernel](y, x, 0, NULL, N, stream, &values, 0);
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    const fd_kernels *k = argv[1][0] == 'a' ? fd_kernels_avx2 : fd_kernels_baseline;
    const fd_stream stream = {1, 0, strtoull(argv[3], NULL, 10)};
    if (k == NULL) return 3;
    const uint64_t shape = N, stride = 1, of_rows[] = {N / COLUMNS, COLUMNS}, steps[] = {WIDTH, 1};
    fd_window_init(&window, 1, &shape, &stride, 0);
    fd_window_init(&rows, 2, of_rows, steps, COLUMNS);
    measured(k, atoi(argv[2]), &stream);
    return 0;
}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the committed counts")
    args = parser.parse_args()
    if shutil.which("valgrind") is None:
        sys.exit("callgrind.py: valgrind is not installed")
    if args.check and not RESULTS.exists():
        sys.exit(f"callgrind.py: there is no {RESULTS} to compare with")
    old = json.loads(RESULTS.read_text()) if args.check else None

    found = {"compiler": compiler(), "elements": N, "instructions_per_element": count()}
    for name, value in found["instructions_per_element"].items():
        print(f"{name:22} {value:7.3f}")
    if old is None:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
        return 0
    return compare(old, found)


def compiler():
    return subprocess.run(["cc", "--version"], **CAPTURE).stdout.splitlines()[0]


def count():
    """Instructions an element of each case, by its name."""
    counts = {}
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder, "count.c"), Path(folder, "count")
        source.write_text(PROGRAM % N)
        sources = [source, *sorted(TOP.glob("src/*.c"))]
        subprocess.run(["cc", *FLAGS, f"-I{TOP}/src", *sources, "-o", binary], check=True)
        for isa in ISAS:
            for number, kernel in enumerate(KERNELS):
                for p in RATES:
                    command = [binary, isa, str(number), str(round(p * 2**40))]
                    counts[f"{isa} {kernel} p={p}"] = round(instructions(command) / N, 4)
    return counts


def instructions(command):
    """Instructions within `measured`."""
    options = ["--tool=callgrind", "--toggle-collect=measured", "--callgrind-out-file=/dev/null"]
    run = subprocess.run(["valgrind", *options, *command], **CAPTURE)
    collected = re.search(r"Collected : (\d+)", run.stderr)
    if run.returncode != 0 or collected is None:
        sys.exit(f"callgrind.py: {' '.join(map(str, command))} failed:\n{run.stderr}")
    return int(collected[1])


def compare(old, new):
    """Say what changed; 1 where something grew by too much."""
    if old["compiler"] != new["compiler"]:
        print(f"counted then with {old['compiler']}, now with {new['compiler']}: expect changes")
    failed = False
    for name, before in old["instructions_per_element"].items():
        now = new["instructions_per_element"].get(name)
        if now is None:
            print(f"{name}: no longer counted")
        elif abs(now / before - 1) > GROWTH:
            grew = now > before
            failed |= grew
            print(
                f"{name}: {before:g} -> {now:g} ({now / before - 1:+.1%}){' GREW' if grew else ''}"
            )
    print(f"{'something' if failed else 'nothing'} grew by more than {GROWTH:.0%}")
    return int(failed)


CAPTURE = {"capture_output": True, "text": True}

if __name__ == "__main__":
    sys.exit(main())
