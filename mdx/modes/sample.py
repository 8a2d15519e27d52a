"""Mode sample: prompts in, text out.

Contents: run, read_prompts, build_scorer.
"""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from mdx import config as config_lib
from mdx import model as model_lib
from mdx import samplers
from mdx import sharding
from mdx.build import base as base_lib
from mdx.build import values
from mdx.build import workdir as workdir_lib
from mdx.eval import attribute_fit
from mdx.eval import generative
from mdx.eval import hf_causal
from mdx.eval import likelihood
from mdx.modes import reporting
from mdx.modes import train as train_mode
from mdx.report import denoising
from mdx.report import denoising_pictures
from mdx.report import denoising_terminal
from mdx.samplers import attributes
from mdx.samplers import search
from mdx.train import progress as progress_lib
from mdx.utils import checksum
from mdx.utils import console
from mdx.utils import files
from mdx.utils import processes
from mdx.utils import readers


def read_prompts(prompts: str) -> list[Any]:
  """Prompts of a config: the lines of a .jsonl file, or one text ("" = no prompt).

  Raises:
    ValueError: no such file, or a line without `text`, `tokens` or `messages`.
  """
  if not prompts.endswith(".jsonl"):
    return [prompts]
  try:
    lines = readers.lines(readers.read_text(prompts))
  except ValueError as error:
    raise ValueError(f"config.prompts: {error} Give a .jsonl file "
                     "whose lines have `text`, `tokens` or `messages`, or a text.") from None
  found = []
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    try:
      record = readers.parse_json(line, "it", "write one object a line")
      prompt = record[next((k for k in ("tokens", "messages") if k in record), "text")]
    except ValueError as error:
      raise ValueError(f"{prompts} line {number} has neither `text` nor `tokens` nor `messages`: "
                       f"{error}") from None
    except (KeyError, TypeError):
      raise ValueError(f"{prompts} line {number} has neither `text` nor `tokens` nor `messages`: "
                       f"{line:.60}") from None
    if "messages" in record:
      found.append(readers.messages(prompt, f"{prompts} line {number}")["messages"])
      continue
    if not isinstance(prompt, str) and not (isinstance(prompt, list) and all(
        isinstance(i, int) and not isinstance(i, bool) for i in prompt)):
      raise ValueError(f"{prompts} line {number}: `text` must be a string, `tokens` a list of "
                       "ids.")
    found.append(prompt)
  if not found:
    raise ValueError(f"{prompts} has no lines; give a prompt a line, or config.prompts='' for "
                     "unconditional samples.")
  return found


def _fields(given: Mapping[str, Any]) -> dict[str, Any]:
  """Fields of a sampler; without a name the fields that are set, for the model's own rule."""
  defaults = samplers.defaults()
  return {k: v for k, v in given.items() if given["name"] or v != defaults.get(k, "")}


@reporting.reported
def run(config: Mapping[str, Any], workdir: str) -> dict[str, float]:
  """Decodes the prompts; writes samples.jsonl and samples.html. Goes on where it stopped."""
  config = config_lib.to_dict(config)
  values.check(config)
  prompts = read_prompts(config["prompts"])
  if config["sampler"]["name"]:
    samplers.check_fields(config["sampler"])
  path = pathlib.Path(workdir)
  score, is_exact = build_scorer(config)
  if base_lib.is_missing(config, workdir):  # what is wrong is said before it is trained
    mesh = sharding.make_mesh(config["mesh"])
    _rows(model_lib.of(base_lib.described(config, workdir, mesh)), config, prompts)
  source = base_lib.base_checkpoint(config, workdir, train_mode.run)
  model = model_lib.load(source, params=config["init"]["params"], mesh=config["mesh"],
                         dtype=config["dtype"], init=config["init"])
  sampler, rows = _rows(model, config, prompts)
  config, sampler = _with_classifier(model, sampler, config, rows, path)
  workdir_lib.check_job(path, config, lambda: [row.tolist() for row in rows])
  console.say(f"{type(sampler).__name__}: {len(rows)} rows of {sampler.gen_length} tokens from "
                f"{source}, {jax.device_count()} {jax.devices()[0].platform} device(s)")
  identity = config_lib.run_hash({
      "source": os.path.abspath(source), "weights": checksum.of_items(
          {"params": model.decoding_params(sampler)}),
      "init": base_lib.loading(config["init"]),
      "dtype": config["dtype"], "seed": config["seed"], "sampler": repr(sampler),
      "rows": [row.tolist() for row in rows]})
  table = files.PartialRows(path / "samples.jsonl", identity)
  traces, done = _decode(model, sampler, rows, config, table), table.rows
  table.finish()
  if jax.process_index() == 0:
    _show(model, config, sampler, [traces[i] for i in sorted(traces)], path)
  for i in range(min(len(rows), config["num_samples"], 4)):
    console.say(f"--- row {i}, {done[i]['nfe']} network calls\n{done[i]['text']}")
  seconds = sum(row["seconds"] for row in done.values())
  tokens = len(rows) * sampler.gen_length
  console.say(f"\n{len(rows)} rows in {path}/samples.jsonl; {tokens / max(seconds, 1e-9):,.0f} "
                "tokens/s without compilation")
  results = {"num_rows": len(rows), "seconds": seconds,
             "nfe": sum(row["nfe"] for row in done.values()) / len(rows)}
  if score:
    texts = [done[i]["text"] for i in range(len(rows))]
    results |= generative.evaluate(texts, score(texts)) | {
        "scorer": config["quality"]["scorer"], "scorer_is_exact": is_exact}
    console.say("\n" + _quality_text(results))
  if jax.process_index() == 0:
    files.write_json(path / "results.json", results)
  return results


def _rows(model: model_lib.Model, config: Mapping[str, Any], prompts: Sequence[Any]):
  """The sampler and the ids of every row; ValueError for what cannot be decoded."""
  sampler = model.sampler(**_fields(config["sampler"]))
  rows = [tokens for prompt in prompts
          for tokens in [model.prompt_ids(prompt)] * config["num_samples"]]
  model.check(rows, sampler)
  return sampler, rows


def _with_classifier(model: model_lib.Model, sampler: Any, config: dict[str, Any],
                     rows: Sequence[Any], path: pathlib.Path) -> tuple[dict[str, Any], Any]:
  """Config and sampler with a classifier of attributes, fitted where a search lacks one.

  It is kept in the workdir.
  """
  fields = config["sampler"]
  if not isinstance(sampler, search.ConditionalBeam) or fields["classifier"] or (
      sampler.attribute == "none"):
    return config, sampler
  file = path / "classifier.npz"
  if not file.exists():
    console.say("fitting a classifier of the attribute to texts of the model ...")
    classifier, facts = attribute_fit.fit(model, sampler, rows, seed=config["seed"])
    path.mkdir(parents=True, exist_ok=True)
    if jax.process_index() == 0:
      attributes.save(file, classifier, facts)
    processes.check_same({"classifier": lambda: str(file)})  # all wait until it is there
    console.say(f"{100 * facts['share']:.0f} % of them have it; loss {facts['loss']:.3f} nats")
  return config, model.sampler(**_fields(dict(fields, classifier=str(file))))


def build_scorer(config: Mapping[str, Any]) -> tuple[Callable | None, bool]:
  """Returns a scorer, texts -> `generative.Scores`, and whether it is exact; None: none asked.

  Raises:
    ValueError: no such model, or one without a likelihood.
  """
  quality = dict(config["quality"])
  name, which, num_samples = (quality.pop(k) for k in ("scorer", "params", "num_samples"))
  if not name:
    return None, True
  if name.startswith("hf:"):
    return functools.partial(hf_causal.load(name.removeprefix("hf:")).score, **quality), True
  model = model_lib.load(name, params=which, mesh=config["mesh"])
  model.check_likelihood()
  return functools.partial(model.score, num_samples=num_samples, **quality), (
      likelihood.is_exact(model.objective))


def _quality_text(results: Mapping[str, Any]) -> str:
  """The quality of the samples as lines of text."""
  figure = lambda name, digits: f"{results[name]:.{digits}f}" + (
      f" +- {results[f'{name}_stderr']:.{digits}f}" if f"{name}_stderr" in results else "")
  lines = [f"{results['num_scored']} of {results['num_texts']} texts scored by {results['scorer']}"
           + (f", {results['num_cut']} of them cut" if results["num_cut"] else "")]
  if results["num_scored"]:
    lines += [
        f"generative perplexity {'' if results['scorer_is_exact'] else 'at most '}"
        f"{figure('generative_perplexity', 2)} a token of the scorer"
        + (f", {figure('generative_bits_per_char', 3)} bits per character"
           if "generative_bits_per_char" in results else "")
        + ("" if results["scorer_is_exact"] else " (its likelihood is a bound)"),
        f"unigram entropy       {figure('unigram_entropy', 3)} nats; judge the two together"]
  lines += [f"{name:<22}{results[key]:.3f}" for name, key in (
      ("distinct words, pairs", "distinct_1"), ("", "distinct_2"), ("self-BLEU", "self_bleu"))
            if key in results]
  return "\n".join(lines)


def _decode(model, sampler, rows, config, table):
  """Decodes what is not in the table, adding to it; returns traces."""
  record = "canvas" if config["viewer_rows"] or config["show"] or config["animation"] else "none"
  progress = progress_lib.Progress(len(rows), enabled=jax.process_index() == 0, what="sampling")
  traces, done = {}, table.rows
  # The rows of the viewer are decoded even if they are known: they cost little.
  kept = max(config["viewer_rows"], 1) if record != "none" else 0
  for i, row in model.decode(rows, sampler, seed=config["seed"], record=record,
                             batch_size=config["batch_size"],
                             skip=lambda i: i in done and i >= kept):
    if i < kept:
      traces[i] = row.trace
    if i in done:
      continue
    table.add(i, {"prompt_tokens": row.prompt_tokens.tolist(), "tokens": row.tokens.tolist(),
                  "text": row.text, "nfe": row.nfe, "seconds": round(row.seconds, 6)})
    progress.update(len(done))
  progress.close()
  return traces


def _show(model, config, sampler, traces, path):
  """The viewer's files, and the replay in the terminal."""
  tokenizer = model.tokenizer
  text = lambda i: tokenizer.decode([i])
  settings = {"sampler": type(sampler).__name__, "checkpoint": model.source} | {
      k: v for k, v in config["sampler"].items() if k in ("steps", "gen_length", "block_length",
                                                          "temperature", "cache")}
  if config["viewer_rows"]:
    for cut in denoising.write_html(path / "samples.html", traces, text, tokenizer.mask_id,
                                    heading="samples", settings=settings):
      console.say(f"samples.html: {cut}")
  if config["animation"]:
    denoising_pictures.write_gif(path / "samples.gif", traces[0], text, tokenizer.mask_id)
    denoising_pictures.write_strip(path / "samples.png", traces[0], text, tokenizer.mask_id)
  if config["show"]:
    denoising_terminal.replay(traces[0], text, tokenizer.mask_id)
