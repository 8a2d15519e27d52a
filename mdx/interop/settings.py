"""Settings of a Hugging Face directory: config.json, generation_config.json, the ids they name.

Contents: CONFIG, SPECIAL_IDS, load_config, special_ids, end_ids, label_names.
"""

from __future__ import annotations

import pathlib
from typing import Any

from mdx.utils import readers

CONFIG, _GENERATION = "config.json", "generation_config.json"
SPECIAL_IDS = {"mask_id": "mask_token_id", "pad_id": "pad_token_id", "eos_id": "eos_token_id",
               "bos_id": "bos_token_id"}


def load_config(path: str | pathlib.Path) -> dict[str, Any]:
  """Reads config.json.

  Raises:
    ValueError: it is missing or malformed.
  """
  return _read(pathlib.Path(path) / CONFIG)


def _read(file: pathlib.Path) -> dict[str, Any]:
  if not file.exists():
    raise ValueError(f"{file} cannot be read (it is not there); a Hugging Face directory has one "
                     "beside its weights.")
  found = readers.read_json(file, "fetch it again")
  if not isinstance(found, dict):
    raise ValueError(f"{file} holds no object; expected the settings of a model.")
  return found


def special_ids(path: str | pathlib.Path, num_ids: int) -> dict[str, int]:
  """Special ids that the settings name, as arguments of `tokenizer.build`.

  Of several end tokens the first counts, see `end_ids`. An id that is left open is absent.

  Args:
    path: the directory.
    num_ids: rows of the embedding.

  Raises:
    ValueError: an id is not a row of the embedding.
  """
  config, file = load_config(path), pathlib.Path(path) / CONFIG
  found = {ours: _ids(config, theirs, file, num_ids) for ours, theirs in SPECIAL_IDS.items()}
  found["eos_id"] = end_ids(path, num_ids)
  return {ours: ids[0] for ours, ids in found.items() if ids}


def end_ids(path: str | pathlib.Path, num_ids: int) -> tuple[int, ...]:
  """Every id that ends a text: those of config.json, then those of generation_config.json.

  Raises:
    ValueError: as `special_ids`, or a malformed file.
  """
  config, other = pathlib.Path(path) / CONFIG, pathlib.Path(path) / _GENERATION
  found = _ids(_read(config), SPECIAL_IDS["eos_id"], config, num_ids)
  if other.is_file():
    found += _ids(_read(other), SPECIAL_IDS["eos_id"], other, num_ids)
  return tuple(dict.fromkeys(found))


def label_names(path: str | pathlib.Path) -> tuple[str, ...]:
  """Names of the labels of a model that has some, by number; LABEL_0 and so on where none are said.

  Raises:
    ValueError: names that do not count from 0.
  """
  config, file = load_config(path), pathlib.Path(path) / CONFIG
  number = config.get("num_labels", 2)
  names = config.get("id2label")
  if names is None and isinstance(number, int) and 0 < number < 2**20:
    names = {str(i): f"LABEL_{i}" for i in range(number)}
  if not isinstance(names, dict) or any(str(i) not in names for i in range(len(names))) or not all(
      isinstance(name, str) for name in names.values()):
    raise ValueError(f"{file}: id2label is {names!r:.60}; expected a name for every number from 0.")
  return tuple(names[str(i)] for i in range(len(names)))


def _ids(config: dict[str, Any], key: str, file: pathlib.Path, num_ids: int) -> list[int]:
  """The ids of an entry, which may have one, several or none."""
  value = config.get(key)
  ids = [i for i in (value if isinstance(value, list) else [value]) if i is not None and i != -1]
  for i in ids:
    if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < num_ids:
      raise ValueError(f"{file}: {key} {i!r} is not among the {num_ids} ids of the embedding.")
  return ids
