/**
 * One RTCPeerConnection: it sends the person's tracks, receives the assistant's voice and carries the events.
 *
 * A network change ends it; the call then builds another one (aiortc has no ICE restart). The offer goes out at
 * once, without waiting for candidates: the server announces its own and learns ours from the first check.
 */

/** One picture a second is what the model looks at; a few more keep the newest one fresh. */
export const CAMERA_FPS = 4;
const CAMERA_BITRATE = 900_000;

/** @typedef {"connecting"|"connected"|"unstable"|"lost"} Link */

export class Peer {
  /**
   * @param {import("./media.js").Capture} capture
   * @param {RTCIceServer[]} iceServers
   * @param {object} on
   * @param {(stream: MediaStream) => void} on.stream the assistant's voice
   * @param {(message: unknown) => void} on.message
   * @param {(link: Link) => void} on.link
   */
  constructor(capture, iceServers, on) {
    this.on = on;
    this.pc = new RTCPeerConnection({ iceServers, bundlePolicy: "max-bundle" });
    this.channel = this.pc.createDataChannel("events", { ordered: true });
    /** @type {Promise<void>} resolves once events can be sent */
    this.opened = new Promise((resolve) => this.channel.addEventListener("open", () => resolve(), { once: true }));
    this.channel.onmessage = ({ data }) => {
      this.lastSign = performance.now();
      on.message(data);
    };
    /** when something came from the other side, performance.now() */
    this.lastSign = performance.now();
    this.packets = 0;
    /** @type {Promise<true>} resolves when the other side ends the connection */
    this.ended = new Promise((resolve) => this.channel.addEventListener("close", () => resolve(true), { once: true }));
    this.channel.onclose = () => this.#tell("lost");

    const streams = [capture.stream];
    this.audio = this.pc.addTransceiver(capture.microphone ?? "audio", { direction: "sendrecv", streams });
    // The picture's place is always negotiated, so that the camera can be switched on during a voice call.
    this.video = this.pc.addTransceiver(capture.camera ?? "video", {
      direction: "sendonly",
      streams,
      sendEncodings: [{ maxFramerate: CAMERA_FPS, maxBitrate: CAMERA_BITRATE }],
    });
    this.pc.ontrack = ({ track, streams: [stream] }) => {
      if (track.kind === "audio") on.stream(stream ?? new MediaStream([track]));
    };
    this.pc.onconnectionstatechange = () => this.#onState(this.pc.connectionState);
    this.closed = false;
  }

  /** @returns {Promise<string>} the SDP to send */
  async offer() {
    await this.pc.setLocalDescription(await this.pc.createOffer());
    return /** @type {RTCSessionDescription} */ (this.pc.localDescription).sdp;
  }

  /** @param {string} sdp */
  async accept(sdp) {
    await this.pc.setRemoteDescription({ type: "answer", sdp });
  }

  /** Whether the answer has a place for the picture. Without a codec in common it has none. */
  get takesPicture() {
    return ["sendonly", "sendrecv"].includes(this.video.currentDirection ?? "");
  }

  /** @param {string} message @returns {boolean} false when the channel is not open */
  send(message) {
    if (this.channel.readyState !== "open") return false;
    this.channel.send(message);
    return true;
  }

  /**
   * The newest sign of the other side: a message, or a packet of its voice, which never pauses.
   * @returns {Promise<number>} as performance.now() tells it, ms
   */
  async heardAt() {
    const reports = await this.audio.receiver.getStats().catch(() => new Map());
    for (const report of reports.values()) {
      if (report.type !== "inbound-rtp" || report.packetsReceived === this.packets) continue;
      this.packets = report.packetsReceived;
      this.lastSign = performance.now();
    }
    return this.lastSign;
  }

  /**
   * @param {import("./media.js").Kind} kind
   * @param {MediaStreamTrack|null} track
   */
  async replace(kind, track) {
    if (this[kind].currentDirection !== "stopped") await this[kind].sender.replaceTrack(track);
  }

  close() {
    this.closed = true;
    this.channel.onclose = this.channel.onmessage = null;
    this.pc.ontrack = this.pc.onconnectionstatechange = null;
    this.pc.close();
  }

  /** @param {RTCPeerConnectionState} state */
  #onState(state) {
    if (state === "connected") this.#tell("connected");
    else if (state === "disconnected") this.#tell("unstable");
    else if (state === "failed" || state === "closed") this.#tell("lost");
  }

  /** @param {Link} link */
  #tell(link) {
    if (!this.closed) this.on.link(link);
  }
}
