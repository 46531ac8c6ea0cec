"""The names of back ends, and which of them a kernel has."""

from memrl.errors import check, unknown_name

BACKENDS = ("auto", "reference", "xla", "pallas")


def resolve_backend(kernel: str, backend: str, available: tuple[str, ...]) -> str:
    """The back end to run: `backend` itself, or for "auto" the fastest one that every platform has ("xla").

    Raises:
        MemrlError: for a name that is no back end, or one that `kernel` lacks.
    """
    if backend not in BACKENDS:
        raise unknown_name(f"backend of {kernel}", backend, BACKENDS)
    backend = "xla" if backend == "auto" else backend
    check(backend in available, f"{kernel}: backend {backend!r} is not built, expected one of {list(available)}")
    return backend
