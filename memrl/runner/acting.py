"""How a trained agent acts: pure functions of its weights, for a `memrl.policy.Policy` in memory or exported."""

import importlib.metadata
import platform
from collections.abc import Callable
from typing import Any, NamedTuple

import distrax
import jax
import jax.numpy as jnp
from flax import nnx

from memrl.agents.rollout import environment_keys
from memrl.envs.wrappers import PreviousStep
from memrl.errors import check
from memrl.experiment import Assembly, experiment_to_json
from memrl.policy import KEY_TYPE, Inputs, Policy, PolicyFacts
from memrl.runner.saved import SavedRun
from memrl.spaces import Box, space_to_json
from memrl.types import Array, Key, Observation


class PolicyState(NamedTuple):
    """What a policy carries from step to step."""

    memory: Any  # leaves [B, ...]
    action: Any  # [B, ...] that the environment took, where the network sees its previous action; or None


class Weights(NamedTuple):
    """What acting needs of a train state."""

    actor: nnx.State
    observations: Any  # moments, or None


class Acting(NamedTuple):
    """A policy as pure functions."""

    weights: Weights
    start: Callable[[Weights, Any], PolicyState]  # of the batch size B
    see: Callable[[Weights, PolicyState, Inputs], Observation]  # what the network sees
    act: Callable[[Weights, PolicyState, Inputs], tuple[PolicyState, Array]]


def policy_of(saved: SavedRun, seed: int, greedy: bool) -> Policy:
    """The policy of a run's last checkpoint; `seed` counts from 0 to S - 1.

    Raises:
        MemrlError: if the run has no such seed.
    """
    acting = acting_of(saved, seed, greedy)
    start, act = jax.jit(acting.start, static_argnums=1), jax.jit(acting.act)
    return Policy(
        facts_of(saved, seed, greedy),
        one_observation(saved.assembly),
        lambda batch_size: start(acting.weights, batch_size),
        lambda state, inputs: act(acting.weights, state, inputs),
    )


def acting_of(saved: SavedRun, seed: int, greedy: bool) -> Acting:
    """The policy of a run's last checkpoint as pure functions; see `policy_of`."""
    env, env_params, agent = saved.assembly
    state = state_of_seed(saved, seed)
    graphdef, params = nnx.split(agent.network(state).without_critic())
    previous = env if isinstance(env, PreviousStep) else None
    space: Any = env.action_space(env_params)
    action_dtype = jnp.float32 if isinstance(space, Box) else jnp.int32

    def no_action(batch_size: Any) -> Array:
        return jnp.zeros((batch_size, *space.shape), action_dtype)

    def start(weights: Weights, batch_size: Any) -> PolicyState:
        memory = nnx.merge(graphdef, weights.actor).initial_state(batch_size)
        return PolicyState(memory, no_action(batch_size) if previous and previous.action else None)

    def see(weights: Weights, state: PolicyState, inputs: Inputs) -> Observation:
        observation, reset = inputs["observation"], inputs["reset"]
        if previous is not None:
            action = no_action(reset.shape[0]) if state.action is None else state.action
            reward = inputs.get("reward", jnp.zeros(reset.shape))
            observe = jax.vmap(previous.observe, (0, 0, 0, 0, None))
            observation = observe(observation, action, reward, reset, env_params)
        return agent.see(weights, observation)

    def act(weights: Weights, state: PolicyState, inputs: Inputs) -> tuple[PolicyState, Array]:
        actor, reset = nnx.merge(graphdef, weights.actor), inputs["reset"]
        memory, policy = actor.step(state.memory, see(weights, state, inputs), reset)
        keys = None if greedy else _keys_of_rows(inputs["key"], reset.shape[0])
        action = actor.policy.environment_action(choose(policy, keys))
        return PolicyState(memory, None if state.action is None else action), action

    return Acting(Weights(params, state.observations), start, see, act)


def choose(policy: distrax.Distribution, keys: Key | None) -> Array:
    """Actions [B, ...] of B policies, drawn with a key each; the most probable ones without keys."""
    return policy.mode() if keys is None else jax.vmap(lambda one, key: one.sample(seed=key))(policy, keys)


def _keys_of_rows(key_data: Array, batch_size: Any) -> Key:
    """A key [B] for each row; a row's does not depend on how many others there are."""
    return environment_keys(jax.random.wrap_key_data(key_data, impl=KEY_TYPE), batch_size)


def state_of_seed(saved: SavedRun, seed: int) -> Any:
    """One seed's train state.

    Raises:
        MemrlError: if the run has no such seed.
    """
    seeds = saved.experiment.seeds
    check(0 <= seed < seeds, f"seed index is {seed}, expected between 0 and {seeds - 1}: the run has {seeds} seeds")
    return jax.tree.map(lambda x: x[seed], saved.states)


def bare(env: Any) -> Any:
    """The environment, which `PreviousStep` may stand round: what that adds, a policy knows by itself."""
    return env.env if isinstance(env, PreviousStep) else env


def one_observation(assembly: Assembly) -> Any:
    """Shapes and dtypes of what the bare environment shows."""
    env, env_params, _ = assembly
    return jax.eval_shape(bare(env).reset, jax.random.key(0), env_params)[0]


def facts_of(saved: SavedRun, seed: int, greedy: bool) -> PolicyFacts:
    """What is known of the policy."""
    experiment, (env, env_params, _), update, _ = saved
    config = experiment_to_json(experiment)
    network = experiment.network
    return PolicyFacts(
        environment={
            "name": experiment.env,
            "options": dict(experiment.env_options),
            "projection": experiment.projection,
            "permute_actions": experiment.permute_actions,
            "trials": experiment.trials,
        },
        observation_space=space_to_json(bare(env).observation_space(env_params)),
        action_space=space_to_json(env.action_space(env_params)),
        core=config["core"] if isinstance(config["core"], list) else [config["core"]],
        greedy=greedy,
        takes_reward=network.previous_reward,
        carries=["previous_action"] if network.previous_action else [],
        seed=experiment.seed + seed,
        update=update,
        versions={
            "memrl": importlib.metadata.version("memrl"),
            "jax": jax.__version__,
            "python": platform.python_version(),
        },
    )
