/** The camera for one picture, and the microphone for a note. Both are open only as long as they are needed. */

import { Unfit } from "./attachments.js";

const REFUSED = "is not available to this page. Allow it in the browser's settings of this site, and try again.";
const MAX_NOTE_MS = 60_000;

/** @param {MediaStreamConstraints} wanted @param {string} name @returns {Promise<MediaStream>} */
async function open(wanted, name) {
  try {
    return await navigator.mediaDevices.getUserMedia(wanted);
  } catch {
    throw new Unfit(`The ${name} ${REFUSED}`);
  }
}

/** @param {MediaStream} stream */
const close = (stream) => stream.getTracks().forEach((track) => track.stop());

/** The dialog in which a person takes a picture. */
export class Camera {
  /** @param {HTMLDialogElement} dialog with a video and the buttons `take` and `close` */
  constructor(dialog) {
    this.dialog = dialog;
    this.video = /** @type {HTMLVideoElement} */ (dialog.querySelector("video"));
    dialog.addEventListener("close", () => this.#stop());
  }

  /** @returns {Promise<File|null>} null if none was taken */
  async take() {
    const wanted = { video: { facingMode: "environment", width: { ideal: 1920 }, height: { ideal: 1080 } } };
    this.video.srcObject = await open(wanted, "camera");
    this.dialog.returnValue = "";
    /** @type {File|null} */
    let picture = null;
    const shot = () => (picture = this.#shot());
    const button = /** @type {HTMLButtonElement} */ (this.dialog.querySelector("[value=take]"));
    button.disabled = true; // until there is something to take
    button.addEventListener("click", shot);
    this.dialog.showModal();
    const closed = new Promise((resolve) => this.dialog.addEventListener("close", resolve, { once: true }));
    this.video.play().then(
      () => (button.disabled = false),
      () => this.dialog.close(), // closed already, or no picture comes
    );
    await closed;
    button.removeEventListener("click", shot);
    return picture;
  }

  /** @returns {File} */
  #shot() {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [this.video.videoWidth, this.video.videoHeight];
    canvas.getContext("2d")?.drawImage(this.video, 0, 0);
    const data = atob(canvas.toDataURL("image/jpeg", 0.92).split(",")[1]);
    const bytes = Uint8Array.from(data, (char) => char.charCodeAt(0));
    return new File([bytes], "Photo.jpg", { type: "image/jpeg" });
  }

  #stop() {
    if (this.video.srcObject instanceof MediaStream) close(this.video.srcObject);
    this.video.srcObject = null;
  }
}

/** A spoken note, from {@link VoiceNote.begin} to {@link VoiceNote.end}. */
export class VoiceNote {
  /** @type {MediaRecorder|null} */
  #recorder = null;

  get isOn() {
    return this.#recorder !== null;
  }

  /** @param {() => void} full called when it has become as long as it may */
  async begin(full) {
    const stream = await open({ audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true } }, "microphone");
    const recorder = (this.#recorder = new MediaRecorder(stream));
    recorder.start();
    setTimeout(() => this.#recorder === recorder && full(), MAX_NOTE_MS);
  }

  /** @returns {Promise<File>} */
  end() {
    const recorder = /** @type {MediaRecorder} */ (this.#recorder);
    this.#recorder = null;
    return new Promise((resolve) => {
      recorder.addEventListener("dataavailable", ({ data }) => {
        close(recorder.stream);
        const type = data.type.replace("video/", "audio/").split(";")[0];
        resolve(new File([data], "Voice note", { type }));
      });
      recorder.stop();
    });
  }
}
