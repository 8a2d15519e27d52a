"""Reading a model for a sampler: the logits of some places of a canvas.

Contents: logits_at.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mdx import types
from mdx.networks import attention as attention_lib
from mdx.networks import heads


def logits_at(network: types.Network, params: types.PyTree, request: types.Request, *,
              tokens: jax.Array, attention: Any, time: jax.Array | None,
              blocked: int | None) -> Any:
  """Runs the network on the places asked for, and the head on the targets among them.

  Args:
    network: the model.
    params: its parameter sub-tree.
    request: what a sampler asks; its `tokens` are not read, for `tokens` may differ.
    tokens: int32 [B, S], the network's input at every place of the rows.
    attention: a value of `networks.attention`.
    time: float32 [B], or None.
    blocked: an id that gets probability 0, or None.

  Returns:
    Logits float32 [B, T, V]; with `request.cache` also the new cache.
  """
  memory = {} if request.cache is None else {"cache": request.cache, "slots": request.slots}
  out = network.encode(params, attention_lib.at_slots(tokens, request.slots), attention=attention,
                       positions=request.positions, segment_ids=request.segment_ids, time=time,
                       **memory)
  hidden, cache = (out, None) if request.cache is None else out
  if request.targets is not None:
    hidden = jnp.take_along_axis(hidden, request.targets[..., None], axis=1, mode="clip")
  logits = heads.block_columns(network.head(params, hidden, "lm"), blocked)
  return logits if request.cache is None else (logits, cache)
