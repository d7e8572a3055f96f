/** Draws the turns of a chat. An element is made once for each turn and then kept true to it. */

/** @typedef {import("./conversation.js").Turn} Turn */
/** @typedef {import("./conversation.js").Question} Question */
/** @typedef {import("./attachments.js").Attachment} Attachment */
/** @typedef {import("./api.js").Grid} Grid */
/** @typedef {{copy: (turn: Turn) => void, edit: (turn: Question) => void, retry: () => void,
 *   look: (attachment: Attachment, grid: Grid) => void}} Actions */

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} name
 * @param {Record<string, string>} attributes
 * @param {(Node|string)[]} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** @param {string} name */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const [svg, use] = [document.createElementNS(space, "svg"), document.createElementNS(space, "use")];
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** @param {string} name @param {string} label @param {string} testid @param {() => void} act */
export function button(name, label, testid, act) {
  const made = make("button", { type: "button", class: "plain small", "aria-label": label, title: label });
  made.dataset.testid = testid;
  made.append(icon(name));
  made.addEventListener("click", act);
  return made;
}

export class TurnsView {
  /** @param {HTMLElement} log @param {Actions} actions */
  constructor(log, actions) {
    this.log = log;
    this.actions = actions;
    /** @type {Map<Turn, HTMLElement>} */
    this.drawn = new Map();
  }

  /** @param {Turn[]} turns @param {boolean} busy an answer is coming */
  draw(turns, busy) {
    const follows = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 80;
    for (const [turn, element] of this.drawn) {
      if (turns.includes(turn)) continue;
      element.remove();
      this.drawn.delete(turn);
    }
    for (const turn of turns) {
      let element = this.drawn.get(turn);
      if (!element) {
        element = turn.who === "you" ? this.#question(turn) : this.#answer();
        this.drawn.set(turn, element);
        this.log.append(element);
      }
      if (turn.who === "you") this.#updateQuestion(element, turn, busy);
      else this.#updateAnswer(element, turn, busy, turn === turns.at(-1));
    }
    if (follows) this.log.scrollTop = this.log.scrollHeight;
  }

  /** @param {Question} turn */
  #question(turn) {
    const media = make("div", { class: "media" });
    const text = make("p", { class: "text" }, turn.text);
    const tools = make("div", { class: "tools" });
    tools.append(
      button("copy", "Copy the question", "copy", () => this.actions.copy(turn)),
      button("edit", "Edit the question and ask again", "edit", () => this.actions.edit(turn)),
    );
    const element = make("article", { class: "turn", "data-side": "you", "aria-label": "You" }, media, text, tools);
    element.dataset.testid = "turn-you";
    if (!turn.text) text.remove();
    return element;
  }

  /** @param {HTMLElement} element @param {Question} turn @param {boolean} busy */
  #updateQuestion(element, turn, busy) {
    const edit = /** @type {HTMLButtonElement} */ (element.querySelector("[data-testid=edit]"));
    edit.disabled = busy;
    const cut = JSON.stringify(turn.grids ?? null);
    if (element.dataset.cut === cut) return;
    element.dataset.cut = cut;
    let picture = 0;
    const media = turn.attachments.map((attachment) => {
      const grid = attachment.kind === "picture" ? turn.grids?.[picture++] : undefined;
      return shown(attachment, grid, () => this.actions.look(attachment, grid ?? { columns: 1, rows: 1 }));
    });
    element.querySelector(".media")?.replaceChildren(...media);
  }

  #answer() {
    const tools = make("div", { class: "tools" });
    const element = make("article", { class: "turn", "data-side": "model", "aria-label": "Answer" });
    element.append(make("p", { class: "text" }), make("p", { class: "aside", hidden: "" }), tools);
    element.dataset.testid = "turn-model";
    return element;
  }

  /** @param {HTMLElement} element @param {import("./conversation.js").Answer} turn @param {boolean} busy @param {boolean} last */
  #updateAnswer(element, turn, busy, last) {
    const [text, aside, tools] = /** @type {HTMLElement[]} */ ([...element.children].filter((child) => !child.matches("audio")));
    element.dataset.status = turn.status;
    if (text.textContent !== turn.text) text.textContent = turn.text;
    text.classList.toggle("caret-after", turn.status === "waiting" || turn.status === "coming");
    aside.textContent = turn.note ?? (turn.status === "waiting" ? "Reading" : "");
    aside.hidden = !aside.textContent;
    if (turn.sound && !element.querySelector("audio")) {
      const player = make("audio", { controls: "", src: URL.createObjectURL(turn.sound), "aria-label": "The spoken answer" });
      player.dataset.testid = "spoken";
      aside.before(player);
    }
    const over = turn.status !== "waiting" && turn.status !== "coming";
    const wanted = over ? `${turn.text ? "copy " : ""}${last && !busy ? "retry" : ""}` : "";
    if (tools.dataset.has === wanted) return;
    tools.dataset.has = wanted;
    tools.replaceChildren();
    if (wanted.includes("copy")) tools.append(button("copy", "Copy the answer", "copy", () => this.actions.copy(turn)));
    if (wanted.includes("retry")) tools.append(button("retry", "Answer again", "retry", this.actions.retry));
  }
}

/** @param {Attachment} attachment @param {Grid|undefined} grid @param {() => void} look */
function shown({ kind, name, url }, grid, look) {
  if (kind === "sound") return make("audio", { controls: "", src: url, "aria-label": name });
  if (kind === "video") return make("video", { controls: "", playsinline: "", src: url, "aria-label": name });
  const cut = grid && grid.columns * grid.rows > 1;
  const words = cut ? `Seen whole and in ${grid.columns} × ${grid.rows} pieces` : grid ? "Seen whole" : "";
  const picture = make("button", { type: "button", class: "picture", "aria-label": `${name}. ${words || "Look at it"}` });
  picture.dataset.testid = "picture";
  const sheet = make("span", { class: "cut" }, make("img", { src: url, alt: "" }));
  if (cut) {
    sheet.append(make("span", { class: "lines" }));
    sheet.style.setProperty("--columns", String(grid.columns));
    sheet.style.setProperty("--rows", String(grid.rows));
  }
  picture.append(sheet, ...(words ? [make("span", { class: "words" }, words)] : []));
  picture.addEventListener("click", look);
  return picture;
}
