"""CPU time of a step that detects random tokens against one that predicts masks, by vocabulary.

  python benchmarks/rts.py

Both have the same transformer (width 256, 4 layers), AdamW and batches (16 x 128 tokens); the
masked model has logits at masked positions alone. Steps take turns in one process.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mdx import objectives
from mdx.data import tokenizer as tokenizer_lib
from mdx.networks import transformer
from mdx.train import state as state_lib
from mdx.train import step as step_lib
from mdx.utils import rng

_ROWS, _LENGTH, _TURNS = 16, 128, 5
_SIDES = {"mlm": dict(head="lm", mask_draw="exact_count"), "rts": dict(head="rtd")}


def _side(name, vocab_size, *, head, **fields):
  """(state, step, batch) of an objective."""
  spec = transformer.Transformer(num_layers=4, width=256, num_heads=4, mlp_width=768, head=head,
                                 vocab_size=vocab_size, max_length=_LENGTH, scan_layers=False)
  objective = objectives.build(dict(name=name, **fields), spec.network(),
                               tokenizer_lib.build("symbols:a b c d e f g h"))
  optimizer = optax.adamw(1e-3)
  state = jax.jit(state_lib.init_fn(objective, optimizer, keep_ema=False))(rng.root(0))
  step = jax.jit(step_lib.make_step(objective, optimizer, seed=0, rate=lambda step: 1e-3,
                                    parts=objective.parts()), donate_argnums=0)
  ids = np.random.default_rng(0).integers(0, vocab_size - 4, (_ROWS, _LENGTH))
  ones = jnp.ones(ids.shape, jnp.int32)
  batch = {"tokens": jnp.asarray(ids, jnp.int32), "loss_mask": ones > 0, "segment_ids": ones,
           "positions": ones * jnp.arange(_LENGTH)[None], "example_index": jnp.arange(_ROWS)}
  return state, step, batch


def main():
  """Prints medians and ratios."""
  for vocab_size in (512, 8192, 30522):
    sides = {name: _side(name, vocab_size, **fields) for name, fields in _SIDES.items()}
    spent = {name: [] for name in sides}
    for turn in range(_TURNS + 1):
      for name, (state, step, batch) in sides.items():
        began = time.process_time()
        state, _ = jax.block_until_ready(step(state, batch, {}))
        sides[name] = state, step, batch
        if turn:  # the first one compiles
          spent[name].append(time.process_time() - began)
    mlm, rts = (np.array(spent[name]) for name in ("mlm", "rts"))
    print(f"{vocab_size:>6} ids  mlm {np.median(mlm):.3f}  rts {np.median(rts):.3f} CPU s a step  "
          f"ratio {np.median(rts) / np.median(mlm):.2f} (least {rts.min() / mlm.min():.2f})")


if __name__ == "__main__":
  main()
