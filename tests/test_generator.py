"""Generator: seeds, positions, spawning, state; and what may be given as rng."""

import copy
import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastdrop as fd


def test_seed_and_position():
    gen = fd.Generator(7, position=3)
    assert (gen.seed, gen.position) == (7, 3)
    assert repr(gen) == "Generator(seed=7, position=3)"
    assert gen.mask(5).position == 3
    assert gen.position == 4


def test_seeded_by_the_system():
    assert fd.Generator().seed != fd.Generator().seed


@pytest.mark.parametrize("seed", [-1, 2**64, np.int64(-5)])
def test_seed_out_of_range(seed):
    with pytest.raises(ValueError, match=r"seed=.* is outside"):
        fd.Generator(seed)
    with pytest.raises(ValueError, match=r"rng=.* is outside"):
        fd.dropout(np.ones(3), rng=seed)


@pytest.mark.parametrize(
    "rng", [True, np.True_, 1.5, "0", [1, 2], np.array([1]), np.random.PCG64(0), np, np.random.seed]
)
def test_refused_rng(rng):
    with pytest.raises(TypeError, match=r"^rng must be a fastdrop\.Generator"):
        fd.dropout(np.ones(3), rng=rng)
    with pytest.raises(TypeError, match=r"^seed must be a fastdrop\.Generator"):
        fd.Generator(rng)
    with pytest.raises(TypeError, match=r"^rng must be a fastdrop\.Generator"):
        fd.nn.Dropout(rng=rng)


def test_refused_rng_names_the_remedy():
    with pytest.raises(TypeError, match=r"wrap it as numpy\.random\.Generator"):
        fd.dropout(np.ones(3), rng=np.random.PCG64(0))


def test_kinds_of_rng():
    x = np.ones(100)
    want = fd.dropout(x, rng=fd.Generator(5))
    np.testing.assert_array_equal(fd.dropout(x, rng=5), want)
    np.testing.assert_array_equal(fd.dropout(x, rng=np.uint64(5)), want)
    ss = np.random.SeedSequence(3)
    np.testing.assert_array_equal(
        fd.dropout(x, rng=ss), fd.dropout(x, rng=int(ss.generate_state(1, np.uint64)[0]))
    )


def test_a_numpy_generator_is_drawn_from_at_each_training_call():
    x = np.ones(100)
    rng, other = np.random.default_rng(3), np.random.default_rng(3)
    a, b = fd.dropout(x, rng=rng), fd.dropout(x, rng=rng)
    assert (a != b).any()
    np.testing.assert_array_equal(a, fd.Generator(other).mask(100).apply(x))
    state = rng.bit_generator.state
    fd.dropout(x, rng=rng, training=False)
    with pytest.raises(TypeError):
        fd.dropout([1, 2], rng=rng)
    assert rng.bit_generator.state == state


def test_the_default_generator():
    fd.seed(11)
    a, b = fd.dropout(np.ones(100)), fd.dropout(np.ones(100))
    fd.seed(11)
    np.testing.assert_array_equal(fd.dropout(np.ones(100)), a)
    np.testing.assert_array_equal(fd.dropout(np.ones(100)), b)
    gen = fd.Generator(11)
    np.testing.assert_array_equal(fd.dropout(np.ones(100), rng=gen), a)
    fd.seed()
    assert (fd.dropout(np.ones(1000)) != fd.dropout(np.ones(1000))).any()


def test_positions_never_wrap():
    gen = fd.Generator(1, position=2**64 - 1)
    x = np.full(3, 7.0)
    fd.dropout(x, rng=gen)
    assert gen.position == 2**64
    for use in (
        lambda: fd.dropout(x, rng=gen, out=x),
        lambda: gen.mask(3),
        lambda: gen.spawn(1),
    ):
        with pytest.raises(OverflowError, match="2\\*\\*64 positions"):
            use()
    assert (x == 7).all()
    assert pickle.loads(pickle.dumps(gen)).position == 2**64
    with pytest.raises(ValueError, match="position="):
        fd.Generator(1, position=2**64 + 1)


def test_a_refused_mask_takes_no_position():
    gen = fd.Generator(1)
    for bad in (
        lambda: gen.mask((-1,)),
        lambda: gen.mask(3, 2.0),
        lambda: gen.mask("x"),
        lambda: gen.mask(True),
    ):
        with pytest.raises((ValueError, TypeError)):
            bad()
    assert gen.position == 0


def test_spawn():
    gen = fd.Generator(1)
    a, b = gen.spawn(2)
    assert gen.position == 1
    assert len({gen.seed, a.seed, b.seed, gen.spawn(1)[0].seed}) == 4
    assert fd.Generator(1).spawn(5)[1].seed == b.seed
    assert gen.spawn(0) == []
    with pytest.raises(ValueError, match="n=-1"):
        gen.spawn(-1)
    with pytest.raises(TypeError, match="n must be an int"):
        gen.spawn(1.0)


def test_state():
    gen = fd.Generator(2**64 - 1, position=12345678901234567890)
    state = json.loads(json.dumps(gen.state))
    assert state == {"stream": 1, "seed": 2**64 - 1, "position": 12345678901234567890}
    other = fd.Generator(0)
    other.state = state
    for again in (other, pickle.loads(pickle.dumps(gen)), copy.copy(gen), copy.deepcopy(gen)):
        assert again is not gen
        assert again.state == gen.state
    gen.mask(1)
    assert other.position == 12345678901234567890


@pytest.mark.parametrize(
    "state",
    [
        None,
        [1],
        {},
        {"seed": 1, "position": 2},
        {"stream": 2, "seed": 1, "position": 2},
        {"stream": 1, "seed": 1},
        {"stream": 1, "seed": -1, "position": 2},
        {"stream": 1, "seed": 1.0, "position": 2},
        {"stream": 1, "seed": 1, "position": 2**65},
    ],
)
def test_refused_state(state):
    gen = fd.Generator(8, position=9)
    with pytest.raises((ValueError, TypeError)):
        gen.state = state
    assert (gen.seed, gen.position) == (8, 9)


def test_threads_never_share_a_position():
    gen = fd.Generator(1)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            lists = pool.map(lambda _: [gen.mask(1).position for _ in range(500)], range(8))
            positions = sorted(position for taken in lists for position in taken)
    finally:
        sys.setswitchinterval(interval)
    assert positions == list(range(4000))


FORK = """
import os, sys
import numpy as np, fastdrop as fd
x = np.ones(1000)
if sys.argv[1] == "seeded": fd.seed(3)
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, fd.dropout(x).tobytes()); os._exit(0)
child = np.frombuffer(os.read(read, 8000))
os.wait()
print((fd.dropout(x) == child).all())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("how", "same"), [("seeded", "True"), ("system", "False")])
def test_a_forked_child(how, same):
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORK, how], capture_output=True, text=True, timeout=60
    )
    assert (run.stdout.strip(), run.stderr) == (same, "")
