"""The data-parallel example: worker processes give the losses of one, and bad input."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="needs: pip install 'dask[distributed]'")
pytest.importorskip("fastdrop.dask")

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "data_parallel.py"
SMALL = ["--images", "90", "--batch-size", "30", "--epochs", "1", "--hidden", "16"]


def call(*argv, cwd):
    return subprocess.run(
        [sys.executable, str(EXAMPLE), *argv],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "2"},  # which it has to override
    )


def test_two_workers_give_the_losses_of_one_process(tmp_path):
    done = call(*SMALL, "--workers", "2", "--shards", "4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {line[:34].strip(): line[34:].split() for line in done.stdout.splitlines()}
    alone, workers = rows["this process alone"], rows["2 workers"]
    assert workers[0] == alone[0]  # the last loss, in nine digits
    assert workers[1:4] == ["0", "same", "bits"]
    own = rows["2 workers, own masks *"]
    assert float(own[1]) > 0
    assert own[2] == "differ"
    assert (tmp_path / "data_parallel.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--workers", "1,8"], "--workers 8: more than --shards 4"),
        (["--workers", "0"], "--workers: '0' is not one or more whole numbers"),
        (["--images", "61", "--batch-size", "30"], "--shards 4: a batch has 1 of the 61 images"),
        (["--out", "nowhere/x.png"], "--out nowhere: no such folder"),
    ],
)
def test_bad_input(tmp_path, argv, words):
    done = call(*argv, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("data_parallel.py: error: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
