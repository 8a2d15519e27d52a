"""report.html: everything about a run, or several beside one another, in one file.

Contents: environment, write, compare.

Convention: the file needs nothing else and no network: pictures are data, and the denoising
viewer stands in a frame of its own. Everything that a run wrote is text here, never markup. A
figure stands with its error and unit in one cell; terms of `report.words` show their meaning where
the pointer rests, and are listed at the end.
"""

from __future__ import annotations

import base64
import html
import importlib.metadata
import importlib.resources
import json
import os
import pathlib
import platform
import re
import resource
import string
import time
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Sequence

import jax

import mdx
from mdx import metrics
from mdx.report import compared
from mdx.report import curves
from mdx.report import images
from mdx.report import predictions
from mdx.report import words
from mdx.utils import files
from mdx.utils import readers

NAME, ENVIRONMENT = "report.html", "environment.json"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
_VIEWERS = {"trajectories.html": "trajectories before and after", "samples.html": "samples"}
_PLOTS = {"claim.png": "the claim", "decoding.png": "accuracy against network calls"}
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
  versions = {"python": platform.python_version(), "mdx": mdx.__version__}
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


def _term(text: str) -> str:
  """A text as markup; a term shows its meaning and leads to the list at the end."""
  term = words.term_of(text)
  if not term:
    return html.escape(text)
  return (f'<a class="term" href="#{_anchor(term)}" title="{html.escape(words.TERMS[term])}">'
          f"{html.escape(text)}</a>")


def _anchor(term: str) -> str:
  return "term-" + re.sub("[^a-z]+", "-", term.lower())


def _cell(value: Any, markup: Callable[[str], str] = _term) -> str:
  """A cell; numbers, with what follows them, stand on the right."""
  text = value if isinstance(value, str) else words.quantity("", value)
  is_number = re.fullmatch(r"[-+\u2212]?[0-9][0-9.,e+]*( [\u00b1%(\w].*)?", text)
  kind = ' class="number"' if is_number else ""
  return f"<td{kind}>{markup(text)}</td>"


def _table(rows: Sequence[Sequence[Any]], head: Sequence[str] = ()) -> str:
  top = f"<thead><tr>{''.join(f'<th>{_term(h)}</th>' for h in head)}</tr></thead>" if head else ""
  body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
  return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>'


def _image(data: bytes, kind: str, caption: str) -> str:
  source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
  label = html.escape(caption)
  return (f'<figure><img src="{source}" alt="{label}"><figcaption>{label}</figcaption></figure>')


def _rows(results: Mapping[str, Any]) -> list[tuple[str, str]]:
  """(name, value with unit and error) of the figures of results.json."""
  return [(words.name_of(key), words.quantity(key, *figure))
          for key, figure in words.figures(results).items()]


def _accuracies(results: Mapping[str, Any]) -> str:
  """The table of an RL run: models x denoising steps, in percent."""
  table = results.get("table")
  if not isinstance(table, list) or not table:
    return ""
  steps = sorted({row["nfe"] for row in table})
  arms = dict.fromkeys((row["model"], row["remasking"]) for row in table)
  rows = []
  for model, remasking in arms:
    cells = {row["nfe"]: f"{100 * row['accuracy']:.1f} \u00b1 {100 * row['stderr']:.1f}" + (
        "" if row["over_denoising"] is None else f" ({100 * row['over_denoising']:.1f})")
             for row in table if (row["model"], row["remasking"]) == (model, remasking)}
    rows.append([words.label(model), words.name_of(remasking),
                 *(cells.get(step, "") for step in steps)])
  head = ["model", "remasking", *(f"{step} steps" for step in steps)]
  return (f'<p class="muted">Right answers in percent \u00b1 {_term("standard error")} '
          f'({_term("over-denoised")}), after so many {_term("denoising steps")}; '
          f"{table[0]['num_examples']:,} {_term('held-out')} problems.</p>" + _table(rows, head))


def _texts(path: pathlib.Path) -> Iterator[tuple[str, str, str]]:
  """(prompt, text, verdict) of the first texts that a run wrote."""
  for name in ("generations.jsonl", "samples.jsonl"):
    if (path / name).is_file():
      for row in metrics.read_rows(path / name)[:_ROWS]:
        text = _turns(row) or str(row.get("completion", row.get("text", "")))
        verdict = f"{row['model']}, " if "model" in row else ""
        verdict += f"score {words.quantity('', row['score'])}" if "score" in row else ""
        yield str(row.get("prompt", ""))[:_TEXT], text[:_TEXT], verdict
      return
  if (path / "samples.txt").is_file():
    texts = (path / "samples.txt").read_text(encoding="utf-8").split("\n---\n")
    yield from (("", text[:_TEXT], "") for text in texts[:_ROWS])


def _turns(row: Mapping[str, Any]) -> str:
  """The transcript of a sample of several turns, one below another; "" of other samples."""
  turns = row.get("messages", ())
  shown = [f"{'model' if turn['role'] == 'assistant' else turn['role']}: {turn['content']}"
           for turn in turns if turn["role"] != "user"]
  return "\n".join(shown)


def _sample(prompt: str, text: str, verdict: str) -> str:
  parts = [f"<pre>{html.escape(part)}</pre>" for part in (prompt, text) if part]
  return "".join(parts) + (f'<p class="muted">{html.escape(verdict)}</p>' if verdict else "")


def _samples(path: pathlib.Path) -> str:
  return "".join(_sample(*one) for one in _texts(path))


def _environment(run: _Run) -> str:
  known = run.environment
  if not known:
    return ""
  names = ("wall_seconds", "peak_host_bytes", "peak_device_bytes")
  rows = [(words.name_of(name), words.quantity(name, known[name])) for name in names
          if known.get(name)]
  rows += [(name, str(known[name])) for name in ("devices", "processes", "system", "finished")]
  seconds = run.results.get("seconds")
  if isinstance(seconds, dict):
    rows += [(f"time: {stage}", words.quantity("seconds", value))
             for stage, value in seconds.items() if value]
  return _table(rows) + "<h3>Versions</h3>" + _table(list(known["versions"].items()))


def _config(config: Mapping[str, Any]) -> str:
  rows = sorted(words.flat(config).items())
  body = "".join(f"<tr>{_cell(key, html.escape)}{_cell(value, html.escape)}</tr>"
                 for key, value in rows)
  return (f'<details><summary>{len(rows)} values</summary><div class="scroll"><table>{body}</table>'
          "</div></details>" if rows else "")


def _comparisons(results: Mapping[str, Any]) -> str:
  """The table of a claim: a comparison a line."""
  rows = results.get("comparisons")
  if not isinstance(rows, list) or not rows:
    return ""
  number = lambda x: "" if x is None else f"{x:.4g}"
  return _table([(row["name"], number(row["left_mean"]), number(row["right_mean"]), number(
      row["difference"]), ", ".join(map(number, row.get("interval") or ())), number(
          row["p_corrected"]), row["verdict"]) for row in rows],
                ("comparison", "left", "right", "difference", "95 % interval", "p corrected",
                 "verdict"))


def _task(results: Mapping[str, Any]) -> str:
  """The rules of the task."""
  task = results.get("task")
  rules = task.get("rules", "") if isinstance(task, Mapping) else ""
  return f"<p>{html.escape(str(rules))}</p>" if rules else ""


def _sections(run: _Run) -> Iterator[tuple[str, str]]:
  claim = run.path / "claim.txt"
  shown = _table(_rows(run.results)) if run.results else ""
  if claim.is_file():
    shown = f"<pre>{html.escape(claim.read_text(encoding='utf-8'))}</pre>"
  main = _accuracies(run.results) or _comparisons(run.results)
  if main and shown:
    shown = f"<details><summary>all figures</summary>{shown}</details>"
  yield "Results", _task(run.results) + main + shown
  if (run.path / "denoising.svg").is_file():
    picture = _image((run.path / "denoising.svg").read_bytes(), "svg+xml",
                     "held-out problems, step by step; red cells break a rule")
    yield "Before and after", f'<div class="scroll wide">{picture}</div>'
  plots = [_image((run.path / name).read_bytes(), "png", caption)
           for name, caption in _PLOTS.items() if (run.path / name).is_file()]
  yield "Differences" if claim.is_file() else "Accuracy", "".join(plots) + (
      _grid(curves.accuracy(run.results["table"])) if _accuracies(run.results) else "")
  yield "Reconstructions", _picture(images.reconstructions(run.path),
                                    "held-out images, their masks and their reconstructions")
  yield "Denoising of images", _picture(images.decoded(run.path), "held-out images of texts")
  yield from _labels(run)
  yield "Learning curves", _figures({run.name: run.lines})
  for name, caption in _VIEWERS.items():
    if (run.path / name).is_file():
      page = html.escape((run.path / name).read_text(encoding="utf-8"), quote=True)
      yield f"Denoising: {caption}", (f'<iframe sandbox="allow-scripts" loading="lazy" '
                                      f'title="{caption}" srcdoc="{page}"></iframe>')
  yield "Samples", _samples(run.path)
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


def _picture(png: bytes, caption: str) -> str:
  return f'<div class="scroll wide">{_image(png, "png", caption)}</div>' if png else ""


def _grid(pictures: Sequence[tuple[str, bytes]]) -> str:
  shown = "".join(_image(svg, "svg+xml", caption) for caption, svg in pictures)
  return f'<div class="figures">{shown}</div>' if shown else ""


def _figures(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
  pictures = curves.draw(runs)
  rest = _grid(pictures[_FIGURES:])
  if rest:
    rest = f"<details><summary>{len(pictures) - _FIGURES} more</summary>{rest}</details>"
  return _grid(pictures[:_FIGURES]) + rest


def _terms(body: str) -> str:
  """The terms that a page leads to."""
  rows = "".join(f'<dt id="{_anchor(term)}">{html.escape(term)}</dt><dd>{html.escape(text)}.</dd>'
                 for term, text in words.TERMS.items() if f'href="#{_anchor(term)}"' in body)
  return f"<dl>{rows}</dl>" if rows else ""


def _write(path: pathlib.Path, title: str, sentence: str, subtitle: str,
           sections: Iterator[tuple[str, str]]) -> pathlib.Path:
  shown = [(name, body) for name, body in sections if body]
  if terms := _terms("".join(body for _, body in shown)):
    shown.append(("Terms", terms))
  template = (importlib.resources.files("mdx.report") / "page.html").read_text(encoding="utf-8")
  links = "".join(f'<a href="#s{i}">{html.escape(name)}</a>' for i, (name, _) in enumerate(shown))
  body = "".join(f'<h2 id="s{i}">{html.escape(name)}</h2>{text}'
                 for i, (name, text) in enumerate(shown))
  page = string.Template(template).substitute(
      title=html.escape(title), sentence=html.escape(sentence), subtitle=html.escape(subtitle),
      links=links, body=body)
  files.write_text(path, page, errors="replace")
  return path


def write(workdir: str | os.PathLike) -> pathlib.Path:
  """Writes `workdir/report.html` from what the workdir holds.

  Raises:
    ValueError: no run there.
  """
  run = _read(workdir)
  objective = run.config.get("objective", {}).get("name", "")
  title, sentence = words.headline(run.config, run.results) if run.results else ("", "")
  name = " ".join(x for x in (run.config.get("mode", ""), objective, str(workdir)) if x)
  version = run.environment.get("versions", {}).get("mdx", "")
  subtitle = f"{name}, mdx {version}, {run.environment.get('finished', 'not finished')}"
  return _write(run.path / NAME, title or name, sentence, subtitle, _sections(run))


def _names(paths: Sequence[str]) -> list[str]:
  """Short names that differ: as many last parts of each path as that takes."""
  parts = [pathlib.Path(path).absolute().parts for path in paths]
  for count in range(1, max(map(len, parts)) + 1):
    names = ["/".join(part[-count:]) for part in parts]
    if len(set(names)) == len(names):
      return names
  raise ValueError(f"config.workdirs names {paths[0]} twice; give each run once.")


def compare(workdirs: Sequence[str], path: str | os.PathLike) -> pathlib.Path:
  """Writes one report of several runs: what differs in results, configs, curves and samples.

  Args:
    workdirs: of the runs.
    path: the file.

  Raises:
    ValueError: no run in one of them, or the same twice.
  """
  names = _names(workdirs)
  runs = [_read(workdir)._replace(name=name) for name, workdir in zip(names, workdirs)]

  def differing(tables: Sequence[Mapping[str, Any]], head: str = "") -> str:
    keys = list(dict.fromkeys(key for one in tables for key in one))
    rows = [[key, *(one.get(key, "") for one in tables)] for key in keys
            if len({json.dumps(one.get(key, ""), default=str) for one in tables}) > 1]
    return _table(rows, [head, *names]) if rows else ""

  def sections():
    rows, same = compared.rows(names, [run.results for run in runs])
    note = (f'<p class="muted">Errors are {_term("standard error")}s; those of a difference are '
            "taken as independent. Better is a run that is ahead of the next one by two of them. "
            f"{same} figures that are equal in all runs are left out.</p>")
    yield "Results", (note + _table(rows, ["", *names, "difference", "better"]) if rows else
                      "<p>All results are equal.</p>")
    yield "Where the configs differ", differing([dict(sorted(words.flat(run.config).items()))
                                                 for run in runs])
    yield "Learning curves", _figures({run.name: run.lines for run in runs})
    yield "Samples side by side", _side_by_side(names, [list(_texts(run.path)) for run in runs])
    yield "Time, memory and versions", differing(
        [{words.name_of(key): words.quantity(key, value)
          for key, value in words.flat(run.environment).items()} for run in runs])

  title, sentence = compared.headline(names, [run.results for run in runs])
  return _write(pathlib.Path(path), title, sentence, ", ".join(map(str, workdirs)), sections())


def _side_by_side(names: Sequence[str], texts: Sequence[Sequence[tuple[str, str, str]]]) -> str:
  """The first texts of several runs, a column each; a prompt that all have stands once."""
  if sum(map(bool, texts)) < 2:
    return ""
  rows = []
  for i in range(max(map(len, texts))):
    ones = [one[i] if i < len(one) else ("", "", "") for one in texts]
    prompts = {prompt for prompt, text, _ in ones if text}
    if len(prompts) == 1:
      ones = [("", text, verdict) for _, text, verdict in ones]
      rows.append(f'<tr><td colspan="{len(names)}">{_sample(prompts.pop(), "", "")}</td></tr>'
                  if "" not in prompts else "")
    rows.append("<tr>" + "".join(f"<td>{_sample(*one)}</td>" for one in ones) + "</tr>")
  head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
  return (f'<div class="scroll"><table class="texts"><thead><tr>{head}</tr></thead><tbody>'
          f"{''.join(rows)}</tbody></table></div>")
