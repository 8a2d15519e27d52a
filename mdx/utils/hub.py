"""Models of the Hugging Face hub by their names, downloaded once into the library's cache.

Contents: local, localised.

Convention: a name is ORGANISATION/MODEL, or ORGANISATION/MODEL@REVISION, where neither such a path
nor a folder called ORGANISATION exists. What is there is a directory of the cache from then on.
Downloads are the library's: they go on where they stopped, and HF_HOME, HF_TOKEN and
HF_HUB_OFFLINE=1 (nothing but the cache) are read.
"""

from __future__ import annotations

import functools
import pathlib
import re
from typing import Any, Mapping

from mdx.utils import console

_NAME = re.compile(r"([A-Za-z0-9][\w.-]*)/([A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")
# Weights that are no pickles, and what stands beside them.
_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.py")


def local(path: str) -> str:
  """Returns the directory of a model of the hub, which is downloaded; any other path as it is.

  Raises:
    ValueError: it cannot be had.
  """
  found = _NAME.fullmatch(path)
  if found is None or pathlib.Path(path).exists() or pathlib.Path(found[1]).exists():
    return path
  return _fetched(f"{found[1]}/{found[2]}", found[3])


@functools.lru_cache(maxsize=16)
def _fetched(name: str, revision: str | None) -> str:
  try:
    import huggingface_hub  # pylint: disable=g-import-not-at-top  (an extra)
  except ImportError:
    raise ValueError(f"{name} is no file or directory here; to download a model of that name from "
                     "the Hugging Face hub, pip install 'mdx-lm[hub]'.") from None
  try:
    path = huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=list(_FILES))
  except Exception as error:  # pylint: disable=broad-except  (of the library and of its HTTP)
    reason = " ".join(str(error).split())
    raise ValueError(f"{name} is no file or directory here, and the Hugging Face hub did not give "
                     f"it ({type(error).__name__}: {reason:.300}); check the name, the revision "
                     f"{revision or 'main'!r} and the network, or give a directory.") from None
  console.say(f"{name} of the Hugging Face hub: {path}")
  return path


def localised(config: Mapping[str, Any]) -> Mapping[str, Any]:
  """Returns a config whose models of the hub are directories: those of `init`, of its base, of
  `frozen`, and of the `run` of a claim.

  Raises:
    ValueError: see `local`.
  """
  changed = dict(config)
  if isinstance(init := config.get("init"), Mapping):
    changed["init"] = {**init, **{k: local(init[k]) for k in ("checkpoint", "adapter")
                                  if isinstance(init.get(k), str)}}
    if isinstance(init.get("base"), Mapping):
      changed["init"]["base"] = localised(init["base"])
  if isinstance(run := config.get("run"), Mapping):
    changed["run"] = localised(run)
  if isinstance(frozen := config.get("frozen"), Mapping):
    changed["frozen"] = {name: _of_frozen(one) if isinstance(one, Mapping) else one
                         for name, one in frozen.items()}
  return changed


def _of_frozen(model: Mapping[str, Any]) -> Mapping[str, Any]:
  """A table of `frozen`: its checkpoint, or the config that trains it first."""
  found = dict(model)
  if isinstance(model.get("checkpoint"), str):
    found["checkpoint"] = local(model["checkpoint"])
  if isinstance(model.get("base"), Mapping):
    found["base"] = localised(model["base"])
  return found
