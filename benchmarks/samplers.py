"""Quality of decoding rules: distance from the true joint against network calls.

  python benchmarks/samplers.py --out=/tmp/samplers

The "model" is exact: it gives the true conditionals of a distribution over all 6561 sequences
of 8 tokens out of 3, a sticky Markov chain that is also tilted by a factor of 9 towards
sequences whose sum is divisible by 3, so every token depends on every other. All error is
therefore the rule's: tokens committed together as if they were independent, or an order
that depends on the tokens drawn. Rows are decoded at temperature 1 by the library's own loop; what
is printed is total variation and KL(samples || truth) in nats of their empirical law.
As many exact samples have a distance too, since there are few of them per sequence: it
is in the row "exact", and the last columns are the excess over it.

Prints a table, and writes a plot, samplers.png, to --out.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import time

import numpy as np

from mdx.data.toys import tilted
from mdx.utils import malloc

# pylint: disable=g-import-not-at-top

LENGTH, VOCAB = tilted.LENGTH, len(tilted.SYMBOLS)
MASK_ID = VOCAB
SETTINGS = (
    [("ancestral", dict(steps=s)) for s in (1, 2, 4, 8, 32)] + [("first_hitting", {})]
    + [("confidence", dict(confidence=c, steps=s)) for c in ("random", "entropy", "margin",
                                                            "probability") for s in (1, 2, 4, 8)]
    + [("rcr", dict(confidence=c, steps=s)) for c in ("margin", "probability") for s in (2, 4, 8)]
    + [("threshold", dict(confidence="probability", threshold=t)) for t in (0.5, 0.9)]
    + [("threshold", dict(confidence="margin", threshold=t)) for t in (0.3, 0.5, 0.7)]
    + [("factor", dict(confidence="margin", factor=f)) for f in (1.0, 1.5, 2.0)]
    + [("entropy_bounded", dict(confidence="entropy", entropy_bound=b)) for b in (0.5, 0.8, 1, 2)]
    + [("klass", dict(confidence="margin", threshold=t, kl_threshold=k, kl_steps=1))
       for t, k in ((0.3, 0.1), (0.3, 1.0))]
    + [("hierarchical", dict(confidence="margin", threshold=t, low_threshold=low))
       for t, low in ((0.9, 0.2), (0.9, 0.4), (0.5, 0.4))]
    + [("remdm", dict(remdm=r, eta=e, steps=s)) for r, e in (("cap", 0.05), ("rescale", 0.5),
                                                            ("loop", 0.1)) for s in (4, 8, 32)]
    + [("token_editing", dict(confidence="margin", threshold=0.5, edit_threshold=e))
       for e in (0.7, 0.9)]
)


def conditionals(probs: np.ndarray) -> np.ndarray:
  """Logits of every place in every canvas, float32 [4 ** 8, 8, 4]; id 3 is the mask."""
  sums = probs
  for axis in range(LENGTH):
    sums = np.concatenate([sums, sums.sum(axis=axis, keepdims=True)], axis=axis)
  canvases = np.indices(sums.shape).reshape(LENGTH, -1).T
  logits = np.full(canvases.shape + (VOCAB + 1,), -1e30, np.float32)
  for i in range(LENGTH):
    for v in range(VOCAB):
      filled = canvases.copy()
      filled[:, i] = v
      logits[:, i, v] = np.log(sums[tuple(filled.T)])
  return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def distances(counts: np.ndarray, probs: np.ndarray) -> tuple[float, float]:
  """Total variation and KL(samples || truth) of counts [6561]."""
  law = counts / counts.sum()
  seen = law > 0
  return (0.5 * float(np.abs(law - probs).sum()),
          float((law[seen] * np.log(law[seen] / probs[seen])).sum()))


def measure(num_rows: int, seed: int) -> list[tuple[str, str, float, float, float]]:
  """Decodes every setting; rows (rule, setting, mean NFE, TV, KL), "exact" first."""
  malloc.tune_cpu()
  import jax
  import jax.numpy as jnp

  from mdx import samplers
  from mdx import types
  from mdx.samplers import loop
  from mdx.utils import rng
  probs = tilted.joint()
  logits = jnp.asarray(conditionals(probs))
  probs, powers = probs.reshape(-1), VOCAB ** np.arange(LENGTH)[::-1]

  def answer(table, request):
    number = request.tokens @ jnp.asarray((VOCAB + 1) ** np.arange(LENGTH)[::-1], jnp.int32)
    return types.Answer(table[number[:, None], jnp.minimum(request.targets, LENGTH - 1)])

  canvas = jnp.full((num_rows, LENGTH), MASK_ID, jnp.int32)
  exact = np.random.default_rng(seed).multinomial(num_rows, probs)
  results = [("exact", "", 0.0, *distances(exact, probs))]
  for name, fields in SETTINGS:
    sampler = samplers.SAMPLERS[name](mask_id=MASK_ID, gen_length=LENGTH, noise=dict(
        name="linear", eps=0.0), **dict(steps=LENGTH) | fields)
    decode = jax.jit(lambda table, key, sampler=sampler: loop.decode(
        functools.partial(answer, table), sampler, canvas, key=key,
        row_index=jnp.arange(num_rows)))
    decoded = jax.device_get(decode(logits, rng.root(seed)))
    counts = np.bincount(decoded.tokens @ powers, minlength=VOCAB ** LENGTH)
    setting = ", ".join(f"{k}={v}" for k, v in fields.items())
    results.append((name, setting, float(decoded.nfe.mean()), *distances(counts, probs)))
  return results


def plot(results, path: pathlib.Path) -> None:
  """Excess total variation against NFE, a line for each rule."""
  import matplotlib
  matplotlib.use("Agg")
  from matplotlib import pyplot as plt
  floor = results[0][3]
  lines: dict[str, list[tuple[float, float]]] = {}
  for name, setting, nfe, distance, _ in results[1:]:
    kind = [v for v in setting.split(", ") if v.split("=")[0] in ("confidence", "remdm")]
    lines.setdefault(" ".join([name] + [v.split("=")[1] for v in kind]), []).append(
        (nfe, max(distance - floor, 1e-3)))
  figure, axes = plt.subplots(figsize=(9, 6))
  for i, (label, points) in enumerate(lines.items()):
    axes.plot(*zip(*sorted(points)), marker="osD^v<>pP*X"[i % 11], label=label,
              linestyle=("-", "--")[i // 10 % 2])
  axes.set(xscale="log", yscale="log", xlabel="network calls a row (8 tokens)",
           ylabel="total variation from the true joint, less that of exact samples")
  axes.legend(fontsize=7, ncols=2)
  axes.grid(alpha=0.3)
  figure.tight_layout()
  figure.savefig(path, dpi=120)


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--out", default="", help="directory of the plot; default: none")
  parser.add_argument("--rows", type=int, default=50_000)
  parser.add_argument("--seed", type=int, default=0)
  args = parser.parse_args()
  began = time.monotonic()
  results = measure(args.rows, args.seed)
  print(f"{args.rows} rows a setting, seed {args.seed}, {time.monotonic() - began:.0f} s\n")
  print("| rule | setting | NFE | TV | KL | TV excess | KL excess |")
  print("| --- | --- | --- | --- | --- | --- | --- |")
  floor = results[0][3:]
  for name, setting, nfe, *values in results:
    excess = [v - f for v, f in zip(values, floor)]
    print(f"| {name} | {setting} | {nfe:.2f} | " + " | ".join(
        f"{v:.4f}" for v in values + excess) + " |")
  if args.out:
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    plot(results, out / "samplers.png")
    print(f"\nplot: {out / 'samplers.png'}")


if __name__ == "__main__":
  main()
