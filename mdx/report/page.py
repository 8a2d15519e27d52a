"""report.html: everything about a run, or several beside one another, in one file.

Contents: environment, write, compare.

Convention: the file needs nothing else and no network: pictures are data, and the denoising
viewer stands in a frame of its own. Everything that a run wrote is text here, never markup.
"""

from __future__ import annotations

import base64
import html
import importlib.metadata
import importlib.resources
import json
import math
import os
import pathlib
import platform
import resource
import string
import time
from typing import Any, Iterator, Mapping, NamedTuple, Sequence

import jax

from mdx import metrics
from mdx.report import curves
from mdx.report import predictions
from mdx.utils import files
from mdx.utils import readers

NAME, ENVIRONMENT = "report.html", "environment.json"
_PACKAGES = ("mdx", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
_VIEWERS = {"trajectories.html": "trajectories before and after", "samples.html": "samples"}
_PLOTS = {"accuracy.png": "accuracy and over-denoising", "claim.png": "the claim"}
_ROWS = 8  # of samples
_FIGURES = 6  # learning curves that are shown at once
_TEXT = 4000  # characters of one of them


class _Run(NamedTuple):
  """Contents of a workdir."""
  name: str
  path: pathlib.Path
  config: dict[str, Any]
  results: dict[str, Any]
  lines: list[dict[str, Any]]
  environment: dict[str, Any]


def environment(seconds: float) -> dict[str, Any]:
  """Versions, devices and the most memory that this process has used until now."""
  versions = {"python": platform.python_version()}
  for package in _PACKAGES:
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0)
           for device in jax.local_devices() if device.platform != "cpu"]
  return {"versions": versions, "system": platform.platform(),
          "devices": f"{jax.device_count()} {jax.devices()[0].device_kind}",
          "processes": jax.process_count(), "wall_seconds": seconds,
          "peak_host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
          "peak_device_bytes": max(peaks, default=0),
          "finished": time.strftime("%Y-%m-%d %H:%M:%S %Z")}


def _json(path: pathlib.Path) -> dict[str, Any]:
  try:
    value = readers.read_json(path)
  except (OSError, ValueError):
    return {}
  return value if isinstance(value, dict) else {}


def _read(path: str | os.PathLike) -> _Run:
  """Raises ValueError if nothing there is a run."""
  path = pathlib.Path(path)
  file = path / "metrics.jsonl"
  results = _json(path / "results.json") or _json(path / "eval.json")
  lines = metrics.read(file) if file.is_file() else []
  config = _json(path / "config.json").get("config", {})
  if not (results or lines or config):
    raise ValueError(f"{path} holds no run (no results.json, metrics.jsonl or config.json); give "
                     "the workdirs of runs.")
  return _Run(path.name or str(path), path, config, results, lines, _json(path / ENVIRONMENT))


def flat(value: Any, above: str = "") -> dict[str, Any]:
  """{dotted path: leaf} of nested dicts."""
  if not isinstance(value, Mapping):
    return {above: value}
  found: dict[str, Any] = {}
  for key, inner in value.items():
    found |= flat(inner, f"{above}.{key}" if above else str(key))
  return found


def _say(value: Any) -> str:
  if isinstance(value, bool) or not isinstance(value, (int, float)):
    return value if isinstance(value, str) else json.dumps(value, default=str)
  if isinstance(value, int) or not math.isfinite(value):
    return f"{value:,}" if isinstance(value, int) else str(value)
  return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _cell(value: Any, tag: str = "td") -> str:
  is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
  kind = ' class="number"' if is_number else ""
  return f"<{tag}{kind}>{html.escape(_say(value))}</{tag}>"


def _table(rows: Sequence[Sequence[Any]], head: Sequence[str] = ()) -> str:
  top = f"<thead><tr>{''.join(_cell(h, 'th') for h in head)}</tr></thead>" if head else ""
  body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
  return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>'


def _image(data: bytes, kind: str, caption: str) -> str:
  source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
  label = html.escape(caption)
  return (f'<figure><img src="{source}" alt="{label}"><figcaption>{label}</figcaption></figure>')


def _scalars(results: Mapping[str, Any]) -> dict[str, Any]:
  """The figures of results.json that fit into a line each."""
  return {key: value for key, value in flat(results).items()
          if isinstance(value, (int, float, str)) and key != "identity"}


def _accuracies(results: Mapping[str, Any]) -> str:
  """The table of an RL run: models x denoising steps, in percent."""
  table = results.get("table")
  if not isinstance(table, list) or not table:
    return ""
  steps = sorted({row["nfe"] for row in table})
  arms = dict.fromkeys((row["model"], row["remasking"]) for row in table)
  rows = []
  for model, remasking in arms:
    cells = {row["nfe"]: f"{100 * row['accuracy']:.1f} ± {100 * row['stderr']:.1f}" + (
        "" if row["over_denoising"] is None else f" ({100 * row['over_denoising']:.1f})")
             for row in table if (row["model"], row["remasking"]) == (model, remasking)}
    rows.append([model, remasking.replace("_", " "), *(cells.get(step, "") for step in steps)])
  head = ["model", "remasking", *(f"{step} steps" for step in steps)]
  return ("<p class=\"muted\">Accuracy in percent with its standard error (over-denoised), "
          f"{table[0]['num_examples']} held-out problems.</p>" + _table(rows, head))


def _samples(path: pathlib.Path) -> Iterator[str]:
  """The first texts that a run wrote."""
  for name in ("generations.jsonl", "samples.jsonl"):
    if (path / name).is_file():
      rows = metrics.read_rows(path / name)[:_ROWS]
      for row in rows:
        prompt, text = row.get("prompt", ""), row.get("completion", row.get("text", ""))
        score = f" (score {_say(row['score'])})" if "score" in row else ""
        yield (f"<pre>{html.escape(str(prompt)[:_TEXT])}</pre>" if prompt else "") + (
            f"<pre>{html.escape(str(text)[:_TEXT])}</pre>" + (
                f'<p class="muted">{html.escape(score)}</p>' if score else ""))
      return
  if (path / "samples.txt").is_file():
    texts = (path / "samples.txt").read_text(encoding="utf-8").split("\n---\n")
    for text in texts[:_ROWS]:
      yield f"<pre>{html.escape(text[:_TEXT])}</pre>"


def _environment(run: _Run) -> str:
  known = run.environment
  if not known:
    return ""
  gib = lambda name: known.get(name, 0) / 2 ** 30
  rows = [("wall time of the last start", f"{known['wall_seconds']:,.0f} s"),
          ("most memory, host", f"{gib('peak_host_bytes'):.2f} GiB")]
  if known.get("peak_device_bytes"):
    rows.append(("most memory, a device", f"{gib('peak_device_bytes'):.2f} GiB"))
  rows += [("devices", known["devices"]), ("processes", known["processes"]),
           ("system", known["system"]), ("finished", known["finished"])]
  seconds = run.results.get("seconds")
  if isinstance(seconds, dict):
    rows += [(f"seconds: {stage}", f"{value:,.1f}") for stage, value in seconds.items()]
  return _table(rows) + "<h3>Versions</h3>" + _table(list(known["versions"].items()))


def _config(config: Mapping[str, Any]) -> str:
  rows = sorted(flat(config).items())
  return f"<details><summary>{len(rows)} values</summary>{_table(rows)}</details>" if rows else ""


def _sections(run: _Run) -> Iterator[tuple[str, str]]:
  claim = run.path / "claim.txt"
  text = f"<pre>{html.escape(claim.read_text(encoding='utf-8'))}</pre>" if claim.is_file() else ""
  figures = _table(list(_scalars(run.results).items()))
  accuracies = _accuracies(run.results)
  if text or accuracies:
    figures = f"<details><summary>all figures</summary>{figures}</details>" if run.results else ""
  yield "Results", text + accuracies + (figures if run.results else "")
  plots = [_image((run.path / name).read_bytes(), "png", caption)
           for name, caption in _PLOTS.items() if (run.path / name).is_file()]
  yield "Accuracy", "".join(plots)
  yield from _labels(run)
  yield "Learning curves", _figures({run.name: run.lines})
  yield "Samples", "".join(_samples(run.path))
  for name, caption in _VIEWERS.items():
    if (run.path / name).is_file():
      page = html.escape((run.path / name).read_text(encoding="utf-8"), quote=True)
      yield f"Denoising: {caption}", (f'<iframe sandbox="allow-scripts" loading="lazy" '
                                      f'title="{caption}" srcdoc="{page}"></iframe>')
  yield "Time, memory and versions", _environment(run)
  yield "Config", _config(run.config)


def _labels(run: _Run) -> Iterator[tuple[str, str]]:
  """Confusion matrices and examples of a fine-tuned model."""
  names = run.config.get("objective", {}).get("labels", ())
  for split, file in predictions.FILES.items():
    rows = predictions.read(run.path / file)
    head, counts = predictions.confusion(rows, names)
    columns, worst = predictions.examples(rows, names)
    if counts:
      yield f"Labels: {split}", _table(counts, head)
    if worst:
      yield f"Most wrong: {split}", _table(worst, columns)


def _figures(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
  pictures = [_image(svg, "svg+xml", caption) for caption, svg in curves.draw(runs)]
  grid = lambda shown: f'<div class="figures">{"".join(shown)}</div>' if shown else ""
  rest = grid(pictures[_FIGURES:])
  if rest:
    rest = f"<details><summary>{len(pictures) - _FIGURES} more</summary>{rest}</details>"
  return grid(pictures[:_FIGURES]) + rest


def _write(path: pathlib.Path, title: str, subtitle: str,
           sections: Iterator[tuple[str, str]]) -> pathlib.Path:
  shown = [(name, body) for name, body in sections if body]
  template = (importlib.resources.files("mdx.report") / "page.html").read_text(encoding="utf-8")
  links = "".join(f'<a href="#s{i}">{html.escape(name)}</a>' for i, (name, _) in enumerate(shown))
  body = "".join(f'<h2 id="s{i}">{html.escape(name)}</h2>{text}'
                 for i, (name, text) in enumerate(shown))
  page = string.Template(template).substitute(
      title=html.escape(title), subtitle=html.escape(subtitle), links=links, body=body)
  files.write_text(path, page, errors="replace")
  return path


def write(workdir: str | os.PathLike) -> pathlib.Path:
  """Writes `workdir/report.html` from what the workdir holds.

  Raises:
    ValueError: no run there.
  """
  run = _read(workdir)
  objective = run.config.get("objective", {}).get("name", "")
  mode = run.config.get("mode", "")
  title = " ".join(x for x in (mode, objective, str(workdir)) if x)
  version = run.environment.get("versions", {}).get("mdx", "")
  subtitle = f"mdx {version}, {run.environment.get('finished', 'not finished')}"
  return _write(run.path / NAME, title, subtitle, _sections(run))


def _names(paths: Sequence[str]) -> list[str]:
  """Short names that differ: as many last parts of each path as that takes."""
  parts = [pathlib.Path(path).absolute().parts for path in paths]
  for count in range(1, max(map(len, parts)) + 1):
    names = ["/".join(part[-count:]) for part in parts]
    if len(set(names)) == len(names):
      return names
  raise ValueError(f"config.workdirs names {paths[0]} twice; give each run once.")


def compare(workdirs: Sequence[str], path: str | os.PathLike) -> pathlib.Path:
  """Writes one report of several runs: results, where configs differ, curves over one another.

  Args:
    workdirs: of the runs.
    path: the file.

  Raises:
    ValueError: no run in one of them, or the same twice.
  """
  names = _names(workdirs)
  runs = [_read(workdir)._replace(name=name) for name, workdir in zip(names, workdirs)]

  def sections():
    results = [_scalars(run.results) for run in runs]
    keys = list(dict.fromkeys(key for one in results for key in one))
    yield "Results", _table([[key, *(one.get(key, "") for one in results)] for key in keys],
                            ["", *names])
    for run in runs:
      yield f"Accuracy: {run.name}", _accuracies(run.results)
    configs = [flat(run.config) for run in runs]
    keys = sorted(set().union(*configs))
    rows = [[key, *(one.get(key, "") for one in configs)] for key in keys
            if len({json.dumps(one.get(key, ""), default=str) for one in configs}) > 1]
    yield "Where the configs differ", _table(rows, ["", *names])
    yield "Learning curves", _figures({run.name: run.lines for run in runs})
    rows = [[key, *(_say(flat(run.environment).get(key, "")) for run in runs)]
            for key in dict.fromkeys(k for run in runs for k in flat(run.environment))]
    yield "Time, memory and versions", _table(rows, ["", *names])

  return _write(pathlib.Path(path), f"{len(runs)} runs", ", ".join(names), sections())
