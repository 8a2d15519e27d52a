"""Published diffusion transformers as directories that mdx reads; run apart, on one machine.

  python -m mdx.interop.convert DIRECTORY NEW_DIRECTORY

Contents: fold, convert, main.

DIRECTORY has the config.json of MDLM or BD3-LM and model.safetensors, or pytorch_model.bin, a
pickle that torch opens with weights alone. NEW_DIRECTORY gets model.safetensors in float32,
config.json and what stood beside it (the tokenizer; the published models use that of GPT-2, to be
put there).

References: Peebles & Xie 2023, arXiv:2212.09748 (adaLN-zero); Sahoo et al. 2024, arXiv:2406.07524.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from mdx.interop import hf_mdlm
from mdx.utils import readers

_PICKLE, _SAFE, _CONFIG = "pytorch_model.bin", "model.safetensors", "config.json"
_TYPES = ("mdlm", "bd3lm")
_UNUSED = ("rotary_emb.", "block_diff_mask", "sigma_map.", "adaLN_modulation.", "noise.")
_FREQUENCIES = 256


def _silu(x):
  return x / (1 + np.exp(-x))


def fold(tensors: Mapping[str, np.ndarray], has_modulation: bool = True) -> dict[str, np.ndarray]:
  """Weights of a plain pre-norm transformer that computes the same at the noise level 0.

  With c = silu(MLP(embedding of 0)), a branch x + g f(w norm(x) (1 + s) + b) has the constants
  (b, s, g) = A c + a: the norm gets the scale w (1 + s) and the bias b, and the last matrix of f,
  with its bias, the factor g. The norm before the head has no gate. Computed in float64.

  Args:
    tensors: name -> array, under the published names behind "backbone.".
    has_modulation: False, the norms only get a bias of 0.

  Returns:
    float32, without the tensors of the conditioning.

  Raises:
    ValueError: a tensor is missing, or one is not known.
  """
  left = {name: np.asarray(value, np.float64) for name, value in tensors.items()}
  condition = None

  def take(name):
    if name not in left:
      raise ValueError(f"tensor {name!r} is missing; expected the names of the published code.")
    return left.pop(name)

  def affine(name, x):
    return take(f"{name}.weight") @ x + take(f"{name}.bias")

  if has_modulation:
    # Cosines of 0 come first, then sines.
    zero = np.repeat([1.0, 0.0], _FREQUENCIES // 2)
    hidden = _silu(affine("backbone.sigma_map.mlp.0", zero))
    condition = _silu(affine("backbone.sigma_map.mlp.2", hidden))
  found = {}

  def norm(name, shift, scale):
    weight = take(f"{name}.weight")
    found[f"{name}.weight"] = weight * (1 + scale)
    found[f"{name}.bias"] = shift + np.zeros_like(weight)

  def modulation(name, number):
    if condition is None:
      return (0.0, 0.0, 1.0, 0.0, 0.0, 1.0)[:number]
    return np.split(affine(f"{name}.adaLN_modulation", condition), number)

  number = len({name.split(".")[2] for name in tensors if name.startswith("backbone.blocks.")})
  if not number:
    raise ValueError("no tensor has a name that begins with backbone.blocks; expected those of the "
                     "published code.")
  for i in range(number):
    block = f"backbone.blocks.{i}"
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation(block, 6)
    norm(f"{block}.norm1", shift, scale)
    norm(f"{block}.norm2", mlp_shift, mlp_scale)
    rows = lambda gate: gate if np.ndim(gate) == 0 else gate[:, None]
    found[f"{block}.attn_qkv.weight"] = take(f"{block}.attn_qkv.weight")
    found[f"{block}.attn_out.weight"] = rows(gate) * take(f"{block}.attn_out.weight")
    for name in ("mlp.0.weight", "mlp.0.bias"):
      found[f"{block}.{name}"] = take(f"{block}.{name}")
    found[f"{block}.mlp.2.weight"] = rows(mlp_gate) * take(f"{block}.mlp.2.weight")
    found[f"{block}.mlp.2.bias"] = mlp_gate * take(f"{block}.mlp.2.bias")
  norm("backbone.output_layer.norm_final", *modulation("backbone.output_layer", 2))
  for name in ("vocab_embed.embedding", "output_layer.linear.weight", "output_layer.linear.bias"):
    found[f"backbone.{name}"] = take(f"backbone.{name}")
  unknown = sorted(name for name in left if not any(part in name for part in _UNUSED))
  if unknown:
    raise ValueError(f"tensor {unknown[0]!r} is not known; expected the names of the published "
                     "code.")
  return {name: np.asarray(value, np.float32) for name, value in found.items()}


def convert(source: pathlib.Path, target: pathlib.Path) -> None:
  """Writes the folded model of a published directory.

  Raises:
    ValueError: another model, one that is told the time, a pickle with more than weights, or a
      target that exists.
  """
  config = readers.read_json(source / _CONFIG)
  kind = config.get("model_type") if isinstance(config, dict) else None
  if kind not in _TYPES:
    raise ValueError(f"{source / _CONFIG}: model_type is {kind!r:.40}; expected "
                     f"{' or '.join(_TYPES)}. SEDD and MD4 are told the noise level in a form that "
                     "mdx does not have.")
  for name in ("time_conditioning", "causal"):
    if config.get(name):
      raise ValueError(f"{source / _CONFIG}: {name} is {config[name]!r:.40}; expected false, for "
                       "only then are the constants of the time folded.")
  if target.exists():
    raise ValueError(f"{target} exists; give the name of a new directory.")
  folded = fold(_read(source), bool(config.get("adaln", True)))
  target.mkdir(parents=True)
  for file in source.iterdir():
    if file.is_file() and file.suffix in (".json", ".txt", ".jinja", ".model") and (
        file.name != _CONFIG and not file.name.endswith(".index.json")):
      shutil.copy(file, target / file.name)
  safetensors_numpy.save_file(folded, target / _SAFE, metadata={"format": "pt"})
  config = {"mask_token_id": config["vocab_size"] - 1, **config, hf_mdlm.FOLDED: True}
  (target / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _read(source: pathlib.Path) -> dict[str, np.ndarray]:
  """All tensors of a directory, float32."""
  if (source / _SAFE).is_file():
    try:
      return dict(safetensors_numpy.load_file(source / _SAFE))
    except safetensors.SafetensorError as error:
      raise ValueError(f"{source / _SAFE} is damaged ({error}); fetch it again.") from None
  if not (source / _PICKLE).is_file():
    raise ValueError(f"{source} has neither {_SAFE} nor {_PICKLE}; fetch one of them.")
  try:
    import torch  # pylint: disable=g-import-not-at-top  (only pickles need it)
  except ImportError:
    raise ValueError(f"{_PICKLE} is a pickle, which torch opens: pip install torch.") from None
  try:
    tensors: Any = torch.load(source / _PICKLE, map_location="cpu", weights_only=True)
  except Exception as error:  # pylint: disable=broad-except  (of many kinds)
    raise ValueError(f"{source / _PICKLE} holds more than weights, or is damaged "
                     f"({readers.reason(error)}); it is not opened.") from None
  return {name: value.float().numpy() for name, value in tensors.items()}


def main(argv: Sequence[str] | None = None) -> None:
  """The command `python -m mdx.interop.convert`."""
  parser = argparse.ArgumentParser(prog="python -m mdx.interop.convert", description=(
      "Fold a published MDLM or BD3-LM into a directory that mdx reads."))
  parser.add_argument("source", type=pathlib.Path, help="directory with config.json and weights")
  parser.add_argument("target", type=pathlib.Path, help="new directory")
  arguments = parser.parse_args(argv)
  try:
    convert(arguments.source, arguments.target)
    print(f"wrote {arguments.target}.")
  except (ValueError, OSError) as error:
    parser.error(readers.reason(error))


if __name__ == "__main__":
  main()
