"""The page: what it is told, what it refuses, and what ends an answer."""

import base64
import io
import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import soundfile

import gemini_mini
from gemini_mini import errors, stream
from gemini_mini.decode import engine
from gemini_mini.tokenizers import audio_io

testclient = pytest.importorskip("starlette.testclient", reason="pip install -e '.[serve,dev]'")
from gemini_mini.serve import __main__ as serve, desk as desk_lib, web  # noqa: E402

ORIGIN = "http://127.0.0.1"
HOW = {"temperature": 1.5, "image_size": "16x8", "modalities": ("text", "image", "audio")}  # the same everywhere: one program


@pytest.fixture
def desk(model):
    desk = desk_lib.Desk(model)
    yield desk
    desk.close()
    desk.worker.shutdown()


@pytest.fixture
def client(desk):
    return testclient.TestClient(web.make_app(desk), base_url=ORIGIN)


@pytest.fixture
def door(desk):
    """A port behind which a real server answers."""
    with serve.listen(0) as door:
        server = serve.Server(desk)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
        thread.start()
        yield door.getsockname()[1]
        server.handle_exit(signal.SIGINT, None)
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def slow_writing(monkeypatch):
    """A token at a time, so slowly that a whole answer takes half a minute."""
    monkeypatch.setattr(engine, "STREAM_TOKENS", 1)
    monkeypatch.setattr(desk_lib.Teller, "add", lambda *_: time.sleep(0.3))


def png(width=8, height=8, colour="red"):
    data = io.BytesIO()
    PIL.Image.new("RGB", (width, height), colour).save(data, "PNG")
    return data.getvalue()


def wav(seconds=0.2):
    data = io.BytesIO()
    soundfile.write(data, 0.1 * np.sin(np.arange(int(16_000 * seconds)) / 5), 16_000, format="WAV")
    return data.getvalue()


def ask(client, *parts, **options):
    files = [("part", part if isinstance(part, tuple) else (None, part)) for part in parts]
    asked = {"temperature": "1.5", "image_size": "16x8", "modality": HOW["modalities"], "chat": "a"} | options
    return client.post("/ask", files=files, data=asked, headers={"origin": ORIGIN})


def events(response):
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


def shown(event):
    """Pixels with their transparency."""
    return np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(event["picture"].partition(",")[2]))))


def test_the_page_is_told_what_the_model_answers(client, model, monkeypatch):
    monkeypatch.setattr(engine, "STREAM_TOKENS", 1)
    red = np.full((32, 32, 3), (255, 0, 0), np.uint8)
    said = ["look:", red, "and", audio_io.even_loudness(np.frombuffer(wav()[44:], "<i2").astype(np.float32) / 32768)]
    for seed in range(30):
        answer = model.generate(said, seed=seed, **HOW)
        if {type(part) for part in answer} >= {stream.Text, gemini_mini.api.Picture, gemini_mini.api.Sound}:
            break
    told = events(ask(client, "look:", ("red.png", png()), "and", ("tone.wav", wav()), seed=str(seed)))
    readable = lambda text: "".join(c for c in text if c.isascii() and c.isprintable())  # nonsense breaks characters apart
    assert readable("".join(event.get("text", "") for event in told)) == readable(answer.text) != ""
    assert told[-1]["done"]["tokens"] == len(answer.tokens) and told[-1]["done"]["stopped"] == ""
    media = [part for part in answer if not isinstance(part, stream.Text)]
    for number, part in enumerate(media):
        about = [event for event in told if event.get("part") == number]
        if isinstance(part, stream.Audio):
            (event,) = about
            samples, rate = soundfile.read(io.BytesIO(base64.b64decode(event["sound"].partition(",")[2])))
            assert rate == 16_000 and np.allclose(samples, part.samples, atol=1e-4)
        else:
            pictures = [shown(event) for event in about]
            lines = [(picture[:, 0, 3] == 255).sum() for picture in pictures]
            assert lines == [4, 8, 8], "a row of codes is four lines; the last time the picture is whole"
            np.testing.assert_array_equal(pictures[-1][..., :3], part.pixels)
            np.testing.assert_array_equal(pictures[-1][..., 3], 255)
            assert (pictures[0][4:, :, 3] == 0).all()


def test_a_conversation_goes_on_and_the_unused_one_is_forgotten(client, desk, monkeypatch):
    monkeypatch.setattr(desk_lib, "MAX_CHATS", 2)
    monkeypatch.setattr(desk, "max_seconds", 0)
    for chat in ("a", "b", "a", "c"):
        events(ask(client, "hello", chat=chat))
    assert {name: len(chat.turns) for name, chat in desk.chats.items()} == {"a": 2, "c": 1}


def test_what_is_forgotten_is_said(client, desk, monkeypatch):
    notes = lambda **asked: [event["note"] for event in events(ask(client, "hello " * 3, **asked)) if "note" in event]
    monkeypatch.setattr(desk_lib, "MAX_CHATS", 1)
    monkeypatch.setattr(desk, "max_seconds", 0)
    assert notes(chat="a") == notes(chat="a", turns="1") == notes(chat="b", turns="0") == notes(chat="b", turns="x") == []
    (note,) = notes(chat="a", turns="2")
    assert note.startswith("what was said before is forgotten: the 1 conversations")
    for turn in range(1, 20):
        if said := notes(chat="a", turns=str(turn)):
            break
    assert said and said[0].startswith("the context is full: the oldest 1 of ") and turn > 1
    assert int(said[0].split(" of ")[1].split()[0]) == len(desk.chats["a"].turns)


def test_a_text_is_never_a_file_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("red.png").write_bytes(png())
    assert desk_lib.read(["red.png", "/etc/passwd", str(tmp_path)], 4) == [
        stream.Text("red.png"), stream.Text("/etc/passwd"), stream.Text(str(tmp_path))]
    assert isinstance(desk_lib.read([desk_lib.Upload("../../red.png", png())], 4)[0], stream.Image)


@pytest.mark.parametrize("name, data, sentence", [
    ("cat.png", b"no picture", "cat.png: must be a picture"), ("cat.png", png(64, 64)[:80], "cat.png: is damaged"),
    ("cat.gif", b"", "cat.gif: must be a picture"), ("wide.png", png(7000, 6000), "at most 40 megapixels"),
    ("a.wav", b"RIFF", "a.wav: could not be read as sound"), ("a.wav", wav(61), "at most 60 s"), ("a.wav", wav(0), "holds no sound"),
    ("a.wav", wav(9), "shorten the prompt"), ("run.sh", b"ls", "run.sh: must be a picture"), ("<b>.exe", b"", "<b>.exe: must be")])
def test_a_broken_upload_gets_a_sentence(client, name, data, sentence):
    *_, last = events(ask(client, "look", (name, data)))
    assert sentence in last["error"] and "/tmp" not in last["error"] and "Traceback" not in last["error"]


@pytest.mark.parametrize("parts, options, sentence", [
    ([], {}, "1 to 16 parts"), (["  "], {}, "1 to 16 parts"), (["a"] * 17, {}, "got 17"),
    ([("a.png", b"")] * 17, {}, "Too many files"), (["a" * 70_000], {}, "maximum size"),
    (["a"], {"temperature": "hot"}, "temperature: must be a number"), (["a"], {"seed": "-1"}, "seed"),
    (["a"], {"temperature": "nan"}, "temperature"), (["a"], {"modality": "smell"}, "modalities: must be some of"),
    (["a"], {"image_size": "31x9"}, "WIDTHxHEIGHT"), (["a"], {"guidance": "2"}, "trained with null prompts")])
def test_what_makes_no_sense_gets_a_sentence(client, parts, options, sentence):
    response = ask(client, *parts, **options)
    told = response.json() if response.status_code == 400 else events(response)[-1]
    assert sentence in told["error"]


def test_a_fault_of_ours_is_logged_and_the_next_question_answered(client, desk, monkeypatch, caplog):
    monkeypatch.setattr(desk, "max_seconds", 0)
    with monkeypatch.context() as patch:
        patch.setattr(desk_lib.Teller, "add", lambda *_: 1 / 0)
        assert "ZeroDivisionError" in events(ask(client, "a"))[-1]["error"] and "ZeroDivisionError" in caplog.text
    assert "done" in events(ask(client, "a"))[-1]


def test_requests_are_bounded(client, desk):
    response = client.post("/ask", content=b"", headers={"content-length": "99999999"})
    assert response.status_code == 413 and "100.0 MB, but at most 16 MB" in response.json()["error"]
    assert client.post("/ask", content=iter([b"a"])).status_code == 411
    release, told = threading.Event(), []
    desk.worker.submit(release.wait)
    desk.close()  # those in line are let go at once
    for _ in range(desk_lib.MAX_ASKED):
        desk.ask(desk_lib.Question(["a"], {}, "a"), told.append)
    response = ask(client, "a")
    assert response.status_code == 503 and "ask again in a moment" in response.json()["error"]
    release.set()
    desk.worker.shutdown()
    assert desk.num_asked == 0 and told == [{"waiting": 1}, {"waiting": 2}, {"waiting": 3}] + [None] * desk_lib.MAX_ASKED


def test_the_largest_request_is_taken_and_a_byte_more_is_not(client, monkeypatch):
    size = len(ask(client, ("a.png", png())).request.content)
    monkeypatch.setattr(web, "MAX_REQUEST_BYTES", size)
    assert ask(client, ("a.png", png())).status_code == 200
    response = ask(client, ("a.png", png() + b"1"))
    assert response.status_code == 413 and "send fewer or smaller files" in response.json()["error"]


def test_a_request_has_a_time_to_arrive(door, monkeypatch):
    monkeypatch.setattr(web, "MAX_UPLOAD_S", 0.5)
    with socket.create_connection(("127.0.0.1", door), timeout=20) as tab:
        tab.sendall(b"POST /ask HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: multipart/form-data; boundary=x\r\n"
                    b"Content-Length: 1000\r\n\r\n--x\r\n" % door)
        answer = b"".join(iter(lambda: tab.recv(1000) if b"}" not in tab.recv(1000, socket.MSG_PEEK) else b"", b"")) + tab.recv(1000)
    assert b"408" in answer and b"took more than 0 s to arrive; send it again" in answer


def test_other_sites_cannot_call(client):
    assert client.get("/").status_code == 200
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""):
        assert client.get("/", headers={"host": host}).status_code == 400
        assert client.post("/ask", headers={"host": host, "origin": f"http://{host}"}).status_code == 400
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1", ""):
        response = client.post("/ask", files={"part": (None, "a")}, headers={"origin": origin})
        assert response.status_code == 403 and "only the page itself" in response.json()["error"]
    assert "access-control-allow-origin" not in client.get("/").headers


def test_only_this_machine_can_reach_it():
    with serve.listen(0) as door:
        assert ipaddress.ip_address(door.getsockname()[0]).is_loopback
        with pytest.raises(errors.InputError, match=r"--port: \d+ cannot be had .*choose another"):
            serve.listen(door.getsockname()[1])


def test_the_page_needs_nothing_from_elsewhere(client):
    index = client.get("/")
    assert "default-src 'none'" in index.headers["content-security-policy"] and "<h1>tiny</h1>" in index.text and "{" not in index.text
    files = set(re.findall(r'(?:src|href)="([^"]*)"', index.text)) - {"data:,"}
    assert files == {"page.css", "page.js"} and not re.search(r"<script>|style=|\son\w+=", index.text)
    for path in ("/", *(f"/{name}" for name in files)):
        source = client.get(path)
        assert source.status_code == 200 and not re.search(r"(https?:)?//[\w]", source.text.replace("// ", ""))
    assert client.get("/../desk.py").status_code == client.get("/docs").status_code == 404


def test_a_closed_tab_stops_the_answer(desk, door, slow_writing):
    body = b"".join(b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % pair
                    for pair in ((b"part", b"hello"), (b"chat", b"a"), (b"temperature", b"1.5"), (b"image_size", b"16x8"),
                                 *((b"modality", name.encode()) for name in HOW["modalities"]))) + b"--x--\r\n"
    with socket.create_connection(("127.0.0.1", door)) as tab:
        tab.sendall(b"POST /ask HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: multipart/form-data; boundary=x\r\n"
                    b"Content-Length: %d\r\n\r\n" % (door, len(body)) + body)
        assert b"200 OK" in tab.recv(100)
    start = time.monotonic()
    while desk.num_asked and time.monotonic() - start < 20:
        time.sleep(0.05)
    assert desk.num_asked == 0 and len(desk.chats["a"].turns) == 1


@pytest.mark.parametrize("how", ["time", "close"])
def test_an_answer_ends_in_time_and_with_the_program(client, desk, slow_writing, monkeypatch, how):
    if how == "time":
        monkeypatch.setattr(desk, "max_seconds", 0.5)
    else:
        threading.Timer(0.5, desk.close).start()
    start = time.monotonic()
    *_, last = events(ask(client, "hello"))
    assert time.monotonic() - start < 15
    assert last.get("done", {"stopped": "as asked"})["stopped"].startswith("after 0.5 s" if how == "time" else "as asked")


def test_files_are_read_in_time(client, desk, monkeypatch):
    """A film may have more frames than anyone waits for."""
    clip, shots = io.BytesIO(), [PIL.Image.new("RGB", (8, 8), (40 * n, 0, 0)) for n in range(5)]
    shots[0].save(clip, "GIF", save_all=True, append_images=shots[1:])
    monkeypatch.setattr(desk, "max_seconds", 0)
    (only,) = events(ask(client, ("clip.gif", clip.getvalue())))
    assert only == {"error": "stopped after 0 s, the longest an answer may take, while the files were read; send fewer or shorter ones"}


def test_a_taken_port_gets_a_sentence():
    with serve.listen(0) as door, pytest.raises(gemini_mini.api.errors.InputError, match="choose another"):
        serve.listen(door.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--eight-bit",)])
def test_the_command_serves_and_ctrl_c_ends_it(run_folder, tmp_path, more):
    command = [sys.executable, "-m", "gemini_mini.serve", str(run_folder), "--port", "0", *more]
    environment = os.environ | {"HOME": str(tmp_path), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
                          cwd=Path(__file__).parents[1]) as process:
        port = int(re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())[1])
        with socket.create_connection(("127.0.0.1", port)) as tab:
            tab.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200 OK" in tab.recv(100)
            process.send_signal(signal.SIGINT)
            assert process.wait(300) == 0 and process.stdout.read() == ""  # it waits for what is being compiled


@pytest.fixture
def tab(door, tmp_path):
    """The page in Chromium, with a microphone that is none and hears one tone without end."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install -e '.[browser]'")
    here = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    (tmp_path / "tone.wav").write_bytes(wav(2.0))
    with playwright.sync_playwright() as start:
        try:
            browser = start.chromium.launch(
                executable_path=here, args=["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
                                            f"--use-file-for-fake-audio-capture={tmp_path / 'tone.wav'}"])
        except playwright.Error as error:
            pytest.skip(f"needs Chromium (playwright install chromium): {error}")
        tab = browser.new_context(permissions=["microphone"]).new_page()
        tab.set_default_timeout(120_000)
        yield tab
        browser.close()


def dropped(tab, data):
    """Let go of what `data`, a line of JavaScript, puts into `data`."""
    tab.evaluate(f"() => {{ const data = new DataTransfer(); {data}; "
                 "document.dispatchEvent(new DragEvent('drop', {dataTransfer: data, cancelable: true})); }")


def wait_for_answer(tab, number):
    tab.locator(".turn.model").nth(number - 1).locator(".error, .note:text('tokens, ')").first.wait_for()


def file(name, kind, data):
    """A file for JavaScript."""
    return f"new File([Uint8Array.from(atob('{base64.b64encode(data).decode()}'), c => c.charCodeAt(0))], '{name}', {{type: '{kind}'}})"


# Of every picture that is shown, and shown again as it grows, how many of its lines have a colour.
GROWTH = """() => {
  window.grown = [];
  new MutationObserver(changes => grown.push(...changes.map(change => [change.target, change.target.src])))
    .observe(document.body, { subtree: true, attributeFilter: ['src'] });
}"""
GROWN = """async () => {
  const seen = new Map();
  for (const [picture, source] of grown) {
    const image = Object.assign(new Image(), {src: source});
    await image.decode();
    const canvas = new OffscreenCanvas(image.width, image.height), brush = canvas.getContext('2d');
    brush.drawImage(image, 0, 0);
    const lines = Array.from({length: image.height}, (_, y) => brush.getImageData(0, y, image.width, 1).data);
    seen.set(picture, [...seen.get(picture) ?? [], lines.filter(line => line.every((value, i) => i % 4 < 3 || value == 255)).length]);
  }
  return [...seen.values()];
}"""


@pytest.mark.slow
def test_a_person_in_a_browser(desk, door, tab, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "STREAM_TOKENS", 1)
    (tmp_path / "sound.wav").write_bytes(wav())
    has_picture = lambda answer: any(isinstance(part, stream.Image) for part in answer)
    seed = next(seed for seed in range(30) if has_picture(desk.model.generate(["draw <b>"], seed=seed, **HOW)))
    asked, faults = [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.goto(f"http://127.0.0.1:{door}")
    tab.evaluate(GROWTH)
    tab.click("summary")
    tab.fill("[name=temperature]", "1.5")
    tab.fill("[name=image_size]", "16x8")
    tab.check("[value=audio]")
    tab.fill("[name=seed]", str(seed))
    tab.fill("#text", "draw <b>")
    tab.press("#text", "Enter")
    wait_for_answer(tab, 1)
    assert tab.text_content(".turn.user") == "userdraw <b>" and tab.locator(".turn.model img.pixels").count() > 0
    assert tab.evaluate("[...document.querySelectorAll('.turn.model img')].every(img => img.naturalWidth == 16 && img.naturalHeight == 8)")
    grown = tab.evaluate(GROWN)
    assert grown and all(lines[0] == 4 and lines == sorted(lines) for lines in grown) and grown[0][-1] == 8, "a row of codes at once"
    # A dropped picture after what was typed before it, a chosen sound, a recording, and words.
    tab.fill("#text", "look:")
    dropped(tab, f"data.items.add({file('red.png', 'image/png', png())})")
    tab.set_input_files("#files", tmp_path / "sound.wav")
    tab.click("#record")
    tab.wait_for_selector("#record.on")
    time.sleep(0.5)  # the tiny model has room for little more than a second
    tab.click("#record")
    tab.locator("#parts button").nth(3).wait_for()
    tab.fill("#text", "and?")
    tab.click("#send")
    wait_for_answer(tab, 2)
    assert tab.evaluate("[...document.querySelectorAll('.turn.user')].at(-1).innerText").startswith("user")
    said = desk.chats[tab.evaluate("chat")].document
    begin = max(place for place, part in enumerate(said) if isinstance(part, stream.Role) and part.name == "user")
    kinds = [type(part) for part in said[begin + 1 : begin + 6]]
    assert kinds == [stream.Text, stream.Image, stream.Audio, stream.Audio, stream.Text]
    # A broken file, taking a part out, a new conversation.
    tab.evaluate("add([new File(['no'], 'bad.png', { type: 'image/png' }), new File(['x'], 'gone.wav')])")
    tab.click("#parts button:last-child")
    tab.click("#send")
    wait_for_answer(tab, 3)
    assert "bad.png: must be a picture" in tab.text_content(".turn.model .error")
    tab.screenshot(path=tmp_path / "page.png", full_page=True)
    tab.click("#new")
    assert tab.text_content("#talk") == ""
    # A dropped sound, alone.
    dropped(tab, f"data.items.add({file('dropped.wav', 'audio/wav', wav())})")
    assert tab.locator("#parts button").all_text_contents() == ["♪ dropped.wav ×"]
    tab.click("#send")
    wait_for_answer(tab, 1)
    _, sound, *_ = desk.chats[tab.evaluate("chat")].document
    assert isinstance(sound, stream.Audio) and len(sound.samples) == 3200 and tab.locator(".turn.user audio").count() == 1
    assert all(url.startswith((f"http://127.0.0.1:{door}/", "data:", "blob:")) for url in asked) and not faults


@pytest.mark.slow
def test_every_refusal_is_a_sentence_and_loses_nothing(desk, door, tab, monkeypatch):
    monkeypatch.setattr(web, "FORM_BYTES", web.MAX_REQUEST_BYTES - 1000)
    monkeypatch.setattr(desk, "max_seconds", 0)
    tab.goto(f"http://127.0.0.1:{door}")
    refusals = tab.locator(".turn.model > .error")

    def refused(sentence):
        count = refusals.count()
        tab.click("#send")
        refusals.nth(count).wait_for()
        assert sentence in refusals.nth(count).text_content()
        tab.wait_for_function("!underWay")

    # A text that is dragged here stands where one types.
    tab.fill("#text", "draw ")
    dropped(tab, "data.setData('text/plain', 'a red cat')")
    assert tab.input_value("#text") == "draw a red cat"
    # Too much, and what cannot be read: both stay, and can be taken out.
    tab.evaluate("add([new File(['x'.repeat(1001)], 'large.wav')])")
    refused("have 0.0 MB, but at most")
    assert tab.locator("#parts button").all_text_contents() == ["draw a red cat ×", "large.wav ×"] and tab.locator(".turn.user").count() == 0
    tab.evaluate("""parts = [parts[0], Object.assign(new File([], 'folder'), {slice: () => ({arrayBuffer: () => Promise.reject()})})]""")
    refused("folder: cannot be read")
    tab.evaluate("parts = Array(17).fill('a')")
    refused("at most 16 parts, and these are 17")
    # The program is busy, the server below it is, or nobody is there: what was asked comes back.
    tab.evaluate("parts = ['draw a red cat']")
    monkeypatch.setattr(desk_lib, "MAX_ASKED", 0)
    refused("busy: 0 questions are waiting")
    monkeypatch.undo()
    monkeypatch.setattr(desk, "max_seconds", 0)
    for answer, sentence in (({"status": 503, "body": "Service Unavailable"}, "too many connections"),
                             ({"status": 500, "body": "Internal Server Error"}, "refused to answer (500"),
                             ({"status": 200, "body": '{"text": "a"}\n'}, "the answer broke off")):
        tab.evaluate("parts = ['draw a red cat']; showParts()")
        tab.route("**/ask", lambda route: route.fulfill(**answer))
        refused(sentence)
        assert tab.evaluate("parts") == ([] if answer["status"] == 200 else ["draw a red cat"])
        tab.unroute("**/ask")
    tab.evaluate("parts = ['draw a red cat']")
    tab.route("**/ask", lambda route: route.abort())
    refused("cannot be reached")
    tab.unroute("**/ask")
    # And then it is answered; a conversation that the program has forgotten says so.
    done = tab.locator(".turn.model > .note", has_text="tokens,")
    tab.click("#send")
    done.nth(0).wait_for()
    assert tab.evaluate("turns") == 1
    desk.chats.clear()
    tab.wait_for_function("!underWay")
    tab.fill("#text", "and another")
    tab.click("#send")
    done.nth(1).wait_for()
    assert "what was said before is forgotten" in tab.text_content(".turn.model:last-child")
    # A recording of nothing.
    tab.evaluate("() => { MediaRecorder.prototype.start = function () {}; MediaRecorder.prototype.stop = function () { this.onstop(); }; }")
    count = refusals.count()
    tab.click("#record")
    tab.wait_for_selector("#record.on")
    tab.click("#record")
    refusals.nth(count).wait_for()
    assert "the recording cannot be read" in refusals.nth(count).text_content()
