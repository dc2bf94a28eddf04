// Makes every provider failure final, structured and immediate.
//
// Opencode retries a 408, 409, 429 or 5xx by itself, in silence, for as long as the provider asks.
// Here such a response becomes a 400 with a neutral body (opencode retries by the words of a body
// too) that carries the provider's own status, headers and body and the moment of its answer in
// x-upstream-* headers, which opencode hands on in `responseHeaders`. Other responses pass untouched. A stream that broke, and
// whatever else opencode begins to retry, is answered the same way when the retry comes, without
// a second request to the provider.
//
// In a session with a finished step a restart would buy that step again, so a short wait is left
// to opencode there.
//
// Opencode names the session of a model request in a header. The plugin reads that header and sends
// every request exactly as it is: a signature (AWS) may cover any header. If the user's config gives
// that header another value, the plugin adds one of its own before the request is signed, and keeps it.
//
// Sessions of the agent "opencode-tasks" get their system text as it was given: opencode's own
// additions (working directory, date) would change prompt caches and answers from day to day.
//
// Environment: OPENCODE_TASKS_JOURNAL is a file that gets a line when the plugin loads and a line
// for each provider response; with OPENCODE_TASKS_JOURNAL_EVENTS=1 it gets opencode's events too.
// OPENCODE_TASKS_INLINE_WAIT_S is the longest wait that is left to opencode. OPENCODE_TASKS_SYSTEM is
// the system text of the first session, for `opencode run`, which has no option for it.
// OPENCODE_TASKS_MAX_CALLS, where set, bounds the model calls of a session of our agent: opencode
// goes on for ever with a model that calls tools it was not offered.

import { appendFileSync } from "node:fs"

const AGENT = "opencode-tasks"
const OUR_SESSION_HEADER = "x-opencode-tasks-session"
// Opencode 1.15 to 1.18 sends the second of these to its own providers and the first to all others.
const SESSION_HEADERS = ["x-session-affinity", "x-opencode-session"]
const RETRIED_STATUSES = new Set([408, 409, 429])
const BODY_LIMIT = 8192
const JOURNAL = process.env.OPENCODE_TASKS_JOURNAL
const JOURNAL_EVENTS = process.env.OPENCODE_TASKS_JOURNAL_EVENTS === "1"
const INLINE_WAIT_MS = Number(process.env.OPENCODE_TASKS_INLINE_WAIT_S ?? "60") * 1000

const MAX_CALLS = Number(process.env.OPENCODE_TASKS_MAX_CALLS ?? "Infinity")
const SYSTEM = process.env.OPENCODE_TASKS_SYSTEM
let firstSession

const sessionsWithSteps = new Set()
const brokenStreams = new Map() // session -> why its last response stream ended early
const retrying = new Map() // session -> why opencode is about to send its request again
const systemTexts = new Map() // session of our agent -> its system text
const calls = new Map() // session of our agent -> its model calls since the last prompt
let agentPrompt

function journal(record) {
  if (!JOURNAL) return
  try {
    appendFileSync(JOURNAL, JSON.stringify({ at: Date.now(), ...record }) + "\n", { mode: 0o600 })
  } catch {
    // A full disk must not fail the prompt; the event stream still tells what happened.
  }
}

const encode = (text) => Buffer.from(text, "utf8").toString("base64")

function waitMs(headers) {
  const ms = Number.parseFloat(headers.get("retry-after-ms") ?? "")
  if (!Number.isNaN(ms)) return ms
  const text = headers.get("retry-after")
  if (!text) return 0
  const seconds = Number(text)
  if (!Number.isNaN(seconds)) return seconds * 1000
  const date = Date.parse(text)
  return Number.isNaN(date) ? 0 : Math.max(0, date - Date.now())
}

function finalResponse({ status = 0, headers = {}, body = "", reason = "", at = Date.now() }) {
  const upstream = {
    "content-type": "application/json",
    "x-upstream-status": String(status),
    "x-upstream-at": String(at),
    "x-upstream-headers": encode(JSON.stringify(headers)),
    "x-upstream-body": encode(body.slice(0, BODY_LIMIT)),
    "x-upstream-reason": encode(reason),
  }
  const neutral = { error: { message: "the provider did not answer this request", type: "upstream", code: "upstream" } }
  return new Response(JSON.stringify(neutral), { status: 400, headers: upstream })
}

function watched(response, session) {
  if (!response.body) return response
  const reader = response.body.getReader()
  const body = new ReadableStream({
    async pull(controller) {
      try {
        const { done, value } = await reader.read()
        if (done) controller.close()
        else controller.enqueue(value)
      } catch (error) {
        brokenStreams.set(session, String(error))
        journal({ kind: "broken", session, reason: String(error) })
        controller.error(error)
      }
    },
    cancel: (reason) => reader.cancel(reason),
  })
  return new Response(body, { status: response.status, statusText: response.statusText, headers: response.headers })
}

function refusal(message) {
  return new Response(JSON.stringify({ error: { message, type: "refused", code: "refused" } }), {
    status: 400,
    headers: { "content-type": "application/json" },
  })
}

async function send(fetch, input, init, session) {
  if (systemTexts.has(session)) calls.set(session, (calls.get(session) ?? 0) + 1)
  if (calls.get(session) > MAX_CALLS) {
    return refusal(`ended after ${MAX_CALLS} model calls: the model keeps calling tools that it was not offered`)
  }
  const mayRetry = sessionsWithSteps.has(session)
  if (retrying.has(session) && !mayRetry) {
    const reason = retrying.get(session)
    retrying.delete(session)
    return finalResponse({ reason })
  }
  let response
  try {
    response = await fetch(input, init)
  } catch (error) {
    if (init?.signal?.aborted) throw error
    journal({ kind: "response", session, status: 0, reason: String(error) })
    if (mayRetry) throw error
    return finalResponse({ reason: String(error) })
  }
  const at = Date.now()
  journal({ kind: "response", session, status: response.status })
  if (!RETRIED_STATUSES.has(response.status) && response.status < 500) return watched(response, session)
  const body = await response.text().catch(() => "")
  const soldOut = response.status === 429 && body.includes("insufficient_quota")
  if (mayRetry && !soldOut && waitMs(response.headers) <= INLINE_WAIT_MS) {
    return new Response(body, { status: response.status, headers: response.headers })
  }
  return finalResponse({ status: response.status, headers: Object.fromEntries(response.headers), body, at })
}

function sessionOf(headers) {
  const values = [OUR_SESSION_HEADER, ...SESSION_HEADERS].map((name) => headers.get(name))
  return values.find((value) => value?.startsWith("ses_"))
}

function isReplaced(headers) {
  return Object.keys(headers ?? {}).some((name) => SESSION_HEADERS.includes(name.toLowerCase()))
}

function wrap(fetch) {
  const wrapped = (input, init) => {
    const session = sessionOf(new Headers(init?.headers ?? input?.headers))
    return session ? send(fetch, input, init, session) : fetch(input, init)
  }
  return Object.assign(wrapped, fetch, { opencodeTasks: true })
}

function forget(session) {
  sessionsWithSteps.delete(session)
  for (const map of [brokenStreams, retrying, systemTexts, calls]) map.delete(session)
}

function note(event) {
  const properties = event.properties ?? {}
  if (event.type === "message.part.updated" && properties.part?.type === "step-finish") {
    sessionsWithSteps.add(properties.part.sessionID)
  }
  if (event.type === "session.status" && properties.status?.type === "retry") {
    const session = properties.sessionID
    retrying.set(session, brokenStreams.get(session) ?? properties.status.message ?? "retried by opencode")
  }
  if (event.type === "session.idle" || event.type === "session.deleted") {
    forget(properties.sessionID ?? properties.info?.id)
  }
  if (JOURNAL_EVENTS && event.type !== "sync") journal({ kind: "event", event })
}

if (!globalThis.fetch.opencodeTasks) globalThis.fetch = wrap(globalThis.fetch)

export const OpencodeTasks = async () => {
  journal({ kind: "loaded" })
  return {
    config: async (config) => {
      agentPrompt = config.agent?.[AGENT]?.prompt
    },
    event: async ({ event }) => note(event),
    "chat.message": async (input, output) => {
      firstSession ??= input.sessionID
      if (SYSTEM && input.sessionID === firstSession) output.message.system ??= SYSTEM
      const text = output.message?.system ?? agentPrompt
      if ((output.message?.agent ?? input.agent) === AGENT && text) systemTexts.set(input.sessionID, text)
      else systemTexts.delete(input.sessionID)
    },
    "chat.headers": async (input, output) => {
      if (isReplaced(input.model?.headers)) output.headers[OUR_SESSION_HEADER] = input.sessionID
    },
    "experimental.chat.system.transform": async (input, output) => {
      const text = systemTexts.get(input.sessionID)
      if (text) output.system.splice(0, output.system.length, text)
    },
  }
}
