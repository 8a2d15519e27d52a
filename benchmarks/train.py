"""Training speed of mdx against PyTorch, and against the machine's matmul rate.

  python benchmarks/train.py --shapes=small_8,small_32,large --seconds=120

Both sides run the same pre-norm transformer (RMSNorm, RoPE, SwiGLU, tied head), the same
masked-diffusion loss (one lattice of times for the batch, Bernoulli masks, weight 1 / t,
head and cross-entropy at the masked positions only), AdamW and clipping by the global
norm, in float32 on the CPU. PyTorch uses fused AdamW and scaled-dot-product attention,
once eagerly and once through torch.compile. Every side is a process of its own with its
framework's defaults (mdx: with the settings that `mdx.main` makes); short blocks of steps
take turns, the others asleep, and what counts is the median of tokens per CPU-second
over the blocks, so that a busy machine slows all sides alike. Needs torch (extra
`parity`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

import numpy as np

# pylint: disable=g-import-not-at-top

SHAPES = {
    "small_8": dict(width=256, layers=4, heads=4, length=128, batch=8, vocab=256),
    "small_32": dict(width=256, layers=4, heads=4, length=128, batch=32, vocab=256),
    "large": dict(width=512, layers=8, heads=8, length=256, batch=8, vocab=32768),
}


def _hidden(width: int) -> int:
  return -(-8 * width // 3 // 64) * 64


def _spec(shape: dict[str, int]):
  """The transformer of a shape, as mdx builds it."""
  from mdx.networks import transformer
  return transformer.Transformer(
      num_layers=shape["layers"], width=shape["width"], num_heads=shape["heads"],
      mlp_width=_hidden(shape["width"]), vocab_size=shape["vocab"] + 1, vocab_multiple=1,
      max_length=shape["length"], scan_layers=False)


def flops_per_step(shape: dict[str, int]) -> float:
  """Model FLOPs of a step: 6 a parameter and token, head on half of the tokens, attention."""
  tokens, width = shape["batch"] * shape["length"], shape["width"]
  body = _spec(shape).matmul_params()
  attention = shape["layers"] * 2 * shape["length"] * width
  return 6.0 * tokens * (body + attention + 0.5 * width * shape["vocab"])


def mdx_side(shape: dict[str, int]):
  """Returns a function that runs n steps of mdx."""
  from mdx.utils import host
  host.tune_cpu()
  import jax
  import jax.numpy as jnp

  from mdx.objectives import diffusion
  from mdx.train import optimizer as optimizer_lib
  from mdx.train import state as state_lib
  from mdx.train import step as step_lib
  from mdx.utils import rng
  objective = diffusion.MaskedDiffusion(network=_spec(shape).network(), mask_id=shape["vocab"])
  optimizer = optimizer_lib.Optimizer(learning_rate=1e-3, schedule="constant", warmup_steps=0,
                                      weight_decay=0.01)
  chain = optimizer.build(1000)
  state = jax.jit(state_lib.init_fn(objective, chain, keep_ema=False))(rng.root(0))
  step = jax.jit(step_lib.make_step(objective, chain, seed=0, rate=optimizer.rate(1000)),
                 donate_argnums=0)
  tokens = np.random.default_rng(0).integers(
      0, shape["vocab"], (shape["batch"], shape["length"]), np.int32)
  batch = {"tokens": jnp.asarray(tokens), "example_index": jnp.arange(shape["batch"])}

  def run(num_steps):
    nonlocal state
    for _ in range(num_steps):
      state, metrics = step(state, batch, {})
    return float(metrics["loss"][0])

  return run


def torch_side(shape: dict[str, int], *, compiled: bool):
  """Returns a function that runs n steps of the same training in PyTorch."""
  import torch
  from torch import nn
  from torch.nn import functional as F
  torch.manual_seed(0)
  width, heads, length = shape["width"], shape["heads"], shape["length"]
  head_dim = width // heads
  frequency = 10000.0 ** (-torch.arange(0, head_dim, 2) / head_dim)
  angle = torch.arange(length)[:, None] * frequency
  cos, sin = angle.cos(), angle.sin()

  def rotate(x):
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

  class Block(nn.Module):
    """Pre-norm attention and gated MLP."""

    def __init__(self):
      super().__init__()
      self.norms = nn.ModuleList([nn.RMSNorm(width, eps=1e-5) for _ in range(2)])
      self.qkv = nn.Linear(width, 3 * width, bias=False)
      self.out = nn.Linear(width, width, bias=False)
      self.up_gate = nn.Linear(width, 2 * _hidden(width), bias=False)
      self.down = nn.Linear(_hidden(width), width, bias=False)

    def forward(self, x):
      query, key, value = (
          y.unflatten(-1, (heads, head_dim)).transpose(1, 2)
          for y in self.qkv(self.norms[0](x)).chunk(3, -1))
      mixed = F.scaled_dot_product_attention(rotate(query), rotate(key), value)
      x = x + self.out(mixed.transpose(1, 2).flatten(2))
      up, gate = self.up_gate(self.norms[1](x)).chunk(2, -1)
      return x + self.down(F.silu(gate) * up)

  class Model(nn.Module):
    """Loss at the positions given, as a sum."""

    def __init__(self):
      super().__init__()
      self.embed = nn.Embedding(shape["vocab"] + 1, width)
      nn.init.normal_(self.embed.weight, std=0.02)
      self.blocks = nn.ModuleList([Block() for _ in range(shape["layers"])])
      self.norm = nn.RMSNorm(width, eps=1e-5)

    def forward(self, noisy, where, targets, weights):
      x = self.embed(noisy)
      for block in self.blocks:
        x = block(x)
      logits = F.linear(self.norm(x).flatten(0, 1)[where], self.embed.weight[:-1])
      return (F.cross_entropy(logits, targets, reduction="none") * weights).sum()

  model = Model()
  loss_fn = torch.compile(model, dynamic=None) if compiled else model
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98),
                                weight_decay=0.01, fused=True)
  tokens = torch.from_numpy(np.random.default_rng(0).integers(
      0, shape["vocab"], (shape["batch"], length), np.int64))

  def run(num_steps):
    for _ in range(num_steps):
      t = 1 - (torch.rand(()) + torch.arange(shape["batch"]) / shape["batch"]) % 1
      is_masked = torch.rand(tokens.shape) < t[:, None]
      noisy = torch.where(is_masked, shape["vocab"], tokens)
      where = is_masked.flatten().nonzero()[:, 0]
      weights = (1 / t)[:, None].expand(tokens.shape).flatten()[where] / tokens.numel()
      loss = loss_fn(noisy, where, tokens.flatten()[where], weights)
      optimizer.zero_grad(set_to_none=True)
      loss.backward()
      nn.utils.clip_grad_norm_(model.parameters(), 1.0)
      optimizer.step()
    return loss.item()

  return run


def matmul_side(library: str, size: int = 2048):
  """Returns a function that runs n square float32 matmuls."""
  a = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
  if library == "torch":
    import torch
    a = torch.from_numpy(a)
    return lambda num_steps: [a @ a for _ in range(num_steps)]
  import jax
  import jax.numpy as jnp
  product, a = jax.jit(jnp.matmul), jnp.asarray(a)
  return lambda num_steps: [jax.block_until_ready(product(a, a)) for _ in range(num_steps)]


SIDES = {"mdx": mdx_side, "eager": lambda shape: torch_side(shape, compiled=False),
         "compile": lambda shape: torch_side(shape, compiled=True),
         "matmul_jax": lambda shape: matmul_side("jax"),
         "matmul_torch": lambda shape: matmul_side("torch")}
_MATMUL_FLOPS = 2.0 * 2048 ** 3


def serve(side: str, shape: str) -> None:
  """Runs blocks of steps on request: a number in, CPU-seconds out, a line each."""
  run = SIDES[side](SHAPES[shape])
  for _ in range(4):  # compilation, also of torch's dynamic shapes
    run(2)
  print("ready", flush=True)
  for line in sys.stdin:
    began = time.process_time()
    run(int(line))
    print(time.process_time() - began, flush=True)


class Worker:
  """One side in a process of its own."""

  def __init__(self, side: str, shape: str):
    self._process = subprocess.Popen(
        [sys.executable, __file__, "--serve", side, "--shapes", shape], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if self._process.stdout.readline().strip() != "ready":
      raise SystemExit(f"{side} failed to start: {sys.executable} {__file__} --serve {side} "
                       f"--shapes {shape} shows why.")
    self.block = max(1, round(1.0 / max(self.seconds(2) / 2, 1e-4)))

  def seconds(self, num_steps: int) -> float:
    """CPU-seconds of some steps."""
    self._process.stdin.write(f"{num_steps}\n")
    self._process.stdin.flush()
    return float(self._process.stdout.readline())

  def stop(self) -> None:
    """Ends the process."""
    self._process.stdin.close()
    self._process.wait()


def compare(shape: str, sides: list[str], seconds: float) -> dict[str, float]:
  """Steps per CPU-second of each side, blocks of steps taking turns."""
  workers = {side: Worker(side, shape) for side in sides}
  rates = {side: [] for side in sides}
  end = time.monotonic() + seconds
  while time.monotonic() < end or len(rates[sides[0]]) < 5:
    for side, worker in workers.items():
      rates[side].append(worker.block / worker.seconds(worker.block))
  for worker in workers.values():
    worker.stop()
  return {side: statistics.median(values) for side, values in rates.items()}


def main() -> None:
  """Prints one JSON object a shape."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
  parser.add_argument("--shapes", default=",".join(SHAPES))
  parser.add_argument("--seconds", type=float, default=60, help="measured, for each shape")
  parser.add_argument("--peers", default="eager,compile,matmul_jax,matmul_torch")
  parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.serve:
    serve(args.serve, args.shapes)
    return
  for name in args.shapes.split(","):
    rates = compare(name, ["mdx", *filter(None, args.peers.split(","))], args.seconds)
    tokens = SHAPES[name]["batch"] * SHAPES[name]["length"]
    row = {"shape": name}
    for side in ("mdx", "eager", "compile"):
      if side in rates:
        row[f"{side}_tokens_per_cpu_second"] = round(rates[side] * tokens, 1)
    row |= {f"ratio_to_{side}": round(rates["mdx"] / rates[side], 3)
            for side in ("eager", "compile") if side in rates}
    matmuls = {k: v * _MATMUL_FLOPS for k, v in rates.items() if k.startswith("matmul")}
    if matmuls:
      row |= {f"{k}_gflops_per_cpu_second": round(v / 1e9, 1) for k, v in matmuls.items()}
      row["mdx_fraction_of_matmul"] = round(
          rates["mdx"] * flops_per_step(SHAPES[name]) / max(matmuls.values()), 3)
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
  main()
