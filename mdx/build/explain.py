"""Explanations of the keys of a config: default, type, and the text that stands with them.

Contents: Key, of_config, text, page.

Convention: fields of components (objective, network, sampler, ...) are explained by the docstrings
of their classes, all other keys by the comments of the config files, first of the file itself and
then of those that it imports. Nothing is explained in a second place.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pathlib
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mdx import config as config_lib
from mdx import objectives
from mdx import samplers
from mdx import tasks
from mdx.corruption import schedule
from mdx.corruption import time
from mdx.data import pipeline
from mdx.data import sources
from mdx.eval.evaluators import linear_probe
from mdx.networks import attention
from mdx.networks import transformer
from mdx.train import optimizer
from mdx.utils import comments

# Last part of a key -> name -> class of its table, or the one class.
_COMPONENTS: dict[str, Mapping[str, type] | type] = {
    "objective": objectives.OBJECTIVES | objectives.POLICIES, "network": transformer.NETWORKS,
    "optimizer": optimizer.OPTIMIZERS, "sampler": samplers.SAMPLERS, "source": sources.SOURCES,
    "task": tasks.TASKS, "schedule": schedule.SCHEDULES, "time_density": time.DENSITIES,
    "attention": attention.ATTENTIONS,
    "data": pipeline.Config, "model": objectives.OBJECTIVES, "token": objectives.OBJECTIVES,
    "diffusion": objectives.OBJECTIVES["diffusion"], "documents": sources.SOURCES,
    "probe": linear_probe.Probe}
_WIDTH = 98
_KINDS = {bool: "True or False", int: "whole number", float: "number", str: "text", tuple: "list",
          list: "list", type(None): "anything"}


class Key(NamedTuple):
  """One key of a config.

  Attributes:
    name: dotted.
    value: its default; a table (dict) if it has keys of its own, which follow.
    kind: its type in words.
    about: the explanation, or "".
  """
  name: str
  value: Any
  kind: str
  about: str


def of_config(config: Mapping[str, Any], file: str | pathlib.Path) -> list[Key]:
  """Every key of a config that came from a file, tables before their keys.

  A key without a comment has that of its table. A table that is a whole config itself, such as
  `init.base`, is one key.
  """
  folder = pathlib.Path(importlib.import_module("mdx.configs").__path__[0])
  found = [comments.of_file(x) for x in comments.files_of(file, folder)]

  def said(key):
    parts = key.split(".")
    ends = [key, *(".".join(parts[i:]) for i in range(1, len(parts) - 1))]  # `run.eval.measures`
    return next((one[end] for end in ends for one in found if end in one), "")

  return list(_walk(config_lib.to_dict(config), "", said))


def _walk(table: Mapping[str, Any], above: str, said, of_table: str = "") -> Iterator[Key]:
  classes = _classes(table, above)
  for name, value in table.items():
    key = f"{above}{name}"
    about = said(key) or of_table
    if name == "name" and classes:
      about = f"one of {', '.join(_table(above))}"
    elif name != "name":
      about = next((text for cls in classes if (text := attributes(cls).get(name))), about)
    if isinstance(value, dict) and value:
      is_config = "mode" in value or {"steps", "network"} <= set(value)
      kind = "config of its own; see its file" if is_config else "table"
      yield Key(key, value, kind, about)
      if not is_config:
        yield from _walk(value, f"{key}.", said, about)
    else:
      kind = "table without keys" if isinstance(value, dict) else _KINDS[type(value)]
      yield Key(key, value, kind, about)


def _table(above: str) -> Mapping[str, type]:
  """Name -> class of the table at a dotted key with a dot behind; {} where there is no choice."""
  found = _COMPONENTS.get(above[:-1].rpartition(".")[2], {})
  return {} if isinstance(found, type) else found


def _classes(table: Mapping[str, Any], above: str) -> list[type]:
  """Classes whose fields the keys of a table are: the one that is named first."""
  found = _COMPONENTS.get(above[:-1].rpartition(".")[2], {})
  if isinstance(found, type):
    return [found]
  named = found.get(str(table.get("name")))
  return ([named] if named else []) + [cls for cls in found.values() if cls is not named]


def attributes(cls: type) -> dict[str, str]:
  """Field -> explanation, of the `Attributes:` of a class and of those that it is derived from."""
  found: dict[str, str] = {}
  for one in cls.__mro__:
    doc = inspect.cleandoc(one.__dict__.get("__doc__") or "")
    section = (re.split(r"^Attributes\b.*:$\n", doc, maxsplit=1, flags=re.M) + [""])[1]
    names: list[str] = []
    for line in section.splitlines():
      match = re.fullmatch(r"  ([a-z]\w*(?:, [a-z]\w*)*): (.*)", line)
      if match:
        names = [name for name in match[1].split(", ") if name not in found]
        found |= dict.fromkeys(names, match[2])
      elif line.startswith("    "):
        found |= {name: f"{found[name]} {line.strip()}" for name in names}
      elif line.strip():
        break
  return found


def more(keys: list[Key]) -> dict[str, list[str]]:
  """Table -> fields that its class has beside its keys, which a config file may set."""
  tables = {key.name: key.value for key in keys if key.kind == "table"}
  found = {}
  for name, table in tables.items():
    cls = (_classes(table, f"{name}.") or [None])[0]
    if cls is not None and ("name" in table or isinstance(_COMPONENTS.get(name), type)):
      own = [x for x in attributes(cls) if x in {f.name for f in dataclasses.fields(cls)}]
      if rest := [x for x in own if x not in table]:
        found[name] = rest
  return found


def _value(value: Any) -> str:
  return repr(tuple(value) if isinstance(value, list) else value)


def text(keys: list[Key]) -> str:
  """The keys for a terminal: an override a key with its default, its type and explanation."""
  lines, rest = [], more(keys)
  for key in keys:
    if key.kind == "table":
      lines += ["", f"{key.name}: {key.about}" if key.about else f"{key.name}"]
      if key.name in rest:
        lines.append(textwrap.fill(f"further fields, in a config file: {', '.join(rest[key.name])}",
                                   _WIDTH, initial_indent="  ", subsequent_indent="    "))
      continue
    default = "" if isinstance(key.value, dict) else f"={_value(key.value)}"
    lines.append(f"  --config.{key.name}{default}"[:_WIDTH])
    lines.append(textwrap.fill("; ".join(filter(None, (key.kind, key.about))), _WIDTH,
                               initial_indent=" " * 6, subsequent_indent=" " * 6))
  return "\n".join(lines).strip("\n")


def page(keys: list[Key]) -> str:
  """The keys as a table in Markdown."""
  escape = lambda x: x.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
  lines = ["| Key | Default | Type | |", "| --- | --- | --- | --- |"]
  for key in keys:
    shown = "" if isinstance(key.value, dict) else f"`{_value(key.value)}`".replace("|", "\\|")
    lines.append(f"| `{key.name}` | {shown} | {key.kind} | {escape(key.about)} |")
  return "\n".join(lines)
