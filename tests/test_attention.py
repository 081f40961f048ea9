"""Attention whose weights fastdrop drops, against PyTorch's own and against its formula."""

import copy
import math
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastdrop as fd  # noqa: E402
import fastdrop.torch as fdt  # noqa: E402
from fastdrop.torch import attention  # noqa: E402

stock = torch.nn.functional
RARE = 1e-13  # a rate at which our kernels run, and all but surely drop nothing
N, L, E, HEADS = 3, 6, 16, 4
LATER = torch.triu(torch.ones(L, L, dtype=torch.bool), 1)
CAUSAL = torch.nn.Transformer.generate_square_subsequent_mask(L, dtype=torch.float64)
PADDED = torch.zeros(N, L, dtype=torch.bool)
PADDED[1, 4:] = True


def number_of(tensor):
    return tensor.detach().numpy()


def next_seed():
    """Return the seed that the next call draws, and leave torch's generator as it is."""
    state = torch.get_rng_state()
    seed = int(torch.randint(-(2**63), 2**63 - 1, ())) % 2**64
    torch.set_rng_state(state)
    return seed


def seeded(function, *args, seed=0, **options):
    torch.manual_seed(seed)
    return function(*args, **options)


@pytest.fixture
def ours(monkeypatch):
    """How often the kernels' way is gone."""
    calls, true = [], attention.weights

    def count(*args):
        calls.append(args)
        return true(*args)

    monkeypatch.setattr(attention, "weights", count)
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_weights_are_softmax_dropout(dtype):
    scores = torch.randn(2, 3, 70, dtype=dtype)
    seed = next_seed()
    found = attention.weights(scores, 0.3)
    mask = fd.Mask(seed, 0, scores.shape, 0.3)
    want, drawn = fd.softmax_dropout(scores.numpy(), 0.3, rng=fd.Generator(seed), return_mask=True)
    assert mask == drawn
    np.testing.assert_array_equal(found.numpy(), want)
    scores.requires_grad_()
    y = seeded(attention.weights, scores, 0.3)
    grad = torch.randn(70, 3, 2, dtype=dtype).transpose(0, 2)  # of other strides
    y.backward(grad)
    again = fd.Mask(*seeded(lambda: (next_seed(), 0, scores.shape, 0.3)))
    want = fd.softmax_dropout_backward(grad.numpy(), number_of(scores), again)
    np.testing.assert_array_equal(scores.grad.numpy(), want)


def test_derivatives_of_any_order():
    q, k, v = (torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))

    def attend(q, k, v):
        mask = torch.tensor([[0, 0, -math.inf]] * 2 + [[-math.inf] * 3], dtype=torch.float64)
        return seeded(fdt.scaled_dot_product_attention, q, k, v, mask, dropout_p=0.4)

    assert torch.autograd.gradcheck(attend, (q, k, v))
    assert torch.autograd.gradgradcheck(attend, (q, k, v))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"attn_mask": ~LATER},
        {"attn_mask": CAUSAL},
        {"attn_mask": PADDED.logical_not()[:, None, None]},
        {"scale": 0.3},
    ],
    ids=str,
)
def test_function_is_pytorchs(ours, options):
    q, k, v = torch.randn(3, N, 2, L, 8, dtype=torch.float64)
    found = fdt.scaled_dot_product_attention(q, k, v, dropout_p=RARE, **options)
    assert len(ours) == 1
    assert torch.allclose(found, stock.scaled_dot_product_attention(q, k, v, **options))


def test_function_where_all_keys_are_masked():
    q, k, v = torch.randn(3, 2, 4, 8)
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[2] = False
    q.requires_grad_()
    y = fdt.scaled_dot_product_attention(q, k, v, mask, 0.5)
    assert (y[:, 2] == 0).all()
    y.sum().backward()
    assert torch.isfinite(q.grad).all()
    assert (q.grad[:, 2] == 0).all()


def test_function_leaves_to_pytorch_what_it_does_not_take(ours):
    q, k, v = torch.randn(3, 2, 4, 8)
    attend = fdt.scaled_dot_product_attention
    cases = [
        (q, k, v, None, 0.0),
        (*(t.bfloat16() for t in (q, k, v)), None, 0.5),
        (*(t.to("meta") for t in (q, k, v)), None, 0.5),
    ]
    for case in cases:
        want = seeded(stock.scaled_dot_product_attention, *case)
        found = seeded(attend, *case)
        assert found.shape == want.shape
        assert found.is_meta or torch.equal(found, want)
    with torch.autocast("cpu"):
        found = seeded(attend, q, k, v, dropout_p=0.5)
        assert found.dtype is torch.bfloat16
        assert torch.equal(found, seeded(stock.scaled_dot_product_attention, q, k, v, None, 0.5))
    grouped = (q[None], k[None, :1], v[None, :1])
    found = seeded(attend, *grouped, dropout_p=0.5, enable_gqa=True)
    assert found.shape == (1, 2, 4, 8)
    mapped = torch.func.vmap(attend, randomness="same")(q, k, v)
    assert torch.allclose(mapped, stock.scaled_dot_product_attention(q, k, v))
    compiled = torch.compile(lambda q: attend(q, k, v, dropout_p=0.5), backend="eager")
    assert compiled(q).shape == q.shape
    assert not ours
    for p in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=f"dropout_p={p} is not a probability"):
            attend(q, k, v, dropout_p=p)
    with pytest.raises(RuntimeError, match="attn_mask should not be set when is_causal=True"):
        attend(q, k, v, torch.ones(4, 4), 0.5, True)
    state = torch.get_rng_state()
    assert (attend(q, k, v, dropout_p=1.0) == 0).all()  # nothing is drawn
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize(
    "attn_mask", [None, LATER, CAUSAL, CAUSAL.expand(N * HEADS, L, L)],
    ids=["none", "bool", "added", "3-D"],
)  # fmt: skip
@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("bias", [True, False])
def test_module_is_pytorchs(ours, batch_first, cross, need_weights, attn_mask, padding, bias):
    theirs = torch.nn.MultiheadAttention(
        E, HEADS, dropout=RARE, bias=bias, batch_first=batch_first, dtype=torch.float64
    )
    module = copy.deepcopy(theirs)
    assert fdt.replace(module) == 1
    q, k, v = torch.randn(3, *((N, L, E) if batch_first else (L, N, E)), dtype=torch.float64)
    q.requires_grad_()
    k, v = (k, v) if cross else (q, q)
    added = attn_mask is None or attn_mask.dtype is not torch.bool
    pad = torch.zeros(N, L, dtype=torch.float64).masked_fill(PADDED, -math.inf)
    results = []
    for m in (theirs, module):
        y, weights = m(
            q, k, v,
            key_padding_mask=(pad if added else PADDED) if padding else None,
            attn_mask=attn_mask,
            need_weights=need_weights,
            average_attn_weights=bias,
        )  # fmt: skip
        grads = torch.autograd.grad(y.square().sum(), [q, *m.parameters()])
        results.append((y, *grads, *([weights] if need_weights else [])))
        assert need_weights or weights is None
    assert len(ours) == 1
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, atol=1e-10)


def test_module_drops_and_returns_what_it_dropped(ours):
    module = fdt.MultiheadAttention(E, HEADS, dropout=0.5, batch_first=True)
    x = torch.randn(N, L, E)
    y, weights = module(x, x, x, average_attn_weights=False)
    assert weights.shape == (N, HEADS, L, L)
    assert 0.3 < (weights == 0).float().mean() < 0.7
    assert torch.equal(seeded(module, x, x, x)[0], seeded(module, x, x, x)[0])
    assert not torch.equal(seeded(module, x, x, x)[0], y)
    assert len(ours) == 4
    expected = sum(module(x, x, x, need_weights=False)[0] for _ in range(3000)) / 3000
    assert torch.allclose(expected, module.eval()(x, x, x)[0], atol=0.05)


def test_module_leaves_to_pytorch_what_it_does_not_take(ours):
    x = torch.randn(N, L, E)
    for options in (
        {"kdim": E, "vdim": 2 * E},
        {"add_bias_kv": True},
        {"add_zero_attn": True},
        {"dropout": 0.0},
    ):
        module = fdt.MultiheadAttention(E, HEADS, **{"dropout": 0.5, "batch_first": True} | options)
        value = torch.cat([x, x], -1) if "vdim" in options else x
        theirs = copy.deepcopy(module)
        fdt.restore(theirs)
        assert torch.equal(seeded(module, x, x, value)[0], seeded(theirs, x, x, value)[0])
    module = fdt.MultiheadAttention(E, HEADS, dropout=0.5, batch_first=True)
    assert module(x[0], x[0], x[0])[0].shape == (L, E)
    with torch.autocast("cpu"):
        assert module(x, x, x)[0].dtype is torch.bfloat16
    with pytest.raises(RuntimeError, match="Need attn_mask"):
        module(x, x, x, is_causal=True)
    assert module.eval()(x, x, x)[0].shape == x.shape
    module.train()
    assert torch.compile(module, backend="eager")(x, x, x)[0].shape == x.shape
    exported = torch.export.export(module, (x, x, x)).module()
    assert exported(x, x, x)[0].shape == x.shape
    assert not ours
    with pytest.raises(RuntimeError):
        module(x, x, x, attn_mask=torch.zeros(L, L + 1))


def test_replace_and_its_kin():
    layer = torch.nn.TransformerEncoderLayer(E, HEADS, dropout=0.5, batch_first=True)
    keys, representation = list(layer.state_dict()), repr(layer.self_attn)
    assert fdt.replace(layer) == 4
    assert type(layer.self_attn) is fdt.MultiheadAttention
    assert isinstance(layer.self_attn, torch.nn.MultiheadAttention)
    assert (list(layer.state_dict()), repr(layer.self_attn)) == (keys, representation)
    x = torch.randn(N, L, E)
    again = pickle.loads(pickle.dumps(layer))
    assert torch.equal(seeded(layer, x), seeded(again, x))
    mask = torch.nn.Transformer.generate_square_subsequent_mask(L)
    y = seeded(layer, x, src_mask=mask, is_causal=True)
    assert torch.equal(y, seeded(layer, x, src_mask=mask))
    assert fdt.restore(layer) == 4
    assert type(layer.self_attn) is torch.nn.MultiheadAttention
    with fdt.replaced(layer):
        assert type(layer.self_attn) is fdt.MultiheadAttention
    assert type(layer.self_attn) is torch.nn.MultiheadAttention


def test_checkpoints_replay_the_masks():
    module = fdt.MultiheadAttention(E, HEADS, dropout=0.5, batch_first=True)
    x = torch.randn(N, L, E, requires_grad=True)
    (plain,) = torch.autograd.grad(seeded(module, x, x, x)[0].sum(), x)
    y = seeded(
        torch.utils.checkpoint.checkpoint, lambda x: module(x, x, x)[0], x, use_reentrant=False
    )
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], plain)


def test_module_in_a_trace_of_fx():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = fdt.MultiheadAttention(E, HEADS, dropout=0.5)

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    model = Model()
    traced, x = torch.fx.symbolic_trace(model), torch.randn(L, N, E)
    assert [node.op for node in traced.graph.nodes][1] == "call_module"
    assert torch.equal(seeded(traced, x), seeded(model, x))


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # FakeTensor's own
def test_backward_that_others_look_at():
    """Batched, traced and fake gradients go by operations that PyTorch sees."""
    q, k, v = torch.randn(3, 2, 3, 4, 8, dtype=torch.float64)
    q.requires_grad_()
    y = fdt.scaled_dot_product_attention(q, k, v, None, 0.5)
    rows = torch.randn(5, *y.shape, dtype=torch.float64)
    want = torch.stack([torch.autograd.grad(y, q, row, retain_graph=True)[0] for row in rows])
    (batched,) = torch.autograd.grad(y, q, rows, retain_graph=True, is_grads_batched=True)
    assert torch.allclose(batched, want)

    def backward(grad):
        return torch.autograd.grad(y, q, grad, retain_graph=True)[0]

    traced = torch.fx.experimental.proxy_tensor.make_fx(backward)(torch.ones_like(y))
    assert torch.allclose(traced(rows[0]), want[0])
    jacobian = torch.autograd.functional.jacobian
    found, expected = (
        jacobian(
            lambda q: seeded(fdt.scaled_dot_product_attention, q, k, v, None, 0.5),
            q.detach(),
            vectorize=vectorize,
        )
        for vectorize in (True, False)
    )
    assert torch.allclose(found, expected)
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        assert backward(torch.ones(y.shape, dtype=torch.float64)).shape == q.shape


@pytest.mark.parametrize("batch_first", [True, False])
def test_module_checks_shapes_and_lays_out_as_pytorch(ours, batch_first):
    module = fdt.MultiheadAttention(E, HEADS, dropout=0.5, batch_first=batch_first)
    theirs = copy.deepcopy(module)
    fdt.restore(theirs)
    x = torch.randn((N, L, E) if batch_first else (L, N, E))
    assert module(x, x, x)[0].stride() == theirs(x, x, x)[0].stride()
    assert len(ours) == 1
    one = x[:1] if batch_first else x[:, :1]
    for args, options in (
        ((x, x, x), {"key_padding_mask": torch.zeros(L, N, dtype=torch.bool)}),
        ((x, x, x), {"key_padding_mask": torch.zeros(N, 1, L, dtype=torch.bool)}),
        ((x, x, x), {"attn_mask": torch.zeros(1, L)}),
        ((x, x, x), {"attn_mask": torch.zeros(N, L, L)}),
        ((x, one, one), {}),
        ((x[..., :8], x, x), {}),
        ((x, x[:2], x), {}),
    ):
        with pytest.raises((RuntimeError, AssertionError)) as said:
            theirs(*args, **options)
        with pytest.raises(type(said.value)) as found:
            module(*args, **options)
        assert str(found.value) == str(said.value)
    assert len(ours) == 1


def test_function_checks_shapes_as_pytorch(ours):
    q, k, v = torch.randn(3, 2, 3, 4, 8)
    attend, theirs = fdt.scaled_dot_product_attention, stock.scaled_dot_product_attention
    for args in (
        (q, k, v, torch.zeros(5, 2, 3, 4, 4)),
        (q[0, 0, 0], k[0, 0], v[0, 0]),
        (q, k[..., :7], v),
        (q, k, v[..., :3, :]),
    ):
        with pytest.raises((RuntimeError, IndexError)):
            theirs(*args, dropout_p=0.5)
        with pytest.raises((RuntimeError, IndexError)):
            attend(*args, dropout_p=0.5)
    assert attend(q[..., :0], k[..., :0], v, dropout_p=0.5).shape == q.shape
    assert not ours


def test_rates_that_pytorch_takes(ours):
    q, k, v = torch.randn(3, 2, 4, 8)
    x = torch.randn(L, N, E)
    for p in (torch.tensor(0.5), np.float32(0.5)):
        found = seeded(fdt.scaled_dot_product_attention, q, k, v, dropout_p=p)
        assert torch.equal(found, seeded(fdt.scaled_dot_product_attention, q, k, v, None, 0.5))
        module = fdt.MultiheadAttention(E, HEADS)
        module.dropout = p
        assert module(x, x, x)[0].shape == x.shape
    assert (fdt.scaled_dot_product_attention(q, k, v, None, True) == 0).all()
    module.dropout = True
    assert (module(x, x, x)[1] == 0).all()
    assert len(ours) == 8
    for p in (None, "much", torch.ones(2)):
        with pytest.raises(TypeError, match="dropout_p must be a real number"):
            fdt.scaled_dot_product_attention(q, k, v, dropout_p=p)


def test_a_default_device_changes_nothing():
    q, k, v = torch.randn(3, 2, 4, 8)
    x = torch.randn(L, N, E, requires_grad=True)
    module = fdt.MultiheadAttention(E, HEADS, dropout=0.5)
    with torch.device("meta"):
        y = fdt.scaled_dot_product_attention(q, k, v, None, 0.5, True)
        z = module(x, x, x)[0]
        z.sum().backward()
    assert y.is_cpu
    assert z.is_cpu
    assert x.grad.is_cpu
