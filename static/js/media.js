/**
 * The person's side: microphone and camera, from the first permission to the last stopped track.
 *
 * Tracks can be replaced at any time (another device, a flipped camera, a track that the system ended); the
 * connection is told through `onTrack` and swaps them with replaceTrack, without a new offer.
 */

import { CallError, cameraError, captureError } from "./errors.js";

/** Smooth enough for the self view; the sender limits what goes out (peer.js), since the model looks once a second. */
const CAMERA = { width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: 15, max: 30 } };

const MICROPHONE = {
  echoCancellation: true,
  noiseSuppression: true,
  autoGainControl: true,
  channelCount: { ideal: 1 },
};

/** @typedef {"audio"|"video"} Kind */

/** Throws a CallError where the browser cannot make calls at all. */
export function requireMedia() {
  if (!window.isSecureContext) throw new CallError("insecure_origin");
  if (!navigator.mediaDevices?.getUserMedia || !window.RTCPeerConnection) throw new CallError("webrtc_missing");
}

export class Capture {
  /**
   * @param {object} on
   * @param {(kind: Kind, track: MediaStreamTrack|null) => void} on.track a track was put in place or taken away
   * @param {() => void} on.change devices, mute, camera or facing changed
   * @param {(error: CallError) => void} on.fault a track is missing, or was lost and could not be brought back
   */
  constructor(on) {
    this.on = on;
    this.stream = new MediaStream();
    this.muted = false;
    /** the system (another app, a phone call) holds the microphone silent */
    this.interrupted = false;
    /** @type {"user"|"environment"} */
    this.facing = "user";
    /** @type {MediaDeviceInfo[]} */
    this.microphones = [];
    /** @type {MediaDeviceInfo[]} */
    this.cameras = [];
    /** @type {MediaDeviceInfo[]} */
    this.speakers = [];
    this.closed = true;
    this.refreshDevices = this.refreshDevices.bind(this);
  }

  /** @returns {MediaStreamTrack|null} */
  get microphone() {
    return this.stream.getAudioTracks()[0] ?? null;
  }

  /** @returns {MediaStreamTrack|null} */
  get camera() {
    return this.stream.getVideoTracks()[0] ?? null;
  }

  /** Why no sound leaves this device, if none does. @returns {"muted"|"held"|"lost"|""} */
  get silent() {
    if (this.muted) return "muted";
    if (!this.microphone) return "lost";
    return this.interrupted ? "held" : "";
  }

  /** Mirrored like in a mirror, unless the camera looks away from the person. */
  get mirrored() {
    return this.facing === "user";
  }

  /**
   * Ask for microphone and, in a video call, camera.
   * A missing camera does not stop the call; a refused permission does.
   * @param {"video"|"voice"} mode
   */
  async open(mode) {
    this.closed = false;
    this.facing = "user";
    const video = mode === "video" ? { ...CAMERA, facingMode: { ideal: this.facing } } : false;
    let withoutCamera = null;
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: MICROPHONE, video });
    } catch (reason) {
      const error = captureError(reason);
      if (!video || error.code === "permission_denied") throw error;
      stream = await navigator.mediaDevices.getUserMedia({ audio: MICROPHONE }).catch((again) => {
        throw captureError(again);
      });
      withoutCamera = new CallError("camera_missing", { cause: reason });
    }
    if (this.closed) {
      for (const track of stream.getTracks()) track.stop();
      return;
    }
    for (const track of stream.getTracks()) this.#place(track);
    navigator.mediaDevices.addEventListener("devicechange", this.refreshDevices);
    await this.refreshDevices();
    if (withoutCamera) this.on.fault(withoutCamera);
  }

  async refreshDevices() {
    const devices = await navigator.mediaDevices.enumerateDevices();
    this.microphones = devices.filter((device) => device.kind === "audioinput" && device.deviceId !== "communications");
    this.cameras = devices.filter((device) => device.kind === "videoinput");
    const selectable = "setSinkId" in HTMLMediaElement.prototype;
    this.speakers = selectable
      ? devices.filter((device) => device.kind === "audiooutput" && device.deviceId !== "communications")
      : [];
    this.on.change();
  }

  /** @param {boolean} muted */
  setMuted(muted) {
    this.muted = muted;
    if (this.microphone) this.microphone.enabled = !muted;
    this.on.change();
  }

  /** Stop the camera, so that its light goes out. */
  stopCamera() {
    this.#remove("video");
    this.on.change();
  }

  /**
   * Start the camera, or another one.
   * @param {MediaTrackConstraints} [which] device or facing; the last facing by default
   */
  async startCamera(which = { facingMode: { ideal: this.facing } }) {
    // iOS gives out one camera at a time: the old one must be let go first.
    this.#remove("video");
    try {
      await this.#replace("video", { ...CAMERA, ...which });
    } catch (reason) {
      this.on.change();
      throw cameraError(reason);
    }
    const facing = this.camera?.getSettings().facingMode;
    if (facing === "user" || facing === "environment") this.facing = facing;
    this.on.change();
  }

  /** The other way round on a phone or tablet; the next camera elsewhere. */
  async flip() {
    const current = this.camera?.getSettings() ?? {};
    if (current.facingMode) {
      this.facing = this.facing === "user" ? "environment" : "user";
      await this.startCamera();
      return;
    }
    const index = this.cameras.findIndex((device) => device.deviceId === current.deviceId);
    const next = this.cameras[(index + 1) % this.cameras.length];
    await this.startCamera({ deviceId: { exact: next.deviceId } });
  }

  /** @param {string} deviceId */
  async useMicrophone(deviceId) {
    this.#remove("audio");
    try {
      await this.#replace("audio", { ...MICROPHONE, deviceId: { exact: deviceId } });
    } catch (reason) {
      throw captureError(reason);
    } finally {
      this.on.change();
    }
  }

  /** After sleep, lock or an app switch: bring back what the system has ended. */
  async recover() {
    if (this.closed) return;
    if (this.microphone?.readyState === "ended") await this.#revive("audio");
    if (this.camera?.readyState === "ended") await this.#revive("video");
  }

  close() {
    this.closed = true;
    navigator.mediaDevices?.removeEventListener("devicechange", this.refreshDevices);
    for (const track of this.stream.getTracks()) {
      track.onended = track.onmute = track.onunmute = null;
      track.stop();
      this.stream.removeTrack(track);
    }
    this.interrupted = false;
  }

  /**
   * @param {Kind} kind
   * @param {MediaTrackConstraints} constraints
   */
  async #replace(kind, constraints) {
    const fresh = await navigator.mediaDevices.getUserMedia({ [kind]: constraints });
    const [track] = fresh.getTracks();
    if (this.closed) return track.stop();
    this.#remove(kind);
    this.#place(track);
  }

  /** @param {MediaStreamTrack} track */
  #place(track) {
    const kind = /** @type {Kind} */ (track.kind);
    if (kind === "audio") track.enabled = !this.muted;
    else track.contentHint = "detail";
    this.stream.addTrack(track);
    track.onended = () => this.#revive(kind);
    track.onmute = track.onunmute = () => {
      if (kind !== "audio") return;
      this.interrupted = track.muted;
      this.on.change();
    };
    this.on.track(kind, track);
  }

  /** @param {Kind} kind */
  #remove(kind) {
    const track = kind === "audio" ? this.microphone : this.camera;
    if (!track) return;
    track.onended = track.onmute = track.onunmute = null;
    track.stop();
    this.stream.removeTrack(track);
    this.on.track(kind, null);
  }

  /** @param {Kind} kind */
  async #revive(kind) {
    if (this.closed) return;
    try {
      await this.#replace(kind, kind === "audio" ? MICROPHONE : { ...CAMERA, facingMode: { ideal: this.facing } });
    } catch (cause) {
      this.#remove(kind);
      this.on.fault(new CallError(kind === "audio" ? "microphone_lost" : "camera_lost", { cause }));
    }
    this.on.change();
  }
}
