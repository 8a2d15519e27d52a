r"""Makes the reports of docs/gallery.md: short runs, their reports and one comparison.

Contents: RUNS, config_of, make, main.

  python docs/gallery.py --workdir=runs/gallery

Ten minutes on two idle CPU cores; a second call goes on where the first was stopped. The
reports go to docs/assets/gallery. What names the machine is left out of them.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import sys
from typing import Any, Sequence

from mdx import modes
from mdx.configs import ar
from mdx.configs import diffusion
from mdx.configs import mdpo
from mdx.configs import report
from mdx.report import page

FOLDER = pathlib.Path(__file__).resolve().parent / "assets" / "gallery"
RUNS = ("diffusion", "ar", "mdpo")
_PICTURES = {"diffusion": "learning_curve.png", "ar": "learning_curve.png", "mdpo": "accuracy.png"}


def config_of(name: str, steps: int = 0) -> Any:
  """The config of a run; `steps`, if any, of every training in it."""
  if name == "mdpo":
    config = mdpo.get_config()
    if steps:
      config.init.base.update(steps=steps, eval_steps=steps, checkpoint_steps=steps)
      config.update(updates=steps, eval_steps=steps, checkpoint_steps=steps)
      config.eval.update(nfe=(2, 4), num_examples=64, batch_size=64, pass_k=())
    return config
  config = {"diffusion": diffusion, "ar": ar}[name].get_config()
  config.update(steps=steps or 150, batch_size=16, log_steps=10, eval_steps=50)
  config.eval.update(num_batches=2, final_samples=1)
  return config


def _without_machine(workdir: pathlib.Path) -> pathlib.Path:
  """Writes the report of a run again without the name of its system; returns the file."""
  file = workdir / page.ENVIRONMENT
  found = json.loads(file.read_text(encoding="utf-8"))
  file.write_text(json.dumps(found | {"system": found["system"].split("-")[0]}, indent=1))
  return page.write(workdir)


def make(workdir: pathlib.Path, folder: pathlib.Path, steps: int = 0,
         names: Sequence[str] = RUNS) -> None:
  """Trains what is missing under `workdir` and writes reports and pictures into `folder`."""
  workdir.mkdir(parents=True, exist_ok=True)
  folder.mkdir(parents=True, exist_ok=True)
  folder = folder.resolve()
  with contextlib.chdir(workdir):  # so that reports name runs by short paths
    for name in names:
      config, run = config_of(name, steps), pathlib.Path("runs") / name
      modes.run("rl" if name == "mdpo" else "train", config, str(run))
      shutil.copy(_without_machine(run), folder / f"{name}.html")
      shutil.copy(run / _PICTURES[name], folder / f"{name}.png")
    config = report.get_config(",".join(f"runs/{name}" for name in names[:2]))
    modes.run("report", config, "runs/compared")
    shutil.copy(pathlib.Path("runs/compared") / page.NAME, folder / "compared.html")


def main(argv: Sequence[str]) -> None:
  """Runs `--workdir=DIRECTORY`."""
  if len(argv) != 1 or not argv[0].startswith("--workdir="):
    raise SystemExit("expected --workdir=DIRECTORY.")
  make(pathlib.Path(argv[0].partition("=")[2]), FOLDER)


if __name__ == "__main__":
  main(sys.argv[1:])
