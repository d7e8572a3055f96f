/**
 * The transcript on the page: one element per line, redrawn when the line changes, kept at the newest line unless
 * the person scrolls back. Finished lines are read out by screen readers from a separate live region, since the
 * captions themselves change word by word.
 */

import { Wave } from "./wave.js";

/** @typedef {import("../captions.js").Line} Line */

/** Within so many pixels of the end the view follows the newest line. */
const NEAR_END_PX = 48;

const NAMES = { you: "You", model: "Assistant" };

export class TranscriptView {
  /**
   * @param {HTMLElement} list
   * @param {HTMLElement} announcer
   * @param {HTMLButtonElement} latest
   */
  constructor(list, announcer, latest) {
    this.list = list;
    this.announcer = announcer;
    this.latest = latest;
    /** @type {Map<number, LineView>} */
    this.views = new Map();
    this.follows = true;
    this.height = list.clientHeight;
    list.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    latest.addEventListener("click", () => this.#toEnd());
    new ResizeObserver(() => this.#onResize()).observe(list);
  }

  /** @param {Line} line */
  show(line) {
    let view = this.views.get(line.id);
    if (!view) {
      view = new LineView(line);
      this.views.set(line.id, view);
      this.list.append(view.element);
    }
    const wasOpen = view.open;
    view.update(line);
    if (wasOpen && !view.open && line.text)
      this.announcer.textContent = `${NAMES[line.side]}: ${line.text.slice(0, line.heard)}`;
    if (this.follows) this.#toEnd();
  }

  /** @param {string} text what the page has to say at this point of the call */
  remark(text) {
    const element = document.createElement("p");
    element.className = "remark";
    element.dataset.testid = "remark";
    element.textContent = text;
    this.list.append(element);
    if (this.follows) this.#toEnd();
  }

  clear() {
    for (const element of this.list.querySelectorAll(".line, .remark")) element.remove();
    this.views.clear();
    this.announcer.textContent = "";
    this.#toEnd();
  }

  #onScroll() {
    const { scrollTop, scrollHeight, clientHeight } = this.list;
    if (clientHeight !== this.height) return; // moved by a resize, not by the person; the observer follows it up
    this.follows = scrollHeight - clientHeight - scrollTop < NEAR_END_PX;
    this.latest.hidden = this.follows;
  }

  #onResize() {
    this.height = this.list.clientHeight;
    if (this.follows) this.#toEnd();
  }

  #toEnd() {
    this.list.scrollTop = this.list.scrollHeight;
    this.follows = true;
    this.latest.hidden = true;
  }
}

class LineView {
  /** @param {Line} line */
  constructor(line) {
    this.open = true;
    this.element = document.createElement("article");
    this.element.className = "line";
    this.element.dataset.side = line.side;
    this.element.dataset.testid = line.side === "you" ? "line-you" : "line-model";
    this.element.innerHTML =
      '<p class="who"><span class="name"></span><span class="status"></span></p><p class="text"><span class="heard"></span></p>';
    const part = (/** @type {string} */ name) => /** @type {HTMLElement} */ (this.element.querySelector(`.${name}`));
    this.status = part("status");
    this.text = part("text");
    this.heard = part("heard");
    // The end of an answer that nobody heard is struck out; that of the person's words may still change.
    this.unheard = document.createElement(line.side === "you" ? "span" : "s");
    this.unheard.className = "unheard";
    this.text.append(this.unheard);
    part("name").textContent = NAMES[line.side];
    this.caret = Object.assign(document.createElement("span"), { className: "caret" });
    this.caret.setAttribute("aria-hidden", "true");
    /** @type {Wave|null} */
    this.wave = null;
  }

  /** @param {Line} line */
  update(line) {
    this.open = line.status === "open";
    this.element.dataset.status = line.status;
    this.status.textContent = statusWord(line);
    const answering = this.open && line.side === "model";
    const said = answering ? line.shown : line.heard;
    this.heard.textContent = line.text.slice(0, said);
    this.unheard.textContent = answering ? "" : line.text.slice(said);
    if (answering) this.text.append(this.caret);
    else this.caret.remove();

    const drawn = line.side === "you" && line.how === "spoken" && !line.text;
    this.text.hidden = drawn;
    if (drawn) {
      if (!this.wave) {
        this.wave = new Wave();
        this.element.append(this.wave.element);
      }
      this.wave.draw(line.wave);
    } else if (this.wave) {
      this.wave.element.remove();
      this.wave = null;
    }
  }
}

/** @param {Line} line */
function statusWord(line) {
  if (line.side === "you") {
    if (line.how === "typed") return "wrote";
    if (line.status === "open") return "speaking";
    return line.wave.length ? `spoke ${(line.wave.length / 10).toFixed(1)} s` : "spoke";
  }
  if (line.status === "cancelled") return "interrupted";
  if (line.status === "failed") return "broke off";
  return "";
}
