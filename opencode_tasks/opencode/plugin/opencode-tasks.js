// Makes every provider failure final, exact and immediate, and bounds what one prompt may cost.
//
// Failures. opencode retries a 408, 409, 429 or 5xx silently, for as long as the provider asks, and any
// failure whose message or body has certain words or numbers. The plugin replaces each failed response by
// a neutral one and ends each stream that reports an error. Status, headers, body and time of the
// provider's answer are in the neutral response's headers, or in the message of the stream's error (see
// failure.js), and Python classifies them. No request of a prompt follows: a failure of a sub-agent is
// the answer to the next request of its parent too. A session with a finished step is an exception: a
// restart would pay for that step again, so opencode may wait and retry there, if the failure can end
// soon, and may summarize a conversation that became too long.
//
// Answers. A JSON document in place of a stream is written as a stream. Usage that opencode cannot read,
// such as numbers in quotes, is corrected (see usage.js).
//
// Limits. opencode asks the model again until an answer ends with a finish reason that it knows, so a
// blocked prompt or a cut stream would be paid for without end. The plugin refuses a request, with a
// 400 whose x-opencode-tasks-refusal header gives the reason, in five cases:
//   end    the last step called no tool, and opencode does not accept its end
//   tools  no tool call has succeeded in the last MAX_FAILED_STEPS steps
//   steps  the prompt has used OPENCODE_TASKS_MAX_STEPS requests
//   cost   the session has cost more than its limit (see spending.js), or its model has no known price
//   files  a file of the prompt cannot be read, or the model does not take its type (see files.js)
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
//   OPENCODE_TASKS_PROVIDER_LIMITS options of a provider, as JSON: time limits that fit those of the run
//   OPENCODE_TASKS_MAX_STEPS       most provider requests of one prompt, sub-agents included
//   OPENCODE_TASKS_SYSTEM_FILE, OPENCODE_TASKS_MAX_COST_PICO, OPENCODE_TASKS_PRICE_LIST
//                                  file of the system text, cost limit and file of prices of the first session, for
//                                  `opencode run`. A server takes limit and prices from the metadata of
//                                  the prompt's text part.
//   OPENCODE_TASKS_FILES           file with the list of the files of the first prompt, as JSON, for `opencode
//                                  run`. A server takes it from the metadata of the prompt's text part.
//   OPENCODE_TASKS_CONTINUATION    text of the prompt that continues a session (see continuation.js)
//   OPENCODE_TASKS_RELAY, OPENCODE_TASKS_RELAY_HOSTS
//                                  the way out of a sandbox (see relay.js)

import { appendFileSync, readFileSync } from "node:fs"
import { repeatInterrupted } from "./continuation.js"
import { attachFiles, FILES } from "./files.js"
import { failedResponse, failedStream, isTransient, newFailure, retriedStream, waitMs } from "./failure.js"
import { RELAY, relayed } from "./relay.js"
import { Spending } from "./spending.js"
import { isEventStream, watched } from "./stream.js"
import { correctUsage } from "./usage.js"
import { asStream } from "./whole_answer.js"

const AGENT = "opencode-tasks"
const HELPERS = new Set(["compaction", "title", "summary"]) // agents of opencode that get no files
const OUR_SESSION_HEADER = "x-opencode-tasks-session"
// Opencode 1.15 to 1.18 sends the second of these to its own providers and the first to all others.
const SESSION_HEADERS = ["x-session-affinity", "x-opencode-session"]
const MAX_RETRIES = 5 // as often as opencode itself
const ALIVE_INTERVAL_MS = 1000
// A conversation that became too long: opencode makes a summary and goes on.
const TOO_LONG =
  /context[ _](length|window|size)|maximum context|exceed_context|\b(prompt|input|request|context)\b[^.]{0,40}\btoo (long|large)/i
const MAX_FAMILIES = 5000
const JOURNAL = process.env.OPENCODE_TASKS_JOURNAL
const JOURNAL_EVENTS = process.env.OPENCODE_TASKS_JOURNAL_EVENTS === "1"
const INLINE_WAIT_MS = Number(process.env.OPENCODE_TASKS_INLINE_WAIT_S ?? "60") * 1000
const MAX_STEPS = Number(process.env.OPENCODE_TASKS_MAX_STEPS ?? "Infinity")
const PROVIDER_LIMITS = JSON.parse(process.env.OPENCODE_TASKS_PROVIDER_LIMITS ?? "{}")
const MAX_FAILED_STEPS = 8
const SYSTEM_FILE = process.env.OPENCODE_TASKS_SYSTEM_FILE
const SYSTEM = SYSTEM_FILE && readFileSync(SYSTEM_FILE, "utf8")
const FILES_OF_RUN = process.env.OPENCODE_TASKS_FILES
const LIMIT = { maxCostPico: process.env.OPENCODE_TASKS_MAX_COST_PICO, prices: process.env.OPENCODE_TASKS_PRICE_LIST }
const NEVER_SENT = /unable to connect|econnrefused|connection refused/i
const OUTPUT = new Set(["text", "reasoning", "tool"]) // types of parts
const FINAL = new Set(["stop", "length", "content-filter", "error"]) // finish reasons that end opencode's loop

// Finish reasons of OpenAI's chat completions that opencode knows.
const KNOWN_FINISH = new Set(["stop", "length", "content_filter", "function_call", "tool_calls"])

const lastFailures = new Map() // session -> failure of its last request
const retries = new Map() // session -> retries since its last step that were left to opencode
const clients = new Map() // session -> npm package of its client
const models = new Map() // session -> provider/model of its last request
const outputs = new Map() // session -> whether its current step has any part, and any output
const aliveAt = new Map() // session -> when the journal got its last line of kind alive
const systemTexts = new Map() // session of our agent -> its system text
const prompts = new Map() // session -> id of the message with its last prompt
const ends = new Map() // session -> what its last response stream says about its end
const refusals = new Map() // session -> why its next request is refused
const attached = new Map() // session -> kinds and most tokens of the files in its next request
const compacting = new Set() // sessions whose next list of messages is for a summary
const roots = new Map() // sub-agent's session -> root session
const families = new Map() // root session -> requests and spending, sub-agents included
let firstSession
let agentPrompt
let lines = 0 // of the journal, those that could not be written included

function journal(record) {
  if (!JOURNAL) return
  lines += 1
  try {
    appendFileSync(JOURNAL, JSON.stringify({ n: lines, at: Date.now(), ...record }) + "\n", { mode: 0o600 })
  } catch {
    // A full disk must not fail the prompt. The missing number shows the reader that a line is lost.
  }
}

const newLimits = () => ({ requests: 0, failure: undefined })

function familyOf(session) {
  const root = roots.get(session) ?? session
  if (!families.has(root)) families.set(root, { ...newLimits(), hasSteps: false, spending: new Spending() })
  // The oldest session ended long ago.
  if (families.size > MAX_FAMILIES) families.delete(families.keys().next().value)
  return families.get(root)
}

const isAnswer = (part) => part.type === "tool" || (["text", "reasoning"].includes(part.type) && Boolean(part.text))

// Adds the steps of a message to what the session has cost.
function addSteps({ info, parts }) {
  let hasOutput = false
  for (const part of parts) {
    if (part.type !== "step-finish") {
      hasOutput ||= isAnswer(part)
      continue
    }
    familyOf(part.sessionID).spending.addStep(part, `${info.providerID}/${info.modelID}`, hasOutput)
    hasOutput = false
  }
}

// Notes a part of the step that the model is answering.
function addPart(part) {
  if (part.type === "step-start") outputs.set(part.sessionID, { hasAny: false, hasAnswer: false })
  const seen = outputs.get(part.sessionID)
  if (seen && OUTPUT.has(part.type)) Object.assign(seen, { hasAny: true, hasAnswer: seen.hasAnswer || isAnswer(part) })
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
    return { kind: "end", step: finish ?? null, wire: ends.get(session) ?? {} }
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
  messages.forEach(addSteps)
  // After a summary, the prompt itself is no longer in the list. Ids ascend with time.
  if (!prompts.has(session) || !messages.some(({ info }) => info.id >= prompts.get(session))) return
  const lastUser = messages.findLastIndex(({ info }) => info.role === "user")
  const steps = messages.slice(lastUser + 1).filter(({ info }) => info.role === "assistant" && !info.summary)
  const fault = faultAfter(steps, session, isForSummary)
  if (fault) refusals.set(session, fault)
}

// Adds the files of the prompts to the messages of a session.
function attach(messages) {
  const session = messages.at(-1)?.info.sessionID
  try {
    const files = attachFiles(messages)
    if (!files.count) return
    attached.set(session, files)
    journal({ kind: "files", session, count: files.count })
  } catch (error) {
    refusals.set(session, { kind: "files", error: String(error) })
  }
}

// opencode would send a text in place of a file that the model does not take.
function checkKinds(session, agent, model) {
  const accepted = model?.capabilities?.input
  if (!accepted || HELPERS.has(agent?.name ?? agent)) return
  const kind = (attached.get(session)?.kinds ?? []).find((kind) => !accepted[kind])
  if (kind) refusals.set(session, { kind: "files", error: `${model.providerID}/${model.id} takes no ${kind} files` })
}

function refusalOf(session) {
  if (refusals.has(session)) return refusals.get(session)
  const family = familyOf(session)
  if (family.requests >= MAX_STEPS) return { kind: "steps", limit: MAX_STEPS }
}

function refusedResponse(refusal) {
  const neutral = { error: { message: "this request was not sent", type: "refused", code: "refused" } }
  const headers = { "content-type": "application/json", "x-opencode-tasks-refusal": Buffer.from(JSON.stringify(refusal)).toString("base64") }
  return new Response(JSON.stringify(neutral), { status: 400, headers })
}

// Ends the request of a session with a failure. Every later request of the prompt ends with it too.
function fail(session, failure) {
  lastFailures.set(session, failure)
  familyOf(session).failure ??= failure
  journal({ kind: "failed", session, status: failure.status, in_stream: failure.inStream })
  return failure
}

// Whether a retry of a failed request is left to opencode. It is asked once for each failure. `isFree` says
// whether the provider cannot have charged for the request, of which no step of opencode tells.
function mayRetry(session, failure, isFree) {
  const family = familyOf(session)
  if (!family.hasSteps || !isTransient(failure) || waitMs(failure.headers) > INLINE_WAIT_MS) return false
  const count = (retries.get(session) ?? 0) + 1
  retries.set(session, count)
  lastFailures.set(session, failure)
  if (count > MAX_RETRIES) return false
  if (!isFree) journal({ kind: "lost", session })
  return true
}

// Whether opencode may summarize the conversation, once for each step.
function maySummarize(session, failure) {
  const isTooLong = (failure.status === 400 || failure.status === 413) && TOO_LONG.test(failure.body)
  if (!isTooLong || !familyOf(session).hasSteps || lastFailures.get(session)?.isTooLong) return false
  lastFailures.set(session, { ...failure, isTooLong })
  return true
}

async function send(fetch, input, init, session) {
  const family = familyOf(session)
  const signal = init?.signal ?? input?.signal
  const refusal = refusalOf(session) ?? (await family.spending.admit(session, models.get(session), init?.body, signal, attached.get(session)?.tokens))
  if (refusal) {
    lastFailures.delete(session)
    journal({ kind: "refused", session, refusal })
    return refusedResponse(refusal)
  }
  if (family.failure) {
    family.spending.drop(session)
    return failedResponse(family.failure)
  }
  family.requests += 1
  let response
  try {
    response = await fetch(input, init)
  } catch (error) {
    const isFree = NEVER_SENT.test(String(error))
    if (isFree) family.spending.drop(session)
    family.spending.end(session)
    if (signal?.aborted) throw error
    const failure = newFailure({ reason: String(error) })
    if (mayRetry(session, failure, isFree)) throw error
    return failedResponse(fail(session, failure))
  }
  journal({ kind: "response", session, status: response.status })
  if (response.ok) return answered(response, { isStreamed: asksForStream(input, init), session, signal })
  family.spending.drop(session)
  const at = Date.now()
  const body = await response.text().catch(() => "")
  const failure = newFailure({ status: response.status, headers: response.headers, body, at })
  if (mayRetry(session, failure, true) || maySummarize(session, failure)) {
    return new Response(body, { status: response.status, headers: response.headers })
  }
  return failedResponse(fail(session, failure))
}

function asksForStream(input, init) {
  const { pathname, search } = new URL(String(input?.url ?? input))
  return /stream/i.test(pathname + search) || (typeof init?.body === "string" && /"stream"\s*:\s*true/.test(init.body))
}

// The response to a request that the provider accepted.
async function answered(response, { isStreamed, session, signal }) {
  const type = response.headers.get("content-type") ?? ""
  const isWhole = isStreamed && response.body && !isEventStream(type)
  const given = isWhole ? await asEvents(response, session, signal) : response
  const { spending } = familyOf(session)
  if (given.status === 400) {
    spending.drop(session)
    return given
  }
  const inStream = (about) => {
    const hasOutput = end.hasOutput || (outputs.get(session)?.hasAny ?? false)
    const failure = newFailure({ status: response.status, headers: response.headers, inStream: true, hasOutput, ...about })
    const isFree = failure.body !== "" && !hasOutput
    if (isFree) spending.drop(session)
    if (mayRetry(session, failure, isFree)) return retriedStream(failure)
    return failedStream(fail(session, failure))
  }
  const { response: passed, end } = watched(given, {
    onError: (body) => inStream({ body }),
    onBroken: (error) => (signal?.aborted ? error : inStream({ status: 0, headers: undefined, reason: String(error) })),
    onAlive: () => noteAlive(session),
    onClosed: (usage) => spending.end(session, usage),
    change: (event) => change(event, session),
  })
  ends.set(session, end)
  return passed
}

// A response that may not be a stream, as one. An HTML page and JSON with an error are failures.
async function asEvents(response, session, signal) {
  const { status, headers } = response
  let text
  try {
    const { first, body } = await peeked(response)
    if (!["{", "[", "<"].includes(first)) return new Response(body, { status, headers })
    text = await new Response(body).text()
  } catch (error) {
    if (signal?.aborted) throw error
    return failedResponse(fail(session, newFailure({ reason: String(error), inStream: true })))
  }
  const stream = asStream(parsedJson(text))
  if (stream === undefined) return failedResponse(fail(session, newFailure({ status, headers, body: text, inStream: true })))
  return new Response(stream, { status, headers: { ...Object.fromEntries(headers), "content-type": "text/event-stream" } })
}

function parsedJson(text) {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

// The first character of a response that is not a space, and its whole body.
async function peeked(response) {
  const reader = response.body?.getReader()
  const chunks = []
  let first = ""
  while (reader && !first) {
    const { done, value } = await reader.read()
    if (done) break
    chunks.push(value)
    first = Buffer.from(value).toString("latin1").replace(/^\xef\xbb\xbf/, "").trimStart()[0] ?? ""
  }
  const body = new ReadableStream({
    async pull(controller) {
      if (chunks.length) return controller.enqueue(chunks.shift())
      const { done, value } = (await reader?.read()) ?? { done: true }
      if (done) controller.close()
      else controller.enqueue(value)
    },
    cancel: (reason) => reader?.cancel(reason),
  })
  return { first, body }
}

function change(event, session) {
  const isCorrected = correctUsage(event, clients.get(session))
  const choice = event?.choices?.[0]
  // The text of a sub-agent is lost if opencode does not accept the end of its answer.
  const isUnknown = typeof choice?.finish_reason === "string" && !KNOWN_FINISH.has(choice.finish_reason)
  if (!isUnknown || !roots.has(session)) return isCorrected
  choice.finish_reason = "stop"
  return true
}

// The provider sent something, which may be only a comment that keeps the connection open.
function noteAlive(session) {
  const now = Date.now()
  if (now - (aliveAt.get(session) ?? 0) < ALIVE_INTERVAL_MS) return
  aliveAt.set(session, now)
  journal({ kind: "alive", session })
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
  const ofPrompt = parts.find((part) => part.metadata?.opencodeTasks)?.metadata.opencodeTasks
  const limit = ofPrompt ?? (session === firstSession ? LIMIT : {})
  Object.assign(familyOf(session), newLimits())
  familyOf(session).spending.setLimit(Number(limit.maxCostPico ?? Infinity), limit.prices)
}

function forget(session) {
  compacting.delete(session)
  for (const map of [attached, systemTexts, prompts, ends, refusals, lastFailures, retries, clients, models, outputs, aliveAt]) map.delete(session)
}

function note(event) {
  if (JOURNAL_EVENTS && event.type !== "sync") journal({ kind: "event", event })
  const properties = event.properties ?? {}
  if (event.type === "session.created" && properties.info?.parentID) {
    const parent = properties.info.parentID
    roots.set(properties.info.id, roots.get(parent) ?? parent)
  }
  const part = event.type === "message.part.updated" ? properties.part : undefined
  if (part) addPart(part)
  if (part?.type === "step-finish") {
    const session = part.sessionID
    familyOf(session).hasSteps = true
    familyOf(session).spending.addStep(part, models.get(session), outputs.get(session)?.hasAnswer ?? false)
    for (const map of [retries, lastFailures, outputs]) map.delete(session)
  }
  // A retry for another reason than those that the plugin decides about, such as an event that the client
  // of the provider cannot read.
  if (event.type === "session.status" && properties.status?.type === "retry") {
    const family = familyOf(properties.sessionID)
    const reason = properties.status.message ?? "retried by opencode"
    if (!family.hasSteps) family.failure ??= newFailure({ reason, inStream: true })
  }
  if (event.type === "session.error" && roots.has(properties.sessionID) && lastFailures.has(properties.sessionID)) {
    familyOf(properties.sessionID).failure ??= lastFailures.get(properties.sessionID)
  }
  if (event.type === "session.idle" || event.type === "session.deleted") {
    forget(properties.sessionID ?? properties.info?.id)
  }
  if (event.type === "session.deleted") {
    for (const map of [roots, families]) map.delete(properties.info?.id)
  }
}

if (RELAY && !(await import("./closed_process.js")).closeProcess()) {
  throw new Error("opencode cannot be closed to the other programs of its sandbox")
}
if (!globalThis.fetch.opencodeTasks) globalThis.fetch = wrap(RELAY ? relayed(globalThis.fetch) : globalThis.fetch)

export const OpencodeTasks = async () => {
  journal({ kind: "loaded" })
  return {
    config: async (config) => {
      agentPrompt = config.agent?.[AGENT]?.prompt
      // Here the providers of the user's global config are known too.
      for (const provider of Object.values(config.provider ?? {})) {
        provider.options = { ...PROVIDER_LIMITS, ...provider.options }
      }
    },
    event: async ({ event }) => note(event),
    "chat.message": async (input, output) => {
      const isFirst = firstSession === undefined
      firstSession ??= input.sessionID
      const prompt = isFirst && FILES_OF_RUN ? output.parts.find((part) => part.type === "text") : undefined
      if (prompt) prompt.metadata = { ...prompt.metadata, [FILES]: JSON.parse(readFileSync(FILES_OF_RUN, "utf8")) }
      begin(input.sessionID, output.message, output.parts)
      if (SYSTEM && input.sessionID === firstSession) output.message.system ??= SYSTEM
      const text = output.message?.system ?? agentPrompt
      if ((output.message?.agent ?? input.agent) === AGENT && text) systemTexts.set(input.sessionID, text)
      else systemTexts.delete(input.sessionID)
    },
    "chat.headers": async (input, output) => {
      clients.set(input.sessionID, input.model?.api?.npm)
      models.set(input.sessionID, `${input.model?.providerID}/${input.model?.id}`)
      checkKinds(input.sessionID, input.agent, input.model)
      if (isReplaced(input.model?.headers)) output.headers[OUR_SESSION_HEADER] = input.sessionID
    },
    "experimental.session.compacting": async (input) => {
      compacting.add(input.sessionID)
    },
    "experimental.chat.messages.transform": async (input, output) => {
      review(output.messages)
      attach(output.messages)
      repeatInterrupted(output.messages)
    },
    "experimental.chat.system.transform": async (input, output) => {
      const text = systemTexts.get(input.sessionID)
      if (text) output.system.splice(0, output.system.length, text)
    },
  }
}
