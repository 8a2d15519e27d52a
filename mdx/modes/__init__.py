"""The modes of a run: one file each, with `run(config, workdir)`.

Contents: MODES, run.

A mode is imported when it is asked for: those that need no training start without it.
"""

from __future__ import annotations

import importlib
from typing import Any, Mapping

from mdx import config as config_lib
from mdx.utils import hub

# config.mode -> its file.
MODES = {"train": "train", "rl": "rl", "sample": "sample", "eval": "evaluate", "export": "export",
         "predict": "predict", "embed": "embed", "search": "search", "claim": "claim",
         "table": "table", "decoding": "decoding", "compile": "compile", "report": "report"}


def run(mode: str, config: Mapping[str, Any], workdir: str) -> dict[str, Any]:
  """Runs a config in a mode; returns its results.

  Raises:
    ValueError: no such mode, or whatever the mode refuses.
  """
  if mode not in MODES:
    raise ValueError(f"unknown config.mode {mode!r}; choose from {', '.join(MODES)}."
                     + config_lib.did_you_mean(str(mode), MODES))
  config = hub.localised(config_lib.to_dict(config))
  return importlib.import_module(f"mdx.modes.{MODES[mode]}").run(config, workdir)
