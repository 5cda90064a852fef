"""The report as a reader meets it, in headless Chromium: drawn, quiet, offline, deaf to hostile names, and narrow."""

import dataclasses
import json
import shutil
import time

import numpy as np
import pytest
from reports import COLOUR_ERROR, HOSTILE, clusters, colour_of, make_content, records_of
from tolerances import assert_within, decimal_error

from report.page.captions import shortened
from report.page.duplicates import closest_across_labels, closest_across_lists
from report.page.page import write_content

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium or chromedriver is not installed")

FLAGS = ["headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking"]
FLAGS += ["disable-component-update", "disable-sync", "disable-dev-shm-usage", "hide-scrollbars"]
LABELS = np.repeat(np.arange(len(HOSTILE)), 3)
RATE = {"value": 0.5, "interval": [0.4, 0.6]}
# As result.json has it, chosen on a list with a hostile name.
VERIFICATION = {
    "pairs": {"of": "all pairs", "positive": 10, "negative": 200, "labels": 7},
    "tar_at_far": [{"far": 0.1, "cosine": 0.25, "tar": RATE}],
    "eer": {**RATE, "cosine": 0.3},
    "intervals": {"resamples": 20},
    "threshold_on": {
        "list": HOSTILE[2],
        "thresholds": [
            {"far": 1e-7, "cosine": 0.25, "chosen": {"far": 0, "tar": 0.75}, "measured": {"far": RATE, "tar": RATE}}
        ],
    },
    "calibration": {
        "predicted": [0.1, 0.4, 0.8],
        "observed": [0.1, 0.5, 1.0],
        "pairs": [500, 40, 3],
        "brier": 0.012345,
        "ece": 0.01,
    },
    "folds": {"accuracy": 0.931, "standard_error": 0.004, "of_folds": {"1": 0.9, "2": 0.95}},
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report in which every name is hostile: labels, categories, files, lists, title and facts."""
    labels = np.array(HOSTILE)[LABELS]
    embeddings = clusters(LABELS, spread=0.9, width=3)
    paths = np.array([f"{HOSTILE[row % len(HOSTILE)]}/{row}" for row in range(len(labels))])
    others = records_of(HOSTILE[2], paths[:5], labels[:5])
    content = make_content(labels, embeddings, paths, labels, title=HOSTILE[1], facts=dict(zip(HOSTILE, HOSTILE[::-1])))
    pairs = closest_across_labels(content.results, content.query_rows, labels)
    leaks = closest_across_lists(embeddings, embeddings[:5])
    path = tmp_path_factory.mktemp("report") / "report.html"
    more = {"label_pairs": pairs, "leaks": leaks, "others": others, "verification": VERIFICATION}
    write_content(path, dataclasses.replace(content, **more))
    return path.as_uri()


@pytest.fixture
def opened(browser, page):
    """The page, freshly loaded in a wide window, its sheet of images there."""
    yield open_page(browser, page, 1280)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def open_page(browser, page, width, mobile=False, scheme="light"):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": mobile}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(page)
    soon(browser, "return sheet.complete && sheet.naturalWidth > 0 && width > 0")
    return browser


def soon(browser, script, *values):
    """What a script gives, waited for until it is true."""
    for _ in range(100):
        found = browser.execute_script(script, *values)
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"never true: {script}")


def mouse(browser, x, y, kind="mouseMoved"):
    pressed = {"button": "left", "clickCount": 1} if kind != "mouseMoved" else {}
    browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **pressed})


def into_view(browser, selector):
    """Scroll the first such element to the middle and give its box: left, top, width, height."""
    scroll = "document.querySelector(arguments[0]).scrollIntoView({block: 'center', behavior: 'instant'})"
    box = "const box = document.querySelector(arguments[0]).getBoundingClientRect(); "
    browser.execute_script(scroll, selector)
    time.sleep(0.15)  # a scroll is told of with the next frame, and hides what is shown
    return browser.execute_script(box + "return [box.left, box.top, box.width, box.height]", selector)


def test_nothing_is_asked_of_the_network_and_nothing_complains(opened, page):
    time.sleep(0.3)
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    requests = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    asked = {one["request"]["url"] for one in requests if one["documentURL"] == page}  # not the browser's own pages
    assert page in asked
    assert {url for url in asked if url != page and not url.startswith("data:")} == set()
    assert not [one for one in requests if one["request"]["url"].startswith(("http", "ws"))]
    assert opened.get_log("browser") == []


def test_hostile_names_are_shown_and_do_nothing(opened):
    assert opened.execute_script("return window.hacked") is None
    assert opened.execute_script("return document.querySelectorAll('script').length") == 2
    assert opened.execute_script("return document.querySelectorAll('[onerror], [onmouseover], main b b').length") == 0
    assert opened.title == HOSTILE[1]
    names = opened.execute_script(
        "return [...document.querySelectorAll('#bars bdi')].map((one) => one.textContent.toWellFormed())"
    )
    assert set(map(shortened, HOSTILE[:8])) <= set(names)
    links = opened.execute_script(
        "return [...document.querySelectorAll('[href]')].map((one) => one.getAttribute('href'))"
    )
    assert all(link.startswith(("#", "data:,")) for link in links)


def test_same_or_not_is_shown(opened):
    def texts(selector):
        script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)"
        return opened.execute_script(script, selector)

    assert texts("#rates th") == ["FAR wished", "Cosine", "TAR there, %", "FAR here, %", "TAR here, %"]
    cells = ["1e-7", "0.2500", "75.00", "50.000040.0000 – 60.0000", "50.0040.00 – 60.00"]
    assert texts("#rates td") == cells
    assert texts("#verification-numbers dd") == ["50.00 %", "0.3000", "93.10 ± 0.40 %"]
    assert len(texts("#reliability circle")) == 3
    # The line goes through the points with enough pairs.
    assert (
        opened.execute_script("return document.querySelector('#reliability .found').getAttribute('d')").count("L") == 1
    )
    assert "0.0123" in texts("#reliability-note")[0]
    assert opened.execute_script("return document.querySelector('#verification bdi').textContent") == HOSTILE[2]


def test_the_policy_would_stop_a_mistake(opened):
    opened.execute_script(
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"data:,\" onerror=\"window.hacked = 1\">');"
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hacked = 1'}));"
        "document.body.append(Object.assign(document.createElement('img'), {src: 'https://example.invalid/x.png'}))"
    )
    time.sleep(0.3)
    assert opened.execute_script("return window.hacked") is None
    refused = [entry["message"] for entry in opened.get_log("browser")]
    assert sum("Content Security Policy" in message for message in refused) >= 3


def test_histogram_and_bars_are_drawn(opened):
    areas = opened.execute_script(
        "return [...document.querySelectorAll('#histogram path')].map((p) => [p.getBBox().width, p.getBBox().height])"
    )
    assert len(areas) == 2 and all(width > 500 and height > 20 for width, height in areas)
    assert opened.execute_script("return document.querySelectorAll('#histogram line.threshold').length") == 1
    bars = opened.execute_script(
        "return [...document.querySelectorAll('#bars li')].map((row) => [row.querySelector('.bar').offsetWidth /"
        " row.querySelector('.track').offsetWidth, Number(row.querySelector('.share').textContent) / 100])"
    )
    assert len(bars) == len(HOSTILE) and bars == sorted(bars, key=lambda one: one[1])
    # Widths are whole pixels of tracks of more than 100, what is said has three decimals.
    assert_within([drawn for drawn, _ in bars], [said for _, said in bars], 0.01 + decimal_error(3))


def test_pointing_at_an_item_shows_its_image(opened):
    left, top, width, height = into_view(opened, "#canvas")
    for row in (0, 7, 20, 35):
        x, y = opened.execute_script("return place(arguments[0])", row)
        assert 0 < x < width and 0 < y < height
        mouse(opened, left + x, top + y)
        soon(opened, f"return current === {row} && !tip.hidden")
        file = opened.execute_script("return document.getElementById('tip-file').textContent")
        assert file.endswith(f"/{row}")
        colour = opened.execute_script(
            "return [...document.getElementById('tip-image').getContext('2d').getImageData(73, 73, 1, 1).data]"
        )
        assert_within(colour[:3], colour_of(row), COLOUR_ERROR)
    mouse(opened, left + 3, top + height - 3)
    soon(opened, "return tip.hidden && current === null")


def test_points_stand_where_they_are_pointed_at(opened):
    """The canvas has colour around each point's place and none in its corners."""
    drawn = (
        "const [x, y] = arguments; return brush.getImageData((x - 4) * devicePixelRatio, (y - 4) * devicePixelRatio,"
        " 8, 8).data.some((value) => value > 0)"
    )
    for row in range(len(LABELS)):
        assert opened.execute_script(drawn, *opened.execute_script("return place(arguments[0])", row))
    assert not opened.execute_script(drawn, 5, 5)


def test_wheel_and_keys_and_dragging(opened):
    left, top, width, height = into_view(opened, "#canvas")
    middle = {"x": left + width / 2, "y": top + height / 2}
    wheel = {"type": "mouseWheel", **middle, "deltaX": 0, "deltaY": -300}
    opened.execute_cdp_cmd("Input.dispatchMouseEvent", wheel)
    time.sleep(0.3)
    assert opened.execute_script("return view.zoom") == 1  # the page scrolled instead
    left, top, width, height = into_view(opened, "#canvas")
    x, y = left + width / 2, top + height / 2
    mouse(opened, x, y, "mousePressed")
    mouse(opened, x, y, "mouseReleased")
    opened.execute_cdp_cmd("Input.dispatchMouseEvent", {**wheel, "x": x, "y": y})
    assert soon(opened, "return view.zoom > 1 && view.zoom") < 3
    before = opened.execute_script("return place(0)")
    mouse(opened, x, y, "mousePressed")
    opened.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x + 50, "y": y, "button": "left"})
    mouse(opened, x + 50, y, "mouseReleased")
    assert opened.execute_script("return place(0)[0]") == pytest.approx(before[0] + 50, abs=1)  # whole pixels
    opened.find_element("id", "unzoomed").click()
    assert opened.execute_script("return [view.zoom, view.x, view.y]") == [1, 0, 0]
    opened.find_element("id", "canvas").send_keys("\ue014\ue014")  # right, right
    soon(opened, "return current === 1 && !tip.hidden")
    opened.find_element("id", "canvas").send_keys("\ue00c")  # escape
    assert opened.execute_script("return tip.hidden")


def test_groups_are_highlighted_and_colours_chosen(opened):
    key = "document.querySelectorAll('#keys button')"
    opened.execute_script(f"{key}[2].click()")
    assert opened.execute_script(f"return [...{key}].map((one) => one.getAttribute('aria-pressed'))").count("true") == 1
    assert opened.execute_script("return highlighted") == 2
    opened.execute_script("document.querySelectorAll('#colourings button')[1].click()")
    names = opened.execute_script(f"return [...{key}].map((one) => one.querySelector('bdi').textContent)")
    assert (
        set(names) <= {"nearest is right", "nearest is wrong"} and opened.execute_script("return highlighted") is None
    )


def test_kinds_of_queries_take_turns(opened):
    shown = "return [...document.querySelectorAll('.panel')].map((one) => one.offsetHeight > 0)"
    assert opened.execute_script(shown) == [True, False, False]
    opened.execute_script("document.querySelectorAll('#kinds button')[2].click()")
    assert opened.execute_script(shown) == [False, False, True]
    tiles = "return [...document.querySelectorAll('.tile.{0}')].every((one) => one.querySelector('.mark path'))"
    assert opened.execute_script(tiles.format("right")) and opened.execute_script(tiles.format("wrong"))
    assert opened.execute_script("return [...document.images].every((one) => one.complete && one.alt)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_has_room_for_all(browser, page, scheme):
    open_page(browser, page, 390, mobile=True, scheme=scheme)
    assert browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    beyond = browser.execute_script(
        "return [...document.querySelectorAll('body *')].filter((one) => one.getBoundingClientRect().right > 391)"
        ".filter((one) => !one.closest('.name, .label, #keys')).map((one) => one.outerHTML.slice(0, 80))"
    )
    assert beyond == []
    assert browser.get_log("browser") == []


def test_a_tap_shows_an_item(browser, page):
    open_page(browser, page, 390, mobile=True)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        for selector, spot in (("#canvas", "return place(4)"), (".tile.query", "return [30, 30]")):
            left, top, _, _ = into_view(browser, selector)
            x, y = browser.execute_script(spot)
            touch = {"type": "touchStart", "touchPoints": [{"x": left + x, "y": top + y}]}
            browser.execute_cdp_cmd("Input.dispatchTouchEvent", touch)
            browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
            soon(browser, "return !tip.hidden")
            box = browser.execute_script("const box = tip.getBoundingClientRect(); return [box.left, box.right]")
            assert box[0] >= 0 and box[1] <= 390
            time.sleep(0.3)
            assert browser.execute_script("return !tip.hidden")  # it stays
    finally:
        browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_paper_shows_every_kind_of_query(opened):
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown = "return [...document.querySelectorAll('.panel')].every((one) => one.offsetHeight > 0)"
    assert opened.execute_script(shown)
    assert opened.execute_script("return document.querySelector('nav').offsetHeight") == 0
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
