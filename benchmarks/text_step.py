"""How fast does a language model train and write, against the same model in PyTorch?

Both make the same updates on the same batches of tokens: nanoGPT's setting for one CPU (4 layers, 4
heads, width 128, 64 tokens, batches of 12, AdamW, gradients clipped) and one with an LSTM. ganjax
does many steps in one scan, as its loop does; PyTorch is compiled, and its best of compiled and
eager counts. `generate` writes 256 tokens after a prompt of one, against PyTorch with a cache of
its own, and against ganjax without one.

    python benchmarks/text_step.py
    python benchmarks/text_step.py --cases gpt --quick
"""

import functools

import common
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch import nn
from torch.nn import functional as F

from ganjax import generation
from ganjax.autoregressive import autoregressive
from ganjax.networks.gpt import GPT
from ganjax.networks.recurrent import LSTM

CASES = ("gpt", "lstm", "generate", "generate_batch", "cache")
VOCAB, LENGTH, BATCH, STEPS = 65, 64, 12, 50
WRITTEN = 256


def main() -> None:
    args = common.arguments(__doc__, CASES)
    results = common.Results("text_step", args.out)
    for case in args.cases:
        if case in ("gpt", "lstm"):
            train(results, case, args.quick)
        elif case == "cache":
            cache(results, args.quick)
        else:
            write(results, case, 1 if case == "generate" else 16, args.quick)


def train(results: common.Results, case: str, quick: bool) -> None:
    network = {"gpt": GPT(), "lstm": LSTM()}[case].build((LENGTH, VOCAB), 0, jnp.float32)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(1e-3, b1=0.9, b2=0.99, weight_decay=0.1)
    )
    algorithm = autoregressive(
        network["generator"], length=1, start_token=0, windows=True, optimizer=optimizer
    )
    steps = 10 if quick else STEPS
    tokens = np.random.default_rng(0).integers(0, VOCAB, (steps, BATCH, LENGTH + 1))
    batches = {"tokens": jnp.asarray(tokens, jnp.uint8)}
    holder = [algorithm.init(jax.random.key(0))]
    chunk = jax.jit(
        lambda state, batches: jax.lax.scan(algorithm.train_step, state, batches), donate_argnums=0
    )

    def ours() -> float:
        holder[0], metrics = chunk(holder[0], batches)
        jax.block_until_ready(metrics)
        return steps * BATCH * LENGTH

    contestants = {"ganjax": ours}
    for compiled in (False, True):
        contestants[f"torch {compiled}"] = _torch_step(case, tokens, compiled)
    rates = common.in_turns(contestants, quick=quick)
    best = max((False, True), key=lambda c: np.median(rates[f"torch {c}"]))
    peer = f"PyTorch, {'compiled' if best else 'eager'}"
    results.add(case, rates["ganjax"], rates[f"torch {best}"], unit="tokens/s", peer=peer)


def write(results: common.Results, case: str, batch: int, quick: bool) -> None:
    network, variables = _gpt(WRITTEN)

    def ours() -> float:
        prompts = np.zeros((batch, 1), np.int32)
        tokens = generation.generate(
            network, variables, prompts, WRITTEN - 1, key=jax.random.key(0)
        )
        jax.block_until_ready(tokens)
        return batch * WRITTEN

    contestants = {"ganjax": ours, "torch": _torch_generate(batch)}
    rates = common.in_turns(contestants, quick=quick)
    results.add(case, rates["ganjax"], rates["torch"], unit="tokens/s", peer="PyTorch, cache")


def cache(results: common.Results, quick: bool) -> None:
    """With a cache against reading everything again for each token."""
    network, variables = _gpt(WRITTEN)

    @jax.jit
    def again(key):
        def step(position, tokens):
            logits = network.apply(variables, tokens)[:, position - 1]
            token = jax.random.categorical(jax.random.fold_in(key, position), logits)
            return tokens.at[:, position].set(token)

        return jax.lax.fori_loop(1, WRITTEN, step, jnp.zeros((1, WRITTEN), jnp.int32))

    def without() -> float:
        jax.block_until_ready(again(jax.random.key(0)))
        return WRITTEN

    def with_cache() -> float:
        tokens = generation.generate(
            network, variables, np.zeros((1, 1), np.int32), WRITTEN - 1, key=jax.random.key(0)
        )
        jax.block_until_ready(tokens)
        return WRITTEN

    rates = common.in_turns({"cache": with_cache, "without": without}, quick=quick)
    results.add("cache", rates["cache"], rates["without"], unit="tokens/s", peer="without a cache")


def _gpt(context: int):
    network = GPT(context=context).build((context, VOCAB), 0, jnp.float32)["generator"]
    variables = network.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    return network, variables


def _torch_step(case: str, tokens: np.ndarray, compiled: bool):
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = {"gpt": _torch_gpt, "lstm": _torch_lstm}[case](LENGTH).to(device)
    fused = {"fused": True} if device == "cuda" else {}
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1, **fused
    )
    data = torch.from_numpy(tokens).to(device)

    def loss_of(batch):
        logits = model(batch[:, :-1])
        return F.cross_entropy(logits.reshape(-1, VOCAB), batch[:, 1:].reshape(-1))

    if compiled:
        loss_of = torch.compile(loss_of)

    def step() -> float:
        for batch in data:
            loss = loss_of(batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        loss.item()
        return len(tokens) * BATCH * LENGTH

    return step


def _torch_generate(batch: int):
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = _torch_gpt(WRITTEN).to(device).eval()

    @torch.inference_mode()
    def step() -> float:
        token = torch.zeros((batch, 1), dtype=torch.long, device=device)
        caches = model.start(batch, WRITTEN, device)
        for position in range(WRITTEN - 1):
            logits = model.extend(token, caches, position)
            token = torch.multinomial(torch.softmax(logits[:, -1], dim=-1), 1)
        token.cpu()
        return batch * WRITTEN

    return step


@functools.cache
def _torch_classes():
    width, heads, depth = 128, 4, 4

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1 = nn.LayerNorm(width, bias=False)
            self.norm2 = nn.LayerNorm(width, bias=False)
            self.inputs = nn.Linear(width, 3 * width, bias=False)
            self.output = nn.Linear(width, width, bias=False)
            self.hidden = nn.Linear(width, 4 * width, bias=False)
            self.back = nn.Linear(4 * width, width, bias=False)

        def forward(self, x, cache=None, position=0):
            batch, length, _ = x.shape
            mixed = self.inputs(self.norm1(x)).view(batch, length, 3, heads, -1)
            q, k, v = mixed.permute(2, 0, 3, 1, 4)
            if cache is not None:
                cache[0][:, :, position : position + 1] = k
                cache[1][:, :, position : position + 1] = v
                k, v = (a[:, :, : position + 1] for a in cache)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=cache is None)
            x = x + self.output(y.transpose(1, 2).reshape(batch, length, width))
            return x + self.back(F.gelu(self.hidden(self.norm2(x)), approximate="tanh"))

    class Transformer(nn.Module):
        def __init__(self, context):
            super().__init__()
            self.tokens = nn.Embedding(VOCAB, width)
            self.positions = nn.Embedding(context, width)
            self.blocks = nn.ModuleList(Block() for _ in range(depth))
            self.norm = nn.LayerNorm(width, bias=False)

        def forward(self, tokens):
            x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
            for block in self.blocks:
                x = block(x)
            return self.norm(x) @ self.tokens.weight.T

        def start(self, batch, length, device):
            shape = (2, batch, heads, length, width // heads)
            return [torch.zeros(shape, device=device) for _ in self.blocks]

        def extend(self, tokens, caches, position):
            x = self.tokens(tokens) + self.positions.weight[position : position + 1]
            for block, cache in zip(self.blocks, caches, strict=True):
                x = block(x, cache, position)
            return self.norm(x) @ self.tokens.weight.T

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(VOCAB, 256)
            self.lstm = nn.LSTM(256, 256, batch_first=True)
            self.output = nn.Linear(256, VOCAB)

        def forward(self, tokens):
            return self.output(self.lstm(self.tokens(tokens))[0])

    return Transformer, Recurrent


def _torch_gpt(context: int):
    return _torch_classes()[0](context)


def _torch_lstm(context: int):
    return _torch_classes()[1]()


if __name__ == "__main__":
    main()
