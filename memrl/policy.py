"""Trained policies that act: a state, and a function that takes an observation to an action and the next state.

`load_policy` reads the folder that `memrl export` writes. It needs JAX, safetensors and this file, but neither the
config script nor the classes of agents, networks and cores: the program is in the folder.

    policy.json              what the policy is, and the SHA-256 of the other files
    weights.safetensors      its parameters, by name
    step.jaxexport           (weights, state, inputs) -> (state, action), as `jax.export` serialises StableHLO
    initial_state.jaxexport  (weights, zeros [B] bool) -> state

JAX promises to read such a program for six months of its newer versions, on every platform it was exported for, and for
three weeks of older ones (https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees). The weights stay
readable; for a JAX that is newer than that, export the run again.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memrl.errors import MemrlError, check

FORMAT = 1
POLICY_JSON = "policy.json"
WEIGHTS = "weights.safetensors"
STEP = "step.jaxexport"
INITIAL_STATE = "initial_state.jaxexport"
KEY_TYPE = "threefry2x32"  # of the random keys that sampled policies take

State = Any  # a pytree whose leaves are [B, ...]
Inputs = dict[str, Any]  # observation, reset [B] bool; where the policy takes them, reward [B] and key


@dataclasses.dataclass(frozen=True)
class PolicyFacts:
    """What is known of a policy; JSON values throughout."""

    environment: dict[str, Any]
    """Name and options, and what the experiment put round it."""
    observation_space: dict[str, Any]
    """What `Policy.step` takes: what the environment shows, without what the network sees of the previous step."""
    action_space: dict[str, Any]
    """What `Policy.step` gives."""
    core: list[dict[str, Any]]
    """The cores, with their hyperparameters."""
    greedy: bool
    """Whether actions are the most probable ones, rather than drawn; if drawn, `Policy.step` takes a key."""
    takes_reward: bool
    """Whether `Policy.step` takes the reward of the step before."""
    carries: list[str]
    """What the state of the policy holds besides the memory."""
    seed: int
    """The seed that was trained."""
    update: int
    """Updates it was trained for."""
    versions: dict[str, str]
    """Those of memrl, JAX and Python that made it."""


class Policy:
    """A policy for batches of any size B; `step` can be jitted.

        state = policy.initial_state(B)
        state, action = policy.step(state, observation, reset)

    Observations are what the bare environment shows, as `memrl.make_env` makes it: a network's normalisation is inside,
    and so are the previous action and the episode's start where the network sees them; the state carries them.
    """

    def __init__(
        self,
        facts: PolicyFacts,
        observation: Any,
        initial_state: Callable[[int], State],
        step: Callable[[State, Inputs], tuple[State, jax.Array]],
    ):
        self.facts = facts
        self._observation = observation  # shapes and dtypes of a single one
        self._initial_state, self._step = initial_state, step

    def initial_state(self, batch_size: int = 1) -> State:
        """The state before the first step of B episodes."""
        check(batch_size >= 1, f"policy: batch_size is {batch_size}, expected at least 1")
        return self._initial_state(batch_size)

    def step(
        self, state: State, observation: Any, reset: Any, key: Any = None, reward: Any = None
    ) -> tuple[State, jax.Array]:
        """The next state, and the actions [B, ...] as the environment takes them.

        Args:
            state: from `initial_state` or the last `step`.
            observation: [B, ...], what the environment shows.
            reset: [B] bool, or one for all: the observation is the first of its episode; the state before it and the
                reward do not matter then.
            key: a random key, from which a sampled policy draws; a greedy one takes none.
            reward: [B], what the last action earned, if `facts.takes_reward`.

        Raises:
            MemrlError: for an argument that is missing or not wanted, or whose shape or dtype is not the policy's.
        """
        observation = self._fitting(observation)
        batch_size = jax.tree.leaves(observation)[0].shape[0]
        held = {x.shape[0] for x in jax.tree.leaves(state)}
        check(
            held <= {batch_size},
            f"policy: state is of {sorted(held)} environments, the observation of {batch_size}, expected as many",
        )
        inputs = {"observation": observation, "reset": _row("reset", reset, batch_size, jnp.bool_)}
        takes = self.facts.takes_reward
        check(takes or reward is None, "policy: reward is given, expected None: this policy does not take it")
        check(not takes or reward is not None, "policy: reward is None, expected [B]: this policy takes it")
        if self.facts.takes_reward:
            inputs["reward"] = _row("reward", reward, batch_size, jnp.float32)
        if not self.facts.greedy:
            inputs["key"] = _key_data(key)
        return self._step(state, inputs)

    def _fitting(self, observation: Any) -> Any:
        """The observation as arrays of the dtypes that the policy was made for."""
        expected, structure = jax.tree.flatten(self._observation)
        leaves, given = jax.tree.flatten(observation)
        check(given == structure, f"policy: observation is a {given}, expected a {structure}")
        leaves = [x if hasattr(x, "dtype") else np.asarray(x) for x in leaves]
        sizes = {x.shape[:1] for x in leaves}
        for x, like in zip(leaves, expected, strict=True):
            check(
                x.shape[1:] == like.shape and x.ndim == len(like.shape) + 1 and len(sizes) == 1,
                f"policy: observation has shape {x.shape}, expected [B, {', '.join(map(str, like.shape))}]",
            )
            fits = np.can_cast(x.dtype, like.dtype, "same_kind")
            check(fits, f"policy: observation is {x.dtype}, expected {like.dtype}")
        return structure.unflatten([jnp.asarray(x, like.dtype) for x, like in zip(leaves, expected, strict=True)])


def _row(name: str, value: Any, batch_size: int, dtype: Any) -> jax.Array:
    value = value if hasattr(value, "dtype") else np.asarray(value)
    check(value.shape in ((), (batch_size,)), f"policy: {name} has shape {value.shape}, expected [{batch_size}]")
    fits = np.can_cast(value.dtype, dtype, "same_kind")
    check(fits, f"policy: {name} is {value.dtype}, expected {np.dtype(dtype).name}")
    return jnp.broadcast_to(jnp.asarray(value, dtype), (batch_size,))


def _key_data(key: Any) -> jax.Array:
    """The two numbers of a random key."""
    check(key is not None, "policy: key is None, expected a random key: this policy draws its actions")
    typed = hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    data = jax.random.key_data(key) if typed else jnp.asarray(key)
    fits = data.shape == (2,) and data.dtype == jnp.uint32
    check(fits, f"policy: key is {data.dtype}{list(data.shape)}, expected one key of jax.random.key, {KEY_TYPE}")
    return data


def load_policy(path: str | Path) -> Policy:
    """The policy that `memrl export` wrote to the folder `path`.

    Raises:
        MemrlError: if the folder holds none, it was damaged, or this JAX cannot read or run it.
    """
    path = Path(path)
    content = _read_description(path)
    facts = PolicyFacts(**content["facts"])
    for name in (WEIGHTS, STEP, INITIAL_STATE):
        _check_file(path / name, content["files"].get(name))
    weights = _read_weights(path / WEIGHTS)
    step, initial_state = (_read_program(path / name, facts) for name in (STEP, INITIAL_STATE))
    (expected, _, inputs), _ = jax.tree.unflatten(step.in_tree, step.in_avals)
    _check_weights(path / WEIGHTS, weights, expected)
    observation = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), inputs["observation"])
    run_step, run_initial_state = jax.jit(step.call), jax.jit(initial_state.call)
    return Policy(
        facts,
        observation,
        lambda batch_size: run_initial_state(weights, jnp.zeros(batch_size, bool)),
        lambda state, inputs: run_step(weights, state, inputs),
    )


def _read_description(path: Path) -> Mapping[str, Any]:
    file = path / POLICY_JSON
    check(path.is_dir(), f"policy {path} is not a folder, expected one that memrl export wrote")
    check(file.is_file(), f"policy {path}: no {POLICY_JSON} there, expected a folder that memrl export wrote")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MemrlError(f"policy {path}: {POLICY_JSON} is damaged: {error}") from error
    found = content.get("format") if isinstance(content, Mapping) else None
    check(found == FORMAT, f"policy {path}: format is {found!r}, expected {FORMAT}, as this version of memrl writes it")
    facts, files = content.get("facts"), content.get("files")
    known = {field.name for field in dataclasses.fields(PolicyFacts)}
    whole = isinstance(facts, Mapping) and set(facts) == known and isinstance(files, Mapping)
    check(whole, f"policy {path}: {POLICY_JSON} is damaged: expected facts ({', '.join(sorted(known))}) and files")
    return content


def _check_file(file: Path, digest: Any) -> None:
    check(file.is_file(), f"policy {file.parent}: {file.name} is missing")
    found = file_digest(file.read_bytes())
    check(found == digest, f"policy {file.parent}: {file.name} is damaged: its SHA-256 is not that of {POLICY_JSON}")


def file_digest(content: bytes) -> str:
    """The SHA-256 of a file's content, as `policy.json` holds it."""
    return hashlib.sha256(content).hexdigest()


def _read_weights(file: Path) -> dict[str, jax.Array]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return {name: jnp.asarray(x) for name, x in load_file(file).items()}
    except SafetensorError as error:
        raise MemrlError(f"policy {file.parent}: {file.name} is damaged: {error}") from error


def _check_weights(file: Path, weights: dict[str, jax.Array], expected: dict[str, Any]) -> None:
    """Raises `MemrlError` unless these are the weights that the program takes."""
    where = f"policy {file.parent}: {file.name}"
    for name in sorted(expected.keys() | weights.keys()):
        check(name in weights, f"{where} has no {name!r}, which {STEP} takes")
        check(name in expected, f"{where} has {name!r}, which {STEP} does not take")
        found, wanted = (f"{x.dtype}{list(x.shape)}" for x in (weights[name], expected[name]))
        check(found == wanted, f"{where}: {name!r} is {found}, expected {wanted}")


def _read_program(file: Path, facts: PolicyFacts) -> Any:
    from jax import export

    made_by = facts.versions.get("jax")
    try:
        program = export.deserialize(bytearray(file.read_bytes()))
    except Exception as error:  # its bytes are whole: the digest was right
        what = " ".join(str(error).split())
        raise MemrlError(
            f"policy {file.parent}: JAX {jax.__version__} cannot read {file.name}, of JAX {made_by}; export the run "
            f"again: {what}"
        ) from error
    here = jax.default_backend()
    platforms = ("cuda", "rocm") if here == "gpu" else (here,)
    check(
        any(platform in program.platforms for platform in platforms),
        f"policy {file.parent}: platforms are {', '.join(program.platforms)}, expected {here}, where this process runs",
    )
    return program
