/** Dock, composer, messages and self view: what can be pressed, and what it shows. */

import { inForce, room } from "../state.js";

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
 * @property {() => void} goBack to a call that this page had
 * @property {() => void} leave it alone
 * @property {() => void} dismiss
 * @property {() => void} retry
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
      "go-back": actions.goBack,
      leave: actions.leave,
      "error-close": actions.dismiss,
      "error-action": actions.retry,
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
    if (has("config")) $("mute").hidden = inForce(state, "pushToTalk") ?? false; // the button that talks has its place
    if (has("phase", "camera", "cameras", "mode", "config", "pictures", "ready")) {
      toggle($("camera"), !state.camera, state.camera ? "Camera off" : "Camera on");
      $("flip").disabled = !state.camera || state.cameras.length < 2;
      for (const id of ["mute", "camera"]) $(id).disabled = state.phase === "asking" || room(state) === "waiting";
      for (const id of ["camera", "flip"]) $(id).hidden = state.ready?.sees === false;
      if ($("mute").hidden) $("mute").disabled = true;
      if (!state.pictures) $("camera").disabled = true;
    }
    if (has("camera", "mirrored", "mode", "phase")) {
      $("self").hidden =
        !(state.camera || state.mode === "video") || state.phase === "asking" || room(state) !== "call";
      $("self").toggleAttribute("data-off", !state.camera);
      $("self").toggleAttribute("data-mirrored", state.mirrored);
    }
    if (has("error")) this.#error(state);
    if (has("notice", "modelAway")) this.#notice(state);
  }

  /** @param {MediaStream|null} stream */
  showSelf(stream) {
    const video = $("self-video");
    if (video.srcObject === stream) return;
    video.srcObject = stream;
    if (stream) video.play().catch(() => {});
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
    const returnable = phase === "left" || phase === "moved";
    $("returns").hidden = !returnable;
    $("starts").hidden = returnable;
    $("go-back").textContent = phase === "moved" ? "Bring it back here" : "Back to the call";
    $("leave").textContent = phase === "moved" ? "Leave it there" : "End the call";
    const returned = lobby && this.away;
    this.away = !lobby;
    const start = state.ready?.sees === false ? "start-voice" : "start-video";
    if (returned || returnable) $(returnable ? "go-back" : start).focus({ preventScroll: true });
  }

  /** @param {State} state */
  #error({ error }) {
    $("error").hidden = !error;
    $("error-text").textContent = error?.message ?? "";
    $("error-text").dataset.code = error?.code ?? "";
    $("error-action").hidden = !error?.retry;
    $("error-action").textContent = "Try again";
  }

  /** @param {State} state */
  #notice({ notice, modelAway }) {
    clearTimeout(this.noticeTimer);
    $("notice").hidden = !notice;
    $("notice").firstElementChild.textContent = notice;
    if (notice && !modelAway) this.noticeTimer = window.setTimeout(() => ($("notice").hidden = true), NOTICE_MS);
  }

  /**
   * M mutes and V switches the camera, unless something is being written; Escape stops the answer.
   * @param {KeyboardEvent} event
   */
  #onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (document.querySelector("dialog[open]")) return;
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
