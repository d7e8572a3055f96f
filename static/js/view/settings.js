/** The settings sheet: what was chosen before a call, what is in force in one, and which devices are used. */

import { SETTINGS, SILENCE_S } from "../settings.js";
import { inForce, room } from "../state.js";

/** @typedef {import("../state.js").State} State */

const UNTESTED = "Plays a chime and measures how much of it the microphone hears.";
const TALKING = "Not needed with push to talk: the microphone is on only while you hold the button.";

/** @param {string} id */
const $ = (id) => /** @type {any} */ (document.getElementById(id));

export class SettingsView {
  /**
   * @param {import("../settings.js").Settings} settings
   * @param {object} actions
   * @param {(names: string[]) => void} actions.change settings were chosen
   * @param {() => void} actions.test play a chime and hear what comes back
   * @param {(kind: "microphone"|"camera"|"speaker", deviceId: string) => void} actions.device
   */
  constructor(settings, actions) {
    this.settings = settings;
    this.sheet = $("settings-sheet");
    this.controls = $("settings-form").elements;
    /** @type {State|null} */
    this.state = null;
    $("settings").addEventListener("click", () => {
      this.#draw();
      this.sheet.showModal();
    });
    this.sheet.addEventListener("click", (/** @type {MouseEvent} */ { target }) => {
      if (target === this.sheet) this.sheet.close(); // beside the sheet
    });
    $("settings-form").addEventListener("input", (/** @type {any} */ { target }) => {
      if (!Object.hasOwn(SETTINGS, target.name)) return;
      settings.choose(target.name, target.type === "checkbox" ? target.checked : target.value);
      actions.change([target.name]);
      this.#notes();
    });
    $("settings-reset").addEventListener("click", () => {
      settings.reset();
      actions.change(Object.keys(SETTINGS));
      this.#draw();
    });
    $("sound-test").addEventListener("click", () => actions.test());
    $("sound-talk").addEventListener("click", () => {
      settings.choose("pushToTalk", true);
      actions.change(["pushToTalk"]);
      this.#draw();
      this.controls.pushToTalk.focus();
    });
    for (const kind of /** @type {const} */ (["microphone", "camera", "speaker"])) {
      $(`${kind}-select`).addEventListener("change", (/** @type {any} */ event) =>
        actions.device(kind, event.target.value),
      );
    }
  }

  /** @param {State} state @param {Set<string>} changed */
  update(state, changed) {
    const has = (/** @type {string[]} */ ...names) => names.some((name) => changed.has(name));
    this.state = state;
    if (has("phase")) {
      $("settings").hidden = state.phase === "asking";
      if (room(state) === "lobby") this.sheet.close();
    }
    if (has("ready")) this.#voices(state.ready?.voices ?? []);
    if (has("microphones", "cameras", "speakers", "phase")) this.#devices(state);
    if (has("config", "phase", "ready")) this.#draw();
    if (has("config", "phase", "soundTest")) this.#soundTest(state);
  }

  /** @param {string|undefined} microphone @param {string|undefined} camera ids of the devices in use */
  markDevices(microphone, camera) {
    if (microphone) $("microphone-select").value = microphone;
    if (camera) $("camera-select").value = camera;
  }

  /** In a call what can change in it stands as the server has it; everything else as it was chosen. */
  #draw() {
    for (const [name, { live, usual }] of Object.entries(SETTINGS)) {
      const now = live && this.state ? inForce(this.state, name) : undefined;
      const value = now === undefined ? this.settings.get(name) : now;
      const control = this.controls[name];
      if (control.type === "checkbox") control.checked = value;
      else if (control.value !== value) control.value = value ?? "";
      if (control instanceof HTMLSelectElement && control.selectedIndex < 0) control.value = usual;
    }
    this.#notes();
  }

  /** What follows from the controls as they stand. */
  #notes() {
    const { controls, state } = this;
    const calling = Boolean(state?.config);
    for (const name of ["eagerness", "interruptible"]) $(`${name}-row`).disabled = controls.pushToTalk.checked;
    const silence = SILENCE_S[controls.eagerness.value];
    $("eagerness-note").textContent = silence ? `An answer begins after about ${silence.toFixed(1)} s of silence.` : "";
    $("next-call").hidden = !calling;
    for (const [name, { live }] of Object.entries(SETTINGS)) {
      if (live) continue;
      const now = state && inForce(state, name);
      const waits = calling && now !== valueOf(controls[name]);
      $(`${name}-note`).textContent = waits ? `In this call: ${wordFor(controls[name], now)}` : "";
    }
  }

  /** A choice only where there is one. @param {string[]} voices */
  #voices(voices) {
    const select = this.controls.voice;
    $("voice-row").hidden = voices.length < 2;
    if (select.dataset.shown === voices.join("\n")) return;
    select.dataset.shown = voices.join("\n");
    select.replaceChildren(...voices.map((name) => new Option(name[0].toUpperCase() + name.slice(1), name)));
  }

  /** @param {State} state */
  #soundTest(state) {
    const { soundTest, phase } = state;
    const holds = inForce(state, "pushToTalk") ?? false;
    $("sound-test").disabled = phase !== "live" || holds || (soundTest?.running ?? false);
    $("sound-note").textContent = holds ? TALKING : (soundTest?.line ?? UNTESTED);
    $("sound-talk").hidden = holds || !soundTest?.talk;
  }

  /** @param {State} state */
  #devices(state) {
    const { microphones, cameras, speakers, phase } = state;
    $("devices-part").hidden = phase === "asking" || room(state) !== "call";
    fill($("microphone-select"), microphones, "Microphone");
    fill($("camera-select"), cameras, "Camera");
    $("camera-row").hidden = cameras.length === 0;
    fill($("speaker-select"), speakers, "Speaker");
    $("speaker-row").hidden = speakers.length < 2;
  }
}

/** @param {any} control */
const valueOf = (control) => (control.type === "checkbox" ? control.checked : control.value);

/** A value as its control would show it. @param {any} control @param {any} value */
function wordFor(control, value) {
  if (control instanceof HTMLSelectElement)
    return [...control.options].find((option) => option.value === value)?.text ?? value;
  if (typeof value === "boolean") return value ? "on" : "off";
  return value ? `“${value.length > 60 ? `${value.slice(0, 60)}…` : value}”` : "the role's own";
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
