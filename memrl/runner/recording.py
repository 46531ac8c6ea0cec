"""One episode, step by step: what was seen, thought, done and paid."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memrl.envs.base import Environment, Task, step_key
from memrl.envs.wrappers import PreviousStep, Wrapper, unwrapped
from memrl.experiment import Assembly
from memrl.runner.acting import choose
from memrl.spaces import Discrete
from memrl.types import Array, Key

_STREAM = 0x706C6179  # sets the recording's random numbers apart from those of training and evaluation


class Episode(NamedTuple):
    """An episode of T steps on the host, in numpy, or its first T steps."""

    task: Environment  # without its wrappers
    params: Any
    states: list[Any]  # T + 1 states of the task, the last one where the episode ends
    observations: list[Any]  # T + 1 observations of the task
    actions: np.ndarray  # [T, ...] as the environment took them
    rewards: np.ndarray  # [T]
    probabilities: np.ndarray | None  # [T, A] of each action, where actions are Discrete
    values: np.ndarray | None  # [T] V(observation), where the actor has an estimate
    ended: bool  # False where the episode goes on after its last step here

    @property
    def returns(self) -> np.ndarray:
        """The undiscounted return so far, [T + 1]."""
        return np.concatenate([[0.0], np.cumsum(self.rewards, dtype=float)])


class Decision(NamedTuple):
    """What an actor makes of an observation."""

    action: Array  # as the environment takes it
    probabilities: Array | None  # [A]
    value: Array | None  # []


class Actor(NamedTuple):
    """Who acts: `start` gives the memory before an episode, `act` is traced once."""

    start: Callable[[], Any]
    act: Callable[[Any, Any, Array, Key], tuple[Any, Decision]]  # of memory, observation, reset and key


def random_actor(env: Any, env_params: Any) -> Actor:
    """Draws its actions uniformly."""
    space = env.action_space(env_params)
    uniform = np.full(space.n, 1 / space.n, np.float32) if isinstance(space, Discrete) else None

    def act(memory: Any, observation: Any, reset: Array, key: Key) -> tuple[Any, Decision]:
        del observation, reset
        return memory, Decision(space.sample(key), None if uniform is None else jnp.asarray(uniform), None)

    return Actor(lambda: (), act)


def trained_actor(assembly: Assembly, state: Any, *, greedy: bool) -> Actor:
    """Acts by the network of one seed's train state."""
    agent = assembly.agent
    discrete = isinstance(assembly.env.action_space(assembly.env_params), Discrete)

    def start() -> Any:
        return state, agent.network(state).initial_state(1)  # the train state too: a constant would be compiled in

    def act(memory: Any, observation: Any, reset: Array, key: Key) -> tuple[Any, Decision]:
        state, recurrent = memory
        network = agent.network(state)
        batch = jax.tree.map(lambda x: x[None], observation)
        recurrent, (policy, value, _) = network.step(recurrent, agent.see(state, batch), reset[None])
        action = network.environment_action(choose(policy, None if greedy else key[None]))
        # distrax's base class does not know of probabilities
        probabilities = policy.probs[0] if discrete else None  # pyright: ignore[reportAttributeAccessIssue]
        return (state, recurrent), Decision(action[0], probabilities, None if value is None else value[0])

    return Actor(start, act)


def record(env: Any, env_params: Any, actor: Actor, seed: int, max_steps: int) -> Episode:
    """Plays an episode to its end, or for `max_steps` steps."""
    task = unwrapped(env)

    @jax.jit
    def reset(key: Key) -> tuple[Any, Any]:
        return env.reset(key, env_params)

    @jax.jit
    def step(memory: Any, observation: Any, state: Any, start: Array, key: Key) -> tuple[Any, Any, Any, Any]:
        action_key, env_key = jax.random.split(key)
        memory, decision = actor.act(memory, observation, start, action_key)
        action = decision.action
        next_observation, next_state, reward, terminated, truncated, info = env.step(env_key, state, action, env_params)
        done = terminated | truncated
        shown = task_state(env, next_state)
        if isinstance(task, Task) and type(task).step_env is not Task.step_env:  # not one that lives on the host
            # Where this episode ends, `step` has begun the next: the last state is made again, without the reset.
            _, last, *_ = task.step_env(step_key(env_key), task_state(env, state), action, env_params)
            shown = jax.tree.map(lambda x, y: jnp.where(done, x, y), last, shown)
        seen = _task_observation(env, info["final_observation"])
        return memory, next_observation, next_state, (decision, shown, seen, reward, done)

    key = jax.random.fold_in(jax.random.key(seed), _STREAM)
    observation, state = reset(jax.random.fold_in(key, 0))
    states, observations = [task_state(env, state)], [_task_observation(env, observation)]
    decisions: list[Decision] = []
    rewards, memory, done = [], actor.start(), False
    for t in range(max_steps):
        memory, observation, state, result = step(
            memory, observation, state, np.bool_(t == 0), jax.random.fold_in(key, t + 1)
        )
        decision, shown, seen, reward, done = jax.device_get(result)
        decisions.append(decision)
        states.append(shown)
        observations.append(seen)
        rewards.append(reward)
        if done:
            break
    return Episode(
        task,
        env_params,
        _on_host(states),
        _on_host(observations),
        np.stack([d.action for d in decisions]),
        np.asarray(rewards),
        _stacked([d.probabilities for d in decisions]),
        _stacked([d.value for d in decisions]),
        bool(done),
    )


def _stacked(values: list[Array | None]) -> np.ndarray | None:
    known = [value for value in values if value is not None]
    return np.stack(known) if known else None


def _on_host(values: list[Any]) -> list[Any]:
    return [jax.tree.map(np.asarray, value) for value in values]


def task_state(env: Any, state: Any) -> Any:
    """The task's part of a wrapped environment's state."""
    while isinstance(env, Wrapper):
        state, env = getattr(state, "env_state", state), env.env
    return state


def _task_observation(env: Any, observation: Any) -> Any:
    """The task's part of a wrapped environment's observation."""
    while isinstance(env, Wrapper):
        if isinstance(env, PreviousStep):
            observation = observation["observation"]
        env = env.env
    return observation
