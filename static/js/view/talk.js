/** The button and the space bar that are held to talk. */

import { inForce } from "../state.js";

/** @typedef {import("../state.js").State} State */

export class TalkView {
  /**
   * @param {HTMLButtonElement} button
   * @param {object} actions
   * @param {() => void} actions.press
   * @param {() => void} actions.release
   * @param {() => void} actions.discard
   */
  constructor(button, actions) {
    this.button = button;
    this.word = /** @type {HTMLElement} */ (button.querySelector("span"));
    this.actions = actions;
    button.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      button.setPointerCapture(event.pointerId); // a finger that slides off still holds
      actions.press();
    });
    for (const end of ["pointerup", "pointercancel"]) button.addEventListener(end, actions.release);
    button.addEventListener("contextmenu", (event) => event.preventDefault()); // a long touch
    // Enter, a switch or a screen reader cannot hold: one press begins, the next one ends.
    button.addEventListener("click", ({ detail }) => {
      if (detail === 0) (button.getAttribute("aria-pressed") === "true" ? actions.release : actions.press)();
    });
    document.addEventListener("keydown", (event) => this.#onKey(event));
    document.addEventListener("keyup", (event) => this.#onKey(event));
    window.addEventListener("blur", actions.release); // the key's release goes to another window
  }

  /** @param {State} state @param {Set<string>} changed */
  update(state, changed) {
    if (!["config", "phase", "talking", "silent"].some((name) => changed.has(name))) return;
    const { button } = this;
    button.hidden = !inForce(state, "pushToTalk");
    button.disabled = state.phase !== "live" || state.silent === "held" || state.silent === "lost";
    button.setAttribute("aria-pressed", String(state.talking));
    this.word.textContent = state.talking ? "Let go to send" : "Hold to talk";
  }

  /**
   * The space bar talks wherever nothing is written, also where a button has the focus: those listen to Enter. Escape
   * takes back what is being said.
   * @param {KeyboardEvent} event
   */
  #onKey(event) {
    if (this.button.hidden || event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "Escape") this.actions.discard();
    if (event.key !== " " || /** @type {Element} */ (event.target).matches("input, select, textarea")) return;
    event.preventDefault();
    if (event.type === "keyup") this.actions.release();
    else if (!event.repeat && !this.button.disabled) this.actions.press();
  }
}
