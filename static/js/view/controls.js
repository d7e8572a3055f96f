/** Dock, composer, messages, self view and device sheet: what can be pressed, and what it shows. */

import { room } from "../state.js";

/** @typedef {import("../state.js").State} State */

/**
 * @typedef {object} Actions what the person can do
 * @property {(mode: "video"|"voice") => void} start
 * @property {() => void} end
 * @property {() => void} mute
 * @property {() => void} camera
 * @property {() => void} flip
 * @property {() => void} stop
 * @property {(text: string) => boolean} write true when the text was sent
 * @property {(kind: "txt"|"json") => void} save the transcript as a file
 * @property {() => void} hear
 * @property {() => void} dismiss
 * @property {() => void} retry
 * @property {(kind: "microphone"|"camera"|"speaker", deviceId: string) => void} device
 */

/** How long a passing remark stays, ms. */
const NOTICE_MS = 7_000;

/** @param {string} id */
const $ = (id) => /** @type {any} */ (document.getElementById(id));

export class ControlsView {
  /** @param {Actions} actions */
  constructor(actions) {
    this.actions = actions;
    this.noticeTimer = 0;
    this.away = false;
    const onClick = {
      "start-video": () => actions.start("video"),
      "start-voice": () => actions.start("voice"),
      end: actions.end,
      mute: actions.mute,
      camera: actions.camera,
      flip: actions.flip,
      stop: actions.stop,
      "tap-to-hear": actions.hear,
      "error-close": actions.dismiss,
      "error-action": actions.retry,
      devices: () => $("devices-sheet").showModal(),
      "save-text": () => actions.save("txt"),
      "save-json": () => actions.save("json"),
    };
    for (const [id, action] of Object.entries(onClick)) $(id).addEventListener("click", action);
    $("composer").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      if (actions.write($("text-input").value)) $("text-input").value = "";
    });
    $("captions-empty").addEventListener("click", (/** @type {MouseEvent} */ { target }) => {
      const example = /** @type {Element} */ (target).closest(".example");
      if (example) actions.write(example.textContent ?? "");
    });
    for (const kind of /** @type {const} */ (["microphone", "camera", "speaker"])) {
      $(`${kind}-select`).addEventListener("change", (/** @type {any} */ event) =>
        actions.device(kind, event.target.value),
      );
    }
    document.addEventListener("keydown", (event) => this.#onKey(event));
  }

  /** @param {State} state @param {Set<string>} changed */
  update(state, changed) {
    const has = (/** @type {string[]} */ ...names) => names.some((name) => changed.has(name));
    const live = state.phase === "live";
    if (has("phase")) this.#onPhase(state);
    if (has("phase", "answering", "turn"))
      $("stop").disabled = !live || !(state.answering || state.turn === "thinking");
    if (has("phase", "muted")) toggle($("mute"), state.muted, state.muted ? "Unmute" : "Mute");
    if (has("phase", "camera", "cameras", "mode")) {
      toggle($("camera"), !state.camera, state.camera ? "Camera off" : "Camera on");
      $("flip").disabled = !state.camera || state.cameras.length < 2;
      for (const id of ["mute", "camera"]) $(id).disabled = state.phase === "asking" || room(state) === "waiting";
    }
    if (has("camera", "mirrored", "mode", "phase")) {
      $("self").hidden =
        !(state.camera || state.mode === "video") || state.phase === "asking" || room(state) !== "call";
      $("self").toggleAttribute("data-off", !state.camera);
      $("self").toggleAttribute("data-mirrored", state.mirrored);
    }
    if (has("microphones", "cameras", "speakers", "phase")) this.#devices(state);
    if (has("error")) this.#error(state);
    if (has("notice")) this.#notice(state.notice);
  }

  /** @param {MediaStream|null} stream */
  showSelf(stream) {
    const video = $("self-video");
    if (video.srcObject === stream) return;
    video.srcObject = stream;
    if (stream) video.play().catch(() => {});
  }

  /** @param {string|undefined} microphone @param {string|undefined} camera ids of the devices in use */
  markDevices(microphone, camera) {
    if (microphone) $("microphone-select").value = microphone;
    if (camera) $("camera-select").value = camera;
  }

  /** Focus goes where the person would look next. @param {State} state */
  #onPhase(state) {
    const { phase } = state;
    const lobby = room(state) === "lobby";
    const end = room(state) === "waiting" ? "Leave the line" : "End the call";
    $("end").setAttribute("aria-label", end);
    $("end").title = end;
    $("text-input").disabled = $("send").disabled = phase !== "live";
    const focused = document.activeElement;
    if (!lobby && focused?.closest(".welcome")) $("end").focus({ preventScroll: true });
    const returned = lobby && this.away;
    this.away = !lobby;
    if (returned) {
      $("devices-sheet").close();
      $("start-video").focus({ preventScroll: true });
    }
  }

  /** @param {State} state */
  #devices(state) {
    const { microphones, cameras, speakers, phase } = state;
    const choice = [microphones, cameras, speakers].some((devices) => devices.length > 1);
    $("devices").hidden = !choice || phase === "asking" || room(state) !== "call";
    fill($("microphone-select"), microphones, "Microphone");
    fill($("camera-select"), cameras, "Camera");
    $("camera-select").disabled = cameras.length === 0;
    fill($("speaker-select"), speakers, "Speaker");
    $("speaker-row").hidden = speakers.length < 2;
  }

  /** @param {State} state */
  #error({ error }) {
    $("error").hidden = !error;
    $("error-text").textContent = error?.message ?? "";
    $("error-text").dataset.code = error?.code ?? "";
    $("error-action").hidden = !error?.retry;
    $("error-action").textContent = "Try again";
  }

  /** @param {string} notice */
  #notice(notice) {
    clearTimeout(this.noticeTimer);
    $("notice").hidden = !notice;
    $("notice").firstElementChild.textContent = notice;
    if (notice) this.noticeTimer = window.setTimeout(() => ($("notice").hidden = true), NOTICE_MS);
  }

  /**
   * M mutes and V switches the camera, unless something is being written; Escape stops the answer.
   * @param {KeyboardEvent} event
   */
  #onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || $("devices-sheet").open) return;
    const writing = /** @type {Element} */ (event.target).matches("input, select, textarea");
    if (event.key === "Escape" && !$("stop").disabled) this.actions.stop();
    if (writing || document.body.dataset.room !== "call") return;
    if (event.key === "m" && !$("mute").disabled) this.actions.mute();
    if (event.key === "v" && !$("camera").disabled) this.actions.camera();
  }
}

/** @param {HTMLElement} button @param {boolean} pressed @param {string} label */
function toggle(button, pressed, label) {
  button.setAttribute("aria-pressed", String(pressed));
  button.setAttribute("aria-label", label);
  button.title = label;
}

/** @param {HTMLSelectElement} select @param {MediaDeviceInfo[]} devices @param {string} word */
function fill(select, devices, word) {
  const chosen = select.value;
  select.replaceChildren(
    ...devices.map(
      (device, index) =>
        new Option(device.label || `${word} ${index + 1}`, device.deviceId, false, device.deviceId === chosen),
    ),
  );
}
