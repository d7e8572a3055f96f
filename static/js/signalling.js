/**
 * The HTTP side of a call: offer → answer, restart, hang-up, and whether the engine is ready.
 * Every failure comes out as a CallError.
 */

import { CallError } from "./errors.js";

/** @typedef {{callId: string, resumeToken: string}} CallKey what lets a page go back to its call */
/** @typedef {CallKey & {sdp: string}} Answer */

const TIMEOUT_MS = 15_000;

/** The page's name among those that know a call. A tab that is duplicated, or loaded again, is another page. */
const PAGE = [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/**
 * @param {string} path
 * @param {RequestInit} init
 * @returns {Promise<{status: number, body: any, headers: Headers}>}
 */
async function request(path, init = {}) {
  const timeout = AbortSignal.timeout(TIMEOUT_MS);
  const signal = init.signal && AbortSignal.any ? AbortSignal.any([init.signal, timeout]) : (init.signal ?? timeout);
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...init, signal });
  } catch (cause) {
    if (init.signal?.aborted) throw cause;
    throw new CallError("server_unreachable", { cause });
  }
  const body = await response.json().catch(() => ({}));
  return { status: response.status, body, headers: response.headers };
}

/**
 * @param {string} path
 * @param {object} content
 * @param {AbortSignal} signal
 */
async function post(path, content, signal) {
  const answer = await request(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(content),
    signal,
  });
  if (answer.status >= 400) throw refusal(answer);
  return answer;
}

/**
 * The server's codes for which the page has a word and a sentence of its own; all others show the server's sentence.
 * @type {Record<string, string>}
 */
const KNOWN = {
  full: "server_full",
  key_missing: "key_missing",
  not_ready: "engine_not_ready",
  rate_limited: "rate_limited",
  unknown_call: "call_gone",
  token_missing: "call_gone",
  token_wrong: "call_gone",
};

/** @param {{status: number, body: any, headers: Headers}} answer */
function refusal({ status, body, headers }) {
  const { code = "", message } = body.error ?? {};
  const retryAfter = secondsOf(headers);
  if (code in KNOWN) return new CallError(KNOWN[code], { retryAfter, details: body });
  return new CallError(code || "server_error", { message, retryAfter, retry: status >= 500, details: body });
}

/** @param {Headers} headers */
const secondsOf = (headers) => Number(headers.get("Retry-After")) || undefined;

/** @param {{body: any}} answer @returns {Answer} */
const toAnswer = ({ body }) => ({ sdp: body.sdp, callId: body.call_id, resumeToken: body.resume_token });

/**
 * Ask for a new call.
 * @param {string} sdp the offer
 * @param {Record<string, any>} options call options, see the README
 * @param {string|null} ticket the place in the queue, when the server was full before
 * @param {AbortSignal} signal
 */
export async function openCall(sdp, options, ticket, signal) {
  const content = { type: "offer", sdp, options, page: PAGE, ...(ticket ? { ticket } : {}) };
  return toAnswer(await post("/api/calls", content, signal));
}

/**
 * Ask whether a call could begin now; rejects with `server_full` and a ticket where it could not. Asking keeps the ticket.
 * @param {string|null} ticket the place in the line
 * @param {AbortSignal} signal
 */
export async function askForPlace(ticket, signal) {
  const { status, body, headers } = await post("/api/line", ticket ? { ticket } : {}, signal);
  if (status === 202) throw new CallError("server_full", { retryAfter: secondsOf(headers), details: body });
}

/** Give up the place in the line. Survives the page being closed. @param {string} ticket */
export async function leaveLine(ticket) {
  await fetch(`/api/line/${encodeURIComponent(ticket)}`, { method: "DELETE", keepalive: true }).catch(() => {});
}

/**
 * Put a new connection under a call that goes on.
 * @param {CallKey} call
 * @param {string} sdp
 * @param {boolean} take take it also from another page that has it; else that is `taken_over`
 * @param {AbortSignal} signal
 */
export async function restartCall(call, sdp, take, signal) {
  const path = `/api/calls/${encodeURIComponent(call.callId)}/restart`;
  return toAnswer(await post(path, { type: "offer", sdp, resume_token: call.resumeToken, page: PAGE, take }, signal));
}

/**
 * Hang up. Survives the page being closed; a call that is already gone is no error.
 * @param {CallKey} call
 */
export async function closeCall(call) {
  await fetch(`/api/calls/${encodeURIComponent(call.callId)}`, { method: "DELETE", keepalive: true }).catch(() => {});
}

/**
 * @param {AbortSignal} [signal]
 * @returns {Promise<import("./state.js").Ready>}
 */
export async function fetchReady(signal) {
  const answer = await request("/ready", { signal });
  const { status, body } = answer;
  if (status === 401) throw refusal(answer);
  return { ...body, ready: status === 200 && body.ready !== false };
}
