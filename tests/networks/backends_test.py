"""Back ends of attention: refused where they cannot run, and used where they are named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import sharding
from mdx import types
from mdx.networks import attention
from mdx.networks import backends
from mdx.networks import splash
from mdx.networks import transformer


def test_what_this_machine_lacks_is_refused_before_anything_is_compiled():
  spec = dict(num_layers=1, width=8, num_heads=2, vocab_size=5)
  for name, device in (("cudnn", "GPU"), ("splash", "TPU")):
    with pytest.raises(ValueError, match=f"attention_backend {name} needs a {device}, and this "
                       "is for a CPU; use xla") as error:
      transformer.Transformer(**spec, attention_backend=name).network()
    assert "\n" not in str(error.value)
  with pytest.raises(ValueError, match="attention_backend is 'flash'; choose from xla, cudnn"):
    transformer.Transformer(**spec, attention_backend="flash")
  with pytest.raises(ValueError, match="splash reads whole rows, and no cache"):
    backends.check_slots("splash")


def test_cudnn_needs_bfloat16(monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  backends.check("cudnn", "bfloat16")
  with pytest.raises(ValueError, match="cudnn needs dtype bfloat16, got float32"):
    backends.check("cudnn", "float32")


@pytest.mark.slow
def test_every_layer_is_handed_to_the_named_back_end(monkeypatch):
  # On a TPU the network itself runs the kernel: here in interpret mode.
  monkeypatch.setattr(backends, "check", lambda *args: None)
  seen, shapes = [], []

  def fake(query, key, value, visibility, positions, segments, cap=0.0):
    assert cap == 0.0
    seen.append(visibility)
    shapes.append(query.shape)
    return attention.attend(query, key, value,
                            attention.visible(visibility, positions, segments))

  monkeypatch.setattr(splash, "splash", fake)
  spec = dict(num_layers=2, width=8, num_heads=2, vocab_size=5)
  value = attention.PerLayer((attention.Causal(), attention.Local(1)))
  params = transformer.Transformer(**spec).network().init(jax.random.key(0))
  tokens = jnp.arange(12).reshape(2, 6) % 5
  segments = jnp.array([[1, 1, 1, 1, 2, 2], [1, 1, 1, 0, 0, 0]])

  def run(name):
    network = transformer.Transformer(**spec, attention_backend=name).network()
    return jax.jit(lambda: network.encode(
        params, types.Inputs(tokens, segment_ids=segments), attention=value).last)()

  wanted = np.asarray(run("xla"))
  np.testing.assert_allclose(run("splash"), wanted, atol=1e-6)
  assert set(seen) == {attention.Causal(), attention.Local(1)}
  seen.clear()  # and each device of a mesh on its rows and heads
  jax.set_mesh(sharding.make_mesh({"data": 2, "tensor": 2}, jax.devices()[:4]))
  np.testing.assert_allclose(run("splash"), wanted, atol=1e-6)
  assert seen and shapes[-1] == (1, 6, 1, 4)
  jax.set_mesh(sharding.make_mesh({"sequence": 2}, jax.devices()[:2]))
  with pytest.raises(ValueError, match="splash needs mesh axis sequence=1"):
    run("splash")
