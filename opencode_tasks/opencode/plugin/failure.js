// Failures of a provider, as opencode passes them on without a change.
//
// A failure is {status, headers, body, reason, at, inStream, hasOutput}: the provider's HTTP status (0 if the
// connection failed before there was one), its headers and body, the cause of a failed connection, and
// the time in milliseconds. inStream is true for an error inside a response that began with status 200:
// its body is the error event alone. hasOutput is true if the provider sent output before it, or with it.
//
// opencode repeats a request by the status of its failure and by words in its message and body. So
// neither a response nor an error of this module has a status or a word that opencode knows.

const BODY_LIMIT = 8192
const TEXT_LIMIT = 1000
// Errors inside a stream that may end soon.
const TRANSIENT =
  /"(\w*overloaded\w*|api_error|server_error|timeout_error|rate_limit_e(rror|xceeded)|UNAVAILABLE|RESOURCE_EXHAUSTED|INTERNAL|throttlingException|serviceUnavailableException|internalServerException|InternalServerError|modelStreamErrorException)"|"(code|status)":\s*"?(429|5\d\d)\b/i
export const STREAM_ERROR = "opencode-tasks-failure:"

const encode = (text) => Buffer.from(text, "utf8").toString("base64")

// Each half of a byte as a letter from a to p: no digit, and none of the words that opencode looks for.
const letters = (text) => Buffer.from(text, "utf8").toString("hex").replace(/./g, (digit) => "abcdefghijklmnop"[parseInt(digit, 16)])

// A body that is short enough. The long texts in JSON are shortened, so that it stays JSON.
function bounded(body) {
  if (body.length <= BODY_LIMIT) return body
  try {
    const shorten = (_, value) => (typeof value === "string" && value.length > TEXT_LIMIT ? value.slice(0, TEXT_LIMIT) : value)
    return JSON.stringify(JSON.parse(body), shorten).slice(0, 4 * BODY_LIMIT)
  } catch {
    return body.slice(0, BODY_LIMIT)
  }
}

export function newFailure({ status = 0, headers, body = "", reason = "", at = Date.now(), inStream = false, hasOutput = false }) {
  return { status, headers: Object.fromEntries(headers ?? []), body: bounded(body), reason, at, inStream, hasOutput }
}

// The failure as the response to a request. opencode keeps its headers in `responseHeaders`.
export function failedResponse(failure) {
  const upstream = {
    "content-type": "application/json",
    "x-upstream-status": String(failure.status),
    "x-upstream-at": String(failure.at),
    "x-upstream-headers": encode(JSON.stringify(failure.headers)),
    "x-upstream-body": encode(failure.body),
    "x-upstream-reason": encode(failure.reason),
    "x-upstream-in-stream": failure.inStream ? "1" : "0",
    "x-upstream-has-output": failure.hasOutput ? "1" : "0",
  }
  const neutral = { error: { message: "the provider did not answer this request", type: "upstream", code: "upstream" } }
  return new Response(JSON.stringify(neutral), { status: 400, headers: upstream })
}

// The failure as the error of a response's stream. opencode keeps the error's message. The newer clients
// (AI SDK, Copilot's for example) replace every error of a stream but those with this name.
export const failedStream = (failure) =>
  Object.assign(new Error(STREAM_ERROR + letters(JSON.stringify(failure))), { name: "ResponseAborted" })

// An error that opencode always answers by a retry.
export const retriedStream = (failure) => Object.assign(new Error(failure.reason || failure.body), { code: "ECONNRESET" })

// Whether the same request may succeed a little later.
export function isTransient(failure) {
  if (failure.status === 0) return true
  if (!failure.inStream) return [408, 409, 425, 429, 499].includes(failure.status) || failure.status >= 500
  return !failure.body || TRANSIENT.test(failure.body)
}

// The wait in milliseconds that a response asks for; 0 if it asks for none.
export function waitMs(headers) {
  const ms = Number.parseFloat(headers["retry-after-ms"] ?? "")
  if (!Number.isNaN(ms)) return ms
  const text = headers["retry-after"]
  if (!text) return 0
  const seconds = Number(text)
  if (!Number.isNaN(seconds)) return seconds * 1000
  const date = Date.parse(text)
  return Number.isNaN(date) ? 0 : Math.max(0, date - Date.now())
}
