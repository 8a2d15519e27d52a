r"""Training speed of mdx against PyTorch, and against the machine's matmul rate.

  python benchmarks/train.py --shapes=small_8,small_32,large --seconds=120

Both sides run the same pre-norm transformer (RMSNorm, RoPE, SwiGLU, tied head), the same
masked-diffusion loss (one lattice of times for the batch, Bernoulli masks, weight 1 / t,
head and cross-entropy at the masked positions only), AdamW and clipping by the global
norm, in float32 on the CPU. PyTorch uses fused AdamW and scaled-dot-product attention,
once eagerly and once through torch.compile. Every side is a process of its own on the same core
with one thread, so that no thread spins for another: with PyTorch's default of a spinning thread a
core, CPU-seconds measure the load of the machine. Short blocks of steps take turns, the others
asleep, and what counts is the median of tokens per CPU-second over the blocks; the ratio of the
best blocks stands beside it. --cores=2 gives every side as many cores and threads, those of PyTorch
waiting passively. Needs torch (extra `parity`).

  python benchmarks/train.py --shapes=finetune --peers=mdx_sorted,bert,bert_padded

is a fine-tuning step of a BERT of four layers on 32 rows of varied length (median 22, at most 128):
mdx cuts batches to buckets (data.buckets) of 32, 64, 96 and 128 tokens, also of rows sorted in
windows of 12 batches (data.bucket_window); `transformers` pads to the longest of a batch, or to
128. Rates count all 128 tokens of a row.

  python benchmarks/train.py --shapes=electra --peers=electra_torch,electra_torch_masked

is an ELECTRA step of four layers of ELECTRA-Small against the usual implementation on
`transformers`: ElectraForMaskedLM as generator and ElectraForPreTraining as discriminator that
share embeddings, no dropout, samples by Gumbel noise at masked positions, fused AdamW. The usual
implementation takes the generator's logits at all positions; electra_torch_masked at the masked
ones, as mdx does.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np

from mdx.utils import malloc

# pylint: disable=g-import-not-at-top

SHAPES = {
    "small_8": dict(width=256, layers=4, heads=4, length=128, batch=8, vocab=256),
    "small_32": dict(width=256, layers=4, heads=4, length=128, batch=32, vocab=256),
    "large": dict(width=512, layers=8, heads=8, length=256, batch=8, vocab=32768),
    "electra": dict(width=256, layers=4, heads=4, length=128, batch=8, vocab=30521),
    "finetune": dict(width=256, layers=4, heads=4, length=128, batch=32, vocab=30521),
}
_EMBED = 128  # width of the embeddings of ELECTRA-Small
_BUCKETS = (32, 64, 96)
_BATCHES = 12  # of varied rows, all of which count as one step
_SHARE = 4  # its generator is narrower by so much


def _hidden(width: int) -> int:
  return -(-8 * width // 3 // 64) * 64


def _spec(shape: dict[str, int]):
  """The transformer of a shape, as mdx builds it."""
  from mdx.networks import transformer
  if shape == SHAPES["finetune"]:
    return transformer.Transformer(
        num_layers=shape["layers"], width=shape["width"], num_heads=shape["heads"],
        mlp_width=4 * shape["width"], mlp="gelu_erf", norm="layer", post_norm=True, embed_norm=True,
        token_types=2, position="learned", max_length=512, use_bias=True, head="none",
        vocab_size=shape["vocab"] + 1, vocab_multiple=1, scan_layers=False)
  if shape == SHAPES["electra"]:
    return transformer.Transformer(
        num_layers=shape["layers"], width=shape["width"], num_heads=shape["heads"],
        mlp_width=4 * shape["width"], mlp="gelu_erf", norm="layer", post_norm=True, embed_norm=True,
        embed_width=_EMBED, token_types=2, position="learned", max_length=512, use_bias=True,
        head="rtd", vocab_size=shape["vocab"] + 1, vocab_multiple=1, scan_layers=False)
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


def varied_rows(shape: dict[str, int], is_sorted: bool = False):
  """Batches of rows of varied length, ids int32 [B, L] and lengths int [B]; or of sorted rows."""
  draw = np.random.default_rng(0)
  size = (_BATCHES, shape["batch"])
  lengths = np.clip(np.exp(draw.normal(np.log(22), 0.6, size)).astype(int), 4, shape["length"])
  if is_sorted:
    lengths = np.sort(lengths, axis=None).reshape(size)
  for row in lengths:
    yield draw.integers(5, shape["vocab"], (shape["batch"], shape["length"]), np.int32), row


def mdx_finetune_side(shape: dict[str, int], *, is_sorted: bool = False):
  """Returns a function that runs n passes of mdx over labelled rows in buckets."""
  malloc.tune_cpu()
  import jax

  from mdx.data import buckets
  from mdx.data import pack
  from mdx.data.layouts import labelled
  from mdx.objectives.labels import finetune
  from mdx.train import optimizer as optimizer_lib
  from mdx.train import state as state_lib
  from mdx.train import step as step_lib
  from mdx.utils import rng
  objective = finetune.Classification(network=_spec(shape).network(), labels=("a", "b"),
                                      mask_id=shape["vocab"])
  optimizer = optimizer_lib.Optimizer(learning_rate=1e-4, schedule="constant", warmup_steps=0,
                                      weight_decay=0.01)
  chain = optimizer.build(1000, objective.parts())
  state = jax.jit(state_lib.init_fn(objective, chain, keep_ema=False))(rng.root(0))
  step = jax.jit(step_lib.make_step(objective, chain, seed=0, rate=optimizer.rate(1000)),
                 donate_argnums=0)
  form = pack.Form(fields={name: field._replace(pad=0) for name, field
                           in labelled.Labelled.fields.items()}, length=shape["length"])
  batches = []
  for tokens, lengths in varied_rows(shape, is_sorted):
    real = np.arange(shape["length"])[None] < lengths[:, None]
    rows = {"tokens": tokens * real, "segment_ids": real.astype(np.int32),
            "positions": np.arange(shape["length"], dtype=np.int32)[None] * real,
            "loss_mask": np.arange(shape["length"])[None] == np.zeros((shape["batch"], 1)),
            "labels": np.zeros_like(real, np.float32), "token_types": np.zeros_like(tokens)}
    rows["labels"][:, 0] = tokens[:, 0] % 2
    batches.append(buckets.cut(rows, form, _BUCKETS) | {
        "example_index": np.arange(shape["batch"], dtype=np.int32)})

  def run(num_passes):
    nonlocal state
    for batch in batches * num_passes:
      state, metrics = step(state, batch, {})
    return float(metrics["loss"][0])

  return run


def bert_side(shape: dict[str, int], *, padded: bool = False):
  """Returns a function that runs n passes of the same fine-tuning on `transformers`."""
  import torch
  import transformers
  torch.manual_seed(0)
  model = transformers.BertForSequenceClassification(transformers.BertConfig(
      vocab_size=shape["vocab"] + 1, hidden_size=shape["width"], num_hidden_layers=shape["layers"],
      num_attention_heads=shape["heads"], intermediate_size=4 * shape["width"], num_labels=2,
      hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.98), weight_decay=0.01,
                                fused=True)
  batches = []
  for tokens, lengths in varied_rows(shape):
    size = shape["length"] if padded else lengths.max()
    real = torch.from_numpy((np.arange(size)[None] < lengths[:, None]).astype(np.int64))
    ids = torch.from_numpy(tokens[:, :size].astype(np.int64))
    batches.append(dict(input_ids=ids * real, attention_mask=real, labels=ids[:, 0] % 2))

  def run(num_passes):
    for batch in batches * num_passes:
      loss = model(**batch).loss
      optimizer.zero_grad(set_to_none=True)
      loss.backward()
      torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
      optimizer.step()
    return loss.item()

  return run


def mdx_side(shape: dict[str, int]):
  """Returns a function that runs n steps of mdx."""
  malloc.tune_cpu()
  import jax
  import jax.numpy as jnp

  from mdx.objectives.diffusion import masked as diffusion
  from mdx.objectives.tokens import electra
  from mdx.train import optimizer as optimizer_lib
  from mdx.train import state as state_lib
  from mdx.train import step as step_lib
  from mdx.utils import rng
  network = dict(network=_spec(shape).network(), mask_id=shape["vocab"])
  objective = (electra.Electra(mask_draw="exact_count", generator_width=1 / _SHARE, **network)
               if shape == SHAPES["electra"] else diffusion.MaskedDiffusion(**network))
  optimizer = optimizer_lib.Optimizer(learning_rate=1e-3, schedule="constant", warmup_steps=0,
                                      weight_decay=0.01)
  chain = optimizer.build(1000, objective.parts())
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


def electra_torch_side(shape: dict[str, int], *, masked_only: bool = False):
  """Returns a function that runs n steps of ELECTRA on `transformers`."""
  import torch
  import transformers
  from torch import nn
  from torch.nn import functional as F
  torch.manual_seed(0)
  vocab, mask_id, length = shape["vocab"] + 1, shape["vocab"], shape["length"]

  def config(width, heads):
    return transformers.ElectraConfig(
        vocab_size=vocab, embedding_size=_EMBED, hidden_size=width, num_attention_heads=heads,
        num_hidden_layers=shape["layers"], intermediate_size=4 * width, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, max_position_embeddings=512)

  generator = transformers.ElectraForMaskedLM(
      config(shape["width"] // _SHARE, shape["heads"] // _SHARE))
  model = transformers.ElectraForPreTraining(config(shape["width"], shape["heads"]))
  generator.electra.embeddings = model.electra.embeddings
  generator.generator_lm_head.weight = model.electra.embeddings.word_embeddings.weight
  params = list({id(p): p for m in (generator, model) for p in m.parameters()}.values())
  optimizer = torch.optim.AdamW(params, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
  tokens = torch.from_numpy(np.random.default_rng(0).integers(
      0, mask_id, (shape["batch"], length), np.int64))

  def run(num_steps):
    for _ in range(num_steps):
      order = torch.rand(tokens.shape).argsort(dim=1).argsort(dim=1)
      selected = order < round(0.15 * length)
      masked = torch.where(selected & (torch.rand(tokens.shape) < 0.85), mask_id, tokens)
      if masked_only:
        hidden = generator.electra(input_ids=masked).last_hidden_state[selected]
        logits = generator.generator_lm_head(generator.generator_predictions(hidden))
      else:
        logits = generator(input_ids=masked).logits[selected]
      loss = F.cross_entropy(logits, tokens[selected])
      with torch.no_grad():
        noise = -torch.log(torch.empty_like(logits).exponential_())
        sample = (logits + noise).argmax(dim=-1)
        noisy = tokens.clone()
        noisy[selected] = sample
        is_replaced = (noisy != tokens).float()
      scores = model(input_ids=noisy).logits
      loss = loss + 50.0 * F.binary_cross_entropy_with_logits(scores, is_replaced)
      optimizer.zero_grad(set_to_none=True)
      loss.backward()
      nn.utils.clip_grad_norm_(params, 1.0)
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


SIDES = {"mdx": mdx_side, "mdx_buckets": mdx_finetune_side,
         "mdx_sorted": lambda shape: mdx_finetune_side(shape, is_sorted=True),
         "eager": lambda shape: torch_side(shape, compiled=False),
         "compile": lambda shape: torch_side(shape, compiled=True),
         "electra_torch": electra_torch_side,
         "electra_torch_masked": lambda shape: electra_torch_side(shape, masked_only=True),
         "bert": bert_side, "bert_padded": lambda shape: bert_side(shape, padded=True),
         "matmul_jax": lambda shape: matmul_side("jax"),
         "matmul_torch": lambda shape: matmul_side("torch")}
_PEERS = ("eager", "compile", "electra_torch", "electra_torch_masked", "mdx_sorted", "bert",
          "bert_padded")
_MATMUL_FLOPS = 2.0 * 2048 ** 3


def serve(side: str, shape: str) -> None:
  """Runs blocks of steps on request: a number in, CPU-seconds out, a line each."""
  run = SIDES[side](SHAPES[shape])
  for _ in range(1 if shape == "finetune" else 4):  # compilation, also of torch's dynamic shapes
    run(2)
  print("ready", flush=True)
  for line in sys.stdin:
    began = time.process_time()
    run(int(line))
    print(time.process_time() - began, flush=True)


class Worker:
  """One side in a process of its own."""

  def __init__(self, side: str, shape: str, cores: int):
    free = sorted(os.sched_getaffinity(0))[:cores]
    self._process = subprocess.Popen(
        [sys.executable, __file__, "--serve", side, "--shapes", shape], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": str(cores), "OMP_WAIT_POLICY": "PASSIVE"},
        preexec_fn=lambda: os.sched_setaffinity(0, free))
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


def compare(shape: str, sides: list[str], seconds: float, cores: int) -> dict[str, list[float]]:
  """Steps per CPU-second of each side in blocks of steps that take turns."""
  workers = {side: Worker(side, shape, cores) for side in sides}
  rates = {side: [] for side in sides}
  end = time.monotonic() + seconds
  while time.monotonic() < end or len(rates[sides[0]]) < 5:
    for side, worker in workers.items():
      rates[side].append(worker.block / worker.seconds(worker.block))
  for worker in workers.values():
    worker.stop()
  return rates


def main() -> None:
  """Prints one JSON object a shape."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
  parser.add_argument("--shapes", default=",".join(SHAPES))
  parser.add_argument("--seconds", type=float, default=60, help="measured, for each shape")
  parser.add_argument("--peers", default="eager,compile,matmul_jax,matmul_torch")
  parser.add_argument("--cores", type=int, default=1, help="of every side, and threads of PyTorch")
  parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.serve:
    serve(args.serve, args.shapes)
    return
  for name in args.shapes.split(","):
    own = "mdx_buckets" if name == "finetune" else "mdx"
    blocks = compare(name, [own, *filter(None, args.peers.split(","))], args.seconds, args.cores)
    rates = {side: statistics.median(values) for side, values in blocks.items()}
    tokens = SHAPES[name]["batch"] * SHAPES[name]["length"] * (
        _BATCHES if name == "finetune" else 1)
    row = {"shape": name}
    for side in (own, *_PEERS):
      if side in rates:
        row[f"{side}_tokens_per_cpu_second"] = round(rates[side] * tokens, 1)
    row |= {f"ratio_to_{side}": round(rates[own] / rates[side], 3)
            for side in _PEERS if side in rates}
    row |= {f"ratio_of_best_to_{side}": round(max(blocks[own]) / max(blocks[side]), 3)
            for side in _PEERS if side in rates}
    matmuls = {k: v * _MATMUL_FLOPS for k, v in rates.items() if k.startswith("matmul")}
    if matmuls and name != "finetune":
      row |= {f"{k}_gflops_per_cpu_second": round(v / 1e9, 1) for k, v in matmuls.items()}
      row["mdx_fraction_of_matmul"] = round(
          rates["mdx"] * flops_per_step(SHAPES[name]) / max(matmuls.values()), 3)
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
  main()
