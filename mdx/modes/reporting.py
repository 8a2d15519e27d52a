"""The end of a run: its environment and its report.

Contents: reported.
"""

from __future__ import annotations

import functools
import pathlib
import time
from typing import Any, Callable, Mapping

import jax

from mdx import config as config_lib
from mdx.build import workdir as workdir_lib
from mdx.report import page
from mdx.utils import console
from mdx.utils import files
from mdx.utils import readers


def _report(path: pathlib.Path) -> str:
  """Writes the page and says where; a run has ended well also if a damaged file prevents that."""
  try:
    return f"report: {page.write(path)}"
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    return (f"no report, for a file of {path} is damaged ({type(error).__name__}: "
            f"{readers.reason(error)}); everything else is written.")


def reported(mode: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
  """A mode that has its workdir for itself and ends with `environment.json` and `report.html`."""

  @functools.wraps(mode)
  def run(config: Mapping[str, Any], workdir: str) -> dict[str, Any]:
    began, path = time.monotonic(), pathlib.Path(workdir)
    outputs = [path / name for name in ("results.json", "eval.json")]
    age = lambda: [file.stat().st_mtime_ns for file in outputs if file.exists()]
    looks_on = config["mode"] == "eval" and "task" not in config
    with workdir_lib.in_use(path, alone=not looks_on):
      before = age()
      results = mode(config, workdir)
      if jax.process_index() == 0:
        if age() != before:  # else the run was finished already
          # Other modes have written theirs already.
          if config["mode"] in ("sample", "eval", "decoding") and not looks_on:
            workdir_lib.write_config(path, config_lib.to_dict(config))
          files.write_json(path / page.ENVIRONMENT, page.environment(time.monotonic() - began))
        console.say(_report(path))
      return results

  return run
