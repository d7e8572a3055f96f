/** Bar and stage: what the state is called, what the engine is, how the connection and the memory stand. */

/** @typedef {import("../state.js").State} State */

const TURN_WORDS = {
  idle: "Ready",
  listening: "Listening",
  hearing: "Hearing you",
  thinking: "Thinking",
  speaking: "Speaking",
  interrupted: "Interrupted",
  paused: "Paused",
};

/** @type {Partial<Record<import("../state.js").Phase, string>>} */
const PHASE_WORDS = {
  asking: "Waiting for your permission",
  warming: "Waking the model",
  queued: "In the queue",
  connecting: "Connecting",
  reconnecting: "Reconnecting",
};

/** @param {string} id */
const $ = (id) => /** @type {any} */ (document.getElementById(id));

/** @param {State} state @returns {string} */
function stateWord(state) {
  if (state.phase === "start" || state.phase === "ended") return readyWord(state);
  return PHASE_WORDS[state.phase] ?? TURN_WORDS[state.turn];
}

/** @param {State} state */
function readyWord({ phase, ready }) {
  if (phase === "ended") return "The call has ended";
  if (!ready) return "Looking for the server";
  if (ready.ready) return "Ready when you are";
  const share = typeof ready.progress === "number" ? ` ${Math.round(ready.progress * 100)} %` : "";
  return ready.message ? `${ready.message}${share}` : `The model is waking up${share}`;
}

/** @param {State} state */
function hint(state) {
  if (state.phase === "asking")
    return "The browser asks for your microphone" + (state.mode === "video" ? " and camera" : "");
  if (state.phase === "queued") {
    const { position = 1, etaS = null } = state.queue ?? {};
    return `Number ${position} in line${etaS ? `, about ${Math.max(1, Math.round(etaS / 60))} min` : ""}`;
  }
  if (state.phase === "warming") return readyWord({ ...state, phase: "start" });
  if (state.phase !== "live") return "";
  if (state.muted && state.turn !== "speaking") return "Your microphone is off";
  if (state.turn === "paused") return "No sound arrives from your microphone";
  if (state.turn === "listening") return state.camera ? "Speak, or show something" : "Just speak";
  return "";
}

/** @param {State} state the data-state attribute: the turn's name in a live call, the phase otherwise */
const stateName = (state) => (state.phase === "live" ? state.turn : state.phase === "start" ? "idle" : state.phase);

export class StageView {
  /** @param {State} state @param {Set<string>} changed */
  update(state, changed) {
    const has = (/** @type {string[]} */ ...names) => names.some((name) => changed.has(name));
    if (has("phase", "turn", "mode")) {
      Object.assign(document.body.dataset, {
        phase: state.phase,
        mode: state.mode,
        turn: state.phase === "live" ? state.turn : "idle",
      });
    }
    if (has("phase", "turn", "mode", "ready", "muted", "queue", "camera")) {
      $("state").textContent = stateWord(state);
      $("state").dataset.state = stateName(state);
      $("hint").textContent = hint(state);
    }
    if (has("phase")) {
      $("headline").textContent = state.phase === "ended" ? "Talk again?" : "Say hello.";
      $("help").target = state.phase === "start" || state.phase === "ended" ? "" : "_blank"; // leaving would hang up
    }
    if (has("ready", "recorded", "phase")) this.#badges(state);
    if (has("context")) this.#context(state);
    if (has("connection", "connectionText", "phase")) {
      $("quality").hidden = !inCall(state);
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

  /** @param {State} state */
  #badges({ ready, recorded, phase }) {
    $("engine-badge").hidden = !ready?.name;
    $("engine-badge").textContent = ready?.name ?? "";
    $("engine-badge").title = ready?.note ?? "";
    $("untrained-badge").hidden = ready?.trained !== false;
    const willRecord = phase === "start" || phase === "ended" ? Boolean(ready?.recording) : recorded;
    $("recorded-badge").hidden = !willRecord;
    $("recording-note").hidden = !ready?.recording;
    $("note").textContent = ready?.note ?? "";
    this.#voices(ready?.voices ?? []);
  }

  /** A choice only where there is one. @param {string[]} voices */
  #voices(voices) {
    const select = $("voice-select");
    $("voice-row").hidden = voices.length < 2;
    if (select.options.length === voices.length) return;
    select.replaceChildren(...voices.map((name) => new Option(name[0].toUpperCase() + name.slice(1), name)));
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
    meter.title = `Model memory: ${context.used} of ${context.limit} tokens`;
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

/** @param {State} state */
const inCall = ({ phase }) => phase === "live" || phase === "reconnecting";
