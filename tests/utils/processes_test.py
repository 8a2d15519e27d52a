"""Programs of several processes: none runs before all have compiled it."""

import jax
import jax.numpy as jnp
from orbax.checkpoint import multihost

from mdx.utils import processes


def test_processes_meet_once_between_compiling_and_the_first_run(monkeypatch):
  events = []

  def double(x):
    jax.debug.callback(lambda: events.append("run"))
    return 2 * x

  function = processes.Jitted(double)
  compile_ = jax.stages.Lowered.compile
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(jax.stages.Lowered, "compile",
                      lambda self: events.append("compile") or compile_(self))
  monkeypatch.setattr(multihost, "get_barrier_sync_fn", lambda: (
      lambda *, key, timeout_ms: events.append(key[:12])))
  for x in (1.0, 2.0):
    assert function(jnp.float32(x)) == 2 * x
    jax.effects_barrier()
  assert events == ["compile", "mdx_compiled", "run", "run"]


def test_one_process_waits_for_nobody(monkeypatch):
  monkeypatch.setattr(multihost, "get_barrier_sync_fn", None)
  assert processes.Jitted(jnp.add)(jnp.float32(1), jnp.float32(2)) == 3
