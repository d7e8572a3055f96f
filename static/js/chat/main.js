/** The chat page: joins the conversation, the composer and the server. */

import { Refusal, ask, findModel } from "./api.js";
import { Unfit, attach } from "./attachments.js";
import { Camera, VoiceNote } from "./capture.js";
import { Conversation } from "./conversation.js";
import { ExamplesSheet } from "./examples.js";
import { look } from "./look.js";
import { ChatSettings } from "./settings.js";
import { SpokenAnswer } from "./spoken.js";
import { TurnsView, button, make } from "./view.js";

/** @typedef {import("./attachments.js").Attachment} Attachment */
/** @typedef {import("./conversation.js").Question} Question */

/** @template {HTMLElement} [E=HTMLElement] @param {string} id @returns {E} */
const $ = (id) => /** @type {E} */ (document.getElementById(id));

const log = $("turns");
const form = /** @type {HTMLFormElement} */ ($("composer"));
const input = /** @type {HTMLTextAreaElement} */ ($("question"));
const send = /** @type {HTMLButtonElement} */ ($("send"));
const picker = /** @type {HTMLInputElement} */ ($("files"));
const note = new VoiceNote();
const camera = new Camera(/** @type {HTMLDialogElement} */ ($("camera-sheet")));
const chat = new Conversation();
const settings = new ChatSettings(/** @type {HTMLDialogElement} */ ($("settings-sheet")));

const ONE_PICTURE = "This model looks at one picture, sent with the first message. Clear the conversation to show it another.";

/** @type {Attachment[]} */
let added = [];
/** @type {AbortController|null} */
let asking = null;
/** @type {AudioContext|null} */
let loudspeaker = null;
/** @type {import("./api.js").Model|null} */
let model = null;

const view = new TurnsView(log, { copy, edit, retry: () => answer(), look });
const examples = new ExamplesSheet(/** @type {HTMLDialogElement} */ ($("examples-sheet")), chat, (file) => attach(file, able()), draw);

const able = () => ({ sees: model?.sees ?? false, watches: !model?.one_picture, hears: model?.hears ?? false });

function draw() {
  view.draw(chat.turns, asking !== null);
  document.body.toggleAttribute("data-begun", chat.turns.length > 0);
  const empty = !input.value.trim() && !added.length;
  send.hidden = asking !== null;
  $("stop").hidden = asking === null;
  send.disabled = !model || empty || note.isOn;
  $("files-button").toggleAttribute("disabled", !model);
  $("whole").hidden = !chat.turns.length;
  const count = chat.examples.length;
  $("examples-count").textContent = count ? String(count) : "";
  $("examples").setAttribute("aria-label", count ? `Examples (${count})` : "Examples");
}

function drawAdded() {
  const tray = $("tray");
  tray.hidden = !added.length;
  tray.replaceChildren(
    ...added.map((attachment) => {
      const { kind, name, url } = attachment;
      const shown = kind === "picture" ? make("img", { src: url, alt: name }) : make("span", { class: "file" }, name);
      const remove = button("close", `Remove ${name}`, "remove", () => {
        added = added.filter((other) => other !== attachment);
        drawAdded();
        input.focus();
      });
      const item = make("li", { class: "added" }, shown, remove);
      item.dataset.testid = "added";
      return item;
    }),
  );
  draw();
}

/** @param {Iterable<File>} files */
async function add(files) {
  tell("");
  for (const file of files) {
    try {
      const attachment = await attach(file, able());
      if (model?.one_picture && (added.length || chat.turns.length)) throw new Unfit(ONE_PICTURE);
      added.push(attachment);
    } catch (fault) {
      complain(fault);
    }
  }
  drawAdded();
  input.focus();
}

/** @param {string} message */
function tell(message) {
  $("error-text").textContent = message;
  $("error").hidden = !message;
}

/** @param {unknown} fault */
function complain(fault) {
  if (!(fault instanceof Unfit || fault instanceof Refusal)) throw fault;
  tell(fault.message);
}

function question() {
  const text = input.value.trim();
  if (asking || (!text && !added.length)) return;
  chat.add(text, added);
  added = [];
  input.value = "";
  grow();
  drawAdded();
  answer();
}

/** Answer the last question, anew if it has an answer. */
async function answer() {
  if (asking || !model) return;
  tell("");
  const control = (asking = new AbortController());
  const turn = chat.again();
  const speaks = settings.speaks;
  const spoken = speaks ? new SpokenAnswer((loudspeaker ??= new AudioContext())) : null;
  loudspeaker?.resume();
  draw();
  chat.system = settings.system;
  try {
    const request = { model: model.id, messages: chat.messages(), ...settings.options() };
    for await (const piece of ask(request, control.signal)) {
      turn.status = "coming";
      turn.text += piece.text ?? "";
      if (piece.sound) spoken?.add(piece.sound);
      if (piece.grids) chat.cutAs(piece.grids);
      if (piece.finish) turn.note = piece.finish === "length" ? "Cut at the longest length" : undefined;
      if (piece.usage) turn.tokens = piece.usage.completion_tokens;
      draw();
    }
    turn.status = "done";
    $("announcer").textContent = `Answer: ${turn.text}`;
  } catch (fault) {
    spoken?.stop();
    turn.status = control.signal.aborted ? "stopped" : "failed";
    turn.note = control.signal.aborted ? "Stopped" : "No answer";
    if (!control.signal.aborted) complain(fault);
  } finally {
    turn.sound = spoken?.file();
    asking = null;
    draw();
  }
}

/** @param {import("./conversation.js").Turn} turn */
async function copy(turn) {
  await navigator.clipboard.writeText(turn.text);
  $("announcer").textContent = "Copied";
}

/** @param {Question} turn */
function edit(turn) {
  chat.cut(turn);
  input.value = turn.text;
  added = [...turn.attachments];
  drawAdded();
  grow();
  input.focus();
}

/** The box is as high as what is in it, up to a limit that the style sets. */
function grow() {
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight}px`;
}

/** @param {"txt"|"json"} kind */
function save(kind) {
  const name = model?.id ?? "model";
  const [content, type] = kind === "txt" ? [chat.text(name), "text/plain"] : [chat.json(name), "application/json"];
  const link = make("a", { href: URL.createObjectURL(new Blob([content], { type })) });
  link.download = `omni-chat-${new Date().toISOString().slice(0, 16).replace("T", "-").replace(":", "")}.${kind}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function record() {
  const microphone = /** @type {HTMLButtonElement} */ ($("note"));
  microphone.disabled = true; // one press at a time: the browser may ask first
  try {
    if (note.isOn) await add([await note.end()]);
    else await note.begin(record);
  } catch (fault) {
    complain(fault);
  } finally {
    microphone.disabled = false;
  }
  microphone.setAttribute("aria-pressed", String(note.isOn));
  microphone.setAttribute("aria-label", note.isOn ? "End the voice note" : "Record a voice note");
  input.placeholder = note.isOn ? "Listening. Press again to end." : "Ask about it";
  draw();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  question();
});
input.addEventListener("input", () => (grow(), draw()));
input.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  question();
});
input.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])];
  if (!files.length) return;
  event.preventDefault();
  add(files);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) asking?.abort();
});
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.toggleAttribute("data-drop", true);
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.removeAttribute("data-drop");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.removeAttribute("data-drop");
  if (model && event.dataTransfer?.files.length) add(event.dataTransfer.files);
});
$("files-button").addEventListener("click", () => picker.click());
picker.addEventListener("change", async () => {
  await add([...(picker.files ?? [])]);
  picker.value = "";
});
$("camera").addEventListener("click", async () => {
  try {
    const picture = await camera.take();
    if (picture) await add([picture]);
  } catch (fault) {
    complain(fault);
  }
});
$("note").addEventListener("click", record);
$("stop").addEventListener("click", () => (asking?.abort(), input.focus()));
$("settings").addEventListener("click", () => settings.open());
$("examples").addEventListener("click", () => examples.open());
$("error-close").addEventListener("click", () => tell(""));
$("save-text").addEventListener("click", () => save("txt"));
$("save-json").addEventListener("click", () => save("json"));
$("clear").addEventListener("click", () => {
  asking?.abort();
  chat.turns.length = 0;
  draw();
  input.focus();
});

draw();
model = await findModel((message) => ($("state").textContent = message));
if (model.sees) $("headline").textContent = "Show it something.";
$("state").textContent = !model.sees
  ? "Write a question."
  : model.one_picture
    ? "Add a picture, and ask about it."
    : "Add pictures or a short video, and ask about them.";
$("engine-badge").textContent = model.id;
$("engine-badge").hidden = false;
$("untrained-badge").hidden = model.trained;
$("call-link").hidden = !model.speaks;
$("camera").hidden = !model.sees;
$("note").hidden = !model.hears;
$("examples").hidden = model.one_picture;
$("files-button").hidden = !model.sees && !model.hears;
if (!model.trained) $("state").textContent += " It is untrained: its answers mean nothing.";
picker.multiple = !model.one_picture;
picker.accept = [model.sees && "image/*", able().watches && model.sees && "video/*", model.hears && "audio/*"].filter(Boolean).join(",");
settings.suit(model);
draw();
