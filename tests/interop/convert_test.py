"""Published diffusion transformers, folded, against the equations of their papers in numpy.

The weights are made up, under the published names. References: Peebles & Xie 2023, arXiv:2212.09748
(adaLN-zero); Sahoo et al. 2024, arXiv:2406.07524 (MDLM).
"""

import json
import pickle

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from mdx import interop
from mdx.interop import convert

import hf_dirs

WIDTH, HEADS, BLOCKS, VOCAB, CONDITION, LENGTH = 16, 2, 2, 11, 8, 6
CONFIG = dict(model_type="mdlm", architectures=["MDLM"], vocab_size=VOCAB, model_length=LENGTH,
              hidden_dim=WIDTH, cond_dim=CONDITION, n_blocks=BLOCKS, n_heads=HEADS, dropout=0.1,
              time_conditioning=False)


def _published(adaln=True):
  draw = np.random.default_rng(0)
  block = dict(norm1=(WIDTH,), norm2=(WIDTH,), attn_qkv=(3 * WIDTH, WIDTH), attn_out=(WIDTH, WIDTH))
  shapes = {"vocab_embed.embedding": (VOCAB, WIDTH), "rotary_emb.inv_freq": (WIDTH // HEADS // 2,),
            "output_layer.norm_final.weight": (WIDTH,),
            "output_layer.linear.weight": (VOCAB, WIDTH), "output_layer.linear.bias": (VOCAB,)}
  for i in range(BLOCKS):
    shapes |= {f"blocks.{i}.{name}.weight": shape for name, shape in block.items()}
    shapes |= {f"blocks.{i}.mlp.0.weight": (4 * WIDTH, WIDTH), f"blocks.{i}.mlp.0.bias": (4 * WIDTH,),
               f"blocks.{i}.mlp.2.weight": (WIDTH, 4 * WIDTH), f"blocks.{i}.mlp.2.bias": (WIDTH,)}
  if adaln:
    shapes |= {"sigma_map.mlp.0.weight": (CONDITION, 256), "sigma_map.mlp.0.bias": (CONDITION,),
               "sigma_map.mlp.2.weight": (CONDITION, CONDITION),
               "sigma_map.mlp.2.bias": (CONDITION,)}
    for name, parts in [(f"blocks.{i}", 6) for i in range(BLOCKS)] + [("output_layer", 2)]:
      shapes |= {f"{name}.adaLN_modulation.weight": (parts * WIDTH, CONDITION),
                 f"{name}.adaLN_modulation.bias": (parts * WIDTH,)}
  return {f"backbone.{name}": (0.3 * draw.normal(size=shape) + ("norm" in name)).astype(np.float32)
          for name, shape in shapes.items()}


def _reference(tensors, tokens):
  """Logits [L, V] at the noise level 0, by the published equations."""
  get = lambda name: tensors[f"backbone.{name}"].astype(np.float64)
  silu = lambda x: x / (1 + np.exp(-x))
  gelu = lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3)))
  linear = lambda name, x: x @ get(f"{name}.weight").T + get(f"{name}.bias")

  def norm(name, x, shift, scale):
    x = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
    return x * get(f"{name}.weight") * (1 + scale) + shift

  def rotate(x):  # [N, L, H]
    half = x.shape[-1] // 2
    angle = np.arange(len(tokens))[:, None] / 10000 ** (np.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * np.cos(angle) - second * np.sin(angle),
                           second * np.cos(angle) + first * np.sin(angle)], axis=-1)

  level = np.concatenate([np.ones(128), np.zeros(128)])  # cosines and sines of 0
  condition = silu(linear("sigma_map.mlp.2", silu(linear("sigma_map.mlp.0", level))))
  x = get("vocab_embed.embedding")[tokens]
  for i in range(BLOCKS):
    name = f"blocks.{i}"
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = np.split(
        linear(f"{name}.adaLN_modulation", condition), 6)
    qkv = norm(f"{name}.norm1", x, shift, scale) @ get(f"{name}.attn_qkv.weight").T
    query, key, value = qkv.reshape(len(tokens), 3, HEADS, -1).transpose(1, 2, 0, 3)
    scores = np.exp(rotate(query) @ rotate(key).swapaxes(1, 2) / np.sqrt(WIDTH // HEADS))
    mixed = (scores / scores.sum(axis=2, keepdims=True)) @ value
    x = x + gate * (mixed.transpose(1, 0, 2).reshape(len(tokens), WIDTH)
                    @ get(f"{name}.attn_out.weight").T)
    hidden = gelu(linear(f"{name}.mlp.0", norm(f"{name}.norm2", x, mlp_shift, mlp_scale)))
    x = x + mlp_gate * linear(f"{name}.mlp.2", hidden)
  shift, scale = np.split(linear("output_layer.adaLN_modulation", condition), 2)
  return linear("output_layer.linear", norm("output_layer.norm_final", x, shift, scale))


def _directory(path, tensors, *, is_pickle=False, **changes):
  path.mkdir()
  (path / "config.json").write_text(json.dumps(CONFIG | changes))
  (path / "tokenizer_config.json").write_text("{}")
  if is_pickle:
    torch = pytest.importorskip("torch")
    torch.save({name: torch.from_numpy(x) for name, x in tensors.items()},
               path / "pytorch_model.bin")
  else:
    safetensors_numpy.save_file(tensors, path / "model.safetensors")
  return path


@pytest.mark.parametrize("is_pickle", [False, True])
def test_logits_are_those_of_the_published_equations(is_pickle, tmp_path):
  tensors, tokens = _published(), np.array([3, 10, 0, 10, 7, 1])
  source = _directory(tmp_path / "published", tensors, is_pickle=is_pickle)
  convert.main([str(source), str(tmp_path / "new")])
  spec = hf_dirs.spec_of(tmp_path / "new")
  params = hf_dirs.loaded(tmp_path / "new")
  if not is_pickle:
    found = hf_dirs.logits_of(spec, params, tokens[None])[0, :, :VOCAB]
    np.testing.assert_allclose(found, _reference(tensors, tokens), rtol=1e-4, atol=1e-4)
    assert interop.objective_fields(tmp_path / "new") == {"name": "diffusion"}
    assert interop.special_ids(tmp_path / "new")["mask_id"] == VOCAB - 1
    assert (tmp_path / "new" / "tokenizer_config.json").is_file()
    # And out again: the same bits.
    interop.save(tmp_path / "out", params, spec, model_type="mdlm")
  else:
    safetensors_numpy.save_file(convert.fold(tensors), tmp_path / "out.safetensors")
  stored = hf_dirs.tensors_of(tmp_path / "new")
  again = hf_dirs.tensors_of(tmp_path / "out") if not is_pickle else safetensors_numpy.load_file(
      tmp_path / "out.safetensors")
  assert stored.keys() == again.keys()
  for name, value in stored.items():
    np.testing.assert_array_equal(value, again[name], err_msg=name)


def test_blocks_without_a_conditioning_get_norms_without_shifts(tmp_path):
  tensors = _published(adaln=False)
  source = _directory(tmp_path / "published", tensors, model_type="bd3lm", architectures=["BD3LM"],
                      adaln=False, block_size=2, causal=False)
  convert.convert(source, tmp_path / "new")
  stored = hf_dirs.tensors_of(tmp_path / "new")
  for name, value in stored.items():
    np.testing.assert_array_equal(value, tensors.get(name, np.zeros_like(value)), err_msg=name)
  assert interop.objective_fields(tmp_path / "new") == {
      "name": "block_diffusion", "attention": {"name": "block_causal", "block_length": 2}}


@pytest.mark.parametrize("changes, message", [
    (dict(model_type="sedd"), "model_type is 'sedd'; expected mdlm or bd3lm. SEDD and MD4"),
    (dict(time_conditioning=True), "time_conditioning is True; expected false"),
    (dict(causal=True), "causal is True; expected false")])
def test_models_that_are_told_the_time_are_refused(changes, message, tmp_path):
  source = _directory(tmp_path / "published", {"x": np.zeros(1)}, **changes)
  with pytest.raises(ValueError, match=message):
    convert.convert(source, tmp_path / "new")
  assert not (tmp_path / "new").exists()


def test_names_that_do_not_fit_are_refused_before_anything_is_written(tmp_path):
  tensors = _published()
  missing = {k: v for k, v in tensors.items() if k != "backbone.blocks.1.mlp.2.bias"}
  with pytest.raises(ValueError, match="'backbone.blocks.1.mlp.2.bias' is missing"):
    convert.fold(missing)
  with pytest.raises(ValueError, match="'backbone.more' is not known"):
    convert.fold(tensors | {"backbone.more": np.zeros(1)})
  with pytest.raises(ValueError, match="no tensor has a name that begins with backbone.blocks"):
    convert.fold({"x": np.zeros(1)} | {k: v for k, v in tensors.items() if "sigma" in k})
  source = _directory(tmp_path / "published", missing)
  with pytest.raises(SystemExit):
    convert.main([str(source), str(tmp_path / "new")])
  assert not (tmp_path / "new").exists()
  with pytest.raises(ValueError, match="exists; give the name of a new directory"):
    convert.convert(_directory(tmp_path / "whole", tensors), tmp_path / "published")


class _Bomb:
  def __reduce__(self):
    return (pytest.fail, ("the pickle ran code",))


def test_a_pickle_with_more_than_weights_is_not_opened(tmp_path):
  pytest.importorskip("torch")
  source = _directory(tmp_path / "published", {"x": np.zeros(1)})
  (source / "model.safetensors").unlink()
  with pytest.raises(ValueError, match="has neither model.safetensors nor pytorch_model.bin"):
    convert.convert(source, tmp_path / "new")
  (source / "pytorch_model.bin").write_bytes(pickle.dumps({"x": _Bomb()}))
  with pytest.raises(ValueError, match="holds more than weights, or is damaged"):
    convert.convert(source, tmp_path / "new")


def test_a_published_directory_says_what_to_run_first(tmp_path):
  source = _directory(tmp_path / "published", _published())
  with pytest.raises(ValueError, match="python -m mdx.interop.convert DIRECTORY NEW_DIRECTORY"):
    interop.network_fields(source)
