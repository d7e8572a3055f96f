/** Bar and stage: what the state is called, what the engine is, how the connection and the memory stand. */

import { inForce, room } from "../state.js";
import { describe } from "./words.js";

/** @typedef {import("../state.js").State} State */

/** @param {string} id */
const $ = (id) => /** @type {any} */ (document.getElementById(id));

/** @param {State} state the data-state attribute: the turn's name in a live call, the phase otherwise */
const stateName = (state) =>
  state.phase === "live" ? describe(state).turn : state.phase === "start" ? "idle" : state.phase;

/** @type {Partial<Record<import("../state.js").Phase, string>>} */
const HEADLINES = { ended: "Talk again?", left: "Welcome back.", moved: "It goes on elsewhere." };

export class StageView {
  /** @param {State} state @param {Set<string>} changed */
  update(state, changed) {
    const has = (/** @type {string[]} */ ...names) => names.some((name) => changed.has(name));
    if (has("phase", "turn", "mode", "ready", "silent", "queue", "camera", "tapToHear", "config", "held")) {
      const { word, hint, turn } = describe(state);
      Object.assign(document.body.dataset, { room: room(state), phase: state.phase, mode: state.mode, turn });
      document.body.toggleAttribute("data-held", state.held);
      document.body.toggleAttribute("data-push-to-talk", Boolean(inForce(state, "pushToTalk")));
      if ($("state").textContent !== word) $("state").textContent = word; // screen readers read it out
      $("state").dataset.state = stateName(state);
      $("hint").textContent = hint;
      document.title = state.phase === "queued" ? `${word} · Omni Call` : "Omni Call";
    }
    if (has("phase")) {
      $("headline").textContent = HEADLINES[state.phase] ?? "Say hello.";
      $("help").target = room(state) === "lobby" ? "" : "_blank"; // leaving would hang up
    }
    if (has("ready", "recorded", "phase")) this.#badges(state);
    if (has("context")) this.#context(state);
    if (has("connection", "connectionText", "phase")) {
      $("quality").hidden = state.phase !== "live" && state.phase !== "reconnecting";
      $("quality").dataset.level = String(state.phase === "live" ? state.connection : 0);
      $("quality").title = state.connectionText;
      $("quality").setAttribute("aria-label", state.connectionText || "Connection");
    }
    if (has("liveSince")) $("clock").hidden = state.liveSince === null;
    if (has("tapToHear")) $("tap-to-hear").hidden = !state.tapToHear;
    if (has("framesSeen", "mode")) this.#frames(state);
  }

  /** @param {number|null} liveSince ms @param {number} now ms */
  tick(liveSince, now) {
    if (liveSince === null) return;
    const seconds = Math.floor((now - liveSince) / 1000);
    const text = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
    if ($("clock").textContent !== text) $("clock").textContent = text;
  }

  /** What a caller should know of who answers. @param {State} state */
  #badges(state) {
    const { ready, recorded } = state;
    const hears = ready?.hears !== false;
    $("engine-badge").hidden = !ready?.name;
    $("engine-badge").textContent = hears ? `You talk to ${ready?.name}` : "Test tones, nobody listens";
    $("engine-badge").title = ready?.note ?? "";
    $("start-video").hidden = ready?.sees === false;
    $("start-voice").classList.toggle("primary", ready?.sees === false);
    $("untrained-badge").hidden = ready?.trained !== false || !hears;
    $("recorded-badge").hidden = !(room(state) === "call" ? recorded : ready?.recording);
    $("recorded-word").textContent = room(state) === "call" ? "Recorded" : "Calls are recorded";
    $("recording-note").hidden = !ready?.recording;
    $("note").textContent = ready?.note ?? "";
    this.#examples(ready?.examples ?? []);
  }

  /** What to say to this model: to be read before a call, and to be said or tapped in it. @param {string[]} examples */
  #examples(examples) {
    for (const element of document.querySelectorAll(".examples")) {
      /** @type {HTMLElement} */ (element).hidden = examples.length === 0;
      const list = /** @type {HTMLElement} */ (element.querySelector("ul"));
      if (list.dataset.shown === examples.join("\n")) continue;
      list.dataset.shown = examples.join("\n");
      list.replaceChildren(...examples.map((example) => exampleItem(example, list.hasAttribute("data-tap"))));
    }
  }

  /** @param {State} state */
  #context({ context }) {
    const meter = $("context");
    meter.hidden = !context;
    if (!context) return;
    const share = Math.min(100, Math.round((100 * context.used) / Math.max(1, context.limit)));
    meter.setAttribute("aria-valuenow", String(share));
    meter.style.setProperty("--used", String(share));
    meter.toggleAttribute("data-high", share >= 85);
    meter.title = `The model's memory of this call is ${share} % full; then it forgets the oldest`;
    meter.querySelector(".value").textContent = `${share}%`;
  }

  /** @param {State} state */
  #frames({ framesSeen }) {
    $("seen").hidden = framesSeen === 0;
    $("seen").title = `The model has looked ${framesSeen} times`;
    $("seen").querySelector("span").textContent = String(framesSeen);
    if (framesSeen === 0) return;
    const self = $("self");
    self.classList.remove("looked");
    requestAnimationFrame(() => self.classList.add("looked"));
  }
}

/** @param {string} example @param {boolean} tap whether a tap sends it */
function exampleItem(example, tap) {
  const item = document.createElement("li");
  const sentence = document.createElement(tap ? "button" : "q");
  if (sentence instanceof HTMLButtonElement) Object.assign(sentence, { type: "button", className: "example" });
  sentence.textContent = example;
  item.append(sentence);
  return item;
}
