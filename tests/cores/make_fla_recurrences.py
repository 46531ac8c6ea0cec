"""Writes fla_recurrences.npz: random inputs, and what the naive recurrences of fla-core 0.6.0 make of them.

    pip install torch einops && pip install --no-deps fla-core==0.6.0 && python make_fla_recurrences.py

The files called naive.py are loaded by themselves, since the package needs Triton. They scale q by 1 / sqrt(K).
"""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

B, T, H, K, V, n = 2, 9, 2, 4, 3, 2


def naive(folder: str) -> Any:
    package = importlib.util.find_spec("fla")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "ops" / folder / "naive.py"
    spec = importlib.util.spec_from_file_location(f"naive_{path.parent.name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    import torch  # pyright: ignore[reportMissingImports]

    rng = np.random.default_rng(0)
    x = {name: rng.normal(size=(B, T * n, H, width)) for name, width in (("k", K), ("v", V))}
    x |= {"q": rng.normal(size=(B, T, H, K)), "s": rng.normal(size=(B, H, K, V)), "beta": 2 * rng.random((B, T * n, H))}
    x |= {"by_head": -rng.random((B, T, H)), "by_channel": -rng.random((B, T, H, K))}
    x |= {name: rng.normal(size=(B, T, H, K)) / 2 for name in ("a", "b")}
    x["k"] /= np.linalg.norm(x["k"], axis=-1, keepdims=True)
    x = {name: value.astype(np.float32) for name, value in x.items()}
    t = {name: torch.tensor(value) for name, value in x.items()}
    k, v, beta = (t[name][:, :T] for name in ("k", "v", "beta"))

    def heads_first(*arrays):
        return [array.transpose(1, 2) for array in arrays]

    o, s = naive("delta_rule").delta_rule_recurrence(*heads_first(t["q"], k, v, beta), t["s"])
    results = {"delta": (o.transpose(1, 2), s)}
    step = naive("gated_delta_rule").naive_recurrent_gated_delta_rule
    results["gated_delta"] = step(t["q"], k, v, beta, t["by_head"], initial_state=t["s"], output_final_state=True)
    step = naive("gated_delta_product").naive_recurrent_gated_delta_product
    everything = t["q"], t["k"], t["v"], t["by_head"], t["beta"], K**-0.5
    results["delta_product"] = step(*everything, initial_state=t["s"], output_final_state=True, num_householder=n)
    results["gla"] = naive("gla").naive_recurrent_gla(t["q"], k, v, t["by_channel"], t["s"], True)
    everything = heads_first(t["q"], k, v, t["a"], t["b"], t["by_channel"])
    o, s = naive("generalized_delta_rule/dplr").dplr_recurrence(*everything, t["s"])
    results["dplr"] = o.transpose(1, 2), s
    x["retention_o"] = naive("retention").naive_retention(*heads_first(t["q"], k, v)).transpose(1, 2).numpy()
    for name, (o, s) in results.items():
        x |= {f"{name}_o": o.numpy(), f"{name}_s": s.numpy()}
    np.savez_compressed(Path(__file__).with_name("fla_recurrences.npz"), **x)  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    main()
