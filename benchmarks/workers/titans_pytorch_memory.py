"""Forward and backward through titans-pytorch's memory, with the sizes on the command line.

It takes one gradient for a chunk, the sum over its tokens, and pools the gates of a chunk. With `batched` it is taken
at the weights at the start of the chunk, as Titans has it; otherwise at those that the sequence starts with.
"""

import json
import sys

import torch  # pyright: ignore[reportMissingImports]
from titans_pytorch import NeuralMemory  # pyright: ignore[reportMissingImports]
from turns import take_turns

sizes = json.loads(sys.argv[1])
T, B, D, C = (sizes[name] for name in ("steps", "batch", "width", "chunk_length"))
torch.set_num_threads(2)
torch.manual_seed(0)
memory = NeuralMemory(
    dim=D,
    chunk_size=C,
    batch_size=C if sizes["batched"] else None,
    momentum=True,
    mem_model_norm_add_residual=False,
    default_model_kwargs={"depth": 2, "expansion_factor": 2.0},
)
xs = torch.randn(B, T, D, requires_grad=True)


def update() -> None:
    memory.zero_grad()
    xs.grad = None
    ys, _ = memory(xs)
    ys.square().mean().backward()


update()
update()
take_turns(update, parameters=sum(p.numel() for p in memory.parameters()))
