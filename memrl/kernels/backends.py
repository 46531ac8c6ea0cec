"""The names of back ends, which of them a kernel has, and which of them a platform has."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any

import jax
from jax import lax
from jax.extend.backend import backends
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from memrl.errors import MemrlError, check, unknown_name

BACKENDS = ("auto", "reference", "xla", "newton", "pallas", "mosaic", "interpret")
"""Chosen by platform when a program is lowered; the specification; XLA's operations; parallel in time by iteration; a
Pallas kernel for every NVIDIA GPU, by Triton; one for Hopper and later, by Mosaic GPU; the kernel for every GPU run by
JAX's interpreter, slowly and on any platform, for tests."""

HOPPER = 9.0  # compute capability


def resolve_backend(kernel: str, backend: str, available: tuple[str, ...]) -> str:
    """`backend` where `kernel` has it; "auto" becomes "xla" where the kernel has nothing better.

    Raises:
        MemrlError: for a name that is no back end, or one that `kernel` lacks.
    """
    if backend not in BACKENDS:
        raise unknown_name(f"backend of {kernel}", backend, BACKENDS)
    if backend == "auto" and "auto" not in available:
        backend = "xla"
    check(backend in available, f"{kernel}: backend {backend!r} is not built, expected one of {list(available)}")
    return backend


def by_platform(
    kernel: str,
    backend: str,
    *,
    axes: str,
    cpu: Callable,
    cuda: Callable,
    other: Callable | None = None,
    mosaic: Callable | None = None,
) -> Callable[..., Any]:
    """Which implementation of `kernel` runs for `backend`; with "auto" known only when a program is lowered.

    Args:
        kernel: the function the user called.
        backend: "auto", "xla", "pallas", "mosaic" or "interpret".
        axes: where arguments and results of a Pallas kernel have their batch axis, "TBN BN -> TBN", so that each of
            several devices runs it on its own rows; see `memrl.kernels.sharding`.
        cpu: XLA's operations as a CPU likes them best; takes arrays (or trees of them) and returns a tuple.
        cuda: the same by a Pallas kernel; takes the keyword `interpret` besides.
        other: XLA's operations for other platforms; `cpu` when not given.
        mosaic: as `cuda`, for Hopper and later. "auto" does not choose it: no card has measured it yet.

    Raises:
        MemrlError: for "mosaic" where the GPUs of this process are older.
    """
    other = cpu if other is None else other

    def kernel_of(path: Callable, interpret: bool) -> Callable[..., Any]:
        from memrl.kernels.sharding import over_batch

        return over_batch(partial(path, interpret=interpret), axes)

    match backend:
        case "interpret":
            return kernel_of(cuda, interpret=True)
        case "pallas" | "mosaic":
            chosen = cuda if backend == "pallas" else mosaic
            assert chosen is not None, f"{kernel} has no {backend}"  # `resolve_backend` refused it
            _check_hopper(kernel, backend)
            compiled = kernel_of(chosen, interpret=False)
            return lambda x, *rest: compiled(only_on("cuda", x, kernel=kernel, backend=backend), *rest)
        case "auto" if auto_has_kernels():
            compiled = kernel_of(cuda, interpret=False)
            return lambda *arguments: lax.platform_dependent(*arguments, cpu=cpu, cuda=compiled, default=other)
    return cpu if other is cpu else lambda *arguments: lax.platform_dependent(*arguments, cpu=cpu, default=other)


_portable: ContextVar[bool] = ContextVar("portable", default=False)


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """What is traced within is to be one program for several platforms and open sizes: "auto" uses no Pallas kernel."""
    before = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(before)


def is_portable() -> bool:
    """Whether a portable program is being traced."""
    return _portable.get()


def auto_has_kernels() -> bool:
    """Whether "auto" may choose a kernel for the GPU."""
    return has_platform("cuda") and not is_portable()


def has_platform(platform: str) -> bool:
    """Whether this process can run programs for `platform` ("cpu", "cuda", "tpu").

    Where it cannot, "auto" need not trace the kernels for it, which costs time and memory in every program.
    """
    return platform in backends()


def compute_capability() -> float | None:
    """That of this process's oldest NVIDIA GPU; None where it has none."""
    cuda = backends().get("cuda")
    return None if cuda is None else min(float(device.compute_capability) for device in cuda.local_devices())


def _check_hopper(kernel: str, backend: str) -> None:
    capability = compute_capability()
    check(
        backend != "mosaic" or capability is None or capability >= HOPPER,
        f"{kernel}: backend is 'mosaic', which needs compute capability {HOPPER}; this GPU has {capability}, expected "
        "'pallas' or 'auto'",
    )


def only_on(platform: str, x: jax.Array, *, kernel: str, backend: str) -> jax.Array:
    """`x`, in a program that can be lowered for `platform` ("cuda") alone.

    Which platform a program is for is known when it is lowered, hence a primitive without an effect.

    Raises:
        MemrlError: when the program is lowered for another platform.
    """
    return _only_on.bind(x, platform=platform, kernel=kernel, backend=backend)


_only_on = Primitive("only_on")
_only_on.def_impl(lambda x, **params: jax.jit(partial(_only_on.bind, **params))(x))  # lowers outside of jit too
_only_on.def_abstract_eval(lambda x, **_: x)
batching.defvectorized(_only_on)


def _lower_only_on(context: Any, x: Any, *, platform: str, kernel: str, backend: str) -> Any:
    platforms = context.module_context.platforms
    if tuple(platforms) != (platform,):
        here = ", ".join(platforms)
        raise MemrlError(
            f"{kernel}: backend is {backend!r}, which needs {platform}; this program is for {here}, expected 'auto' or "
            "'xla'"
        )
    return [x]


mlir.register_lowering(_only_on, _lower_only_on)
