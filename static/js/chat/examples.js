/** The few-shot builder: solved examples that every question begins with, so that the model answers in their way. */

import { Unfit } from "./attachments.js";
import { button, make } from "./view.js";

/** @typedef {import("./conversation.js").Example} Example */
/** @typedef {import("./attachments.js").Attachment} Attachment */

export class ExamplesSheet {
  /**
   * @param {HTMLDialogElement} dialog
   * @param {import("./conversation.js").Conversation} chat whose examples these are
   * @param {(file: File) => Promise<Attachment>} attach
   * @param {() => void} changed
   */
  constructor(dialog, chat, attach, changed) {
    this.dialog = dialog;
    this.chat = chat;
    this.attach = attach;
    this.list = /** @type {HTMLElement} */ (dialog.querySelector(".examples-list"));
    dialog.querySelector("[data-testid=example-add]")?.addEventListener("click", () => {
      chat.examples.push({ picture: null, question: chat.examples.at(-1)?.question ?? "", answer: "" });
      this.#draw();
      /** @type {HTMLElement|null} */ (this.list.querySelector("li:last-child textarea"))?.focus();
    });
    dialog.addEventListener("close", () => {
      chat.examples = chat.examples.filter(({ question, answer, picture }) => answer.trim() && (question.trim() || picture));
      changed();
    });
  }

  open() {
    this.#draw();
    this.dialog.showModal();
  }

  #draw() {
    this.list.replaceChildren(...this.chat.examples.map((example, index) => this.#row(example, index + 1)));
    const none = /** @type {HTMLElement} */ (this.dialog.querySelector(".none"));
    none.hidden = this.chat.examples.length > 0;
  }

  /** @param {Example} example @param {number} number */
  #row(example, number) {
    const files = make("input", { type: "file", accept: "image/*", class: "sr-only", tabindex: "-1", "aria-hidden": "true" });
    files.dataset.testid = "example-file";
    const words = example.picture ? `Picture of example ${number}: change it` : `Add a picture to example ${number}`;
    const picture = make("button", { type: "button", class: "thumb", "aria-label": words });
    picture.append(example.picture ? make("img", { src: example.picture.url, alt: "" }) : "Picture");
    picture.addEventListener("click", () => files.click());
    const fault = make("small", { class: "now", role: "alert" });
    files.addEventListener("change", async () => {
      try {
        if (files.files?.[0]) example.picture = await this.attach(files.files[0]);
        this.#draw();
      } catch (reason) {
        if (!(reason instanceof Unfit)) throw reason;
        fault.textContent = reason.message;
      }
    });
    const remove = button("close", `Remove example ${number}`, "example-remove", () => {
      this.chat.examples = this.chat.examples.filter((other) => other !== example);
      this.#draw();
    });
    const row = make("li", {}, files, picture, field("Question", example, "question"), field("Answer", example, "answer"), remove, fault);
    row.dataset.testid = "example";
    return row;
  }
}

/** @param {string} label @param {Example} example @param {"question"|"answer"} name */
function field(label, example, name) {
  const text = make("textarea", { rows: "1", maxlength: "4000" });
  text.dataset.testid = `example-${name}`;
  text.value = example[name];
  text.addEventListener("input", () => (example[name] = text.value));
  return make("label", {}, label, text);
}
