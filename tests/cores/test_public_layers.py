"""Whole cores against layers of public implementations, with the same parameters; see make_public_layers.py."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from cores.numeric import assert_close
from flax import nnx
from quick import quick_jit

from memrl import make_core

NUMBERS = np.load(Path(__file__).with_name("public_layers.npz"))
D = 4


def mamba(core, p):
    core.input.kernel[...] = p["in_proj.weight"].T
    copy_convolution(core.convolution, p["conv1d.weight"], p["conv1d.bias"])
    core.selection.kernel[...] = p["x_proj.weight"].T
    core.dt_kernel[...], core.dt_bias[...] = p["dt_proj.weight"].T, p["dt_proj.bias"]
    core.A_log[...], core.skip[...] = p["A_log"], p["D"]
    core.output.kernel[...] = p["out_proj.weight"].T


def mamba2(core, p):
    core.project.kernel[...] = p["in_proj.weight"].T
    copy_convolution(core.convolution, p["conv1d.weight"], p["conv1d.bias"])
    core.decay.log_rate[...], core.decay.bias[...] = p["A_log"], p["dt_bias"]
    core.skip[...] = np.repeat(p["D"][:, None], D, 1)
    core.norm.scale[...] = p["norm.weight"][None]
    core.output.kernel[...] = p["out_proj.weight"].T


def gated_deltanet(core, p):
    heads = p["in_proj_qkvz.weight"].reshape(2, -1, D)  # q, k, v, gate of each head
    q, k, v, gate = (x.reshape(-1, D) for x in np.split(heads, [2, 4, 7], 1))
    beta, a = p["in_proj_ba.weight"].reshape(2, 2, D).swapaxes(0, 1)
    core.project.kernel[...] = np.concatenate([q, k, v, beta, a, gate]).T
    copy_convolution(core.convolution, p["conv1d.weight"])
    core.decay.log_rate[...], core.decay.bias[...] = p["A_log"], p["dt_bias"]
    core.norm.scale[...], core.norm.epsilon = np.tile(p["norm.weight"], (2, 1)), 1e-12
    core.output.kernel[...] = p["out_proj.weight"].T


def mlstm(core, p):
    core.input.kernel[...] = p["proj_up.weight"].T
    copy_convolution(core.convolution, p["conv1d.conv.weight"], p["conv1d.conv.bias"])
    core.projections[...] = np.stack([p[f"{x}_proj.weight"].swapaxes(1, 2) for x in "qkv"])
    core.gates.kernel[...] = np.concatenate([p[f"mlstm_cell.{x}gate.weight"] for x in "if"]).T
    core.gates.bias[...] = np.concatenate([p[f"mlstm_cell.{x}gate.bias"] for x in "if"])
    core.norm.scale[...] = 1 + p["mlstm_cell.outnorm.weight"].reshape(2, -1)
    core.skip[...] = p["learnable_skip"]
    core.output.kernel[...] = p["proj_down.weight"].T


def slstm(core, p):
    """The public layer calls its matrices of the gates i and f by each other's names."""
    copy_convolution(core.convolution, p["conv1d.conv.weight"], p["conv1d.conv.bias"])
    i, f, z, o = (p[f"{x}gate.weight"].swapaxes(1, 2) for x in "fizo")
    core.gates[...], core.input[...] = np.concatenate([i, f], -1), np.concatenate([z, o], -1)
    core.recurrent[...] = p["slstm_cell._recurrent_kernel_"].swapaxes(1, 2)
    core.bias[...] = p["slstm_cell._bias_"].reshape(4, 2, -1).swapaxes(0, 1)
    core.norm.scale[...] = 1 + p["group_norm.weight"].reshape(2, -1)


def gtrxl(core, p):
    for norm, name in ((core.norm, "layernorm1"), (core.mlp_norm, "layernorm2")):
        norm.scale[...], norm.bias[...] = p[f"{name}.weight"], p[f"{name}.bias"]
    attention = {"key_value": "attention_kv", "query": "attention_q", "output": "project", "position": "project_pos"}
    for ours, theirs in attention.items():
        getattr(core, ours).kernel[...] = p[f"attention.{theirs}.0.weight"].T
    core.content_bias[...], core.position_bias[...] = p["u"], p["v"]
    for linear, name in ((core.mlp_hidden, "mlp.0.0"), (core.mlp_output, "mlp.2.0")):
        linear.kernel[...], linear.bias[...] = p[f"{name}.weight"].T, p[f"{name}.bias"]
    for gate, name in ((core.gate, "gate1"), (core.mlp_gate, "gate2")):
        gate.from_y.kernel[...] = np.concatenate([p[f"{name}.W{x}.weight"] for x in "rzg"]).T
        gate.from_x.kernel[...] = np.concatenate([p[f"{name}.U{x}.weight"] for x in "rz"]).T
        gate.from_reset.kernel[...] = p[f"{name}.Ug.weight"].T
        gate.bias[...] = p[f"{name}.bg"]


def retnet(core, p):
    core.project.kernel[...] = np.concatenate([p[f"{x}_proj.weight"] for x in "qkvg"]).T
    core.output.kernel[...] = p["out_proj.weight"].T
    core.norm.epsilon = 1e-12


def lru(core, p):
    core.nu[...], core.theta[...], core.log_gamma[...] = (p[f"seq/{x}_log"] for x in ("nu", "theta", "gamma"))
    core.input[...] = np.concatenate([p["seq/B_re"], p["seq/B_im"]]).T
    core.output[...] = np.concatenate([p["seq/C_re"], p["seq/C_im"]], 1).T
    core.skip[...] = p["seq/D"]
    core.activation.glu.kernel[...] = np.concatenate([p["out1/kernel"], p["out2/kernel"]], 1)
    core.activation.glu.bias[...] = np.concatenate([p["out1/bias"], p["out2/bias"]])


def ffm(core, p):
    u, skip, u_gate, gate = (slice(0, 3), slice(3, 7), slice(7, 10), slice(10, 14))
    order = np.r_[u, u_gate, gate, skip]
    core.input.kernel[...], core.input.bias[...] = p["pre.weight"][order].T, p["pre.bias"][order]
    core.decay[...], core.frequency[...] = p["ffa.a"].ravel(), -p["ffa.b"].ravel()
    core.mix.kernel[...] = np.moveaxis(p["mix.weight"].reshape(D, -1, 2), 2, 1).reshape(D, -1).T
    core.mix.bias[...] = p["mix.bias"]
    core.norm.epsilon = 1e-5


def s4d(core, p):
    core.log_real[...], core.imag[...], core.log_dt[...] = (
        p[f"kernel.{x}"] for x in ("log_A_real", "A_imag", "log_dt")
    )
    core.output[...], core.skip[...] = np.moveaxis(p["kernel.C"], -1, 0), p["D"]
    core.activation.glu.kernel[...] = p["output_linear.0.weight"][..., 0].T
    core.activation.glu.bias[...] = p["output_linear.0.bias"]


def lssl(core, p):
    core.log_dt[...] = np.log(p["dt"])
    core.output[...], core.skip[...] = np.moveaxis(p["C"], 1, 0), p["D"].T
    core.mix.kernel[...] = np.moveaxis(p["output_linear.weight"].reshape(D, D, -1), 2, 1).reshape(D, -1).T
    core.mix.bias[...] = p["output_linear.bias"]


def copy_convolution(convolution, weight, bias=None):
    convolution.kernel[...] = weight[:, 0, ::-1].T
    if bias is not None:
        convolution.bias[...] = bias


LAYERS = [
    (mamba, {"state_size": 3, "conv_width": 3}),
    (mamba2, {"state_size": 3, "conv_width": 3, "heads": 2}),
    (gated_deltanet, {"conv_width": 3, "heads": 2, "key_width": 2, "value_width": 3}),
    (mlstm, {"conv_width": 3, "heads": 2}),
    (slstm, {"conv_width": 3, "heads": 2}),
    (gtrxl, {"memory": 3, "heads": 2, "hidden_size": 6}),
    (retnet, {"heads": 2, "exponents": (5, 6)}),
    (lru, {"state_size": 5}),
    (ffm, {"memory_size": 3, "context_size": 2}),
    (s4d, {"state_size": 6}),
    (lssl, {"state_size": 5, "channels": 2}),
]


@pytest.mark.parametrize(("copy", "hyperparameters"), LAYERS, ids=lambda x: getattr(x, "__name__", ""))
def test_equals_the_public_layer(copy, hyperparameters):
    name = copy.__name__
    p = {key.removeprefix(f"{name}/"): NUMBERS[key] for key in NUMBERS if key.startswith(f"{name}/")}
    core: Any = make_core(name, D, rngs=nnx.Rngs(0), **hyperparameters)
    copy(core, p)
    xs = jnp.asarray(p["xs"])
    _, ys = quick_jit(core.unroll)(core.initial_state(xs.shape[1]), xs, jnp.zeros(xs.shape[:2], bool))
    for key in ("ys", "ys_of_kernels"):
        if key in p:
            assert_close(ys, p[key], 5e-6)
