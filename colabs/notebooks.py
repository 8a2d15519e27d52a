r"""Keeps the notebooks of this folder: their address, their badge, their stored outputs.

Contents: address, shrink, run, main.

  python colabs/notebooks.py address https://github.com/OWNER/NAME
  python colabs/notebooks.py run sampling mdpo

`address` is given once, when the repository has a public address: it sets SOURCE of every
notebook and the badge under its title. `run` executes notebooks from top to bottom on this machine
and stores their outputs, made small; without names all of them. It needs nbclient and ipykernel
(extra `test`).
"""

from __future__ import annotations

import base64
import io
import pathlib
import re
import sys
from typing import Any, Callable, Sequence

FOLDER = pathlib.Path(__file__).resolve().parent
MOST_HTML = 60_000  # characters of an output that is a page
MOST_LINES = 30  # of a text
_BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"


def address(notebook: dict[str, Any], url: str, name: str) -> None:
  """Sets SOURCE and the badge of a notebook.

  Args:
    notebook: a notebook of format 4, changed in place.
    url: https://github.com/OWNER/NAME.
    name: file name of the notebook.

  Raises:
    ValueError: another kind of address.
  """
  found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?", url)
  if not found:
    raise ValueError(f"expected https://github.com/OWNER/NAME, got {url!r}.")
  link = f"https://colab.research.google.com/github/{found[1]}/blob/main/colabs/{name}"
  title, setup = notebook["cells"][:2]
  lines = [x for x in "".join(title["source"]).split("\n") if not x.startswith(_BADGE)]
  title["source"] = "\n".join([lines[0], "", f"{_BADGE}({link})", "", *lines[1:]]).replace(
      "\n\n\n", "\n\n")
  setup["source"] = re.sub(r'^SOURCE = "[^"]*"', f'SOURCE = "git+https://github.com/{found[1]}"',
                           "".join(setup["source"]), flags=re.M)


def _small_png(data: str) -> str:
  from PIL import Image  # pylint: disable=g-import-not-at-top
  file = io.BytesIO()
  with Image.open(io.BytesIO(base64.b64decode(data))) as image:
    image.convert("RGB").quantize(64).save(file, "png", optimize=True)
  return base64.b64encode(file.getvalue()).decode()


def _joined(outputs: list[Any]) -> list[Any]:
  """Outputs with neighbouring texts of one stream as one."""
  found = []
  for output in outputs:
    last = found[-1] if found else {}
    if output["output_type"] == "stream" and output.get("name") == last.get("name"):
      last["text"] = "".join(last["text"]) + "".join(output["text"])
    else:
      found.append(output)
  return found


def shrink(notebook: dict[str, Any]) -> None:
  """Makes stored outputs small, in place: pictures of 64 colours, long texts cut, no paths."""
  for cell in notebook["cells"]:
    if "outputs" in cell:
      cell["outputs"] = _joined(cell["outputs"])
    for output in cell.get("outputs", ()):
      data = output.get("data", {})
      if "image/png" in data:
        data["image/png"] = _small_png(data["image/png"])
      if len("".join(data.get("text/html", ""))) > MOST_HTML:
        data["text/html"] = "<p>(A page with a viewer: run the notebook to see it.)</p>"
      if len(data) > 1:
        data.pop("text/plain", None)
      if output["output_type"] == "stream":
        lines = re.sub(r"/tmp/\w+", "WORKDIR", "".join(output["text"])).splitlines()
        if len(lines) > MOST_LINES:
          half = MOST_LINES // 2
          lines[half:-half] = [f"... ({len(lines) - 2 * half} lines)"]
        output["text"] = "\n".join(lines) + "\n"


def run(path: pathlib.Path, edit: Callable[[str], str] = str) -> Any:
  """Executes a notebook, its code cells changed by `edit`; returns it with outputs, not shrunk."""
  import nbclient  # pylint: disable=g-import-not-at-top
  import nbformat  # pylint: disable=g-import-not-at-top
  notebook = nbformat.read(path, as_version=4)
  for cell in notebook.cells:
    cell.source = edit(cell.source) if cell.cell_type == "code" else cell.source
  nbclient.NotebookClient(notebook, timeout=1800, kernel_name="python3", record_timing=False,
                          resources={"metadata": {"path": str(path.parent)}}).execute()
  notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"],
                       "language_info": {"name": "python"}}
  return notebook


def _write(path: pathlib.Path, notebook: Any) -> None:
  import nbformat  # pylint: disable=g-import-not-at-top
  path.write_text(nbformat.writes(nbformat.from_dict(notebook)) + "\n", encoding="utf-8")


def main(argv: Sequence[str]) -> None:
  """Runs `address URL` or `run [NAME ...]`."""
  import nbformat  # pylint: disable=g-import-not-at-top
  paths = sorted(FOLDER.glob("*.ipynb"))
  if argv[:1] == ["address"] and len(argv) == 2:
    for path in paths:
      notebook = nbformat.read(path, as_version=4)
      address(notebook, argv[1], path.name)
      _write(path, notebook)
  elif argv[:1] == ["run"]:
    for path in (path for path in paths if not argv[1:] or path.stem in argv[1:]):
      notebook = run(path)
      shrink(notebook)
      _write(path, notebook)
      print(f"{path.name}: {path.stat().st_size:,d} bytes", flush=True)
  else:
    raise SystemExit(f"expected `address URL` or `run [NAME ...]`, got {' '.join(argv)!r}.")


if __name__ == "__main__":
  main(sys.argv[1:])
