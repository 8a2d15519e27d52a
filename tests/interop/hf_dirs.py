"""Hugging Face directories for the tests of import and export.

Contents: GOLDEN, shapes, spec_of, loaded, logits_of, tensors_of, write,
random_model.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import numpy as safetensors_numpy

from mdx import interop
from mdx import sharding
from mdx import types
from mdx.networks import attention
from mdx.networks import transformer
from mdx.utils import rng

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "llada-tiny"
_FULL = attention.Full()
_BLOCK = "model.transformer.blocks."


def shapes(spec, mesh=None, dtype=None):
  """Shape structs of a model, sharded on a mesh."""
  tree = jax.eval_shape(spec.network().init, rng.root(0))
  if dtype is not None:
    tree = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), tree)
  if mesh is None:
    return tree
  return jax.tree.map(
      lambda x, p: jax.ShapeDtypeStruct(x.shape, x.dtype,
                                        sharding=jax.sharding.NamedSharding(mesh, p)),
      tree, sharding.specs({"model": tree}, {"model": spec.network().part}, mesh)["model"])


def spec_of(path=GOLDEN, **fields):
  """The transformer that a directory describes, with changes."""
  return transformer.Transformer(**interop.network_fields(path) | fields)


def loaded(path=GOLDEN):
  """The weights of a directory in float32, on one device."""
  return interop.load(path, shapes(spec_of(path)))


def logits_of(spec, params, tokens, **inputs):
  """Scores of all ids where every token sees every token."""
  network = spec.network()

  @jax.jit
  def score(params):
    hidden = network.encode(params, types.Inputs(jnp.asarray(tokens, jnp.int32), **inputs),
                            attention=_FULL).last
    return network.head(params, hidden)

  return np.asarray(score(params))


def tensors_of(path):
  """All tensors of a directory, by the library's own reader."""
  return {k: v for file in sorted(pathlib.Path(path).glob("*.safetensors"))
          for k, v in safetensors_numpy.load_file(file).items()}


def write(path, tensors, **config):
  """A directory with these tensors and the golden config with changes."""
  path.mkdir(parents=True)
  base = json.loads((GOLDEN / "config.json").read_text())
  (path / "config.json").write_text(json.dumps(base | config))
  safetensors_numpy.save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()},
                              path / "model.safetensors")
  return path


def random_model(path, stored=np.float32, *, layers=2, width=16, heads=4, kv_heads=2, hidden=24,
            vocab=11, **config):
  """A directory of random weights."""
  draw = np.random.default_rng(1)
  kv = width * kv_heads // heads
  block = dict(attn_norm=(width,), ff_norm=(width,), q_proj=(width, width), k_proj=(kv, width),
               v_proj=(kv, width), attn_out=(width, width), ff_proj=(hidden, width),
               up_proj=(hidden, width), ff_out=(width, hidden))
  shapes = {f"{_BLOCK}{i}.{k}.weight": s for i in range(layers) for k, s in block.items()}
  shapes |= {"model.transformer.wte.weight": (vocab, width),
             "model.transformer.ff_out.weight": (vocab, width),
             "model.transformer.ln_f.weight": (width,)}
  tensors = {k: draw.normal(size=s).astype(np.float32).astype(stored) for k, s in shapes.items()}
  return write(path, tensors, d_model=width, n_heads=heads, n_kv_heads=kv_heads, n_layers=layers,
                mlp_hidden_size=hidden, vocab_size=vocab, embedding_size=vocab, mask_token_id=2,
                eos_token_id=1, pad_token_id=1, **config)
