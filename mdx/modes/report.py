"""Mode report: the page of a finished run again, or one of several runs.

Contents: run.
"""

from __future__ import annotations

import pathlib
from typing import Any, Mapping

from mdx.report import page
from mdx.utils import console


def run(config: Mapping[str, Any], workdir: str) -> dict[str, Any]:
  """Writes the report of a finished run again, or one of several runs into the workdir."""
  paths = [path.strip() for path in config["workdirs"].split(",") if path.strip()]
  if not paths:
    raise ValueError("config.workdirs is empty; give the workdirs of runs, separated by commas.")
  if len(paths) == 1:
    file = page.write(paths[0])
  else:
    pathlib.Path(workdir).mkdir(parents=True, exist_ok=True)
    file = page.compare(paths, pathlib.Path(workdir) / page.NAME)
  console.say(f"report: {file}")
  return {}
