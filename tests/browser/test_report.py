"""The report in a real Chromium, at the width of a desk and of a phone, light and dark."""

import os
import re

import pytest

from orchestrator.cli.main import run
from orchestrator.report.html import write_report
from orchestrator.report.parts import FinalTraining
from orchestrator.results.leaderboard_rows import leaderboard
from tests.browser.conftest import SHOOT, shoot
from tests.orchestrator.example_sweep import METRIC, spec, trials

pytestmark = pytest.mark.browser
SECTIONS = {
    "summary": 0,
    "leaderboard": 0,
    "history": 2,
    "curves": 1,
    "parallel": 0,
    "importance": 1,
    "slices": 6,
    "contours": 6,
    "samples": 0,
    "final": 1,
    "failures": 0,
    "cost": 0,
    "timeline": 1,
    "environment": 0,
    "reproduce": 0,
}
DRAWN = """() => Object.fromEntries([...document.querySelectorAll('section')].map((section) => [
  section.id,
  [...section.querySelectorAll('[data-chart]')].filter((chart) =>
    chart.dataset.drawn === '1' && chart.querySelector('.main-svg') && chart.getBoundingClientRect().height > 100 &&
    chart.querySelector('.trace path, .contour path, .bars path, .points path')).length,
]))"""
# What sticks out of the page, apart from what scrolls by itself.
SPILLED = """() => [...document.querySelectorAll('body *')].filter((element) => !element.closest('.scroll, pre, svg') &&
  element.getBoundingClientRect().right > window.innerWidth + 1).map((element) => element.outerHTML.slice(0, 120))"""
# Words whose colour is too near that of what they stand on (WCAG: 4.5 to 1).
FAINT = """() => {
  const numbers = (text) => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const parsed = (text) => { const [r, g, b, a = 1] = numbers(text); return [r, g, b, a]; };
  const over = (top, below) => [0, 1, 2].map((k) => top[k] * top[3] + below[k] * (1 - top[3]));
  const light = (colour) => colour.slice(0, 3).map((value) => value / 255)
    .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, k) => sum + value * [0.2126, 0.7152, 0.0722][k], 0);
  const ground = (element) => {
    const own = parsed(getComputedStyle(element).backgroundColor);
    return own[3] === 1 || !element.parentElement ? own : over(own, ground(element.parentElement));
  };
  const found = [];
  for (const element of document.querySelectorAll('body *')) {
    const texts = [...element.childNodes].filter((node) => node.nodeType === 3);
    const words = texts.map((node) => node.data.trim()).join('');
    const box = element.getBoundingClientRect(), style = getComputedStyle(element);
    if (!words || !box.width || element.closest('script, style, [hidden]') || style.visibility === 'hidden') continue;
    const html = element.closest('svg') ? element.closest('svg').parentElement : element;
    const below = ground(html), ink = parsed(element instanceof SVGElement ? style.fill : style.color);
    let opacity = 1;
    for (let up = element; up; up = up.parentElement) opacity *= Number(getComputedStyle(up).opacity);
    if (!opacity) continue;
    ink[3] *= opacity;
    const [low, high] = [light(over(ink, below)), light(below)].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${element.tagName} ${words.slice(0, 40)}`);
  }
  return found;
}"""
BROKEN_PICTURES = "() => [...document.images].filter((image) => !image.naturalWidth).length"


def grid_of_digits(file, noise):
    """A grid of real handwritten digits (a row for each class) under noise, as a trial's samples would look."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits, rng = load_digits(), np.random.default_rng(0)
    rows = []
    for label in range(10):
        some = digits.images[digits.target == label][:12] / 16
        some = np.clip(some + noise * rng.normal(size=some.shape), 0, 1)
        rows.append(np.concatenate([np.pad(one, 1) for one in some], axis=1))
    pixels = (np.concatenate(rows) * 255).astype(np.uint8)
    Image.fromarray(pixels).resize((pixels.shape[1] * 3, pixels.shape[0] * 3), 0).save(file)
    return file


def final_training(every, best, images):
    """What the winner's training at full length might have come to: its trial's curve, and lower from there on."""
    curve = {step: row[METRIC] for step, row in next(t for t in every if t.id == best.trial).reports.items()}
    longer = {step: curve[4500] * (4500 / step) ** 0.4 for step in range(5000, 20001, 500)}
    told = "reproduced the trial exactly at 9 steps up to 4500"
    return FinalTraining(
        name=f"digits-guidance-{best.trial}", trial=best.trial, curve={**curve, **longer}, steps=20000, told=told,
        picture=images[best.trial],
    )  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    if SHOOT and os.environ.get("MEANSWEEP_BROWSER_HOME"):
        command = ["report", "-o", str(folder / "report.html"), "--home", os.environ["MEANSWEEP_BROWSER_HOME"]]
        assert run(command) == 0
        return folder / "report.html"
    every = trials()
    ranked = [row for row in leaderboard(spec(), every) if row.rank]
    shown = [*ranked[:3], *ranked[-3:]]
    images = {row.trial: grid_of_digits(folder / f"{row.trial}.png", 0.008 * row.metric**1.4) for row in shown}
    plan = {
        "trials": 24,
        "estimate": {
            "trainings": 33,
            "steps": 98000.0,
            "work_seconds": 5700.0,
            "gpu_hours": 0.4,
            "wall_seconds": 3100.0,
        },
    }
    environment = {
        "code": "5b1d0c6e",
        "torch": "2.7.0",
        "device": "NVIDIA A100",
        "python": "3.12.3",
        "meansweep": "0.1.0",
    }
    return write_report(
        spec(),
        every,
        out=folder / "report.html",
        plan=plan,
        images=images,
        environment=environment,
        state="finished",
        wall_seconds=2900.0,
        finals=[final_training(every, ranked[0], images)],
        now=1_760_010_000.0,
    )


@pytest.fixture(scope="module")
def opened(chromium, report):
    """Open the report once at each width; what it complains about and asks of the network is collected."""
    pages, noticed = {}, []

    def open_page(width, scheme="light"):
        if (width, scheme) not in pages:
            page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page.on("console", lambda message: noticed.append(f"console {message.type}: {message.text}"))
            page.on("pageerror", lambda error: noticed.append(f"error: {error}"))
            page.on(
                "request",
                lambda request: (
                    request.url.startswith(("file:", "data:", "blob:")) or noticed.append(f"GET {request.url}")
                ),
            )
            page.goto(report.as_uri())
            page.wait_for_function(
                "!document.querySelector('[data-chart]:not([data-drawn]), [data-parallel]:not([data-drawn])')"
            )
            pages[width, scheme] = page
        return pages[width, scheme], noticed

    return open_page


def look(page, width):
    assert page.evaluate(DRAWN) == SECTIONS
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(SPILLED) == []
    assert page.evaluate(BROKEN_PICTURES) == 0
    assert page.evaluate(FAINT) == []
    for name in SECTIONS:
        assert page.locator(f"section#{name}").bounding_box()["height"] > 60


def test_on_a_desk_every_section_and_chart_is_there_and_nothing_sticks_out_light_and_dark(opened):
    page, noticed = opened(1280)
    look(page, 1280)
    ink = "getComputedStyle(document.querySelector('#curves .xtick text')).fill"
    light = page.evaluate(ink)
    page.emulate_media(color_scheme="dark")  # the page follows while it is open
    page.wait_for_function(f"{ink} !== '{light}'")
    look(page, 1280)
    page.emulate_media(color_scheme="light")
    page.wait_for_function(f"{ink} === '{light}'")
    assert noticed == []


def test_on_a_phone_every_section_and_chart_is_there_and_nothing_sticks_out(opened):
    page, noticed = opened(390)
    look(page, 390)
    assert noticed == []


def test_pointing_at_a_curve_names_its_trial(opened):
    page, noticed = opened(1280)
    page.locator("#curves").scroll_into_view_if_needed()
    box = page.locator("#curves [data-chart] .trace .points path").last.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.locator("#curves .hovertext").first.wait_for()
    assert "trial" in page.locator("#curves .hovertext").first.text_content()
    assert noticed == []


def test_links_lead_to_their_sections_and_rows_unfold(opened):
    page, _ = opened(1280)
    for link in page.locator("nav a").all():
        assert page.locator(f"section{link.get_attribute('href')}").count() == 1
    rows = page.locator("#leaderboard tbody tr:visible")
    assert rows.count() == 15
    page.locator("#leaderboard button.more").click()
    assert rows.count() == 24
    page.locator("#leaderboard button.more").click()
    assert rows.count() == 15


def test_a_click_on_a_head_sorts_the_leaderboard_by_value_and_empty_cells_stay_last(opened):
    page, _ = opened(1280)
    heads = page.locator("#leaderboard thead th").all_inner_texts()
    column = next(place for place, head in enumerate(heads) if head.strip() == "lr")
    shown = "[...document.querySelectorAll('#leaderboard tbody tr')].map((row) => Number(row.cells[%d].dataset.v))"
    button = page.locator("#leaderboard thead th button", has_text="lr")
    button.click()
    rising = page.evaluate(shown % column)
    assert rising == sorted(rising)
    button.click()
    assert page.evaluate(shown % column) == rising[::-1]
    page.locator("#leaderboard thead th button", has_text="rank").click()  # failed ones have none
    ranks = page.locator("#leaderboard tbody tr td:first-child").all_text_contents()
    assert ranks == [*map(str, range(1, 21)), *"----"]


def test_parallel_coordinates_name_a_line_keep_what_a_brush_holds_and_move_an_axis(opened):
    page, noticed = opened(1280)
    told, axes = page.locator("#parallel .told"), page.locator("#parallel .axis .name")
    page.locator("#parallel").scroll_into_view_if_needed()
    page.locator("#parallel .line polyline:last-child").last.dispatch_event("pointerenter")
    assert told.text_content().startswith("trial 22: fid_1nfe 2.397, lr 7.35e-4")
    page.locator("#parallel .line polyline:last-child").last.dispatch_event("pointerleave")
    box = page.locator("#parallel .brush").first.bounding_box()  # of the metric: its lower third holds the good ones
    x, bottom = box["x"] + box["width"] / 2, box["y"] + box["height"]
    page.mouse.move(x, bottom - 1)
    page.mouse.down()
    page.mouse.move(x, bottom - box["height"] / 3, steps=4)
    page.mouse.up()
    assert re.fullmatch(r"1[0-3] of 20 lines kept", told.text_content())
    page.locator("#parallel .brush").first.dispatch_event("dblclick")
    assert "kept" not in told.text_content()
    names = axes.all_text_contents()
    axes.nth(1).focus()
    page.keyboard.press("ArrowRight")
    assert axes.all_text_contents() == [names[0], names[2], names[1], *names[3:]]
    page.keyboard.press("ArrowLeft")
    assert axes.all_text_contents() == names
    assert noticed == []


def test_on_paper_everything_has_the_width_of_a4(opened, tmp_path):
    page, _ = opened(1280)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    wide = """() => [...document.querySelectorAll('body :not(svg *)')].filter((element) => {
      const box = element.getBoundingClientRect();
      return box.width && box.right > 704;
    }).map((element) => element.outerHTML.slice(0, 90))"""
    assert page.evaluate(wide) == []  # 186 mm between the margins, at 96 pixels an inch
    assert page.locator("#leaderboard tbody tr:visible").count() == 24
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    look(page, 1280)


def test_charts_fit_after_the_window_has_changed(opened):
    page, _ = opened(1280)
    page.set_viewport_size({"width": 700, "height": 900})
    page.wait_for_function("document.querySelector('#curves .main-svg').getBoundingClientRect().width < 690")
    assert page.evaluate("document.documentElement.scrollWidth") <= 700
    page.set_viewport_size({"width": 1280, "height": 900})
    page.wait_for_function("document.querySelector('#curves .main-svg').getBoundingClientRect().width > 690")


@pytest.mark.skipif(not SHOOT, reason="pictures for the docs are made with MEANSWEEP_SCREENSHOTS=1")
def test_pictures_for_the_docs(opened):
    page, _ = opened(1280)
    page.wait_for_timeout(500)
    shoot(page, "report-desktop", full_page=True, clip={"x": 60, "y": 0, "width": 1160, "height": 2200})
    shoot(page.locator("section#slices"), "report-slices")
    page, _ = opened(1280, "dark")
    page.wait_for_timeout(500)
    shoot(page.locator("section#parallel"), "report-dark")
