/** The end of the call that was announced: why, how much time there is, and a button for whoever is still there. */

/** @typedef {import("../state.js").State} State */

/** @type {Record<string, string>} what stands before the time that is left */
const REASONS = {
  idle: "It has been quiet for a while. This call ends in",
  time_limit: "A call may last no longer on this server. It ends in",
  shutdown: "The server is being stopped. This call ends within",
};

/** Signs that somebody is there: a touch, a key, and the click of a program that reads the page out. */
const SIGNS = ["pointerdown", "keydown", "click"];

/** @param {string} id */
const $ = (id) => /** @type {any} */ (document.getElementById(id));

export class EndingView {
  /** @param {() => void} present whoever may be gone has touched something */
  constructor(present) {
    this.asked = false;
    for (const sign of SIGNS) document.addEventListener(sign, () => this.asked && present());
  }

  /** @param {State} state @param {Set<string>} changed */
  update(state, changed) {
    if (changed.has("ending") || changed.has("turn") || changed.has("phase"))
      this.asked = state.phase === "live" && (state.turn === "away" || state.ending?.reason === "idle");
    if (!changed.has("ending")) return;
    const { ending } = state;
    $("ending").hidden = !ending;
    $("stay").hidden = ending?.reason !== "idle";
    if (ending) $("ending-text").textContent = REASONS[ending.reason] ?? "This call ends in";
  }

  /** @param {import("../state.js").Ending|null} ending @param {number} now ms */
  tick(ending, now) {
    if (!ending) return;
    const seconds = Math.max(0, Math.ceil((ending.at - now) / 1000));
    const text = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
    if ($("ending-time").textContent !== text) $("ending-time").textContent = text;
  }
}
