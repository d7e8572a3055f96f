/**
 * What a person adds to a message: pictures, short videos and sounds, read here and sent as they are, but for pictures
 * that are larger than the model looks at.
 */

/** @typedef {{kind: "picture"|"video"|"sound", name: string, url: string}} Attachment `url` is a data URL */

const MAX_SIDE = 2240;
const QUALITY = 0.92;
const MAX_BYTES = 10 * 2 ** 20;
const AS_IT_IS = ["image/jpeg", "image/png", "image/webp"];

/** A file that cannot be added, in one sentence. */
export class Unfit extends Error {}

/**
 * @param {Blob & {name?: string}} file
 * @param {{sees: boolean, watches: boolean, hears: boolean}} able
 * @returns {Promise<Attachment>}
 */
export async function attach(file, able) {
  const name = file.name || "Pasted picture";
  const kind = kindOf(file);
  if (kind === "video" && able.sees && !able.watches) throw new Unfit("This model looks at pictures, not at videos.");
  if (!kind) throw new Unfit(`${name} is neither a picture nor a video${able.hears ? " nor a sound" : ""}.`);
  if (kind === "sound" ? !able.hears : !able.sees) throw new Unfit(`This model has no ${kind === "sound" ? "ears" : "eyes"}.`);
  const data = kind === "picture" ? await reduced(file, name) : file;
  if (data.size > MAX_BYTES) throw new Unfit(`${name} is larger than ${MAX_BYTES / 2 ** 20} MB. Choose a shorter one.`);
  return { kind, name, url: await dataUrl(data) };
}

/** @param {Blob} file @returns {Attachment["kind"]|null} */
function kindOf(file) {
  const [type] = file.type.split("/");
  return type === "image" ? "picture" : type === "video" ? "video" : type === "audio" ? "sound" : null;
}

/** A picture as small as the model looks at it, upright. @param {Blob} file @param {string} name @returns {Promise<Blob>} */
async function reduced(file, name) {
  /** @type {ImageBitmap} */
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    throw new Unfit(`${name} is no picture that this browser can read.`);
  }
  const scale = Math.min(1, MAX_SIDE / Math.max(bitmap.width, bitmap.height));
  if (scale === 1 && AS_IT_IS.includes(file.type) && file.size < MAX_BYTES / 2) return file;
  const canvas = new OffscreenCanvas(Math.round(bitmap.width * scale), Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  if (!context) throw new Unfit("The picture cannot be made smaller here. Choose a smaller one.");
  context.fillStyle = "#fff"; // behind what is transparent
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return canvas.convertToBlob({ type: "image/jpeg", quality: QUALITY });
}

/** @param {Blob} blob @returns {Promise<string>} */
function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result));
    reader.onerror = () => reject(new Unfit("The file cannot be read."));
    reader.readAsDataURL(blob);
  });
}
