"""What looks into models with fastdrop's modules in them: exporters, quantization, pickling."""

import io
import pickle
import shutil
import warnings

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import fastdrop.torch as fdt  # noqa: E402

SHAPES = {
    "Dropout": (2, 8),
    "Dropout1d": (2, 3, 4),
    "Dropout2d": (2, 3, 4, 4),
    "Dropout3d": (2, 3, 2, 2, 2),
    "AlphaDropout": (2, 8),
    "FeatureAlphaDropout": (2, 3, 4),
}
NAMES = list(SHAPES)
OLD = ("DeprecationWarning", "FutureWarning", "torch.jit.TracerWarning")
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in OLD]
# of what PyTorch's tools say about themselves
pytorch_warns = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def one_of_each():
    return nn.ModuleList(getattr(nn, name)(0.3) for name in NAMES)


def types(model):
    return [type(module) for module in model.modules()][1:]


def with_replaced(*layers):
    model = nn.Sequential(*layers)
    fdt.replace(model)
    return model


# ---- the way back --------------------------------------------------------------------------------


def test_restore_gives_the_stock_modules_back():
    class Mine(fdt.Dropout):
        pass

    model, mine = one_of_each(), Mine()
    stock_types = types(model)
    text, shared = repr(model), model[0]
    model.append(nn.Sequential(shared, mine))
    assert fdt.replace(model) == fdt.restore(model) == len(NAMES)
    assert types(model)[: len(NAMES)] == stock_types
    assert model[-1][0] is shared
    assert type(mine) is Mine
    assert repr(model[: len(NAMES)]) == text
    assert fdt.restore(model) == 0
    made = fdt.Dropout(0.1)
    assert fdt.restore(made) == 1
    assert (type(made), made.p) == (nn.Dropout, 0.1)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, not int"):
        fdt.restore(3)


def test_replaced_is_for_a_block():
    model = one_of_each()
    before = types(model)
    model.append(fdt.Dropout())
    with fdt.replaced(model) as same:
        assert same is model
        assert types(model) == [*(getattr(fdt, name) for name in NAMES), fdt.Dropout]
        with fdt.replaced(model):  # what it did not change it does not give back
            pass
        assert types(model)[0] is fdt.Dropout
    assert types(model) == [*before, fdt.Dropout]
    with fdt.replaced(model):
        fdt.restore(model)  # as good as at the end
    assert types(model) == [*before, nn.Dropout]
    with pytest.raises(ValueError, match="-1"), fdt.replaced(model):
        nn.Dropout(-1)
    assert types(model) == [*before, nn.Dropout]
    with pytest.raises(TypeError, match="model must be"), fdt.replaced(3):
        pass


def test_a_compiled_model_follows():
    model = nn.Sequential(nn.Dropout(0.5))
    torch._dynamo.reset()
    f = torch.compile(model, backend="eager", fullgraph=True)
    x = torch.ones(64)

    def same_as_eager():
        torch.manual_seed(1)
        expected = model(x)
        torch.manual_seed(1)
        return torch.equal(f(x), expected)

    assert same_as_eager()
    with fdt.replaced(f):
        assert type(model[0]) is fdt.Dropout
        assert same_as_eager()
    assert type(model[0]) is nn.Dropout
    assert same_as_eager()


# ---- what goes by type ---------------------------------------------------------------------------


def test_recipes_that_look_for_dropout():
    model = with_replaced(nn.Dropout(0.5), nn.Linear(2, 2)).eval()
    assert [isinstance(m, nn.Dropout) for m in model] == [True, False]
    assert type(model[0]).__name__ == "Dropout"
    fdt.restore(model)
    assert type(model[0]) is nn.Dropout


def test_whole_models_in_files():
    def load(model, allowed):
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        with torch.serialization.safe_globals([nn.Sequential, *allowed]):
            return torch.load(file, weights_only=True)

    model = with_replaced(nn.Dropout(0.25))
    assert type(load(model, [fdt.Dropout])[0]) is fdt.Dropout
    with pytest.raises(Exception, match=r"fastdrop\.torch\.Dropout"):
        load(model, [nn.Dropout])
    fdt.restore(model)
    assert load(model, [nn.Dropout])[0].p == 0.25


@pytorch_warns
def test_quantization_after_restore():
    from torch.ao import quantization
    from torch.ao.quantization import quantize_fx

    x = torch.randn(4, 8)
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("no quantized kernels here")

    def net():
        model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 2)).eval()
        fdt.replace(model)
        fdt.restore(model)
        return model

    mapping = quantization.get_default_qconfig_mapping("x86")
    prepared = quantize_fx.prepare_fx(net(), mapping, (x,))
    prepared(x)
    nodes = quantize_fx.convert_fx(prepared).graph.nodes
    assert sum("dequantize" in str(node.target) for node in nodes) == 1  # none around dropout
    eager = nn.Sequential(quantization.QuantStub(), *net(), quantization.DeQuantStub()).eval()
    eager.qconfig = quantization.get_default_qconfig("x86")
    quantization.prepare(eager, inplace=True)
    eager(x)
    quantization.convert(eager, inplace=True)
    assert eager.train()(x).shape == (4, 2)


def test_torch_jit_script_after_restore():
    model = with_replaced(nn.Dropout(0.5))
    fdt.restore(model)
    assert set(torch.jit.script(model)(torch.ones(99)).tolist()) == {0.0, 2.0}


# ---- what fastdrop does not take -----------------------------------------------------------------


def on_a_gpu(*shape):
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        return torch.ones(shape, device="cuda")


def others():
    yield "another device", on_a_gpu(3, 4)
    pair = [torch.ones(2, 3), torch.ones(3, 3)]
    yield "nested", torch.nested.nested_tensor(pair, layout=torch.jagged)
    with warnings.catch_warnings():  # that it is a prototype
        warnings.simplefilter("ignore")
        yield "nested, strided", torch.nested.nested_tensor(pair)


@pytest.mark.parametrize("kind", ["another device", "nested", "nested, strided"])
def test_modules_hand_over_what_the_functions_refuse(kind):
    x = dict(others())[kind]
    module = nn.Dropout(0.5)
    expected = module(x)
    fdt.replace(module)
    torch.manual_seed(0)
    y = module(x)
    assert type(y) is type(expected)
    assert y.device == expected.device
    with pytest.raises(TypeError, match=r"^x is "):
        fdt.dropout(x)
    assert module.eval()(x) is not None
    if x.is_nested:
        assert set(torch.cat([part.flatten() for part in y.unbind()]).tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("name", NAMES)
def test_every_module_hands_over(name):
    x = on_a_gpu(*SHAPES[name])
    module = getattr(nn, name)(0.5)
    expected = module(x)
    fdt.replace(module)
    y = module(x)
    assert (y.device, y.shape, y.stride()) == (expected.device, x.shape, expected.stride())


def test_what_pytorch_does_not_take_either_raises_its_error():
    module = nn.Dropout(0.5)
    fdt.replace(module)
    x = torch.ones(3, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="result type Float"):
        module(x)
    assert module.eval()(x) is x
    with pytest.raises(TypeError, match=r"must be a torch\.Tensor, not list"):
        module.train()([1.0])


@pytorch_warns
def test_distributed_tensors_are_handed_over():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    torch.distributed.init_process_group(
        "gloo", rank=0, world_size=1, store=torch.distributed.HashStore()
    )
    try:
        x = distribute_tensor(torch.ones(8, 8), init_device_mesh("cpu", (1,)), [Shard(0)])
        module = nn.Dropout(0.5)
        fdt.replace(module)
        y = module(x)
        assert type(y) is DTensor
        assert set(y.to_local().flatten().tolist()) == {0.0, 2.0}
    finally:
        torch.distributed.destroy_process_group()


# ---- exports -------------------------------------------------------------------------------------


def onnx_nodes(model, x, dynamo):
    """The operators of an exported model, or the kind of the error."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    file = io.BytesIO()
    options = {"dynamo": dynamo, "verbose": False}
    if not dynamo:
        options |= {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    try:
        torch.onnx.export(model, (x,), file, **options)
    except torch.onnx.errors.SymbolicValueError as error:  # PyTorch's words for what ONNX lacks
        return type(error)
    return [node.op_type for node in onnx.load_from_string(file.getvalue()).graph.node]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytorch_warns
def test_onnx_exports_are_those_of_the_stock_modules(name, dynamo, training):
    x = torch.ones(SHAPES[name])
    model = nn.Sequential(getattr(nn, name)(0.5), nn.ReLU()).train(training)
    expected = onnx_nodes(model, x, dynamo)
    fdt.replace(model)
    assert onnx_nodes(model, x, dynamo) == expected
    if name == "Dropout":
        assert ("Dropout" in expected) == training


@pytest.mark.parametrize("dynamo", [False, True])
@pytorch_warns
def test_onnx_exports_of_the_function(dynamo):
    class Model(nn.Module):
        def forward(self, x):
            return fdt.dropout(x, 0.25)

    assert "Dropout" in onnx_nodes(Model(), torch.ones(2, 8), dynamo)


class Twice(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x, 0.5), self.f(x, 0.5)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("decomposed", [False, True])
def test_exported_layers_never_share_a_seed(strict, decomposed):
    """Though PyTorch's pass makes equal expressions one."""
    from torch._functorch.compile_utils import fx_graph_cse

    x = torch.ones(256)
    program = torch.export.export(Twice(fdt.dropout).train(), (x,), strict=strict)
    program = program.run_decompositions() if decomposed else program
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    for module in (program.module(), torch.export.load(file).module()):
        module.graph = fx_graph_cse(module.graph)
        module.recompile()
        torch.manual_seed(3)
        y, z = module(x)
        assert not torch.equal(y, z)
        torch.manual_seed(3)
        assert torch.equal(fdt.dropout(x), y)
        assert torch.equal(fdt.dropout(x), z)


@pytest.mark.skipif(not shutil.which("g++"), reason="AOTInductor needs a C++ compiler")
@pytest.mark.filterwarnings("default")
def test_aot_inductor(tmp_path):
    model = with_replaced(nn.Dropout(0.5), nn.Dropout(0.5)).train()
    x = torch.ones(4, 64)
    program = torch.export.export(model, (x,))
    path = str(tmp_path / "model.pt2")
    torch._inductor.aoti_compile_and_package(program, package_path=path)
    f = torch._inductor.aoti_load_package(path)
    torch.manual_seed(0)
    y, z = f(x), f(x)
    assert set(y.flatten().tolist()) == {0.0, 4.0}
    assert 160 < int((y == 0).sum()) < 224  # three quarters, as the layers do not drop alike
    assert not torch.equal(y, z)
    torch.manual_seed(0)
    assert torch.equal(f(x), y)


@pytest.mark.filterwarnings("error")
def test_functions_in_traces_of_torch_fx():
    x = torch.ones(64)
    traced = torch.fx.symbolic_trace(lambda x: fdt.dropout(x, 0.25))
    for module in (traced, pickle.loads(pickle.dumps(traced))):
        torch.manual_seed(1)
        y = module(x)
        torch.manual_seed(1)
        assert torch.equal(y, fdt.dropout(x, 0.25))


def test_traces_hold_replaced_modules_as_modules():
    model = with_replaced(nn.Linear(8, 8), nn.Sequential(nn.Dropout(0.5)))
    traced = torch.fx.symbolic_trace(model)
    assert [n.target for n in traced.graph.nodes if n.op == "call_module"] == ["0", "1.0"]
    fdt.restore(traced)
    assert type(traced.get_submodule("1.0")) is nn.Dropout
