"""Programs for an NVIDIA GPU, lowered on a machine that may have none."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax


@contextlib.contextmanager
def abstract_gpu() -> Iterator[None]:
    """From jax 0.11 on Pallas asks which card a program is for."""
    device = jax.sharding.AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device)):
        yield


def lowered_for(platform: str, f: Callable[..., Any], *arguments: Any) -> str:
    """The program of `f` for `platform`."""
    with abstract_gpu() if platform == "cuda" else contextlib.nullcontext():
        return jax.jit(f).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
