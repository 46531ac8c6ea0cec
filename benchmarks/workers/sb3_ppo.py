"""sb3-contrib's RecurrentPPO with one LSTM for actor and critic, on popgym's own environment, on the CPU."""

import torch  # pyright: ignore[reportMissingImports]
from popgym.envs.position_only_cartpole import PositionOnlyCartPoleEasy  # pyright: ignore[reportMissingImports]
from sb3_contrib import RecurrentPPO  # pyright: ignore[reportMissingImports]
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor  # pyright: ignore[reportMissingImports]
from stable_baselines3.common.vec_env import DummyVecEnv  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from turns import take_turns


class Encoder(BaseFeaturesExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space, features_dim=256)
        size = observation_space.shape[0]
        self.layers = nn.Sequential(nn.Linear(size, 128), nn.ReLU(), nn.Linear(128, 256), nn.ReLU())

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.layers(observations)


# On a busy machine two threads wait for each other at every small product: updates took seven times as long.
torch.set_num_threads(1)
model = RecurrentPPO(
    "MlpLstmPolicy",
    DummyVecEnv([PositionOnlyCartPoleEasy] * 64),
    learning_rate=3e-4,
    n_steps=128,
    batch_size=1024,
    n_epochs=4,
    ent_coef=0.01,
    policy_kwargs={
        "features_extractor_class": Encoder,
        "lstm_hidden_size": 256,
        "shared_lstm": True,
        "enable_critic_lstm": False,
        "net_arch": {"pi": [128, 128], "vf": [128, 128]},
        "activation_fn": nn.ReLU,
    },
    device="cpu",
)


def update() -> None:
    model.learn(total_timesteps=64 * 128, log_interval=None, reset_num_timesteps=False)  # pyright: ignore[reportArgumentType]


update()
take_turns(update, parameters=sum(p.numel() for p in model.policy.parameters()))
