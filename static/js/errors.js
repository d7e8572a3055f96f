/**
 * What went wrong, as one sentence that says what to do.
 *
 * Everything that can stop or disturb a call is a CallError with a stable code. The page shows `message`;
 * `retry` tells it whether to offer a "Try again" button.
 */

/** @typedef {{message: string, retry?: boolean}} Advice */

/** @type {Record<string, Advice>} */
const ADVICE = {
  insecure_origin: {
    message:
      "The browser gives out microphone and camera only on a secure page. Open this page with https:// (see Help for trusting the certificate).",
  },
  webrtc_missing: {
    message: "This browser has no WebRTC, so it cannot make a call. Use a current Safari, Chrome, Edge or Firefox.",
  },
  permission_denied: {
    message:
      "Microphone or camera is blocked. Allow both for this site in the browser's address bar or settings, then try again.",
    retry: true,
  },
  microphone_missing: {
    message: "No microphone was found. Connect one or switch it on in the system settings, then try again.",
    retry: true,
  },
  microphone_busy: {
    message: "The microphone or camera is in use by another program. Close that program, then try again.",
    retry: true,
  },
  microphone_lost: {
    message: "The microphone stopped. Reconnect it or choose another one in the settings.",
  },
  camera_missing: {
    message:
      "No camera was found, so this goes on as a voice call. Connect one and press the camera button to be seen.",
  },
  camera_denied: {
    message:
      "The camera is blocked. Allow it for this site in the browser's settings, then press the camera button again.",
  },
  camera_lost: {
    message: "The camera stopped, so the call goes on by voice. Press the camera button to start it again.",
  },
  picture_rejected: {
    message:
      "This browser sends its picture in no form that the server reads, so this goes on as a voice call. To be seen, use a browser with VP8 or H264.",
  },
  server_unreachable: {
    message:
      "The server does not answer. Check that it is running and that this device is on its network, then try again.",
    retry: true,
  },
  server_error: {
    message: "The server has a fault of its own. Its log says more; try again in a moment.",
    retry: true,
  },
  server_full: {
    message: "The server is full. Try again in a few minutes.",
    retry: true,
  },
  rate_limited: {
    message: "Too many calls were started in a short time. Wait a minute, then try again.",
    retry: true,
  },
  engine_not_ready: {
    message: "The model is still waking up. Keep this page open: the call starts as soon as it is ready.",
  },
  engine_failed: {
    message: "The model could not be started. Look at the server's log for the reason, then restart the server.",
    retry: true,
  },
  call_gone: {
    message: "The call has ended on the server, because it was away for too long. Start a new one.",
    retry: true,
  },
  call_ended: {
    message: "The server has ended the call. Start a new one.",
    retry: true,
  },
  time_limit: {
    message: "The call has lasted as long as this server allows. Start a new one to go on.",
    retry: true,
  },
  idle: {
    message: "Nothing was said for a long while, so the call was ended. Start a new one when you like.",
    retry: true,
  },
  server_stopped: {
    message: "The server was stopped, and the call with it. Start a new one when it runs again.",
    retry: true,
  },
  key_missing: {
    message: "The server asks for its key. Load the page again to enter it.",
  },
  media_blocked: {
    message:
      "The server answers, but no sound gets through. A firewall may block UDP between this device and the server; ask for the ports to be opened or for a TURN server.",
    retry: true,
  },
  protocol: {
    message: "The page and the server do not understand each other. Load the page again to get the matching version.",
  },
  internal: {
    message:
      "Something unexpected happened in the page. Load it again; if it comes back, the browser's console says more.",
    retry: true,
  },
};

export class CallError extends Error {
  /**
   * @param {string} code stable word, a key of ADVICE or a server's own code
   * @param {{message?: string, cause?: unknown, retry?: boolean, retryAfter?: number, details?: Record<string, any>}} [more]
   *   `message` replaces the sentence of the table, `retryAfter` is in seconds
   */
  constructor(code, more = {}) {
    super(more.message || ADVICE[code]?.message || ADVICE.internal.message, { cause: more.cause });
    this.name = "CallError";
    this.code = code;
    this.retry = more.retry ?? ADVICE[code]?.retry ?? false;
    this.retryAfter = more.retryAfter;
    this.details = more.details ?? {};
  }
}

/**
 * The CallError of a rejected getUserMedia.
 * @param {unknown} reason
 * @returns {CallError}
 */
export function captureError(reason) {
  const name = reason instanceof Error || reason instanceof DOMException ? reason.name : "";
  const code =
    {
      NotAllowedError: "permission_denied",
      SecurityError: "permission_denied",
      NotFoundError: "microphone_missing",
      OverconstrainedError: "microphone_missing",
      NotReadableError: "microphone_busy",
      AbortError: "microphone_busy",
    }[name] ?? "internal";
  return new CallError(code, { cause: reason });
}

/**
 * The CallError of a camera that does not start during a call.
 * @param {unknown} reason
 * @returns {CallError}
 */
export function cameraError(reason) {
  const { code, cause } = captureError(reason);
  if (code === "permission_denied") return new CallError("camera_denied", { cause });
  if (code === "microphone_missing") return new CallError("camera_missing", { cause });
  return new CallError(code, { cause });
}

/**
 * Why the server has ended a call.
 * @param {string} reason of its event `session.ending`
 * @returns {CallError}
 */
export function endedByServer(reason) {
  return new CallError({ idle: "idle", time_limit: "time_limit", shutdown: "server_stopped" }[reason] ?? "call_ended");
}

/**
 * Any thrown value as a CallError; what is not one already is a fault of the page and is logged.
 * @param {unknown} reason
 * @returns {CallError}
 */
export function asCallError(reason) {
  if (reason instanceof CallError) return reason;
  console.error(reason);
  return new CallError("internal", { cause: reason });
}
