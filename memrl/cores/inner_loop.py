"""Training a network inside of an unroll: the chunked rule of Titans with momentum and forgetting, in dual form.

    S_t = eta_t S_{t-1} - theta_t grad l(M_base; k_t, v_t),   M_t = (1 - alpha_t) M_{t-1} + S_t,   y_t = M_t(q_t)

The gradient is taken at M_base, the weights at the start of the chunk of C steps that t is in, or M_init where an
episode has begun in that chunk; such an episode starts with M = M_init and S = 0. Its norm is kept below a bound.

Inside a chunk everything is linear in the gradients, and these are outer products a_s g_s^T in each layer, so that

    W_t = A_t W_start + B_t S_start - sum_s c_ts theta_s a_s g_s^T,   c = P_alpha P_eta

with P_x[t, s] the product of x between s and t, or 0 over a reset. W_t h is a masked linear attention: no weights are
held but those at the ends of chunks. What does not depend on the memory, as c, is in `memrl.cores.inner_blocks`. Chunks
are laid on a grid that episodes do not move: each row counts its steps.

What is trained is W itself, or, with the retentions `lq` and `kl`, something that W is a function of (mirror descent):

    lq:  W = A / ||A||_q^(q-2) in each layer,        kl:  W = softmax(A) over the inputs of each output

for which W_t is not linear in the gradients any more, nor is it with Newton-Schulz steps, M_t = (1 - alpha_t) M_{t-1} +
theta_t NS(S_t). Then a loop over the steps of a chunk holds one set of weights; the gradients are as above.

With a window, a step's gradient is the sum of those of the last tokens, by shares (`memrl.cores.inner_window`); in dual
form P_alpha P_eta is then multiplied by the matrix of all steps' shares in all tokens.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from memrl.cores.chunk_grid import from_grid, to_grid
from memrl.cores.inner_blocks import Block, Marks, Steps, finite, make_blocks, tokens_apart
from memrl.cores.inner_network import InnerNetwork, Loss, Weights
from memrl.cores.inner_window import Tokens, no_tokens, tokens_of_chunks, windows, zero_where
from memrl.cores.newton_schulz import newton_schulz
from memrl.types import Array

Memory = tuple[Weights, Weights, Weights]  # base, weights, momentum
Optimiser = Literal["gradient", "momentum", "newton_schulz"]
Retention = Literal["none", "decay", "lq", "kl"]


class InnerState(NamedTuple):
    """The memory of each row, and how far it is in its chunk."""

    base: Weights  # of each layer [B, inputs, outputs]: where gradients are taken
    weights: Weights  # of each layer [B, inputs, outputs]
    momentum: Weights  # of each layer [B, inputs, outputs]; empty without momentum
    phase: Array  # [B] int32, steps of the chunk that are over, 0 to C - 1
    past: Tokens | tuple[()] = ()  # the last c - 1 tokens; empty for a window of one


@dataclasses.dataclass(frozen=True)
class InnerLoop:
    """A network, and how it is trained."""

    network: InnerNetwork
    loss: Loss
    chunk_length: int  # C
    max_gradient_norm: float
    optimiser: Optimiser
    weights_of: Callable[[Array], Array] | None = None  # of what is trained in a layer, [..., inputs, outputs]
    window: int = 1  # c

    @property
    def momentum(self) -> bool:
        """Whether there is any."""
        return self.optimiser != "gradient"

    def initial_state(self, batch_size: int) -> InnerState:
        """The initial weights, no momentum, the start of a chunk."""
        weights = tuple(jnp.broadcast_to(w[None], (batch_size, *w.shape)) for w in self.network.initial())
        momentum = jax.tree.map(jnp.zeros_like, weights) if self.momentum else ()
        past = no_tokens(batch_size, self.window, self.network.inputs, self.network.width)
        return InnerState(weights, weights, momentum, jnp.zeros((batch_size,), jnp.int32), past)

    def unroll(self, state: InnerState, steps: Steps, resets: Array) -> tuple[InnerState, Array, Array]:
        """T steps: the last state, what was read [T, B, d], and each step's loss before it was learnt from [T, B].

        The loss is NaN where the memory has diverged, so that what was read has no length, and zero where it was lost
        to a step that was not finite.
        """
        T, C = len(resets), self.chunk_length
        lost, real = reached(~finite(steps), resets), jnp.ones_like(resets)
        if T == 1:  # so that a step does not cost a chunk
            state, ys, losses = self.within_chunk(state, steps, resets, real)
            return state, ys, jnp.where(lost, 0, losses)
        past, memory = sound(state)
        steps, marks, tokens, past = tokens_apart(past, steps, resets, real)
        tokens = tokens_of_chunks(tokens, state.phase, T, C)
        steps, marks = jax.tree.map(lambda x: to_grid(x, state.phase, C), (steps, marks))
        M = len(marks.resets)
        complete = (1 + jnp.arange(M))[:, None] * C <= (state.phase + T)[None]
        blocks = make_blocks(steps, marks, tokens, complete, momentum=self.momentum)
        body = jax.checkpoint(self._block)
        most, last = jax.tree.map(lambda x: x[:-1], blocks), jax.tree.map(lambda x: x[-1], blocks)
        memory, out = lax.scan(body, memory, most)
        # The last chunk is often empty: when all rows are at the start of a chunk, and C divides T.
        idle = (jnp.zeros_like(last.tokens.v[:, -C:]), jnp.zeros_like(last.steps.rate))
        empty = jnp.all(state.phase + T <= (M - 1) * C)
        memory, out_last = lax.cond(empty, lambda memory, _: (memory, idle), body, memory, last)
        ys, losses = (
            from_grid(jnp.concatenate([x, y[None]]), state.phase, T) for x, y in zip(out, out_last, strict=True)
        )
        state = state_of(memory, (state.phase + T) % C, past)
        return state, ys, jnp.where(lost, 0, judged(losses, ys))

    def within_chunk(
        self, state: InnerState, steps: Steps, resets: Array, real: Array
    ) -> tuple[InnerState, Array, Array]:
        """`unroll` over steps of which those that are `real` [T, B] come first and go no further than their chunk.

        But a loss is NaN also where it was lost to a step that was not finite.
        """
        phase = state.phase + jnp.sum(real, 0, dtype=jnp.int32)
        past, memory = sound(state)
        steps, marks, tokens, past = tokens_apart(past, steps, resets, real)
        steps, marks, tokens = jax.tree.map(lambda x: x.swapaxes(0, 1)[None], (steps, marks, tokens))
        block = make_blocks(steps, marks, tokens, (phase == self.chunk_length)[None], momentum=self.momentum)
        memory, (ys, losses) = self._block(memory, jax.tree.map(lambda x: x[0], block))
        ys, losses = ys.swapaxes(0, 1), losses.swapaxes(0, 1)
        return state_of(memory, phase % self.chunk_length, past), ys, judged(losses, ys)

    def recall(self, state: InnerState, q: Array, resets: Array) -> Array:
        """M_base(q) of steps within the chunk, [T, B, d]."""
        bad = ~finite(state.base, axes=1)  # [B]
        base = jax.tree.map(lambda x: select(bad, jnp.zeros_like(x), x), state.base)
        initial = self.network.initial()
        if self.weights_of is not None:
            base, initial = jax.tree.map(self.weights_of, (base, initial))
        carried = (jnp.cumsum(resets, 0) == 0).T[..., None]
        bad_q = ~jnp.isfinite(q).all(-1, keepdims=True)

        def product(layer: int, h: Array) -> Array:
            return jnp.where(carried, h @ base[layer], h @ initial[layer])

        h = self.network.read(product, jnp.where(bad_q, 0, q).swapaxes(0, 1))
        h = jnp.where(carried & bad[:, None, None], jnp.nan, h).swapaxes(0, 1)
        return jnp.where(bad_q, jnp.nan, h)

    def _block(self, memory: Memory, block: Block) -> tuple[Memory, tuple[Array, Array]]:
        """One block: the memory after it, and what was read [B, C, d] and the losses [B, C]."""
        bad = ~finite(memory, axes=1)  # [B]; it would reach past a reset as zero times NaN
        memory = jax.tree.map(lambda x: select(bad, jnp.zeros_like(x), x), memory)
        base, initial = memory[0], self.network.initial()
        inputs, slopes, losses = self._slopes(base, initial, block)
        learn = self._at_once if self.weights_of is None and self.optimiser != "newton_schulz" else self._by_steps
        weights, momentum, ys = learn(memory, initial, block, inputs, slopes)
        begun = [select(block.carried[:, -1], w, start[None]) for w, start in zip(base, initial, strict=True)]
        base = tuple(select(block.complete, w, before) for w, before in zip(weights, begun, strict=True))
        broken = block.broken | (bad[:, None] & block.carried)
        memory = (base, weights, momentum)
        memory = jax.tree.map(lambda x: select(broken[:, -1], jnp.full_like(x, jnp.nan), x), memory)
        return memory, (jnp.where(broken[..., None], jnp.nan, ys), losses)

    def _slopes(self, base: Weights, initial: Weights, block: Block) -> tuple[Weights, Weights, Array]:
        """Of each token's gradient, the factors a [B, L, inputs] and -g [B, L, outputs] by layer; the steps' losses."""
        if self.weights_of is not None:
            base, initial = jax.tree.map(self.weights_of, (base, initial))
        before, own = self.window - 1, block.carried
        carried = jnp.pad(own, ((0, 0), (before, 0)), constant_values=True)[..., None]

        def product(layer: int, h: Array) -> Array:
            return jnp.where(carried, h @ base[layer], h @ initial[layer])

        def transposed(layer: int, g: Array) -> Array:
            return jnp.where(carried, g @ base[layer].swapaxes(1, 2), g @ initial[layer].T)

        k, v, threshold, _ = block.tokens
        inputs, errors, losses = self.network.gradients(product, transposed, k, v, self.loss, threshold)
        pairs = zip(inputs, errors, strict=True)
        square = sum(jnp.sum(jnp.square(a), -1) * jnp.sum(jnp.square(g), -1) for a, g in pairs)
        bound = self.max_gradient_norm
        shrink = -bound * lax.rsqrt(jnp.maximum(square, bound**2))[..., None]
        return inputs, tuple(shrink * g for g in errors), losses[:, before:]

    def _at_once(
        self, memory: Memory, initial: Weights, block: Block, inputs: Weights, slopes: Weights
    ) -> tuple[Weights, Weights, Array]:
        """Weights and momentum after the block, and what was read, in dual form."""
        _, weights, momentum = memory
        carried, layers = block.carried[..., None], range(len(weights))

        def product(layer: int, h: Array) -> Array:
            ys = block.kept[..., None] * jnp.where(carried, h @ weights[layer], h @ initial[layer])
            if self.momentum:
                ys = ys + block.moved[..., None] * (h @ momentum[layer])
            return ys + (block.read * (h @ inputs[layer].swapaxes(1, 2))) @ slopes[layer]

        def learnt(amounts: Array, layer: int) -> Array:
            return inputs[layer].swapaxes(1, 2) @ (amounts[..., None] * slopes[layer])

        ys = self.network.read(product, block.steps.q)
        starts = [select(block.carried[:, -1], weights[i], initial[i][None]) for i in layers]
        after = [scale(block.kept[:, -1], starts[i]) + learnt(block.read[:, -1], i) for i in layers]
        if self.momentum:
            after = [after[i] + scale(block.moved[:, -1], momentum[i]) for i in layers]
            momentum = tuple(scale(block.left_start, momentum[i]) + learnt(block.left, i) for i in layers)
        return tuple(after), momentum, ys

    def _by_steps(
        self, memory: Memory, initial: Weights, block: Block, inputs: Weights, slopes: Weights
    ) -> tuple[Weights, Weights, Array]:
        """The same in a loop over the steps, for weights that are not linear in the gradients."""
        orthogonal = self.optimiser == "newton_schulz"
        first = tuple(w[None] for w in initial)

        def step(carry: tuple[Weights, Weights], now: tuple[Steps, Marks, Array, Weights, Weights]):
            weights, momentum = carry
            steps, marks, shares, inputs, slopes = now
            weights = jax.tree.map(lambda w, start: select(marks.resets, start, w), weights, first)
            change = tuple(summed(shares, a, g) for a, g in zip(inputs, slopes, strict=True))
            if not orthogonal:
                change = jax.tree.map(lambda x: scale(steps.rate, x), change)
            if self.momentum:
                eta = jnp.where(marks.resets, 0, jnp.exp(steps.log_momentum))
                momentum = jax.tree.map(lambda s, x: scale(eta, s) + x, momentum, change)
                change = jax.tree.map(lambda x: select(marks.real, x, jnp.zeros_like(x)), momentum)
            if orthogonal:
                change = jax.tree.map(lambda x: scale(steps.rate, newton_schulz(x)), change)
            keep = jnp.exp(steps.log_keep)
            weights = jax.tree.map(lambda w, x: scale(keep, w) + x, weights, change)
            now_read = weights if self.weights_of is None else jax.tree.map(self.weights_of, weights)
            y = self.network.read(lambda layer, h: h @ now_read[layer], steps.q[:, None])
            return (weights, momentum), y[:, 0]

        inputs, slopes = jax.tree.map(lambda x: windows(x, self.window), (inputs, slopes))
        by_time = (block.steps, block.marks, block.shares, inputs, slopes)
        by_time = jax.tree.map(lambda x: x.swapaxes(0, 1), by_time)
        (weights, momentum), ys = lax.scan(step, memory[1:], by_time)
        return weights, momentum, ys.swapaxes(0, 1)


def retained(retention: Retention, power: float) -> Callable[[Array], Array] | None:
    """The weights as a function of what is trained, by name of the retention; none where they are the same."""

    def lq(a: Array) -> Array:
        total = jnp.sum(jnp.abs(a) ** power, (-2, -1), keepdims=True)
        return a / (total + SMALLEST) ** ((power - 2) / power)

    def kl(a: Array) -> Array:
        return jax.nn.softmax(a, -2)

    return {"none": None, "decay": None, "lq": lq, "kl": kl}[retention]


SMALLEST = 1e-6  # a sum of powers, so that weights that decay to nothing stay finite


def summed(shares: Array, inputs: Array, slopes: Array) -> Array:
    """The sum [B, i, o] of c outer products of [B, c, i] and [B, c, o], by their shares [B, c]."""
    weighted = shares[..., None] * slopes
    if shares.shape[-1] == 1:
        return inputs[:, 0, :, None] * weighted
    return inputs.swapaxes(1, 2) @ weighted


def sound(state: InnerState) -> tuple[Tokens | tuple[()], Memory]:
    """Its past, as tokens that are finite, and its memory, which is NaN in rows whose tokens were not."""
    past, memory = state.past, (state.base, state.weights, state.momentum)
    if not isinstance(past, Tokens):
        return past, memory
    bad = ~finite(past, axes=1)
    memory = jax.tree.map(lambda x: select(bad, jnp.full_like(x, jnp.nan), x), memory)
    return jax.tree.map(lambda x: zero_where(bad, x), past), memory


def reached(bad: Array, resets: Array) -> Array:
    """Whether some step since the last reset is bad, that step included; [T, B]."""
    t = jnp.arange(len(bad))[:, None]
    return lax.cummax(jnp.where(bad, t, -1), 0) >= lax.cummax(jnp.where(resets, t, 0), 0)


def judged(losses: Array, ys: Array) -> Array:
    """The losses [T, B]: NaN where what was read is not finite, or not its length."""
    return jnp.where(jnp.isfinite(jnp.sum(jnp.square(ys), -1)), losses, jnp.nan)


def state_of(memory: Memory, phase: Array, past: Tokens | tuple[()]) -> InnerState:
    """The memory with its phase and its past."""
    base, weights, momentum = memory
    return InnerState(base, weights, momentum, phase, past)


def select(condition: Array, x: Array, y: Array) -> Array:
    """`where` by row: condition [B], arrays [B, i, o] or [1, i, o]."""
    return jnp.where(condition[:, None, None], x, y)


def scale(factor: Array, x: Array) -> Array:
    """Rows [B, i, o] times factors [B]."""
    return factor[:, None, None] * x
