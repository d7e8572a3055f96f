/** A picture in large, and the pieces that the model saw it in, apart from each other. */

import { make } from "./view.js";

/**
 * @param {import("./attachments.js").Attachment} picture
 * @param {import("./api.js").Grid} grid
 */
export function look(picture, { columns, rows }) {
  const dialog = /** @type {HTMLDialogElement} */ (document.getElementById("look-sheet"));
  const whole = make("img", { src: picture.url, alt: picture.name });
  const count = columns * rows;
  const words = count > 1 ? `The model saw the whole and ${columns} × ${rows} pieces.` : "The model sees it whole.";
  const parts = [whole];
  if (count > 1) {
    const pieces = make("div", { class: "pieces", role: "img", "aria-label": `The picture in ${count} pieces` });
    pieces.style.setProperty("--columns", String(columns));
    pieces.style.setProperty("--rows", String(rows));
    whole.addEventListener("load", () => pieces.style.setProperty("--shape", `${whole.naturalWidth} / ${whole.naturalHeight}`));
    for (let cell = 0; cell < count; cell++) {
      const [column, row] = [cell % columns, Math.floor(cell / columns)];
      const piece = make("i");
      piece.style.backgroundImage = `url("${picture.url}")`;
      const [x, y] = [columns > 1 ? column / (columns - 1) : 0, rows > 1 ? row / (rows - 1) : 0];
      piece.style.backgroundPosition = `${100 * x}% ${100 * y}%`;
      pieces.append(piece);
    }
    parts.push(/** @type {any} */ (pieces));
  }
  dialog.querySelector(".looked")?.replaceChildren(...parts);
  const line = dialog.querySelector("p");
  if (line) line.textContent = words;
  dialog.showModal();
}
