// The page's side of web.py: collect the parts of a question, send them, show the answer as it comes.
"use strict";

const at = (id) => document.getElementById(id);
const form = at("ask"), text = at("text"), send = at("send"), record = at("record");
const maxBytes = Number(form.dataset.maxBytes), maxParts = Number(form.dataset.maxParts);

let parts = []; // texts and files, in their order; what is being typed comes after them
let chat = crypto.randomUUID();
let turns = 0; // answers the model is asked to remember
let underWay = null; // the AbortController of the answer that is being written
let recorder = null;

function make(tag, className, content = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = content;
  return element;
}

function turn(name) {
  const box = make("div", `turn ${name}`);
  box.append(make("small", "", name));
  at("talk").append(box);
  return box;
}

function show(part) {
  if (typeof part === "string") return make("span", "text", part);
  const kind = part.type.split("/")[0];
  if (kind !== "image" && kind !== "audio") return make("span", "note", part.name);
  const element = make(kind === "image" ? "img" : "audio", "user");
  element.src = URL.createObjectURL(part);
  element.alt = element.title = part.name;
  if (kind === "audio") element.controls = true;
  return element;
}

function showParts() {
  at("parts").replaceChildren(...parts.map((part, index) => {
    const chip = make("button", "");
    chip.type = "button";
    chip.title = "Take it out";
    const isSound = typeof part !== "string" && part.type.startsWith("audio/");
    chip.append(isSound ? make("span", "", `♪ ${part.name}`) : show(part), " ×");
    chip.onclick = () => { parts.splice(index, 1); showParts(); };
    return chip;
  }));
}

function takeText() {
  if (text.value.trim()) parts.push(text.value.trim());
  text.value = "";
}

function add(files) {
  takeText(); // what was typed before stands before
  parts.push(...files);
  showParts();
  text.focus();
}

// --- asking --------------------------------------------------------------------------------------

async function ask() {
  takeText();
  showParts();
  if (!parts.length) return;
  underWay = new AbortController();
  const refusal = await whyNot();
  if (refusal) {
    underWay = null;
    return complain(refusal);
  }
  const data = new FormData(), options = new FormData(form);
  if (!options.get("seed")) options.set("seed", Math.floor(Math.random() * 2 ** 32));
  for (const [name, value] of options) data.append(name, value);
  for (const part of parts) data.append("part", part);
  data.append("chat", chat);
  data.append("turns", turns);
  turn("user").append(...parts.map(show));
  const answer = new Answer(turn("model"), options.get("seed"));
  const asked = parts;
  parts = [];
  showParts();
  send.textContent = "Stop";
  let isTaken = false;
  try {
    const response = await fetch("ask", { method: "POST", body: data, signal: underWay.signal });
    if (!response.ok) throw new Error(await sentence(response));
    isTaken = true;
    for await (const event of lines(response)) answer.tell(event);
    if (!answer.isEnded) throw new Error("the answer broke off; is the program still running?");
  } catch (error) {
    if (error.name === "AbortError") answer.note("stopped");
    else answer.tell({ error: error instanceof TypeError ? "the program that answers cannot be reached; is it running?" : error.message });
    if (!isTaken) { // nobody has read it: it is there to be sent again
      parts = [...asked, ...parts];
      showParts();
    }
  }
  if (answer.box.isConnected) turns += answer.isRemembered;
  underWay = null;
  send.textContent = "Send";
}

// What the program would refuse, said before anything is sent.
async function whyNot() {
  if (parts.length > maxParts) return `a question has at most ${maxParts} parts, and these are ${parts.length}; take some out`;
  const size = new Blob(parts).size;
  if (size > maxBytes) return `these parts have ${(size / 1e6).toFixed(1)} MB, but at most ${maxBytes / 1e6} MB are taken; take some out`;
  for (const part of parts) {
    if (typeof part === "string") continue;
    try {
      await part.slice(0, 1).arrayBuffer();
    } catch {
      return `${part.name}: cannot be read; is it a folder, or gone? Take it out`;
    }
  }
}

// Not every refusal comes from our program: the server below it has words of its own.
async function sentence(response) {
  try {
    return (await response.json()).error;
  } catch {
    return response.status === 503 ? "the program has too many connections; close other tabs, or ask again in a moment"
      : `the program refused to answer (${response.status} ${response.statusText}); the terminal may show why`;
  }
}

function complain(words) {
  turn("model").append(make("div", "error", words));
  window.scrollTo(0, document.body.scrollHeight);
}

async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let held = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const whole = (held + value).split("\n");
    held = whole.pop();
    yield* whole.map(JSON.parse);
  }
}

class Answer {
  constructor(box, seed) {
    this.box = box;
    this.seed = seed;
    this.shown = []; // pictures and sounds, by their number
    this.isEnded = this.isRemembered = false;
    this.waiting = this.note("…");
    this.waiting.className += " waiting";
  }

  tell(event) {
    if ("waiting" in event) return void (this.waiting.textContent = `waiting for ${event.waiting} other${event.waiting > 1 ? "s" : ""} …`);
    this.waiting.remove();
    if ("text" in event) this.say(event.text);
    if ("picture" in event) this.picture(event);
    if ("sound" in event) this.sound(event);
    if ("note" in event) this.note(event.note);
    if ("error" in event) this.box.append(make("div", "error", event.error));
    this.isEnded ||= "error" in event || "done" in event;
    if ("done" in event) {
      this.isRemembered = true;
      const { tokens, seconds, stopped } = event.done;
      this.note(`${tokens} tokens, ${seconds} s, seed ${this.seed}${stopped && `; stopped ${stopped}`}`);
    }
    window.scrollTo(0, document.body.scrollHeight);
  }

  note(words) {
    const note = make("div", "note", words);
    this.box.append(note);
    return note;
  }

  say(words) {
    if (this.box.lastChild.className !== "text") this.box.append(make("span", "text"));
    this.box.lastChild.textContent += words;
  }

  picture({ part, picture }) {
    if (!this.shown[part]) {
      this.shown[part] = make("img", "pixels");
      this.shown[part].width = 160;
      this.shown[part].alt = "picture";
      this.box.append(this.shown[part]);
    }
    this.shown[part].src = picture;
  }

  sound({ part, sound }) {
    this.shown[part] = make("audio", "");
    this.shown[part].controls = true;
    this.shown[part].src = sound;
    this.box.append(this.shown[part]);
  }
}

// --- recording -----------------------------------------------------------------------------------

async function startOrEndRecording() {
  if (recorder) return recorder.stop();
  let microphone;
  record.disabled = true; // a second click while the browser asks would record twice
  try {
    microphone = await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch (error) {
    return complain(`no microphone can be used (${error.message}); drop a sound instead`);
  } finally {
    record.disabled = false;
  }
  const chunks = [];
  recorder = new MediaRecorder(microphone);
  recorder.ondataavailable = (event) => chunks.push(event.data);
  recorder.onstop = async () => {
    microphone.getTracks().forEach((track) => track.stop());
    recorder = null;
    record.className = "";
    record.textContent = "Record";
    try {
      add([await wav(new Blob(chunks))]);
    } catch (error) {
      complain(`the recording cannot be read (${error.message}); record for longer`);
    }
  };
  recorder.start();
  record.className = "on";
  record.textContent = "End recording";
}

// Browsers record in formats of their own; they can also read them again, at 16 kHz.
async function wav(blob) {
  const context = new AudioContext({ sampleRate: 16000 });
  const samples = (await context.decodeAudioData(await blob.arrayBuffer())).getChannelData(0);
  context.close();
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const word = (offset, letters) => [...letters].forEach((c, i) => view.setUint8(offset + i, c.charCodeAt(0)));
  word(0, "RIFF"); view.setUint32(4, 36 + 2 * samples.length, true); word(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true); // PCM, one channel
  view.setUint32(24, 16000, true); view.setUint32(28, 32000, true); view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  word(36, "data"); view.setUint32(40, 2 * samples.length, true);
  samples.forEach((x, i) => view.setInt16(44 + 2 * i, 32767 * Math.max(-1, Math.min(1, x)), true));
  return new File([view.buffer], "recording.wav", { type: "audio/wav" });
}

// --- what a person does --------------------------------------------------------------------------

form.onsubmit = (event) => {
  event.preventDefault();
  underWay ? underWay.abort() : ask();
};
text.onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!underWay) form.requestSubmit();
  }
};
text.onpaste = (event) => { if (event.clipboardData.files.length) { event.preventDefault(); add(event.clipboardData.files); } };
at("add").onclick = () => at("files").click();
at("files").onchange = () => { add(at("files").files); at("files").value = ""; };
record.onclick = startOrEndRecording;
at("new").onclick = () => {
  underWay?.abort();
  chat = crypto.randomUUID();
  turns = 0;
  at("talk").replaceChildren();
  text.focus();
};
document.ondragover = (event) => { event.preventDefault(); form.className = "drop"; };
document.ondragleave = () => { form.className = ""; };
document.ondrop = (event) => {
  event.preventDefault();
  form.className = "";
  if (event.dataTransfer.files.length) return add(event.dataTransfer.files);
  text.setRangeText(event.dataTransfer.getData("text/plain"), text.selectionStart, text.selectionEnd, "end");
  text.focus();
};
