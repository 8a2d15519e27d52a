"""The sampling loop: one while loop, one trace, rows that are done are left alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import samplers
from mdx import sharding
from mdx.samplers import loop
from mdx.utils import rng

MASK_ID = 0


@dataclasses.dataclass(frozen=True)
class _CountDown:
  """Needs as many steps as the row's first token says; records keys and steps."""
  limit: int = 100

  def max_steps(self, length):
    return self.limit

  def init(self, canvas):
    return {"canvas": canvas, "left": canvas[:, 0], "drawn": jnp.zeros(len(canvas)),
            "level": jnp.zeros(len(canvas))}

  def active(self, state):
    return state["left"] > 0

  def noise_level(self, state, step):
    return jnp.full(len(state["left"]), 1.0 * step)

  def update(self, state, logits, keys, step):
    draw = jax.vmap(jax.random.uniform)(keys)
    return {"canvas": state["canvas"] + 10, "left": state["left"] - 1,
            "drawn": state["drawn"] + draw, "level": logits[:, 0, 0]}

  def finalize(self, state):
    return jnp.concatenate([state["canvas"] * 1.0, state["drawn"][:, None],
                            state["level"][:, None]], axis=1)


def _level_as_logits(canvas, level):
  return jnp.broadcast_to(level[:, None, None], canvas.shape + (3,))


def _run(canvas, row_index, limit=100, denoise=_level_as_logits):
  return loop.decode(denoise, _CountDown(limit), jnp.asarray(canvas), key=rng.root(0),
                     row_index=jnp.asarray(row_index))


def test_rows_that_are_done_are_left_alone():
  out, calls = _run([[0, 5], [3, 5], [1, 5]], [0, 1, 2])
  np.testing.assert_array_equal(out[:, :2], [[0, 5], [33, 35], [11, 15]])
  np.testing.assert_array_equal(calls, [0, 3, 1])
  np.testing.assert_array_equal(out[:, 3], [0, 2, 0])  # the noise level of its last step


def test_the_loop_stops_at_the_samplers_limit():
  out, calls = _run([[7, 0]], [0], limit=4)
  np.testing.assert_array_equal(calls, [4])
  assert out[0, 0] == 47


def test_keys_depend_on_row_and_step_alone():
  out, _ = _run([[2, 0], [4, 0], [2, 0]], [5, 6, 7])
  alone, _ = _run([[4, 0]], [6])
  np.testing.assert_array_equal(out[1], alone[0])
  drawn = np.asarray(out[:, 2])
  assert len(np.unique(drawn)) == 3  # rows differ
  once, _ = _run([[1, 0]], [6])
  assert drawn[1] != 4 * once[0, 2]  # steps differ


def test_decoding_is_one_while_loop_and_one_trace_of_the_network():
  traces = []

  def denoise(canvas, level):
    traces.append(1)
    return _level_as_logits(canvas, level)

  decode = jax.jit(lambda canvas, index: _run(canvas, index, denoise=denoise))
  for first in (0, 40):
    decode(jnp.array([[2, 0], [5, 0]]), first + jnp.arange(2))
  assert decode._cache_size() == 1 and len(traces) <= 2
  jaxpr = jax.make_jaxpr(lambda canvas: _run(canvas, jnp.arange(2)))(jnp.array([[2, 0], [5, 0]]))
  assert [e.primitive.name for e in jaxpr.eqns].count("while") == 1


def test_eight_devices_decode_what_one_does():
  canvas, index = np.arange(32).reshape(16, 2) % 5, np.arange(16)
  one, calls = jax.jit(_run)(canvas, index)
  mesh = sharding.make_mesh({"data": 8})
  jax.set_mesh(mesh)
  placed = sharding.place_batch({"canvas": canvas, "index": index}, mesh)
  eight, eight_calls = jax.jit(_run)(placed["canvas"], placed["index"])
  np.testing.assert_array_equal(one, eight)
  np.testing.assert_array_equal(calls, eight_calls)


def test_samplers_are_built_by_name():
  sampler = samplers.build({"name": "ancestral", "steps": 3}, MASK_ID)
  assert sampler.steps == 3 and sampler.mask_id == MASK_ID
  with pytest.raises(ValueError, match="choose from ancestral, autoregressive"):
    samplers.build({"name": "beam"}, MASK_ID)
