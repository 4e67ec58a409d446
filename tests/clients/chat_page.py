"""The chat page in headless Chromium, by WebDriver: `chat_page.py ADDRESS KEY SCREENSHOT`."""

import base64
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ADDRESS, KEY, SHOT = sys.argv[1:]


def ask(method, url, body=None, headers=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()


# Without the key the page is denied, and yet it is there to ask for one.
assert ask("GET", ADDRESS + "/", headers={"Accept": "*/*"})[0] == 401
status, page = ask("GET", ADDRESS + "/", headers={"Accept": "text/html"})
assert status == 401 and page.startswith("<!doctype html>")
status, page = ask("GET", ADDRESS + "/", headers={"Authorization": "Bearer " + KEY})
assert status == 200
# It works offline: it names no other place.
assert not re.search(r"(src|href)=|https?:|//[a-z0-9]+\.[a-z]", page.replace('href="data:,"', "")), "another place"

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
session = base = f"http://127.0.0.1:{port}"
driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL)
try:
    for _ in range(100):
        try:
            if ask("GET", base + "/status")[0] == 200:
                break
        except OSError:
            time.sleep(0.1)
    folder = tempfile.mkdtemp()
    flags = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
             "disable-component-update", "disable-sync", "disable-dev-shm-usage", "window-size=900,760",
             "user-data-dir=" + folder]
    options = {"args": ["--" + flag for flag in flags], "binary": "/usr/bin/chromium"}
    wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
    status, text = ask("POST", base + "/session", {"capabilities": {"alwaysMatch": wanted}})
    assert status == 200, text
    session = base + "/session/" + json.loads(text)["value"]["sessionId"]

    def do(method, path, body=None):
        status, text = ask(method, session + path, body)
        assert status == 200, (path, text)
        return json.loads(text)["value"]

    def js(code):
        return do("POST", "/execute/sync", {"script": code, "args": []})

    def until(code, seconds=60):
        begin = time.time()
        while not js("return " + code):
            assert time.time() - begin < seconds, (code, js("return document.body.innerText"))
            time.sleep(0.02)

    def element(selector):
        found = do("POST", "/element", {"using": "css selector", "value": selector})
        return next(iter(found.values()))

    def click(selector):
        do("POST", f"/element/{element(selector)}/click", {})

    def keys(selector, text):
        do("POST", f"/element/{element(selector)}/value", {"text": text})

    do("POST", "/url", {"url": ADDRESS + "/"})
    until("!document.querySelector('#ask-key').hidden")
    assert js("return document.querySelector('#send').disabled")
    keys("#key", "wrong")
    click("#use-key")
    time.sleep(0.3)
    assert not js("return document.querySelector('#ask-key').hidden")
    js("document.querySelector('#key').value = ''")
    keys("#key", KEY)
    click("#use-key")
    until("document.querySelector('#ask-key').hidden && document.querySelector('#model').innerText === 'storyteller'")

    # A whole answer, which comes piece by piece.
    click("summary")
    keys("#most", "120")
    keys("#text", "Tell me a story about a fox.\ue007")
    until("document.querySelector('.said')?.innerText.length > 0")
    early = js("return document.querySelector('.said').innerText.length")
    until("!document.querySelector('#send').hidden")
    whole = js("return document.querySelector('.said').innerText")
    note = js("return document.querySelector('.note').innerText")
    assert early < len(whole) and "tokens/s" in note and "first after" in note, (early, whole, note)

    # One that is stopped.
    js("document.querySelector('#most').value = ''")
    keys("#text", "And now a long one <b>please</b>.")
    # The model is quick: the button is pressed as soon as there is a text to see.
    js("""new MutationObserver((_, watch) => {
            if (!document.querySelectorAll('.said')[1]?.textContent) return;
            watch.disconnect();
            document.querySelector('#stop').click();
        }).observe(document.querySelector('#log'), { childList: true, subtree: true, characterData: true });""")
    click("#send")
    until("!document.querySelector('#send').hidden")
    assert "stopped" in js("return document.querySelectorAll('.note')[1].innerText")
    assert js("return document.querySelectorAll('.turn b').length") == 0, "text became HTML"
    for _ in range(100):
        metrics = ask("GET", ADDRESS + "/metrics", headers={"Authorization": "Bearer " + KEY})[1]
        if 'unimlx_requests_running{model_name="storyteller"} 0' in metrics:
            break
        time.sleep(0.02)
    else:
        raise AssertionError("the stopped answer goes on")
    with open(SHOT, "wb") as file:
        file.write(base64.b64decode(do("GET", "/screenshot")))
    click("#new")
    assert js("return document.querySelectorAll('.turn').length") == 0
    problems = [e for e in do("POST", "/se/log", {"type": "browser"}) if e["level"] == "SEVERE" and "401" not in e["message"]]
    assert not problems, problems
    print("ok the chat page")
finally:
    ask("DELETE", session)  # the browser ends with it
    driver.terminate()
    driver.wait()
