import * as runtime from "./vendor/onnxruntime.js";
import { Tokenizer } from "./vendor/tokenizers.js";
import { loadClassifier, probabilities } from "./classifier.js";

const PAUSE = 150; // milliseconds without a key after which the text is answered
const find = (id) => document.getElementById(id);
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

/** Reads files of this folder, and moves the bar. */
function makeRead(total) {
  let loaded = 0;
  return async (path) => {
    const response = await fetch(new URL(path, document.baseURI));
    if (!response.ok) throw new Error(`${path} cannot be loaded (${response.status})`);
    const chunks = [];
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      chunks.push(value);
      loaded += value.length;
      find("progress").value = Math.min(1, loaded / total);
    }
    return new Uint8Array(await new Blob(chunks).arrayBuffer());
  };
}

function showInputs(texts) {
  const names = texts.length > 1 ? texts : ["Text"];
  const boxes = names.map((name, i) => {
    const label = element("label", "", texts.length > 1 ? `${i ? "Second" : "First"} text (${name})` : name);
    const box = element("textarea", "");
    box.id = `text-${i}`;
    box.rows = 3;
    label.htmlFor = box.id;
    find("inputs").append(label, box);
    return box;
  });
  boxes[0].focus();
  return boxes;
}

function showNumber(value) {
  find("answer").replaceChildren(element("p", "number", value.toFixed(2)));
}

function showBars(labels, shares) {
  const best = shares.indexOf(Math.max(...shares));
  const rows = labels.map((label, i) => {
    const row = element("li", i === best ? "best" : "");
    const track = element("progress", "track");
    track.value = shares[i];
    track.setAttribute("aria-hidden", "true");
    row.append(element("span", "label", label), element("span", "percent", `${(100 * shares[i]).toFixed(1)} %`), track);
    return row;
  });
  const list = element("ul", "bars");
  list.append(...rows);
  find("answer").replaceChildren(list);
}

function showNothing(pair) {
  const asked = pair ? "Type two texts, and the answer appears." : "Type a text, and the answer appears.";
  find("answer").replaceChildren(element("p", "empty", asked));
  find("timing").textContent = "";
}

async function answer(classifier, texts) {
  const began = performance.now();
  const { logits, tokens, cut } = await classifier.answer(texts);
  const took = performance.now() - began;
  const { labels, regression, max_length } = classifier.settings;
  if (regression) showNumber(logits[0]);
  else showBars(labels, probabilities(logits));
  const limit = cut ? `, cut to ${max_length}` : "";
  find("timing").textContent = `${took.toFixed(1)} ms for ${tokens} tokens${limit}`;
}

/** Answers what stands in the boxes; one answer at a time, and after it the newest text. */
function answering(classifier, boxes) {
  let busy = false;
  let again = false;
  return async () => {
    again = busy;
    if (busy) return;
    busy = true;
    do {
      again = false;
      const texts = boxes.map((box) => box.value);
      try {
        if (texts.every((text) => text.trim())) await answer(classifier, texts);
        else showNothing(boxes.length > 1);
      } catch (error) {
        fail(error);
      }
    } while (again);
    busy = false;
  };
}

function showFacts(facts) {
  find("facts").replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [element("dt", "", name), element("dd", "", value)]));
}

function fail(error) {
  const status = find("status");
  status.classList.add("error");
  status.setAttribute("role", "alert");
  status.textContent = `The model cannot be run: ${error.message ?? error}`;
  find("progress").hidden = true;
}

async function start() {
  const settings = await (await fetch("model/settings.json")).json();
  const boxes = showInputs(settings.texts);
  showNothing(boxes.length > 1);
  const sum = Object.values(settings.bytes).reduce((one, other) => one + other);
  const classifier = await loadClassifier(runtime, Tokenizer, makeRead(sum));
  await classifier.answer(boxes.map(() => "")); // the first run compiles, and its time would mislead
  const loaded = `${(performance.now() / 1000).toFixed(1)} s`;
  find("progress").hidden = true;
  find("status").hidden = true;
  showFacts({
    Model: megabytes(settings.bytes.model),
    Tokenizer: megabytes(settings.bytes.tokenizer),
    Runtime: `${megabytes(settings.bytes.runtime)} (${settings.runtime})`,
    "Loaded in": loaded,
  });
  const run = answering(classifier, boxes);
  let timer = 0;
  find("form").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(run, PAUSE);
  });
  await run();
  document.body.dataset.state = "ready";
}

start().catch(fail);
