"""The server's page as people meet it, in headless Chromium: pictures in, answers out, clicks kept, nothing asked of
others. With SCREENSHOT=docs/search_page.png the last test leaves a picture of it there."""

import base64
import csv
import json
import os
import shutil
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("starlette", reason="starlette is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
import uvicorn
from served import FINGERPRINT, WIDTH, StubEncoder, emoji_files
from test_report_browser import CHROMIUM, DRIVER, FLAGS, soon, webdriver
from test_serving import HOSTILE

from retrieval.decision import Decision
from retrieval.index.index import Index
from serving.app import Server
from serving.server import open_port
from serving.settings import ServeSettings

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium or chromedriver is not installed")
# A mouse, which a headless browser has not.
MOUSE = "blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4"
TILES = "[...document.querySelectorAll('#hits .tile[data-id]')]"
LOADED = (
    f"return {TILES}.length && document.getElementById('hits').getAttribute('aria-busy') === 'false' && !asking.waits"
)
# A file made in the page, as a drop or a paste brings it.
FILES = """
const made = new DataTransfer();
for (const [name, text] of arguments[0]) {
  const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  made.items.add(new File([bytes], name, {type: 'image/webp'}));
}
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, MOUSE, f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


class Running:
    """A server in threads of this process."""

    def __init__(self, folder, token=None, encoder=None, **settings):
        settings = ServeSettings(port=0, rate_limit=0, **settings)
        self.folder = folder
        self.socket = open_port(settings)
        self.address = f"http://127.0.0.1:{self.socket.getsockname()[1]}/"
        app = Server(folder, encoder or StubEncoder(), settings, token).app
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()

    def stop(self):
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()


@pytest.fixture
def running(emoji_index, tmp_path):
    """A function that starts a server over a copy of the index."""
    servers = []

    def start(**settings):
        folder = tmp_path / f"{len(servers)}" / "emoji.index"
        shutil.copytree(emoji_index, folder)
        servers.append(Running(folder, **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def opened(browser, running):
    """The page of a server, in a wide window."""
    server = running()
    open_page(browser, server.address)
    browser.server = server
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def open_page(browser, address, width=1280, height=900, mobile=False, scheme="light", scale=1):
    size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": mobile})
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get("about:blank")
    browser.get(address)


def samples(browser):
    soon(browser, "return document.querySelectorAll('#samples .tile img').length")


def answered(browser):
    """The ids that the page shows, once the answer is there."""
    soon(browser, "return answer !== null && document.getElementById('hits').getAttribute('aria-busy') === 'false'")
    soon(browser, f"return {TILES}.length")
    return browser.execute_script(f"return {TILES}.map((one) => Number(one.dataset.id))")


def ask_by_file(browser, *rows):
    before = browser.execute_script("return asking")
    paths = [emoji_files()[row][0] for row in rows]
    browser.find_element("id", "files").send_keys("\n".join(paths))
    soon(browser, "return asking > arguments[0]", before)
    return answered(browser)


def contents(*rows):
    files = [Path(emoji_files()[row][0]) for row in rows]
    return [[file.name, base64.b64encode(file.read_bytes()).decode()] for file in files]


def feedback(server):
    path = server.folder / "feedback.csv"
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def until(act, expected):
    for _ in range(100):
        if act() == expected:
            return
        time.sleep(0.05)
    assert act() == expected


def click_tool(browser, id_, kind):
    browser.execute_script(f"document.querySelector('#hits .tile[data-id=\"{id_}\"] .tools .{kind}').click()")


def test_an_upload_is_answered(opened):
    samples(opened)
    name = opened.execute_script("return document.getElementById('name').textContent")
    counts = opened.execute_script("return document.getElementById('counts').textContent")
    assert name == "emoji.index" and counts == f"{len(emoji_files())} images · 8 labels"
    ids = ask_by_file(opened, 4)
    assert ids[0] == 4 and len(ids) == 24
    first = opened.execute_script(f"return {TILES}[0].textContent")
    assert "red apple" in first and "1.000" in first
    soon(opened, f"return {TILES}.slice(0, 6).every((one) => one.querySelector('img').naturalWidth > 0)")
    live = opened.execute_script("return document.getElementById('live').getAttribute('aria-live')")
    assert live == "polite"
    soon(opened, "return document.getElementById('live').textContent.includes('24 results')")


def test_drop_and_paste(opened):
    samples(opened)
    opened.execute_script(
        FILES + "const options = {bubbles: true, cancelable: true, dataTransfer: made};"
        "document.body.dispatchEvent(new DragEvent('dragenter', options));"
        "document.getElementById('drop').dispatchEvent(new DragEvent('drop', options));",
        contents(7),
    )
    soon(opened, "return asking === 1")
    assert answered(opened)[0] == 7
    assert opened.execute_script("return document.getElementById('veil').hidden")
    opened.execute_script(
        FILES
        + "document.dispatchEvent(new ClipboardEvent('paste', {bubbles: true, cancelable: true, clipboardData: made}))",
        contents(12),
    )
    soon(opened, "return asking === 2 && answer && answer.queries[0].hits[0].id === 12")


def test_several_pictures(opened):
    samples(opened)
    ids = ask_by_file(opened, 3, 20)
    assert ids[0] == 3
    opened.execute_script("document.querySelectorAll('#strip button')[1].click()")
    assert answered(opened)[0] == 20
    pressed = "return [...document.querySelectorAll('#strip button')].map((one) => one.getAttribute('aria-pressed'))"
    assert opened.execute_script(pressed) == ["false", "true"]
    opened.execute_script("document.querySelectorAll('#combine button')[1].click()")
    soon(opened, "return answer.queries.length === 1 && answer.queries[0].query.length === 2")
    assert set(answered(opened)[:10]) & {3, 20}


def test_crop_by_mouse_and_keys(opened):
    samples(opened)
    ask_by_file(opened, 4)
    soon(opened, "return preview.clientWidth > 100")
    left, top, width, height = opened.execute_script(
        "const box = document.getElementById('preview').getBoundingClientRect();"
        "return [box.left, box.top, box.width, box.height]"
    )

    def mouse(kind, x, y):
        event = {"type": kind, "x": left + x * width, "y": top + y * height, "button": "left", "clickCount": 1}
        opened.execute_cdp_cmd("Input.dispatchMouseEvent", {**event, "buttons": 1})

    mouse("mousePressed", 0.25, 0.25)
    mouse("mouseMoved", 0.5, 0.5)
    mouse("mouseMoved", 0.75, 0.75)
    mouse("mouseReleased", 0.75, 0.75)
    soon(opened, "return asking === 2 && answer && answer.queries[0].query[0].box")
    side = opened.execute_script("return document.getElementById('preview').naturalWidth")
    box = opened.execute_script("return answer.queries[0].query[0].box")
    assert box == pytest.approx([side / 4, side / 4, side * 3 / 4, side * 3 / 4], abs=2)
    drawn = opened.execute_script(
        "const box = document.getElementById('crop').getBoundingClientRect(); return [box.left, box.top, box.width]"
    )
    assert drawn == pytest.approx([left + width / 4, top + height / 4, width / 2], abs=3)
    # By keys: smaller, to the left, asked for; then all of it again.
    stage = opened.find_element("id", "stage")
    stage.send_keys("\ue008\ue012")  # shift + left
    opened.execute_script("document.activeElement.blur()")
    stage.send_keys("\ue012")
    moved = opened.execute_script("return query.boxes[0]")
    assert moved[0] < box[0] and moved[2] < box[2]
    stage.send_keys("\ue007")
    soon(
        opened,
        "return asking >= 3 && JSON.stringify(answer?.queries[0].query[0].box) === JSON.stringify(query.boxes[0])",
    )
    stage.send_keys("\ue00c")
    soon(opened, "return answer && !answer.queries[0].query[0].box && document.getElementById('crop').hidden")
    assert opened.execute_script("return document.getElementById('whole').hidden")


def test_similar_by_click_and_back(opened):
    samples(opened)
    opened.execute_script("document.querySelector('#samples .tile .picture').click()")
    ids = answered(opened)
    assert opened.execute_script("return query.kind") == "item"
    first = opened.execute_script("return query.item")
    opened.execute_script(f"{TILES}[0].querySelector('.picture').click()")
    soon(opened, f"return query.item === {ids[0]} && answer")
    opened.back()
    soon(opened, f"return query && query.item === {first}")
    opened.back()
    soon(opened, "return query === null && !document.getElementById('start').hidden")


def test_words_filters_and_groups(opened):
    samples(opened)
    field = opened.find_element("id", "text")
    field.send_keys("a red fruit\n")
    answered(opened)
    assert opened.execute_script("return document.getElementById('quote').textContent") == "a red fruit"
    for name, value, wanted in (("label", "lemon", 1), ("category", "animal-bird", 2)):
        opened.execute_script(
            "const field = document.getElementById(arguments[0]); document.getElementById('label').value = '';"
            "field.value = arguments[1]; field.dispatchEvent(new Event('change'))",
            name,
            value,
        )
        rows = emoji_files()
        expected = sum(row[wanted] == value for row in rows)
        soon(opened, f"return answer && {TILES}.length === {expected}")
        assert {rows[id_][wanted] for id_ in answered(opened)} == {value}
    opened.execute_script("document.getElementById('category').value = ''; document.getElementById('group').click()")
    soon(opened, "return document.querySelectorAll('.group').length > 1")
    titles = opened.execute_script(
        "return [...document.querySelectorAll('.group h3 bdi')].map((one) => one.textContent)"
    )
    assert len(set(titles)) == len(titles)
    # Unlike ones first; the nearest leads all the same.
    ids = "answer.queries[0].hits.map((one) => one.id)"
    before = opened.execute_script(f"return {ids}")
    opened.execute_script(
        "const order = document.getElementById('diversity'); order.value = '0.5'; order.dispatchEvent(new Event('change'))"
    )
    soon(opened, f"return String({ids}) !== arguments[0]", ",".join(map(str, before)))
    assert opened.execute_script(f"return {ids}")[0] == before[0]
    opened.execute_script(
        "const label = document.getElementById('label'); label.value = 'nothing such';"
        "label.dispatchEvent(new Event('change'))"
    )
    soon(opened, "return document.getElementById('error').textContent.includes('nothing such')")


def test_clicks_are_kept_and_taken_back(opened):
    samples(opened)
    ids = ask_by_file(opened, 4)
    server = opened.server
    rows = emoji_files()
    click_tool(opened, ids[1], "right")
    until(lambda: [(row["item"], row["same"]) for row in feedback(server)], [(rows[ids[1]][0], "1")])
    query = feedback(server)[0]["query"]
    assert Path(query).parent.name == "feedback" and Path(query).read_bytes() == Path(rows[4][0]).read_bytes()
    soon(opened, f"return tileOf({ids[1]}).classList.contains('right')")
    # Another opinion replaces it, the same once more takes it back, and so does Undo.
    click_tool(opened, ids[1], "wrong")
    until(lambda: [row["same"] for row in feedback(server)], ["0"])
    soon(opened, f"return tileOf({ids[1]}).classList.contains('wrong')")
    click_tool(opened, ids[1], "wrong")
    until(lambda: feedback(server), [])
    click_tool(opened, ids[2], "right")
    until(lambda: len(feedback(server)), 1)
    soon(opened, "return !document.getElementById('undo').hidden && lastClick !== null")
    opened.execute_script("document.getElementById('undo').click()")
    until(lambda: feedback(server), [])
    # These are the same.
    for id_ in ids[2:5]:
        click_tool(opened, id_, "mark")
    assert opened.execute_script("return document.getElementById('marked-count').textContent") == "3 marked"
    opened.execute_script("document.getElementById('same').click()")
    expected = [(rows[ids[2]][0], rows[id_][0], "1") for id_ in ids[3:5]]
    until(lambda: [(row["query"], row["item"], row["same"]) for row in feedback(server)], expected)
    soon(opened, "return document.getElementById('marked').hidden")


def test_keys_alone(opened):
    samples(opened)
    ids = ask_by_file(opened, 4)
    body = opened.switch_to.active_element
    opened.execute_script(f"{TILES}[0].querySelector('.picture').focus()")

    def focused():
        return opened.execute_script("return Number(document.activeElement.closest('.tile')?.dataset.id)")

    def press(key):
        opened.switch_to.active_element.send_keys(key)

    assert focused() == ids[0]
    press("\ue014")
    assert focused() == ids[1]
    press("\ue015")
    below = ids.index(focused())
    assert below > 2
    press("\ue013")
    assert focused() == ids[1]
    press("r")
    until(lambda: [row["same"] for row in feedback(opened.server)], ["1"])
    soon(opened, "return lastClick !== null")
    opened.execute_script("document.activeElement.blur()")
    opened.find_element("tag name", "body").send_keys("\ue009z\ue000")
    until(lambda: feedback(opened.server), [])
    opened.execute_script(f"{TILES}[1].querySelector('.picture').focus()")
    press("m")
    soon(opened, "return marked.size === 1")
    press("o")
    soon(opened, "return document.getElementById('detail').open")
    press("\ue00c")
    soon(opened, "return !document.getElementById('detail').open")
    opened.execute_script(f"{TILES}[1].querySelector('.picture').focus()")
    press("\ue007")
    soon(opened, f"return query.kind === 'item' && query.item === {ids[1]}")
    assert body is not None


def test_an_item_is_added_and_deleted(opened):
    samples(opened)
    server = opened.server
    image = np.full((30, 30, 3), (20, 180, 240), np.uint8)
    path = server.folder.parent / "new.png"
    cv2.imwrite(str(path), image)
    opened.find_element("id", "files").send_keys(str(path))
    answered(opened)
    opened.execute_script("document.getElementById('keep').click()")
    field = opened.find_element("id", "new-label")
    field.send_keys("<b>square</b>")
    opened.find_element("css selector", "#adding .main").click()
    until(lambda: len(Index.open(server.folder)), len(emoji_files()) + 1)
    soon(
        opened,
        "return answer && answer.queries[0].hits[0].label === '<b>square</b>'"
        "&& document.querySelectorAll('#hits b').length === 0",
    )
    id_ = answered(opened)[0]
    click_tool(opened, id_, "open")
    opened.execute_script("const button = document.getElementById('detail-delete'); button.click(); button.click()")
    until(lambda: len(Index.open(server.folder)), len(emoji_files()))
    soon(opened, f"return answer && !{TILES}.some((one) => Number(one.dataset.id) === {id_})")


def test_unknown_is_said(browser, running):
    server = running()
    Index.open(server.folder).decide(Decision(0.9999, (0.0, 1.0), (0.0, 1.0)))
    open_page(browser, server.address)
    samples(browser)
    browser.find_element("id", "text").send_keys("whatever\n")
    answered(browser)
    assert browser.execute_script("return document.getElementById('verdict').textContent").startswith("Unknown")
    scores = browser.execute_script(
        "return [...document.querySelectorAll('#hits .score')].map((one) => one.textContent)"
    )
    assert all(score.endswith("%") for score in scores)
    ids = ask_by_file(browser, 4)
    assert browser.execute_script("return document.getElementById('verdict').hidden")
    assert browser.execute_script(f"return tileOf({ids[1]}).classList.contains('other')")


def test_errors_are_told(opened):
    samples(opened)
    path = opened.server.folder.parent / "no.png"
    path.write_text("<svg/>")
    opened.find_element("id", "files").send_keys(str(path))
    soon(opened, "return document.getElementById('error').textContent.includes('That is no image')")
    assert opened.execute_script("return document.getElementById('error').getAttribute('role')") == "alert"
    opened.execute_script("searchItem(10**9 > 0 ? 1000000 : 0)".replace("10**9 > 0 ? 1000000 : 0", "1000000"))
    soon(opened, "return document.getElementById('error').textContent.includes('There is no item 1000000')")
    opened.server.stop()
    opened.execute_script("searchItem(1)")
    soon(opened, "return document.getElementById('error').textContent.includes('does not answer')")
    assert opened.execute_script("return document.getElementById('again').hidden") is False


def test_a_token_is_asked_for_and_kept(browser, running):
    server = running(token="secret")
    open_page(browser, server.address)
    soon(browser, "return document.getElementById('token').open")
    browser.find_element("id", "token-text").send_keys("secret")
    browser.find_element("css selector", "#token .main").click()
    samples(browser)
    soon(
        browser,
        "return [...document.querySelectorAll('#samples img')].slice(0, 5).every((one) => one.naturalWidth > 0)",
    )
    assert ask_by_file(browser, 4)[0] == 4
    soon(browser, f"return {TILES}.slice(0, 5).every((one) => one.querySelector('img').naturalWidth > 0)")
    browser.execute_script("sessionStorage.clear()")
    open_page(browser, f"{server.address}#token=secret")
    samples(browser)
    assert browser.execute_script("return location.hash") == ""
    browser.execute_script("sessionStorage.clear()")


def test_hostile_names_do_nothing_and_nobody_else_is_asked(browser, running):
    server = running()
    rng = np.random.default_rng(1)
    embeddings = rng.standard_normal((len(HOSTILE) + 1, WIDTH)).astype(np.float32)
    markup = "<img src=x onerror='window.hacked = 1'>"
    names = [*HOSTILE, markup]
    paths = [f"/nowhere/{name}.jpg" for name in names]
    Index.open(server.folder).add(embeddings, paths, names, FINGERPRINT, categories=names, names={markup: f"{markup}!"})
    open_page(browser, server.address)
    samples(browser)
    browser.execute_script("document.getElementById('k').value = '96'; searchItem(0)")
    answered(browser)
    browser.execute_script("document.getElementById('group').click()")
    soon(browser, "return document.querySelectorAll('.group').length > 8")
    click_tool(
        browser,
        browser.execute_script("return answer.queries[0].hits.find((one) => one.label_name.endsWith('!')).id"),
        "open",
    )
    time.sleep(0.5)
    assert browser.execute_script("return window.hacked") is None
    assert browser.execute_script("return document.querySelectorAll('script').length") == 1
    assert browser.execute_script("return document.querySelectorAll('[onerror], main b').length") == 0
    shown = browser.execute_script(
        "return [...document.querySelectorAll('.group h3 bdi')].map((one) => one.textContent)"
    )
    assert {f"{markup}!", HOSTILE[0], HOSTILE[1]} <= set(shown)
    browser.execute_script(
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"data:,\" onerror=\"window.hacked = 1\">');"
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hacked = 1'}));"
        "document.body.append(Object.assign(document.createElement('img'), {src: 'https://example.invalid/x.png'}))"
    )
    time.sleep(0.3)
    assert browser.execute_script("return window.hacked") is None
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    asked = {one["request"]["url"] for one in requests if one["documentURL"].startswith(server.address)}
    assert asked
    assert not [
        url for url in asked if not url.startswith((server.address, "data:", "blob:", "https://example.invalid"))
    ]
    refused = [event["params"] for event in events if event["method"] == "Network.loadingFailed"]
    assert any(one.get("blockedReason") == "csp" for one in refused)


def test_names_for_screen_readers(opened):
    samples(opened)
    ask_by_file(opened, 4)
    nameless = opened.execute_script(
        "return [...document.querySelectorAll('button, input, select, [tabindex]')].filter((one) => {"
        "const label = one.labels && one.labels.length ? one.labels[0].textContent : '';"
        "const by = (one.getAttribute('aria-labelledby') || '').split(' ').map((id) => document.getElementById(id));"
        "const inside = one.textContent || one.querySelector('img')?.alt || '';"
        "const others = by.map((other) => other?.textContent).join('');"
        "return !(one.getAttribute('aria-label') || label || others || inside).trim(); }).map((one) => one.outerHTML)"
    )
    assert nameless == []
    assert opened.execute_script("return [...document.images].every((one) => one.hasAttribute('alt'))")
    assert opened.execute_script("return document.documentElement.lang") == "en"
    errors = [entry["message"] for entry in opened.get_log("browser")]
    assert errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_has_room_for_all(browser, running, scheme):
    server = running()
    open_page(browser, server.address, 390, 844, mobile=True, scheme=scheme)
    samples(browser)
    for act in (None, lambda: ask_by_file(browser, 4, 9), lambda: click_tool(browser, answered(browser)[0], "open")):
        if act:
            act()
        assert browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    soon(browser, "return document.getElementById('detail').open")
    right = browser.execute_script("return document.getElementById('detail').getBoundingClientRect().right")
    assert right <= 390
    small = browser.execute_script(
        "return [...document.querySelectorAll('#hits .tools button, header button')].filter((one) => one.offsetParent)"
        ".filter((one) => Math.min(one.offsetWidth, one.offsetHeight) < 30).length"
    )
    assert small == 0
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 200) == (scheme == "dark")


def test_its_picture(browser, running):
    """A page with answers, a crop and clicks, as docs/serving.md shows it."""
    server = running()
    open_page(browser, server.address, 1240, 800)
    samples(browser)
    ids = ask_by_file(browser, 4)
    # Again while the machine has other things to do: the seconds on it are those of a server at rest.
    for _ in range(20 if os.environ.get("SCREENSHOT") else 0):
        took = browser.execute_script("return Object.values(answer.milliseconds).reduce((sum, one) => sum + one)")
        if took < 15:
            break
        browser.execute_script("answer = null; search()")
        answered(browser)
    click_tool(browser, ids[1], "right")
    soon(browser, f"return tileOf({ids[1]}).classList.contains('right')")
    soon(browser, f"return {TILES}.slice(0, 15).every((one) => one.querySelector('img').naturalWidth > 0)")
    time.sleep(0.4)
    encoded = base64.b64decode(browser.get_screenshot_as_base64())
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (800, 1240, 3) and image.std() > 20
    if os.environ.get("SCREENSHOT"):
        cv2.imwrite(os.environ["SCREENSHOT"], image, [cv2.IMWRITE_PNG_COMPRESSION, 9])
