"""Writes public_layers.npz: parameters and inputs of layers of public implementations, and their outputs.

    pip install --no-deps mambapy==1.2.0 xlstm==2.0.6 mlstm-kernels==2.0.6 torchscale==0.3.0 transformers==4.57.1
    python make_public_layers.py DIRECTORY

next to torch (2.13, on a CPU), flax and what those import. DIRECTORY holds sources by these names:

    DI-engine      opendilab/DI-engine, 0.5.3
    ffm            proroklab/ffm, b3f94d2
    minimal-LRU    NicolasZucchet/minimal-LRU, bbd71b1
    s4             state-spaces/s4, e757cef
    s4-a0c724a     the same at a0c724a, which still had the small LSSL

Every number of a layer is under NAME/..., its inputs under NAME/xs and outputs under NAME/ys, both [T, B, D]. All
parameters are random, since zeros and ones would hide what they do.
"""

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

T, B, D = 9, 2, 4
Arrays = dict[str, np.ndarray]


def main() -> None:
    sources = Path(sys.argv[1])
    layers: dict[str, Callable[[Path], Arrays]] = {
        "mamba": mamba,
        "mamba2": mamba2,
        "gated_deltanet": gated_deltanet,
        "mlstm": mlstm,
        "slstm": slstm,
        "gtrxl": gtrxl,
        "retnet": retnet,
        "lru": lru,
        "ffm": ffm,
        "s4d": s4d,
        "lssl": lssl,
    }
    arrays = {f"{name}/{key}": x for name, make in layers.items() for key, x in make(sources).items()}
    np.savez_compressed(Path(__file__).with_name("public_layers.npz"), **arrays)  # pyright: ignore[reportArgumentType]


def mamba(_: Path) -> Arrays:
    public = importlib.import_module("mambapy.mamba")
    config = public.MambaConfig(d_model=D, n_layers=1, d_state=3, d_conv=3, pscan=False)
    layer = randomised(public.MambaBlock(config))
    return numbers(layer, lambda x: layer(x))


def mamba2(_: Path) -> Arrays:
    """Of transformers: mambapy's needs Triton."""
    public = importlib.import_module("transformers.models.mamba2.modeling_mamba2")
    sizes = {"hidden_size": D, "num_heads": 2, "head_dim": D, "state_size": 3, "n_groups": 1, "conv_kernel": 3}
    config = public.Mamba2Config(**sizes, expand=2, chunk_size=4)
    layer = randomised(public.Mamba2Mixer(config, 0))
    return numbers(layer, lambda x: layer.torch_forward(x))


def gated_deltanet(_: Path) -> Arrays:
    """Of transformers, in Qwen3-Next, with an epsilon next to none: it scales q before the norm, the core does not."""
    public = importlib.import_module("transformers.models.qwen3_next.modeling_qwen3_next")
    heads = {"linear_num_key_heads": 2, "linear_num_value_heads": 2}
    widths = {"linear_key_head_dim": 2, "linear_value_head_dim": 3, "linear_conv_kernel_dim": 3}
    config = public.Qwen3NextConfig(hidden_size=D, rms_norm_eps=1e-12, **heads, **widths)
    layer = randomised(public.Qwen3NextGatedDeltaNet(config, 0))
    return numbers(layer, lambda x: layer(x))


def mlstm(_: Path) -> Arrays:
    """The layer of xlstm, and once more with the memory of mlstm-kernels."""
    public = importlib.import_module("xlstm.blocks.mlstm.layer")
    kernels = importlib.import_module("mlstm_kernels.torch.parallel.native.fw")
    config = public.mLSTMLayerConfig(conv1d_kernel_size=3, num_heads=2, embedding_dim=D, context_length=T)
    config._inner_embedding_dim = 2 * D
    layer = randomised(public.mLSTMLayer(config))
    arrays = numbers(layer, lambda x: layer(x))

    def by_kernels(queries, keys, values, igate_preact, fgate_preact, **_):
        return kernels.mlstm_parallel_fw(queries, keys, values, igate_preact[..., 0], fgate_preact[..., 0])[0]

    layer.mlstm_cell.backend_fn = by_kernels
    return arrays | {"ys_of_kernels": numbers(layer, lambda x: layer(x))["ys"]}


def slstm(_: Path) -> Arrays:
    public = importlib.import_module("xlstm.blocks.slstm.layer")
    options = {"backend": "vanilla", "dtype": "float32", "enable_automatic_mixed_precision": False}
    layer = public.sLSTMLayer(
        public.sLSTMLayerConfig(embedding_dim=D, num_heads=2, conv1d_kernel_size=3, batch_size=B, **options)
    )
    layer = randomised(layer)
    return numbers(layer, lambda x: layer(x))


def gtrxl(sources: Path) -> Arrays:
    """A layer on a whole sequence without memory, its mask a window of 3 steps back, as the core has it.

    It makes the queries of inputs that are not normalised, against the paper: they get what keys and values get.
    """
    import torch  # pyright: ignore[reportMissingImports]

    folder = sources / "DI-engine" / "ding"
    for name in ("ding", "ding.torch_utils", "ding.torch_utils.network"):
        bare_package(name, folder.joinpath(*name.split(".")[1:]))
    public = importlib.import_module("ding.torch_utils.network.gtrxl")
    width, memory = D // 2, 3
    layer = public.GatedTransformerXLLayer(D, width, 6, 2, 2, torch.nn.Identity(), torch.nn.ReLU())
    layer = randomised(layer)
    for block in (layer.attention.attention_kv, layer.attention.attention_q, layer.attention.project):
        torch.nn.init.zeros_(block[0].bias)
    torch.nn.init.zeros_(layer.attention.project_pos[0].bias)
    for norm in (layer.layernorm1, layer.layernorm2):
        norm.eps = 1e-6
    u, v = (0.5 * torch.randn(2, width, generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    layer.attention.register_forward_pre_hook(lambda _, args: (args[2], *args[1:]))
    positions = public.PositionalEmbedding(D)(torch.arange(T - 1, -1, -1.0))
    age = torch.arange(T)[:, None] - torch.arange(T)[None]
    mask = ((age < 0) | (age > memory))[..., None]

    def run(x):
        nothing = torch.zeros(0, B, D)
        return layer(x.transpose(0, 1), positions, u, v, nothing, mask).transpose(0, 1)

    return numbers(layer, run) | {"u": u.numpy(), "v": v.numpy()}


def retnet(_: Path) -> Arrays:
    """With the group normalisation of the paper, which later versions replaced, and an epsilon next to none.

    The division by sums of scores makes the epsilon matter.
    """
    import torch  # pyright: ignore[reportMissingImports]

    stub("fairscale.nn", checkpoint_wrapper=None, wrap=None)
    stub("timm.models.layers", drop_path=None)
    relative = importlib.import_module("torchscale.architecture.retnet")
    public = importlib.import_module("torchscale.component.multiscale_retention")
    args = types.SimpleNamespace(
        multiway=False, layernorm_eps=1e-6, decoder_embed_dim=D, decoder_retention_heads=2, recurrent_chunk_size=4
    )
    layer = public.MultiScaleRetention(args, D, 2 * D, 2)
    layer.group_norm = torch.nn.LayerNorm(D, eps=1e-12, elementwise_affine=False)
    layer = randomised(layer)
    return numbers(layer, lambda x: layer(x, relative.RetNetRelPos(args)(T)))


def lru(sources: Path) -> Arrays:
    """The layer without its norm and residual."""
    import jax
    from flax import linen as nn

    sys.path.insert(0, str(sources / "minimal-LRU"))
    public = importlib.import_module("lru.model")

    def layer() -> Any:
        return public.SequenceLayer(lambda: public.LRU(d_hidden=5, d_model=D), d_model=D, prenorm=True, training=False)

    rng = np.random.default_rng(0)
    raw = rng.normal(size=(T, B, D)).astype(np.float32)
    params = layer().init(jax.random.key(0), raw[:, 0])["params"]
    params = params | {"normalization": {"scale": np.ones(D), "bias": np.zeros(D)}}
    for name in ("out1", "out2"):
        params[name] = params[name] | {"bias": rng.normal(size=D)}
    whole = jax.vmap(lambda x: layer().apply({"params": params}, x), 1, 1)(raw)
    xs = nn.LayerNorm(use_scale=False, use_bias=False).apply({}, raw)
    flat = {"/".join(key): x for key, x in flatten(params).items()}
    return {key: np.asarray(x, np.float32) for key, x in (flat | {"xs": xs, "ys": whole - raw}).items()}


def ffm(sources: Path) -> Arrays:
    sys.path.insert(0, str(sources / "ffm" / "standalone"))
    public = importlib.import_module("ffm.ffm")
    layer = public.FFM(D, D, 3, 2, D)
    return numbers(layer, lambda x: layer(x)[0])


def s4d(sources: Path) -> Arrays:
    """With the approximation of GELU that is usual in JAX."""
    import torch  # pyright: ignore[reportMissingImports]

    stub("src.models.nn", DropoutNd=None)
    public = from_file(sources / "s4" / "models" / "s4" / "s4d.py")
    layer = public.S4D(D, d_state=6, transposed=False)
    layer.activation = torch.nn.GELU(approximate="tanh")
    return numbers(layer, lambda x: layer(x)[0])


def lssl(sources: Path) -> Arrays:
    """The small version has HiPPO-LegT built in; here it gets LegS, the default of the whole one."""
    import torch  # pyright: ignore[reportMissingImports]

    public = from_file(sources / "s4-a0c724a/src/models/sequence/ss/standalone/lssl.py")
    public.hippo = legs
    layer = public.StateSpace(D, order=5, channels=2)
    layer.activation_fn = torch.nn.GELU(approximate="tanh")
    return numbers(layer, lambda x: layer(x.transpose(0, 1)).transpose(0, 1)) | {"dt": layer.dt.numpy()}


def legs(size: int) -> tuple[np.ndarray, np.ndarray]:
    A, B = np.zeros((size, size)), np.zeros((size, 1))
    for n in range(size):
        B[n] = (2 * n + 1) ** 0.5
        for k in range(n + 1):
            A[n, k] = -(n + 1) if n == k else -(((2 * n + 1) * (2 * k + 1)) ** 0.5)
    return A, B


def randomised(layer: Any) -> Any:
    """`layer` with every parameter moved by a random number."""
    import torch  # pyright: ignore[reportMissingImports]

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return layer


def numbers(layer: Any, run: Callable[[Any], Any]) -> Arrays:
    """The parameters of a torch layer, inputs, and what `run` makes of these as [B, T, D]."""
    import torch  # pyright: ignore[reportMissingImports]

    xs = torch.randn(B, T, D, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ys = run(xs.clone())
    arrays = {name: x.detach().numpy() for name, x in layer.named_parameters()}
    arrays |= {"xs": xs.transpose(0, 1).numpy(), "ys": ys.transpose(0, 1).numpy()}
    return {name: np.array(x, np.float32) for name, x in arrays.items()}


def flatten(tree: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(tree, dict):
        return {path: tree}
    return {key: x for name, branch in tree.items() for key, x in flatten(branch, (*path, name)).items()}


def from_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bare_package(name: str, folder: Path) -> None:
    """Makes modules of a package importable without running its __init__, which needs much more."""
    package = types.ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package


def stub(name: str, **contents: Any) -> None:
    """Stands in for a module of which nothing is used."""
    parts = name.split(".")
    for i in range(len(parts)):
        sys.modules.setdefault(".".join(parts[: i + 1]), types.ModuleType(parts[i]))
    for key, value in contents.items():
        setattr(sys.modules[name], key, value)


if __name__ == "__main__":
    main()
