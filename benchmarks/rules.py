"""Decoding speed of every rule, with and without a cache, on one trained model.

  python benchmarks/rules.py --checkpoint=runs/block_diffusion --seconds=10

Every cell is a rule with one cache: `--rows` texts of `--length` tokens in blocks of `--block`,
as `mdx.load(...).sample` decodes them, after a first call that compiles. Printed are decoded tokens
per CPU-second (median of the calls within `--seconds`), network calls of a row and tokens a call.
Rules that choose their own number of steps run at their default fields, the others at a token a
step and at two; a call with a cache costs less than one without, so NFE alone is no cost. The rules
are told no speed by the loss of quality that a default may bring: configs/decoding.py draws that.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import mdx
from mdx import model as model_lib
from mdx import samplers
from mdx.networks import attention
from mdx.utils import malloc


def caches_of(model: model_lib.Model) -> tuple[str, ...]:
  """Names of the caches that the model can be decoded with."""
  reader = model.objective.reader()
  if isinstance(reader.attention, (attention.BlockCausal, attention.Causal)):
    return ("none", "block")
  return ("none", *reader.caches)


def measure(model: model_lib.Model, fields: dict, rows: int, seconds: float) -> dict[str, float]:
  """One cell: tokens per CPU-second, NFE of a row and tokens a network call."""
  decode = lambda seed: model.sample(num_samples=rows, batch_size=rows, seed=seed, **fields)
  found = decode(0)
  used, end, seed = [], time.monotonic() + seconds, 0
  while time.monotonic() < end or len(used) < 3:
    seed += 1
    began = time.process_time()
    decode(seed)
    used.append(time.process_time() - began)
  nfe = statistics.mean(row.nfe for row in found)
  return {"tokens_per_cpu_second": round(rows * fields["gen_length"] / statistics.median(used), 1),
          "nfe": round(nfe, 1), "tokens_per_call": round(fields["gen_length"] / nfe, 2),
          "calls": len(used)}


def cells(model: model_lib.Model, length: int, block: int):
  """Fields of every rule that suits the model, with each of its caches."""
  for name, rule in samplers.SAMPLERS.items():
    for cache in caches_of(model):
      for steps in (length, length // 2) if rule.counts_steps else (length,):
        fields = dict(name=name, cache=cache, gen_length=length, block_length=block, steps=steps)
        try:
          model.sampler(**fields)
        except ValueError:  # the rule does not suit the model, or has no such cache
          continue
        yield fields


def main() -> None:
  """Prints one JSON object a cell."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
  parser.add_argument("--checkpoint", required=True, help="of a run, as mdx.load takes it")
  parser.add_argument("--rows", type=int, default=8)
  parser.add_argument("--length", type=int, default=128)
  parser.add_argument("--block", type=int, default=16)
  parser.add_argument("--seconds", type=float, default=10, help="measured, for each cell")
  args = parser.parse_args()
  malloc.tune_cpu()
  model = mdx.load(args.checkpoint)
  for fields in cells(model, args.length, args.block):
    row = measure(model, fields, args.rows, args.seconds)
    print(json.dumps({k: fields[k] for k in ("name", "cache", "steps")} | row), flush=True)


if __name__ == "__main__":
  main()
