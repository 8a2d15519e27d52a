"""The viewer in a real browser: what a person sees, and that hostile text stays text.

Skipped where no Chromium is installed. It is driven over a pipe by the DevTools protocol,
so nothing else is needed.
"""

import json

import numpy as np
import pytest

from mdx import tasks
from mdx.report import denoising
import browser

pytestmark = browser.needed

MASK = 0
HOSTILE = ["</script><script>window.hacked=1</script>", "<img src=x onerror='window.hacked=1'>",
           "\u2028window.hacked=1\u2029", "\ud800", "<!--<script>", "&lt;b&gt;", "\u202eevil",
           "]]>", "'\"`${window.hacked=1}", "javascript:window.hacked=1", "\x00\x1b[2J", ""]
WORDS = ["", "The", " quick", " brown", " fox\n", "\n\n", "\tjumps", "  over", " it", " a",
         *HOSTILE]


def decode(seed=0, num_steps=12, num_places=24, revises=True):
  """A trace of random words that is masked again and replaced."""
  draws = np.random.default_rng(seed)
  frames = np.full((num_steps + 1, num_places), MASK)
  frames[0, :2] = 1, 2
  for f in range(1, num_steps + 1):
    frames[f] = frames[f - 1]
    masked = np.flatnonzero(frames[f] == MASK)
    new = masked if f == num_steps else masked[:3]
    frames[f, new] = draws.integers(1, len(WORDS), len(new))
    if revises and 2 < f < num_steps:
      frames[f, draws.integers(2, num_places)] = MASK
      frames[f, 2 + f % 4] = draws.integers(1, len(WORDS))
  frames[-1, 2:2 + len(HOSTILE)] = np.arange(len(WORDS) - len(HOSTILE), len(WORDS))
  confidence = np.where(frames == MASK, np.nan, draws.uniform(0, 1, frames.shape))
  confidence[:, :2] = np.nan
  predictions = draws.integers(1, len(WORDS), (num_steps, num_places))
  return denoising.Trace(
      "Say it.\n" + "".join(HOSTILE), frames.astype(np.int32), confidence.astype(np.float32),
      f"row {seed} " + HOSTILE[0], tuple(f"note {f} {HOSTILE[1]}" for f in range(num_steps + 1)),
      np.arange(num_places) < 2, predictions.astype(np.int32))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
  opened = browser.Page(tmp_path_factory.mktemp("profile"))
  yield opened
  opened.close()


@pytest.fixture(scope="module")
def traces():
  return [decode(0), decode(1, num_steps=5), decode(2, num_places=40, revises=False)]


@pytest.fixture
def opened(page, traces, tmp_path):
  path = tmp_path / "decode.html"
  denoising.write_html(path, traces, WORDS.__getitem__, MASK, heading="Heading " + HOSTILE[1],
                       settings={"temperature" + HOSTILE[0]: HOSTILE[1]})
  page.resize(1280)
  page.open(path)
  return page


def shown(page):
  return page.run("document.getElementById('summary').textContent")


@pytest.mark.slow
def test_hostile_text_neither_runs_nor_loads_anything(opened):
  opened.press("End")
  for place in range(2, 2 + len(HOSTILE)):
    opened.hover(f"[data-place='{place}']")
  assert opened.complaints() == ([], [])
  assert opened.run("typeof window.hacked") == "undefined"
  assert opened.run("document.querySelectorAll('img, b, iframe, body script').length") == 2
  assert "onerror" in opened.run("document.getElementById('heading').textContent")
  assert "onerror" in opened.run("document.getElementById('note').textContent")


@pytest.mark.slow
def test_the_last_frame_reads_as_the_final_text(opened, traces):
  for i, trace in enumerate(traces):
    opened.press("End")
    text = json.dumps("".join(WORDS[t] for t in trace.frames[-1]))
    assert opened.run(f"document.getElementById('canvas').textContent === {text}"), f"row {i}"
    opened.press("ArrowDown")


@pytest.mark.slow
def test_keys_step_through_every_frame_and_marks_follow_the_trace(opened, traces):
  trace = traces[0]
  done = denoising.changes(trace, MASK)
  marks = "[...document.querySelectorAll('#canvas [data-place]')].map(x => x.firstChild.className)"
  for f in range(len(trace.frames)):
    assert shown(opened).startswith(f"step {f} of {len(trace.frames) - 1}")
    assert opened.run("document.getElementById('slider').value") == str(f)
    classes = [set(c.split()) for c in opened.run(marks)]
    for name, array in (("new", done.is_written), ("replaced", done.is_replaced),
                        ("remasked", done.is_remasked), ("mask", trace.frames == MASK)):
      assert [name in c for c in classes] == array[f].tolist(), (f, name)
    assert len(classes[:2]) and all("given" in c for c in classes[:2]) and "given" not in classes[2]
    opened.press("ArrowRight")
  opened.press("ArrowLeft")
  assert shown(opened).startswith(f"step {len(trace.frames) - 2} ")
  opened.press("Home")
  assert shown(opened).startswith("step 0 ")


def test_arrows_step_once_while_the_slider_has_the_focus(opened):
  opened.run("document.getElementById('slider').focus()")
  opened.press("ArrowRight")
  opened.press("ArrowRight")
  assert shown(opened).startswith("step 2 ")


def test_hovering_tells_position_token_confidence_step_and_revisions(opened, traces):
  trace, f = traces[0], 7
  done = denoising.changes(trace, MASK)
  for _ in range(f):
    opened.press("ArrowRight")
  for place in range(2, trace.frames.shape[1]):
    tip = opened.hover(f"[data-place='{place}'] > .box").split("\n")
    assert tip[0] == f"position {place}"
    assert f"revisions {done.revisions[f, place]}" in tip
    if trace.frames[f, place] == MASK:
      assert tip[1] == "masked" and tip[2].startswith("prediction ")
    else:
      assert tip[1].endswith(f"(id {trace.frames[f, place]})")
      assert tip[2] == f"confidence {trace.confidence[f, place]:.3f}"
      assert tip[3] == f"written in step {done.step[f, place]}"
  assert done.revisions[f].max() >= 2


def test_play_reaches_the_end_and_stops(opened):
  opened.run("document.getElementById('speed').value = 60")
  opened.press(" ", "Space", " ")
  end = """new Promise(done => {
      const look = () => timer === null ? done(frame) : setTimeout(look, 20);
      look(); })"""
  assert opened.run(end) == 12
  assert opened.run("document.getElementById('play').getAttribute('aria-label')") == "play"
  opened.press(" ", "Space", " ")
  opened.press("ArrowRight")  # a step by hand ends it too
  assert opened.run("timer") is None


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_never_scrolls_sideways(opened, width):
  opened.resize(width)
  for key in ("Home", "End"):
    opened.press(key)
    assert opened.run("document.documentElement.scrollWidth") <= width


def test_words_and_colours_differ_enough_to_read_in_both_modes(opened):
  measure = """(() => {
      const box = document.querySelector("#legend .rated"), pen = document.createElement("canvas")
          .getContext("2d", {willReadFrequently: true});
      const luminance = css => {
        pen.fillStyle = css;
        pen.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...pen.getImageData(0, 0, 1, 1).data].map(
            v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b; };
      return [0, 25, 50, 75, 100].map(share => {
        box.style.setProperty("--c", share);
        return luminance(getComputedStyle(box).backgroundColor);
      }).concat(luminance(getComputedStyle(document.body).color)); })()"""
  for dark in (False, True):
    opened.resize(1280, dark=dark)
    values = opened.run(measure)
    ink, levels = values[-1], values[:-1]
    assert levels == sorted(levels, reverse=dark), "one direction of lightness, for any eye"
    for level in levels:
      low, high = sorted((ink, level))
      assert (high + .05) / (low + .05) >= 4.5, (dark, level)


def test_the_page_says_what_was_cut_and_numbers_the_steps_that_are_left(page, traces, tmp_path):
  path = tmp_path / "cut.html"
  cuts = denoising.write_html(path, traces, WORDS.__getitem__, MASK, max_bytes=7000)
  page.resize(1280)
  page.open(path)
  assert len(cuts) == 2 and page.run("document.getElementById('cuts').innerText") == " ".join(cuts)
  kept = page.run("row.steps")
  assert len(kept) < 13 and kept != list(range(len(kept)))
  for step in kept[1:]:
    page.press("ArrowRight")
    assert shown(page).startswith(f"step {step} of 12")
  steps = page.run("cells.map(cell => describe(cell.place))")
  assert any(f"written in step {kept[-1]}\n" in text for text in steps[2:])
  assert not any(f"written in step {len(kept) - 1}\n" in text for text in steps)
  assert page.complaints() == ([], [])


def test_traces_of_one_example_stand_side_by_side_with_conflicts_and_verdicts(page, tmp_path):
  task, final = tasks.build(dict(name="sudoku", in_place=True)), "1234341221434321"
  prompt = {"prompt": "1" + "." * 15}

  def trace(end, title, is_right, cuts):
    rows = ["1" + "." * 15] + [end[:cut] + "." * (16 - cut) for cut in cuts]
    frames = np.array([[0 if c == "." else int(c) for c in row] for row in rows])
    return denoising.drawn(denoising.Trace("", frames, np.full(frames.shape, np.nan), title,
                                           example="puzzle", is_right=is_right), task, prompt, str, 0)

  path = tmp_path / "two.html"
  denoising.write_html(path, [trace("1134" + final[4:], "base", False, (8, 16)),
                              trace(final, "mdpo", True, (4, 8, 16)), decode()], str, 0)
  page.resize(1280)
  page.open(path)
  texts = "[...document.querySelectorAll('.pane h2')].map(x => x.textContent)"
  wrong = ("[...document.querySelectorAll('.pane')].map(p => [...p.querySelectorAll('.box.wrong')]"
           ".map(b => Number(b.parentNode.dataset.place)))")
  verdicts = "[...document.querySelectorAll('.verdict')].map(v => v.textContent)"
  assert page.run(texts) == ["base", "mdpo"] and page.run(wrong) == [[], []]
  seen = []
  for _ in range(3):
    page.press("ArrowRight")
    seen.append((shown(page), page.run(wrong), page.run(verdicts)))
  assert seen == [("step 1 of 3", [[0, 1], []], ["", ""]),
                  ("step 2 of 3", [[0, 1, 9], []], ["\u2717 wrong", ""]),
                  ("step 3 of 3", [[0, 1, 9], []], ["\u2717 wrong", "\u2713 right"])]
  box = page.run("(() => { const b = [0, 1, 4].map(i => document.querySelector("
                 "`.pane [data-place='${i}']`).getBoundingClientRect()); return b.map(r => [r.x, r.y]); })()")
  assert box[0][0] == box[2][0] < box[1][0] and box[0][1] == box[1][1] < box[2][1], "a grid"
  assert "breaks a rule" in page.hover("[data-pane='0'] [data-place='9']")
  page.press("ArrowDown")
  assert page.run("document.querySelectorAll('.pane').length") == 1
  assert page.complaints() == ([], [])
