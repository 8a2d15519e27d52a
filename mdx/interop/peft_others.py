"""Adapters of PEFT that are no LoRA: factors of outputs (IA3) and prompts.

Contents: KINDS, KINDS_OF, kind_of, adaptation_of.

Convention: a kind says how its files are read, as `fields` and `load` of `interop.peft`, and how
they are written: tensors and adapter_config.json.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mdx import types
from mdx.interop import peft
from mdx.interop import safetensors
from mdx.interop import weights
from mdx.networks import transformer
from mdx.networks.adaptation import inserted
from mdx.networks.adaptation import sites
from mdx.networks.adaptation import vectors
from mdx.utils import tree


def _stacked(path: str, names: Mapping[str, list[str]], shapes: Any) -> Any:
  """Tensors by layer as parameters; `shapes` {}: they are only checked."""
  with safetensors.Reader(path, peft.FILE) as reader:
    wanted = {name for layers in names.values() for name in layers}
    if missing := sorted(wanted - set(reader.names)):
      raise ValueError(f"{reader.path} lacks tensor {missing[0]!r}, which its {peft.CONFIG} asks "
                       "for.")
    if more := sorted(set(reader.names) - wanted):
      raise ValueError(f"{reader.where(more[0])} has no place in the model that {peft.CONFIG} "
                       "describes.")

    def of_leaf(leaf_path, leaf):
      values = [peft.whole(reader, name) for name in names[leaf_path]]
      value = values[0] if leaf_path.startswith("prompt/") else np.stack(values)
      if value.size != np.prod(leaf.shape):
        raise ValueError(f"{reader.where(names[leaf_path][0])} has shape {values[0].shape}; this "
                         f"model expects {tuple(leaf.shape[-2:])} or its like.")
      return peft.placed(value.reshape(leaf.shape), leaf)

    return tree.map_with_path(of_leaf, shapes)


def _entry(path: str, shape: tuple[int, ...], names: list[str], stacked: bool = True
           ) -> weights.Entry:
  places = {((i,) if stacked else ()): name for i, name in enumerate(names)}
  return weights.Entry(path=path, names=places, stacked=int(stacked), transpose=False,
                       part=(0, 1, 1), shape=tuple(shape), copies=dict.fromkeys(names, ()))


class _Factors:
  """IA3: `ia3_l` [out, 1] of outputs, or [1, in] of the inputs of feed-forward modules.

  The inputs of a gated MLP's last map are its outputs of `up` times the gate, so their factors are
  those of `up`.
  """

  def _names(self, path, family, spec):
    """projection of ours -> names of the tensors of its layers."""
    file, config = pathlib.Path(path) / peft.CONFIG, peft.read_config(path)
    found, modules = {}, peft.modules_of(family, spec)
    for projection, (_, tensor) in modules.items():
      layers = [peft.module_name(tensor, layer) for layer in range(spec.num_layers)]
      chosen = [peft.matching(config.get(key), layers)
                for key in ("target_modules", "feedforward_modules")]
      if not chosen[0]:
        continue
      if len(chosen[0]) < len(layers) or chosen[1] not in (set(), set(layers)):
        raise ValueError(f"{file}: target_modules name some layers of {projection} alone; expected "
                         "all or none.")
      if chosen[1] and not (projection == "down" and spec.is_gated):
        raise ValueError(f"{file}: feedforward_modules scales the inputs of {projection}, which is "
                         "computed of a gated MLP's last map alone.")
      own = "up" if chosen[1] else projection
      if own in found:
        raise ValueError(f"{file}: target_modules give the MLP's inner activations two factors.")
      found[own] = [f"{peft.PREFIX}{name}.ia3_l" for name in layers]
    if not found:
      raise ValueError(f"{file}: target_modules {config.get('target_modules')!r:.200} match none "
                       f"of the projections of a {family.model_type!r} model.")
    return found

  def fields(self, path, family, spec):
    """As `peft.fields`."""
    return dict(name="ia3", targets=tuple(self._names(path, family, spec)))

  def load(self, path, base, family, spec, shapes):
    """As `peft.load`."""
    del base
    names = self._names(path, family, spec)
    return _stacked(path, {f"{sites.PROJECTIONS[name]}/factor": layers
                           for name, layers in names.items()}, shapes)

  def _place(self, name, modules, spec):
    """(module, whether its inputs are scaled) of a projection of ours."""
    is_inner = name == "up" and spec.is_gated
    return modules["down" if is_inner else name][1], is_inner

  def tensors(self, one, family, spec, params):
    """Parameters in the shapes of the files, and the table of their tensors."""
    found, table = {}, {}
    for name in one.targets:
      tensor, is_inner = self._place(name, peft.modules_of(family, spec), spec)
      if tensor.part != (0, 1, 1):
        raise ValueError(f"{peft.module_name(tensor)} holds several projections in one matrix, "
                         "whose factors the format peft cannot tell apart; merge them "
                         "(export.format=huggingface).")
      path = f"{sites.PROJECTIONS[name]}/factor"
      leaf = tree.flatten(params)[path]
      found[path] = leaf[:, None, :] if is_inner else leaf[:, :, None]
      table[path] = _entry(path, found[path].shape[1:], [
          f"{peft.PREFIX}{peft.module_name(tensor, layer)}.ia3_l"
          for layer in range(spec.num_layers)])
    return tree.nest(found), table

  def config(self, one, family, spec):
    """Entries of adapter_config.json."""
    places = [self._place(name, peft.modules_of(family, spec), spec) for name in one.targets]
    last = lambda tensor: peft.module_name(tensor).rpartition(".")[2]
    return dict(peft_type="IA3", target_modules=[last(tensor) for tensor, _ in places],
                feedforward_modules=[last(tensor) for tensor, inner in places if inner],
                fan_in_fan_out=False, modules_to_save=None, init_ia3_weights=True)


class _Prompt:
  """PROMPT_TUNING: `prompt_embeddings` [P, D], of causal models with rotary positions."""

  def fields(self, path, family, spec):
    """As `peft.fields`."""
    file, config = pathlib.Path(path) / peft.CONFIG, peft.read_config(path)
    length, width = config.get("num_virtual_tokens"), config.get("token_dim")
    if not isinstance(length, int) or length < 1:
      raise ValueError(f"{file}: num_virtual_tokens is {length!r}; expected a positive number.")
    if width not in (None, spec.width):
      raise ValueError(f"{file}: token_dim is {width!r}; this model has width {spec.width}.")
    return dict(name="prompt_tuning", length=length)

  def load(self, path, base, family, spec, shapes):
    """As `peft.load`."""
    del base, family, spec
    return _stacked(path, {"prompt/prompt": ["prompt_embeddings"]}, shapes)

  def tensors(self, one, family, spec, params):
    """The prompt as its perceptron makes it, and the table of its tensor."""
    del family
    prompt = jax.jit(one.prompt)(params["prompt"])
    return ({"prompt": {"prompt": prompt}}, {"prompt/prompt": _entry(
        "prompt/prompt", (one.length, spec.width), ["prompt_embeddings"], stacked=False)})

  def config(self, one, family, spec):
    """Entries of adapter_config.json."""
    del family
    return dict(peft_type="PROMPT_TUNING", num_virtual_tokens=one.length, token_dim=spec.width,
                num_layers=spec.num_layers, num_attention_heads=spec.num_heads,
                num_transformer_submodules=1, prompt_tuning_init="RANDOM")


# By the peft_type of adapter_config.json, and by the adaptation.
KINDS: dict[str, Any] = {"IA3": _Factors(), "PROMPT_TUNING": _Prompt()}
KINDS_OF: dict[type, Any] = {vectors.IA3: KINDS["IA3"], inserted.Prompt: KINDS["PROMPT_TUNING"]}


def kind_of(path: str, is_causal: bool) -> Any:
  """Returns the kind of an adapter, or the module `interop.peft` for LoRA and all unknown ones.

  Raises:
    ValueError: a prompt of a model that is not causal, where PEFT's prompt reads the text.
  """
  config = peft.read_config(path)
  kind = config.get("peft_type") if isinstance(config, dict) else None
  if kind == "PROMPT_TUNING" and not is_causal:
    raise ValueError(f"{pathlib.Path(path) / peft.CONFIG}: peft_type PROMPT_TUNING is computed of "
                     "causal models alone; this one reads both sides.")
  return KINDS.get(kind, peft) if isinstance(kind, str) else peft


def adaptation_of(spec: transformer.Transformer) -> types.Adaptation | None:
  """Returns the first adaptation of a model that the format holds, other than LoRA."""
  return next((one for one in spec.adaptations if type(one) in KINDS_OF), None)
