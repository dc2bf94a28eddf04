// Makes every provider failure final, structured and immediate, and bounds what one prompt may cost.
//
// Failures. opencode retries a 408, 409, 429 or 5xx silently, for as long as the provider asks. The
// plugin replaces such a response with a 400 whose body is neutral, because opencode also retries by
// the words of a body. The provider's status, headers and body, and the time of its answer, are in
// x-upstream-* headers, which opencode passes on in `responseHeaders`. Other responses are unchanged.
// If opencode starts to retry for another reason, such as a broken stream, the plugin answers the
// retry in the same way, without a second request to the provider. A session with a finished step is
// an exception: a restart would pay for that step again, so opencode may do a short wait there.
//
// Limits. opencode asks the model again until an answer ends with a finish reason that it knows, so a
// blocked prompt or a cut stream would be paid for without end. The plugin refuses a request, with a
// 400 whose x-opencode-tasks-refusal header gives the reason, in four cases:
//   end    the last step called no tool, and opencode does not accept its end
//   tools  no tool call has succeeded in the last MAX_FAILED_STEPS steps
//   steps  the prompt has used OPENCODE_TASKS_MAX_STEPS requests
//   cost   the session has cost more than its limit
// Sub-agents count towards the requests and the cost of their root session.
//
// Session of a request. opencode names it in a header. The plugin reads that header and sends every
// request exactly as it is: a signature (AWS) may cover any header. If the user's config gives that
// header another value, the plugin adds one of its own before the request is signed, and keeps it.
//
// System text. Sessions of the agent "opencode-tasks" get their system text as it was given: opencode's
// additions (working directory, date) would change prompt caches and answers from day to day.
//
// Environment:
//   OPENCODE_TASKS_JOURNAL         file that gets a line when the plugin loads and one for each response
//   OPENCODE_TASKS_JOURNAL_EVENTS  "1": the journal also gets opencode's events
//   OPENCODE_TASKS_INLINE_WAIT_S   longest wait that is left to opencode, in seconds
//   OPENCODE_TASKS_MAX_STEPS       most provider requests of one prompt, sub-agents included
//   OPENCODE_TASKS_SYSTEM, OPENCODE_TASKS_MAX_COST_PICO
//                                  system text and cost limit of the first session, for `opencode run`.
//                                  A server takes the limit from the metadata of the prompt's text part.

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
const MAX_STEPS = Number(process.env.OPENCODE_TASKS_MAX_STEPS ?? "Infinity")
const MAX_FAILED_STEPS = 8
const SYSTEM = process.env.OPENCODE_TASKS_SYSTEM
const MAX_COST_PICO = process.env.OPENCODE_TASKS_MAX_COST_PICO
const PICO = 1e12 // pico-dollars in a dollar
const FINAL = new Set(["stop", "length", "content-filter", "error"]) // finish reasons that end opencode's loop

const sessionsWithSteps = new Set()
const brokenStreams = new Map() // session -> why its last response stream ended early
const retrying = new Map() // session -> why opencode is about to send its request again
const systemTexts = new Map() // session of our agent -> its system text
const prompts = new Map() // session -> id of the message with its last prompt
const ends = new Map() // session -> what its last response stream says about its end
const refusals = new Map() // session -> why its next request is refused
const compacting = new Set() // sessions whose next list of messages is for a summary
const roots = new Map() // sub-agent's session -> root session
const families = new Map() // root session -> requests, costs and cost limit, sub-agents included
let firstSession
let agentPrompt

function journal(record) {
  if (!JOURNAL) return
  try {
    appendFileSync(JOURNAL, JSON.stringify({ at: Date.now(), ...record }) + "\n", { mode: 0o600 })
  } catch {
    // A full disk must not fail the prompt; the event stream has the same information.
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

// The finish reason on the wires of OpenAI, Anthropic, Gemini and Bedrock. Text of an answer cannot
// match: the quotes inside a JSON string are escaped.
const FINISH = /"(?:finish_reason|stop_reason|finishReason|stopReason)"\s*:\s*"([^"\\]*)"/g
const BLOCKED = /"blockReason"\s*:\s*"([^"\\]+)"/ // Gemini: the prompt itself was refused
const DONE = /^data: ?\[DONE\]/m // the end mark of OpenAI's wire
const CARRY = 200 // characters, more than any of these patterns needs

function newEnd(response) {
  return { finish: null, done: false, blocked: null, type: response.headers.get("content-type"), carry: "" }
}

function readEnd(end, bytes) {
  const text = end.carry + Buffer.from(bytes).toString("latin1")
  for (const [, word] of text.matchAll(FINISH)) end.finish = word || (end.finish ?? "")
  end.blocked ??= text.match(BLOCKED)?.[1] ?? null
  end.done ||= DONE.test(text)
  end.carry = text.slice(-CARRY)
}

function watched(response, session) {
  const end = newEnd(response)
  ends.set(session, end)
  if (!response.body) return response
  const reader = response.body.getReader()
  const body = new ReadableStream({
    async pull(controller) {
      try {
        const { done, value } = await reader.read()
        if (done) return controller.close()
        readEnd(end, value)
        controller.enqueue(value)
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

function familyOf(session) {
  const root = roots.get(session) ?? session
  if (!families.has(root)) families.set(root, { requests: 0, costs: new Map(), maxCostPico: Infinity })
  return families.get(root)
}

function addCost(part) {
  familyOf(part.sessionID).costs.set(part.id, Math.round((part.cost ?? 0) * PICO))
}

function toolCalls(message) {
  const calls = message.parts.filter((part) => part.type === "tool" && !part.metadata?.providerExecuted)
  return calls.filter((part) => !part.state?.metadata?.interrupted)
}

const hasSuccess = (message) => toolCalls(message).some((part) => part.state?.status === "completed")

// Why opencode must not ask again after these steps, which are all that follow the last user message.
function faultAfter(steps, session, isForSummary) {
  const last = steps.at(-1)
  if (!last) return
  const finish = last.info.finish
  // A step without a finish reason may come before a summary: the conversation was too long.
  const isFinal = finish ? FINAL.has(finish) : isForSummary
  if (!isFinal && !toolCalls(last).length) {
    const { carry, ...wire } = ends.get(session) ?? {}
    return { kind: "end", step: finish ?? null, wire }
  }
  const failed = steps.slice(steps.findLastIndex(hasSuccess) + 1)
  if (failed.length < MAX_FAILED_STEPS) return
  const call = toolCalls(last).at(-1)
  return { kind: "tools", steps: failed.length, tool: call?.tool, error: String(call?.state?.error ?? "") }
}

// Called with the messages of a session before each request of opencode's loop, which decides by them
// whether to ask again.
function review(messages) {
  const session = messages.at(-1)?.info.sessionID
  const isForSummary = compacting.delete(session)
  for (const { parts } of messages) parts.filter((part) => part.type === "step-finish").forEach(addCost)
  if (!messages.some(({ info }) => info.id === prompts.get(session))) return
  const lastUser = messages.findLastIndex(({ info }) => info.role === "user")
  const steps = messages.slice(lastUser + 1).filter(({ info }) => info.role === "assistant" && !info.summary)
  const fault = faultAfter(steps, session, isForSummary)
  if (fault) refusals.set(session, fault)
}

function refusalOf(session) {
  if (refusals.has(session)) return refusals.get(session)
  const family = familyOf(session)
  if (family.requests >= MAX_STEPS) return { kind: "steps", limit: MAX_STEPS }
  const spent = [...family.costs.values()].reduce((sum, cost) => sum + cost, 0)
  if (spent > family.maxCostPico) return { kind: "cost", limit_pico: family.maxCostPico, spent_pico: spent }
}

function refusedResponse(refusal) {
  const neutral = { error: { message: "this request was not sent", type: "refused", code: "refused" } }
  const headers = { "content-type": "application/json", "x-opencode-tasks-refusal": encode(JSON.stringify(refusal)) }
  return new Response(JSON.stringify(neutral), { status: 400, headers })
}

async function send(fetch, input, init, session) {
  const refusal = refusalOf(session)
  if (refusal) {
    journal({ kind: "refused", session, refusal })
    return refusedResponse(refusal)
  }
  const mayRetry = sessionsWithSteps.has(session)
  if (retrying.has(session) && !mayRetry) {
    const reason = retrying.get(session)
    retrying.delete(session)
    return finalResponse({ reason })
  }
  familyOf(session).requests += 1
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

// Starts the limits of a new prompt.
function begin(session, message, parts) {
  prompts.set(session, message.id)
  refusals.delete(session)
  if (roots.has(session)) return
  const ofPrompt = parts.find((part) => part.metadata?.opencodeTasks)?.metadata.opencodeTasks.maxCostPico
  const ofProcess = session === firstSession ? MAX_COST_PICO : undefined
  const family = familyOf(session)
  family.requests = 0
  family.maxCostPico = Number(ofPrompt ?? ofProcess ?? Infinity)
}

function forget(session) {
  for (const known of [sessionsWithSteps, compacting]) known.delete(session)
  for (const map of [brokenStreams, retrying, systemTexts, prompts, ends, refusals]) map.delete(session)
}

function note(event) {
  const properties = event.properties ?? {}
  if (event.type === "session.created" && properties.info?.parentID) {
    const parent = properties.info.parentID
    roots.set(properties.info.id, roots.get(parent) ?? parent)
  }
  if (event.type === "message.part.updated" && properties.part?.type === "step-finish") {
    sessionsWithSteps.add(properties.part.sessionID)
    addCost(properties.part)
  }
  if (event.type === "session.status" && properties.status?.type === "retry") {
    const session = properties.sessionID
    retrying.set(session, brokenStreams.get(session) ?? properties.status.message ?? "retried by opencode")
  }
  if (event.type === "session.idle" || event.type === "session.deleted") {
    forget(properties.sessionID ?? properties.info?.id)
  }
  if (event.type === "session.deleted") {
    for (const map of [roots, families]) map.delete(properties.info?.id)
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
      begin(input.sessionID, output.message, output.parts)
      if (SYSTEM && input.sessionID === firstSession) output.message.system ??= SYSTEM
      const text = output.message?.system ?? agentPrompt
      if ((output.message?.agent ?? input.agent) === AGENT && text) systemTexts.set(input.sessionID, text)
      else systemTexts.delete(input.sessionID)
    },
    "chat.headers": async (input, output) => {
      if (isReplaced(input.model?.headers)) output.headers[OUR_SESSION_HEADER] = input.sessionID
    },
    "experimental.session.compacting": async (input) => {
      compacting.add(input.sessionID)
    },
    "experimental.chat.messages.transform": async (input, output) => review(output.messages),
    "experimental.chat.system.transform": async (input, output) => {
      const text = systemTexts.get(input.sessionID)
      if (text) output.system.splice(0, output.system.length, text)
    },
  }
}
