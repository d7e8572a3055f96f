/** The settings of the chat: how answers are drawn, and in which form. They are kept on the device. */

const KEY = "omni-chat.settings";

export class ChatSettings {
  /** @param {HTMLDialogElement} dialog with a form whose fields have the options' names */
  constructor(dialog) {
    this.dialog = dialog;
    this.form = /** @type {HTMLFormElement} */ (dialog.querySelector("form"));
    this.form.addEventListener("input", () => this.#changed());
    this.form.querySelector("[data-testid=settings-reset]")?.addEventListener("click", () => {
      this.form.reset();
      this.#changed();
    });
    this.#restore();
    this.#changed();
  }

  open() {
    this.dialog.showModal();
  }

  /** Show what this model can do. @param {import("./api.js").Model} model */
  suit(model) {
    this.#field("speak").closest("fieldset")?.toggleAttribute("hidden", !model.speaks);
    if (!model.speaks) /** @type {HTMLInputElement} */ (this.#field("speak")).checked = false;
    this.#field("max_slices").closest("label")?.toggleAttribute("hidden", !model.sees);
    this.#field("max_frames").closest("label")?.toggleAttribute("hidden", !model.sees || model.one_picture);
    const voices = /** @type {HTMLSelectElement} */ (this.#field("voice"));
    const chosen = voices.dataset.chosen ?? voices.value;
    voices.replaceChildren(...model.voices.map((voice) => new Option(voice[0]?.toUpperCase() + voice.slice(1), voice)));
    if (model.voices.includes(chosen)) voices.value = chosen;
  }

  get speaks() {
    return /** @type {HTMLInputElement} */ (this.#field("speak")).checked;
  }

  get system() {
    return this.#field("system").value;
  }

  /** @returns {Record<string, unknown>} fields of a request */
  options() {
    /** @type {Record<string, unknown>} */
    const options = {};
    for (const name of ["temperature", "top_p", "top_k", "repetition_penalty", "max_tokens", "seed", "max_slices", "max_frames"]) {
      const { value } = this.#field(name);
      if (value !== "") options[name] = Number(value);
    }
    if (this.speaks) {
      options.modalities = ["text", "audio"];
      options.audio = { voice: this.#field("voice").value || "default", format: "pcm16" };
    }
    return options;
  }

  /** @param {string} name @returns {HTMLInputElement|HTMLSelectElement|HTMLTextAreaElement} */
  #field(name) {
    return /** @type {HTMLInputElement} */ (this.form.elements.namedItem(name));
  }

  #changed() {
    const values = Object.fromEntries(new FormData(this.form));
    this.form.querySelector("#voice-row")?.toggleAttribute("hidden", !this.speaks);
    try {
      localStorage.setItem(KEY, JSON.stringify(values));
    } catch (reason) {
      console.warn("The settings were not kept", reason);
    }
  }

  #restore() {
    try {
      for (const [name, value] of Object.entries(JSON.parse(localStorage.getItem(KEY) ?? "{}"))) {
        const field = this.#field(name);
        if (field instanceof HTMLInputElement && field.type === "checkbox") field.checked = value === "on";
        else if (field) field.value = field.dataset.chosen = String(value);
      }
    } catch {
      localStorage.removeItem(KEY);
    }
  }
}
