"""Look at a page of minigam explain in Chromium, as selenium drives it."""

import pytest

# The lowest contrast of any text with its background (WCAG 2), and that text. A canvas is used because
# it understands every way of writing a colour.
CONTRAST = """
const brush = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
function rgba(color) {
  brush.clearRect(0, 0, 1, 1); brush.fillStyle = color; brush.fillRect(0, 0, 1, 1);
  return [...brush.getImageData(0, 0, 1, 1).data];
}
function light(color) {
  const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const [r, g, b] = rgba(color).map((c) => linear(c / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function under(node) {
  while (node && rgba(getComputedStyle(node).backgroundColor)[3] === 0) node = node.parentElement;
  return node ? getComputedStyle(node).backgroundColor : "white";
}
let worst = [Infinity, ""], texts = 0;
for (const node of document.body.querySelectorAll("*")) {
  const text = [...node.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join("");
  if (!text || !node.checkVisibility()) continue;
  const [a, b] = [getComputedStyle(node).color, under(node)].map(light);
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  texts += 1;
  if (ratio < worst[0]) worst = [ratio, text];
}
return [...worst, texts];
"""

# Whether nothing covers a button.
UNCOVERED = """
const [button] = arguments, r = button.getBoundingClientRect();
const at = (y) => document.elementFromPoint(r.left + r.width / 2, y);
return [r.top + 2, r.bottom - 2].every((y) => button.contains(at(y)));
"""
# Controls that a screen reader could not name.
NAMELESS = """
const named = (e) => e.textContent.trim() || e.getAttribute("aria-label") || (e.labels && e.labels.length);
const controls = [...document.querySelectorAll("button, input, textarea, summary, output")];
return controls.filter((e) => !named(e)).map((e) => e.outerHTML);
"""


def look(browser, width: int = 1100, height: int = 800, scheme: str = "light") -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)


def text(browser, selector: str) -> str:
    return browser.find_element("css selector", selector).text


def texts(browser, selector: str) -> list[str]:
    elements = browser.find_elements("css selector", selector)
    return browser.execute_script("return arguments[0].map((e) => e.textContent)", elements)


def buttons(browser) -> list:
    return browser.find_elements("css selector", "#text button")


def rows_of(browser, selector: str) -> list[str]:
    """Return the rows of a table, with | between the cells."""
    return browser.execute_script(
        f"return [...document.querySelectorAll('{selector} tbody tr')]"
        ".map((r) => [...r.cells].map((c) => c.textContent).join('|'))"
    )


def assert_percent(shown: str, share: float) -> None:
    """Compare a share with "12 %", with "1.2 %" if it is below 10 %, or with "< 0.1 %"."""
    shown = shown.replace("\u00a0", " ")
    assert shown.endswith(" %")
    if shown.startswith("<"):
        assert 0.0 < share < 0.00101
        return
    tolerance = 0.051 if share < 0.0995 else 0.51
    assert float(shown[:-2]) == pytest.approx(100 * share, abs=tolerance)


def number(chip: str) -> float:
    """Return the number in a chip of the measure Surprise."""
    return float(chip.replace("\u2212", "-").replace("\u00b1", ""))


def slots_shown(browser) -> list[str]:
    return texts(browser, "#memory tbody td:first-child")


def radio(browser, name: str, value):
    return browser.find_element("css selector", f"input[name={name}][value='{value}']")


def choose(browser, name: str, value) -> None:
    radio(browser, name, value).click()


def choices(browser, name: str) -> list[str]:
    return [e.get_attribute("value") for e in browser.find_elements("css selector", f"input[name={name}]")]


def having(browser, name: str) -> list[int]:
    """Return the indices of the tokens that have a class."""
    script = "return [...arguments[0]].map((b) => b.classList.contains(arguments[1]))"
    return [i for i, has in enumerate(browser.execute_script(script, buttons(browser), name)) if has]


def current_token(browser) -> int:
    """Return the index of the token that the panel shows."""
    return having(browser, "now")[0]


def current(browser) -> int:
    return browser.execute_script(
        "return [...document.querySelectorAll('#text button')].findIndex((b) => b === document.activeElement)"
    )
