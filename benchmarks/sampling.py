"""Decoding speed of mdx against the obvious PyTorch loop, with the same weights and tokens.

  python benchmarks/sampling.py --shapes=batch_1,batch_8 --caches=none,prefix,dual --seconds=120

Both sides run the transformer of `train.py` in float32 on the CPU and decode greedily in
semi-autoregressive blocks, an even share of the surest places a step. PyTorch's loop
without a cache runs the whole sequence and all its logits every step. With a cache it is
that of arXiv:2505.22618: a block begins with a pass over the whole sequence, whose logits
serve its first step and whose keys and values are kept in buffers allocated once; its
other steps run the block (dual) or all from the block on (prefix) against them, and the
head on what is run. It uses `inference_mode` and scaled-dot-product attention.

Every side is a process of its own, mdx with the settings that `mdx.main` makes, PyTorch
on one thread (`--threads`), which is in its favour: two spin while they wait for each
other, and that counts. Decodes take turns, the others asleep, and what counts is the
median of decoded tokens per CPU-second. The tokens of both sides are compared: a row
differs where float32 rounding decides a near tie. Needs torch (extra `parity`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

import numpy as np

import train

from mdx.utils import malloc

# pylint: disable=g-import-not-at-top

_MODEL = dict(width=512, layers=8, heads=8, vocab=32768, prompt=64, length=128, block=32)
SHAPES = {"batch_1": _MODEL | dict(batch=1, steps=64), "batch_8": _MODEL | dict(batch=8, steps=32)}


def weights(shape: dict[str, int]) -> dict[str, np.ndarray]:
  """Random weights, float32, by the names of mdx's parameters; layers are stacked.

  Larger than at initialisation, so that logits are spread and places differ.
  """
  width, layers, hidden = shape["width"], shape["layers"], train._hidden(shape["width"])
  rng = np.random.default_rng(0)
  normal = lambda std, *size: rng.normal(size=size, scale=std).astype(np.float32)
  tensors = {"embed/embedding": normal(0.2, shape["vocab"] + 1, width)}
  for name in ("q", "k", "v", "o"):
    tensors[f"layers/attention/{name}/kernel"] = normal(2 * width ** -0.5, layers, width, width)
  for name in ("up", "gate"):
    tensors[f"layers/mlp/{name}/kernel"] = normal(width ** -0.5, layers, width, hidden)
  tensors["layers/mlp/down/kernel"] = normal(hidden ** -0.5, layers, hidden, width)
  for name in ("layers/attention_norm", "layers/mlp_norm"):
    tensors[f"{name}/scale"] = np.ones((layers, width), np.float32)
  return tensors | {"final_norm/scale": np.ones(width, np.float32)}


def canvas(shape: dict[str, int]) -> np.ndarray:
  """Random prompts, and masks behind them, int32 [B, S]."""
  prompts = np.random.default_rng(1).integers(
      0, shape["vocab"], (shape["batch"], shape["prompt"]), np.int32)
  masks = shape["length"] - shape["prompt"]
  return np.pad(prompts, ((0, 0), (0, masks)), constant_values=shape["vocab"])


def mdx_side(shape: dict[str, int], cache: str):
  """Returns a function that decodes once: () -> (tokens [B, S], network calls of a row)."""
  malloc.tune_cpu()
  import jax
  import jax.numpy as jnp

  from mdx import samplers
  from mdx.objectives.diffusion import masked as diffusion
  from mdx.objectives import reading
  from mdx.samplers import loop
  from mdx.utils import rng
  spec = train._spec(shape)
  objective = diffusion.MaskedDiffusion(network=spec.network(), mask_id=shape["vocab"])
  sampler = samplers.build(
      dict(name="confidence", gen_length=shape["length"] - shape["prompt"], steps=shape["steps"],
           block_length=shape["block"], temperature=0.0, cache=cache),
      objective, mask_id=shape["vocab"], eos_id=-1)
  tensors = weights(shape)
  params = jax.tree_util.tree_map_with_path(
      lambda path, like: jnp.asarray(tensors["/".join(k.key for k in path)]).reshape(like.shape),
      jax.eval_shape(objective.network.init, rng.root(0)))

  @jax.jit
  def run(params, tokens):
    return loop.decode(reading.answerer(objective, {"model": params}), sampler,
                       tokens, key=rng.root(0), row_index=jnp.arange(len(tokens)),
                       start=shape["prompt"])

  tokens = jnp.asarray(canvas(shape))

  def decode():
    result = run(params, tokens)
    return np.asarray(result.tokens), int(result.nfe.max())

  return decode


def torch_side(shape: dict[str, int], cache: str):
  """Returns the same function of PyTorch."""
  import torch
  from torch import nn
  from torch.nn import functional as F
  width, heads, length, layers = (shape[k] for k in ("width", "heads", "length", "layers"))
  batch, block, mask_id = shape["batch"], shape["block"], shape["vocab"]
  head_dim = width // heads
  frequency = 10000.0 ** (-torch.arange(0, head_dim, 2) / head_dim)
  angle = torch.arange(length)[:, None] * frequency
  cos, sin = angle.cos(), angle.sin()
  tensors = {k: torch.from_numpy(v) for k, v in weights(shape).items()}
  memory = torch.zeros(layers, 2, batch, heads, length, head_dim)  # keys and values

  def matrix(name, layer):
    return nn.Parameter(tensors[f"layers/{name}/kernel"][layer].T.contiguous())

  def rotate(x, where):
    first, second = x.chunk(2, -1)
    c, s = cos[where], sin[where]
    return torch.cat([first * c - second * s, second * c + first * s], -1)

  class Block(nn.Module):
    """Pre-norm attention and gated MLP."""

    def __init__(self, layer):
      super().__init__()
      self.norms = nn.ModuleList([nn.RMSNorm(width, eps=1e-5) for _ in range(2)])
      self.qkv = nn.Parameter(torch.cat([matrix(f"attention/{k}", layer) for k in "qkv"]))
      self.out = matrix("attention/o", layer)
      self.up_gate = nn.Parameter(torch.cat([matrix(f"mlp/{k}", layer) for k in ("up", "gate")]))
      self.down = matrix("mlp/down", layer)

    def forward(self, x, where, memory):
      query, key, value = (y.unflatten(-1, (heads, head_dim)).transpose(1, 2)
                           for y in F.linear(self.norms[0](x), self.qkv).chunk(3, -1))
      query, key = rotate(query, where), rotate(key, where)
      if memory is not None:
        memory[0][:, :, where], memory[1][:, :, where] = key, value
        key, value = memory
      mixed = F.scaled_dot_product_attention(query, key, value)
      x = x + F.linear(mixed.transpose(1, 2).flatten(2), self.out)
      up, gate = F.linear(self.norms[1](x), self.up_gate).chunk(2, -1)
      return x + F.linear(F.silu(gate) * up, self.down)

  blocks = nn.ModuleList([Block(layer) for layer in range(layers)])
  norm, embedding = nn.RMSNorm(width, eps=1e-5), tensors["embed/embedding"]

  def logits(tokens, where):
    """Of the places `where` (a slice), run against the memory if there is a cache."""
    x = F.embedding(tokens[:, where], embedding)
    for layer, module in enumerate(blocks):
      x = module(x, where, None if cache == "none" else memory[layer])
    return F.linear(norm(x), embedding[:mask_id])

  def commit(tokens, scores, first, begin, count):
    """Writes the `count` surest tokens of the block at `begin`; `scores` begin at `first`."""
    best, proposed = scores.max(-1)
    confidence = (best - scores.logsumexp(-1)).exp()
    inside = slice(begin - first, begin - first + block)
    active = tokens[:, begin:begin + block]
    confidence = confidence[:, inside].masked_fill(active != mask_id, -torch.inf)
    chosen = confidence.topk(count, dim=-1).indices
    active.scatter_(1, chosen, proposed[:, inside].gather(1, chosen))

  @torch.inference_mode()
  def decode():
    tokens, nfe = torch.from_numpy(canvas(shape)).long(), 0
    steps = shape["steps"] * block // (length - shape["prompt"])
    for begin in range(shape["prompt"], length, block):
      for step in range(steps):
        where = slice(0, length)
        if cache != "none" and step:
          where = slice(begin, begin + block if cache == "dual" else length)
        count = block // steps + (step < block % steps)
        commit(tokens, logits(tokens, where), where.start, begin, count)
        nfe += 1
    return tokens.numpy(), nfe

  return decode


SIDES = {"mdx": mdx_side, "torch": torch_side}


def serve(side: str, shape: str, threads: int) -> None:
  """Decodes on request: a number in, CPU-seconds out, a line each, after the first result."""
  name, cache = side.split("_")
  if name == "torch" and threads:
    import torch
    torch.set_num_threads(threads)
  decode = SIDES[name](SHAPES[shape], cache)
  tokens, nfe = decode()
  print(json.dumps({"tokens": tokens.tolist(), "nfe": nfe}), flush=True)
  for line in sys.stdin:
    began = time.process_time()
    for _ in range(int(line)):
      decode()
    print(time.process_time() - began, flush=True)


class Worker(train.Worker):
  """One side in a process of its own, with what it decoded."""

  def __init__(self, side: str, shape: str, threads: int):  # pylint: disable=super-init-not-called
    command = [sys.executable, __file__, "--serve", side, "--shapes", shape,
               f"--threads={threads}"]
    self._process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    line = self._process.stdout.readline()
    if not line:
      raise SystemExit(f"{side} failed to start: {' '.join(command)} shows why.")
    answer = json.loads(line)
    self.tokens, self.nfe = np.array(answer["tokens"]), answer["nfe"]
    self.block = 1


def compare(shape: str, cache: str, threads: int, seconds: float) -> dict[str, float | int | str]:
  """One row of the table."""
  workers = {side: Worker(f"{side}_{cache}", shape, threads) for side in SIDES}
  used = {side: [] for side in SIDES}
  end = time.monotonic() + seconds
  while time.monotonic() < end or len(used["mdx"]) < 3:
    for side, worker in workers.items():
      used[side].append(worker.seconds(1))
  for worker in workers.values():
    worker.stop()
  fields = SHAPES[shape]
  number = fields["batch"] * (fields["length"] - fields["prompt"])
  median = {side: statistics.median(values) for side, values in used.items()}
  row = {"shape": shape, "cache": cache}
  for side, worker in workers.items():
    row |= {f"{side}_tokens_per_cpu_second": round(number / median[side], 2),
            f"{side}_nfe": worker.nfe}
  differing = np.any(workers["mdx"].tokens != workers["torch"].tokens, axis=1)
  return row | {"ratio": round(median["torch"] / median["mdx"], 3),
                "rows_that_differ": int(differing.sum()), "decodes": len(used["mdx"])}


def main() -> None:
  """Prints one JSON object a shape and cache."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
  parser.add_argument("--shapes", default="batch_1,batch_8")
  parser.add_argument("--caches", default="none,prefix,dual")
  parser.add_argument("--seconds", type=float, default=60, help="measured, for each row")
  parser.add_argument("--threads", type=int, default=1, help="of PyTorch; 0 = its default")
  parser.add_argument("--serve", help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.serve:
    serve(args.serve, args.shapes, args.threads)
    return
  for shape in args.shapes.split(","):
    for cache in args.caches.split(","):
      print(json.dumps(compare(shape, cache, args.threads, args.seconds)), flush=True)


if __name__ == "__main__":
  main()
