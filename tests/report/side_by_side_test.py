"""The animation: what it shows in each frame is what was decoded, and its texts are inert."""

import pathlib
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from mdx import modes
from mdx import tasks
from mdx.report import denoising
from mdx.report import side_by_side

MASK = 0
_SVG = "{http://www.w3.org/2000/svg}"
_TASK = tasks.build(dict(name="sudoku", in_place=True))
_FINAL = "1234341221434321"


def _trace(final=_FINAL, is_right=True):
  """Row by row in two steps."""
  rows = ["1" + "." * 15, final[:8] + "." * 8, final]
  frames = np.array([[MASK if c == "." else int(c) for c in row] for row in rows])
  trace = denoising.Trace("", frames, np.full(frames.shape, np.nan), is_right=is_right,
                          is_given=np.arange(16) == 0)
  return denoising.drawn(trace, _TASK, {"prompt": "1" + "." * 15}, str, MASK)


def _states(svg, frame):
  """Texts, and numbers of red and tinted cells, that a frame shows of each example."""
  root, found = ET.fromstring(svg), []
  for example in root.iterfind(f"{_SVG}g[@transform]"):
    texts, red, new = "", 0, 0
    for part in example.iterfind(f"{_SVG}g"):
      span = re.fullmatch(r"f(\d+)_(\d+)", part.get("class") or "")
      if span and not int(span[1]) <= frame < int(span[2]):
        continue
      texts += part.findtext(f"{_SVG}text")
      kinds = [r.get("class") for r in part.iterfind(f"{_SVG}rect")]
      red, new = red + ("w" in kinds), new + ("n" in kinds)
    found.append((texts, red, new))
  return found


def test_every_frame_shows_the_decode_its_conflicts_and_the_verdict(tmp_path):
  wrong = _trace("1134" + _FINAL[4:], is_right=False)
  side_by_side.write_svg(tmp_path / "x.svg", {"before": [wrong], "after <b>": [_trace()]}, str,
                         MASK, title="t")
  svg = (tmp_path / "x.svg").read_text()
  assert _states(svg, 0) == [("1", 0, 0), ("1", 0, 0)]
  assert _states(svg, 1) == [("11343412", 2, 6), ("12343412", 0, 7)]  # red hides the tint
  last = _states(svg, 2)
  assert last == [("1134" + _FINAL[4:] + "\u2717 wrong", 3, 7), (_FINAL + "\u2713 right", 0, 8)]
  assert "0 of 1 right after 2 steps" in svg and "1 of 1 right after 2 steps" in svg
  assert "<b>" not in svg and "<script" not in svg and not re.search(r"(href|src|url\()", svg)
  # What is shown last stands where nothing moves.
  assert re.search(r"\.f2_3\{visibility:visible;", svg)
  assert re.search(r"\.f1_2\{visibility:hidden;", svg)


def test_panels_without_a_drawing_or_of_different_lengths_are_refused(tmp_path):
  plain = _trace()._replace(lines=())
  for panels in ({"a": [plain]}, {"a": [_trace()], "b": []}, {}):
    with pytest.raises(ValueError, match="panels need"):
      side_by_side.write_svg(tmp_path / "x.svg", panels, str, MASK, title="t")


@pytest.mark.slow
def test_the_script_of_the_documentation_draws_a_run(tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parents[2] / "docs"))
  import animation
  from mdx.configs import mdpo
  config = mdpo.get_config("mdpo")
  small = dict(steps=2, log_steps=1, eval_steps=2, checkpoint_steps=2, batch_size=8)
  config.init.base.update(small)
  config.init.base.network.update(num_layers=1, width=16, num_heads=2, mlp_width=16)
  config.update(updates=1, eval_steps=1, checkpoint_steps=1)
  config.rollout.update(num_prompts=1)
  tasks_small = dict(num_train=64, num_validation=8, num_test=8)
  with config.unlocked():
    config.task.update(tasks_small)
    config.init.base.data.source.task.update(tasks_small)
  config.eval.update(nfe=(2,), num_examples=8, batch_size=8, remasking=("low_confidence",),
                     pass_k=(), curve_also=(), curve_nfe=2)
  run = tmp_path / "run"
  modes.run("rl", config, str(run))
  assert len(ET.fromstring((run / "denoising.svg").read_text()).findall(f"{_SVG}g[@transform]")) == 16
  right = animation.draw(str(run), tmp_path / "p.svg", 2, 3)
  assert len(_states((tmp_path / "p.svg").read_text(), 2)) == 6 and set(right) == {"base", "mdpo"}
