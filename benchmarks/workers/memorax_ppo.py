"""memorax's PPO with its GRU, on memrl's environment; its actor and critic share nothing, so each has a core."""

import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from memorax import networks  # pyright: ignore[reportMissingImports]
from memorax.algorithms.ppo import PPO, PPOConfig  # pyright: ignore[reportMissingImports]
from turns import take_turns

from memrl import make_env


class OldGymnax:
    """The interface that memorax expects: one `done`, and an info that holds nothing to log."""

    def __init__(self, name: str):
        self.env, self.params = make_env(name)
        self.reset, self.action_space = self.env.reset, self.env.action_space

    def step(self, key, state, action, params):
        observation, state, reward, terminated, truncated, _ = self.env.step(key, state, action, params)
        return observation, state, reward, terminated | truncated, {}


def network(head: nn.Module) -> nn.Module:
    encoder = networks.FeatureExtractor(observation_extractor=networks.MLP((128, 256)))
    core = networks.RNN(nn.GRUCell(256))
    hidden = networks.SequenceModelWrapper(networks.MLP((128, 128)))
    return networks.Network(encoder, networks.Stack((core, hidden)), head)


started = time.perf_counter()
env: Any = OldGymnax("popgym/PositionOnlyCartPoleEasy")
config = PPOConfig(
    name="ppo",
    num_envs=64,
    num_eval_envs=1,
    num_steps=128,
    gamma=0.99,
    gae_lambda=0.95,
    num_minibatches=8,
    update_epochs=4,
    normalize_advantage=True,
    clip_coef=0.2,
    clip_vloss=False,
    ent_coef=0.01,
    vf_coef=0.5,
)
adam = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(3e-4, eps=1e-5))
actor, critic = network(networks.heads.Categorical(2)), network(networks.heads.VNetwork())
agent = PPO(config, env, env.params, actor, critic, adam, adam)
steps = config.num_envs * config.num_steps
key, state = jax.block_until_ready(agent.init(jax.random.key(0)))
run_update = PPO.train.lower(agent, key, state, steps).compile()
compile_seconds = time.perf_counter() - started


def update() -> None:
    global key, state
    key, state, _ = jax.block_until_ready(run_update(key, state))


update()
parameters = sum(jnp.size(x) for x in jax.tree.leaves((state.actor_params, state.critic_params)))
take_turns(update, parameters=parameters, compile_seconds=compile_seconds)
