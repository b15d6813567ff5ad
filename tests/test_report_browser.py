"""report.html in a real browser: keyboard, filters, links to a view, phone, dark mode, silence on the network."""

from __future__ import annotations

import json

import pytest

from timm_conformance.ledger.entries import DEFAULT_LEDGER, load_ledger
from timm_conformance.report.html import render

from .report_results import NEW, OLD, failure, many, mixed

pytest.importorskip("selenium")

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from .browser import chromium, look, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"the report is not tested in a browser: {missing()}")

# Texts a reader can see whose contrast with what is behind them is below 4.5, with it (WCAG 2.2, 1.4.3).
LOW_CONTRAST = """
const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
const context = canvas.getContext("2d", { willReadFrequently: true });
const paint = (colours) => {
  context.clearRect(0, 0, 1, 1);
  for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
  return [...context.getImageData(0, 0, 1, 1).data];
};
const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
const luminance = (rgb) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => sum + weight * linear(rgb[i] / 255), 0);
const found = [];
let seen = 0;
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!own || !element.checkVisibility({ visibilityProperty: true })) continue;
  if (element.matches("script, style, option, title, desc")) continue;
  const behind = [];
  for (let at = element; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
  const style = getComputedStyle(element);
  const ink = element instanceof SVGElement ? style.fill : style.color;
  const [a, b] = [luminance(paint([...behind, ink])), luminance(paint(behind))];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  seen += 1;
  if (contrast < 4.5) found.push([element.tagName, element.className, element.textContent.slice(0, 40), contrast]);
}
return [seen, found];
"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Files of a page with everything in it and of one as wide as a whole validation."""
    folder = tmp_path_factory.mktemp("report")
    known_bugs = load_ledger(DEFAULT_LEDGER)
    for name, results in {"mixed": mixed(), "many": many(38, 12, 9)}.items():
        (folder / f"{name}.html").write_text(render(results, known_bugs, ["a gap"]), encoding="utf-8")
    return folder


@pytest.fixture
def visit(browser, pages):
    """Open a page afresh, in a viewport and a colour scheme; afterwards its console must be empty."""

    def go(name: str, view: str = "", **wanted):
        look(browser, **wanted)
        browser.get("about:blank")
        browser.get((pages / f"{name}.html").as_uri() + view)
        return browser

    yield go
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def _shown(driver) -> list[str]:
    """The names of the cells to be seen."""
    cells = driver.find_elements(By.CSS_SELECTOR, "#map td > button[aria-label]")
    return [cell.get_attribute("aria-label") for cell in cells if cell.is_displayed()]


def _press(driver, *keys: str) -> None:
    for key in keys:
        driver.switch_to.active_element.send_keys(key)


def _focused(driver) -> str:
    return driver.switch_to.active_element.get_attribute("aria-label") or ""


def test_a_cell_opens_and_closes_from_the_keyboard(visit):
    """Tab leads to the map, arrows through it, Enter opens, Escape closes and leaves the reader where they were."""
    driver = visit("mixed")
    for _ in range(60):
        _press(driver, Keys.TAB)
        if _focused(driver).startswith("openai_clip"):
            break
    _press(driver, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    name = _focused(driver)
    assert name.startswith(f"openai_clip, {NEW}")
    _press(driver, Keys.ENTER)
    detail = driver.find_element(By.CLASS_NAME, "detail")
    assert driver.switch_to.active_element.get_attribute("aria-expanded") == "true"
    for told in (
        f"openai_clip on {NEW}",
        failure().fingerprint,
        "(4.25 times its bound)",
        "2 fail, 8 blocked",
        "4 of 9 cases differ",
    ):
        assert told in detail.text
    assert "by up to 71.5 times the bound" in detail.text
    assert "0.0312" in detail.text
    _press(driver, Keys.TAB)
    assert driver.switch_to.active_element.text.startswith("Close")
    _press(driver, Keys.ESCAPE)
    assert not driver.find_elements(By.CLASS_NAME, "detail")
    assert _focused(driver) == name
    _press(driver, Keys.ARROW_DOWN)
    assert _focused(driver).startswith(f"radio, {NEW}")
    _press(driver, Keys.ARROW_DOWN)
    assert _focused(driver).startswith(f"radio, {NEW}")


def test_an_opened_cell_explains_what_is_known(visit):
    """A link from the cell opens the ledger entry, with its script."""
    driver = visit("mixed")
    driver.find_element(By.CSS_SELECTOR, f"[aria-label^='openai_clip, {OLD}']").click()
    driver.find_element(By.CSS_SELECTOR, ".detail a[href='#known-clip-early-return']").click()
    entry = driver.find_element(By.ID, "known-clip-early-return")
    assert entry.get_property("open")
    assert "reached the resampling" in entry.text


def test_a_target_that_cannot_start_says_why(visit):
    """Hostile words in a reason stay words."""
    driver = visit("mixed")
    driver.find_element(By.CSS_SELECTOR, "#map button.error").click()
    assert "cannot import: </script>" in driver.find_element(By.CLASS_NAME, "detail").text
    assert driver.title.startswith("1 new failure")


def test_filters_keep_what_matches(visit):
    """By family, by verdict, by invariant and by change; the count is told, and no row stays empty."""
    driver = visit("mixed")
    total = len(_shown(driver))
    shown = driver.find_element(By.ID, "shown")
    assert shown.get_attribute("aria-live") == "polite"
    assert shown.text == f"{total} of {total} cells"
    driver.find_element(By.NAME, "family").send_keys("rad")
    assert len(_shown(driver)) == total // 2
    assert all(name.startswith("radio") for name in _shown(driver))
    assert [row.is_displayed() for row in driver.find_elements(By.CSS_SELECTOR, "#map tbody tr")] == [False, True]
    driver.find_element(By.CSS_SELECTOR, "[value='error']").click()
    assert [name.split(":")[0] for name in _shown(driver)] == [f"radio, {OLD}", f"radio, {NEW}"]
    assert shown.text == f"2 of {total} cells"
    Select(driver.find_element(By.NAME, "invariant")).select_by_visible_text("repeatable")
    assert f"radio, {NEW}, repeatable: not applicable; cases: none" in _shown(driver)
    driver.find_element(By.CSS_SELECTOR, "[type=reset]").click()
    assert len(_shown(driver)) == total
    driver.find_element(By.NAME, "changed").click()
    assert [name.split(":")[0] for name in _shown(driver)] == [f"openai_clip, {NEW}"]


def test_a_view_can_be_linked(visit):
    """The address after filtering and opening brings back the same view."""
    driver = visit("mixed")
    driver.find_element(By.NAME, "family").send_keys("clip")
    Select(driver.find_element(By.NAME, "invariant")).select_by_visible_text("strict-load")
    driver.find_element(By.CSS_SELECTOR, "[value='known']").click()
    driver.find_element(By.CSS_SELECTOR, f"[aria-label^='openai_clip, {NEW}']").click()
    before, view = _shown(driver), "#" + driver.current_url.split("#")[1]
    again = visit("mixed", view)
    assert _shown(again) == before
    assert before
    assert not any(OLD in name for name in before)
    assert again.find_element(By.CSS_SELECTOR, ".detail h3").text == f"openai_clip on {NEW}"
    assert again.find_element(By.NAME, "family").get_property("value") == "clip"
    assert not again.find_element(By.CSS_SELECTOR, "[value='known']").is_selected()


def test_a_view_that_does_not_exist_is_the_whole_page(visit):
    """An old link, or one mistyped, breaks nothing."""
    driver = visit(
        "mixed", "#family=&invariant=gone&cell=nothing+here&verdicts=pass,known,fail,fixed,error,not-applicable"
    )
    assert len(_shown(driver)) == 8
    assert not driver.find_elements(By.CLASS_NAME, "detail")


@pytest.mark.parametrize("name", ["mixed", "many"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(visit, name, scheme):
    """At 360 pixels only the map and tables scroll, in their own frames, and the first column stays in sight."""
    driver = visit(name, width=360, height=740, scheme=scheme)
    driver.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    driver.find_elements(By.CSS_SELECTOR, "#map td > button")[0].click()
    width, room = driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert room == 360
    assert width <= room
    frame, first = driver.find_element(By.ID, "frame"), driver.find_element(By.CSS_SELECTOR, "#map tbody th")
    driver.execute_script("arguments[0].scrollLeft = 400", frame)
    assert 0 <= first.rect["x"] - frame.rect["x"] <= 2
    assert driver.find_element(By.CLASS_NAME, "detail").rect["width"] <= frame.rect["width"]


@pytest.mark.parametrize("name", ["mixed", "many"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(visit, name, scheme):
    """Contrast of 4.5 at least, in both schemes, with everything open."""
    driver = visit(name, scheme=scheme)
    driver.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    driver.find_element(By.CSS_SELECTOR, "#map button.changed").click()
    seen, low = driver.execute_script(LOW_CONTRAST)
    assert seen > 200
    assert low == []


def test_dark_mode_is_dark(visit):
    """The background follows the reader's preference."""

    def background(scheme: str) -> list[int]:
        colour = visit("mixed", scheme=scheme).execute_script("return getComputedStyle(document.body).backgroundColor")
        return [int(part) for part in colour[4:-1].split(",")]

    assert min(background("light")) > 230
    assert max(background("dark")) < 40


def test_a_copy_button_copies(visit):
    """With the clipboard, and without one by selecting the text."""
    driver = visit("mixed")
    origin = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    driver.execute_cdp_cmd("Browser.grantPermissions", origin)
    button = driver.find_element(By.CSS_SELECTOR, "[data-copy='run-0']")
    text = driver.find_element(By.ID, "run-0").text
    button.click()
    read = "const done = arguments[0]; setTimeout(() => navigator.clipboard.readText().then(done, (e) => done(String(e))), 200)"
    assert driver.execute_async_script(read) == text
    assert button.text == "Copied"
    driver.find_element(By.CSS_SELECTOR, "#failure-0 details:first-of-type summary").click()
    driver.find_element(By.CSS_SELECTOR, "[data-copy='script-0']").click()
    assert driver.execute_async_script(read).startswith("import timm")
    driver.execute_script("navigator.clipboard.writeText = () => Promise.reject(new Error('not here'))")
    driver.find_element(By.CSS_SELECTOR, "#failure-0 details:last-of-type summary").click()
    witness = driver.find_element(By.CSS_SELECTOR, "[data-copy='witness-0']")
    witness.click()
    assert '"invariant": "strict-load"' in driver.execute_script("return String(getSelection())")


def test_the_page_asks_the_network_for_nothing(visit):
    """One request: the file itself."""
    driver = visit("mixed")
    driver.get_log("performance")
    visit("mixed")
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert any(address.endswith("mixed.html") for address in asked)
    assert [a for a in asked if not a.endswith("mixed.html") and not a.startswith(("about:", "data:"))] == []


def test_without_javascript_the_story_is_told(visit, browser):
    """Failures and known bugs are there, dead controls are not."""
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        text = visit("mixed").find_element(By.TAG_NAME, "body").text
        assert not browser.find_element(By.ID, "filters").is_displayed()
        assert not any(b.is_displayed() for b in browser.find_elements(By.CLASS_NAME, "copy"))
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert "with JavaScript only" in text
    assert failure().fingerprint in text
